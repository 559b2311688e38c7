package plan

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

const (
	// OwnRunTime is how long after a run the changes of its node's member facts are taken for its doing.
	OwnRunTime = time.Minute

	dampAfter = 5           // kicks in a row that only runs of the action's own cycle explain
	dampFirst = time.Minute // between two kicks from then on; doubled with each
)

// cause is what changed, since an action was last kicked, in the roles that it depends on.
type cause int

const (
	causeNone     cause = iota // nothing: it is a retry
	causeOwnCycle              // only member facts, by runs that kicks of this very action may have caused
	causeOutside               // anything else
)

// Origins is which changes of a role runs made, and which came from outside, by the role's name.
type Origins map[string]Origin

// Origin is when changes of one role were published.
type Origin struct {
	outside time.Time // the last one that no run made
	own     time.Time // the last one that runs made
	fact    string    // which fact that one changed: "port of web1"
}

// Note says where a change that was published came from. Runs made it if it changed nothing but member facts, and on
// each of those nodes a run is in progress or ended within OwnRunTime, which ran reports.
func (o Origins) Note(c membership.Change, now time.Time, ran func(node string) bool) {
	origin, d := o[c.Role.Name], c.Diff
	other := func(node string) bool { return !ran(node) }
	if len(d.Changed) == 0 || len(d.Added)+len(d.Removed) > 0 || slices.ContainsFunc(d.Changed, other) {
		origin.outside = now
	} else {
		origin.own, origin.fact = now, changedFact(d.Changed[0], c.Was.Members, c.Role.Current().Members)
	}
	o[c.Role.Name] = origin
}

// changedFact names the first fact of a node that differs in two memberships. The node is a member of both.
func changedFact(node string, was, is []kick.Member) string {
	facts := func(members []kick.Member) map[string]any {
		i := slices.IndexFunc(members, func(m kick.Member) bool { return m.Node == node })
		return members[i].Facts
	}
	before, after := facts(was), facts(is)
	both := map[string]any{}
	maps.Copy(both, before)
	maps.Copy(both, after)
	for _, path := range slices.Sorted(maps.Keys(both)) {
		if !reflect.DeepEqual(before[path], after[path]) {
			return path + " of " + node
		}
	}
	return "a fact of " + node
}

// causeOf is why an action is stale, as far as its roles changed since its last kick. A role that does not depend on
// the action's node in turn is outside, though a run changed it.
func (cs Cycles) causeOf(a *Action, origins Origins, table *membership.Table) (why cause, fact string) {
	kicked := a.Retry.kicked
	for _, need := range a.Needs {
		origin := origins[need.Role.Name]
		switch {
		case kicked.IsZero() || origin.outside.After(kicked):
			return causeOutside, ""
		case !origin.own.After(kicked): // it did not change
		case !cs.join(need.Role, a.Node, table):
			return causeOutside, ""
		default:
			why, fact = causeOwnCycle, origin.fact
		}
	}
	return why, fact
}

// dampedUntil is when an action may be kicked again that is kicked again and again for the changes of its own cycle.
// Zero: it is not damped.
//
// Example: the fifth such kick in a row was sent at 12:00. The sixth follows at 12:01, the seventh at 12:03 and the
// eighth at 12:07.
func (c Config) dampedUntil(a *Action) time.Time {
	n := a.Retry.ownCycle - dampAfter
	if a.cause != causeOwnCycle || a.Order != nil || n < 0 {
		return time.Time{}
	}
	return a.Retry.kicked.Add(min(dampFirst<<min(n, 20), c.Backoff.Max))
}

func dampedWhy(a *Action) string {
	return fmt.Sprintf("every run changes a member fact that it depends on: %s; an action must not do that", a.fact)
}

// Damp says when damping begins or ends: it ends when something changed outside, or nothing for long. The event is nil
// if neither happens.
func (c Config) Damp(a *Action, now time.Time) *api.Event {
	r := a.Retry
	event := func(kind, text string) *api.Event {
		return &api.Event{Time: now, Kind: kind, Node: a.Node, Action: a.Action, Text: text}
	}
	switch {
	case r.ownCycle == 0:
	case a.cause == causeOutside || a.cause == causeNone && now.Sub(r.kicked) > 2*c.Backoff.Max:
		r.ownCycle = 0
		if r.damped {
			r.damped, a.from = false, now // what changed may be the first change of a burst
			return event(api.EventDampingEnded, fmt.Sprintf("%s is no longer damped", a.Key))
		}
	case !r.damped && now.Before(c.dampedUntil(a)):
		r.damped = true
		return event(api.EventDampingBegan,
			fmt.Sprintf("%s is damped after %d kicks in a row without a change outside: %s", a.Key, r.ownCycle, dampedWhy(a)))
	}
	return nil
}
