// Package kick is the order to one node's action and the run that comes of it: sent by the controller, run by the node.
package kick

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Version is the version of every message in this package. A message of another version is refused.
const Version = 2

// Revision identifies a membership. Equality is by Hash alone, order by (Epoch, N).
type Revision struct {
	Epoch int64  `json:"epoch"` // the controller's run that published it
	N     int64  `json:"n"`     // counts up within the epoch
	Hash  string `json:"hash"`  // of the members, see Hash; starts with the algorithm's version
}

// Before reports whether r was published before o.
func (r Revision) Before(o Revision) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.N < o.N
}

// Member is a node that is in a role, with the role's member facts.
type Member struct {
	Node  string         `json:"node"`
	Facts map[string]any `json:"facts"`
}

// Membership is the sorted members of one role, or selector, at a revision.
type Membership struct {
	Role     string   `json:"role"`
	Revision Revision `json:"revision"`
	Members  []Member `json:"members"`
}

// Hash is the identity of a list of members, whatever its order. The number before the dash is the algorithm's version.
func Hash(members []Member) string {
	sorted := slices.SortedFunc(slices.Values(members), func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	h := sha256.New()
	enc := json.NewEncoder(h) // sorts the keys of maps, ends each member with a newline
	for _, m := range sorted {
		if err := enc.Encode(m); err != nil {
			panic(fmt.Sprintf("kick: member facts that are no JSON: %v", err)) // they come from JSON
		}
	}
	return "1-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// Kick is the order "bring yourself up to date" to one node's action, on kicker.CLUSTER.kick.NODE. It never carries a command.
type Kick struct {
	V          int    `json:"v"`
	ID         string `json:"id"`         // of the run that comes of it; the same kick sent twice makes one run
	Controller string `json:"controller"` // which run of which controller speaks
	Epoch      int64  `json:"epoch"`
	Node       string `json:"node"`
	Action     string `json:"action"`
	Reason     string `json:"reason"` // for people: "web: +web4 -web2"
	// Force asks for a run even if everything is applied already.
	Force bool `json:"force,omitempty"`
	// Needs is the membership to configure from, one for each role that the action depends on.
	Needs []Membership `json:"needs"`
}

// Answer is what a node makes of a kick.
type Answer string

// The answers to a kick.
const (
	Accepted       Answer = "accepted"
	AlreadyApplied Answer = "already applied"
	Busy           Answer = "busy" // another run is in progress
	NoSuchAction   Answer = "no such action"
	Disabled       Answer = "disabled"
	Stale          Answer = "stale controller" // a higher epoch has been seen
	Older          Answer = "older revision"   // a newer revision is known
	Incomplete     Answer = "incomplete"       // the members did not arrive whole
	Invalid        Answer = "invalid"
)

// Reply answers a Kick.
type Reply struct {
	V        int    `json:"v"`
	Answer   Answer `json:"answer"`
	Run      string `json:"run,omitempty"`         // accepted: the kick's id; busy: the run in progress
	Deadline int64  `json:"deadline_ms,omitempty"` // accepted, busy: milliseconds until the run is over at the latest
	Detail   string `json:"detail,omitempty"`
}

// Outcome is how a run ended.
type Outcome string

// The outcomes of a run.
const (
	Succeeded Outcome = "succeeded"
	Failed    Outcome = "failed"    // an exit code that is no success, or it could not be started
	TimedOut  Outcome = "timed out" // over the deadline
	Killed    Outcome = "killed"    // by a signal that was not ours
	Lost      Outcome = "lost"      // cut off by a reboot or a dead shim: nobody saw its end
)

// Result says how a run ended, on kicker.CLUSTER.result.NODE.
type Result struct {
	V        int     `json:"v"`
	Node     string  `json:"node"`
	Action   string  `json:"action"`
	Run      string  `json:"run"`
	Outcome  Outcome `json:"outcome"`
	Exit     int     `json:"exit"` // exit code; -1 where there was none
	Duration int64   `json:"duration_ms"`
	Error    string  `json:"error,omitempty"`
	Output   string  `json:"output,omitempty"` // its last 4 KiB
	// Applied is what the action now is configured from, by role.
	Applied map[string]Revision `json:"applied"`
	Dirty   bool                `json:"dirty"`
}

// Status is what a node says of its actions; it travels in the heartbeat.
type Status struct {
	Epoch      int64          `json:"epoch"`                // the highest epoch seen
	Controller string         `json:"controller,omitempty"` // and whose it was
	Actions    []ActionStatus `json:"actions,omitempty"`    // in the configuration's order
	Running    *Running       `json:"running,omitempty"`
}

// ActionStatus is one action of a node.
type ActionStatus struct {
	Name      string   `json:"name"`
	DependsOn []string `json:"depends_on,omitempty"` // roles, or selectors
	// Applied is the revision of each needed role that the action last configured itself from, with success.
	Applied map[string]Revision `json:"applied,omitempty"`
	// Dirty: a run began and has not succeeded since.
	Dirty bool     `json:"dirty,omitempty"`
	Last  *LastRun `json:"last,omitempty"`
}

// LastRun is how an action's last run ended.
type LastRun struct {
	Run      string  `json:"run"`
	Outcome  Outcome `json:"outcome"`
	Exit     int     `json:"exit"`
	Duration int64   `json:"duration_ms"`
	Failures int     `json:"failures,omitempty"` // in a row, this one included
}

// Running is the run in progress.
type Running struct {
	Run    string `json:"run"`
	Action string `json:"action"`
}

// Subjects of this package in a cluster.
func kickSubject(cluster, node string) string   { return "kicker." + cluster + ".kick." + node }
func resultSubject(cluster, node string) string { return "kicker." + cluster + ".result." + node }
