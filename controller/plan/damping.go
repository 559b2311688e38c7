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

// Cause is what changed, since an action was last kicked, in the roles that it depends on.
type Cause int

// The causes of a kick.
const (
	CauseNone     Cause = iota // nothing: it is a retry
	CauseOwnCycle              // only member facts, by runs that kicks of this very action may have caused
	CauseOutside               // anything else
)

// Origins is which changes of a role runs made, and which came from outside, by the role's name.
type Origins map[string]Origin

// Origin is when the changes of one role came from where.
type Origin struct {
	outside time.Time // when a change was published last that no run made
	own     time.Time // when one was that runs made
	fact    string    // which fact that was: "port of web1"
}

// Note says where a change that was published came from. Runs made it if it changed nothing but member facts, and on each of those nodes
// a run is in progress or ended within OwnRunTime, which ran reports.
func (o Origins) Note(c membership.Change, now time.Time, ran func(node string) bool) {
	of, is := o[c.Role.Name], c.Role.Current().Members
	byRuns := len(c.Diff.Changed) > 0 && len(c.Diff.Added)+len(c.Diff.Removed) == 0 &&
		!slices.ContainsFunc(c.Diff.Changed, func(node string) bool { return !ran(node) })
	if byRuns {
		of.own, of.fact = now, changedFact(c.Diff.Changed[0], c.Was.Members, is)
	} else {
		of.outside = now
	}
	o[c.Role.Name] = of
}

// changedFact names the first fact of a node that differs in two memberships.
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

// causeOf is why an action is stale, as far as its roles changed since its last kick. A role that does not depend on the action's node
// in turn is outside, though a run changed it.
func (cs Cycles) causeOf(a *Action, origins Origins, table *membership.Table) (cause Cause, fact string) {
	for _, need := range a.Needs {
		of, kicked := origins[need.Role.Name], a.Retry.Kicked
		switch {
		case kicked.IsZero() || of.outside.After(kicked):
			return CauseOutside, ""
		case !of.own.After(kicked): // it did not change
		case !cs.join(need.Role, a.Node, table):
			return CauseOutside, ""
		default:
			cause, fact = CauseOwnCycle, of.fact
		}
	}
	return cause, fact
}

// dampedUntil is when an action may be kicked again that is kicked again and again for the changes of its own cycle.
func (c Config) dampedUntil(a *Action) time.Time {
	n := a.Retry.SelfMade - dampAfter
	if a.cause != CauseOwnCycle || a.Order != nil || n < 0 {
		return time.Time{}
	}
	return a.Retry.Kicked.Add(min(dampFirst<<min(n, 20), c.Backoff.Max))
}

func dampedWhy(a *Action) string {
	return fmt.Sprintf("every run changes a member fact that it depends on: %s; an action must not do that", a.fact)
}

// Damp says when damping begins or ends: it ends when something changed outside, or nothing for long. The event is nil if neither.
func (c Config) Damp(a *Action, now time.Time) *api.Event {
	r := a.Retry
	event := func(kind, text string) *api.Event {
		return &api.Event{Time: now, Kind: kind, Node: a.Node, Action: a.Action, Text: text}
	}
	switch {
	case r.SelfMade == 0:
	case a.cause == CauseOutside || a.cause == CauseNone && now.Sub(r.Kicked) > 2*c.Backoff.Max:
		r.SelfMade = 0
		if r.Damped {
			r.Damped, a.from = false, now // what changed may be the first change of a burst
			return event(api.EventDampingEnded, fmt.Sprintf("%s is no longer damped", a.Key))
		}
	case !r.Damped && now.Before(c.dampedUntil(a)):
		r.Damped = true
		return event(api.EventDampingBegan,
			fmt.Sprintf("%s is damped after %d kicks in a row without a change outside: %s", a.Key, r.SelfMade, dampedWhy(a)))
	}
	return nil
}
