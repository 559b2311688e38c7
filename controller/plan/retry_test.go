package plan_test

import (
	"testing"
	"time"

	"kicker/controller/plan"
)

func TestBackoffDoublesWithJitterAndIsBounded(t *testing.T) {
	cfg := plan.DefaultConfig.Backoff
	delays := map[time.Duration]bool{}
	for range 20 {
		r := &plan.Retry{}
		want := cfg.Initial
		for n := range 200 {
			r.Failed(cfg, noon, "it failed")
			delay := r.NotBefore.Sub(noon)
			if least, most := want*8/10, min(want*12/10, cfg.Max); delay < least || delay > most {
				t.Fatalf("after failure %d it waits %s, want %s to %s", n+1, delay, least, most)
			}
			want = min(2*want, cfg.Max)
			if n == 0 {
				delays[delay] = true
			}
		}
		if r.Failures != 200 || r.Why != "it failed" {
			t.Errorf("there are %d failures (%s), want 200", r.Failures, r.Why)
		}
	}
	if len(delays) < 10 {
		t.Errorf("20 nodes that fail together try again at only %d different times", len(delays))
	}
}

func TestSuccessClearsTheFailures(t *testing.T) {
	cfg := plan.DefaultConfig.Backoff
	r := &plan.Retry{}
	for range 10 {
		r.Failed(cfg, noon, "it failed")
	}
	r.Succeeded()
	if r.Failures != 0 || !r.NotBefore.IsZero() || r.Why != "" {
		t.Errorf("after a success there is %+v", r)
	}
	r.Failed(cfg, noon, "it failed")
	if delay := r.NotBefore.Sub(noon); delay > 2*cfg.Initial {
		t.Errorf("the first failure after a success waits %s", delay)
	}
}

func TestOtherMembershipsAreTriedSoonerButNotAtOnce(t *testing.T) {
	cfg := plan.BackoffConfig{Initial: 5 * time.Second, Max: 10 * time.Minute}
	accepted := func(r plan.Retry, sent time.Time) plan.Retry {
		r.Accepted(&plan.Flight{Sent: sent})
		return r
	}
	for _, test := range []struct {
		claim string
		r     plan.Retry
		want  time.Time
	}{
		{"a long backoff ends after the initial one",
			plan.Retry{Failures: 1, Tried: "1-a", Sent: ago(time.Second), NotBefore: in(time.Minute)}, in(4 * time.Second)},
		{"also if the last kick was not accepted",
			accepted(plan.Retry{Failures: 1, Sent: noon, NotBefore: in(time.Minute)}, ago(time.Hour)), in(5 * time.Second)},
		{"a short one stays", plan.Retry{Failures: 1, Tried: "1-a", Sent: noon, NotBefore: in(time.Second)}, in(time.Second)},
		{"none stays none", plan.Retry{Failures: 1, Tried: "1-a", Sent: noon}, time.Time{}},
		{"memberships that failed keep their backoff",
			plan.Retry{Failures: 1, Tried: "1-b", Sent: ago(time.Second), NotBefore: in(time.Minute)}, in(time.Minute)},
		{"a kick without an answer keeps its delay",
			plan.Retry{Tried: "1-a", Sent: ago(time.Minute), NotBefore: in(time.Second)}, in(time.Second)},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got := test.r.Next(cfg, "1-b"); got != test.want {
				t.Errorf("the next kick may follow at %s, want %s", got, test.want)
			}
		})
	}
}

func TestRetryIsKeptOnceAKickWasSent(t *testing.T) {
	if (&plan.Retry{Failures: 3, Took: time.Second}).Kept() {
		t.Error("what the node reports again is kept")
	}
	if !(&plan.Retry{Sent: noon}).Kept() {
		t.Error("what only the controller knows is not kept")
	}
}

func TestRetryUnderAnotherBackoff(t *testing.T) {
	long := plan.BackoffConfig{Initial: time.Second, Max: time.Hour}
	short := plan.BackoffConfig{Initial: time.Second, Max: time.Minute}
	failed := func() *plan.Retry {
		r := &plan.Retry{Sent: ago(time.Minute), Tried: "1-a"}
		for range 20 {
			r.Failed(long, noon, "it failed")
		}
		return r
	}
	t.Run("it waits no longer than a shorter one allows", func(t *testing.T) {
		r := failed().With(short, noon)
		if got := r.NotBefore.Sub(noon); got != short.Max {
			t.Errorf("it waits %s, want %s", got, short.Max)
		}
		if r.Failed(short, noon, "it failed"); r.NotBefore.After(in(short.Max)) {
			t.Errorf("after one more failure it waits until %s, want %s at most", r.NotBefore, short.Max)
		}
		if r.Failures != 21 || r.Tried != "1-a" || !r.Sent.Equal(ago(time.Minute)) {
			t.Errorf("it is %+v, want the rest unchanged", r)
		}
	})
	t.Run("it waits as before under a longer one", func(t *testing.T) {
		was := failed()
		r := was.With(plan.BackoffConfig{Initial: time.Second, Max: 100 * time.Hour}, noon)
		if !r.NotBefore.Equal(was.NotBefore) {
			t.Errorf("it waits until %s, want %s", r.NotBefore, was.NotBefore)
		}
	})
	t.Run("the delays go on doubling under a longer one", func(t *testing.T) {
		r := &plan.Retry{}
		for range 20 {
			r.Failed(short, noon, "it failed")
		}
		r = r.With(long, noon)
		for range 3 { // one that was drawn before, and two more
			r.Failed(long, noon, "it failed")
		}
		if got := r.NotBefore.Sub(noon); got < 3*short.Max {
			t.Errorf("it waits %s, want four times %s, with jitter", got, short.Max)
		}
	})
	t.Run("it shares nothing", func(t *testing.T) {
		was := failed()
		before := *was
		r := was.With(short, noon)
		r.Succeeded()
		for range 3 {
			r.Failed(short, noon, "it failed otherwise")
		}
		if *was != before {
			t.Errorf("the first one became %+v, it was %+v", *was, before)
		}
		was.Failed(long, noon, "it failed")
		if got := was.NotBefore.Sub(noon); got < long.Max*8/10 {
			t.Errorf("the first one waits %s, want its own backoff of %s", got, long.Max)
		}
	})
	t.Run("a delay without a failure stays", func(t *testing.T) {
		r := (&plan.Retry{NotBefore: in(time.Second), Why: "no reply to the last kick"}).With(short, noon)
		if !r.NotBefore.Equal(in(time.Second)) || r.Why == "" {
			t.Errorf("it is %+v, want the same", r)
		}
	})
}
