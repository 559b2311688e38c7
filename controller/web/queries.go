package web

import (
	"cmp"
	"fmt"
	"maps"
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

func (s *server) status(v *api.View, _ *http.Request) (any, error) {
	isConverged := func(a api.Verdict) bool { return a.State == api.Converged }
	st := api.Status{
		Problems:        problems(v),
		At:              v.At,
		Identity:        v.Identity,
		Leader:          v.Leader,
		Sync:            v.Sync,
		Nodes:           lives(v.Nodes),
		Roles:           []api.RoleStatus{},
		Actions:         states(v.Verdicts),
		Stale:           slices.DeleteFunc(list(v.Verdicts), isConverged),
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
	return st, nil
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

func (s *server) nodes(v *api.View, r *http.Request) (any, error) {
	var selector query.Selector
	for _, text := range r.URL.Query()["selector"] {
		term, err := query.Parse(text)
		if err != nil {
			return nil, err
		}
		selector = selector.And(term)
	}
	return findNodes(v, func(n *inventory.Node) bool { return selector.Matches(n.Facts) }), nil
}

func findNodes(v *api.View, wanted func(*inventory.Node) bool) []api.Node {
	roles := map[string][]string{} // by node
	for _, role := range v.Roles {
		for _, node := range role.Nodes {
			roles[node] = append(roles[node], role.Name)
		}
	}
	not := notMembers(v)
	found := []api.Node{}
	for n := range v.Nodes.All() {
		if wanted(n) {
			found = append(found, api.Node{
				Node: n, Member: n.Eligible() && len(not[n.Name]) == 0, Roles: list(roles[n.Name]), NotMember: not[n.Name],
			})
		}
	}
	return found
}

// notMembers is the roles of which ready nodes are no members, by node.
func notMembers(v *api.View) map[string][]api.NotMember {
	not := map[string][]api.NotMember{}
	for _, r := range v.Roles {
		for _, i := range r.Incomplete {
			not[i.Node] = append(not[i.Node], api.NotMember{Role: r.Name, Why: i.Why})
		}
		for _, q := range r.Quarantined {
			not[q.Node] = append(not[q.Node], api.NotMember{Role: r.Name, Why: "quarantined: " + q.Why})
		}
	}
	return not
}

// list is a copy that JSON never has as null.
func list[T any](l []T) []T { return append([]T{}, l...) }

func (s *server) node(v *api.View, r *http.Request) (any, error) {
	return findNode(v, r.PathValue("node"))
}

func findNode(v *api.View, name string) (api.Node, error) {
	if found := findNodes(v, func(n *inventory.Node) bool { return n.Name == name }); len(found) > 0 {
		return found[0], nil
	}
	text := fmt.Sprintf("no node is called %.100s", name)
	isHeld := func(r api.Role) bool { return !r.Held.Shadow && slices.Contains(r.Held.Nodes, name) }
	for _, h := range heldRoles(v, isHeld) {
		text += fmt.Sprintf("; it is still a member of role/%s, because its removal is held: %s", h.Role, h.Why)
	}
	return api.Node{}, notFound(v, "node/"+name, text)
}

func (s *server) explain(v *api.View, r *http.Request) (any, error) {
	n, err := findNode(v, r.PathValue("node"))
	if was, gone := v.Departed[r.PathValue("node")]; err != nil && gone {
		return explainGone(v, was), nil
	}
	if err != nil {
		return nil, err
	}
	what, why := notMember(n.Node)
	e := api.Explanation{Node: n, Why: strings.TrimSuffix(what+": "+why, ": "), Actions: []api.Action{}}
	e.Held = heldRoles(v, func(r api.Role) bool {
		isOurs := func(dependent string) bool { return strings.HasPrefix(dependent, n.Name+"/") }
		return slices.Contains(r.Held.Nodes, n.Name) || slices.ContainsFunc(r.Dependents, isOurs)
	})
	if was, departed := v.Departed[n.Name]; departed {
		e.Departed, e.UsedBy = &was, usedBy(v, was)
	}
	for _, verdict := range v.Verdicts {
		if verdict.Node == n.Name {
			e.Actions = append(e.Actions, api.Action{Verdict: verdict, LastRun: lastRun(v, verdict)})
		}
	}
	return e, nil
}

// explainGone says what is remembered of a node that is gone.
func explainGone(v *api.View, was api.Departed) api.Explanation {
	e := api.Explanation{Actions: []api.Action{}, Departed: &was, UsedBy: usedBy(v, was)}
	e.Node.Node = &inventory.Node{Name: was.Node, Life: api.Gone, Since: was.At}
	e.Roles = slices.Sorted(maps.Keys(was.Roles))
	e.Why = strings.TrimSuffix("it is "+cmp.Or(was.Life, api.Gone)+": "+was.Why, ": ")
	e.Held = heldRoles(v, func(r api.Role) bool { return slices.Contains(r.Held.Nodes, was.Node) })
	for _, h := range e.Held {
		if !slices.Contains(e.Roles, h.Role) {
			e.Roles = append(e.Roles, h.Role)
		}
	}
	return e
}

// usedBy is the actions that depend on a role from which a node departed, and have not applied members without it.
func usedBy(v *api.View, was api.Departed) []string {
	var using []string
	for _, r := range v.Roles {
		d, departed := was.Roles[r.Name]
		if !departed {
			continue
		}
		for _, action := range r.Dependents {
			if _, dropped := d.Dropped[action]; !dropped && uses(v, action, was.Node) {
				using = append(using, action)
			}
		}
	}
	slices.Sort(using)
	return slices.Compact(using)
}

// uses reports whether an action applied members with a node that is none now, or may have: a run that did not succeed
// may have written them.
func uses(v *api.View, action, node string) bool {
	for _, verdict := range v.Verdicts {
		if verdict.Node+"/"+verdict.Action != action {
			continue
		}
		if verdict.Last != nil && verdict.Last.Outcome != kick.Succeeded {
			return true
		}
		return slices.ContainsFunc(verdict.Needs, func(n api.Need) bool {
			return slices.Contains(n.Removed, node)
		})
	}
	return false
}

// heldRoles is the roles with held removals for which wanted is true.
func heldRoles(v *api.View, wanted func(api.Role) bool) []api.HeldRole {
	var held []api.HeldRole
	for _, r := range v.Roles {
		if r.Held != nil && wanted(r) {
			held = append(held, api.HeldRole{Role: r.Name, Held: *r.Held})
		}
	}
	return held
}

// lastRun is the newest run of an action that ended.
func lastRun(v *api.View, of api.Verdict) *api.Run {
	for _, r := range slices.Backward(v.Runs) {
		if r.Node == of.Node && r.Action == of.Action && !r.Ended.IsZero() {
			return &r
		}
	}
	return nil
}

func (s *server) roles(v *api.View, _ *http.Request) (any, error) {
	shown := []api.Role{}
	for _, role := range v.Roles {
		shown = append(shown, withLists(role))
	}
	return shown, nil
}

func (s *server) role(v *api.View, r *http.Request) (any, error) {
	few := r.URL.Query().Get("min") == "0"
	if min := r.URL.Query().Get("min"); min != "" && !few {
		return nil, fmt.Errorf("min=%.40s: only min=0 is possible: it allows fewer members than min_members", min)
	}
	role, err := findRole(v, r.PathValue("role"))
	switch refused := role.Refused; {
	case err != nil:
	case !role.Sync.Open:
		err = notSynced("the members of role "+role.Name, role.Sync, v.At)
	case refused == nil:
	case refused.Code == api.RefusedUnknown:
		err = unknownRole(v, role.Name)
	case !few:
		err = fail(http.StatusConflict, "ask with min=0 to get them all the same", "%s", refused.Why)
	}
	return withLists(role), err
}

// withLists replaces nil by empty lists: in JSON a list is never null.
func withLists(role api.Role) api.Role {
	role.MemberFacts, role.Nodes, role.Dependents = list(role.MemberFacts), list(role.Nodes), list(role.Dependents)
	role.Members = list(role.Members)
	return role
}

func findRole(v *api.View, name string) (api.Role, error) {
	for _, role := range v.Roles {
		if role.Name == name {
			return role, nil
		}
	}
	return api.Role{}, unknownRole(v, name)
}

func unknownRole(v *api.View, name string) error {
	return notFound(v, "role/"+name,
		fmt.Sprintf("role %.100s is unknown: no node has it and no configuration names it. Typo?", name))
}

func (s *server) runs(v *api.View, r *http.Request) (any, error) {
	q := r.URL.Query()
	limit, err := number(q, "limit", int64(len(v.Runs)))
	var role api.Role
	if err == nil && q.Has("role") {
		role, err = findRole(v, q.Get("role"))
	}
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(list(v.Runs), func(run api.Run) bool {
		return q.Has("role") && !slices.Contains(role.Nodes, run.Node) ||
			q.Has("node") && run.Node != q.Get("node") ||
			q.Has("action") && run.Action != q.Get("action")
	})
	return found[max(0, int64(len(found))-limit):], nil
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
