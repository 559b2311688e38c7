package inventory

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBeatIsNeverLateNorTooSoonAfterAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		every := rapid.SampledFrom([]time.Duration{MinPace, DefaultPace, MaxPace})
		now := time.Unix(0, 0)
		r := newRhythm(now, every.Draw(t, "every"))
		var beaten, asked time.Time
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				due := r.due()
				if latest := now.Add(r.every); due.After(latest) {
					t.Fatalf("due %s after now, later than every %s", due.Sub(now), r.every)
				}
				if latest := asked.Add(minGap); !asked.IsZero() && due.After(latest) && due.After(beaten.Add(minGap)) {
					t.Fatalf("due %s after it was wanted", due.Sub(asked))
				}
				if soonest := beaten.Add(minGap); due.Before(soonest) && due.Before(r.next) {
					t.Fatalf("due %s after the beat before, want %s at least", due.Sub(beaten), minGap)
				}
			},
			"beat": func(t *rapid.T) {
				now = r.due()
				r.beaten(now)
				beaten, asked = now, time.Time{}
			},
			"beat late": func(t *rapid.T) { // the machine was suspended
				phase := r.next
				now = r.due().Add(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "suspended")))
				r.beaten(now)
				beaten, asked = now, time.Time{}
				if r.next.Sub(phase)%r.every != 0 || !r.next.After(now) {
					t.Fatalf("next beat %s after the one that was due, want a multiple of %s", r.next.Sub(phase), r.every)
				}
			},
			"ask": func(t *rapid.T) {
				at := now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "in")))
				r.ask(at)
				if asked.IsZero() || at.Before(asked) {
					asked = at
				}
			},
			"set every": func(t *rapid.T) { r.setEvery(now, every.Draw(t, "every")) },
		})
	})
}
