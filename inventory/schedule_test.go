package inventory

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNextHeartbeatIsNeitherLateNorTooSoon(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		every := rapid.SampledFrom([]time.Duration{minPace, defaultPace, maxPace})
		now := time.Unix(0, 0)
		s := newSchedule(now, every.Draw(t, "every"))
		var last, requested time.Time
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				due := s.due()
				if latest := now.Add(s.every); due.After(latest) {
					t.Fatalf("due in %s, want at most %s", due.Sub(now), s.every)
				}
				if latest := requested.Add(minGap); !requested.IsZero() && due.After(latest) &&
					due.After(last.Add(minGap)) {
					t.Fatalf("due %s after it was requested", due.Sub(requested))
				}
				if soonest := last.Add(minGap); due.Before(soonest) && due.Before(s.next) {
					t.Fatalf("due %s after the last one, want at least %s", due.Sub(last), minGap)
				}
			},
			"send": func(t *rapid.T) {
				now = s.due()
				s.sent(now)
				last, requested = now, time.Time{}
			},
			"send late": func(t *rapid.T) { // the machine was suspended
				phase := s.next
				now = s.due().Add(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "suspended")))
				s.sent(now)
				last, requested = now, time.Time{}
				if s.next.Sub(phase)%s.every != 0 || !s.next.After(now) {
					t.Fatalf("next one %s after the due one, want a multiple of %s", s.next.Sub(phase), s.every)
				}
			},
			"request": func(t *rapid.T) {
				at := now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "in")))
				s.request(at)
				if requested.IsZero() || at.Before(requested) {
					requested = at
				}
			},
			"set every": func(t *rapid.T) { s.setEvery(now, every.Draw(t, "every")) },
		})
	})
}
