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
//
// It counts names, not departures: a node that dies ten times within the window is one. Within a window
//
//	A is the names that were members within it, are none now, and did not leave on purpose,
//	R is the names that joined within it, were not there when it began, and did not leave on purpose.
//
// The lost ones are A and the suspects. They are compared with the members, suspects and A together, without as many as
// R has replaced of the lost ones.
//
// Example: a role has 10 members when the window begins. Six new ones join. Then two of the old and three of the new
// die. A has 5 names, R has 6, 11 are sound. 16 - 5 = 11 are compared with: 11 of 11, so nothing is held.
type guard struct {
	// since is when the role was first published, or a loss was accepted. What happened before does not count.
	since time.Time
	// history is when names became members and stopped to be members, within longWindow and after since. The steps of a
	// name alternate, so its first step says what it was before. A name without steps is what it was all the time.
	history map[string][]step
	trimmed time.Time // when history was last rid of what is too old

	// missing is the losses that are not published: they wait for guardPause, or are held. A node is in missing or a
	// member, never both.
	missing map[string]loss
	// hold is nil while nothing is held. If it is not, all of missing is held.
	hold *hold
	// expect is what an operator announced.
	expect expectation
}

// step is one change of a name in the published memberships.
type step struct {
	at   time.Time
	in   bool // it became a member
	left bool // it stopped to be one on purpose
}

// maxSteps is how many steps of a name are kept: without two of its oldest ones it was the same before them.
const maxSteps = 32

// loss is a member that departed without leaving.
type loss struct {
	member kick.Member
	facts  inventory.Facts
	at     time.Time // when it began: with the suspicion, if there was one
	why    kick.Departure
}

// due is when a loss that is not held is published.
func (l loss) due() time.Time { return l.at.Add(guardPause) }

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

// present is the members of a role now, as the guard needs them.
type present struct {
	sound    int // not suspect
	suspects int
	is       func(name string) bool // a member, suspect or not
	fresh    []string               // members that are not published yet
}

// clone is a guard that shares nothing with this one that changes.
func (g *guard) clone() guard {
	c := *g
	c.missing, c.history = maps.Clone(g.missing), maps.Clone(g.history)
	for name, steps := range c.history {
		c.history[name] = slices.Clone(steps)
	}
	if g.hold != nil {
		held := *g.hold
		c.hold = &held
	}
	return c
}

// lost notes a member that departed without leaving.
func (g *guard) lost(name string, l loss) {
	if g.missing == nil {
		g.missing = map[string]loss{}
	}
	g.missing[name] = l
}

// left notes that a member, or a missing one, departed on purpose. It may have been lost before, and back since.
func (g *guard) left(name string) {
	delete(g.missing, name)
	if steps := g.history[name]; len(steps) > 0 && !steps[len(steps)-1].in {
		steps[len(steps)-1].left = true
	}
}

// back notes that a node is a member again, and reports whether it was missing.
func (g *guard) back(name string) bool {
	_, was := g.missing[name]
	delete(g.missing, name)
	return was
}

// begin reports whether the role is published for the first time: its members were there, whenever they joined.
func (g *guard) begin(now time.Time) bool {
	if !g.since.IsZero() {
		return false
	}
	g.since = now.Add(-1) // what is published now counts
	return true
}

// published notes what changed in a membership that is published now. purposely reports whether a name departed on
// purpose.
func (g *guard) published(d Diff, purposely func(name string) bool, now time.Time) {
	if now.Sub(g.trimmed) >= window {
		g.trim(now)
		g.trimmed = now
	}
	for _, name := range d.Added {
		g.note(name, step{at: now, in: true})
	}
	for _, name := range d.Removed {
		g.note(name, step{at: now, left: purposely(name)})
	}
}

// note adds a step. One that says the same as the last one says nothing.
func (g *guard) note(name string, s step) {
	steps := g.history[name]
	if n := len(steps); n > 0 && steps[n-1].in == s.in {
		return
	}
	if g.history == nil {
		g.history = map[string][]step{}
	}
	if steps = append(steps, s); len(steps) > maxSteps {
		steps = slices.Clone(steps[2:])
	}
	g.history[name] = steps
}

// trim forgets what is older than the long window.
func (g *guard) trim(now time.Time) {
	began := now.Add(-longWindow)
	for name, steps := range g.history {
		recent := steps
		for len(recent) > 0 && !recent[0].at.After(began) {
			recent = recent[1:]
		}
		switch {
		case len(recent) == 0:
			delete(g.history, name)
		case len(recent) < len(steps):
			g.history[name] = recent
		}
	}
}

// sets is the sizes of A and R within a window.
func (g *guard) sets(now time.Time, w time.Duration, p present) (a, r int) {
	began := now.Add(-w)
	if began.Before(g.since) {
		began = g.since
	}
	a = len(g.missing)
	for name, steps := range g.history {
		last := steps[len(steps)-1]
		_, missing := g.missing[name]
		gone := !missing && !p.is(name) && !last.in && !last.left && last.at.After(began)
		if gone {
			a++
		}
		i := slices.IndexFunc(steps, func(s step) bool { return s.at.After(began) })
		if i >= 0 && steps[i].in && (gone || missing || p.is(name)) {
			r++
		}
	}
	for _, name := range p.fresh {
		steps := g.history[name]
		if !slices.ContainsFunc(steps, func(s step) bool { return s.at.After(began) }) { // otherwise it is counted above
			r++
		}
	}
	return a, r
}

// verdict is what a guard decided.
type verdict struct {
	began, ended string // why a hold began or ended; empty: none did
	released     bool   // some losses are published now
}

// judge decides on the missing. It forgets those that may be removed, so that the next membership does not have them.
// words says why so many are lost. rest is the facts of all members.
func (g *guard) judge(now time.Time, p present, words func(all string) string, rest func() []inventory.Facts) verdict {
	if g.hold != nil {
		return g.judgeHold(now, p)
	}
	if len(g.missing) > 0 {
		if g.hold = g.tooMany(now, p); g.hold != nil {
			g.hold.why = words(g.hold.why) + g.common(rest())
			g.hold.ask = now.Add(probeAfter)
			return verdict{began: g.hold.why}
		}
	}
	var v verdict
	for name, l := range g.missing {
		if !now.Before(l.due()) {
			delete(g.missing, name)
			g.note(name, step{at: now}) // it counts, also if it was never published here
			v.released = true
		}
	}
	return v
}

// judgeHold ends a hold when there is a reason, and has been one for returnTime.
func (g *guard) judgeHold(now time.Time, p present) verdict {
	var v verdict
	switch {
	case len(g.missing) == 0:
		v.ended = "all missing members are back, or left"
	case p.sound > 0 && !g.tooFew(now, p.sound, g.hold.base):
		v.ended = fmt.Sprintf("%d of %d members are there again", p.sound, g.hold.base)
	case g.tooMany(now, p) == nil:
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
	for name := range g.missing {
		g.note(name, step{at: now})
	}
	g.hold, g.missing = nil, nil
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
func (g *guard) accept(now time.Time) {
	g.missing, g.hold, g.history, g.since = nil, nil, nil, now
}

// tooMany is the hold that the losses call for, nil if they may be removed.
func (g *guard) tooMany(now time.Time, p present) *hold {
	if p.sound == 0 {
		a, r := g.sets(now, window, p)
		base := p.suspects + a - min(a+p.suspects, r)
		return &hold{
			since: now, base: max(base, len(g.missing)), why: "the role would be empty, and no member left on purpose",
		}
	}
	for _, w := range []time.Duration{window, longWindow} {
		a, r := g.sets(now, w, p)
		gone, base := a+p.suspects, p.sound+p.suspects+a-min(a+p.suspects, r)
		if gone >= holdFrom && g.tooFew(now, p.sound, base) {
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
