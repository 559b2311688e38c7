package api

import (
	"errors"
	"maps"
	"slices"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

// Error is the body of every answer whose status is not 200.
type Error struct {
	Error       string   `json:"error"`
	Remedy      string   `json:"remedy,omitempty"`
	Suggestions []string `json:"suggestions,omitempty"` // existing names that are similar
}

// Status says whether all is well, and if not, what is wrong.
type Status struct {
	Well            bool                   `json:"well"`     // there are no problems
	Problems        []Problem              `json:"problems"` // worst first, a consequence right after its cause
	At              time.Time              `json:"at"`
	Identity        Identity               `json:"controller"`
	Leader          string                 `json:"leader,omitempty"` // the controller that leads, if not this one
	Sync            Sync                   `json:"sync"`
	Nodes           map[inventory.Life]int `json:"nodes"` // how many, by life
	Roles           []RoleStatus           `json:"roles"`
	Actions         map[State]int          `json:"actions"` // how many, by state
	Stale           []Verdict              `json:"stale"`   // on the actions that are not converged
	Conflicts       []Conflict             `json:"conflicts,omitempty"`
	Cycles          []Cycle                `json:"cycles,omitempty"`
	InvalidMessages int64                  `json:"invalid_messages"` // from the bus, since the start
}

// RoleStatus is a role in numbers.
type RoleStatus struct {
	Name       string   `json:"name"`
	Members    int      `json:"members"`
	Nodes      int      `json:"nodes"`
	NotMembers []string `json:"not_members,omitempty"` // nodes that have the role and are not members
	Dependents int      `json:"dependents"`
	Unknown    bool     `json:"unknown,omitempty"`
	Sync       Sync     `json:"sync"`
	Held       *Held    `json:"held,omitempty"`
}

// Node is a node with its roles.
type Node struct {
	*inventory.Node
	Member    bool        `json:"member"` // of all its roles
	Roles     []string    `json:"roles"`
	NotMember []NotMember `json:"not_member,omitempty"` // roles of which it is no member though it is ready
}

// NotMember is a role of which a ready node is no member.
type NotMember struct {
	Role string `json:"role"`
	Why  string `json:"why"` // "has no fact port"
}

// Explanation says why a node and its actions are as they are.
type Explanation struct {
	Node
	Why     string     `json:"why,omitempty"`  // why it is not a member of any role
	Held    []HeldRole `json:"held,omitempty"` // roles that it has, or its actions depend on
	Actions []Action   `json:"actions"`

	// Departed is what is remembered of a node that is gone or left, or departed from roles; null: nothing.
	Departed *Departed `json:"departed,omitempty"`
	// UsedBy is the actions that depend on a role from which the node departed, and have not applied members without it,
	// or whose last run did not succeed: it may have written the node.
	UsedBy []string `json:"used_by,omitempty"`
}

// HeldRole is a role whose guard holds removals.
type HeldRole struct {
	Role string `json:"role"`
	Held
}

// Action is the verdict on an action, and its newest run that ended.
type Action struct {
	Verdict
	LastRun *Run `json:"last_run,omitempty"`
}

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
	return r.Then != nil && r.Then.Held != nil &&
		(r.Now == nil || r.Now.Held == nil || !slices.Equal(r.Now.Held.Nodes, r.Then.Held.Nodes))
}

// KickOrder is a person's order to run actions now, even if they are converged. It skips settle and backoff, and no
// other gate. If a node rejects the kick, the controller tries again with backoff.
type KickOrder struct {
	Object string `json:"object"`           // node/N, or role/R for every node that has the role
	Action string `json:"action,omitempty"` // empty: all actions
	DryRun bool   `json:"dry_run,omitempty"`
	Force  bool   `json:"force,omitempty"` // the runs do their whole work, even if no file changes: KICKER_FORCE=1
	By     string `json:"by,omitempty"`    // who gives the order, for the events
}

// LossOrder accepts the loss that the guard of a role holds: Accept is how many removals are held. With Expect it
// announces a loss instead: for the time For the guard lets up to so many percent of the members go.
type LossOrder struct {
	Object string        `json:"object"`                   // role/R
	Accept int           `json:"accept,omitempty"`         // from 1
	Expect int           `json:"expect_percent,omitempty"` // from 1 to 100
	For    time.Duration `json:"for_ns,omitempty"`
	By     string        `json:"by,omitempty"` // who gives the order, for the events
}

// LeaveOrder is a person's order that a node leaves, whatever the state of its agent. The node stays away until its
// agent is restarted.
type LeaveOrder struct {
	Object string `json:"object"`         // node/N
	Last   bool   `json:"last,omitempty"` // its roles may become empty, or have fewer members than their min_members
	By     string `json:"by,omitempty"`   // who gives the order, for the events
}

// LeaveStatus says how far leaving is, on the bus and in an answer.
type LeaveStatus = inventory.LeaveStatus

// Leaving says how far a node's leaving is. It answers a LeaveOrder, and the questions after it.
type Leaving struct {
	Node string `json:"node"`
	Gone bool   `json:"gone,omitempty"` // it no longer reports
	LeaveStatus
}

// Kicked answers a KickOrder.
type Kicked struct {
	Actions []Verdict `json:"actions"` // on each action of the order
	After   int64     `json:"after"`   // the newest event before the order; later ones say how the runs end
}

// Why a controller cannot carry out an order.
var (
	ErrNotFound  = errors.New("not found") // no such node, role or action
	ErrNotSynced = errors.New("not synced")
	ErrOtherLoss = errors.New("another loss is held by now")
)

// Departed is a node that is gone, left, or no longer a member of roles. A controller remembers it for a day.
type Departed struct {
	Node string    `json:"node"`
	Life string    `json:"life,omitempty"` // gone or left; empty: it is there
	At   time.Time `json:"at"`             // when it departed
	Why  string    `json:"why,omitempty"`  // it is gone
	// Roles is the roles that it was a member of.
	Roles map[string]RoleDeparture `json:"roles,omitempty"`
}

// Gone is the Life of a node that stopped reporting and did not leave.
const Gone = "gone"

// RoleDeparture is why and when a node stopped to be a member of a role, and which dependents follow.
type RoleDeparture struct {
	Why     kick.Departure       `json:"why"`
	At      time.Time            `json:"at"`
	Dropped map[string]time.Time `json:"dropped,omitempty"` // by NODE/ACTION: when it applied members without the node
}

// DroppedBy is the departure after one more action applied members without the node.
func (d RoleDeparture) DroppedBy(action string, at time.Time) RoleDeparture {
	dropped := map[string]time.Time{action: at}
	maps.Copy(dropped, d.Dropped)
	d.Dropped = dropped
	return d
}
