package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"kicker/controller"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// Status says whether all is well, and if not, what.
type Status struct {
	Well      bool                     `json:"well"`
	Problems  []string                 `json:"problems"` // for people; none when all is well
	At        time.Time                `json:"at"`
	Identity  controller.Identity      `json:"controller"`
	Leader    string                   `json:"leader,omitempty"` // another controller, of which this one is the standby
	Sync      controller.Sync          `json:"sync"`
	Nodes     map[inventory.Life]int   `json:"nodes"` // how many, by life
	Roles     []RoleStatus             `json:"roles"`
	Actions   map[controller.State]int `json:"actions"`             // how many, by state
	Stale     []controller.Verdict     `json:"stale"`               // the actions that are not converged
	Conflicts []controller.Conflict    `json:"conflicts,omitempty"` // names that two machines claim
	Circles   []controller.Circle      `json:"circles,omitempty"`   // of roles that depend on each other: no problem
	Refused   int64                    `json:"refused"`             // messages that were refused since the start
}

// RoleStatus is a role in numbers.
type RoleStatus struct {
	Name       string           `json:"name"`
	Members    int              `json:"members"`
	Nodes      int              `json:"nodes"`
	Absent     []string         `json:"absent,omitempty"` // nodes that bear the role and are no members
	Dependents int              `json:"dependents"`
	Unknown    bool             `json:"unknown,omitempty"`
	Sync       controller.Sync  `json:"sync"`
	Held       *controller.Held `json:"held,omitempty"`
}

// Node is a node that is heard, with the roles it bears.
type Node struct {
	*inventory.Node
	Serving bool     `json:"serving"` // a member of its roles
	Roles   []string `json:"roles"`
}

// Explanation says why a node and its actions are as they are.
type Explanation struct {
	Node
	Why     string     `json:"why,omitempty"` // not serving: why not
	Held    []HeldRole `json:"held,omitempty"`
	Actions []Action   `json:"actions"`
}

// HeldRole is a role whose guard holds removals: that of the node in question, or of members that its actions are configured from.
type HeldRole struct {
	Role string `json:"role"`
	controller.Held
}

// Action is what the controller thinks of an action, and the newest run it knows of.
type Action struct {
	controller.Verdict
	LastRun *controller.Run `json:"last_run,omitempty"`
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	if s.knownQuery(w, r) {
		s.answer(w, newStatus(s.View()))
	}
}

func newStatus(v *controller.View) Status {
	st := Status{
		Problems:  []string{},
		At:        v.At,
		Identity:  v.Identity,
		Leader:    v.Leader,
		Sync:      v.Sync,
		Nodes:     lives(v.Nodes),
		Roles:     []RoleStatus{},
		Actions:   states(v.Verdicts),
		Stale:     []controller.Verdict{},
		Conflicts: v.Conflicts,
		Circles:   v.Circles,
		Refused:   v.Counts.Refused,
	}
	if !v.Sync.Open {
		st.Problems = append(st.Problems, "not synced: "+v.Sync.Why)
	}
	if v.Loaded.Failed != "" {
		st.Problems = append(st.Problems, "the configuration was not reloaded, the old one stays: "+v.Loaded.Failed)
	}
	if v.Deaf != "" {
		st.Problems = append(st.Problems, "bus.system_url: "+v.Deaf)
	}
	for _, conflict := range v.Conflicts {
		st.Problems = append(st.Problems, fmt.Sprintf("node/%s: %s", conflict.Node, conflict))
	}
	for _, role := range v.Roles {
		members := make(map[string]bool, len(role.Members))
		for _, m := range role.Members {
			members[m.Node] = true
		}
		absent := slices.DeleteFunc(slices.Clone(role.Nodes), func(node string) bool { return members[node] })
		st.Roles = append(st.Roles, RoleStatus{
			Name: role.Name, Members: len(role.Members), Nodes: len(role.Nodes), Absent: absent,
			Dependents: len(role.Dependents), Unknown: role.Unknown, Sync: role.Sync, Held: role.Held,
		})
		if !role.Sync.Open && v.Sync.Open && role.Sync.Why != "" {
			st.Problems = append(st.Problems, fmt.Sprintf("role/%s: not synced: %s", role.Name, role.Sync.Why))
		}
		if role.Held != nil && v.Leader == "" { // else only who leads can do something about it, and may have done it
			st.Problems = append(st.Problems, heldText(role.Name, *role.Held))
		}
		if role.Unknown && v.Sync.Open { // before, it may only not have been heard of
			st.Problems = append(st.Problems, fmt.Sprintf("role/%s: %s depends on it, but nothing declares it and nobody has ever borne it",
				role.Name, list(role.Dependents, 3)))
		}
	}
	for n := range v.Nodes.All() {
		if !n.Serving() && n.Life != inventory.Left {
			st.Problems = append(st.Problems, fmt.Sprintf("node/%s: %s", n.Name, whyAbsent(n)))
		}
	}
	for _, verdict := range v.Verdicts {
		if verdict.State == controller.Converged {
			continue
		}
		st.Stale = append(st.Stale, verdict)
		if verdict.State == controller.Failing {
			st.Problems = append(st.Problems, fmt.Sprintf("node/%s: action %s fails: %s", verdict.Node, verdict.Action, lastFailure(v, verdict)))
		}
	}
	st.Well = len(st.Problems) == 0
	return st
}

// heldText says what is held, why, and what an operator can do about it.
func heldText(role string, h controller.Held) string {
	verb := "is held"
	if h.Shadow {
		verb = "would be held, were the guard no shadow"
	}
	text := fmt.Sprintf("role/%s: the removal of %s %s: %s", role, list(h.Nodes, 3), verb, h.Why)
	if h.Opinion != "" {
		text += "; " + h.Opinion
	}
	if h.Shadow {
		return text
	}
	return text + ". If they are lost: " + AcceptLoss(role)
}

// AcceptLoss is the command with which an operator accepts what the guard of a role holds.
func AcceptLoss(role string) string { return "kicker accept-loss " + shellWord("role/"+role) }

// shellWord is a word as one types it into a shell.
func shellWord(word string) string {
	if strings.ContainsAny(word, " \"'$`\\;&|<>(){}*?#~!") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

func lives(nodes *inventory.Snapshot) map[inventory.Life]int {
	n := map[inventory.Life]int{inventory.Alive: 0, inventory.Suspect: 0, inventory.BackSoon: 0, inventory.Left: 0}
	for node := range nodes.All() {
		n[node.Life]++
	}
	return n
}

func states(verdicts []controller.Verdict) map[controller.State]int {
	n := map[controller.State]int{controller.Converged: 0, controller.Wanted: 0, controller.Failing: 0}
	for _, v := range verdicts {
		n[v.State]++
	}
	return n
}

func whyAbsent(n *inventory.Node) string {
	switch {
	case n.Serving():
		return ""
	case n.Life == inventory.Left:
		return "it said goodbye"
	case n.Facts == nil:
		return "its facts are not known yet"
	case n.NotReady != "":
		return "not ready: " + n.NotReady
	}
	return "not ready"
}

func lastFailure(v *controller.View, verdict controller.Verdict) string {
	if verdict.Last == nil {
		return "no run is known"
	}
	text := string(verdict.Last.Outcome)
	if verdict.Last.Outcome == kick.Failed {
		text = fmt.Sprintf("exit %d", verdict.Last.Exit)
	}
	if run := lastRun(v.Runs, verdict.Node, verdict.Action); run != nil && run.Error != "" {
		text += ": " + run.Error
	}
	if n := verdict.Last.Failures; n > 1 {
		text += fmt.Sprintf(" (%d times in a row)", n)
	}
	return text
}

// lastRun is the newest run that ended.
func lastRun(runs []controller.Run, node, action string) *controller.Run {
	for i := len(runs) - 1; i >= 0; i-- {
		if r := &runs[i]; r.Node == node && r.Action == action && !r.Ended.IsZero() {
			return r
		}
	}
	return nil
}

// list names the first few of names.
func list(names []string, most int) string {
	if rest := len(names) - most; rest > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), rest)
	}
	return strings.Join(names, ", ")
}

func (s *server) nodes(w http.ResponseWriter, r *http.Request) {
	v, ok := s.synced(w)
	if !ok || !s.knownQuery(w, r, "selector") {
		return
	}
	var selector query.Selector
	for _, text := range r.URL.Query()["selector"] {
		term, err := query.Parse(text)
		if err != nil {
			s.fail(w, http.StatusBadRequest, Error{Error: err.Error()})
			return
		}
		selector = selector.And(term)
	}
	roles := rolesByNode(v.Roles)
	nodes := []Node{}
	for n := range v.Nodes.All() {
		if selector.Matches(n.Facts) {
			nodes = append(nodes, newNode(n, roles[n.Name]))
		}
	}
	s.answer(w, nodes)
}

func newNode(n *inventory.Node, roles []string) Node {
	if roles == nil {
		roles = []string{}
	}
	return Node{Node: n, Serving: n.Serving(), Roles: roles}
}

func rolesByNode(roles []controller.Role) map[string][]string {
	by := map[string][]string{}
	for _, role := range roles {
		for _, node := range role.Nodes {
			by[node] = append(by[node], role.Name)
		}
	}
	return by
}

func (s *server) node(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.synced(w); ok && s.knownQuery(w, r) {
		if n, ok := s.findNode(w, v, r.PathValue("node")); ok {
			s.answer(w, n)
		}
	}
}

func (s *server) findNode(w http.ResponseWriter, v *controller.View, name string) (Node, bool) {
	if n := v.Nodes.Node(name); n != nil {
		return newNode(n, rolesByNode(v.Roles)[name]), true
	}
	var names []string
	for n := range v.Nodes.All() {
		names = append(names, n.Name)
	}
	text := fmt.Sprintf("no node %.100q is heard", name)
	for _, h := range heldRoles(v.Roles, func(r controller.Role) bool { return !r.Held.Shadow && slices.Contains(r.Held.Nodes, name) }) {
		text += fmt.Sprintf("; it is still a member of role/%s, as its removal is held: %s", h.Role, h.Why)
	}
	s.fail(w, http.StatusNotFound, Error{Error: text, Near: controller.Near(name, names)})
	return Node{}, false
}

func (s *server) explain(w http.ResponseWriter, r *http.Request) {
	v, ok := s.synced(w)
	if !ok || !s.knownQuery(w, r) {
		return
	}
	n, ok := s.findNode(w, v, r.PathValue("node"))
	if !ok {
		return
	}
	e := Explanation{Node: n, Why: whyAbsent(n.Node), Actions: []Action{}}
	e.Held = heldRoles(v.Roles, func(r controller.Role) bool {
		isOurs := func(dependent string) bool { return strings.HasPrefix(dependent, n.Name+"/") }
		return slices.Contains(r.Held.Nodes, n.Name) || slices.ContainsFunc(r.Dependents, isOurs)
	})
	for _, verdict := range v.Verdicts {
		if verdict.Node == n.Name {
			e.Actions = append(e.Actions, Action{verdict, lastRun(v.Runs, verdict.Node, verdict.Action)})
		}
	}
	s.answer(w, e)
}

// heldRoles is those of the roles with held removals that are wanted.
func heldRoles(roles []controller.Role, wanted func(controller.Role) bool) []HeldRole {
	var held []HeldRole
	for _, r := range roles {
		if r.Held != nil && wanted(r) {
			held = append(held, HeldRole{r.Name, *r.Held})
		}
	}
	return held
}

func (s *server) roles(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.synced(w); ok && s.knownQuery(w, r) {
		shown := []controller.Role{}
		for _, role := range v.Roles {
			shown = append(shown, whole(role))
		}
		s.answer(w, shown)
	}
}

func (s *server) role(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.synced(w); ok && s.knownQuery(w, r) {
		role, ok := s.findRole(w, v, r.PathValue("role"))
		switch {
		case !ok:
		case !role.Sync.Open:
			s.fail(w, http.StatusServiceUnavailable, notSynced(fmt.Sprintf("role %s: %s", role.Name, role.Sync.Why)))
		default:
			s.answer(w, whole(role))
		}
	}
}

// whole gives a role empty lists for those that it lacks: in JSON a list is a list.
func whole(role controller.Role) controller.Role {
	for _, names := range []*[]string{&role.MemberFacts, &role.Nodes, &role.Dependents} {
		if *names == nil {
			*names = []string{}
		}
	}
	if role.Members == nil {
		role.Members = []kick.Member{}
	}
	return role
}

func (s *server) findRole(w http.ResponseWriter, v *controller.View, name string) (controller.Role, bool) {
	var names []string
	for _, role := range v.Roles {
		if role.Name == name {
			return role, true
		}
		names = append(names, role.Name)
	}
	s.fail(w, http.StatusNotFound, Error{Error: fmt.Sprintf("no role %.100q is known", name), Near: controller.Near(name, names)})
	return controller.Role{}, false
}

func (s *server) runs(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r, "node", "action", "role", "limit") {
		return
	}
	v, q := s.View(), r.URL.Query()
	limit, err := number(q, "limit", int64(len(v.Runs)))
	if err != nil {
		s.fail(w, http.StatusBadRequest, Error{Error: err.Error()})
		return
	}
	var bearers []string
	if name := q.Get("role"); name != "" {
		role, ok := s.findRole(w, v, name)
		if !ok {
			return
		}
		bearers = role.Nodes
	}
	runs := []controller.Run{}
	for _, run := range v.Runs {
		if q.Has("role") && !slices.Contains(bearers, run.Node) ||
			q.Has("node") && run.Node != q.Get("node") ||
			q.Has("action") && run.Action != q.Get("action") {
			continue
		}
		runs = append(runs, run)
	}
	s.answer(w, runs[max(0, int64(len(runs))-limit):])
}

// number reads a query's count, not below 0.
func number(q url.Values, key string, unset int64) (int64, error) {
	if !q.Has(key) {
		return unset, nil
	}
	n, err := strconv.ParseInt(q.Get(key), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%.40s: want a number from 0", key, q.Get(key))
	}
	return n, nil
}
