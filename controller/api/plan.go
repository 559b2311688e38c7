package api

import "slices"

// Plan is what another configuration would change. It leaves out the actions and roles that would stay as they are.
type Plan struct {
	Actions []PlannedAction `json:"actions"` // by node, then in the node's order
	Roles   []PlannedRole   `json:"roles"`   // by name
}

// PlannedAction is the verdict on an action now, and under the other configuration.
type PlannedAction struct {
	Node         string  `json:"node"`
	Action       string  `json:"action"`
	BecomesStale bool    `json:"becomes_stale"` // converged now, and not then
	Now          Verdict `json:"now"`
	Then         Verdict `json:"then"`
}

// PlannedRole is a role now, and under the other configuration.
type PlannedRole struct {
	Name    string   `json:"name"`
	Now     *Role    `json:"now"`  // null: there is no such role
	Then    *Role    `json:"then"` // null: there is no such role
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
	Changed []string `json:"changed,omitempty"` // members whose member facts would change
}

// Stale is the number of actions that would become stale.
func (p Plan) Stale() int {
	n := 0
	for _, a := range p.Actions {
		if a.BecomesStale {
			n++
		}
	}
	return n
}

// HoldsMore reports whether the guard would hold removals that it does not hold now.
func (r PlannedRole) HoldsMore() bool {
	if r.Then == nil || r.Then.Held == nil {
		return false
	}
	return r.Now == nil || r.Now.Held == nil || !slices.Equal(r.Now.Held.Nodes, r.Then.Held.Nodes)
}
