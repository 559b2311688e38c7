package controller

import (
	"testing"

	"kicker/kick"
)

func TestBudgetIsRoundedUp(t *testing.T) {
	for _, c := range []struct {
		text       Budget
		size, want int
	}{{"10%", 1, 1}, {"10%", 10, 1}, {"10%", 11, 2}, {"100%", 7, 7}, {"3", 100, 3}, {"3", 1, 3}, {"10%", 0, 1}} {
		if n, err := ParseBudget(c.text, c.size); n != c.want || err != nil {
			t.Errorf("%s of %d nodes is %d, %v; want %d", c.text, c.size, n, err, c.want)
		}
	}
}

func TestWhatRunsIsWhatTriesABrokenRevision(t *testing.T) {
	for _, c := range []struct {
		claim string
		a     action
		tries string
	}{
		{"what runs", action{running: &kick.Running{Action: "reload"}}, "lb1/reload"},
		{"not what waits for what runs", action{running: &kick.Running{Action: "other"}}, ""},
		{"what was kicked", action{flight: &flight{action: "reload"}}, "lb1/reload"},
		{"not what waits for what was kicked", action{flight: &flight{action: "other"}}, ""},
		{"what was kicked, not what the last heartbeat says", action{running: &kick.Running{Action: "other"}, flight: &flight{action: "reload"}}, "lb1/reload"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			rs := newTestRoles(t)
			c.a.node, c.a.name, c.a.needs = "lb1", "reload", needing(rs.roles, "web")
			web := mustNeed(rs.roles, "web")
			fails(web, brokenAfter)
			n := admission{running: map[*role]int{}, probing: map[*role]string{}, busy: map[string]struct{}{}}
			n.take(rs.roles, &c.a)
			if n.probing[web] != c.tries || n.inFlight != 1 {
				t.Errorf("tried by %q with %d in flight, want %q and 1", n.probing[web], n.inFlight, c.tries)
			}
		})
	}
}

func TestStrayRunTriesABrokenRevisionToo(t *testing.T) {
	rs := newTestRoles(t)
	web := mustNeed(rs.roles, "web")
	fails(web, brokenAfter)
	n := admission{running: map[*role]int{}, probing: map[*role]string{}, busy: map[string]struct{}{}}
	n.takeStray(stray{key: key{"lb1", "reload"}, tries: []*role{web}})
	if n.probing[web] != "lb1/reload" {
		t.Errorf("tried by %q, want the run on the node that is gone", n.probing[web])
	}
}
