package inventory

import (
	"bytes"
	"sync"
	"time"
)

// reconnectWithin is how long after missed messages nodes may still reconnect one by one.
const reconnectWithin = 2 * time.Minute

// leases keeps each node's last heartbeat and when it was received. The listener's goroutine renews leases. The owner
// of the inventory reads them, and replaces one when a heartbeat says something new. Hence the lock.
type leases struct {
	mu     sync.Mutex
	byNode map[string]*lease
	canary time.Time // canary time

	renewed    time.Time // silence counts from here at the earliest
	missed     time.Time // messages sent before this may have been missed
	unreported int       // nodes without a heartbeat since missed
}

type lease struct {
	beat     []byte        // the last heartbeat; nil: the same bytes again would say something new
	received time.Time     // when
	next     time.Duration // after which the node sends the next
}

// renewSame renews a node's lease if its heartbeat says nothing new, and reports whether that is so.
func (l *leases) renewSame(node string, beat []byte, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.byNode[node]
	if held == nil || !bytes.Equal(held.beat, beat) {
		return false
	}
	held.received = now
	return true
}

func (l *leases) replace(node string, beat []byte, now time.Time, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byNode[node] = &lease{beat: beat, received: now, next: next}
}

func (l *leases) renewAll(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.canary, l.renewed = now, now
}

// noteMissed notes that messages may have been missed until now.
func (l *leases) noteMissed(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missed = now
	l.unreported = l.countUnreported()
}

// reconnecting reports whether nodes have sent their first heartbeat after missed messages since the last call. Then
// others may follow: a restarted bus accepts thousands of connections one by one.
func (l *leases) reconnecting(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unreported == 0 || now.Sub(l.missed) > reconnectWithin {
		return false
	}
	before := l.unreported
	l.unreported = l.countUnreported()
	return l.unreported < before
}

func (l *leases) countUnreported() int {
	n := 0
	for _, held := range l.byNode {
		if held.received.Before(l.missed) {
			n++
		}
	}
	return n
}

// silence is how long a node has been silent, as far as canary time proves.
func (l *leases) silence(held *lease) time.Duration {
	if held.received.Before(l.renewed) {
		return l.canary.Sub(l.renewed)
	}
	return l.canary.Sub(held.received)
}

func (l *leases) forgetBeat(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := l.byNode[node]; held != nil {
		held.beat = nil
	}
}

func (l *leases) remove(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byNode, node)
}

func (l *leases) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byNode)
}

// late reports whether a node's heartbeat is missing.
func (l *leases) late(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.byNode[node]
	return held == nil || l.silence(held) > held.suspectAfter()
}

// silentNode is a node whose heartbeats are missing.
type silentNode struct {
	name    string
	silence time.Duration
	atLeast time.Duration // the silence after which it may be gone, at its pace
}

// silentNodes moves canary time forward and returns the nodes whose heartbeats are missing.
func (l *leases) silentNodes(canary time.Time) []silentNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.canary = canary
	var silent []silentNode
	for name, held := range l.byNode {
		if silence := l.silence(held); silence > held.suspectAfter() {
			silent = append(silent, silentNode{name, silence, held.next * 7 / 2})
		}
	}
	return silent
}

// suspectAfter is two and a half heartbeats.
func (l *lease) suspectAfter() time.Duration { return l.next * 5 / 2 }
