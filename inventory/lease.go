package inventory

import (
	"bytes"
	"sync"
	"time"
)

// reconnectWithin is how long after missed messages nodes may still reconnect one by one.
const reconnectWithin = 2 * time.Minute

// leases keeps each node's last heartbeat and when it was received. The listener's goroutine renews leases, and
// Inventory.Apply does everything else. Hence the lock.
type leases struct {
	mu     sync.Mutex
	byNode map[string]*lease
	canary time.Time // canary time

	renewed      time.Time // silence counts from here at the earliest
	missed       time.Time // messages sent before this may have been missed
	reconnecting bool      // a node has sent its first heartbeat after missed since the last canary
}

type lease struct {
	beat     []byte        // the last heartbeat; nil: the same bytes again would say something new
	received time.Time     // when
	next     time.Duration // after which the node sends the next
	deadline time.Time     // the canary time at which it is gone: after a disconnect or its agent's stop; zero: none
	overdue  string        // why it is gone then
}

// renewSame renews a node's lease if its heartbeat says nothing new, and reports whether that is so.
func (l *leases) renewSame(node string, beat []byte, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.byNode[node]
	if held == nil || !bytes.Equal(held.beat, beat) {
		return false
	}
	l.noteReport(held)
	held.received = now
	return true
}

// forgetBeat makes the node's next heartbeat say something new, even if it repeats the last one.
func (l *leases) forgetBeat(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := l.byNode[node]; held != nil {
		held.beat = nil
	}
}

// noteReport notes that a node sends another heartbeat. If it is the first one after missed messages, others may
// follow: a restarted bus accepts thousands of connections one by one.
func (l *leases) noteReport(held *lease) {
	l.reconnecting = l.reconnecting || held.received.Before(l.missed)
}

// silence is how long a node has been silent, as far as canary time proves, and whether a heartbeat is missing.
func (l *leases) silence(held *lease) (silence time.Duration, late bool) {
	since := held.received
	if since.Before(l.renewed) {
		since = l.renewed
	}
	silence = l.canary.Sub(since)
	return silence, silence > held.next*5/2
}
