package controller

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

func TestSyncGate(t *testing.T) {
	const second = time.Second // also the pace
	heardAll := reconnectTime + rollcallSplay + second
	for _, c := range []struct {
		claim        string
		now, joined  time.Duration // since it listens; joined: the last new node
		nodes        int
		withoutFacts int
		open         bool
		until        time.Duration
	}{
		{"closed until every agent had the time to reconnect, answer and beat", heardAll - 1, 0, 5, 0, false, heardAll},
		{"open when they had", heardAll, 0, 5, 0, true, 0},
		{"closed while new nodes are being heard", heardAll, heardAll - second/2, 5, 0, false, heardAll + second/2},
		{"open when none was for a moment", heardAll + second/2, heardAll - second/2, 5, 0, true, 0},
		{"who is slow makes longer pauses", heardAll + 9*second, heardAll + 8*second, 5, 0, false, heardAll + 10*second},
		{"a cluster that is never quiet is not waited for for ever", quietAtMost, quietAtMost, 5, 0, true, 0},
		{"closed while facts are missing", heardAll, 0, 5, 1, false, heardAll + factsAtMost},
		{"though not for ever", heardAll + factsAtMost, 0, 5, 1, true, 0},
		{"never open when nobody is heard", time.Hour, 0, 0, 0, false, 0},
	} {
		t.Run(c.claim, func(t *testing.T) {
			g := syncGate{since: noon}
			if c.joined > 0 {
				g.heard(inventory.Change{}, in(c.joined))
				g.heard(inventory.Change{Before: &inventory.Node{}}, in(c.joined+time.Minute)) // no new node
			}
			g.owes(c.withoutFacts, noon)
			got := g.judge(in(c.now), second, c.nodes)
			if got.Open != c.open || got.Open != (got.Why == "") {
				t.Errorf("%+v, want open: %t, and a reason if it is not", got, c.open)
			}
			if until := in(c.until); c.until > 0 && got.Until != until || c.until == 0 && !got.Until.IsZero() {
				t.Errorf("until %s, want %s", got.Until, until)
			}
		})
	}
}

func TestFactsAreWaitedForAsLongAsTheyCome(t *testing.T) {
	g := syncGate{since: noon}
	heardAll := reconnectTime + rollcallSplay + time.Second
	for i, owing := range []int{10, 8, 9, 7, 9} { // who joins owes some too
		g.owes(owing, in(heardAll+time.Duration(i)*time.Second))
	}
	last := heardAll + 3*time.Second + factsAtMost
	if s := g.judge(in(last-1), time.Second, 10); s.Open || s.Until != in(last) {
		t.Errorf("%+v, want it closed until %s", s, in(last))
	}
	if s := g.judge(in(last), time.Second, 10); !s.Open {
		t.Errorf("%+v, though no facts have come for %s", s, factsAtMost)
	}
}

func TestMembersThatComeBackOneByOneAreWaitedFor(t *testing.T) {
	known := make([]kick.Member, 20)
	for i := range known {
		known[i].Node = fmt.Sprintf("web%02d", i)
	}
	g := roleGate{newest: holder{revision: kick.Revision{Epoch: 6, N: 1, Hash: "1-a"}}, known: known}
	const gone = 10 * time.Second
	for i := range 15 { // web15 to web19 don't
		g.judge(in(time.Duration(i)*9*time.Second), in(gone), gone, func(node string) bool { return node <= fmt.Sprintf("web%02d", i) })
		if g.open {
			t.Fatalf("open when %d of 20 were heard, one every 9 s", i+1)
		}
	}
	last := 14*9*time.Second + gone
	back := func(node string) bool { return node <= "web14" }
	if g.judge(in(last-1), in(gone), gone, back); g.open || g.until != in(last) {
		t.Errorf("open: %t until %s, want it closed until %s", g.open, g.until, in(last))
	}
	if g.judge(in(last), in(gone), gone, back); !g.open {
		t.Error("closed, though nobody came for the time in which one is gone")
	}
}

func TestMembersOfANewerRevisionAreCountedAnew(t *testing.T) {
	of := func(n int64) holder {
		return holder{kick.Revision{Epoch: 6, N: n, Hash: fmt.Sprint("1-", n)}, "lb1", "reload", "web"}
	}
	everybody := func(string) bool { return true }
	only1 := func(node string) bool { return node == "web1" }
	var g roleGate
	const gone = 10 * time.Second
	g.heard(of(1))
	g.known = []kick.Member{{Node: "old1"}, {Node: "old2"}, {Node: "gone"}}
	g.judge(noon, in(time.Second), gone, func(node string) bool { return node != "gone" })
	g.heard(of(2))
	g.known = []kick.Member{{Node: "web1"}, {Node: "web2"}}
	if g.judge(in(5*time.Second), in(time.Second), gone, only1); g.open || g.until != in(5*time.Second+gone) {
		t.Errorf("open: %t until %s, want it to wait from the first that came of these, until %s", g.open, g.until, in(5*time.Second+gone))
	}
	if g.judge(in(6*time.Second), in(time.Second), gone, everybody); !g.open {
		t.Error("closed, though all were heard")
	}
}

func TestRoleGate(t *testing.T) {
	known := []kick.Member{{Node: "web1"}, {Node: "web2"}}
	of := func(epoch, n int64) kick.Revision {
		return kick.Revision{Epoch: epoch, N: n, Hash: fmt.Sprint("1-", epoch, "-", n)}
	}
	for _, c := range []struct {
		claim   string
		gate    roleGate
		present string
		now     time.Time
		open    bool
		why     string
	}{
		{"what nobody was told of is accounted for", roleGate{}, "", noon, true, ""},
		{"whoever knows is asked", roleGate{newest: holder{of(6, 1), "lb1", "reload", "web"}}, "", noon, false,
			"lb1/reload was asked whom it is configured with"},
		{"though not for ever", roleGate{newest: holder{of(6, 1), "lb1", "reload", "web"}}, "", in(time.Minute), true, ""},
		{"who is known is waited for", roleGate{newest: holder{revision: of(6, 1)}, known: known}, "web1", noon, false,
			"1 of 2 members that dependents know of were not heard yet: web2"},
		{"until all are heard", roleGate{newest: holder{revision: of(6, 1)}, known: known}, "web1 web2", noon, true, ""},
		{"or could have been", roleGate{newest: holder{revision: of(6, 1)}, known: known, have: 1}, "web1", in(time.Minute), true, ""},
		{"nobody is waited for when nobody was a member", roleGate{newest: holder{revision: of(6, 1)}, known: []kick.Member{}}, "", noon, true, ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			c.gate.why, c.gate.until = "what it waited for before", noon
			c.gate.judge(c.now, in(time.Minute), 10*time.Second, func(node string) bool { return strings.Contains(c.present, node) })
			if c.gate.open != c.open || c.gate.why != c.why || c.gate.until.IsZero() != c.open {
				t.Errorf("open: %t (%q, until %s), want %t (%q)", c.gate.open, c.gate.why, c.gate.until, c.open, c.why)
			}
		})
	}
}

func TestNewestRevisionThatIsHeardOfCounts(t *testing.T) {
	of := func(epoch, n int64, node string) holder {
		return holder{kick.Revision{Epoch: epoch, N: n, Hash: fmt.Sprint("1-", epoch, "-", n)}, node, "reload", "web"}
	}
	var g roleGate
	for _, step := range []struct {
		heard  holder
		newest string
		others int
		asked  bool // what was learned is still of use
	}{
		{of(5, 9, "lb1"), "lb1", 0, false},
		{of(5, 8, "lb2"), "lb1", 0, true},
		{of(5, 9, "lb3"), "lb1", 1, true},
		{of(5, 9, "lb3"), "lb1", 1, true},
		{of(5, 9, "lb1"), "lb1", 1, true},
		{of(6, 1, "lb4"), "lb4", 0, false},
		{of(5, 99, "lb5"), "lb4", 0, true},
	} {
		g.asked = noon
		g.heard(step.heard)
		if g.asked.IsZero() == step.asked {
			t.Fatalf("after %+v: asked %s, want only whoever has something new to be asked at once", step.heard, g.asked)
		}
		if g.newest.node != step.newest || len(g.others) != step.others || (g.known != nil) != step.asked {
			t.Fatalf("after %+v: the newest is %+v, with %d others, known: %t; want %+v", step.heard, g.newest, len(g.others), g.known != nil, step)
		}
		g.known = []kick.Member{}
	}
	for i := range 100 {
		g.heard(of(6, 1, fmt.Sprint("n", i)))
	}
	if len(g.others) > 10 {
		t.Errorf("%d that know the same are remembered", len(g.others))
	}
}

// appliedBefore is that a dependent was configured by a former controller, with these members.
func appliedBefore(members []kick.Member) func(*kick.ActionStatus) {
	return func(a *kick.ActionStatus) {
		a.Applied = map[string]kick.Revision{"web": {Epoch: 1000, N: 7, Hash: kick.Hash(members)}}
	}
}

func webs(n int) []kick.Member {
	var members []kick.Member
	for i := range n {
		members = append(members, kick.Member{Node: fmt.Sprint("web", i+1), Facts: map[string]any{}})
	}
	return members
}

func TestAnotherHolderIsAskedWhenTheFirstDoesNotAnswer(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		members := webs(10)
		l.rosters = map[string][]kick.Member{"lb2/reload": members}
		l.says("lb1", "lb", reload(appliedBefore(members))) // and is gone, or has lost its memory
		l.says("lb2", "lb", reload(appliedBefore(members)))
		for _, m := range members[:4] {
			l.says(m.Node, "web", kick.Status{})
		}
		for range 16 {
			time.Sleep(time.Second)
			for _, m := range members[:4] {
				l.says(m.Node, "web", kick.Status{})
			}
			l.says("lb1", "lb", reload(appliedBefore(members)))
			l.says("lb2", "lb", reload(appliedBefore(members)))
		}
		time.Sleep(time.Second)
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks after a restart in which six of ten were lost", n)
		}
		if r := l.View().Roles[1]; r.Name != "web" || r.Held == nil || len(r.Members) != 10 {
			t.Errorf("web is %+v, want six of ten held", r)
		}
	})
}

func TestTheOnlyOneWhoKnowsIsWaitedForWhileItIsBackSoon(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		members := webs(10)
		status := reload(appliedBefore(members))
		beat := func() {
			for _, m := range members[:2] {
				l.says(m.Node, "web", kick.Status{})
			}
			time.Sleep(time.Second)
		}
		l.says("lb1", "lb", status)
		data, err := json.Marshal(status)
		if err != nil {
			t.Fatal(err)
		}
		l.heard <- inventory.Received{At: time.Now(), Beat: &inventory.Beat{
			Node: "lb1", Instance: "m", Boot: "b", Conn: inventory.Conn{Server: "lb1", Client: 1}, Facts: inventory.Facts{"role": "lb"}.Digest(),
			Ready: true, NextIn: 1000, Kick: data, RestartWithin: inventory.MaxRestart.Milliseconds(),
		}}
		for range 55 {
			beat()
		}
		l.conns++
		l.says("lb1", "lb", status) // and does not answer at once
		for range 5 {
			beat()
		}
		l.mu.Lock()
		l.rosters = map[string][]kick.Member{"lb1/reload": members}
		l.mu.Unlock()
		for range 20 {
			l.says("lb1", "lb", status)
			beat()
		}
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks after a restart in which eight of ten were lost", n)
		}
		if r := l.View().Roles[1]; r.Name != "web" || r.Held == nil || len(r.Members) != 10 {
			t.Errorf("web is %+v, want eight of ten held", r)
		}
	})
}

func TestRoleThatOpenedWithoutItsSlowDependentIsClosedAgain(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		members := webs(10)
		l.rosters = map[string][]kick.Member{"lb1/reload": members}
		for _, m := range members[:4] {
			l.says(m.Node, "web", kick.Status{})
		}
		l.sync(t)
		l.says("lb1", "lb", reload(appliedBefore(members)))
		time.Sleep(time.Second)
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks: the six that lb1 knows of were forgotten", n)
		}
		synctest.Wait()
		v := l.View().Verdicts[0]
		if gateNames(v) != api.GateSynced || !strings.Contains(v.Gates[0].Why, "6 of 10 members") {
			t.Errorf("the gates are %+v, want that six of ten were not heard yet", v.Gates)
		}
	})
}

func TestDependentThatComesMuchLaterRaisesNobody(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		members := webs(10)
		l.rosters = map[string][]kick.Member{"lb1/reload": members}
		for range int(strangerWithin / time.Second) {
			l.says("web1", "web", kick.Status{})
			l.says("web2", "web", kick.Status{})
			time.Sleep(time.Second)
		}
		l.says("lb1", "lb", reload(appliedBefore(members)))
		time.Sleep(time.Second)
		if kicks := l.kicked(); len(kicks) != 1 || len(kicks[0].Needs[0].Members) != 2 {
			t.Errorf("the kicks are %+v, want one with the two members there are", kicks)
		}
	})
}

func TestAccountKeepsWhatIsKnownOfTheMissing(t *testing.T) {
	rs := held(t)
	r := rs.byName["web"]
	for name, l := range r.guard.missing {
		l.facts = inventory.Facts{"rack": "12"}
		r.guard.missing[name] = l
	}
	c := asked(t)
	r.gate = roleGate{known: slicesOfMembers(r), newest: holder{revision: r.now.Revision}}
	c.account(r, c.inv.Snapshot(), noon)
	if r.guard.hold == nil || len(r.guard.missing) != 6 {
		t.Fatalf("%d are missing, hold %+v; want the six that were", len(r.guard.missing), r.guard.hold)
	}
	for name, l := range r.guard.missing {
		if l.facts["rack"] != "12" || l.at != noon {
			t.Errorf("what was known of %s became %+v", name, l)
		}
	}
}

// hears makes a controller without a loop hear a beat of a node that bears web.
func hears(t *testing.T, c *Controller, node string, known bool, changes ...func(*inventory.Beat)) {
	t.Helper()
	facts := inventory.Facts{"role": "web"}
	b := inventory.Beat{Node: node, Instance: "m", Boot: "b", Conn: inventory.Conn{Server: node, Client: 1}, Facts: facts.Digest(), Ready: true, NextIn: 1000}
	for _, change := range changes {
		change(&b)
	}
	heard := []inventory.Received{{At: noon, Beat: &b}}
	if known {
		heard = append(heard, inventory.Received{At: noon, Facts: &inventory.FactsMessage{Node: node, Instance: "m", Boot: "b", Facts: facts}})
	}
	for _, h := range heard {
		if _, err := c.inv.Apply(h); err != nil {
			t.Fatal(err)
		}
	}
}

var sixthEpoch = kick.Revision{Epoch: 6, N: 1, Hash: "1-a"}

func TestWhoIsAccountedForAsLost(t *testing.T) {
	c := asked(t)
	c.roles = newTestRoles(t).roles
	r := mustNeed(c.roles, "web")
	if err := c.roles.move(nil, serving("web1", inventory.Facts{"role": "web"}), noon); err != nil {
		t.Fatal(err)
	}
	hears(t, c, "web1", true)
	hears(t, c, "web2", true, func(b *inventory.Beat) { b.Ready = false })
	hears(t, c, "web3", true, func(b *inventory.Beat) { b.Leaving = true })
	r.gate = roleGate{known: webs(4), newest: holder{revision: sixthEpoch}}
	c.account(r, c.inv.Snapshot(), noon)
	if got := fmt.Sprint(sortedKeys(r.guard.missing)); got != "[web2 web4]" {
		t.Errorf("lost are %s, want the one that serves no more and the one that is not heard: who said goodbye is no loss", got)
	}
	for name, l := range r.guard.missing {
		if l.due().After(noon) {
			t.Errorf("%s is judged %s, though it had its time", name, l.due())
		}
	}
	if r.gate.basis != sixthEpoch || !r.knows(sixthEpoch.Hash) {
		t.Errorf("accounted for is %+v, remembered: %t; want what dependents hold", r.gate.basis, r.knows(sixthEpoch.Hash))
	}
	if n := len(r.guard.sizes); n != 1 || r.guard.sizes[0].size != 3 {
		t.Errorf("the sizes are %+v, want that there were three", r.guard.sizes)
	}
}

func TestMemberThatSaidBackSoonBeforeItWasHeardWholeHasItsTime(t *testing.T) {
	c := asked(t)
	c.roles = newTestRoles(t).roles
	r := mustNeed(c.roles, "web")
	backSoon := func(b *inventory.Beat) { b.RestartWithin = inventory.MaxRestart.Milliseconds() }
	hears(t, c, "web1", false, backSoon)
	hears(t, c, "web2", true, backSoon, func(b *inventory.Beat) { b.Checking, b.Ready = true, false })
	hears(t, c, "web3", true, backSoon, func(b *inventory.Beat) { b.Ready = false })
	hears(t, c, "web4", false)
	r.gate = roleGate{known: webs(4), newest: holder{revision: sixthEpoch}}
	c.account(r, c.inv.Snapshot(), noon)
	for name, want := range map[string]time.Time{"web1": in(time.Minute + guardPause), "web2": in(time.Minute + guardPause), "web3": noon, "web4": noon} {
		if got := r.guard.missing[name].due(); got != want {
			t.Errorf("%s is judged %s, want %s", name, got, want)
		}
	}
}

func TestMemberWasHeardWhenItsFactsAndItsReadinessAreKnown(t *testing.T) {
	for _, c := range []struct {
		claim    string
		facts    bool
		checking bool
		open     bool
	}{
		{"both are known", true, false, true},
		{"what it bears is not known yet", false, false, false},
		{"its service is still being checked", true, true, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			ctrl := asked(t)
			ctrl.roles, ctrl.gate = newTestRoles(t).roles, syncGate{since: noon, opened: noon}
			r := mustNeed(ctrl.roles, "web")
			r.gate = roleGate{newest: holder{revision: sixthEpoch}, known: webs(1)}
			hears(t, ctrl, "web1", c.facts, func(b *inventory.Beat) { b.Checking, b.Ready = c.checking, !c.checking })
			if ctrl.openRoles(noon); r.gate.open != c.open {
				t.Errorf("open: %t, want %t", r.gate.open, c.open)
			}
		})
	}
}

func TestMembersAreWaitedForFromTheLastTimeThatNobodyCouldBeHeard(t *testing.T) {
	for claim, c := range map[string]struct {
		closed, opened time.Time
		until          time.Time
	}{
		"the role was closed again":                  {time.Time{}, ago(time.Minute), in(reconnectTime + 10*time.Second)},
		"others were still heard for the first time": {ago(20 * time.Second), noon, in(10 * time.Second)},
	} {
		t.Run(claim, func(t *testing.T) {
			ctrl := asked(t)
			ctrl.roles, ctrl.gate = newTestRoles(t).roles, syncGate{since: ago(time.Hour), opened: c.opened}
			r := mustNeed(ctrl.roles, "web")
			r.gate = roleGate{newest: holder{revision: sixthEpoch}, known: webs(1), since: c.closed}
			if ctrl.openRoles(noon); r.gate.open || r.gate.until != c.until {
				t.Errorf("open: %t, until %s; want it closed until %s", r.gate.open, r.gate.until, c.until)
			}
		})
	}
}

func TestMembershipThatIsRememberedClosesNoRole(t *testing.T) {
	c := asked(t)
	c.identity.Epoch = 5
	r := c.roles.byName["web"]
	for _, step := range []struct {
		hash string
		open bool
	}{{r.now.Revision.Hash, true}, {"1-unheard-of", false}} {
		status := kick.ActionStatus{Applied: map[string]kick.Revision{"web": {Epoch: 9, N: 1, Hash: step.hash}}}
		c.byNode["lb1"] = []*action{{node: "lb1", name: "reload", needs: needing(c.roles, "web"), status: status}}
		if c.noteHeld("lb1", noon); r.gate.open != step.open {
			t.Errorf("lb1 holds %s of another controller, and the role is open: %t, want %t", step.hash, r.gate.open, step.open)
		}
	}
}

func TestRosterOfAnotherRevisionIsNoAnswer(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.rosters = map[string][]kick.Member{"lb1/reload": webs(1)}
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload(appliedBefore(webs(10))))
		l.sync(t)
		if v := l.View().Verdicts[0]; gateNames(v) != api.GateSynced || !strings.Contains(v.Gates[0].Why, "lb1/reload was asked") {
			t.Errorf("the gates are %+v, want that lb1 is still asked for the ten", v.Gates)
		}
	})
}

func TestRosterWithoutMembersIsAnAnswer(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.rosters = map[string][]kick.Member{"lb1/reload": nil}
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload(appliedBefore(nil)))
		l.sync(t)
		if kicks := l.kicked(); len(kicks) != 1 {
			t.Errorf("%d kicks, want one: nobody was a member, so nobody is waited for", len(kicks))
		}
	})
}

func slicesOfMembers(r *role) []kick.Member { return append([]kick.Member{}, r.now.Members...) }
