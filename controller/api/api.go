package api

import (
	"errors"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

// View is everything a controller knows at one moment. It is never changed after it was published; Run owns what it was made from.
type View struct {
	At              time.Time           `json:"at"`
	Identity        Identity            `json:"controller"`
	Leader          string              `json:"leader,omitempty"` // another controller, which leads while this one watches
	Sync            Sync                `json:"sync"`
	Roles           []Role              `json:"roles"`                      // by name
	Verdicts        []Verdict           `json:"verdicts"`                   // by node, then in the node's order of actions
	DisconnectsLost string              `json:"disconnects_lost,omitempty"` // why closed connections are not heard, though they should be
	Conflicts       []Conflict          `json:"conflicts,omitempty"`        // by node
	Cycles          []Cycle             `json:"cycles,omitempty"`           // by their first roles
	Runs            []Run               `json:"runs"`                       // oldest first, the last 1 000
	Events          []Event             `json:"events"`                     // oldest first, the last 4 096
	Nodes           *inventory.Snapshot `json:"-"`
	Counts          Counts              `json:"counts"`
	Loaded          Loaded              `json:"loaded"`
	// Next is closed when a newer view is published.
	Next <-chan struct{} `json:"-"`
}

// Counts is how often things happened since the start, where Runs and Events forget.
type Counts struct {
	Events          map[string]int64       `json:"events"`           // by kind
	Kicks           map[kick.Answer]int64  `json:"kicks"`            // by answer; "" for those that got none
	Runs            map[kick.Outcome]int64 `json:"runs"`             // that ended, by outcome
	InvalidMessages int64                  `json:"invalid_messages"` // messages that were no good
}

// Identity says which run of which controller speaks.
type Identity struct {
	Cluster string    `json:"cluster"`
	ID      string    `json:"id"`
	Epoch   int64     `json:"epoch"`
	Started time.Time `json:"started"`
}

// Loaded says which configuration is in force.
type Loaded struct {
	At     time.Time `json:"at"`               // when it was loaded
	Failed string    `json:"failed,omitempty"` // why one that was tried since is not in force
}

// Sync says whether the controller knows enough to act. While it is not open nobody is kicked.
type Sync struct {
	Open    bool      `json:"open"`
	Why     string    `json:"why,omitempty"` // what it waits for
	Until   time.Time `json:"until,omitzero"`
	BusLost bool      `json:"bus_lost,omitempty"`
}

// Role is a named set of nodes and its membership now.
type Role struct {
	Name        string        `json:"name"`
	Selector    string        `json:"selector"`
	MemberFacts []string      `json:"member_facts"`
	DependsOn   []string      `json:"depends_on,omitempty"` // as configured at the controller
	Revision    kick.Revision `json:"revision"`
	Members     []kick.Member `json:"members"`
	Nodes       []string      `json:"nodes"`      // all that match, members or not
	Dependents  []string      `json:"dependents"` // NODE/ACTION
	Sync        Sync          `json:"sync"`       // open: Members is believed to be whole
	Held        *Held         `json:"held,omitempty"`
	Unknown     bool          `json:"unknown,omitempty"` // nothing declares it and nobody has ever borne it
}

// Held is removals that the guard of a role does not believe: the nodes are still members, unless the guard is only a shadow.
type Held struct {
	Nodes  []string  `json:"nodes"`
	Since  time.Time `json:"since"`
	Why    string    `json:"why"`
	Probe  string    `json:"probe,omitempty"` // what dependents that were asked say
	Shadow bool      `json:"shadow,omitempty"`
}

// Conflict is two machines that claim one name: one is the node, the other is not listened to.
type Conflict struct {
	Node     string    `json:"node"`
	Accepted string    `json:"accepted"` // the instance that is the node
	Rejected string    `json:"rejected"` // the instance whose heartbeats are refused; of several the last
	Since    time.Time `json:"since"`
}

// Circle is roles that depend on each other. Kicks change no membership, and so nothing loops by itself. Of circles that have roles in
// common one is shown.
type Cycle struct {
	Roles []string  `json:"roles"` // each depends on the next one, and the last one on the first
	Since time.Time `json:"since"`
}

// State is the first half of a verdict.
type State string

// The states of an action.
const (
	Converged State = "converged" // applied is current
	Pending   State = "pending"   // stale, and to be kicked when no gate is closed
	Failing   State = "failing"   // wanted, and the last run failed
)

// Verdict is what the controller thinks of one action of one node. Dispatch consumes the same values that are shown.
type Verdict struct {
	Node    string        `json:"node"`
	Action  string        `json:"action"`
	State   State         `json:"state"`
	Since   time.Time     `json:"since,omitzero"` // wanted or failing since
	Reason  string        `json:"reason,omitempty"`
	Needs   []Need        `json:"needs"`
	Gates   []Gate        `json:"gates,omitempty"` // what it waits for; none: it is being kicked
	Last    *kick.LastRun `json:"last,omitempty"`
	Running *kick.Running `json:"running,omitempty"`
}

// Need is one role that an action depends on.
type Need struct {
	Role    string         `json:"role"`             // as the node names it
	Shared  string         `json:"shared,omitempty"` // narrowed to the members that share this with the node
	Current kick.Revision  `json:"current"`
	Applied *kick.Revision `json:"applied,omitempty"` // nil: unknown
	Added   []string       `json:"added,omitempty"`   // members since Applied, as far as it is remembered
	Removed []string       `json:"removed,omitempty"`
	Changed []string       `json:"changed,omitempty"` // same members, other member facts
}

// Gate is a reason to wait.
type Gate struct {
	Name  string    `json:"name"` // one of the Gate constants
	Why   string    `json:"why"`
	Until time.Time `json:"until,omitzero"`
}

// The gates a wanted action can wait for.
const (
	GateLeader     = "leader"
	GateObserve    = "observe"
	GateSynced     = "synced"
	GateUnknown    = "unknown role"
	GateMinMembers = "min_members"
	GateSettle     = "settle"
	GateRunning    = "running"
	GateBudget     = "budget"
	GateRollout    = "rollout"
	GateBackoff    = "backoff"
)

// Run is one run of an action, as far as the controller knows of it.
type Run struct {
	ID       string        `json:"id"`
	Node     string        `json:"node"`
	Action   string        `json:"action"`
	Reason   string        `json:"reason"`
	Started  time.Time     `json:"started"`           // when the kick was sent
	Ended    time.Time     `json:"ended,omitzero"`    // zero: in progress
	Outcome  kick.Outcome  `json:"outcome,omitempty"` // empty: in progress
	Exit     int           `json:"exit"`
	Duration time.Duration `json:"duration_ns"` // of the command
	Error    string        `json:"error,omitempty"`
	Output   string        `json:"output,omitempty"` // its last 4 KiB
}

// Event is something that happened, or was decided.
type Event struct {
	Seq    int64     `json:"seq"` // counts up from 1 within the controller's run
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"` // one of the Event constants
	Node   string    `json:"node,omitempty"`
	Role   string    `json:"role,omitempty"`
	Action string    `json:"action,omitempty"`
	Run    string    `json:"run,omitempty"`
	Text   string    `json:"text"` // for people, whole by itself
}

// The kinds of events.
const (
	EventStarted             = "started"              // the controller
	EventFollows             = "follows"              // another controller leads
	EventLeads               = "leads"                // this one leads, after another one
	EventSynced              = "synced"               // the sync gate opened
	EventBusLost             = "bus lost"             // the sync gate closed again
	EventDisconnectsLost     = "disconnects lost"     // closed connections are not heard any more
	EventDisconnectsRestored = "disconnects restored" //
	EventJoined              = "joined"               // a node was heard for the first time
	EventReady               = "ready"                // a node's service
	EventNotReady            = "not ready"            //
	EventSuspect             = "suspect"              // a node's connection closed
	EventRestarting          = "restarting"           // a node's agent stops, and means to be back
	EventBack                = "back"                 // a suspect, or a node that was back soon, was heard again
	EventGone                = "gone"                 // a node was not heard any more
	EventLeft                = "left"                 // a node said goodbye
	EventReplaced            = "replaced"             // a newer boot, or another instance, bears the name
	EventConflictBegan       = "conflict began"       // two machines claim one name
	EventRoleChanged         = "role changed"         // a role's membership changed
	EventHoldBegan           = "hold began"           // the guard does not believe a loss
	EventHoldEnded           = "hold ended"           //
	EventLossExpected        = "loss expected"        // an operator announced a loss
	EventKicked              = "kicked"               // a kick was accepted
	EventKickRejected        = "kick rejected"        // a kick was not accepted
	EventSucceeded           = "succeeded"            // a run
	EventFailed              = "failed"               // a run
	EventInvalidMessage      = "invalid message"      // a message from the bus was no good

	EventCycleBegan     = "cycle began"     // roles depend on each other in a circle
	EventCycleEnded     = "cycle ended"     //
	EventDampingBegan   = "damping began"   // an action is kicked more often than changes from outside explain
	EventDampingEnded   = "damping ended"   //
	EventConflictEnded  = "conflict ended"  // one of them does
	EventReloaded       = "reloaded"        // another configuration is in force
	EventReloadRejected = "reload rejected" // there is another configuration, which is no good
)

// KickOrder is an operator's wish: run these actions now, applied or not. Neither settling nor the failures before it delay it; it
// waits for a run in progress, for the sync gate, and where the mode is observe. If a node does not accept it, it is tried again, with backoff.
type KickOrder struct {
	Object string `json:"object"`           // node/N or role/R: every node that bears the role
	Action string `json:"action,omitempty"` // empty: all actions
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"` // who says so, for the events
}

// LossOrder is an operator's word on the members of role/R that went, or will: the loss that is held is real; or, with Expect, up to so
// many percent of them may go in the time For without being held.
type LossOrder struct {
	Object string        `json:"object"` // role/R
	Expect int           `json:"expect_percent,omitempty"`
	For    time.Duration `json:"for_ns,omitempty"`
	By     string        `json:"by,omitempty"`
}

// Kicked is what became of a KickOrder: the runs that it asked for, as NODE/ACTION, and the sequence number of the newest event
// before it, from which to follow what comes of it.
type Kicked struct {
	Actions []Verdict `json:"actions"`
	After   int64     `json:"after"`
}

// Why a KickOrder can't be carried out.
var (
	ErrNotFound  = errors.New("not found") // no such node, role or action
	ErrNotSynced = errors.New("not synced")
)
