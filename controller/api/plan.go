package api

import (
	"fmt"
	"slices"
	"strings"
)

// String says which roles, and what to make of it.
func (k Cycle) String() string {
	return fmt.Sprintf("roles %s depend on each other in a circle: harmless, unless a run changes its own node's member facts",
		strings.Join(append(slices.Clone(k.Roles), k.Roles[0]), " → "))
}

// String says what is wrong, and what to do.
func (k Conflict) String() string {
	return fmt.Sprintf("two machines claim this name: instance %s bears it, instance %s is refused: stop one, or give it another agent.name", k.Accepted, k.Rejected)
}

// Plan is what another configuration would change. Actions and roles that it would leave as they are, are not in it.
type Plan struct {
	Actions []PlannedAction `json:"actions"` // by node, then in the node's order
	Roles   []PlannedRole   `json:"roles"`   // by name
}

// PlannedAction is an action and the verdicts on it, now and then.
type PlannedAction struct {
	Node         string  `json:"node"`
	Action       string  `json:"action"`
	BecomesStale bool    `json:"becomes_stale"` // converged now, and not then
	Now          Verdict `json:"now"`
	Then         Verdict `json:"then"`
}

// PlannedRole is a role now and then.
type PlannedRole struct {
	Name    string   `json:"name"`
	Now     *Role    `json:"now"`  // null: there is none
	Then    *Role    `json:"then"` // null: there is none
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
	Changed []string `json:"changed,omitempty"` // same members, other member facts
}

// Stale is how many actions would become stale.
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
