package api

import (
	"testing"
	"time"

	"kicker/kick"
)

func TestRemedyCanBeTyped(t *testing.T) {
	for _, test := range []struct{ role, want string }{
		{"web", "kicker accept-loss role/web=3"},
		{"role=web,os.family=Debian", "kicker accept-loss role/role=web,os.family=Debian=3"},
		{`web where site="a b"`, `kicker accept-loss 'role/web where site="a b"=3'`},
		{"a'b", `kicker accept-loss role/a\'b=3`},
	} {
		if got := AcceptLoss(test.role, 3); got != test.want {
			t.Errorf("AcceptLoss(%s) = %s, want %s", test.role, got, test.want)
		}
	}
}

func TestSoonestTimeIsNotZeroIfOneIsNot(t *testing.T) {
	now := time.Now()
	if got := Soonest(time.Time{}, now.Add(time.Second), now); !got.Equal(now) {
		t.Errorf("the soonest is %v, want %v", got, now)
	}
	if got := Soonest(time.Time{}, time.Time{}); !got.IsZero() {
		t.Errorf("the soonest of none is %v", got)
	}
}

func TestDurationsAreRoundedForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:              "0ms",
		74_400 * time.Microsecond: "74ms",
		1849 * time.Millisecond:   "1.8s",
		3 * time.Second:           "3s",
		90 * time.Second:          "90s",
		15 * time.Minute:          "15m",
		2 * time.Hour:             "2h",
		100 * time.Hour:           "4d",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestOutcomesEndASentence(t *testing.T) {
	for _, test := range []struct {
		outcome kick.Outcome
		exit    int
		want    string
	}{
		{kick.Succeeded, 0, "succeeded"},
		{kick.Failed, 2, "failed with exit code 2"},
		{kick.Failed, -1, "failed"},
		{kick.TimedOut, -1, "timed out"},
		{kick.Killed, -1, "was killed"},
		{kick.Lost, -1, "was lost"},
	} {
		if got := Outcome(test.outcome, test.exit); got != test.want {
			t.Errorf("Outcome(%s, %d) = %q, want %q", test.outcome, test.exit, got, test.want)
		}
	}
}

func TestLongListsAreCut(t *testing.T) {
	if got := List([]string{"a", "b", "c"}, 3); got != "a, b, c" {
		t.Errorf("3 of 3 names: %q", got)
	}
	if got := List([]string{"a", "b", "c", "d", "e"}, 3); got != "a, b, c and 2 more" {
		t.Errorf("3 of 5 names: %q", got)
	}
}
