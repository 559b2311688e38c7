package controller

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// show publishes what the controller knows now.
func (c *Controller) show(now time.Time, verdicts []Verdict) {
	was := c.view.Load()
	next := make(chan struct{})
	v := &View{
		At: now, Identity: c.identity, Leader: c.rival.id, Sync: c.sync, Deaf: c.deaf, Verdicts: verdicts,
		Roles: c.showRoles(), Conflicts: slices.SortedFunc(maps.Values(c.conflicts), func(a, b Conflict) int { return strings.Compare(a.Node, b.Node) }),
		Circles: c.circles.shown, Runs: last(c.journal.runs, keepRuns), Events: last(c.journal.events, keepEvents),
		Counts: c.journal.counts.clone(), Loaded: c.loaded, Nodes: c.inv.Snapshot(), Next: next, next: next,
	}
	c.view.Store(v)
	if was != nil {
		close(was.next)
	}
}

func (c *Controller) showRoles() []Role {
	if c.serves == nil {
		c.serves = dependents(c.sorted())
	}
	shown := make([]Role, 0, len(c.roles.byName))
	for _, name := range sortedKeys(c.roles.byName) {
		r := c.roles.byName[name]
		shown = append(shown, Role{
			Name: name, Selector: r.selector.String(), MemberFacts: r.MemberFacts, DependsOn: r.DependsOn,
			Revision: r.now.Revision, Members: r.now.Members, Nodes: r.nodeNames(), Dependents: c.serves[r],
			Sync: Sync{Open: r.gate.open, Why: r.gate.why, Until: r.gate.until},
			Held: r.guard.show(c.roles.shadow), Unknown: r.unheardOf(),
		})
	}
	return shown
}

// dependents is the actions that need a role, as NODE/ACTION.
func dependents(actions []*action) map[*role][]string {
	of := map[*role][]string{}
	for _, a := range actions {
		name := key{a.node, a.name}.String()
		for _, need := range a.needs {
			of[need.role] = append(of[need.role], name)
		}
	}
	return of
}

func (g *guard) show(shadow bool) *Held {
	if g.hold == nil {
		return nil
	}
	return &Held{Nodes: sortedKeys(g.missing), Since: g.hold.since, Why: g.hold.why, Opinion: g.hold.opinion, Shadow: shadow}
}
