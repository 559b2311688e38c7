package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
	sizes    []sample    // of the role, when it changed; of the last hour, and the one before
	departed []time.Time // without a goodbye, and published; of the last hour

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
}

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

// lost takes in a departure without a goodbye.
func (g *guard) lost(name string, l loss) {
	if g.missing == nil {
		g.missing = map[string]loss{}
	}
	g.missing[name] = l
}

// back takes in that a node is a member again. It reports whether it had been missing.
func (g *guard) back(name string) bool {
	_, was := g.missing[name]
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
// sound is the members that are left and not suspect; rest is their facts, and those of the suspects.
func (g *guard) judge(now time.Time, sound, suspects int, rest func() []inventory.Facts) judgement {
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
			g.departed = append(g.departed, now)
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
	for range g.missing {
		g.departed = append(g.departed, now)
	}
	g.missing = nil
}

// accept is the operator's word that the loss is real.
func (g *guard) accept(now time.Time, size int) {
	g.release(now)
	g.hold = nil
	g.departed = nil // what comes next is counted from here
	g.sizes = []sample{{now, size}}
}

// tooMany is the hold that the present losses call for, nil if they can be believed.
func (g *guard) tooMany(now time.Time, sound, suspects int) *hold {
	if sound == 0 {
		return &hold{
			since: now, base: max(g.base(now, guardWindow, suspects), len(g.missing)),
			why: "it would be empty, and nobody said goodbye",
		}
	}
	for _, window := range []time.Duration{guardWindow, guardSlowBurn} {
		base := g.base(now, window, sound+suspects)
		gone := len(g.missing) + countSince(g.departed, now.Add(-window))
		if gone+suspects >= guardLeast && g.tooFew(now, sound, base) {
			return &hold{since: now, base: base, why: fmt.Sprintf("%d of %d are gone or suspect within %s", gone+suspects, base, window)}
		}
	}
	return nil
}

// tooFew reports whether less is left than can be believed, and than an operator expects.
func (g *guard) tooFew(now time.Time, left, base int) bool {
	expected := now.Before(g.expect.until) && left*100 >= base*g.expect.share
	return !expected && left*100 <= base*guardShare
}

// base is the members that there were when a window began, less those that said goodbye since and that nobody replaced: never more than
// there would be without departures.
func (g *guard) base(now time.Time, window time.Duration, left int) int {
	began := now.Add(-window)
	size := 0
	for i, s := range g.sizes {
		if i > 0 && s.at.After(began) {
			break
		}
		size = s.size
	}
	return min(size, left+len(g.missing)+countSince(g.departed, began))
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
	old := func(t time.Time) bool { return t.Before(began) }
	g.departed = slices.DeleteFunc(g.departed, old)
	for len(g.sizes) > 1 && !g.sizes[1].at.After(began) {
		g.sizes = g.sizes[1:]
	}
}

func countSince(times []time.Time, since time.Time) int {
	n := 0
	for _, t := range times {
		if t.After(since) {
			n++
		}
	}
	return n
}

// common is what all that are missing say of themselves alike and few of the others do, for people: a rack, a site, a switch.
func (g *guard) common(rest []inventory.Facts) string {
	if len(g.missing) < 2 {
		return ""
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
	return ", all " + strings.Join(words, " ")
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
