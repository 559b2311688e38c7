package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kicker/inventory"
	"kicker/kick"
)

func nobodyElse() []inventory.Facts { return nil }

// suspects is so many members that were there for long.
func suspects(n int) map[string]struct{} {
	names := map[string]struct{}{}
	for i := range n {
		names[fmt.Sprint("suspect", i)] = struct{}{}
	}
	return names
}

// losing is the guard of a role that has had so many members for two hours and misses some of them since noon.
func losing(size, missing int) *guard {
	var g guard
	g.note(ago(2*time.Hour), size)
	for i := range missing {
		g.lost(fmt.Sprint("web", i), loss{at: noon})
	}
	return &g
}

func TestWhatTheGuardDoesNotBelieve(t *testing.T) {
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
		claim                   string
		size, missing, suspects int
		given                   func(*guard)
		held                    bool
	}{
		{"two of ten are believed", 10, 2, 0, nil, false},
		{"three of ten are not: seven are no more than 70 %", 10, 3, 0, nil, true},
		{"nor two, and a third that is suspect", 10, 2, 1, nil, true},
		{"nor one, and two that are suspect", 10, 1, 2, nil, true},
		{"five of twenty are: three quarters are left", 20, 5, 0, nil, false},
		{"six of twenty are not", 20, 6, 0, nil, true},
		{"nor are thirty of a hundred", 100, 30, 0, nil, true},
		{"29 are: 71 are more than 70 %", 100, 29, 0, nil, false},
		{"two of three are believed: they are less than three", 3, 2, 0, nil, false},
		{"the only one is not", 1, 1, 0, nil, true},
		{"nor the only one that is not suspect", 2, 1, 1, nil, true},
		{"one of two is", 2, 1, 0, nil, false},
		{"the third within an hour is not", 8, 1, 0, goneBefore(2, ago(59*time.Minute)), true},
		{"though it is after an hour", 8, 1, 0, goneBefore(2, ago(61*time.Minute)), false},
		{"nor the third within a minute", 8, 1, 0, goneBefore(2, ago(50*time.Second)), true},
		{"eight goodbyes of twenty are no departures: nine of twelve are left", 12, 3, 0, func(g *guard) { g.sizes[0].size = 20 }, false},
		{"half of them are, if half are expected to go", 10, 5, 0, expects(50, in(time.Second)), false},
		{"more than expected are not", 10, 6, 0, expects(50, in(time.Second)), true},
		{"nor are they when it is not expected any more", 10, 5, 0, expects(50, noon), true},
		{"who expects a few is not asked about fewer", 10, 2, 1, expects(29, in(time.Second)), true},
		{"and an expectation makes nobody more cautious", 20, 4, 0, expects(10, in(time.Second)), false},
		{"nobody expects a role to be empty", 10, 10, 0, expects(100, in(time.Second)), true},
	} {
		t.Run(c.claim, func(t *testing.T) {
			size := c.size
			if strings.Contains(c.claim, "third within") || strings.Contains(c.claim, "after an hour") {
				size += 2 // those that were believed
			}
			g := losing(size, c.missing)
			if c.given != nil {
				c.given(g)
			}
			j := g.judge(noon, c.size-c.missing-c.suspects, suspects(c.suspects), nobodyElse)
			if held := j.began != nil; held != c.held || (g.hold != nil) != c.held {
				t.Errorf("held: %t, want %t; %+v", held, c.held, g.hold)
			}
		})
	}
}

func TestDepartureThatNobodySuspectedWaitsForOthersLikeIt(t *testing.T) {
	g := losing(10, 1)
	if j := g.judge(noon, 9, nil, nobodyElse); j != (judgement{}) || g.next() != in(guardPause) {
		t.Fatalf("%+v at once, again %s; want nothing, and to be judged again after the pause", j, g.next())
	}
	g.lost("web8", loss{at: noon})
	g.lost("web9", loss{at: in(guardPause / 2)})
	if j := g.judge(in(guardPause/2), 7, nil, nobodyElse); j.began == nil {
		t.Errorf("two more within the pause: %+v, want all held", j)
	}
	g = losing(10, 1)
	if j := g.judge(in(guardPause), 9, nil, nobodyElse); !j.released || len(g.missing) != 0 || !g.next().IsZero() {
		t.Errorf("after the pause: %+v, %d missing, next %s; want it believed", j, len(g.missing), g.next())
	}
}

func TestHoldSaysWhatTheLostHaveInCommonAndTheRestHasNot(t *testing.T) {
	g := losing(10, 0)
	for i := range 4 {
		g.lost(fmt.Sprint("web", i), loss{at: noon, facts: inventory.Facts{
			"rack": "12", "os": map[string]any{"name": "x"}, "site": "a", "n": float64(i), "uplink": map[string]any{"switch": "s7", "port": fmt.Sprint(i)},
		}})
	}
	rest := func() []inventory.Facts {
		return slices.Repeat([]inventory.Facts{{"rack": "13", "os": map[string]any{"name": "x"}, "site": "a"}}, 6)
	}
	g.judge(noon, 6, nil, rest)
	if want := "4 of 10 are gone or suspect within 1m0s, all rack=12, uplink.switch=s7"; g.hold == nil || g.hold.why != want {
		t.Errorf("the hold is %+v, want %q", g.hold, want)
	}
}

// held is a role of ten with a hold on six.
func held(t *testing.T) testRoles {
	t.Helper()
	rs := newTestRoles(t)
	for i := range 10 {
		rs.joined(fmt.Sprint("web", i), ago(time.Hour))
	}
	rs.publish()
	for i := range 6 {
		rs.mustMove(serving(fmt.Sprint("web", i), inventory.Facts{"role": "web"}), nil, noon)
	}
	if rs.publish(); rs.byName["web"].guard.hold == nil {
		t.Fatal("six of ten are not held")
	}
	return rs
}

func TestHowAHoldEnds(t *testing.T) {
	web := func(i int) *inventory.Node { return serving(fmt.Sprint("web", i), inventory.Facts{"role": "web"}) }
	as := func(n *inventory.Node, life inventory.Life) *inventory.Node { n.Life = life; return n }
	for _, c := range []struct {
		claim   string
		happens func(rs testRoles)
		ends    bool
		members int
	}{
		{"not by itself", func(testRoles) {}, false, 10},
		{"not when three are back: seven are too few", func(rs testRoles) {
			for i := range 3 {
				rs.mustMove(nil, web(i), noon)
			}
		}, false, 10},
		{"when four are back", func(rs testRoles) {
			for i := range 4 {
				rs.mustMove(nil, web(i), noon)
			}
		}, true, 8},
		{"when all are back", func(rs testRoles) {
			for i := range 6 {
				rs.mustMove(nil, web(i), noon)
			}
		}, true, 10},
		{"when all say goodbye", func(rs testRoles) {
			for i := range 6 {
				rs.mustMove(nil, as(web(i), inventory.Left), noon)
			}
		}, true, 4},
		{"when so many say goodbye that the rest can be believed", func(rs testRoles) {
			for i := range 4 {
				rs.mustMove(nil, as(web(i), inventory.Left), noon)
			}
		}, true, 4},
		{"not when fewer do", func(rs testRoles) {
			for i := range 3 {
				rs.mustMove(nil, as(web(i), inventory.Left), noon)
			}
		}, false, 7},
		{"when others take their place", func(rs testRoles) {
			for i := range 4 {
				rs.mustMove(nil, serving(fmt.Sprint("new", i), inventory.Facts{"role": "web"}), noon)
			}
		}, true, 8},
		{"not while too few have: they join all the same", func(rs testRoles) {
			for i := range 3 {
				rs.mustMove(nil, serving(fmt.Sprint("new", i), inventory.Facts{"role": "web"}), noon)
			}
		}, false, 13},
		{"when an operator accepts it", func(rs testRoles) {
			r := rs.byName["web"]
			r.guard.accept(noon, len(r.members))
			r.note(noon)
		}, true, 4},
		{"goodbyes count whatever the facts say by then", func(rs testRoles) {
			for i := range 6 {
				n := as(web(i), inventory.Left)
				n.Facts = inventory.Facts{}
				rs.mustMove(nil, n, noon)
			}
		}, true, 4},
	} {
		t.Run(c.claim, func(t *testing.T) {
			rs := held(t)
			c.happens(rs)
			rs.publish()
			r := rs.byName["web"]
			nothing := func(string) inventory.Facts { return nil }
			if r.guard.hold != nil {
				if early := rs.roles.publish(7, in(guardPause+guardMend-1), nothing); len(early) > 0 {
					t.Errorf("before the others may have followed: %+v", early)
				}
				rs.roles.publish(7, in(guardPause+guardMend), nothing)
			}
			if ended := r.guard.hold == nil; ended != c.ends || len(r.now.Members) != c.members {
				t.Errorf("ended: %t with %d members, want %t with %d", ended, len(r.now.Members), c.ends, c.members)
			}
		})
	}
}

// A role that grew within a window may be a replacement under way, or a start.
func TestRoleThatGrewIsGuarded(t *testing.T) {
	for _, c := range []struct {
		claim                      string
		old, new                   int
		oldGone, newGone, oldDoubt int
		held                       bool
	}{
		{"whoever was there goes when as many others are: blue and green", 10, 10, 10, 0, 0, false},
		{"and while most of them are only suspect", 10, 10, 1, 0, 9, false},
		{"those that joined go again: half of what there was", 10, 10, 0, 10, 0, true},
		{"half of both go: a link is dead", 4, 4, 2, 2, 0, true},
		{"half of a role that is just starting", 1, 7, 1, 3, 0, true},
		{"more go than were replaced", 10, 3, 7, 0, 0, true},
		{"no more than were replaced", 10, 3, 4, 0, 0, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			rs := newTestRoles(t)
			web := func(generation string, i int) *inventory.Node {
				return serving(fmt.Sprint(generation, i), inventory.Facts{"role": "web"})
			}
			publish := func(now time.Time) *role {
				r := mustNeed(rs.roles, "web")
				r.gate.open = true
				rs.roles.publish(7, now, func(string) inventory.Facts { return nil })
				return r
			}
			for i := range c.old {
				rs.joined(fmt.Sprint("old", i), ago(40*time.Second))
			}
			publish(ago(40 * time.Second))
			for i := range c.new {
				rs.joined(fmt.Sprint("new", i), ago(30*time.Second))
			}
			publish(ago(30 * time.Second))
			for i := range c.oldGone {
				rs.mustMove(web("old", i), nil, noon)
			}
			for i := range c.newGone {
				rs.mustMove(web("new", i), nil, noon)
			}
			for i := range c.oldDoubt {
				suspect := web("old", c.oldGone+i)
				suspect.Life = inventory.Suspect
				rs.mustMove(web("old", c.oldGone+i), suspect, noon)
			}
			if r := publish(noon); (r.guard.hold != nil) != c.held {
				t.Errorf("held: %t, want %t; %+v", r.guard.hold != nil, c.held, r.guard.hold)
			}
		})
	}
}

func TestWhoWasMissingAtAStartCounts(t *testing.T) {
	var g guard
	g.note(ago(30*time.Second), 8) // that dependents knew of
	g.departed = []departure{{at: ago(30 * time.Second)}}
	g.note(ago(30*time.Second), 7)
	g.lost("web1", loss{at: noon})
	g.lost("web2", loss{at: noon})
	if j := g.judge(noon, 5, nil, nobodyElse); j.began == nil {
		t.Error("three of eight are gone within the minute since the start, and are believed")
	}
}

// A link that is mended brings nodes back one by one, each as it finds the bus again.
func TestThoseThatFollowTheFirstThatAreBackAreNeverRemoved(t *testing.T) {
	g := losing(10, 6)
	if j := g.judge(noon, 4, nil, nobodyElse); j.began == nil {
		t.Fatal("the loss of six of ten is not held")
	}
	sound := 4
	for i, name := range sortedKeys(g.missing) {
		g.back(name)
		sound++
		j := g.judge(in(time.Duration(i)*guardMend/6), sound, nil, nobodyElse)
		if last := len(g.missing) == 0; j.released || (j.ended != "") != last || (g.hold == nil) != last {
			t.Errorf("with %d of 10 back: %+v", sound, j)
		}
	}
}

func TestHoldWhoseEndIsNearGoesOnWhenTheyAreLostAgain(t *testing.T) {
	g := losing(10, 6)
	g.judge(noon, 4, nil, nobodyElse)
	g.judge(in(time.Second), 8, nil, nobodyElse)
	g.judge(in(2*time.Second), 5, suspects(3), nobodyElse)
	g.judge(in(guardMend), 8, nil, nobodyElse)
	if j := g.judge(in(2*guardMend-1), 8, nil, nobodyElse); g.hold == nil || g.next() != in(2*guardMend) {
		t.Errorf("%+v, judged again %s: want the wait to begin anew", j, g.next())
	}
}

func TestHoldBecauseNothingSoundWasLeftEndsWhenTheSuspectsAreBack(t *testing.T) {
	g := losing(2, 1)
	if j := g.judge(noon, 0, suspects(1), nobodyElse); j.began == nil {
		t.Fatal("the last sound member is not held")
	}
	g.judge(in(time.Second), 1, nil, nobodyElse)
	if j := g.judge(in(time.Second+guardMend), 1, nil, nobodyElse); j.ended == "" || g.hold != nil {
		t.Errorf("with the other one back, the loss of one of two is held still: %+v", g.hold)
	}
}

func TestRoleWhoseNodesComeAndGoWithGoodbyesIsGuarded(t *testing.T) {
	rs := newTestRoles(t)
	facts := inventory.Facts{"role": "web"}
	now := ago(40 * time.Minute)
	publish := func() {
		for _, r := range rs.byName {
			r.gate.open = true
		}
		rs.roles.publish(7, now, func(string) inventory.Facts { return nil })
	}
	for i := range 10 {
		rs.joined(fmt.Sprint("web", i), now)
	}
	publish()
	for i := range 40 {
		rs.joined(fmt.Sprint("web", i+10), now)
		left := serving(fmt.Sprint("web", i), facts)
		left.Life = inventory.Left
		rs.mustMove(serving(left.Name, facts), left, now)
		publish()
		now = now.Add(time.Minute)
	}
	for i := range 6 {
		rs.mustMove(serving(fmt.Sprint("web", i+40), facts), nil, now)
	}
	publish()
	if r := rs.byName["web"]; r.guard.hold == nil || len(r.now.Members) != 10 {
		t.Errorf("six of ten died, after forty replacements, and %d members are left: %+v", len(r.now.Members), r.guard.hold)
	}
}

func TestMemberThatNobodyWasToldOfIsNoLoss(t *testing.T) {
	rs := newTestRoles(t)
	rs.joined("web0", noon)
	rs.publish()
	for i := range 5 {
		rs.mustMove(rs.joined(fmt.Sprint("new", i), noon), nil, noon)
	}
	if p := rs.publish(); len(p) != 0 || len(rs.byName["web"].guard.missing) != 0 {
		t.Errorf("%+v was published, %d are missing: nobody was told of them", p, len(rs.byName["web"].guard.missing))
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
			g.judge(now, 100, nil, nobodyElse)
			g.joins(fmt.Sprint("web", i), now)
		}
	}
	const perHour = int(guardSlowBurn / guardPause)
	if len(g.sizes) > perHour+2 || len(g.departed) > perHour+2 || len(g.joined) > perHour+2 {
		t.Errorf("%d sizes, %d departures and %d joins are remembered of three hours", len(g.sizes), len(g.departed), len(g.joined))
	}
	g.note(now.Add(3*guardSlowBurn), 5)
	g.judge(now.Add(3*guardSlowBurn), 5, nil, nobodyElse)
	if len(g.sizes) > 2 || len(g.departed) != 0 || len(g.joined) != 0 {
		t.Errorf("%d sizes, %d departures and %d joins are remembered after three quiet hours", len(g.sizes), len(g.departed), len(g.joined))
	}
}

// Whatever comes, goes, is suspect and comes back: additions flow, goodbyes flow, and of those that departed without one no more than the
// rule allows are removed, and never the last.
func TestGuardKeepsItsRule(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		rs := newTestRoles(t)
		facts := inventory.Facts{"role": "web"}
		r := mustNeed(rs.roles, "web")
		r.gate.open = true
		nodes := map[string]*inventory.Node{}
		departed := map[string]bool{} // without a goodbye, since they were members last
		type change struct {
			at   time.Time
			lost int
			size int
		}
		var history []change
		now := noon
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 200, 1100, 20_000, 200_000}).Draw(t, "ms")) * time.Millisecond)
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				name := fmt.Sprint("web", rapid.IntRange(0, 11).Draw(t, "node"))
				was := nodes[name]
				var is *inventory.Node
				switch what := rapid.SampledFrom([]string{"joins", "joins", "dies", "leaves", "suspect"}).Draw(t, "what"); {
				case what == "joins":
					is = serving(name, facts)
				case was == nil, what == "dies":
				case what == "leaves":
					is = serving(name, facts)
					is.Life = inventory.Left
				case was.Life == inventory.Alive:
					is = serving(name, facts)
					is.Life = inventory.Suspect
				}
				if was == nil && is == nil {
					continue
				}
				rs.mustMove(was, is, now)
				if is.Eligible() || is != nil && is.Life == inventory.Left {
					delete(departed, name)
				} else if was.Eligible() {
					departed[name] = true
				}
				if nodes[name] = is; is == nil {
					delete(nodes, name)
				}
			}
			before := memberNames(r)
			hadHold := r.guard.hold
			for _, p := range rs.roles.publish(7, now, func(string) inventory.Facts { return facts }) {
				if p.judgement.began != nil {
					seen["held"]++
					if len(r.guard.missing) == 0 {
						t.Fatalf("held, and nobody is missing")
					}
				}
				if p.judgement.ended != "" {
					seen["ended"]++
				}
			}
			sound, suspects, expected := 0, 0, map[string]bool{}
			for name, n := range nodes {
				if n.Eligible() {
					expected[name] = true
					if n.Life == inventory.Suspect {
						suspects++
					} else {
						sound++
					}
				}
			}
			lost := 0
			for _, name := range strings.Fields(before) {
				if departed[name] && !strings.Contains(" "+memberNames(r)+" ", " "+name+" ") {
					lost++
				}
			}
			for name := range r.guard.missing {
				if !departed[name] {
					t.Fatalf("%s is missing, and did not depart", name)
				}
				expected[name] = true
			}
			if want := strings.Join(slices.Sorted(maps.Keys(expected)), " "); memberNames(r) != want {
				t.Fatalf("the members are %q, want %q: whoever serves, and who is missing", memberNames(r), want)
			}
			if h := r.guard.show(false); h != nil && !slices.Equal(h.Nodes, sortedKeys(r.guard.missing)) {
				t.Fatalf("%q are said to be held, and missing are %v", h.Nodes, r.guard.missing)
			}
			if r.guard.hold == nil && len(r.guard.missing) > 0 && (r.guard.next().IsZero() || !r.guard.next().After(now)) {
				t.Fatalf("%v are pending, and judged again %s", r.guard.missing, r.guard.next())
			}
			if lost > 0 {
				seen["lost"]++
				if sound == 0 {
					t.Fatalf("%d were removed without a goodbye, and nobody sound is left", lost)
				}
			}
			history = append(history, change{now, lost, len(r.now.Members)})
			if lost == 0 || hadHold != nil {
				continue
			}
			gone, base := len(r.guard.missing), history[0].size
			for _, h := range history {
				if h.at.After(now.Add(-guardWindow)) {
					gone += h.lost
				} else {
					base = h.size
				}
			}
			if base = min(base, sound+suspects+gone); gone+suspects >= guardLeast && sound*100 <= base*guardShare {
				t.Fatalf("%d of %d are gone or suspect within a minute, %d are left, and %d were removed", gone+suspects, base, sound, lost)
			}
		}
	})
	for _, what := range []string{"held", "ended", "lost"} {
		if seen[what] == 0 {
			t.Errorf("%q never happened: the test shows less than it says; %v", what, seen)
		}
	}
}

func TestHeldRoleIsNotForgottenThoughNobodyNeedsIt(t *testing.T) {
	rs := held(t)
	for i := 6; i < 10; i++ {
		rs.mustMove(serving(fmt.Sprint("web", i), inventory.Facts{"role": "web"}), nil, noon)
	}
	rs.publish()
	rs.drop(nil)
	if r := rs.byName["web"]; r == nil || len(r.now.Members) != 10 {
		t.Fatal("what was held was forgotten with its role")
	}
	r := rs.byName["web"]
	r.guard.accept(noon, 0)
	rs.drop(nil)
	if len(rs.byName) != 0 {
		t.Errorf("%q are kept, though their losses were accepted", sortedKeys(rs.byName))
	}
	for i := range maxOrphans + 10 {
		r := mustNeed(rs.roles, fmt.Sprint("r", i))
		r.from = in(time.Duration(i) * time.Second)
		r.guard.lost("n", loss{member: kick.Member{Node: "n"}})
	}
	rs.drop(nil)
	if n := len(rs.byName); n != maxOrphans || rs.byName["r0"] != nil || rs.byName[fmt.Sprint("r", maxOrphans+9)] == nil {
		t.Errorf("%d roles that nobody needs are kept, want the %d newest", n, maxOrphans)
	}
}

func TestHoldOnAnEmptyRoleDoesNotEndBecauseItIsExpected(t *testing.T) {
	g := losing(10, 10)
	g.judge(noon, 0, nil, nobodyElse)
	g.expect = expectation{share: 0, until: in(time.Hour)}
	for _, at := range []time.Duration{0, guardMend, 2 * guardMend} {
		if j := g.judge(in(at), 0, nil, nobodyElse); j != (judgement{}) || len(g.missing) != 10 {
			t.Fatalf("after %s: %+v with %d missing, want nothing", at, j, len(g.missing))
		}
	}
}

func TestNewMemberThatWasMissingAndIsBackIsStillNew(t *testing.T) {
	g := losing(10, 0)
	g.note(ago(30*time.Second), 20)
	for i := range 10 {
		name := fmt.Sprint("new", i)
		g.joins(name, ago(30*time.Second))
		g.lost(name, loss{at: ago(20 * time.Second)})
		g.back(name)
	}
	for i := range 10 {
		g.lost(fmt.Sprint("new", i), loss{at: noon})
	}
	if j := g.judge(noon, 10, nil, nobodyElse); j.began == nil {
		t.Error("half of twenty are gone, and are taken for those that the new ones replaced")
	}
}

func TestReplacedMembersThatWentOneAfterTheOtherAreNoLoss(t *testing.T) {
	g := losing(10, 2)
	g.note(ago(30*time.Second), 20)
	for range 8 {
		g.departed = append(g.departed, departure{at: ago(20 * time.Second)})
	}
	if j := g.judge(in(guardPause), 10, nil, nobodyElse); j.began != nil || !j.released {
		t.Errorf("ten of the former generation went, ten new ones are there: %+v", g.hold)
	}
}

func TestLossesOfAHoldThatEndedCountForTheNext(t *testing.T) {
	g := losing(10, 3)
	g.judge(noon, 7, nil, nobodyElse)
	g.judge(in(time.Second), 8, nil, nobodyElse) // another one joined
	if j := g.judge(in(time.Second+guardMend), 8, nil, nobodyElse); j.ended == "" {
		t.Fatalf("the hold goes on: %+v", g.hold)
	}
	g.note(in(10*time.Second), 8)
	g.lost("web8", loss{at: in(10 * time.Second)})
	if j := g.judge(in(20*time.Second), 7, nil, nobodyElse); j.began == nil {
		t.Error("a fourth of ten is gone within the minute, and is believed")
	}
}

func TestWhatWasAcceptedIsCountedNoMore(t *testing.T) {
	g := losing(10, 0)
	g.departed = []departure{{at: ago(time.Second)}, {at: ago(time.Second)}}
	g.accept(noon, 3)
	g.lost("web9", loss{at: noon})
	if j := g.judge(in(guardPause), 2, nil, nobodyElse); j.began != nil || !j.released {
		t.Errorf("one of the three that were left is held: %+v", g.hold)
	}
}

func TestWhatManyOfTheRestHaveTooIsNotWhatTheLostHaveInCommon(t *testing.T) {
	g := losing(10, 0)
	for i := range 4 {
		g.lost(fmt.Sprint("web", i), loss{at: noon, facts: inventory.Facts{"rack": "12"}})
	}
	g.judge(noon, 6, nil, func() []inventory.Facts {
		return []inventory.Facts{{"rack": "12"}, {"rack": "12"}, {"rack": "13"}, {"rack": "13"}, {"rack": "13"}, {"rack": "13"}}
	})
	if g.hold == nil || strings.Contains(g.hold.why, "rack") {
		t.Errorf("the hold is %+v, though a third of the others are in that rack", g.hold)
	}
}

// These are the numbers of docs/explanation/design.md.
func TestTimesOfAHoldAreThoseThatAreSaid(t *testing.T) {
	g := losing(10, 6)
	g.judge(noon, 4, nil, nobodyElse)
	if want := in(3 * time.Minute); g.next() != want {
		t.Errorf("second opinions are sought %s, want %s", g.next(), want)
	}
	g.judge(noon, 8, nil, nobodyElse)
	if want := in(5 * time.Second); g.next() != want {
		t.Errorf("with enough of them back the hold ends %s, want %s", g.next(), want)
	}
}
