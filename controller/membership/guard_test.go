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

// suspects is n members that joined long ago.
func suspects(n int) map[string]struct{} {
	names := map[string]struct{}{}
	for i := range n {
		names[fmt.Sprint("suspect", i)] = struct{}{}
	}
	return names
}

// losing is the guard of a role that has had size members for two hours and misses some of them since noon.
func losing(size, missing int) *guard {
	var g guard
	g.note(ago(2*time.Hour), size)
	for i := range missing {
		g.lost(fmt.Sprint("web", i), loss{at: noon})
	}
	return &g
}

func TestWhenTheGuardHoldsLosses(t *testing.T) {
	expects := func(percent int, until time.Time) func(*guard) {
		return func(g *guard) { g.expect = expectation{share: 100 - percent, until: until} }
	}
	goneBefore := func(n int, at time.Time) func(*guard) {
		return func(g *guard) {
			for range n {
				g.departed = append(g.departed, departure{at: at})
			}
			g.note(at, g.sizes[len(g.sizes)-1].size-n)
		}
	}
	for _, c := range []struct {
		claim                         string
		size, left, missing, suspects int // left: without the missing, of the size
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
		{"three of twenty, and eight left: no, nine of twelve stay", 20, 9, 3, 0, nil, false},
		{"half, when half are expected to go: no", 10, 5, 5, 0, expects(50, in(time.Second)), false},
		{"more than expected", 10, 4, 6, 0, expects(50, in(time.Second)), true},
		{"half, when that is no longer expected", 10, 5, 5, 0, expects(50, noon), true},
		{"three of ten, when 29 % are expected", 10, 8, 2, 1, expects(29, in(time.Second)), true},
		{"four of twenty, when two are expected: no, 80 % are left", 20, 16, 4, 0, expects(10, in(time.Second)), false},
		{"all, whatever is expected", 10, 0, 10, 0, expects(100, in(time.Second)), true},
	} {
		t.Run(c.claim, func(t *testing.T) {
			g := losing(c.size, c.missing)
			if c.given != nil {
				c.given(g)
			}
			v := g.judge(noon, c.left-c.suspects, suspects(c.suspects), noOthers)
			if held := v.began != ""; held != c.held || (g.hold != nil) != c.held {
				t.Errorf("held: %t, want %t; %+v", held, c.held, g.hold)
			}
		})
	}
}

func TestLossWithoutSuspicionWaitsForOthers(t *testing.T) {
	g := losing(10, 1)
	if v := g.judge(noon, 9, nil, noOthers); v != (verdict{}) || g.next(true) != in(guardPause) {
		t.Fatalf("%+v at once, next %s; want nothing, and the next verdict after the pause", v, g.next(true))
	}
	g.lost("web8", loss{at: noon})
	g.lost("web9", loss{at: in(guardPause / 2)})
	if v := g.judge(in(guardPause/2), 7, nil, noOthers); v.began == "" {
		t.Errorf("two more within the pause: %+v, want all held", v)
	}
	g = losing(10, 1)
	if v := g.judge(in(guardPause), 9, nil, noOthers); !v.released || len(g.missing) != 0 || !g.next(true).IsZero() {
		t.Errorf("after the pause: %+v, %d missing, next %s; want the loss published", v, len(g.missing), g.next(true))
	}
}

func TestHoldSaysWhatOnlyTheLostHaveInCommon(t *testing.T) {
	g := losing(10, 0)
	for i := range 4 {
		g.lost(fmt.Sprint("web", i), loss{at: noon, facts: inventory.Facts{
			"rack": "12", "os": map[string]any{"name": "x"}, "site": "a", "n": float64(i),
			"uplink": map[string]any{"switch": "s7", "port": fmt.Sprint(i)},
		}})
	}
	rest := func() []inventory.Facts {
		return slices.Repeat([]inventory.Facts{{"rack": "13", "os": map[string]any{"name": "x"}, "site": "a"}}, 6)
	}
	v := g.judge(noon, 6, nil, rest)
	want := "4 of 10 are gone or suspect within 1m, all rack=12, uplink.switch=s7"
	if g.hold == nil || g.hold.why != want || v.began != want {
		t.Errorf("the hold is %+v, and %+v; want %q", g.hold, v, want)
	}
}

func TestHoldDoesNotSayWhatManyOfTheRestHave(t *testing.T) {
	g := losing(10, 0)
	for i := range 4 {
		g.lost(fmt.Sprint("web", i), loss{at: noon, facts: inventory.Facts{"rack": "12"}})
	}
	g.judge(noon, 6, nil, func() []inventory.Facts {
		there, elsewhere := inventory.Facts{"rack": "12"}, inventory.Facts{"rack": "13"}
		return []inventory.Facts{there, there, elsewhere, elsewhere, elsewhere, elsewhere}
	})
	if g.hold == nil || strings.Contains(g.hold.why, "rack") {
		t.Errorf("the hold is %+v, though a third of the others are in that rack", g.hold)
	}
}

// The example in the comment of base.
func TestLossesAreComparedWithWhatWasNotReplaced(t *testing.T) {
	var g guard
	g.note(ago(2*time.Hour), 10)
	g.note(ago(30*time.Second), 16)
	g.lost("old1", loss{at: noon})
	g.lost("old2", loss{at: noon})
	for i := range 6 {
		g.joined(fmt.Sprint("new", i), ago(30*time.Second))
	}
	for i := range 3 {
		g.lost(fmt.Sprint("new", i), loss{at: noon})
	}
	if base, gone := g.base(noon, window, 11, nil); base != 14 || gone != 5 || g.tooMany(noon, 11, nil) != nil {
		t.Errorf("%d gone of %d, hold %+v; want 5 of 14 and no hold", gone, base, g.tooMany(noon, 11, nil))
	}
}

func TestMemberMissingAtAStartCounts(t *testing.T) {
	var g guard
	g.note(ago(30*time.Second), 8) // as many as dependents knew
	g.departed = []departure{{at: ago(30 * time.Second)}}
	g.note(ago(30*time.Second), 7)
	g.lost("web1", loss{at: noon})
	g.lost("web2", loss{at: noon})
	if v := g.judge(noon, 5, nil, noOthers); v.began == "" {
		t.Error("three of eight are gone within the minute since the start, and nothing is held")
	}
}

// A repaired link brings nodes back one by one, as each reconnects to the bus.
func TestMembersThatReturnOneByOneAreNeverRemoved(t *testing.T) {
	g := losing(10, 6)
	if v := g.judge(noon, 4, nil, noOthers); v.began == "" {
		t.Fatal("the loss of six of ten is not held")
	}
	sound := 4
	for i, name := range slices.Sorted(maps.Keys(g.missing)) {
		g.back(name)
		sound++
		v := g.judge(in(time.Duration(i)*returnTime/6), sound, nil, noOthers)
		if last := len(g.missing) == 0; v.released || (v.ended != "") != last || (g.hold == nil) != last {
			t.Errorf("with %d of 10 back: %+v", sound, v)
		}
	}
}

func TestHoldThatWouldEndGoesOnWhenMembersAreLostAgain(t *testing.T) {
	g := losing(10, 6)
	g.judge(noon, 4, nil, noOthers)
	g.judge(in(time.Second), 8, nil, noOthers)
	g.judge(in(2*time.Second), 5, suspects(3), noOthers)
	g.judge(in(returnTime), 8, nil, noOthers)
	if v := g.judge(in(2*returnTime-1), 8, nil, noOthers); g.hold == nil || g.next(true) != in(2*returnTime) {
		t.Errorf("%+v, next %s: want the wait to begin anew", v, g.next(true))
	}
}

func TestHoldOfTheLastSoundMemberEndsWhenSuspectsReturn(t *testing.T) {
	g := losing(2, 1)
	if v := g.judge(noon, 0, suspects(1), noOthers); v.began == "" {
		t.Fatal("the last sound member is not held")
	}
	g.judge(in(time.Second), 1, nil, noOthers)
	if v := g.judge(in(time.Second+returnTime), 1, nil, noOthers); v.ended == "" || g.hold != nil {
		t.Errorf("the other one is back, and the loss of one of two is still held: %+v", g.hold)
	}
}

func TestGuardRemembersNoMoreThanTwoHours(t *testing.T) {
	var g guard
	now := noon
	for i := range 15_000 {
		now = now.Add(700 * time.Millisecond)
		g.note(now, 10+i%7)
		if i%3 == 0 {
			g.lost("web0", loss{at: now.Add(-guardPause)})
			g.judge(now, 100, nil, noOthers)
			g.joined(fmt.Sprint("web", i), now)
		}
	}
	const perHour = int(longWindow / guardPause)
	if len(g.sizes) > perHour+2 || len(g.departed) > perHour+2 || len(g.joins) > perHour+2 {
		t.Errorf("%d sizes, %d departures and %d joins are remembered of three hours",
			len(g.sizes), len(g.departed), len(g.joins))
	}
	g.note(now.Add(3*longWindow), 5)
	g.judge(now.Add(3*longWindow), 5, nil, noOthers)
	if len(g.sizes) > 2 || len(g.departed) != 0 || len(g.joins) != 0 {
		t.Errorf("%d sizes, %d departures and %d joins are remembered after three quiet hours",
			len(g.sizes), len(g.departed), len(g.joins))
	}
}

func TestHoldOnAnEmptyRoleDoesNotEndThoughItIsExpected(t *testing.T) {
	g := losing(10, 10)
	g.judge(noon, 0, nil, noOthers)
	g.expect = expectation{share: 0, until: in(time.Hour)}
	for _, at := range []time.Duration{0, returnTime, 2 * returnTime} {
		if v := g.judge(in(at), 0, nil, noOthers); v != (verdict{}) || len(g.missing) != 10 {
			t.Fatalf("after %s: %+v with %d missing, want nothing", at, v, len(g.missing))
		}
	}
}

func TestNewMemberThatWasMissingAndIsBackIsStillNew(t *testing.T) {
	g := losing(10, 0)
	g.note(ago(30*time.Second), 20)
	for i := range 10 {
		name := fmt.Sprint("new", i)
		g.joined(name, ago(30*time.Second))
		g.lost(name, loss{at: ago(20 * time.Second)})
		g.back(name)
	}
	for i := range 10 {
		g.lost(fmt.Sprint("new", i), loss{at: noon})
	}
	if v := g.judge(noon, 10, nil, noOthers); v.began == "" {
		t.Error("the new half of twenty is gone, and counts as the old one that was replaced")
	}
}

func TestReplacedMembersThatWentOneByOneAreNoLoss(t *testing.T) {
	g := losing(10, 2)
	g.note(ago(30*time.Second), 20)
	for range 8 {
		g.departed = append(g.departed, departure{at: ago(20 * time.Second)})
	}
	if v := g.judge(in(guardPause), 10, nil, noOthers); v.began != "" || !v.released {
		t.Errorf("the ten old members went, ten new ones are there: %+v", g.hold)
	}
}

func TestLossesOfAHoldThatEndedCountForTheNext(t *testing.T) {
	g := losing(10, 3)
	g.judge(noon, 7, nil, noOthers)
	g.judge(in(time.Second), 8, nil, noOthers) // another one joined
	if v := g.judge(in(time.Second+returnTime), 8, nil, noOthers); v.ended == "" {
		t.Fatalf("the hold goes on: %+v", g.hold)
	}
	g.note(in(10*time.Second), 8)
	g.lost("web8", loss{at: in(10 * time.Second)})
	if v := g.judge(in(20*time.Second), 7, nil, noOthers); v.began == "" {
		t.Error("a fourth of ten is gone within the minute, and is not held")
	}
}

func TestAcceptedLossesNoLongerCount(t *testing.T) {
	g := losing(10, 0)
	g.departed = []departure{{at: ago(time.Second)}, {at: ago(time.Second)}}
	g.accept(noon, 3)
	g.lost("web9", loss{at: noon})
	if v := g.judge(in(guardPause), 2, nil, noOthers); v.began != "" || !v.released {
		t.Errorf("one of the three that were left is held: %+v", g.hold)
	}
}

// These are the numbers of docs/explanation/design.md.
func TestTimesOfAHoldAreThoseInTheDocs(t *testing.T) {
	g := losing(10, 6)
	g.judge(noon, 4, nil, noOthers)
	if want := in(3 * time.Minute); g.next(true) != want {
		t.Errorf("dependents probe %s, want %s", g.next(true), want)
	}
	if got := g.next(false); !got.IsZero() {
		t.Errorf("without probes something is due %s, want nothing", got)
	}
	g.judge(noon, 8, nil, noOthers)
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
