// Package kick carries an order from the controller to one node's action, and runs the action on the node.
//
// The controller sends a Kick: bring this action up to date with these memberships. The node's Runner checks it and
// writes to disk that the action is dirty and that a run is in progress. Only then does it start the action's command,
// under a shim: a process of its own that outlives the agent. When the command succeeds, the memberships of the kick
// are applied and the action is no longer dirty. The node reports this in a Result and in every later heartbeat.
//
// Two files are durable. The Runner writes state.json: what each action applied, whether it is dirty, how its last run
// ended, which run is in progress, and the highest epoch seen. The shim writes ending.json: how the command ended.
// A restarted agent reads both. It waits for a run that is still in progress, reports one that ended meanwhile, and
// never starts a second run beside it.
package kick

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Version is the version of every message and file of this package. Readers reject other versions.
const Version = 2

// Revision identifies a membership. Two are equal if their hashes are; (Epoch, N) orders them.
type Revision struct {
	Epoch int64  `json:"epoch"` // of the controller that published it
	N     int64  `json:"n"`     // counts up within the epoch
	Hash  string `json:"hash"`  // of the members, see Hash
}

// Before reports whether r was published before o.
func (r Revision) Before(o Revision) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.N < o.N
}

// Member is a member of a role, with the facts that the role publishes.
type Member struct {
	Node  string         `json:"node"`
	Facts map[string]any `json:"facts"`
}

// Membership is the members that a need selects, at a revision, sorted by name.
type Membership struct {
	Role     string   `json:"role"` // the need's canonical text, see CheckNeed
	Revision Revision `json:"revision"`
	Members  []Member `json:"members"`
	// Departed is why nodes are no longer members, as far as the controller remembers: of each node the newest reason.
	// It is not part of the hash.
	Departed map[string]Departure `json:"departed,omitempty"`
}

// Departure is why a node is no longer a member.
type Departure string

// The reasons of a departure.
const (
	DepartedLeft        Departure = "left"         // on purpose
	DepartedGone        Departure = "gone"         // it did not report for too long
	DepartedNotReady    Departure = "not ready"    // its service is not
	DepartedDeselected  Departure = "deselected"   // its facts or the configuration changed
	DepartedFactMissing Departure = "fact missing" // a member fact that the need requires is missing or invalid
	DepartedReplaced    Departure = "replaced"     // another machine, or another boot, has its name
	DepartedQuarantined Departure = "quarantined"  // with it every run failed
)

// Departures is every reason of a departure.
var Departures = []Departure{
	DepartedLeft, DepartedGone, DepartedNotReady, DepartedDeselected,
	DepartedFactMissing, DepartedReplaced, DepartedQuarantined,
}

// Hash identifies a list of members, in any order. The number before the dash is the algorithm's version.
func Hash(members []Member) string {
	h := sha256.New()
	enc := json.NewEncoder(h) // sorts the keys of maps, ends each member with a newline
	for _, m := range sorted(members) {
		if err := enc.Encode(m); err != nil {
			panic(fmt.Sprintf("kick: hash a member: %v", err)) // facts were decoded from JSON
		}
	}
	return "1-" + hex.EncodeToString(h.Sum(nil)[:16])
}

func sorted(members []Member) []Member {
	byName := func(a, b Member) int { return strings.Compare(a.Node, b.Node) }
	all := append([]Member{}, members...) // never nil, which JSON writes as null
	slices.SortFunc(all, byName)
	return all
}

// Kick orders one action of one node to run, on kicker.CLUSTER.kick.NODE. It never carries a command.
type Kick struct {
	V          int          `json:"v"`
	ID         string       `json:"id"`         // of the run; a kick sent twice starts one run
	Controller string       `json:"controller"` // the id of the sending controller
	Epoch      int64        `json:"epoch"`      // of that controller
	Node       string       `json:"node"`
	Action     string       `json:"action"`
	Reason     string       `json:"reason"`            // for people: "web: +web4 -web2"
	Ordered    bool         `json:"ordered,omitempty"` // run even if everything is applied: a person wants it
	Force      bool         `json:"force,omitempty"`   // do the whole work, even if no file changes: KICKER_FORCE=1
	Needs      []Membership `json:"needs"`             // of each need of the action
}

// Answer is how a node answers a kick.
type Answer string

// The answers to a kick.
const (
	Accepted       Answer = "accepted"
	AlreadyApplied Answer = "already applied"
	Busy           Answer = "busy" // another run is in progress
	NoSuchAction   Answer = "no such action"
	Disabled       Answer = "disabled"         // by a person, on the node
	CannotRun      Answer = "cannot run"       // the node's state cannot be written
	Stale          Answer = "stale controller" // the node has seen a higher epoch
	Older          Answer = "older revision"   // the node has a newer revision
	Incomplete     Answer = "incomplete"       // the members do not match the revision
	Invalid        Answer = "invalid"
)

// Reply answers a Kick.
type Reply struct {
	V        int    `json:"v"`
	Answer   Answer `json:"answer"`
	Run      string `json:"run,omitempty"`         // accepted: the kick's id; busy: the run in progress
	Deadline int64  `json:"deadline_ms,omitempty"` // accepted, busy: until the run has ended at the latest
	Detail   string `json:"detail,omitempty"`      // for people
}

// Outcome is how a run ended.
type Outcome string

// The outcomes of a run.
const (
	Succeeded Outcome = "succeeded"
	Failed    Outcome = "failed"    // another exit code, or the command could not be started
	TimedOut  Outcome = "timed out" // stopped at its deadline
	Killed    Outcome = "killed"    // by a signal that the shim did not send
	Lost      Outcome = "lost"      // the machine rebooted or the shim died: how the command ended is unknown
)

// Result reports how a run ended, on kicker.CLUSTER.result.NODE.
type Result struct {
	V        int                 `json:"v"`
	Node     string              `json:"node"`
	Action   string              `json:"action"`
	Run      string              `json:"run"`
	Outcome  Outcome             `json:"outcome"`
	Exit     int                 `json:"exit"` // exit code; -1: there is none
	Duration int64               `json:"duration_ms"`
	Error    string              `json:"error,omitempty"`  // for people: why the run could not start, or what ended it
	Output   string              `json:"output,omitempty"` // the last 4 KiB
	Applied  map[string]Revision `json:"applied"`          // as in ActionStatus, after the run
	Dirty    bool                `json:"dirty"`            // likewise
	// LeftBehind is the processes that still ran when the command had ended, as "sleep (pid 123)". Of more than ten the
	// last entry is a count. The run ended with them.
	LeftBehind []string `json:"left_behind,omitempty"`
}

// Status is what a heartbeat reports of a node's actions.
type Status struct {
	Epoch      int64          `json:"epoch"`                // the highest that the node has seen
	Controller string         `json:"controller,omitempty"` // whose epoch it is
	Actions    []ActionStatus `json:"actions,omitempty"`    // in the order of the configuration
	Running    *Running       `json:"running,omitempty"`
	Disabled   string         `json:"disabled,omitempty"` // why a person allows no runs on this node; empty: they may run
}

// ActionStatus is one action of a node.
type ActionStatus struct {
	Name      string   `json:"name"`
	DependsOn []string `json:"depends_on,omitempty"` // needs by their canonical text
	// Applied is the revision of each need that the last successful run was given.
	Applied map[string]Revision `json:"applied,omitempty"`
	Dirty   bool                `json:"dirty,omitempty"` // from the start of a run until a run succeeds
	Last    *LastRun            `json:"last,omitempty"`
}

// LastRun is how an action's last run ended.
type LastRun struct {
	Run      string  `json:"run"`
	Outcome  Outcome `json:"outcome"`
	Exit     int     `json:"exit"` // exit code; -1: there is none
	Duration int64   `json:"duration_ms"`
	Failures int     `json:"failures,omitempty"` // in a row, with this one
}

// Running is the run in progress.
type Running struct {
	Run    string `json:"run"`
	Action string `json:"action"`
	Limit  int64  `json:"limit_ms,omitempty"` // it has ended within this time from its start
}

// Subjects of this package in a cluster.
func kickSubject(cluster, node string) string   { return "kicker." + cluster + ".kick." + node }
func resultSubject(cluster, node string) string { return "kicker." + cluster + ".result." + node }
