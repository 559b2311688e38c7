package controller

import (
	"testing"
	"time"
)

func TestBackoffDoublesWithJitterAndIsBounded(t *testing.T) {
	cfg := DefaultConfig().Backoff
	delays := map[time.Duration]bool{}
	for range 20 {
		m := &memory{}
		want := cfg.Initial
		for n := range 200 {
			m.failed(cfg, noon, "it failed")
			delay := m.notBefore.Sub(noon)
			if least, most := want*8/10, min(want*12/10, cfg.Max); delay < least || delay > most {
				t.Fatalf("after failure %d it waits %s, want %s to %s", n+1, delay, least, most)
			}
			want = min(2*want, cfg.Max)
			if n == 0 {
				delays[delay] = true
			}
		}
		if m.failures != 200 || m.why != "it failed" {
			t.Errorf("%d failures (%s) are remembered, want 200", m.failures, m.why)
		}
	}
	if len(delays) < 10 {
		t.Errorf("20 nodes that fail together try again at only %d different moments", len(delays))
	}
}

func TestSuccessForgetsTheFailures(t *testing.T) {
	cfg := DefaultConfig().Backoff
	m := &memory{}
	for range 10 {
		m.failed(cfg, noon, "it failed")
	}
	m.succeeded()
	if m.failures != 0 || !m.notBefore.IsZero() || m.why != "" {
		t.Errorf("%+v is remembered after a success", m)
	}
	m.failed(cfg, noon, "it failed")
	if delay := m.notBefore.Sub(noon); delay > 2*cfg.Initial {
		t.Errorf("the first failure after a success waits %s", delay)
	}
}

func TestNewNeedsMayBeTriedSoonerThoughNotAtOnce(t *testing.T) {
	cfg := BackoffConfig{Initial: 5 * time.Second, Max: 10 * time.Minute}
	for _, c := range []struct {
		claim string
		m     memory
		want  time.Time
	}{
		{"a long backoff is cut to the floor", memory{failures: 1, tried: "1-a", sent: ago(time.Second), notBefore: in(time.Minute)}, in(4 * time.Second)},
		{"whether or not the last kick was accepted", memory{failures: 1, sent: noon, kicked: ago(time.Hour), notBefore: in(time.Minute)}, in(5 * time.Second)},
		{"a short one stays", memory{failures: 1, tried: "1-a", sent: noon, notBefore: in(time.Second)}, in(time.Second)},
		{"none stays none", memory{failures: 1, tried: "1-a", sent: noon}, time.Time{}},
		{"what failed waits as long as it must", memory{failures: 1, tried: "1-b", sent: ago(time.Second), notBefore: in(time.Minute)}, in(time.Minute)},
		{"a node that is not asked again yet, but did not fail, too", memory{tried: "1-a", sent: ago(time.Minute), notBefore: in(time.Second)}, in(time.Second)},
	} {
		t.Run(c.claim, func(t *testing.T) {
			if got := c.m.next(cfg, "1-b"); got != c.want {
				t.Errorf("not before %s, want %s", got, c.want)
			}
		})
	}
}
