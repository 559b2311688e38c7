package membership

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// When the guard holds removals: so many members of a role do not die at once.
const (
	holdFrom  = 3  // members that are gone or suspect, at least
	holdShare = 70 // percent of the members that are left, at most

	guardPause = time.Second // in which a departure without a warning waits for others like it
	window     = time.Minute // in which members go at once
	longWindow = time.Hour   // in which they go one by one

	// For so long a hold waits for more members to return before it ends. A repaired link brings nodes back one by one,
	// as each reconnects to the bus.
	returnTime = 5 * time.Second

	probeAfter = 3 * time.Minute  // of a hold, dependents are asked to probe the lost members
	probeEvery = 30 * time.Second // from then on
)

// guard holds the removals of one role when too many of its members depart without leaving. A held node stays a member.
// A node that joins is a member at once.
type guard struct {
	// sizes is how many members the role had, oldest first: each time that this changed within longWindow, and once
	// before.
	sizes []sample
	// joins is when those members joined that did so within longWindow. All others were there before.
	joins map[string]time.Time
	// departed is the members that were removed without leaving within longWindow, oldest first.
	departed []departure

	// missing is the losses that are not published: they wait for guardPause, or are held. A node is in missing or a
	// member, never both.
	missing map[string]loss
	// hold is nil while nothing is held. If it is not, all of missing is held.
	hold *hold
	// expect is what an operator announced.
	expect expectation
}

// sample is the size of a role from a time on.
type sample struct {
	at   time.Time
	size int
}

// loss is a member that departed without leaving.
type loss struct {
	member kick.Member
	facts  inventory.Facts
	at     time.Time // when it began: with the suspicion, if there was one
	joined time.Time // zero: before longWindow
}

// due is when a loss that is not held is published.
func (l loss) due() time.Time { return l.at.Add(guardPause) }

// departure is a loss that was published.
type departure struct{ at, joined time.Time }

// hold is a decision to keep the missing nodes as members until there is a reason to end it.
type hold struct {
	since time.Time
	base  int       // members that there were, without those that left
	why   string    // for people
	probe string    // what the dependents answered that probed the lost members
	ask   time.Time // when they are asked next
	ends  time.Time // when it ends, if enough members stay back until then; zero while too few are back
}

// expectation is an operator's announcement that a role may go down to a share of its members.
type expectation struct {
	share int // percent that are left at least
	until time.Time
}

// clone is a guard that shares nothing with this one that changes.
func (g *guard) clone() guard {
	c := *g
	c.sizes, c.departed = slices.Clone(g.sizes), slices.Clone(g.departed)
	c.missing, c.joins = maps.Clone(g.missing), maps.Clone(g.joins)
	if g.hold != nil {
		held := *g.hold
		c.hold = &held
	}
	return c
}

// joined notes a new member.
func (g *guard) joined(name string, at time.Time) {
	if g.joins == nil {
		g.joins = map[string]time.Time{}
	}
	g.joins[name] = at
}

// lost notes a member that departed without leaving.
func (g *guard) lost(name string, l loss) {
	if g.missing == nil {
		g.missing = map[string]loss{}
	}
	l.joined = g.joins[name]
	delete(g.joins, name)
	g.missing[name] = l
}

// left notes a member that departed on purpose.
func (g *guard) left(name string) {
	delete(g.missing, name)
	delete(g.joins, name)
}

// back notes that a node is a member again, and reports whether it was missing.
func (g *guard) back(name string) bool {
	l, was := g.missing[name]
	if was && !l.joined.IsZero() {
		g.joined(name, l.joined)
	}
	delete(g.missing, name)
	return was
}

// verdict is what a guard decided.
type verdict struct {
	began, ended string // why a hold began or ended; empty: none did
	released     bool   // some losses are published now
}

// judge decides on the missing. It forgets those that may be removed, so that the next membership does not have them.
// sound is how many members are left and not suspect. rest is the facts of all members.
func (g *guard) judge(now time.Time, sound int, suspects map[string]struct{}, rest func() []inventory.Facts) verdict {
	g.trim(now)
	if g.hold != nil {
		return g.judgeHold(now, sound, suspects)
	}
	if len(g.missing) > 0 {
		if g.hold = g.tooMany(now, sound, suspects); g.hold != nil {
			g.hold.why += g.common(rest())
			g.hold.ask = now.Add(probeAfter)
			return verdict{began: g.hold.why}
		}
	}
	var v verdict
	for name, l := range g.missing {
		if !now.Before(l.due()) {
			delete(g.missing, name)
			g.departed = append(g.departed, departure{now, l.joined})
			v.released = true
		}
	}
	return v
}

// judgeHold ends a hold when there is a reason, and has been one for returnTime.
func (g *guard) judgeHold(now time.Time, sound int, suspects map[string]struct{}) verdict {
	var v verdict
	switch {
	case len(g.missing) == 0:
		v.ended = "all missing members are back, or left"
	case sound > 0 && !g.tooFew(now, sound, g.hold.base):
		v.ended = fmt.Sprintf("%d of %d members are there again", sound, g.hold.base)
	case g.tooMany(now, sound, suspects) == nil:
		v.ended = fmt.Sprintf("only %d are still missing", len(g.missing))
	default:
		g.hold.ends = time.Time{}
		return v
	}
	if g.hold.ends.IsZero() {
		g.hold.ends = now.Add(returnTime)
	}
	if len(g.missing) > 0 && now.Before(g.hold.ends) {
		return verdict{}
	}
	g.hold = nil
	for _, l := range g.missing {
		g.departed = append(g.departed, departure{now, l.joined})
	}
	g.missing = nil
	return v
}

// next is when the guard has to judge again. With probes it is also when dependents are to be asked.
func (g *guard) next(probes bool) time.Time {
	switch h := g.hold; {
	case h != nil && probes:
		return api.Soonest(h.ask, h.ends)
	case h != nil:
		return h.ends
	}
	var due time.Time
	for _, l := range g.missing {
		due = api.Soonest(due, l.due())
	}
	return due
}

// accept says that the loss is real: what comes next is counted from here.
func (g *guard) accept(now time.Time, size int) {
	g.missing, g.hold, g.departed = nil, nil, nil
	g.sizes = []sample{{now, size}}
}

// tooMany is the hold that the losses call for, nil if they may be removed.
func (g *guard) tooMany(now time.Time, sound int, suspects map[string]struct{}) *hold {
	if sound == 0 {
		base, _ := g.base(now, window, sound, suspects)
		why := "the role would be empty, and no member left on purpose"
		return &hold{since: now, base: max(base, len(g.missing)), why: why}
	}
	for _, w := range []time.Duration{window, longWindow} {
		base, gone := g.base(now, w, sound, suspects)
		if gone >= holdFrom && g.tooFew(now, sound, base) {
			why := fmt.Sprintf("%d of %d are gone or suspect within %s", gone, base, api.Duration(w))
			return &hold{since: now, base: base, why: why}
		}
	}
	return nil
}

// tooFew reports whether less is left of base than the guard lets pass, and than an operator expects.
func (g *guard) tooFew(now time.Time, left, base int) bool {
	expected := now.Before(g.expect.until) && left*100 >= base*g.expect.share
	return !expected && left*100 <= base*holdShare
}

// base is how many members the losses within a window are compared with. gone is how many those losses are. base is the
// most members that the role had within the window, without those that left, and without the old ones that are gone:
// new ones replaced them. While none left it is at least the size that the role had when the window began.
//
// Example: a role has 10 members when the window begins. Six new ones join. Then two of the old and three of the new
// die. The most was 16. 11 are sound and five are gone, so none left. 16 - 2 old ones = 14 are compared with: 11 of 14
// is 79 %, so nothing is held.
func (g *guard) base(now time.Time, w time.Duration, sound int, suspects map[string]struct{}) (base, gone int) {
	began := now.Add(-w)
	first, most := 0, 0 // when the window began, and since
	for i, s := range g.sizes {
		if i == 0 || !s.at.After(began) {
			first, most = s.size, 0
		}
		most = max(most, s.size)
	}
	oldest := began // members that joined until then count as old
	if len(g.sizes) > 0 && g.sizes[0].at.After(began) {
		oldest = g.sizes[0].at
	}
	old := 0
	count := func(joined time.Time) {
		gone++
		if !joined.After(oldest) {
			old++
		}
	}
	for _, l := range g.missing {
		count(l.joined)
	}
	for name := range suspects {
		count(g.joins[name])
	}
	for _, d := range g.departed {
		if d.at.After(began) {
			count(d.joined)
		}
	}
	most = min(most, sound+gone) // the others left
	return max(min(most, first), most-old), gone
}

// note keeps the size that a role has from now on. Of several within guardPause it keeps the last.
func (g *guard) note(now time.Time, size int) {
	g.trim(now)
	n := len(g.sizes)
	switch {
	case n > 0 && g.sizes[n-1].size == size:
	case n > 1 && now.Sub(g.sizes[n-1].at) < guardPause:
		g.sizes[n-1].size = size
	default:
		g.sizes = append(g.sizes, sample{now, size})
	}
}

// trim forgets what is older than the long window.
func (g *guard) trim(now time.Time) {
	began := now.Add(-longWindow)
	for len(g.departed) > 0 && g.departed[0].at.Before(began) {
		g.departed = g.departed[1:]
	}
	maps.DeleteFunc(g.joins, func(_ string, at time.Time) bool { return at.Before(began) })
	for len(g.sizes) > 1 && !g.sizes[1].at.After(began) {
		g.sizes = g.sizes[1:]
	}
}

// common is the facts that all missing members share and at most a tenth of the others have, for people: a rack, a
// site, a switch.
func (g *guard) common(rest []inventory.Facts) string {
	if len(g.missing) < 2 || len(rest) == 0 {
		return "" // nothing to compare with
	}
	var shared map[string]string
	for _, l := range g.missing {
		flat := flatten("", l.facts, map[string]string{})
		if shared == nil {
			shared = flat
		}
		maps.DeleteFunc(shared, func(path, value string) bool { return flat[path] != value })
	}
	others := map[string]int{}
	for _, facts := range rest {
		for path, value := range flatten("", facts, map[string]string{}) {
			if shared[path] == value {
				others[path]++
			}
		}
	}
	var words []string
	for _, path := range slices.Sorted(maps.Keys(shared)) {
		if others[path]*10 <= len(rest) {
			words = append(words, path+"="+shared[path])
		}
	}
	if len(words) == 0 {
		return ""
	}
	return ", all " + api.List(words, 5)
}

// flatten adds facts to a map by their paths, as text.
func flatten(prefix string, facts map[string]any, to map[string]string) map[string]string {
	for key, value := range facts {
		if nested, ok := value.(map[string]any); ok {
			flatten(prefix+key+".", nested, to)
			continue
		}
		to[prefix+key] = fmt.Sprint(value)
	}
	return to
}
