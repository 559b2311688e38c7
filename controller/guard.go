package controller

import (
	"fmt"
	"maps"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

// When the guard refuses to believe that so many nodes of a role went at once.
const (
	guardLeast = 3  // departures and suspects
	guardShare = 70 // percent of the members that must be left

	guardPause    = time.Second // in which a departure that nobody suspected waits for others like it
	guardWindow   = time.Minute // for what goes at once
	guardSlowBurn = time.Hour   // and for what goes one by one

	// In which those that are missing still when a hold could end may follow the others: a link that is mended brings nodes back one by
	// one, as each finds the bus again.
	guardMend = 5 * time.Second

	opinionAfter = 3 * time.Minute  // of a hold dependents are asked whether they reach the lost ones
	opinionEvery = 30 * time.Second // and again
	witnesses    = 5                // are asked, at most
)

// guard holds the removals of one role when too many of its members depart without a goodbye. What is held stays a member; whoever
// joins is one at once.
type guard struct {
	sizes    []sample             // of the role, when it changed; of the last hour, and the one before
	joined   map[string]time.Time // members, as far as they joined within the last hour
	departed []departure          // without a goodbye, and published; of the last hour, oldest first

	missing map[string]loss // departures that are not published: pending until the next judgement, or held
	hold    *hold           // nil: nothing is held
	expect  expectation
}

type sample struct {
	at   time.Time
	size int
}

// loss is a member that departed without a goodbye.
type loss struct {
	member kick.Member
	facts  inventory.Facts
	at     time.Time // when that began: with the suspicion, if there was one
	joined time.Time // zero: more than an hour before
}

// departure is a loss that was published.
type departure struct{ at, joined time.Time }

// hold is a judgement that stands until it is lifted.
type hold struct {
	since   time.Time
	base    int // members that there were, less goodbyes
	why     string
	opinion string    // what the dependents that were asked say
	ask     time.Time // when they are asked next
	over    time.Time // when it ends, if so many are back until then; zero while too few are
}

// expectation is an operator's word that a role may go down to so many percent.
type expectation struct {
	share int
	until time.Time
}

// joins takes in a new member.
func (g *guard) joins(name string, at time.Time) {
	if g.joined == nil {
		g.joined = map[string]time.Time{}
	}
	g.joined[name] = at
}

// lost takes in a departure without a goodbye.
func (g *guard) lost(name string, l loss) {
	if g.missing == nil {
		g.missing = map[string]loss{}
	}
	l.joined = g.joined[name]
	delete(g.joined, name)
	g.missing[name] = l
}

// left takes in a goodbye.
func (g *guard) left(name string) {
	delete(g.missing, name)
	delete(g.joined, name)
}

// back takes in that a node is a member again. It reports whether it had been missing.
func (g *guard) back(name string) bool {
	l, was := g.missing[name]
	if was && !l.joined.IsZero() {
		g.joins(name, l.joined)
	}
	delete(g.missing, name)
	return was
}

// judgement is what a guard makes of the moment.
type judgement struct {
	began    *hold  // a hold that begins now
	ended    string // why a hold ends now
	released bool   // some departures are published now
}

// judge decides on the departures that are pending: they stay missing if they are held, and are forgotten, and so published, if not.
// sound is how many members are left and not suspect; rest is their facts, and those of the suspects.
func (g *guard) judge(now time.Time, sound int, suspects map[string]struct{}, rest func() []inventory.Facts) judgement {
	g.trim(now)
	var j judgement
	if g.hold != nil {
		switch {
		case len(g.missing) == 0:
			j.ended = "all that were missing are back, or said goodbye"
		case sound > 0 && !g.tooFew(now, sound, g.hold.base):
			j.ended = fmt.Sprintf("%d sound members are there again, of %d", sound, g.hold.base)
		case g.tooMany(now, sound, suspects) == nil:
			j.ended = fmt.Sprintf("no more than %d are missing still", len(g.missing))
		default:
			g.hold.over = time.Time{}
			return j
		}
		if g.hold.over.IsZero() {
			g.hold.over = now.Add(guardMend)
		}
		if len(g.missing) > 0 && now.Before(g.hold.over) {
			return judgement{}
		}
		g.hold = nil
		g.release(now)
		return j
	}
	if len(g.missing) > 0 {
		if g.hold = g.tooMany(now, sound, suspects); g.hold != nil {
			g.hold.why += g.common(rest())
			g.hold.ask = now.Add(opinionAfter)
			j.began = g.hold
			return j
		}
	}
	for name, l := range g.missing {
		if !now.Before(l.due()) {
			delete(g.missing, name)
			g.departed = append(g.departed, departure{now, l.joined})
			j.released = true
		}
	}
	return j
}

// due is when a departure that is not held is published.
func (l loss) due() time.Time { return l.at.Add(guardPause) }

// next is when the guard has to judge again, or to ask.
func (g *guard) next() time.Time {
	if g.hold != nil && (g.hold.over.IsZero() || g.hold.ask.Before(g.hold.over)) {
		return g.hold.ask
	} else if g.hold != nil {
		return g.hold.over
	}
	var due time.Time
	for _, l := range g.missing {
		if at := l.due(); due.IsZero() || at.Before(due) {
			due = at
		}
	}
	return due
}

// release lets what is missing be removed.
func (g *guard) release(now time.Time) {
	for _, l := range g.missing {
		g.departed = append(g.departed, departure{now, l.joined})
	}
	g.missing = nil
}

// accept is that the loss is real, by the word of an operator or of the dependents: what comes next is counted from here.
func (g *guard) accept(now time.Time, size int) {
	g.missing, g.hold, g.departed = nil, nil, nil
	g.sizes = []sample{{now, size}}
}

// tooMany is the hold that the present losses call for, nil if they can be believed.
func (g *guard) tooMany(now time.Time, sound int, suspects map[string]struct{}) *hold {
	if sound == 0 {
		return &hold{
			since: now, base: max(g.base(now, guardWindow, sound, suspects), len(g.missing)),
			why: "it would be empty, and nobody said goodbye",
		}
	}
	for _, window := range []time.Duration{guardWindow, guardSlowBurn} {
		base := g.base(now, window, sound, suspects)
		gone := len(g.missing) + g.departedSince(now.Add(-window)) + len(suspects)
		if gone >= guardLeast && g.tooFew(now, sound, base) {
			return &hold{since: now, base: base, why: fmt.Sprintf("%d of %d are gone or suspect within %s", gone, base, window)}
		}
	}
	return nil
}

// tooFew reports whether less is left than can be believed, and than an operator expects.
func (g *guard) tooFew(now time.Time, left, base int) bool {
	expected := now.Before(g.expect.until) && left*100 >= base*g.expect.share
	return !expected && left*100 <= base*guardShare
}

// base is the most members that there were within a window, less those that said goodbye since, and less those that were there when it
// began, are gone, and were replaced by others: of a role that grew, the new ones are guarded as well.
func (g *guard) base(now time.Time, window time.Duration, sound int, suspects map[string]struct{}) int {
	began := now.Add(-window)
	without := sound + len(suspects) + len(g.missing) + g.departedSince(began) // departures there would be so many
	first, most := 0, 0
	for i, s := range g.sizes {
		if i == 0 || !s.at.After(began) {
			first, most = s.size, 0
		}
		most = max(most, s.size)
	}
	there := began // those who joined no later were there
	if len(g.sizes) > 0 && g.sizes[0].at.After(began) {
		there = g.sizes[0].at
	}
	old := 0
	count := func(joined time.Time) {
		if !joined.After(there) {
			old++
		}
	}
	for _, l := range g.missing {
		count(l.joined)
	}
	for name := range suspects {
		count(g.joined[name])
	}
	for _, d := range g.departed {
		if d.at.After(began) {
			count(d.joined)
		}
	}
	size := min(most, without)
	return min(size, max(first, size-old))
}

// note keeps the size that a role has had from now on; of those within a second the last.
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

// trim forgets what no window reaches back to.
func (g *guard) trim(now time.Time) {
	began := now.Add(-guardSlowBurn)
	for len(g.departed) > 0 && g.departed[0].at.Before(began) {
		g.departed = g.departed[1:]
	}
	maps.DeleteFunc(g.joined, func(_ string, at time.Time) bool { return at.Before(began) })
	for len(g.sizes) > 1 && !g.sizes[1].at.After(began) {
		g.sizes = g.sizes[1:]
	}
}

func (g *guard) departedSince(began time.Time) int {
	n := 0
	for _, d := range g.departed {
		if d.at.After(began) {
			n++
		}
	}
	return n
}

// common is what all that are missing say of themselves alike and few of the others do, for people: a rack, a site, a switch.
func (g *guard) common(rest []inventory.Facts) string {
	if len(g.missing) < 2 || len(rest) == 0 {
		return "" // nothing to tell them from
	}
	var shared map[string]string
	for _, l := range g.missing {
		flat := flatten(l.facts)
		if shared == nil {
			shared = flat
		}
		maps.DeleteFunc(shared, func(path, value string) bool { return flat[path] != value })
	}
	others := map[string]int{}
	for _, facts := range rest {
		for path, value := range flatten(facts) {
			if shared[path] == value {
				others[path]++
			}
		}
	}
	var words []string
	for _, path := range sortedKeys(shared) {
		if others[path]*10 <= len(rest) {
			words = append(words, path+"="+shared[path])
		}
	}
	if len(words) == 0 {
		return ""
	}
	return ", all " + abridged(words)
}

// flatten is facts by their paths, as text.
func flatten(facts inventory.Facts) map[string]string {
	flat := map[string]string{}
	var add func(prefix string, facts map[string]any)
	add = func(prefix string, facts map[string]any) {
		for key, value := range facts {
			if nested, ok := value.(map[string]any); ok {
				add(prefix+key+".", nested)
				continue
			}
			flat[prefix+key] = fmt.Sprint(value)
		}
	}
	add("", facts)
	return flat
}
