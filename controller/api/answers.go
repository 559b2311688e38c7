package api

import (
	"kicker/inventory"
	"time"
)

// Error is the body of every answer that is none.
type Error struct {
	Error       string   `json:"error"`
	Remedy      string   `json:"remedy,omitempty"`
	Suggestions []string `json:"suggestions,omitempty"` // names that exist and look like the one asked for
}

// Status says whether all is well, and if not, what.
type Status struct {
	Well            bool                   `json:"well"`
	Problems        []Problem              `json:"problems"` // worst first, a consequence right after its cause; none when all is well
	At              time.Time              `json:"at"`
	Identity        Identity               `json:"controller"`
	Leader          string                 `json:"leader,omitempty"` // another controller, of which this one is the standby
	Sync            Sync                   `json:"sync"`
	Nodes           map[inventory.Life]int `json:"nodes"` // how many, by life
	Roles           []RoleStatus           `json:"roles"`
	Actions         map[State]int          `json:"actions"`             // how many, by state
	Stale           []Verdict              `json:"stale"`               // the actions that are not converged
	Conflicts       []Conflict             `json:"conflicts,omitempty"` // names that two machines claim
	Cycles          []Cycle                `json:"cycles,omitempty"`    // of roles that depend on each other: no problem
	InvalidMessages int64                  `json:"invalid_messages"`    // messages that were refused since the start
}

// RoleStatus is a role in numbers.
type RoleStatus struct {
	Name       string   `json:"name"`
	Members    int      `json:"members"`
	Nodes      int      `json:"nodes"`
	NotMembers []string `json:"not_members,omitempty"` // nodes that bear the role and are no members
	Dependents int      `json:"dependents"`
	Unknown    bool     `json:"unknown,omitempty"`
	Sync       Sync     `json:"sync"`
	Held       *Held    `json:"held,omitempty"`
}

// Node is a node that is heard, with the roles it bears.
type Node struct {
	*inventory.Node
	Member bool     `json:"member"` // a member of its roles
	Roles  []string `json:"roles"`
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
	Held
}

// Action is what the controller thinks of an action, and the newest run it knows of.
type Action struct {
	Verdict
	LastRun *Run `json:"last_run,omitempty"`
}
