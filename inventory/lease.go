package inventory

import (
	"bytes"
	"sync"
	"time"
)

// returnWithin is how long after it was blind the listener waits for those that come back one after the other.
const returnWithin = 2 * time.Minute

// leases says who was heard last, when, and with which bytes. The bus's goroutine renews them, the inventory's owner reads them and
// writes them when a beat says something new: this is the one lock of the package, and apart from the rows that readers wait on.
type leases struct {
	mu     sync.Mutex
	byNode map[string]*lease
	canary time.Time // when the newest canary came back

	anew    time.Time // every lease began no earlier
	blind   time.Time // nobody was heard before, for all that silence proves
	unheard int       // nodes that were not heard since
}

type lease struct {
	beat  []byte // the last one, whole; nil when the same bytes again would say something new
	heard time.Time
	next  time.Duration // between two beats
}

// same renews the lease of a node that says nothing new, and reports whether that is so.
func (l *leases) same(node string, beat []byte, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.byNode[node]
	if held == nil || !bytes.Equal(held.beat, beat) {
		return false
	}
	held.heard = now
	return true
}

func (l *leases) renew(node string, beat []byte, now time.Time, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byNode[node] = &lease{beat: beat, heard: now, next: next}
}

func (l *leases) renewAll(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.canary, l.anew = now, now
}

// wasBlind is that nothing can be told from silence until now.
func (l *leases) wasBlind(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blind = now
	l.unheard = l.countUnheard()
}

// returning reports whether nodes were heard again, since it was asked last, that had not been since the listener was blind: then others
// may be on their way, for a bus that was restarted takes thousands of connections one after the other.
func (l *leases) returning(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unheard == 0 || now.Sub(l.blind) > returnWithin {
		return false
	}
	before := l.unheard
	l.unheard = l.countUnheard()
	return l.unheard < before
}

func (l *leases) countUnheard() int {
	n := 0
	for _, held := range l.byNode {
		if held.heard.Before(l.blind) {
			n++
		}
	}
	return n
}

// silent is for how long a node has been silent, as far as that is known.
func (l *leases) silent(held *lease) time.Duration {
	if held.heard.Before(l.anew) {
		return l.canary.Sub(l.anew)
	}
	return l.canary.Sub(held.heard)
}

func (l *leases) forgetBeat(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := l.byNode[node]; held != nil {
		held.beat = nil
	}
}

func (l *leases) drop(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byNode, node)
}

func (l *leases) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byNode)
}

// late reports whether a node missed a beat.
func (l *leases) late(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.byNode[node]
	return held == nil || l.silent(held) > held.suspectAfter()
}

// silence is a node that missed beats.
type silence struct {
	node  string
	since time.Duration
	least time.Duration // for which it has to be silent, whatever its bound
}

// missed is who missed beats, up to the canary that came back now.
func (l *leases) missed(canary time.Time) []silence {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.canary = canary
	var silent []silence
	for node, held := range l.byNode {
		if since := l.silent(held); since > held.suspectAfter() {
			silent = append(silent, silence{node, since, held.next * 7 / 2})
		}
	}
	return silent
}

// suspectAfter is two and a half beats.
func (l *lease) suspectAfter() time.Duration { return l.next * 5 / 2 }
