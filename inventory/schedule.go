package inventory

import (
	"math/rand/v2"
	"time"
)

// minGap is the least time between two beats, whatever happens.
const minGap = 20 * time.Millisecond

// rhythm says when a node's next beat is due: every so often, at a phase of its own so that nodes that started together do not beat
// together, and in between when asked.
type rhythm struct {
	every time.Duration
	next  time.Time // in any case
	early time.Time // before that, if not zero
	last  time.Time
}

// newRhythm begins with a beat at once.
func newRhythm(now time.Time, every time.Duration) rhythm {
	return rhythm{every: every, next: now.Add(upTo(every)), early: now}
}

func (r *rhythm) due() time.Time {
	if r.early.IsZero() {
		return r.next
	}
	at := r.early
	if soonest := r.last.Add(minGap); at.Before(soonest) {
		at = soonest
	}
	if r.next.Before(at) {
		return r.next
	}
	return at
}

// ask asks for a beat at that time, unless one comes sooner.
func (r *rhythm) ask(at time.Time) {
	if r.early.IsZero() || at.Before(r.early) {
		r.early = at
	}
}

// beaten says that a beat was made, which does for all that was asked.
func (r *rhythm) beaten(now time.Time) {
	r.last, r.early = now, time.Time{}
	if !now.Before(r.next) {
		missed := now.Sub(r.next) / r.every
		r.next = r.next.Add((missed + 1) * r.every) // from its own past, so that it doesn't drift
	}
}

// setEvery changes the time between beats. All nodes do so at once when the controller asks for it: hence a new phase, and a random
// part of the shorter time until the beat that tells.
func (r *rhythm) setEvery(now time.Time, every time.Duration) {
	if every == r.every {
		return
	}
	r.ask(now.Add(upTo(min(r.every, every))))
	r.every, r.next = every, now.Add(upTo(every))
}

// upTo is a random part of d.
func upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}
