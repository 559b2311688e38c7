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
		Problems:        problems(v),
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
	st.Well = len(st.Problems) == 0
	for _, role := range v.Roles {
		isMember := make(map[string]bool, len(role.Members))
		for _, m := range role.Members {
			isMember[m.Node] = true
		}
		st.Roles = append(st.Roles, api.RoleStatus{
			Name: role.Name, Members: len(role.Members), Nodes: len(role.Nodes),
			NotMembers: slices.DeleteFunc(slices.Clone(role.Nodes), func(node string) bool { return isMember[node] }),
			Dependents: len(role.Dependents), Unknown: role.Unknown, Sync: role.Sync, Held: role.Held,
		})
	}
	for _, verdict := range v.Verdicts {
		if verdict.State != api.Converged {
			st.Stale = append(st.Stale, verdict)
		}
	}
	return st
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

// lastRun is the newest run that ended.
func lastRun(runs []api.Run, node, action string) *api.Run {
	for i := len(runs) - 1; i >= 0; i-- {
		if r := &runs[i]; r.Node == node && r.Action == action && !r.Ended.IsZero() {
			return r
		}
	}
	return nil
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
			s.badRequest(w, err, "")
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
	text := fmt.Sprintf("no node is called %.100s", name)
	isHeld := func(r api.Role) bool { return !r.Held.Shadow && slices.Contains(r.Held.Nodes, name) }
	for _, h := range heldRoles(v.Roles, isHeld) {
		text += fmt.Sprintf("; it is still a member of role/%s, because its removal is held: %s", h.Role, h.Why)
	}
	s.fail(w, http.StatusNotFound, api.Error{Error: text, Suggestions: api.Suggest(name, nodeNames(v))})
	return api.Node{}, false
}

func nodeNames(v *api.View) (names []string) {
	for n := range v.Nodes.All() {
		names = append(names, n.Name)
	}
	return names
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
	e := api.Explanation{Node: n, Actions: []api.Action{}}
	what, why := notMember(n.Node)
	if e.Why = what; why != "" {
		e.Why += ": " + why
	}
	e.Held = heldRoles(v.Roles, func(r api.Role) bool {
		isOurs := func(dependent string) bool { return strings.HasPrefix(dependent, n.Name+"/") }
		return slices.Contains(r.Held.Nodes, n.Name) || slices.ContainsFunc(r.Dependents, isOurs)
	})
	for _, verdict := range v.Verdicts {
		if verdict.Node == n.Name {
			run := lastRun(v.Runs, verdict.Node, verdict.Action)
			e.Actions = append(e.Actions, api.Action{Verdict: verdict, LastRun: run})
		}
	}
	s.answer(w, e)
}

// heldRoles is the roles with held removals for which wanted is true.
func heldRoles(roles []api.Role, wanted func(api.Role) bool) []api.HeldRole {
	var held []api.HeldRole
	for _, r := range roles {
		if r.Held != nil && wanted(r) {
			held = append(held, api.HeldRole{Role: r.Name, Held: *r.Held})
		}
	}
	return held
}

func (s *server) roles(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.synced(w); ok && s.knownQuery(w, r) {
		shown := []api.Role{}
		for _, role := range v.Roles {
			shown = append(shown, withLists(role))
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
			s.fail(w, http.StatusServiceUnavailable, notSynced("the members of role "+role.Name, role.Sync, v.At))
		default:
			s.answer(w, withLists(role))
		}
	}
}

// withLists replaces nil by empty lists: in JSON a list is never null.
func withLists(role api.Role) api.Role {
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
	for _, role := range v.Roles {
		if role.Name == name {
			return role, true
		}
	}
	s.fail(w, http.StatusNotFound, api.Error{
		Error:       fmt.Sprintf("role %.100s is unknown: no node has it and no configuration names it. Typo?", name),
		Suggestions: api.Suggest(name, roleNames(v)),
	})
	return api.Role{}, false
}

func roleNames(v *api.View) (names []string) {
	for _, r := range v.Roles {
		names = append(names, r.Name)
	}
	return names
}

func (s *server) runs(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r, "node", "action", "role", "limit") {
		return
	}
	v, q := s.View(), r.URL.Query()
	limit, err := number(q, "limit", int64(len(v.Runs)))
	if err != nil {
		s.badRequest(w, err, "")
		return
	}
	var nodes []string // that have the role
	if name := q.Get("role"); name != "" {
		role, ok := s.findRole(w, v, name)
		if !ok {
			return
		}
		nodes = role.Nodes
	}
	runs := []api.Run{}
	for _, run := range v.Runs {
		if q.Has("role") && !slices.Contains(nodes, run.Node) ||
			q.Has("node") && run.Node != q.Get("node") ||
			q.Has("action") && run.Action != q.Get("action") {
			continue
		}
		runs = append(runs, run)
	}
	s.answer(w, runs[max(0, int64(len(runs))-limit):])
}

// number reads a number from 0 in a query. unset is what it is if the key is missing.
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
