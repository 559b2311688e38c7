package plan

import (
	"maps"
	"slices"

	"kicker/controller/api"
	"kicker/controller/membership"
)

// Cycles is where roles depend on each other.
type Cycles struct {
	// of has the same number for roles that reach each other through dependencies.
	of map[string]int
	// Found is one cycle of each such group, by its first role.
	Found []api.Cycle
}

// join reports whether a role that an action of the node depends on is one of the node's, or depends on one of those in turn.
func (cs Cycles) join(r *membership.Role, node string, table *membership.Table) bool {
	group, known := cs.of[r.Name]
	joins := func(has *membership.Role) bool {
		other, also := cs.of[has.Name]
		return has == r || known && also && other == group
	}
	return slices.ContainsFunc(table.Of(node), joins) ||
		slices.ContainsFunc(table.Selected(), func(has *membership.Role) bool { return has.Has(node) && joins(has) })
}

// FindCycles looks for roles that depend on each other.
func FindCycles(table *membership.Table, actions []*Action) Cycles {
	return cyclesIn(dependencies(table, actions))
}

// dependencies is the roles that the nodes of each role depend on, by name and sorted. That a role depends on itself is normal and left
// out.
func dependencies(table *membership.Table, actions []*Action) map[string][]string {
	selected := map[string][]*membership.Role{} // by node
	for _, r := range table.Selected() {
		for _, node := range r.Nodes() {
			if r.Implicit() {
				selected[node] = append(selected[node], r)
			}
		}
	}
	sets := map[string]map[string]struct{}{}
	for _, a := range actions {
		for _, need := range a.Needs {
			for _, from := range slices.Concat(table.Of(a.Node), selected[a.Node]) {
				if from == need.Role {
					continue
				}
				if sets[from.Name] == nil {
					sets[from.Name] = map[string]struct{}{}
				}
				sets[from.Name][need.Role.Name] = struct{}{}
			}
		}
	}
	graph := make(map[string][]string, len(sets))
	for from, to := range sets {
		graph[from] = slices.Sorted(maps.Keys(to))
	}
	return graph
}

// cyclesIn finds the roles that reach each other, and of each such group the shortest cycle through its first role. It is Tarjan's
// algorithm for strongly connected components: it looks at each dependency once.
func cyclesIn(graph map[string][]string) Cycles {
	cs := Cycles{of: map[string]int{}}
	var stack []string
	seen, low := map[string]int{}, map[string]int{} // both from 1
	var visit func(string)
	visit = func(role string) {
		seen[role] = len(seen) + 1
		low[role] = seen[role]
		stack = append(stack, role)
		for _, to := range graph[role] {
			if _, done := cs.of[to]; done {
				continue
			}
			if seen[to] == 0 {
				visit(to)
			}
			low[role] = min(low[role], low[to])
		}
		if low[role] != seen[role] {
			return
		}
		at := slices.Index(stack, role)
		group := stack[at:]
		for _, r := range group {
			cs.of[r] = seen[role]
		}
		if len(group) > 1 {
			cs.Found = append(cs.Found, api.Cycle{Roles: shortest(slices.Min(group), graph)})
		}
		stack = stack[:at]
	}
	for _, role := range slices.Sorted(maps.Keys(graph)) {
		if seen[role] == 0 {
			visit(role)
		}
	}
	slices.SortFunc(cs.Found, func(a, b api.Cycle) int { return slices.Compare(a.Roles, b.Roles) })
	return cs
}

// shortest is the shortest way from a role back to it. There is one.
func shortest(role string, graph map[string][]string) []string {
	via := map[string]string{}
	for queue := []string{role}; ; queue = queue[1:] {
		from := queue[0]
		for _, to := range graph[from] {
			if to == role {
				way := []string{from}
				for from != role {
					from = via[from]
					way = append(way, from)
				}
				slices.Reverse(way)
				return way
			}
			if _, met := via[to]; !met {
				via[to] = from
				queue = append(queue, to)
			}
		}
	}
}
