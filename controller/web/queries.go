package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	if s.knownQuery(w, r) {
		s.answer(w, newStatus(s.View()))
	}
}

func newStatus(v *api.View) api.Status {
	st := api.Status{
		Problems:        []api.Problem{},
		At:              v.At,
		Identity:        v.Identity,
		Leader:          v.Leader,
		Sync:            v.Sync,
		Nodes:           lives(v.Nodes),
		Roles:           []api.RoleStatus{},
		Actions:         states(v.Verdicts),
		Stale:           []api.Verdict{},
		Conflicts:       v.Conflicts,
		Cycles:          v.Cycles,
		InvalidMessages: v.Counts.InvalidMessages,
	}
	problem := func(text string) { st.Problems = append(st.Problems, api.Problem{Text: text}) }
	if !v.Sync.Open {
		problem("not synced: " + v.Sync.Why)
	}
	if v.Loaded.Failed != "" {
		problem("the configuration was not reloaded, the old one stays: " + v.Loaded.Failed)
	}
	if v.DisconnectsLost != "" {
		problem("bus.system_url: " + v.DisconnectsLost)
	}
	for _, conflict := range v.Conflicts {
		problem(fmt.Sprintf("node/%s: %s", conflict.Node, conflict))
	}
	for _, role := range v.Roles {
		members := make(map[string]bool, len(role.Members))
		for _, m := range role.Members {
			members[m.Node] = true
		}
		absent := slices.DeleteFunc(slices.Clone(role.Nodes), func(node string) bool { return members[node] })
		st.Roles = append(st.Roles, api.RoleStatus{
			Name: role.Name, Members: len(role.Members), Nodes: len(role.Nodes), NotMembers: absent,
			Dependents: len(role.Dependents), Unknown: role.Unknown, Sync: role.Sync, Held: role.Held,
		})
		if !role.Sync.Open && v.Sync.Open && role.Sync.Why != "" {
			problem(fmt.Sprintf("role/%s: not synced: %s", role.Name, role.Sync.Why))
		}
		if role.Held != nil && v.Leader == "" { // else only who leads can do something about it, and may have done it
			problem(heldText(role.Name, *role.Held))
		}
		if role.Unknown && v.Sync.Open { // before, it may only not have been heard of
			problem(fmt.Sprintf("role/%s: %s depends on it, but nothing declares it and nobody has ever borne it",
				role.Name, list(role.Dependents, 3)))
		}
	}
	for n := range v.Nodes.All() {
		if !n.Eligible() && n.Life != inventory.Left {
			problem(fmt.Sprintf("node/%s: %s", n.Name, whyAbsent(n)))
		}
	}
	for _, verdict := range v.Verdicts {
		if verdict.State == api.Converged {
			continue
		}
		st.Stale = append(st.Stale, verdict)
		if verdict.State == api.Failing {
			problem(fmt.Sprintf("node/%s: action %s fails: %s", verdict.Node, verdict.Action, lastFailure(v, verdict)))
		}
	}
	st.Well = len(st.Problems) == 0
	return st
}

// heldText says what is held, why, and what an operator can do about it.
func heldText(role string, h api.Held) string {
	verb := "is held"
	if h.Shadow {
		verb = "would be held, were the guard no shadow"
	}
	text := fmt.Sprintf("role/%s: the removal of %s %s: %s", role, list(h.Nodes, 3), verb, h.Why)
	if h.Probe != "" {
		text += "; " + h.Probe
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
	n := map[inventory.Life]int{inventory.Alive: 0, inventory.Suspect: 0, inventory.Restarting: 0, inventory.Left: 0}
	for node := range nodes.All() {
		n[node.Life]++
	}
	return n
}

func states(verdicts []api.Verdict) map[api.State]int {
	n := map[api.State]int{api.Converged: 0, api.Pending: 0, api.Failing: 0}
	for _, v := range verdicts {
		n[v.State]++
	}
	return n
}

func whyAbsent(n *inventory.Node) string {
	switch {
	case n.Eligible():
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

func lastFailure(v *api.View, verdict api.Verdict) string {
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
func lastRun(runs []api.Run, node, action string) *api.Run {
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
			s.fail(w, http.StatusBadRequest, api.Error{Error: err.Error()})
			return
		}
		selector = selector.And(term)
	}
	roles := rolesByNode(v.Roles)
	nodes := []api.Node{}
	for n := range v.Nodes.All() {
		if selector.Matches(n.Facts) {
			nodes = append(nodes, newNode(n, roles[n.Name]))
		}
	}
	s.answer(w, nodes)
}

func newNode(n *inventory.Node, roles []string) api.Node {
	if roles == nil {
		roles = []string{}
	}
	return api.Node{Node: n, Member: n.Eligible(), Roles: roles}
}

func rolesByNode(roles []api.Role) map[string][]string {
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

func (s *server) findNode(w http.ResponseWriter, v *api.View, name string) (api.Node, bool) {
	if n := v.Nodes.Node(name); n != nil {
		return newNode(n, rolesByNode(v.Roles)[name]), true
	}
	var names []string
	for n := range v.Nodes.All() {
		names = append(names, n.Name)
	}
	text := fmt.Sprintf("no node %.100q is heard", name)
	for _, h := range heldRoles(v.Roles, func(r api.Role) bool { return !r.Held.Shadow && slices.Contains(r.Held.Nodes, name) }) {
		text += fmt.Sprintf("; it is still a member of role/%s, as its removal is held: %s", h.Role, h.Why)
	}
	s.fail(w, http.StatusNotFound, api.Error{Error: text, Suggestions: api.Suggest(name, names)})
	return api.Node{}, false
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
	e := api.Explanation{Node: n, Why: whyAbsent(n.Node), Actions: []api.Action{}}
	e.Held = heldRoles(v.Roles, func(r api.Role) bool {
		isOurs := func(dependent string) bool { return strings.HasPrefix(dependent, n.Name+"/") }
		return slices.Contains(r.Held.Nodes, n.Name) || slices.ContainsFunc(r.Dependents, isOurs)
	})
	for _, verdict := range v.Verdicts {
		if verdict.Node == n.Name {
			e.Actions = append(e.Actions, api.Action{verdict, lastRun(v.Runs, verdict.Node, verdict.Action)})
		}
	}
	s.answer(w, e)
}

// heldRoles is those of the roles with held removals that are wanted.
func heldRoles(roles []api.Role, wanted func(api.Role) bool) []api.HeldRole {
	var held []api.HeldRole
	for _, r := range roles {
		if r.Held != nil && wanted(r) {
			held = append(held, api.HeldRole{r.Name, *r.Held})
		}
	}
	return held
}

func (s *server) roles(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.synced(w); ok && s.knownQuery(w, r) {
		shown := []api.Role{}
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
func whole(role api.Role) api.Role {
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

func (s *server) findRole(w http.ResponseWriter, v *api.View, name string) (api.Role, bool) {
	var names []string
	for _, role := range v.Roles {
		if role.Name == name {
			return role, true
		}
		names = append(names, role.Name)
	}
	s.fail(w, http.StatusNotFound, api.Error{Error: fmt.Sprintf("no role %.100q is known", name), Suggestions: api.Suggest(name, names)})
	return api.Role{}, false
}

func (s *server) runs(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r, "node", "action", "role", "limit") {
		return
	}
	v, q := s.View(), r.URL.Query()
	limit, err := number(q, "limit", int64(len(v.Runs)))
	if err != nil {
		s.fail(w, http.StatusBadRequest, api.Error{Error: err.Error()})
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
	runs := []api.Run{}
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
