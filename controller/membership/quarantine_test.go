package membership_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kicker/controller/membership"
	"kicker/inventory"
)

// rollout is a table whose role web has members, and what its dependents are handed.
type rollout struct {
	table
	role *membership.Role
	now  time.Time
}

// newRollout is a role with five members that a dependent has applied.
func newRollout(t failer, roles ...membership.RoleConfig) *rollout {
	t.Helper()
	tab := newTable(t, roles...)
	r := &rollout{tab, tab.resolve("web"), noon}
	for i := range 5 {
		tab.join(fmt.Sprint("web", i+1), noon)
	}
	r.turn()
	r.runs("lb1", true)
	return r
}

// turn publishes what changed, and begins the trials that are due.
func (r *rollout) turn() []membership.Change {
	changes := r.publishAt(r.now)
	r.Try(func(*membership.Role) string { return "lb9/reload" }, func(*membership.Role, string) bool { return true }, r.now)
	return changes
}

// runs ends a run of a dependent that was handed what there is now.
func (r *rollout) runs(lb string, succeeded bool) []membership.Change {
	key := lb + "/reload"
	handed := map[string]string{"web": r.role.Handed(key).Revision.Hash}
	r.now = r.now.Add(2 * time.Second)
	r.Ended(handed, key, succeeded, r.now)
	return r.turn()
}

func (r *rollout) handed(lb string) string {
	var names []string
	for _, m := range r.role.Handed(lb + "/reload").Members {
		names = append(names, m.Node)
	}
	return strings.Join(names, " ")
}

func (r *rollout) quarantined() string {
	var names []string
	for _, q := range r.role.Quarantined() {
		names = append(names, q.Node)
	}
	return strings.Join(names, " ")
}

// poisoned is a role that web6 joined, and runs with it failed on three dependents.
func poisoned(t failer) *rollout {
	r := newRollout(t)
	r.join("web6", r.now)
	r.turn()
	for _, lb := range []string{"lb1", "lb2", "lb3"} {
		r.runs(lb, false)
	}
	return r
}

const five, six = "web1 web2 web3 web4 web5", "web1 web2 web3 web4 web5 web6"

func TestMemberWithWhichEveryRunFailsIsQuarantined(t *testing.T) {
	r := poisoned(t)
	if r.handed("lb1") != five || r.handed("lb4") != six || r.quarantined() != "" {
		t.Fatalf("lb1 is handed %q, lb4 %q, quarantined %q; want a try without web6 of one that failed",
			r.handed("lb1"), r.handed("lb4"), r.quarantined())
	}
	if m := r.role.Current(); m.Revision.N != r.role.Handed("lb1/reload").Revision.N || members(r.role) != six {
		t.Errorf("the trial has revision %+v, the current members are %q", r.role.Handed("lb1/reload").Revision, members(r.role))
	}
	changes := r.runs("lb1", true)
	if members(r.role) != five || r.quarantined() != "web6" || len(changes) != 1 || len(changes[0].QuarantineBegan) != 1 {
		t.Fatalf("members %q, quarantined %q, changes %+v; want web6 out", members(r.role), r.quarantined(), changes)
	}
	const why = "with web6 runs failed on lb1/reload, lb2/reload, lb3/reload; without it one succeeded on lb1/reload"
	if got := r.role.Quarantined()[0].Why; got != why {
		t.Errorf("the reason is %q, want %q", got, why)
	}
	r.apply(web("web1"), with(web("web1"), inventory.Left), r.now)
	r.join("web7", r.now)
	if r.turn(); members(r.role) != "web2 web3 web4 web5 web7" {
		t.Errorf("the members are %q, want the others' removals and additions", members(r.role))
	}
}

func TestWhatQuarantinesNoMember(t *testing.T) {
	for _, c := range []struct {
		claim string
		do    func(r *rollout)
	}{
		{"one run that fails by chance while a node joins", func(r *rollout) {
			r.join("web6", r.now)
			r.turn()
			r.runs("lb1", false)
			r.runs("lb1", true)
			r.runs("lb2", false)
			r.runs("lb3", false)
		}},
		{"runs that fail without the node, too", func(r *rollout) {
			r.join("web6", r.now)
			r.turn()
			for range 3 {
				r.runs("lb1", false)
			}
			r.runs("lb1", false) // the trial
		}},
		{"a removal", func(r *rollout) {
			r.apply(web("web5"), with(web("web5"), inventory.Left), r.now)
			r.turn()
			for range 9 {
				r.runs("lb1", false)
			}
		}},
		{"runs that fail with what was applied before", func(r *rollout) {
			for range 9 {
				r.runs("lb2", false)
			}
		}},
		{"a dependent that fails by itself, while another one succeeds", func(r *rollout) {
			r.join("web6", r.now)
			r.turn()
			for range 3 {
				r.runs("lb1", false)
			}
			r.runs("lb2", true) // it is handed web6, too
			r.runs("lb1", false)
		}},
		{"a success with it in another list", func(r *rollout) {
			r.join("web6", r.now)
			r.turn()
			r.runs("lb1", false)
			r.runs("lb2", false)
			r.join("web7", r.now)
			r.turn()
			r.runs("lb3", true)
			r.runs("lb1", false)
		}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			r := newRollout(t)
			if c.do(r); r.quarantined() != "" || r.role.Trial() != nil {
				t.Errorf("quarantined %q, trial %+v; want neither", r.quarantined(), r.role.Trial())
			}
		})
	}
}

func TestSuspicionFollowsTheMemberThroughOtherLists(t *testing.T) {
	r := newRollout(t)
	r.join("web6", r.now)
	flap := web("web7")
	for i := range 3 { // one that comes and goes all the time
		if i%2 == 0 {
			r.apply(nil, flap, r.now)
		} else {
			r.apply(flap, with(web("web7"), inventory.Left), r.now)
		}
		r.turn()
		r.runs("lb1", false)
	}
	if got := r.handed("lb1"); strings.Contains(got, "web6") {
		t.Fatalf("lb1 is handed %q after three failures with web6", got)
	}
	stale := map[string]string{"web": r.role.Handed("lb1/reload").Revision.Hash}
	r.apply(flap, with(web("web7"), inventory.Left), r.now)
	r.turn() // the trial is outdated before its run ends
	r.now = r.now.Add(time.Second)
	r.Ended(stale, "lb1/reload", true, r.now)
	if r.turn(); r.quarantined() != "web6" {
		t.Errorf("quarantined %q, want web6", r.quarantined())
	}
}

func TestMoreFailuresAreNeededAfterATrialThatFailed(t *testing.T) {
	r := poisoned(t)
	r.runs("lb1", false)
	for i := range 6 {
		if r.role.Trial() != nil {
			t.Fatalf("another trial after %d failures, want it after twice as many", i)
		}
		r.runs("lb1", false)
	}
	if r.role.Trial() == nil {
		t.Error("no other trial, though web6 may be at fault all the same")
	}
}

func TestQuarantinedMemberIsTriedAgain(t *testing.T) {
	r := poisoned(t)
	r.runs("lb1", true)
	due := r.role.Quarantined()[0].Retry
	if want := r.now.Add(time.Minute); due != want || r.Next(true) != due {
		t.Fatalf("it is tried again at %s, next %s, want %s", due, r.Next(true), want)
	}
	wait := time.Minute
	for range 6 {
		if r.now = due.Add(-1); r.turn() != nil || r.role.Trial() != nil {
			t.Fatal("it is tried before its time")
		}
		r.now = due
		if r.turn(); r.handed("lb9") != six || r.handed("lb1") != five || !r.role.Tries("lb9/reload") {
			t.Fatalf("lb9 is handed %q and lb1 %q, want that lb9 alone tries web6", r.handed("lb9"), r.handed("lb1"))
		}
		r.runs("lb9", false)
		wait = min(2*wait, 10*time.Minute)
		if due = r.role.Quarantined()[0].Retry; due != r.now.Add(wait) || members(r.role) != five {
			t.Fatalf("the next try is at %s, want %s; members %q", due, r.now.Add(wait), members(r.role))
		}
	}
	r.now = due
	r.turn()
	changes := r.runs("lb9", true)
	if members(r.role) != six || r.quarantined() != "" || !slices.Equal(changes[0].QuarantineEnded, []string{"web6"}) {
		t.Errorf("members %q, quarantined %q, changes %+v: want web6 back", members(r.role), r.quarantined(), changes)
	}
}

func TestMemberThatJoinedBetweenFailuresIsTriedAgainAtOnce(t *testing.T) {
	r := newRollout(t)
	r.join("web6", r.now)
	r.turn()
	r.runs("lb1", false)
	r.runs("lb2", false)
	r.join("web7", r.now)
	r.turn()
	r.runs("lb3", false)
	r.runs("lb3", true)
	if r.handed("lb9") != five+" web7" || r.quarantined() != "web6 web7" {
		t.Fatalf("lb9 is handed %q, quarantined are %q; want that lb9 tries web7", r.handed("lb9"), r.quarantined())
	}
	if r.runs("lb9", true); members(r.role) != five+" web7" || r.quarantined() != "web6" {
		t.Errorf("members %q, quarantined %q: want web6 alone out", members(r.role), r.quarantined())
	}
}

func TestMemberWithOtherFactsIsNotQuarantined(t *testing.T) {
	r := poisoned(t)
	r.runs("lb1", true)
	r.apply(web("web6"), eligible("web6", inventory.Facts{"role": "web", "port": "81"}), r.now)
	if r.turn(); members(r.role) != six || r.quarantined() != "" {
		t.Errorf("members %q, quarantined %q: want web6 back at once", members(r.role), r.quarantined())
	}
}

// moves gives web6 another port.
func (r *rollout) moves(port int) {
	r.apply(web("web6"), eligible("web6", inventory.Facts{"role": "web", "port": fmt.Sprint(port)}), r.now)
	r.turn()
}

func TestBadMemberWhoseFactsAlwaysChangeIsQuarantined(t *testing.T) {
	r := newRollout(t)
	r.join("web6", r.now)
	r.turn()
	for i := range 5 {
		if trial := r.role.Trial(); trial != nil {
			break
		}
		r.runs(fmt.Sprint("lb", i), false)
		r.moves(1000 + i)
	}
	if r.role.Trial() == nil {
		t.Fatal("no trial after five runs with web6 failed, while its port changed with each")
	}
	r.moves(2000)
	r.runs("lb1", true)
	for i := range 20 { // within clearAgain
		r.moves(3000 + i)
		r.now = r.now.Add(2 * time.Second)
		if members(r.role) != five || r.quarantined() != "web6" {
			t.Fatalf("members %q, quarantined %q after its facts changed again, want web6 out", members(r.role), r.quarantined())
		}
	}
	r.now = r.now.Add(10 * time.Minute)
	if r.moves(4000); members(r.role) != six {
		t.Errorf("members %q after a change long after the first, want web6 back", members(r.role))
	}
}

func TestBadMemberThatComesAndGoesIsQuarantined(t *testing.T) {
	for away, want := range map[time.Duration]bool{4 * time.Second: true, time.Hour: false} {
		r := newRollout(t)
		for i := range 3 { // each time one run fails with it
			r.join("web6", r.now)
			r.turn()
			r.runs(fmt.Sprint("lb", i), false)
			if i < 2 {
				r.apply(web("web6"), nil, r.now)
				r.turn()
				r.now = r.now.Add(away)
				r.turn()
			}
		}
		if got := r.role.Trial() != nil; got != want {
			t.Errorf("away for %s: a trial began: %t, want %t", away, got, want)
		}
	}
}

func TestRunsWithFactsOfBeforeDoNotAccuseAMember(t *testing.T) {
	r := newRollout(t)
	r.join("web6", r.now)
	r.turn()
	handed := map[string]string{"web": r.role.Current().Revision.Hash}
	r.runs("lb1", false)
	r.moves(81) // it is mended
	for range 9 {
		r.Ended(handed, "lb2/reload", false, r.now)
		r.turn()
	}
	if r.role.Trial() != nil {
		t.Error("a trial began for runs that were handed web6 with its former facts")
	}
}

func TestTryThatIsGivenUpIsMadeByAnother(t *testing.T) {
	r := poisoned(t)
	r.runs("lb1", true)
	r.now = r.role.Quarantined()[0].Retry
	r.turn()
	r.Try(func(*membership.Role) string { return "lb8/reload" },
		func(_ *membership.Role, action string) bool { return action != "lb9/reload" }, r.now)
	if r.role.Tries("lb9/reload") || !r.role.Tries("lb8/reload") {
		t.Errorf("the trial is %+v, want it to be lb8's", r.role.Trial())
	}
}

// The trial itself must not be an empty list, nor one from which the guard would hold removals.
func TestTrialKeepsEnoughMembers(t *testing.T) {
	r := newRollout(t)
	for i := range 5 { // all get facts with which every run fails
		name := fmt.Sprint("web", i+1)
		r.apply(web(name), eligible(name, inventory.Facts{"role": "web", "port": "81"}), r.now)
	}
	r.turn()
	for range 9 {
		r.runs("lb1", false)
	}
	if r.role.Trial() != nil {
		t.Errorf("a trial leaves out %q of five", r.role.Trial().Of)
	}
	r = newRollout(t, membership.RoleConfig{Name: "web", MinMembers: 6})
	r.join("web6", r.now)
	r.turn()
	for range 9 {
		r.runs("lb1", false)
	}
	if r.role.Trial() != nil {
		t.Errorf("a trial leaves five members, fewer than min_members")
	}
}

func TestOneBadMemberAmongManyIsFound(t *testing.T) {
	r := newRollout(t)
	for i := range 64 {
		r.join(fmt.Sprint("new", i), r.now)
	}
	r.turn()
	bad := func(list string) bool { return slices.Contains(strings.Fields(list), "new33") }
	for range 3 {
		r.runs("lb1", false)
	}
	r.runs("lb1", true)
	if n := len(r.role.Quarantined()); n != 64 {
		t.Fatalf("%d are quarantined, want all that are new", n)
	}
	tries := 0
	for len(r.role.Quarantined()) > 1 && tries < 30 {
		r.now = r.now.Add(time.Minute)
		if r.turn(); r.role.Trial() != nil {
			tries++
			r.runs("lb9", !bad(r.handed("lb9")))
		}
	}
	if r.quarantined() != "new33" {
		t.Errorf("after %d tries %d are quarantined, want only new33", tries, len(r.role.Quarantined()))
	}
	t.Logf("%d tries", tries)
}

func TestCopyWithATrialSharesNothing(t *testing.T) {
	r := poisoned(t)
	inv := inventory.New()
	copied, err := r.With(membership.Config{GoneAfter: inventory.DefaultGoneAfter}, inv.Snapshot(), r.now,
		func(tab *membership.Table) { _, _ = tab.Resolve("web", nil, inv.Snapshot(), r.now) })
	if err != nil {
		t.Fatal(err)
	}
	hash := copied.Role("web").Handed("lb1/reload").Revision.Hash
	copied.Ended(map[string]string{"web": hash}, "lb1/reload", true, r.now)
	copied.Publish(7, inv.Snapshot(), r.now)
	if r.role.Trial() == nil || r.quarantined() != "" {
		t.Error("what the copy learned is known here")
	}
}

// Whatever happens, no removal is ever kept back by a quarantine, no member of the last list that succeeded is left out
// while it has the same facts, and a role is never emptied.
func TestQuarantineTakesOnlyWhatIsNew(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		r := newRollout(t)
		nodes := map[string]*inventory.Node{}
		for i := range 5 {
			nodes[fmt.Sprint("web", i+1)] = web(fmt.Sprint("web", i+1))
		}
		bad := map[string]bool{}
		good := "web1 web2 web3 web4 web5"
		for range rapid.IntRange(10, 80).Draw(t, "steps") {
			r.now = r.now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 5, 70}).Draw(t, "s")) * time.Second)
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				name := fmt.Sprint("web", rapid.IntRange(1, 9).Draw(t, "node"))
				if nodes[name] == nil {
					nodes[name] = web(name)
					bad[name] = rapid.IntRange(0, 2).Draw(t, "bad") == 0
					r.apply(nil, nodes[name], r.now)
				} else if len(nodes) > 2 {
					r.apply(nodes[name], with(web(name), inventory.Left), r.now)
					r.apply(with(web(name), inventory.Left), nil, r.now)
					delete(nodes, name)
					delete(bad, name)
				}
				r.turn()
			default:
				lb := fmt.Sprint("lb", rapid.IntRange(1, 4).Draw(t, "lb"))
				if r.role.Tries("lb9/reload") {
					lb = "lb9"
				}
				list := r.handed(lb)
				fails := slices.ContainsFunc(strings.Fields(list), func(name string) bool { return bad[name] })
				if !fails {
					good = list
				}
				r.runs(lb, !fails)
			}
			for _, q := range r.role.Quarantined() {
				seen["quarantined"]++
				if nodes[q.Node] == nil {
					t.Fatalf("%s is quarantined, and not there", q.Node)
				}
				if slices.Contains(strings.Fields(members(r.role)), q.Node) {
					t.Fatalf("%s is quarantined, and a member", q.Node)
				}
			}
			for name := range nodes {
				if slices.Contains(strings.Fields(good), name) && !slices.Contains(strings.Fields(members(r.role)), name) &&
					!strings.Contains(" "+r.quarantined()+" ", " "+name+" ") {
					t.Fatalf("%s was applied with success, and is no member: %q", name, members(r.role))
				}
			}
			for name := range strings.FieldsSeq(members(r.role)) {
				if nodes[name] == nil && !r.role.Missing(name) {
					t.Fatalf("%s is a member, and left", name)
				}
			}
		}
	})
	if seen["quarantined"] == 0 {
		t.Error("nothing was ever quarantined: the test shows nothing")
	}
}

func TestTrialLeavesOutAsManyAsTheRoleCanDoWithout(t *testing.T) {
	tab := newTable(t, membership.RoleConfig{Name: "web", MinMembers: 2})
	web := tab.resolve("web")
	tab.complete("web1")
	tab.ended(web, "lb1/reload", true)
	for _, name := range []string{"web2", "web3", "web4"} { // with only one of four no trial would be handed out
		tab.complete(name)
	}
	left := map[string]int{}
	for range 40 {
		tab.try("", noon)
		if trial := web.Trial(); trial != nil {
			if len(trial.Membership.Members) < 2 {
				t.Fatalf("the trial hands out %v, fewer than min_members", trial.Membership.Members)
			}
			for _, name := range trial.Of {
				left[name]++
			}
		}
		tab.ended(web, "lb1/reload", false)
	}
	if left["web2"] == 0 || left["web3"] == 0 || left["web4"] == 0 {
		t.Errorf("each may be the bad one, and trials left out %v", left)
	}
}
