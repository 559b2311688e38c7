package controller

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

const (
	ownRun    = time.Minute // after a run the changes of its node's member facts are taken for its doing
	dampAfter = 5           // kicks in a row that only runs of its own circle explain
	dampFirst = time.Minute // between two kicks from then on; doubled with each
)

// cause is what changed in the needs of an action since it was kicked.
type cause int

const (
	nothing  cause = iota
	selfMade       // only member facts, by runs that kicks of this very action may have brought about
	outside        // anything else
)

// ownChange is a change of a role's membership that runs made.
type ownChange struct {
	at   time.Time
	what string // "port of web1"
}

// attribute notes who made the change of a membership that was just published: nothing but member facts changed, and on each of those
// nodes a run is in progress, or ended a moment ago; or else somebody outside.
func (p publication) attribute(now time.Time, ran func(node string) bool) {
	r, d := p.role, p.diff
	if len(d.changed) == 0 || len(d.added)+len(d.removed) > 0 || !all(d.changed, ran) {
		r.outside = now
		return
	}
	r.own = ownChange{now, changedFact(d.changed[0], p.was.Members, r.now.Members)}
}

func all(names []string, is func(string) bool) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !is(name) })
}

// changedFact names the first fact of a node that differs in two memberships.
func changedFact(node string, was, is []kick.Member) string {
	facts := func(members []kick.Member) map[string]any {
		i := slices.IndexFunc(members, func(m kick.Member) bool { return m.Node == node })
		return members[i].Facts
	}
	before, after := facts(was), facts(is)
	both := map[string]struct{}{}
	for path := range before {
		both[path] = struct{}{}
	}
	for path := range after {
		both[path] = struct{}{}
	}
	for _, path := range sortedKeys(both) {
		if !reflect.DeepEqual(before[path], after[path]) {
			return path + " of " + node
		}
	}
	return "a fact of " + node
}

// ranLately reports whether a run is in progress on a node, or ended a moment ago.
func (c *Controller) ranLately(node string, now time.Time) bool {
	return c.flights[node] != nil || c.running[node] != nil ||
		slices.ContainsFunc(c.byNode[node], func(a *action) bool { return now.Sub(a.memory.ended) <= ownRun })
}

// causeOf is why an action is stale, as far as its needs changed since its last kick. A run's change of a role from which nothing
// leads back to the action comes from outside: it can't be a loop.
func (cs circles) causeOf(a *action, rs *roles) (is cause, what string) {
	for _, need := range a.needs {
		r, kicked := need.role, a.memory.kicked
		switch {
		case kicked.IsZero() || r.outside.After(kicked):
			return outside, ""
		case !r.own.at.After(kicked):
			// not this one
		case !cs.join(r, a.node, rs):
			return outside, ""
		default:
			is, what = selfMade, r.own.what
		}
	}
	return is, what
}

// dampedUntil is when an action that is kicked again and again for its own circle's changes may be kicked again.
func dampedUntil(cfg Config, a *action) time.Time {
	n := a.memory.selfMade - dampAfter
	if a.cause != selfMade || a.forced != nil || n < 0 {
		return time.Time{}
	}
	return a.memory.kicked.Add(min(dampFirst<<min(n, 20), cfg.Backoff.Max))
}

// damp tells when an action begins to be damped, and when that is over: when something changed outside, or nothing for long.
func (c *Controller) damp(a *action, now time.Time) {
	m, what := a.memory, key{a.node, a.name}
	switch {
	case m.selfMade == 0:
	case a.cause == outside || a.cause == nothing && now.Sub(m.kicked) > 2*c.cfg.Backoff.Max:
		m.selfMade = 0
		if m.damped {
			m.damped, a.from = false, now // what changed may be the first of a burst
			c.event(api.Event{Time: now, Kind: api.EventDampingEnded, Node: a.node, Action: a.name, Text: fmt.Sprintf("%s is damped no more", what)})
		}
	case !m.damped && now.Before(dampedUntil(c.cfg, a)):
		m.damped = true
		c.event(api.Event{Time: now, Kind: api.EventDampingBegan, Node: a.node, Action: a.name,
			Text: fmt.Sprintf("%s is damped, after %d kicks in a row that no change outside explains: %s", what, m.selfMade, dampedWhy(a))})
	}
}

func dampedWhy(a *action) string {
	return fmt.Sprintf("its role's member facts change with every run: %s; an action must not change them", a.own)
}

// circles is where roles depend on each other.
type circles struct {
	of    map[string]int // by role: roles with the same number reach each other
	shown []api.Cycle
}

// join reports whether a role that an action of the node depends on is one of the node's, or depends on one of those in its turn.
func (cs circles) join(r *role, node string, rs *roles) bool {
	at, known := cs.of[r.Name]
	joins := func(of *role) bool {
		with, also := cs.of[of.Name]
		return of == r || known && also && with == at
	}
	return slices.ContainsFunc(rs.of[node], joins) || slices.ContainsFunc(rs.custom, func(of *role) bool {
		_, in := of.nodes[node]
		return in && joins(of)
	})
}

// findCircles looks where roles depend on each other now, and tells what is new, and over.
func (c *Controller) findCircles(now time.Time) {
	next := circlesIn(c.roles.arrows(c.sorted()))
	same := func(k api.Cycle) func(api.Cycle) bool {
		return func(other api.Cycle) bool { return slices.Equal(k.Roles, other.Roles) }
	}
	for i := range next.shown {
		k := &next.shown[i]
		if at := slices.IndexFunc(c.circles.shown, same(*k)); at >= 0 {
			k.Since = c.circles.shown[at].Since
			continue
		}
		k.Since = now
		c.event(api.Event{Time: now, Kind: api.EventCycleBegan, Role: k.Roles[0], Text: k.String()})
	}
	for _, k := range c.circles.shown {
		if !slices.ContainsFunc(next.shown, same(k)) {
			c.event(api.Event{Time: now, Kind: api.EventCycleEnded, Role: k.Roles[0],
				Text: fmt.Sprintf("roles %s depend on each other in this circle no more", strings.Join(append(slices.Clone(k.Roles), k.Roles[0]), " → "))})
		}
	}
	c.circles = next
}

// arrows is the roles that the nodes of each role depend on, by name and sorted. That a role depends on itself is normal, and left out.
func (rs *roles) arrows(actions []*action) map[string][]string {
	in := map[string][]*role{} // the selectors' roles that a node is in
	for _, r := range rs.custom {
		for node := range r.nodes {
			if r.implicit {
				in[node] = append(in[node], r)
			}
		}
	}
	sets := map[string]map[string]struct{}{}
	for _, a := range actions {
		for _, need := range a.needs {
			for _, of := range [][]*role{rs.of[a.node], in[a.node]} {
				for _, from := range of {
					if from == need.role {
						continue
					}
					if sets[from.Name] == nil {
						sets[from.Name] = map[string]struct{}{}
					}
					sets[from.Name][need.role.Name] = struct{}{}
				}
			}
		}
	}
	arrows := make(map[string][]string, len(sets))
	for from, to := range sets {
		arrows[from] = sortedKeys(to)
	}
	return arrows
}

// circlesIn finds the roles that reach each other, and of each such lot the shortest circle through its first role. It is Tarjan's
// algorithm: it looks at each arrow once.
func circlesIn(arrows map[string][]string) circles {
	cs := circles{of: map[string]int{}}
	var stack []string
	seen, low := map[string]int{}, map[string]int{} // both from 1
	var visit func(string)
	visit = func(role string) {
		seen[role] = len(seen) + 1
		low[role] = seen[role]
		stack = append(stack, role)
		for _, to := range arrows[role] {
			if _, done := cs.of[to]; done {
				continue
			}
			if seen[to] == 0 {
				visit(to)
			}
			low[role] = min(low[role], low[to])
		}
		if low[role] != seen[role] {
			return
		}
		at := len(stack) - 1
		for stack[at] != role {
			at--
		}
		lot := stack[at:]
		for _, r := range lot {
			cs.of[r] = seen[role]
		}
		if len(lot) > 1 {
			cs.shown = append(cs.shown, api.Cycle{Roles: shortest(slices.Min(lot), arrows)})
		}
		stack = stack[:at]
	}
	for _, role := range sortedKeys(arrows) {
		if seen[role] == 0 {
			visit(role)
		}
	}
	slices.SortFunc(cs.shown, func(a, b api.Cycle) int { return slices.Compare(a.Roles, b.Roles) })
	return cs
}

// shortest is the shortest way from a role back to it. There is one.
func shortest(role string, arrows map[string][]string) []string {
	via := map[string]string{}
	for queue := []string{role}; ; queue = queue[1:] {
		from := queue[0]
		for _, to := range arrows[from] {
			if to == role {
				way := []string{from}
				for from != role {
					from = via[from]
					way = append(way, from)
				}
				slices.Reverse(way)
				return way
			}
			if _, met := via[to]; !met {
				via[to] = from
				queue = append(queue, to)
			}
		}
	}
}
