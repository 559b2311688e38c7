package membership_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kicker/controller/membership"
	"kicker/inventory"
)

// returnTime is for how long enough members must be back before a hold ends.
const returnTime = 5 * time.Second

// holding is a table whose role web had ten members, six of which are lost and held.
func holding(t failer) (table, *membership.Role) {
	t.Helper()
	tab := newTable(t)
	for i := range 10 {
		tab.join(fmt.Sprint("web", i), ago(time.Hour))
	}
	tab.publish()
	for i := range 6 {
		tab.apply(web(fmt.Sprint("web", i)), nil, noon)
	}
	tab.publish()
	r := tab.Role("web")
	if h := r.Held(false); h == nil || len(h.Nodes) != 6 || h.Since != in(pause) {
		t.Fatal("six of ten are lost and not held")
	}
	return tab, r
}

func TestHowAHoldEnds(t *testing.T) {
	old := func(i int) *inventory.Node { return web(fmt.Sprint("web", i)) }
	for _, c := range []struct {
		claim   string
		happens func(table)
		ends    bool
		members int
	}{
		{"not by itself", func(table) {}, false, 10},
		{"not when three are back: seven are too few", func(tab table) {
			for i := range 3 {
				tab.apply(nil, old(i), noon)
			}
		}, false, 10},
		{"when four are back", func(tab table) {
			for i := range 4 {
				tab.apply(nil, old(i), noon)
			}
		}, true, 8},
		{"when all are back", func(tab table) {
			for i := range 6 {
				tab.apply(nil, old(i), noon)
			}
		}, true, 10},
		{"when all leave", func(tab table) {
			for i := range 6 {
				tab.apply(nil, with(old(i), inventory.Left), noon)
			}
		}, true, 4},
		{"when so many leave that the others are few", func(tab table) {
			for i := range 4 {
				tab.apply(nil, with(old(i), inventory.Left), noon)
			}
		}, true, 4},
		{"not when fewer leave", func(tab table) {
			for i := range 3 {
				tab.apply(nil, with(old(i), inventory.Left), noon)
			}
		}, false, 7},
		{"when others take their place", func(tab table) {
			for i := range 4 {
				tab.apply(nil, web(fmt.Sprint("new", i)), noon)
			}
		}, true, 8},
		{"not when too few others do: these join all the same", func(tab table) {
			for i := range 3 {
				tab.apply(nil, web(fmt.Sprint("new", i)), noon)
			}
		}, false, 13},
		{"when an operator accepts it", func(tab table) {
			if n, err := tab.AcceptLoss(tab.Role("web"), 6, noon); n != 6 || err != nil {
				tab.t.Fatal("accepted: ", n, err)
			}
		}, true, 4},
		{"when all leave, whatever their facts are by then", func(tab table) {
			for i := range 6 {
				n := with(old(i), inventory.Left)
				n.Facts = inventory.Facts{}
				tab.apply(nil, n, noon)
			}
		}, true, 4},
	} {
		t.Run(c.claim, func(t *testing.T) {
			tab, r := holding(t)
			c.happens(tab)
			tab.publish()
			if r.Held(false) != nil {
				if early := tab.publishAt(in(pause + returnTime - 1)); len(early) > 0 {
					t.Errorf("before others had the time to return: %+v", early)
				}
				tab.publishAt(in(pause + returnTime))
			}
			if ended, n := r.Held(false) == nil, len(r.Current().Members); ended != c.ends || n != c.members {
				t.Errorf("ended: %t with %d members, want %t with %d", ended, n, c.ends, c.members)
			}
		})
	}
}

func TestAcceptedLossNeedsAHold(t *testing.T) {
	tab := newTable(t)
	tab.join("web1", noon)
	tab.publish()
	if n, err := tab.AcceptLoss(tab.Role("web"), 1, noon); n != 0 || err == nil {
		t.Errorf("%d losses were accepted (%v), though nothing is held", n, err)
	}
}

func TestExpectedLossIsNotHeld(t *testing.T) {
	tab := newTable(t)
	for i := range 10 {
		tab.join(fmt.Sprint("web", i), ago(time.Hour))
	}
	tab.publish()
	r := tab.Role("web")
	tab.ExpectLoss(r, 60, in(time.Minute))
	for i := range 6 {
		tab.apply(web(fmt.Sprint("web", i)), nil, noon)
	}
	if tab.publish(); r.Held(false) != nil || len(r.Current().Members) != 4 {
		t.Errorf("six of ten were expected to go, and %+v is held", r.Held(false))
	}
}

// A role that grew within a window may be a replacement under way, or a start.
func TestRoleThatGrewIsGuarded(t *testing.T) {
	for _, c := range []struct {
		claim                        string
		old, new                     int
		oldGone, newGone, oldSuspect int
		held                         bool
	}{
		{"the old ones go when as many new ones are there: no", 10, 10, 10, 0, 0, false},
		{"the same while most of the old are only suspect: no", 10, 10, 1, 0, 9, false},
		{"the new ones go again: no, the old ones are there", 10, 10, 0, 10, 0, false},
		{"more go than joined: a link is dead", 8, 4, 6, 2, 0, true},
		{"half of a role that is just starting: no, as many as at the start are left", 1, 7, 1, 3, 0, false},
		{"more go than were replaced", 10, 3, 7, 0, 0, true},
		{"no more go than were replaced: no", 10, 3, 4, 0, 0, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			tab := newTable(t)
			node := func(generation string, i int) *inventory.Node { return web(fmt.Sprint(generation, i)) }
			for i := range c.old {
				tab.apply(nil, node("old", i), ago(40*time.Second))
			}
			tab.publishAt(ago(40 * time.Second))
			for i := range c.new {
				tab.apply(nil, node("new", i), ago(30*time.Second))
			}
			tab.publishAt(ago(30 * time.Second))
			for i := range c.oldGone {
				tab.apply(node("old", i), nil, noon)
			}
			for i := range c.newGone {
				tab.apply(node("new", i), nil, noon)
			}
			for i := range c.oldSuspect {
				tab.apply(node("old", c.oldGone+i), with(node("old", c.oldGone+i), inventory.Suspect), noon)
			}
			tab.publishAt(noon)
			if h := tab.Role("web").Held(false); (h != nil) != c.held {
				t.Errorf("held: %t, want %t; %+v", h != nil, c.held, h)
			}
		})
	}
}

func TestRoleWhoseNodesJoinAndLeaveAllTheTimeIsGuarded(t *testing.T) {
	tab := newTable(t)
	now := ago(40 * time.Minute)
	for i := range 10 {
		tab.join(fmt.Sprint("web", i), now)
	}
	tab.publishAt(now)
	for i := range 40 {
		tab.join(fmt.Sprint("web", i+10), now)
		tab.apply(web(fmt.Sprint("web", i)), with(web(fmt.Sprint("web", i)), inventory.Left), now)
		tab.publishAt(now)
		now = now.Add(time.Minute)
	}
	for i := range 6 {
		tab.apply(web(fmt.Sprint("web", i+40)), nil, now)
	}
	tab.publishAt(now)
	if r := tab.Role("web"); r.Held(false) == nil || len(r.Current().Members) != 10 {
		t.Errorf("six of ten died after forty replacements, and %d members are left: %+v",
			len(r.Current().Members), r.Held(false))
	}
}

func TestMemberThatWasNeverPublishedIsNoLoss(t *testing.T) {
	tab := newTable(t)
	tab.join("web0", noon)
	tab.publish()
	for i := range 5 {
		n := tab.join(fmt.Sprint("new", i), noon)
		tab.apply(n, nil, noon)
		if tab.Role("web").Missing(n.Name) {
			t.Errorf("%s is missing, though no dependent was given it", n.Name)
		}
	}
	if c := tab.publish(); len(c) != 0 {
		t.Errorf("%+v was published, though no dependent was given the lost ones", c)
	}
}

// guardModel is the guard's sets, made anew at each step from all that was published.
type guardModel struct{ lists []publishedList }

type publishedList struct {
	at    time.Time
	names []string
}

func (m *guardModel) publish(at time.Time, names []string) {
	m.lists = append(m.lists, publishedList{at, names})
}

// sets is A and R. left is the names that left since they were published last.
func (m *guardModel) sets(now time.Time, w time.Duration, isMember func(string) bool, left map[string]bool) (
	a, joined []string) {
	began := now.Add(-w)
	at, within := map[string]bool{}, map[string]bool{} // members when it began, and at any time since
	for i, list := range m.lists {
		if list.at.After(began) || i+1 == len(m.lists) || m.lists[i+1].at.After(began) {
			for _, name := range list.names {
				within[name] = true
			}
		}
		if i == 0 || !list.at.After(began) { // the first ones were there, whenever they joined
			clear(at)
			for _, name := range list.names {
				at[name] = true
			}
		}
	}
	for name := range within {
		departed := !isMember(name) && !left[name]
		if departed {
			a = append(a, name)
		}
		if !at[name] && (departed || isMember(name)) {
			joined = append(joined, name)
		}
	}
	return a, joined
}

// In any order of events a node that joins is a member at once, and one that leaves is none. Of those that departed
// without leaving no more are removed than the guard's rule allows, and never the last.
func TestGuardKeepsItsRule(t *testing.T) {
	const holdFrom, holdShare = 3, 70
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		tab := newTable(t)
		r := tab.resolve("web")
		nodes := map[string]*inventory.Node{}
		departed := map[string]bool{} // without leaving, since they were members last
		left := map[string]bool{}     // since they were published last
		var model guardModel
		now := noon
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			ms := rapid.SampledFrom([]int{0, 200, 1100, 20_000, 200_000}).Draw(t, "ms")
			now = now.Add(time.Duration(ms) * time.Millisecond)
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				name := fmt.Sprint("web", rapid.IntRange(0, 11).Draw(t, "node"))
				was := nodes[name]
				var is *inventory.Node
				switch what := rapid.SampledFrom([]string{"joins", "joins", "dies", "leaves", "suspect"}).Draw(t, "what"); {
				case what == "joins":
					is = web(name)
				case was == nil, what == "dies":
				case what == "leaves":
					is = with(web(name), inventory.Left)
				case was.Life == inventory.Alive:
					is = with(web(name), inventory.Suspect)
				}
				if was == nil && is == nil {
					continue
				}
				wasMissing := r.Missing(name)
				tab.apply(was, is, now)
				if is != nil && is.Life == inventory.Left && (was.Eligible() || wasMissing) {
					left[name] = true
				}
				if is.Eligible() && slices.Contains(strings.Fields(members(r)), name) {
					delete(left, name) // it is back before the others know that it left
				}
				switch leaves := is != nil && is.Life == inventory.Left; {
				case is.Eligible(), leaves && (was.Eligible() || wasMissing):
					delete(departed, name)
				case was.Eligible() && slices.Contains(strings.Fields(members(r)), name): // otherwise it was never published
					departed[name] = true
				}
				if nodes[name] = is; is == nil {
					delete(nodes, name)
				}
			}
			before := members(r)
			hadHold := r.Held(false) != nil
			for _, c := range tab.publishAt(now) {
				if c.HoldBegan != "" {
					seen["held"]++
					if len(r.Held(false).Nodes) == 0 {
						t.Fatal("a hold began, and no member is missing")
					}
				}
				if c.HoldEnded != "" {
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
			for name := range strings.FieldsSeq(before) {
				if departed[name] && !slices.Contains(strings.Fields(members(r)), name) {
					lost++
				}
			}
			var missing []string
			for i := range 12 {
				if name := fmt.Sprint("web", i); r.Missing(name) {
					missing = append(missing, name)
					if !departed[name] {
						t.Fatalf("%s is missing, and did not depart", name)
					}
					expected[name] = true
				}
			}
			if want := strings.Join(slices.Sorted(maps.Keys(expected)), " "); members(r) != want {
				t.Fatalf("the members are %q, want %q: the eligible and the missing", members(r), want)
			}
			slices.Sort(missing)
			h, next := r.Held(false), tab.Next(true)
			if h != nil && !slices.Equal(h.Nodes, missing) {
				t.Fatalf("%q are held, and %q are missing", h.Nodes, missing)
			}
			if h == nil && len(missing) > 0 && (next.IsZero() || !next.After(now)) {
				t.Fatalf("%q wait for others, and the next verdict is due %s", missing, next)
			}
			if lost > 0 {
				seen["lost"]++
				if sound == 0 {
					t.Fatalf("%d were removed that did not leave, and no sound member is left", lost)
				}
			}
			model.publish(now, strings.Fields(members(r)))
			for name := range expected {
				delete(left, name)
			}
			for _, w := range []time.Duration{time.Minute, time.Hour} {
				a, joined := model.sets(now, w, func(name string) bool { return nodes[name].Eligible() }, left)
				if gotA, gotR := r.GuardSets(now, w); gotA != len(a) || gotR != len(joined) {
					t.Fatalf("within %s A has %d names and R %d, want %q and %q", w, gotA, gotR, a, joined)
				}
				gone, base := len(a)+suspects, sound+suspects+len(a)-min(len(a)+suspects, len(joined))
				if lost > 0 && !hadHold && gone >= holdFrom && sound*100 <= base*holdShare {
					t.Fatalf("%d of %d are gone or suspect within %s, %d are left, and %d were removed", gone, base, w, sound, lost)
				}
			}
		}
	})
	for _, what := range []string{"held", "ended", "lost"} {
		if seen[what] == 0 {
			t.Errorf("%q never happened: the test shows less than it says; %v", what, seen)
		}
	}
}

func TestRoleWithMissingMembersIsNotDropped(t *testing.T) {
	const mostOrphans = 1000
	tab, r := holding(t)
	for i := 6; i < 10; i++ {
		tab.apply(web(fmt.Sprint("web", i)), nil, noon)
	}
	tab.publish()
	tab.Drop(nil)
	if tab.Role("web") != r || len(r.Current().Members) != 10 {
		t.Fatal("the held members were dropped with their role")
	}
	if _, err := tab.AcceptLoss(r, 10, noon); err != nil {
		t.Fatal(err)
	}
	tab.Drop(nil)
	if names := tab.names(); len(names) != 0 {
		t.Errorf("%q are kept, though their losses were accepted", names)
	}
	for i := range mostOrphans + 10 {
		n := eligible("n", inventory.Facts{"role": fmt.Sprint("r", i)})
		tab.apply(nil, n, noon)
		tab.publish()
		tab.apply(n, nil, in(time.Duration(i)*time.Second))
	}
	tab.Drop(nil)
	newest := fmt.Sprint("r", mostOrphans+9)
	if n := len(tab.Roles()); n != mostOrphans || tab.Role("r0") != nil || tab.Role(newest) == nil {
		t.Errorf("%d roles that no action depends on are kept, want the %d newest", n, mostOrphans)
	}
}

func TestProbeDecidesAboutAHold(t *testing.T) {
	const text = "lb1, lb2 cannot reach them either"
	const undecided = text + ", but the role would be empty: a person has to decide"
	for _, c := range []struct {
		claim     string
		given     func(table)
		confirmed bool
		accepted  int
		news      string
	}{
		{"confirmed: the loss is accepted", func(table) {}, true, 6, ""},
		{"not confirmed: it is still held", func(table) {}, false, 0, text},
		{"the role would be empty", func(tab table) {
			for i := 6; i < 10; i++ {
				tab.apply(web(fmt.Sprint("web", i)), nil, noon)
			}
			tab.publish()
		}, true, 0, undecided},
		{"only suspects would be left", func(tab table) {
			for i := 6; i < 10; i++ {
				tab.apply(web(fmt.Sprint("web", i)), with(web(fmt.Sprint("web", i)), inventory.Suspect), noon)
			}
		}, true, 0, undecided},
	} {
		t.Run(c.claim, func(t *testing.T) {
			tab, r := holding(t)
			since := r.Held(false).Since
			c.given(tab)
			p := tab.Probes(in(time.Hour))[0]
			accepted, news := tab.Probed(p, c.confirmed, text, in(time.Hour))
			if accepted != c.accepted || news != c.news {
				t.Errorf("%d accepted (%q), want %d (%q)", accepted, news, c.accepted, c.news)
			}
			h := r.Held(false)
			if c.accepted > 0 {
				if changes := tab.publishAt(in(time.Hour)); h != nil || len(changes) != 1 || len(r.Current().Members) != 4 {
					t.Errorf("the loss was accepted: %+v is held, and %+v was published", h, changes)
				}
				return
			}
			if h == nil || h.Since != since || h.Probe != c.news {
				t.Fatalf("the hold is %+v, want the same with %q", h, c.news)
			}
			if accepted, news := tab.Probed(p, c.confirmed, text, in(time.Hour)); accepted != 0 || news != "" {
				t.Errorf("%d accepted, and %q is news again", accepted, news)
			}
		})
	}
}

func TestProbeOfSomeOfTheLostDoesNotDecideAboutOthers(t *testing.T) {
	tab, r := holding(t)
	now := tab.Next(true)
	p := tab.Probes(now)[0]
	tab.apply(web("web6"), nil, noon)
	if accepted, _ := tab.Probed(p, true, "text", now); accepted != 0 || len(r.Held(false).Nodes) != 7 {
		t.Fatal("a loss was accepted that the probe did not ask for")
	}
	if p := tab.Probes(now); len(p) != 1 {
		t.Errorf("the next probe is due %s, want it at once", tab.Next(true))
	}
}

func TestProbeOfAHoldThatEndedDecidesNothing(t *testing.T) {
	tab, r := holding(t)
	p := tab.Probes(in(time.Hour))[0]
	if _, err := tab.AcceptLoss(r, 6, in(time.Hour)); err != nil {
		t.Fatal(err)
	}
	tab.publishAt(in(time.Hour))
	for i := 6; i < 10; i++ {
		tab.apply(web(fmt.Sprint("web", i)), nil, in(time.Hour))
	}
	tab.publishAt(in(time.Hour + pause))
	accepted, news := tab.Probed(p, true, "lb1 cannot reach them either", in(time.Hour))
	if h := r.Held(false); accepted != 0 || news != "" || h == nil || len(h.Nodes) != 4 || h.Probe != "" {
		t.Errorf("%d accepted (%q) by a probe of an earlier hold; held is %+v", accepted, news, h)
	}
	tab, _ = holding(t)
	p = tab.Probes(in(time.Hour))[0]
	for i := range 10 {
		tab.apply(web(fmt.Sprint("web", i)), with(web(fmt.Sprint("web", i)), inventory.Left), noon)
		tab.apply(web(fmt.Sprint("web", i)), nil, noon)
	}
	if accepted, news := tab.Probed(p, true, "text", in(time.Hour)); accepted != 0 || news != "" {
		t.Errorf("%d accepted (%q), though all lost members left", accepted, news)
	}
	tab.publish()
	tab.Drop(nil)
	accepted, news = tab.Probed(p, true, "text", in(time.Hour))
	if accepted != 0 || news != "" || tab.Role("web") != nil {
		t.Errorf("%d accepted (%q) of a role that was dropped", accepted, news)
	}
}

func TestProbesAreDueTwiceAMinuteForKnownRoles(t *testing.T) {
	tab, r := holding(t)
	first := in(pause + 3*time.Minute)
	if p := tab.Probes(first.Add(-1)); len(p) != 0 || tab.Next(true) != first {
		t.Fatalf("%+v is due before 3 minutes, the next one %s", p, tab.Next(true))
	}
	if p := tab.Probes(first); len(p) != 1 || p[0].Role != r {
		t.Fatalf("after 3 minutes %+v is due, want web", p)
	}
	second := first.Add(30 * time.Second)
	if p := tab.Probes(second.Add(-1)); len(p) != 0 || tab.Next(true) != second {
		t.Fatalf("%+v is due again before 30 s, the next one %s", p, tab.Next(true))
	}
	need := membership.Need{As: "web", Role: r}
	newer := membership.Holder{Node: "lb1", Action: "reload", As: "web"}
	newer.Revision.Epoch, newer.Revision.Hash = 8, "1-newer"
	if tab.Report(need, newer, reports, second); r.Open() {
		t.Fatal("the role is open, though another controller published it")
	}
	if p := tab.Probes(second); len(p) != 0 {
		t.Errorf("%+v is due, though the role's members are not known", p)
	}
}
