package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Version is the version of every message in this package. A message of another version is invalid.
const Version = 2

// Limits of messages, in bytes.
const (
	maxMessage = 64 << 10
	maxBeat    = 960 << 10 // of a Beat; the status of many actions is the largest part
	maxFacts   = 1 << 20   // of a FactsMessage; no more than the bus takes
	maxReason  = 1 << 10   // of Beat.NotReady
)

// Conn is a connection to the bus, as the server's own events name it.
type Conn struct {
	Server string `json:"server"` // the server's id
	Client uint64 `json:"client"` // the client's id at that server
}

// Beat is a heartbeat, on kicker.CLUSTER.heartbeat.NODE. One that says nothing new repeats the last byte for byte.
type Beat struct {
	V             int    `json:"v"`
	Node          string `json:"node"`
	Instance      string `json:"instance"` // which machine has the name
	Boot          string `json:"boot"`     // which boot of that machine
	Agent         string `json:"agent"`    // which run of its agent
	Conn          Conn   `json:"conn"`
	Facts         string `json:"facts"` // digest of the node's facts, see Facts.Digest; "": unchanged, and it leaves
	Ready         bool   `json:"ready"`
	NotReady      string `json:"not_ready,omitempty"`         // why not
	Checking      bool   `json:"checking,omitempty"`          // not known yet; a ready node stays ready in its boot
	Leaving       bool   `json:"leaving,omitempty"`           // alive, but not a member any more
	LeavingLast   bool   `json:"leaving_last,omitempty"`      // its roles may become empty
	RestartWithin int64  `json:"restart_within_ms,omitempty"` // the agent stops; milliseconds until it is back
	NextIn        int64  `json:"next_in_ms"`                  // milliseconds until the next heartbeat

	Kick json.RawMessage `json:"kick,omitempty"` // status of the node's actions, see kick.Status; only passed on
}

// FactsMessage carries all facts of a node, on kicker.CLUSTER.facts.NODE: when they changed or were requested.
type FactsMessage struct {
	V        int    `json:"v"`
	Node     string `json:"node"`
	Instance string `json:"instance"`
	Boot     string `json:"boot"`
	Facts    Facts  `json:"facts"`
}

// Beacon announces a controller to all nodes and controllers, on kicker.CLUSTER.controller.
type Beacon struct {
	V     int    `json:"v"`
	ID    string `json:"id"`      // of one run of one controller
	Epoch int64  `json:"epoch"`   // nodes obey the highest; 0 asks which controller leads
	Pace  int64  `json:"pace_ms"` // milliseconds between two heartbeats of a node
	API   string `json:"api,omitempty"`
}

// ReportRequest asks every node for a heartbeat, on kicker.CLUSTER.report.
type ReportRequest struct {
	V     int   `json:"v"`
	Splay int64 `json:"splay_ms"` // each node waits for a random part of this first
}

// Order asks one node for something, on kicker.CLUSTER.node.NODE or, DoLeave of the node itself, on
// kicker.CLUSTER.leave.NODE.
type Order struct {
	V       int          `json:"v"`
	Do      string       `json:"do"`                // one of the Do constants
	Agent   string       `json:"agent,omitempty"`   // only for this run of the agent
	Targets []string     `json:"targets,omitempty"` // of DoProbe: HOST:PORT, at most MaxTargets
	Last    bool         `json:"last,omitempty"`    // of DoLeave: the node's roles may become empty
	Status  *LeaveStatus `json:"status,omitempty"`  // of DoStatus
}

// What an Order can ask for.
const (
	DoBeat   = "beat"         // a heartbeat
	DoFacts  = "facts"        // all facts
	DoProbe  = "probe"        // to connect to each target; the answer is a ProbeReply
	DoLeave  = "leave"        // to leave; the answer is a LeaveStatus
	DoStatus = "leave status" // nothing: it says how far leaving is
)

// MaxTargets is how many targets an Order can have.
const MaxTargets = 32

// ProbeReply says which targets accept a connection from the node.
type ProbeReply struct {
	V       int      `json:"v"`
	Reached []string `json:"reached"`
}

// VersionError is the error for a message of another version: its node runs another release of kicker.
type VersionError struct {
	Node    string
	Version int
}

func (e *VersionError) Error() string {
	upgrade := "kicker on " + e.Node
	if e.Version > Version {
		upgrade = "this program"
	}
	return fmt.Sprintf("%s: upgrade %s", otherVersion(e.Version), upgrade)
}

func otherVersion(v int) string {
	return fmt.Sprintf("message version %d, this program speaks version %d", v, Version)
}

// Subjects of this package in a cluster.
func heartbeatSubject(cluster, node string) string { return "kicker." + cluster + ".heartbeat." + node }
func factsSubject(cluster, node string) string     { return "kicker." + cluster + ".facts." + node }
func reportSubject(cluster string) string          { return "kicker." + cluster + ".report" }
func nodeSubject(cluster, node string) string      { return "kicker." + cluster + ".node." + node }
func leaveSubject(cluster, node string) string     { return "kicker." + cluster + ".leave." + node }
func beaconSubject(cluster string) string          { return "kicker." + cluster + ".controller" }

// ErrNoAgent is the error for a request to a node that has no agent on the bus.
var ErrNoAgent = errors.New("no agent of that name is on the bus")

// SendBeacon announces a controller to a cluster.
func SendBeacon(nc *nats.Conn, cluster string, b Beacon) error {
	b.V = Version
	return publish(nc, beaconSubject(cluster), b)
}

// RequestReports asks every node of a cluster for a heartbeat within splay.
func RequestReports(nc *nats.Conn, cluster string, splay time.Duration) error {
	return publish(nc, reportSubject(cluster), ReportRequest{V: Version, Splay: splay.Milliseconds()})
}

// Ask asks one node for a heartbeat (DoBeat) or its facts (DoFacts).
func Ask(nc *nats.Conn, cluster, node, do string) error {
	return publish(nc, nodeSubject(cluster, node), Order{V: Version, Do: do})
}

func publish(nc *nats.Conn, subject string, message any) error {
	if err := nc.Publish(subject, encode(message)); err != nil {
		return fmt.Errorf("send to %s: %w", subject, err)
	}
	return nil
}

// Probe asks a node to connect to each target, HOST:PORT, and returns those that accept, within two seconds.
func Probe(ctx context.Context, nc *nats.Conn, cluster, node string, targets []string) ([]string, error) {
	var p ProbeReply
	order := Order{V: Version, Do: DoProbe, Targets: targets}
	if err := request(ctx, nc, node, nodeSubject(cluster, node), order, &p, &p.V); err != nil {
		return nil, fmt.Errorf("probe from %s: %w", node, err)
	}
	return p.Reached, nil
}

// request sends an order to a node and decodes its answer, and the answer's version into v.
func request(ctx context.Context, nc *nats.Conn, node, subject string, o Order, answer any, v *int) error {
	m, err := nc.RequestWithContext(ctx, subject, encode(o))
	if errors.Is(err, nats.ErrNoResponders) {
		return ErrNoAgent
	}
	if err != nil {
		return err
	}
	return decode(node, m.Data, maxMessage, answer, v)
}

func encode(message any) []byte {
	data, err := json.Marshal(message)
	if err != nil {
		panic(fmt.Sprintf("inventory: encode %T: %v", message, err)) // messages are built from JSON values
	}
	return data
}

// decode decodes a message and checks its version, v. node is the sender, "" if it is a controller.
func decode(node string, data []byte, limit int, message any, v *int) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(data), limit)
	}
	err := json.Unmarshal(data, message)
	if *v > 0 && *v != Version { // also if its other keys have other types
		if CheckName(node) != nil {
			return errors.New(otherVersion(*v))
		}
		return &VersionError{node, *v}
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("unexpected JSON %s at key %q", wrong.Value, wrong.Field)
	}
	if err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	if *v != Version {
		return errors.New("it has no version")
	}
	return nil
}

// decodeBeat decodes a heartbeat, on the subject of node.
func decodeBeat(node string, data []byte) (*Beat, error) {
	var b Beat
	err := decode(node, data, maxBeat, &b, &b.V)
	if err == nil {
		err = checkSender(node, b.Node, b.Instance, b.Boot)
	}
	if err == nil && (b.NextIn <= 0 || b.NextIn > maxPace.Milliseconds() || b.RestartWithin < 0) {
		err = fmt.Errorf("next_in_ms %d, restart_within_ms %d: out of range", b.NextIn, b.RestartWithin)
	}
	return valid("heartbeat of "+node, &b, err)
}

// decodeFacts decodes a facts message, on the subject of node.
func decodeFacts(node string, data []byte) (*FactsMessage, error) {
	m := FactsMessage{}
	err := decode(node, data, maxFacts, &m, &m.V)
	if err == nil {
		err = checkSender(node, m.Node, m.Instance, m.Boot)
	}
	if m.Facts == nil {
		m.Facts = Facts{} // known to be none
	}
	return valid("facts of "+node, &m, err)
}

func decodeBeacon(data []byte) (*Beacon, error) {
	var b Beacon
	err := decode("", data, maxMessage, &b, &b.V)
	if err == nil && (b.ID == "" || b.Epoch < 0 || b.Epoch > maxEpoch) {
		err = fmt.Errorf("id %.20q, epoch %d: out of range", b.ID, b.Epoch)
	}
	return valid("beacon", &b, err)
}

// valid returns a message, or why it is invalid.
func valid[M any](what string, message *M, err error) (*M, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return message, nil
}

// checkSender checks what a message on the subject of node says about its sender.
func checkSender(node, name, instance, boot string) error {
	switch {
	case name != node:
		return fmt.Errorf("it names node %q", name)
	case instance == "" || boot == "":
		return errors.New("it names no instance or no boot")
	}
	return CheckName(name)
}

// CheckName reports why a node or a cluster can't have a name: dot-separated parts of [a-z0-9_-], at most 253 bytes.
// Names that start with "_" are kicker's own.
func CheckName(name string) error {
	if name == "" || len(name) > 253 {
		return fmt.Errorf("name %.20q: want 1 to 253 characters", name)
	}
	if name[0] == '_' {
		return fmt.Errorf("name %q: names that start with _ are reserved", name)
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" {
			return fmt.Errorf("name %q: empty part between dots", name)
		}
		for _, c := range []byte(part) {
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
				return fmt.Errorf("name %q: %q is not allowed, only a-z 0-9 _ - and dots between", name, c)
			}
		}
	}
	return nil
}

// CheckCluster is CheckName for a cluster. A dot would make its name two tokens of a subject, and the bus's permissions
// expect one.
func CheckCluster(name string) error {
	if strings.Contains(name, ".") {
		return fmt.Errorf("name %q: the name of a cluster has no dots, use - instead", name)
	}
	return CheckName(name)
}
