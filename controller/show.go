package controller

import (
	"kicker/controller/api"
	"time"
)

// show publishes what the controller knows now.
func (c *Controller) show(now time.Time, verdicts []api.Verdict) {
	outdated := c.next
	c.next = make(chan struct{})
	v := &api.View{
		At: now, Identity: c.identity, Leader: c.rival.id, Sync: c.sync, DisconnectsLost: c.deaf, Verdicts: verdicts,
		Roles: c.showRoles(), Conflicts: c.showConflicts(),
		Cycles: c.circles.shown, Runs: last(c.journal.runs, keepRuns), Events: last(c.journal.events, keepEvents),
		Counts: cloneCounts(c.journal.counts), Loaded: c.loaded, Nodes: c.inv.Snapshot(), Next: c.next,
	}
	c.view.Store(v)
	if outdated != nil {
		close(outdated)
	}
}

func (c *Controller) showRoles() []api.Role {
	if c.serves == nil {
		c.serves = dependents(c.sorted())
	}
	shown := make([]api.Role, 0, len(c.roles.byName))
	for _, name := range sortedKeys(c.roles.byName) {
		r := c.roles.byName[name]
		shown = append(shown, api.Role{
			Name: name, Selector: r.selector.String(), MemberFacts: r.MemberFacts, DependsOn: r.DependsOn,
			Revision: r.now.Revision, Members: r.now.Members, Nodes: r.nodeNames(), Dependents: c.serves[r],
			Sync: api.Sync{Open: r.gate.open, Why: r.gate.why, Until: r.gate.until},
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

func (g *guard) show(shadow bool) *api.Held {
	if g.hold == nil {
		return nil
	}
	return &api.Held{Nodes: sortedKeys(g.missing), Since: g.hold.since, Why: g.hold.why, Probe: g.hold.opinion, Shadow: shadow}
}
