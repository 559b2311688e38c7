package membership

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }
func in(d time.Duration) time.Time  { return noon.Add(d) }

func noOthers() []inventory.Facts { return nil }

// allGone is what to say if all are gone or suspect.
func allGone(text string) string { return text }

// left is a role of which so many members are sound and suspect. None of them has a name that a test uses.
func left(sound, suspects int) present {
	return present{sound: sound, suspects: suspects, is: func(string) bool { return false }}
}

// losing is the guard of a role that has had its members for two hours and misses some of them since noon.
func losing(missing int) *guard {
	g := &guard{since: ago(2 * time.Hour)}
	for i := range missing {
		g.lost(fmt.Sprint("web", i), loss{at: noon, why: kick.DepartedGone})
	}
	return g
}

// departs publishes that names departed at a time.
func (g *guard) departs(at time.Time, left bool, names ...string) {
	g.published(Diff{Removed: names}, func(string) bool { return left }, at)
}

func (g *guard) joins(at time.Time, names ...string) { g.published(Diff{Added: names}, nil, at) }

func TestWhenTheGuardHoldsLosses(t *testing.T) {
	expects := func(percent int, until time.Time) func(*guard) {
		return func(g *guard) { g.expect = expectation{share: 100 - percent, until: until} }
	}
	goneBefore := func(n int, at time.Time) func(*guard) {
		return func(g *guard) {
			for i := range n {
				g.departs(at, false, fmt.Sprint("before", i))
			}
		}
	}
	for _, c := range []struct {
		claim                         string
		size, left, missing, suspects int // left: without the missing, with the suspects
		given                         func(*guard)
		held                          bool
	}{
		{"two of ten: no", 10, 8, 2, 0, nil, false},
		{"three of ten: yes, seven are no more than 70 %", 10, 7, 3, 0, nil, true},
		{"two of ten, and one is suspect", 10, 8, 2, 1, nil, true},
		{"one of ten, and two are suspect", 10, 9, 1, 2, nil, true},
		{"five of twenty: no, three quarters are left", 20, 15, 5, 0, nil, false},
		{"six of twenty", 20, 14, 6, 0, nil, true},
		{"thirty of a hundred", 100, 70, 30, 0, nil, true},
		{"29 of a hundred: no, 71 are more than 70 %", 100, 71, 29, 0, nil, false},
		{"two of three: no, they are less than three", 3, 1, 2, 0, nil, false},
		{"the only one", 1, 0, 1, 0, nil, true},
		{"the only one that is not suspect", 2, 1, 1, 1, nil, true},
		{"one of two: no", 2, 1, 1, 0, nil, false},
		{"the third of ten within an hour", 10, 7, 1, 0, goneBefore(2, ago(59*time.Minute)), true},
		{"the third of ten after an hour: no", 10, 7, 1, 0, goneBefore(2, ago(61*time.Minute)), false},
		{"the third of ten within a minute", 10, 7, 1, 0, goneBefore(2, ago(50*time.Second)), true},
		{"three of twenty, and eight left: no, nine of twelve stay", 20, 9, 3, 0, func(g *guard) {
			for i := range 8 {
				g.departs(ago(time.Second), true, fmt.Sprint("left", i))
			}
		}, false},
		{"half, when half are expected to go: no", 10, 5, 5, 0, expects(50, in(time.Second)), false},
		{"more than expected", 10, 4, 6, 0, expects(50, in(time.Second)), true},
		{"half, when that is no longer expected", 10, 5, 5, 0, expects(50, noon), true},
		{"three of ten, when 29 % are expected", 10, 8, 2, 1, expects(29, in(time.Second)), true},
		{"four of twenty, when two are expected: no, 80 % are left", 20, 16, 4, 0, expects(10, in(time.Second)), false},
		{"all, whatever is expected", 10, 0, 10, 0, expects(100, in(time.Second)), true},
	} {
		t.Run(c.claim, func(t *testing.T) {
			g := losing(c.missing)
			if c.given != nil {
				c.given(g)
			}
			v := g.judge(noon, left(c.left-c.suspects, c.suspects), allGone, noOthers)
			if held := v.began != ""; held != c.held || (g.hold != nil) != c.held {
				t.Errorf("held: %t, want %t; %+v", held, c.held, g.hold)
			}
		})
	}
}

func TestLossWithoutSuspicionWaitsForOthers(t *testing.T) {
	g := losing(1)
	if v := g.judge(noon, left(9, 0), allGone, noOthers); v != (verdict{}) || g.next(true) != in(guardPause) {
		t.Fatalf("%+v at once, next %s; want nothing, and the next verdict after the pause", v, g.next(true))
	}
	g.lost("web8", loss{at: noon})
	g.lost("web9", loss{at: in(guardPause / 2)})
	if v := g.judge(in(guardPause/2), left(7, 0), allGone, noOthers); v.began == "" {
		t.Errorf("two more within the pause: %+v, want all held", v)
	}
	g = losing(1)
	if v := g.judge(in(guardPause), left(9, 0), allGone, noOthers); !v.released || len(g.missing) != 0 || !g.next(true).IsZero() {
		t.Errorf("after the pause: %+v, %d missing, next %s; want the loss published", v, len(g.missing), g.next(true))
	}
}

func TestHoldSaysWhatOnlyTheLostHaveInCommon(t *testing.T) {
	g := losing(0)
	for i := range 4 {
		g.lost(fmt.Sprint("web", i), loss{at: noon, facts: inventory.Facts{
			"rack": "12", "os": map[string]any{"name": "x"}, "site": "a", "n": float64(i),
			"uplink": map[string]any{"switch": "s7", "port": fmt.Sprint(i)},
		}})
	}
	rest := func() []inventory.Facts {
		return slices.Repeat([]inventory.Facts{{"rack": "13", "os": map[string]any{"name": "x"}, "site": "a"}}, 6)
	}
	v := g.judge(noon, left(6, 0), allGone, rest)
	want := "4 of 10 are gone or suspect within 1m, all rack=12, uplink.switch=s7"
	if g.hold == nil || g.hold.why != want || v.began != want {
		t.Errorf("the hold is %+v, and %+v; want %q", g.hold, v, want)
	}
}

func TestHoldDoesNotSayWhatManyOfTheRestHave(t *testing.T) {
	g := losing(0)
	for i := range 4 {
		g.lost(fmt.Sprint("web", i), loss{at: noon, facts: inventory.Facts{"rack": "12"}})
	}
	g.judge(noon, left(6, 0), allGone, func() []inventory.Facts {
		there, elsewhere := inventory.Facts{"rack": "12"}, inventory.Facts{"rack": "13"}
		return []inventory.Facts{there, there, elsewhere, elsewhere, elsewhere, elsewhere}
	})
	if g.hold == nil || strings.Contains(g.hold.why, "rack") {
		t.Errorf("the hold is %+v, though a third of the others are in that rack", g.hold)
	}
}

// The example in the comment of guard.
func TestLossesAreComparedWithWhatWasNotReplaced(t *testing.T) {
	g := &guard{since: ago(2 * time.Hour)}
	for i := range 6 {
		g.joins(ago(30*time.Second), fmt.Sprint("new", i))
	}
	for _, name := range []string{"old1", "old2", "new0", "new1", "new2"} {
		g.lost(name, loss{at: noon})
	}
	p := left(11, 0)
	p.is = func(name string) bool {
		return strings.HasPrefix(name, "new") && !slices.Contains([]string{"new0", "new1", "new2"}, name)
	}
	if a, r := g.sets(noon, window, p); a != 5 || r != 6 || g.tooMany(noon, p) != nil {
		t.Errorf("A has %d names, R %d, hold %+v; want 5, 6 and no hold", a, r, g.tooMany(noon, p))
	}
}

// A repaired link brings nodes back one by one, as each reconnects to the bus.
func TestMembersThatReturnOneByOneAreNeverRemoved(t *testing.T) {
	g := losing(6)
	if v := g.judge(noon, left(4, 0), allGone, noOthers); v.began == "" {
		t.Fatal("the loss of six of ten is not held")
	}
	sound := 4
	for i, name := range slices.Sorted(maps.Keys(g.missing)) {
		g.back(name)
		sound++
		v := g.judge(in(time.Duration(i)*returnTime/6), left(sound, 0), allGone, noOthers)
		if last := len(g.missing) == 0; v.released || (v.ended != "") != last || (g.hold == nil) != last {
			t.Errorf("with %d of 10 back: %+v", sound, v)
		}
	}
}

func TestHoldThatWouldEndGoesOnWhenMembersAreLostAgain(t *testing.T) {
	g := losing(6)
	g.judge(noon, left(4, 0), allGone, noOthers)
	g.judge(in(time.Second), left(8, 0), allGone, noOthers)
	g.judge(in(2*time.Second), left(5, 3), allGone, noOthers)
	g.judge(in(returnTime), left(8, 0), allGone, noOthers)
	if v := g.judge(in(2*returnTime-1), left(8, 0), allGone, noOthers); g.hold == nil || g.next(true) != in(2*returnTime) {
		t.Errorf("%+v, next %s: want the wait to begin anew", v, g.next(true))
	}
}

func TestHoldOfTheLastSoundMemberEndsWhenSuspectsReturn(t *testing.T) {
	g := losing(1)
	if v := g.judge(noon, left(0, 1), allGone, noOthers); v.began == "" {
		t.Fatal("the last sound member is not held")
	}
	g.judge(in(time.Second), left(1, 0), allGone, noOthers)
	if v := g.judge(in(time.Second+returnTime), left(1, 0), allGone, noOthers); v.ended == "" || g.hold != nil {
		t.Errorf("the other one is back, and the loss of one of two is still held: %+v", g.hold)
	}
}

func TestGuardRemembersNoMoreThanAnHour(t *testing.T) {
	g := &guard{since: ago(2 * time.Hour)}
	now := noon
	for i := range 15_000 {
		now = now.Add(700 * time.Millisecond)
		g.joins(now, fmt.Sprint("web", i))
		if i%3 == 0 {
			g.departs(now, false, fmt.Sprint("web", i))
		}
		g.joins(now, "flapping")
		g.departs(now, false, "flapping")
	}
	perHour := int((longWindow + window) / (700 * time.Millisecond))
	if n := len(g.history); n > perHour+2 || len(g.history["flapping"]) > maxSteps {
		t.Errorf("%d names of three hours are remembered, and %d steps of one", n, len(g.history["flapping"]))
	}
	g.joins(now.Add(2*longWindow), "last")
	if n := len(g.history); n != 1 {
		t.Errorf("%d names are remembered after two quiet hours", n)
	}
}

func TestStepsThatAreForgottenChangeNoSet(t *testing.T) {
	g := &guard{since: ago(2 * time.Hour)}
	for i := range 2 * maxSteps {
		at := ago(time.Duration(4*maxSteps-2*i) * time.Second)
		g.departs(at, false, "old")
		g.joins(at.Add(time.Second), "old")
		g.joins(at, "new")
		g.departs(at.Add(time.Second), false, "new")
	}
	g.joins(noon, "new")
	isOld := func(name string) bool { return true }
	if a, r := g.sets(noon, longWindow, present{is: isOld}); a != 0 || r != 1 {
		t.Errorf("A has %d names and R %d, want none and the one that was not there an hour ago", a, r)
	}
}

func TestHoldOnAnEmptyRoleDoesNotEndThoughItIsExpected(t *testing.T) {
	g := losing(10)
	g.judge(noon, left(0, 0), allGone, noOthers)
	g.expect = expectation{share: 0, until: in(time.Hour)}
	for _, at := range []time.Duration{0, returnTime, 2 * returnTime} {
		if v := g.judge(in(at), left(0, 0), allGone, noOthers); v != (verdict{}) || len(g.missing) != 10 {
			t.Fatalf("after %s: %+v with %d missing, want nothing", at, v, len(g.missing))
		}
	}
}

// Cases B5: one node that dies three times is one, and those that were once away are none.
func TestNamesCountAndNotDepartures(t *testing.T) {
	g := &guard{since: ago(2 * time.Hour)}
	for i := range 3 {
		at := ago(time.Duration(40-10*i) * time.Second)
		g.departs(at, false, "web3", "web4")
		g.joins(at.Add(time.Second), "web3", "web4")
	}
	g.departs(ago(time.Second), true, "web2")
	g.lost("web5", loss{at: noon})
	p := left(3, 0)
	p.is = func(name string) bool { return name != "web5" && name != "web2" }
	if a, r := g.sets(noon, window, p); a != 1 || r != 0 || g.tooMany(noon, p) != nil {
		t.Errorf("A has %d names, R %d, hold %+v; want web5 alone, and no hold", a, r, g.tooMany(noon, p))
	}
}

func TestReplacedMembersThatWentOneByOneAreNoLoss(t *testing.T) {
	g := losing(2)
	for i := range 10 {
		g.joins(ago(30*time.Second), fmt.Sprint("new", i))
	}
	for i := range 8 {
		g.departs(ago(20*time.Second), false, fmt.Sprint("old", i))
	}
	p := left(10, 0)
	p.is = func(name string) bool { return strings.HasPrefix(name, "new") }
	if v := g.judge(in(guardPause), p, allGone, noOthers); v.began != "" || !v.released {
		t.Errorf("the ten old members went, ten new ones are there: %+v", g.hold)
	}
}

func TestNodesThatJoinedAndLeftReplaceNoLoss(t *testing.T) {
	g := losing(4)
	for i := range 6 {
		g.joins(ago(30*time.Second), fmt.Sprint("new", i))
		g.departs(ago(20*time.Second), true, fmt.Sprint("new", i))
	}
	if v := g.judge(noon, left(6, 0), allGone, noOthers); v.began == "" {
		t.Error("four of ten are gone, and six that were there for a moment count as their replacement")
	}
}

func TestLossesOfAHoldThatEndedCountForTheNext(t *testing.T) {
	g := losing(3)
	g.judge(noon, left(7, 0), allGone, noOthers)
	g.joins(in(time.Second), "another")
	g.judge(in(time.Second), left(8, 0), allGone, noOthers)
	if v := g.judge(in(time.Second+returnTime), left(8, 0), allGone, noOthers); v.ended == "" {
		t.Fatalf("the hold goes on: %+v", g.hold)
	}
	g.lost("web8", loss{at: in(10 * time.Second)})
	if v := g.judge(in(20*time.Second), left(7, 0), allGone, noOthers); v.began == "" {
		t.Error("a fourth of ten is gone within the minute, and is not held")
	}
}

func TestAcceptedLossesNoLongerCount(t *testing.T) {
	g := losing(0)
	g.departs(ago(time.Second), false, "web1", "web2", "web3")
	g.accept(noon)
	g.lost("web9", loss{at: noon})
	if v := g.judge(in(guardPause), left(2, 0), allGone, noOthers); v.began != "" || !v.released {
		t.Errorf("one of the three that were left is held: %+v", g.hold)
	}
}

// These are the numbers of docs/explanation/design.md.
func TestTimesOfAHoldAreThoseInTheDocs(t *testing.T) {
	g := losing(6)
	g.judge(noon, left(4, 0), allGone, noOthers)
	if want := in(3 * time.Minute); g.next(true) != want {
		t.Errorf("dependents probe %s, want %s", g.next(true), want)
	}
	if got := g.next(false); !got.IsZero() {
		t.Errorf("without probes something is due %s, want nothing", got)
	}
	g.judge(noon, left(8, 0), allGone, noOthers)
	if want := in(5 * time.Second); g.next(true) != want || g.next(false) != want {
		t.Errorf("with enough back the hold ends %s, or without probes %s; want %s", g.next(true), g.next(false), want)
	}
}

func TestAddressesOfTheLost(t *testing.T) {
	var g guard
	for i := range 2 * inventory.MaxTargets {
		facts := inventory.Facts{"ipaddress": fmt.Sprintf("10.0.0.%d", i), "port": 80.0}
		g.lost(fmt.Sprintf("a%03d", i), loss{facts: facts})
	}
	if got := g.addresses(); len(got) != inventory.MaxTargets {
		t.Errorf("one probe has %d targets, want %d", len(got), inventory.MaxTargets)
	}
	g = guard{}
	g.lost("b", loss{facts: inventory.Facts{"ipaddress": "fd00::1", "port": "8080"}})
	g.lost("c", loss{facts: inventory.Facts{"ipaddress": "10.0.0.1"}})
	recovered := map[string]any{"ipaddress": "10.0.0.2", "port": 80.0}
	g.lost("d", loss{member: kick.Member{Facts: recovered}})
	if got, want := g.addresses(), []string{"[fd00::1]:8080", "10.0.0.2:80"}; !slices.Equal(got, want) {
		t.Errorf("the addresses are %q, want %q", got, want)
	}
}
