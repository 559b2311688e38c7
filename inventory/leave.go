package inventory

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
)

// Bounds of a LeaveStatus, so that it fits into a message whatever nodes are called.
const (
	MaxBlockers    = 20  // that are listed
	maxGates       = 4   // of a blocker
	maxText        = 200 // bytes
	maxLeaveStatus = 32 << 10
)

// LeaveStatus says how far leaving is. The controller sends it to a leaving node in an Order, and it answers DoLeave.
type LeaveStatus struct {
	V        int       `json:"v"`
	Received bool      `json:"received"`           // the controller knows that the node leaves
	Released bool      `json:"released"`           // no dependent has applied a membership with the node
	Why      string    `json:"why,omitempty"`      // why the controller releases no node at all now
	Waiting  []Blocker `json:"waiting,omitempty"`  // on which it waits, at most MaxBlockers of them
	More     int       `json:"more,omitempty"`     // how many others it waits for
	Person   bool      `json:"person,omitempty"`   // all of them wait only for a person
	Rejected string    `json:"rejected,omitempty"` // why leaving was rejected
}

// Blocker is an action that may still be configured with a leaving node.
type Blocker struct {
	Node   string `json:"node"`
	Action string `json:"action"`
	Gates  []Wait `json:"gates,omitempty"` // what it waits for; none: it is being kicked
}

// Wait is a gate that an action waits for.
type Wait struct {
	Name   string `json:"name"`
	Why    string `json:"why,omitempty"`
	Left   int64  `json:"left_ms,omitempty"` // milliseconds until it opens at the latest; 0: not known
	Person bool   `json:"person,omitempty"`  // only a person opens it
}

// Bounded returns the status with at most MaxBlockers blockers and with short texts, so that it fits into a message.
// What it leaves out it counts.
func (s LeaveStatus) Bounded() LeaveStatus {
	s.Why, s.Rejected = short200(s.Why), short200(s.Rejected)
	waiting := make([]Blocker, 0, min(len(s.Waiting), MaxBlockers))
	for _, b := range s.Waiting[:min(len(s.Waiting), MaxBlockers)] {
		gates := make([]Wait, 0, maxGates)
		for _, g := range b.Gates[:min(len(b.Gates), maxGates)] {
			g.Why = short200(g.Why)
			gates = append(gates, g)
		}
		b.Gates = gates
		waiting = append(waiting, b)
	}
	s.More += len(s.Waiting) - len(waiting)
	s.Waiting = waiting
	for len(s.Waiting) > 1 && len(encode(s)) > maxLeaveStatus {
		s.Waiting = s.Waiting[:len(s.Waiting)-1]
		s.More++
	}
	return s
}

// short200 is a text without control characters, cut to maxText bytes.
func short200(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// maxOrdered bounds how many orders to leave, and how many nodes that are gone, an inventory remembers.
const maxOrdered = 10_000

// bounded sets a key of a map, and first drops another one if there are too many.
func bounded(m map[string]string, key, value string) {
	if _, known := m[key]; !known && len(m) >= maxOrdered {
		for other := range m {
			delete(m, other)
			break
		}
	}
	m[key] = value
}

// standsIn reports whether a heartbeat comes from a `kicker leave` in place of an agent that does not run.
func (b *Beat) standsIn() bool { return b.Leaving && b.Facts == "" }

// Agent is the run of a node's agent that reported the node.
func (n *Node) Agent() string { return n.agent }

// Leave makes a node leave, whatever its life, because a person ordered it. The node stays away until another run of its
// agent reports it. That also holds for a node that is gone: then there is no change, and there is false.
func (inv *Inventory) Leave(name string, at time.Time) (change Change, there bool) {
	inv.leases.mu.Lock()
	defer inv.leases.mu.Unlock()
	before := inv.node(name)
	if before == nil {
		if agent, known := inv.former[name]; known {
			bounded(inv.ordered, name, agent)
		}
		return Change{}, false
	}
	bounded(inv.ordered, name, before.agent)
	after := *before
	after.Life = Left
	if before.Life != Left {
		after.Since = at
	}
	inv.put(&after)
	inv.leases.byNode[name].beat = nil // its next heartbeat shows whether it knows
	return Change{Before: before, After: &after, Why: "ordered"}, true
}

// Left reports whether a node is remembered as one that was ordered to leave, or is gone.
func (inv *Inventory) Left(name string) bool {
	_, ordered := inv.ordered[name]
	_, former := inv.former[name]
	return ordered || former
}

// staysAway reports whether a heartbeat comes from the run of an agent that was ordered to leave. The order ends when
// another run reports the node.
func (inv *Inventory) staysAway(b *Beat) bool {
	delete(inv.former, b.Node)
	agent, ordered := inv.ordered[b.Node]
	if ordered && agent != b.Agent && !b.standsIn() {
		delete(inv.ordered, b.Node)
	}
	return ordered && agent == b.Agent
}

// TellLeaving tells a leaving node how far it is. agent is the run of the agent that leaves.
func TellLeaving(nc *nats.Conn, cluster, node, agent string, status LeaveStatus) error {
	status.V = Version
	status = status.Bounded()
	return publish(nc, nodeSubject(cluster, node), Order{V: Version, Do: DoStatus, Agent: agent, Status: &status})
}

// OrderLeave makes a run of a node's agent leave. last says that the node's roles may become empty.
func OrderLeave(nc *nats.Conn, cluster, node, agent string, last bool) error {
	return publish(nc, nodeSubject(cluster, node), Order{V: Version, Do: DoLeave, Agent: agent, Last: last})
}

// RequestLeave makes a node leave, and returns how far it is. It can be called again to follow the progress. last says
// that the node's roles may become empty.
func RequestLeave(ctx context.Context, nc *nats.Conn, cluster, node string, last bool) (LeaveStatus, error) {
	var status LeaveStatus
	order := Order{V: Version, Do: DoLeave, Last: last}
	err := request(ctx, nc, node, leaveSubject(cluster, node), order, &status, &status.V)
	if err == nil && status.Rejected != "" {
		err = fmt.Errorf("rejected: %s", status.Rejected)
	}
	if err != nil {
		return status, fmt.Errorf("leave %s: %w", node, err)
	}
	return status, nil
}
