package inventory

import (
	"math/rand/v2"
	"time"
)

// minGap is the shortest time between two heartbeats on request.
const minGap = 20 * time.Millisecond

// schedule says when a node's next heartbeat is due: at an even pace, and sooner on request. Its phase is random, so
// that nodes that start together do not send together.
type schedule struct {
	every     time.Duration
	next      time.Time // of the even pace
	requested time.Time // zero: nothing is
	last      time.Time // when the last one was sent
}

// newSchedule starts with a heartbeat at once.
func newSchedule(now time.Time, every time.Duration) schedule {
	return schedule{every: every, next: now.Add(randomPart(every)), requested: now}
}

func (s *schedule) due() time.Time {
	at := s.requested
	if soonest := s.last.Add(minGap); at.Before(soonest) {
		at = soonest
	}
	if s.requested.IsZero() || s.next.Before(at) {
		return s.next
	}
	return at
}

// request requests a heartbeat at that time, unless one is requested sooner.
func (s *schedule) request(at time.Time) {
	if s.requested.IsZero() || at.Before(s.requested) {
		s.requested = at
	}
}

// sent notes that a heartbeat was sent. It fulfils every request.
func (s *schedule) sent(now time.Time) {
	s.last, s.requested = now, time.Time{}
	if !now.Before(s.next) {
		missed := now.Sub(s.next) / s.every
		s.next = s.next.Add((missed + 1) * s.every) // not from now: the phase stays
	}
}

// setEvery changes the pace. When the controller asks for that, all nodes do it at once: so the phase is random again,
// and the first heartbeat with the new pace comes after a random part of the shorter one.
func (s *schedule) setEvery(now time.Time, every time.Duration) {
	if every == s.every {
		return
	}
	s.request(now.Add(randomPart(min(s.every, every))))
	s.every, s.next = every, now.Add(randomPart(every))
}

func randomPart(d time.Duration) time.Duration { return rand.N(max(d, 1)) }
