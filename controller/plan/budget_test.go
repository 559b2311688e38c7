package plan

import (
	"testing"

	"kicker/controller/membership"
	"kicker/kick"
)

func TestBudgetIsRoundedUp(t *testing.T) {
	for _, test := range []struct {
		budget     membership.Budget
		size, want int
	}{{"10%", 1, 1}, {"10%", 10, 1}, {"10%", 11, 2}, {"100%", 7, 7}, {"3", 100, 3}, {"3", 1, 3}, {"10%", 0, 1}} {
		if n, err := test.budget.Of(test.size); n != test.want || err != nil {
			t.Errorf("%s of %d nodes is %d, %v; want %d", test.budget, test.size, n, err, test.want)
		}
	}
}

func TestTheRunInProgressTriesABrokenRevision(t *testing.T) {
	running := func(action string) *kick.Running { return &kick.Running{Action: action} }
	flight := func(action string) *Flight { return &Flight{Key: Key{"lb1", action}} }
	for _, test := range []struct {
		claim string
		a     Action
		tries string
	}{
		{"an action that runs", Action{Running: running("reload")}, "lb1/reload"},
		{"not one that waits for a run", Action{Running: running("other")}, ""},
		{"an action that was kicked", Action{Flight: flight("reload")}, "lb1/reload"},
		{"not one that waits for a kick", Action{Flight: flight("other")}, ""},
		{"the kick counts, not the report of before",
			Action{Running: running("other"), Flight: flight("reload")}, "lb1/reload"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			c := NewCluster(t)
			test.a.Key, test.a.Needs = Key{"lb1", "reload"}, c.Needs("web")
			s := Situation{Table: c.Table, Actions: []*Action{&test.a}, Rollout: Rollout{}}
			c.Fail(s.Rollout, "web", brokenFrom)
			p := s.inProgress()
			if got := p.trying[c.Role("web")]; got != test.tries || len(p.busy) != 1 {
				t.Errorf("tried by %q with %d in flight, want %q and 1", got, len(p.busy), test.tries)
			}
		})
	}
}

func TestStrayRunTriesABrokenRevision(t *testing.T) {
	c := NewCluster(t)
	web := c.Needs("web")[0].Role
	s := Situation{Table: c.Table, Rollout: Rollout{}}
	s.Strays = []Stray{{Key: Key{"lb1", "reload"}, Tries: []*membership.Role{web}}}
	c.Fail(s.Rollout, "web", brokenFrom)
	if got := s.inProgress().trying[web]; got != "lb1/reload" {
		t.Errorf("tried by %q, want the run on the node that is gone", got)
	}
}
