package membership

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/inventory"
	"kicker/kick"
)

func TestRecoveryWaitsForMembersThatReturnOneByOne(t *testing.T) {
	known := make([]kick.Member, 20)
	for i := range known {
		known[i].Node = fmt.Sprintf("web%02d", i)
	}
	g := recovery{newest: Holder{Revision: kick.Revision{Epoch: 6, N: 1, Hash: "1-a"}}, known: known}
	const gone = 10 * time.Second
	for i := range 15 { // web15 to web19 do not return
		back := func(node string) bool { return node <= fmt.Sprintf("web%02d", i) }
		g.judge(in(time.Duration(i)*9*time.Second), in(gone), gone, back)
		if g.done {
			t.Fatalf("done when %d of 20 had reported, one every 9 s", i+1)
		}
	}
	last := 14*9*time.Second + gone
	back := func(node string) bool { return node <= "web14" }
	if g.judge(in(last-1), in(gone), gone, back); g.done || g.until != in(last) {
		t.Errorf("done: %t, until %s; want it to wait until %s", g.done, g.until, in(last))
	}
	if g.judge(in(last), in(gone), gone, back); !g.done {
		t.Error("it still waits, though no member reported for the time in which one is gone")
	}
}

// The example in the comment of judge.
func TestRecoveryWaitsLongerAfterAMemberReported(t *testing.T) {
	at := func(second int) time.Time { return in(time.Duration(second) * time.Second) }
	g := recovery{
		newest: Holder{Revision: kick.Revision{Epoch: 6, N: 1, Hash: "1-a"}},
		known:  []kick.Member{{Node: "web1"}, {Node: "web2"}, {Node: "web3"}, {Node: "web4"}, {Node: "web5"}},
	}
	g.judge(at(1), at(12), 10*time.Second, func(node string) bool { return node <= "web3" })
	if g.until != at(12) {
		t.Errorf("with three of five it waits until %s, want %s", g.until, at(12))
	}
	g.judge(at(8), at(12), 10*time.Second, func(node string) bool { return node <= "web4" })
	if g.until != at(18) {
		t.Errorf("with four of five it waits until %s, want %s", g.until, at(18))
	}
}

func TestMembersOfANewerRevisionAreCountedAnew(t *testing.T) {
	of := func(n int64) Holder {
		return Holder{kick.Revision{Epoch: 6, N: n, Hash: fmt.Sprint("1-", n)}, "lb1", "reload", "web"}
	}
	all := func(string) bool { return true }
	only1 := func(node string) bool { return node == "web1" }
	var g recovery
	const gone = 10 * time.Second
	g.report(of(1))
	g.known = []kick.Member{{Node: "old1"}, {Node: "old2"}, {Node: "gone"}}
	g.judge(noon, in(time.Second), gone, func(node string) bool { return node != "gone" })
	g.report(of(2))
	g.known = []kick.Member{{Node: "web1"}, {Node: "web2"}}
	if g.judge(in(5*time.Second), in(time.Second), gone, only1); g.done || g.until != in(5*time.Second+gone) {
		t.Errorf("done: %t, until %s; want the time since the first of these members reported, until %s",
			g.done, g.until, in(5*time.Second+gone))
	}
	if g.judge(in(6*time.Second), in(time.Second), gone, all); !g.done {
		t.Error("it still waits, though all have reported")
	}
}

func TestWhatARecoveryWaitsFor(t *testing.T) {
	known := []kick.Member{{Node: "web1"}, {Node: "web2"}}
	held := kick.Revision{Epoch: 6, N: 1, Hash: "1-6-1"}
	for _, c := range []struct {
		claim    string
		recovery recovery
		present  string
		now      time.Time
		done     bool
		why      string
	}{
		{"nothing, when no action has applied the role", recovery{}, "", noon, true, ""},
		{"a holder's member list", recovery{newest: Holder{held, "lb1", "reload", "web"}}, "", noon, false,
			"waiting for lb1/reload to report the members it last applied"},
		{"a holder, but not for ever", recovery{newest: Holder{held, "lb1", "reload", "web"}}, "", in(time.Minute), true, ""},
		{"the known members", recovery{newest: Holder{Revision: held}, known: known}, "web1", noon, false,
			"1 of 2 last known members have not reported yet: web2"},
		{"until all have reported", recovery{newest: Holder{Revision: held}, known: known}, "web1 web2", noon, true, ""},
		{"or had the time to", recovery{newest: Holder{Revision: held}, known: known, have: 1}, "web1", in(time.Minute),
			true, ""},
		{"nothing, when there was no member", recovery{newest: Holder{Revision: held}, known: []kick.Member{}}, "", noon,
			true, ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			g := &c.recovery
			g.why, g.until = "what it waited for before", noon
			g.judge(c.now, in(time.Minute), 10*time.Second, func(node string) bool { return strings.Contains(c.present, node) })
			if g.done != c.done || g.why != c.why || g.until.IsZero() != c.done {
				t.Errorf("done: %t (%q, until %s), want %t (%q)", g.done, g.why, g.until, c.done, c.why)
			}
		})
	}
}

func TestNewestReportedRevisionCounts(t *testing.T) {
	of := func(epoch, n int64, node string) Holder {
		return Holder{kick.Revision{Epoch: epoch, N: n, Hash: fmt.Sprint("1-", epoch, "-", n)}, node, "reload", "web"}
	}
	var g recovery
	for _, step := range []struct {
		reported Holder
		newest   string
		others   int
		asked    bool // what was learned still counts
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
		g.report(step.reported)
		if g.asked.IsZero() == step.asked {
			t.Fatalf("after %+v: asked %s, want only a holder of a newer revision to be asked at once", step.reported, g.asked)
		}
		if g.newest.Node != step.newest || len(g.others) != step.others || (g.known != nil) != step.asked {
			t.Fatalf("after %+v: the newest is %+v, with %d others, known: %t; want %+v",
				step.reported, g.newest, len(g.others), g.known != nil, step)
		}
		g.known = []kick.Member{}
	}
	for i := range 100 {
		g.report(of(6, 1, fmt.Sprint("n", i)))
	}
	if len(g.others) > 10 {
		t.Errorf("%d other holders of the revision are remembered", len(g.others))
	}
}

// A holder that reports the same members at a newer revision, and reports again, must not be the only one to be asked:
// if it dies then, the role would be recovered without the members that the other one remembers.
func TestSameMembersAtANewerRevisionHaveTwoHolders(t *testing.T) {
	older := Holder{kick.Revision{Epoch: 5, N: 1, Hash: "1-a"}, "lb1", "reload", "web"}
	newer := Holder{kick.Revision{Epoch: 6, N: 1, Hash: "1-a"}, "lb2", "reload", "web"}
	for _, reported := range [][]Holder{{older, newer, newer}, {newer, older, newer}, {older, newer, newer, older}} {
		var g recovery
		asked := map[string]bool{}
		for _, h := range reported {
			g.report(h)
		}
		for second := range 4 {
			if h, ask := g.question(in(time.Duration(second) * time.Second)); ask {
				asked[h.Node] = true
			}
			if g.newest.Revision != newer.Revision {
				t.Errorf("after %v the newest revision is %+v, want %+v", reported, g.newest.Revision, newer.Revision)
			}
		}
		if !asked["lb1"] || !asked["lb2"] {
			t.Errorf("after %v only %v are asked, want both holders", reported, asked)
		}
	}
}

func TestHoldersAreAskedInTurnOnceASecond(t *testing.T) {
	var g recovery
	for _, node := range []string{"lb1", "lb2", "lb3"} {
		g.report(Holder{formerRevision, node, "reload", "web"})
	}
	var asked []string
	for ms := range 4000 {
		if h, ask := g.question(in(time.Duration(ms) * time.Millisecond)); ask {
			asked = append(asked, fmt.Sprint(h.Node, " ", ms))
		}
	}
	if diff := cmp.Diff([]string{"lb1 0", "lb2 1000", "lb3 2000", "lb1 3000"}, asked); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
	g.known = []kick.Member{}
	if h, ask := g.question(in(time.Minute)); ask {
		t.Errorf("%s is asked, though the members are known", h.Node)
	}
}

var formerRevision = kick.Revision{Epoch: 6, N: 1, Hash: "1-a"}

// recovering is a table whose role web is recovered from a holder that has answered with n members, web1 to webn.
func recovering(t *testing.T, n int) (*Table, *Role) {
	t.Helper()
	table, err := New(Config{GoneAfter: inventory.DefaultGoneAfter})
	if err != nil {
		t.Fatal(err)
	}
	r, err := table.role("web")
	if err != nil {
		t.Fatal(err)
	}
	r.recovery = recovery{newest: Holder{Revision: formerRevision}, known: webs(n)}
	return table, r
}

func webs(n int) []kick.Member {
	members := []kick.Member{}
	for i := range n {
		members = append(members, kick.Member{Node: fmt.Sprint("web", i+1), Facts: map[string]any{}})
	}
	return members
}

// receive gives an inventory a heartbeat of a node that has role web, and its facts if they are known.
func receive(t *testing.T, inv *inventory.Inventory, node string, known bool, changes ...func(*inventory.Beat)) {
	t.Helper()
	facts := inventory.Facts{"role": "web"}
	b := inventory.Beat{
		Node: node, Instance: "m", Boot: "b", Conn: inventory.Conn{Server: node, Client: 1}, Facts: facts.Digest(),
		Ready: true, NextIn: 1000,
	}
	for _, change := range changes {
		change(&b)
	}
	received := []inventory.Received{{At: noon, Beat: &b}}
	if known {
		m := inventory.FactsMessage{Node: node, Instance: "m", Boot: "b", Facts: facts}
		received = append(received, inventory.Received{At: noon, Facts: &m})
	}
	for _, m := range received {
		if _, err := inv.Apply(m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecoveryKeepsWhatIsKnownOfTheMissing(t *testing.T) {
	_, r := recovering(t, 10)
	for _, m := range webs(10)[:6] {
		r.guard.lost(m.Node, loss{member: m, facts: inventory.Facts{"rack": "12"}, at: noon})
	}
	for _, m := range webs(10)[6:] {
		r.members[m.Node] = m
	}
	r.guard.hold = &hold{since: noon}
	r.recovered(inventory.New().Snapshot(), in(time.Minute))
	if r.guard.hold == nil || len(r.guard.missing) != 6 {
		t.Fatalf("%d are missing, hold %+v; want the six that were", len(r.guard.missing), r.guard.hold)
	}
	for name, l := range r.guard.missing {
		if l.facts["rack"] != "12" || l.at != noon {
			t.Errorf("what was known of %s became %+v", name, l)
		}
	}
}

func TestKnownMembersThatAreNoneAndDidNotLeaveAreLosses(t *testing.T) {
	table, r := recovering(t, 4)
	inv := inventory.New()
	receive(t, inv, "web1", true)
	receive(t, inv, "web2", true, func(b *inventory.Beat) { b.Ready = false })
	receive(t, inv, "web3", true, func(b *inventory.Beat) { b.Leaving = true })
	if err := table.Apply(inventory.Change{After: inv.Snapshot().Node("web1")}, noon); err != nil {
		t.Fatal(err)
	}
	r.recovered(inv.Snapshot(), noon)
	if got := slices.Sorted(maps.Keys(r.guard.missing)); !slices.Equal(got, []string{"web2", "web4"}) {
		t.Errorf("lost are %q, want the one that is not ready and the one that has not reported", got)
	}
	for name, l := range r.guard.missing {
		if l.due().After(noon) {
			t.Errorf("%s is due %s, though it had its time", name, l.due())
		}
	}
	if f := r.guard.missing["web2"].facts; f["role"] != "web" || r.guard.missing["web4"].facts != nil {
		t.Errorf("the facts of web2 are %v, want what it reported; web4 has none", f)
	}
	if _, known := r.Past(formerRevision.Hash); !known || r.recovery.basis != formerRevision {
		t.Errorf("recovered is %+v, remembered: %t; want what dependents hold", r.recovery.basis, known)
	}
	if p := r.present(); len(p.fresh) != 0 {
		t.Errorf("%q count as new, though they were there", p.fresh)
	}
	table.Publish(7, inv.Snapshot(), in(guardPause))
	r.guard.lost("web5", loss{at: in(guardPause)})
	if a, _ := r.guard.sets(in(guardPause), window, left(0, 0)); a != 3 {
		t.Errorf("lost are %d, want the two of the start and another one", a)
	}
}

func TestMemberThatRestartedBeforeItsFactsCameHasItsTime(t *testing.T) {
	_, r := recovering(t, 4)
	inv := inventory.New()
	restarting := func(b *inventory.Beat) { b.RestartWithin = inventory.MaxRestart.Milliseconds() }
	receive(t, inv, "web1", false, restarting)
	receive(t, inv, "web2", true, restarting, func(b *inventory.Beat) { b.Checking, b.Ready = true, false })
	receive(t, inv, "web3", true, restarting, func(b *inventory.Beat) { b.Ready = false })
	receive(t, inv, "web4", false)
	r.recovered(inv.Snapshot(), noon)
	for name, want := range map[string]time.Time{
		"web1": in(time.Minute + guardPause), "web2": in(time.Minute + guardPause), "web3": noon, "web4": noon,
	} {
		if got := r.guard.missing[name].due(); got != want {
			t.Errorf("%s is due %s, want %s", name, got, want)
		}
	}
}

func TestMemberHasReportedWhenFactsAndReadinessAreKnown(t *testing.T) {
	for _, c := range []struct {
		claim    string
		facts    bool
		checking bool
		open     bool
	}{
		{"both are known", true, false, true},
		{"its facts are not known yet", false, false, false},
		{"its readiness is still being checked", true, true, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			table, r := recovering(t, 1)
			inv := inventory.New()
			receive(t, inv, "web1", c.facts, func(b *inventory.Beat) { b.Checking, b.Ready = c.checking, !c.checking })
			table.Recover(inv.Snapshot(), Reports{Since: noon, Synced: noon, Epochs: []int64{7}}, noon)
			if r.Open() != c.open {
				t.Errorf("open: %t, want %t", r.Open(), c.open)
			}
		})
	}
}

func TestRecoveryWaitsFromTheLastTimeThatReportsWereMissed(t *testing.T) {
	for claim, c := range map[string]struct {
		began, synced time.Time
		until         time.Time
	}{
		"the role closed again":            {time.Time{}, ago(time.Minute), in(ReconnectTime + 10*time.Second)},
		"other nodes reported until later": {ago(20 * time.Second), noon, in(10 * time.Second)},
	} {
		t.Run(claim, func(t *testing.T) {
			table, r := recovering(t, 1)
			r.recovery.began = c.began
			reports := Reports{Since: ago(time.Hour), Synced: c.synced, Epochs: []int64{7}}
			table.Recover(inventory.New().Snapshot(), reports, noon)
			if s := r.Sync(); s.Open || s.Until != c.until {
				t.Errorf("open: %t, until %s; want it closed until %s", s.Open, s.Until, c.until)
			}
			if next := table.Next(true); next != c.until {
				t.Errorf("something is due %s, want %s", next, c.until)
			}
		})
	}
}

func TestHolderThatIsOutForAMomentIsWaitedFor(t *testing.T) {
	restarting := func(b *inventory.Beat) { b.RestartWithin = inventory.MaxRestart.Milliseconds() }
	for claim, c := range map[string]struct {
		change func(*inventory.Beat)
		until  time.Time
	}{
		"it is just back":  {func(*inventory.Beat) {}, in(10 * time.Second)},
		"it is restarting": {restarting, in(70 * time.Second)},
	} {
		t.Run(claim, func(t *testing.T) {
			table, r := recovering(t, 0)
			r.recovery = recovery{began: ago(time.Hour)}
			inv := inventory.New()
			receive(t, inv, "lb1", true, c.change)
			r.recovery.report(Holder{formerRevision, "lb1", "reload", "web"})
			table.Recover(inv.Snapshot(), Reports{Since: ago(time.Hour), Epochs: []int64{7}}, noon)
			if s := r.Sync(); s.Open || s.Until != c.until {
				t.Errorf("open: %t, until %s; want it closed until %s", s.Open, s.Until, c.until)
			}
			if next := table.Next(true); next != in(askAgain) {
				t.Errorf("something is due %s, want another question %s", next, in(askAgain))
			}
		})
	}
}
