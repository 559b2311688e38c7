package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Version is the version of every message in this package. A message of another version is refused.
const Version = 2

// Limits of what is taken from the bus.
const (
	MaxBeat  = 64 << 10 // bytes of a heartbeat
	MaxFacts = 1 << 20  // bytes of a facts message
)

// Conn is a connection to the bus, as the broker's own events name it.
type Conn struct {
	Server string `json:"server"` // the broker's id
	Client uint64 `json:"client"` // the client's id at that broker
}

// Beat is a heartbeat, on kicker.CLUSTER.heartbeat.NODE. One that says nothing new is byte for byte the node's last one.
type Beat struct {
	V        int    `json:"v"`
	Node     string `json:"node"`
	Instance string `json:"instance"` // which machine bears the name
	Boot     string `json:"boot"`     // which boot of it
	Conn     Conn   `json:"conn"`
	Facts    string `json:"facts"` // digest of the node's facts, see Digest
	Ready    bool   `json:"ready"`
	NotReady string `json:"not_ready,omitempty"` // why not
	// Checking is that it is not known yet whether the node is ready: if it was in this boot, it is.
	Checking bool `json:"checking,omitempty"`
	// Leaving is the goodbye: alive, but not a member any more.
	Leaving bool `json:"leaving,omitempty"`
	// BackWithin is "back soon": the agent stops, and means to be back within this many milliseconds.
	RestartWithin int64 `json:"restart_within_ms,omitempty"`
	NextIn        int64 `json:"next_in_ms"` // milliseconds until the next beat
	// Kick is what the node says of its actions, see kick.Status. This package only carries it.
	Kick json.RawMessage `json:"kick,omitempty"`
}

// FactsMessage carries all facts of a node, on kicker.CLUSTER.facts.NODE: when they changed or were asked for.
type FactsMessage struct {
	V        int    `json:"v"`
	Node     string `json:"node"`
	Instance string `json:"instance"`
	Boot     string `json:"boot"`
	Facts    Facts  `json:"facts"`
}

// Facts are what a node says of itself: JSON values by name, nested where the source nests them.
type Facts map[string]any

// Digest identifies facts: equal facts have equal digests.
func (f Facts) Digest() string {
	b, err := json.Marshal(f) // map keys are sorted
	if err != nil {
		panic(fmt.Sprintf("inventory: facts that are no JSON: %v", err)) // facts come from JSON or are built from JSON values
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12])
}

// Beacon is what the controller says to everyone, on kicker.CLUSTER.controller.
type Beacon struct {
	V     int    `json:"v"`
	ID    string `json:"id"`      // which run of which controller speaks
	Epoch int64  `json:"epoch"`   // nodes obey the highest
	Pace  int64  `json:"pace_ms"` // milliseconds between two beats of a node
	API   string `json:"api,omitempty"`
}

// Rollcall asks every node to beat now, on kicker.CLUSTER.report.
type ReportRequest struct {
	V     int   `json:"v"`
	Splay int64 `json:"splay_ms"` // each node waits a random part of this first
}

// Order is what is asked of one node: by the controller on kicker.CLUSTER.node.NODE, by its own command line on kicker.CLUSTER.leave.NODE.
type Order struct {
	V       int      `json:"v"`
	Do      string   `json:"do"`                // one of the Do constants
	Targets []string `json:"targets,omitempty"` // DoReach: HOST:PORT
}

// What an Order can ask.
const (
	DoBeat  = "beat"  // beat now
	DoFacts = "facts" // send all facts now
	DoProbe = "probe" // try to connect; answered with an Opinion
	DoLeave = "leave" // say goodbye; answered with a Farewell
)

// Farewell says how far a goodbye has come: the controller's answer to the beat of a leaving node, and the node's answer to DoLeave.
type LeaveStatus struct {
	V        int      `json:"v"`
	Received bool     `json:"received"`           // the controller knows that the node leaves
	Released bool     `json:"released"`           // every dependent has applied a membership without the node
	Waiting  []string `json:"waiting,omitempty"`  // NODE/ACTION of those that have not
	Rejected string   `json:"rejected,omitempty"` // why the order was refused
}

// Opinion is what a node says of others: which of those that it was asked about it can connect to.
type ProbeReply struct {
	V       int      `json:"v"`
	Reached []string `json:"reached"`
}

// MaxReach is how many others a node is asked about at once.
const MaxTargets = 32

// Subjects of this package in a cluster.
func heartbeatSubject(cluster, node string) string { return "kicker." + cluster + ".heartbeat." + node }
func factsSubject(cluster, node string) string     { return "kicker." + cluster + ".facts." + node }
func reportSubject(cluster string) string          { return "kicker." + cluster + ".report" }
func nodeSubject(cluster, node string) string      { return "kicker." + cluster + ".node." + node }
func leaveSubject(cluster, node string) string     { return "kicker." + cluster + ".leave." + node }
func beaconSubject(cluster string) string          { return "kicker." + cluster + ".controller" }

// decodeBeat reads a heartbeat that came for the node that the subject names.
func decodeBeat(node string, data []byte) (Beat, error) {
	var b Beat
	if len(data) > MaxBeat {
		return b, fmt.Errorf("heartbeat of %s: %d bytes, more than %d", node, len(data), MaxBeat)
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return b, fmt.Errorf("heartbeat of %s: %w", node, err)
	}
	if err := checkSender(b.V, b.Node, node, b.Instance, b.Boot); err != nil {
		return b, fmt.Errorf("heartbeat of %s: %w", node, err)
	}
	if b.NextIn <= 0 || b.NextIn > MaxPace.Milliseconds() || b.RestartWithin < 0 {
		return b, fmt.Errorf("heartbeat of %s: next_in_ms %d, restart_within_ms %d: out of range", node, b.NextIn, b.RestartWithin)
	}
	return b, nil
}

// decodeFacts reads a facts message that came for the node that the subject names.
func decodeFacts(node string, data []byte) (FactsMessage, error) {
	var m FactsMessage
	if len(data) > MaxFacts {
		return m, fmt.Errorf("facts of %s: %d bytes, more than %d", node, len(data), MaxFacts)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("facts of %s: %w", node, err)
	}
	if err := checkSender(m.V, m.Node, node, m.Instance, m.Boot); err != nil {
		return m, fmt.Errorf("facts of %s: %w", node, err)
	}
	if m.Facts == nil {
		m.Facts = Facts{} // known to be none
	}
	return m, nil
}

func checkSender(v int, said, subject, instance, boot string) error {
	switch {
	case v != Version:
		return fmt.Errorf("version %d, want %d", v, Version)
	case said != subject:
		return fmt.Errorf("it names node %q", said)
	case instance == "" || boot == "":
		return errors.New("no instance or no boot")
	}
	return CheckName(said)
}

// CheckName reports why name can't be a node's or a cluster's: names are dot-separated tokens of [a-z0-9_-] and at most
// 253 bytes, so that one stands at the end of a subject as it is. Those that start with "_" are kicker's own.
func CheckName(name string) error {
	if name == "" || len(name) > 253 {
		return fmt.Errorf("name %.20q: must have 1 to 253 characters", name)
	}
	if name[0] == '_' {
		return fmt.Errorf("name %q: names that start with _ are reserved", name)
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" {
			return fmt.Errorf("name %q: empty part between dots", name)
		}
		for _, c := range []byte(token) {
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
				return fmt.Errorf("name %q: %q is not allowed, only a-z 0-9 _ - and dots between", name, c)
			}
		}
	}
	return nil
}
