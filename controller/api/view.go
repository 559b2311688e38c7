// Package api has what a running controller says: the JSON types of its HTTP API, and the words for their parts.
//
// Times are RFC 3339. Durations are in nanoseconds, and their keys end in _ns.
package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

// View is everything a controller knows at one moment. It never changes after it was published.
type View struct {
	At              time.Time           `json:"at"`
	Identity        Identity            `json:"controller"`
	Leader          string              `json:"leader,omitempty"` // the controller that leads, if not this one
	Sync            Sync                `json:"sync"`
	Roles           []Role              `json:"roles"`                      // by name
	Verdicts        []Verdict           `json:"verdicts"`                   // by node, then in the node's order
	DisconnectsLost string              `json:"disconnects_lost,omitempty"` // why none are received
	Conflicts       []Conflict          `json:"conflicts,omitempty"`        // by node
	WrongVersion    []VersionMismatch   `json:"wrong_version,omitempty"`    // by node
	Cycles          []Cycle             `json:"cycles,omitempty"`           // by their first roles
	Overdue         []Overdue           `json:"overdue,omitempty"`          // by node
	Runs            []Run               `json:"runs"`                       // oldest first, the last 1000
	Events          []Event             `json:"events"`                     // oldest first, the last 4096
	Nodes           *inventory.Snapshot `json:"-"`
	Departed        map[string]Departed `json:"-"` // by node: those that are gone, left, or departed from roles
	Counts          Counts              `json:"counts"`
	Loaded          Loaded              `json:"loaded"`
	Next            <-chan struct{}     `json:"-"` // closed when a newer view is published
}

// Counts is how often things happened since the controller started.
type Counts struct {
	Events          map[string]int64       `json:"events"`           // by kind
	Kicks           map[kick.Answer]int64  `json:"kicks"`            // by answer; "" is a kick without a reply
	Runs            map[kick.Outcome]int64 `json:"runs"`             // that ended, by outcome
	InvalidMessages int64                  `json:"invalid_messages"` // from the bus
}

// Identity names one run of one controller.
type Identity struct {
	Cluster string    `json:"cluster"`
	ID      string    `json:"id"`
	Epoch   int64     `json:"epoch"` // nodes obey the controller with the highest
	Started time.Time `json:"started"`
}

// Loaded is which configuration is in force.
type Loaded struct {
	At     time.Time `json:"at"`               // when it was loaded
	Failed string    `json:"failed,omitempty"` // why a newer one was rejected
}

// Sync is whether the controller knows enough to act. While it is not open, kicker kicks and removes no node.
type Sync struct {
	Open    bool      `json:"open"`
	Why     string    `json:"why,omitempty"`  // what it waits for
	Until   time.Time `json:"until,omitzero"` // when the wait ends at the latest; zero: not known
	BusLost bool      `json:"bus_lost,omitempty"`
}

// Role is a named set of nodes and its membership now.
type Role struct {
	Name        string        `json:"name"`
	Selector    string        `json:"selector"`
	MemberFacts []string      `json:"member_facts"`
	DependsOn   []string      `json:"depends_on,omitempty"` // as the controller's configuration has it
	Revision    kick.Revision `json:"revision"`
	Members     []kick.Member `json:"members"`
	Nodes       []string      `json:"nodes"`      // all that have the role, members or not
	Dependents  []string      `json:"dependents"` // NODE/ACTION
	Sync        Sync          `json:"sync"`       // open: all members are known
	Held        *Held         `json:"held,omitempty"`
	Unknown     bool          `json:"unknown,omitempty"` // no node ever had it and no configuration names it
	MinMembers  int           `json:"min_members"`       // with fewer members the dependents are not kicked
	Refused     *Refusal      `json:"refused,omitempty"` // why its members are not handed out; null: they are

	Incomplete  []Incomplete  `json:"incomplete,omitempty"`  // ready nodes that lack a member fact
	Quarantined []Quarantined `json:"quarantined,omitempty"` // ready nodes with which every run failed
}

// Incomplete is a ready node that has a role and is not a member, because a member fact is missing or invalid.
type Incomplete struct {
	Node string `json:"node"`
	Why  string `json:"why"` // "has no fact port"
}

// Refusal is why the members of a role are not handed out. Every question gets the same answer: a kick, the API, an
// export.
type Refusal struct {
	Code  string    `json:"code"` // one of the Refused constants
	Why   string    `json:"why"`
	Until time.Time `json:"until,omitzero"` // zero: until something happens
}

// Why members are not handed out.
const (
	RefusedUnknown   = "unknown"
	RefusedNotSynced = "not synced"
	RefusedTooFew    = "too few"
	RefusedHeld      = "held" // removals are held of members that lack a fact
)

// Held is removals that the guard of a role keeps back. The nodes are still members, unless the guard is a shadow.
type Held struct {
	Nodes  []string  `json:"nodes"`
	Since  time.Time `json:"since"`
	Why    string    `json:"why"`
	Undo   string    `json:"undo,omitempty"`   // the change of the configuration that is the cause, and the remedy
	Probe  string    `json:"probe,omitempty"`  // whether dependents reach the nodes, as they reported
	Shadow bool      `json:"shadow,omitempty"` // guard: shadow, not enforced
}

// Quarantined is a ready node that is kept out of a role because every run with it failed.
type Quarantined struct {
	Node  string    `json:"node"`
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
	Retry time.Time `json:"retry"` // when one dependent tries it again
}

// Conflict is two machines that claim one name. The controller accepts one of them and rejects the other.
type Conflict struct {
	Node     string    `json:"node"`
	Accepted string    `json:"accepted"` // the instance that is the node
	Rejected string    `json:"rejected"` // the instance whose heartbeats are rejected; of several the last
	Since    time.Time `json:"since"`
}

// String says which instances claim the name.
func (c Conflict) String() string {
	return fmt.Sprintf("two machines claim the name %s: instance %s is accepted, instance %s is rejected",
		c.Node, c.Accepted, c.Rejected)
}

// VersionMismatch is a node whose messages have another version than the controller's. The controller ignores them.
type VersionMismatch struct {
	Node    string    `json:"node"`
	Version int       `json:"version"` // of the node's messages
	Since   time.Time `json:"since"`
}

// Cycle is roles that depend on each other. A kick changes no membership, so a cycle alone repeats nothing. Of cycles
// with a role in common one is shown.
type Cycle struct {
	Roles []string  `json:"roles"` // each depends on the next one, and the last one on the first
	Since time.Time `json:"since"`
}

// String says which roles, and when the cycle does harm.
func (c Cycle) String() string {
	roles := strings.Join(c.Roles, " → ") + " → " + c.Roles[0]
	return "roles " + roles + " depend on each other: harmless, unless a run changes its own node's member facts"
}

// State is the first half of a verdict.
type State string

// The states of an action.
const (
	Converged State = "converged" // it applied the current members
	Pending   State = "pending"   // it did not, and is kicked when it waits for no gate
	Failing   State = "failing"   // pending, and the last try failed
)

// Verdict is what the controller decided about one action of one node.
type Verdict struct {
	Node    string        `json:"node"`
	Action  string        `json:"action"`
	State   State         `json:"state"`
	Since   time.Time     `json:"since,omitzero"` // pending or failing since
	Reason  string        `json:"reason,omitempty"`
	Needs   []Need        `json:"needs"`
	Gates   []Gate        `json:"gates,omitempty"` // what it waits for; none: it is being kicked
	Last    *kick.LastRun `json:"last,omitempty"`
	Running *kick.Running `json:"running,omitempty"`
	// Disabled is why the node runs no action, empty if it does.
	Disabled string `json:"disabled,omitempty"`
}

// Need is one role that an action depends on.
type Need struct {
	Role    string         `json:"role"`             // as the node names it
	Shared  string         `json:"shared,omitempty"` // only the members with this fact, which the node has too
	Current kick.Revision  `json:"current"`
	Applied *kick.Revision `json:"applied,omitempty"` // nil: not known
	Added   []string       `json:"added,omitempty"`   // members since Applied, as far as the controller remembers
	Removed []string       `json:"removed,omitempty"`
	Changed []string       `json:"changed,omitempty"` // members whose member facts changed
}

// Gate is a reason to wait. NewGate makes one.
type Gate struct {
	Name   string    `json:"name"` // one of Gates
	Why    string    `json:"why"`
	Until  time.Time `json:"until,omitzero"`   // zero: until something happens
	Person bool      `json:"person,omitempty"` // only a person opens it; otherwise it opens by itself
}

// NewGate is the gate of that name. Its name says whether only a person opens it.
func NewGate(name, why string, until time.Time) Gate {
	return Gate{Name: name, Why: why, Until: until, Person: slices.Contains(personsGates, name)}
}

// The gates that a pending action can wait for.
const (
	GateLeader     = "leader"
	GateObserve    = "observe"
	GateDisabled   = "disabled"
	GateSynced     = "synced"
	GateUnknown    = "unknown role"
	GateMinMembers = "min_members"
	GateHeld       = "held"
	GateSettle     = "settle"
	GateRunning    = "running"
	GateBudget     = "budget"
	GateRollout    = "rollout"
	GateBackoff    = "backoff"
)

// Gates is the names of all gates.
var Gates = []string{
	GateLeader, GateObserve, GateDisabled, GateSynced, GateUnknown, GateMinMembers, GateHeld,
	GateSettle, GateRunning, GateBudget, GateRollout, GateBackoff,
}

// personsGates is the names of the gates that only a person opens. The others are timed.
var personsGates = []string{GateObserve, GateDisabled, GateUnknown, GateMinMembers, GateHeld}

// OnlyPerson reports whether an action with these gates waits, and only for a person.
func OnlyPerson(gates []Gate) bool {
	return len(gates) > 0 && !slices.ContainsFunc(gates, func(g Gate) bool { return !g.Person })
}

// Run is one run of an action, as far as the controller knows it.
type Run struct {
	ID       string        `json:"id"`
	Node     string        `json:"node"`
	Action   string        `json:"action"`
	Reason   string        `json:"reason"`
	Started  time.Time     `json:"started"`           // when the kick was sent
	Ended    time.Time     `json:"ended,omitzero"`    // zero: in progress
	Outcome  kick.Outcome  `json:"outcome,omitempty"` // empty: in progress
	Exit     int           `json:"exit"`              // -1: there was no exit code
	Duration time.Duration `json:"duration_ns"`       // of the command
	Error    string        `json:"error,omitempty"`
	Output   string        `json:"output,omitempty"` // the last 4 KiB
	// LeftBehind is the processes that still ran when the command had ended, as "sleep (pid 123)".
	LeftBehind []string `json:"left_behind,omitempty"`
}

// Overdue is a run that takes much longer than runs of its action usually do. It no longer takes a place from others.
type Overdue struct {
	Node    string        `json:"node"`
	Action  string        `json:"action"`
	Run     string        `json:"run"`
	Started time.Time     `json:"started"`            // when the kick was sent, or the run was first reported
	Since   time.Time     `json:"since"`              // when it became overdue
	Until   time.Time     `json:"until"`              // when it ends at the latest; past: its node still reports it
	Usual   time.Duration `json:"usual_ns,omitempty"` // the median of the action; 0: not known
	NoReply bool          `json:"no_reply,omitempty"` // the node did not answer the kick, so it may run or not
	Blocks  []string      `json:"blocks,omitempty"`   // what starts nothing new because too many are overdue: "role lb"
}
