package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

func TestRunIsOverdueAfterFiveTimesTheMedian(t *testing.T) {
	usual := func(d time.Duration) map[string]time.Duration { return map[string]time.Duration{"reload": d} }
	for _, test := range []struct {
		claim string
		usual map[string]time.Duration
		gone  time.Time
		after time.Duration
	}{
		{"five times the median", usual(20 * time.Second), time.Time{}, 100 * time.Second},
		{"but not within a minute", usual(11 * time.Second), time.Time{}, time.Minute},
		{"also if runs take no time", usual(0), time.Time{}, time.Minute},
		{"at its deadline if that is earlier", usual(time.Hour), time.Time{}, 10 * time.Minute},
		{"at its deadline if no median is known", nil, time.Time{}, 10 * time.Minute},
		{"another action's median does not count", map[string]time.Duration{"other": time.Second}, time.Time{}, 10 * time.Minute},
		{"a minute after its node went", nil, in(time.Minute), 2 * time.Minute},
		{"not later if its node goes", usual(12 * time.Second), in(time.Minute), time.Minute},
		{"its deadline stays if its node goes just before", nil, in(590 * time.Second), 10 * time.Minute},
	} {
		t.Run(test.claim, func(t *testing.T) {
			f := Flight{Key: Key{"lb1", "reload"}, Sent: noon, Deadline: in(10 * time.Minute), Gone: test.gone}
			if got := f.OverdueAt(test.usual).Sub(noon); got != test.after {
				t.Errorf("it is overdue after %s, want %s", got, test.after)
			}
		})
	}
}

func TestUsualIsTheMedianOfSuccesses(t *testing.T) {
	action := func(node, name string, outcome kick.Outcome, ms int64) *Action {
		a := &Action{Key: Key{node, name}}
		if outcome != "" {
			a.Status.Last = &kick.LastRun{Outcome: outcome, Duration: ms}
		}
		return a
	}
	actions := []*Action{
		action("lb1", "reload", kick.Succeeded, 9000), action("lb2", "reload", kick.Succeeded, 1000),
		action("lb3", "reload", kick.Succeeded, 2000), action("lb4", "reload", kick.Failed, 1),
		action("lb5", "reload", kick.TimedOut, 1), action("lb6", "reload", "", 0),
		action("lb1", "two", kick.Succeeded, 30), action("lb2", "two", kick.Succeeded, 10),
		action("lb1", "failing", kick.Failed, 5), action("lb1", "not asked", kick.Succeeded, 5),
	}
	asked := map[string]struct{}{"reload": {}, "two": {}, "failing": {}, "none": {}}
	want := map[string]time.Duration{"reload": 2 * time.Second, "two": 10 * time.Millisecond}
	if diff := cmp.Diff(want, Usual(actions, asked)); diff != "" {
		t.Errorf("the medians (-want +got):\n%s", diff)
	}
}

func TestOverdueRunSaysWhatItBlocks(t *testing.T) {
	c, s, _ := HourOld(t, membership.RoleConfig{Name: "lb", Budget: "1"}, membership.RoleConfig{Name: "edge", Budget: "2"})
	c.Has("lb", "lb2", "lb3", "lb4")
	c.Has("edge", "lb2", "lb3", "lb4")
	runs(c, &s, "lb4")
	overdue(c, &s, "lb2", "lb3")
	s.Usual = map[string]time.Duration{"run": time.Second}
	for _, test := range []struct {
		claim  string
		change func()
		want   []string
	}{
		{"its role", func() {}, []string{"role lb"}},
		{"its action", func() { s.Limits = []Limit{{"other", 1}, {"run", 1}} }, []string{"action run", "role lb"}},
		{"the cluster", func() { s.Limits, s.InFlight = nil, 1 }, []string{"the cluster", "role lb"}},
		{"nothing, while as many as the budget are overdue", func() { s.InFlight, s.Runs = 1, s.Runs[:2] }, nil},
	} {
		t.Run(test.claim, func(t *testing.T) {
			test.change()
			var want []api.Overdue
			for i := range len(s.Runs) - 1 {
				want = append(want, api.Overdue{
					Node: fmt.Sprint("lb", i+2), Action: "run", Run: "r", Started: ago(10 * time.Second), Since: ago(time.Second),
					Until: in(time.Minute), Usual: time.Second, Blocks: test.want,
				})
			}
			if diff := cmp.Diff(want, s.Overdue()); diff != "" {
				t.Errorf("overdue (-want +got):\n%s", diff)
			}
		})
	}
}
