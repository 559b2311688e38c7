package controller

import (
	"sync/atomic"
	"time"

	"kicker/controller/api"
)

// views is the newest view, and a channel that is closed when a newer one is published.
type views struct {
	current atomic.Pointer[api.View]
	next    chan struct{}
}

// publishView makes a new view of what the controller knows, and wakes those that wait for it.
func (c *Controller) publishView(verdicts []api.Verdict, now time.Time) {
	outdated := c.views.next
	c.views.next = make(chan struct{})
	c.views.current.Store(&api.View{
		At: now, Identity: c.identity(), Leader: c.leadership.rival.id, Sync: c.listening.sync,
		DisconnectsLost: c.listening.disconnects, Nodes: c.inv.Snapshot(), Departed: c.departed.view(), Roles: c.viewRoles(), Verdicts: verdicts,
		Conflicts: c.viewConflicts(), WrongVersion: c.viewVersions(), Cycles: c.fleet.cycles.Found,
		Overdue: c.situation(now).Overdue(),
		Runs:    last(c.journal.runs, keepRuns), Events: last(c.journal.events, keepEvents),
		Counts: cloneCounts(c.journal.counts), Loaded: c.journal.loaded, Next: c.views.next,
	})
	if outdated != nil {
		close(outdated)
	}
}

func (c *Controller) identity() api.Identity {
	l := &c.leadership
	return api.Identity{Cluster: l.cluster, ID: l.id, Epoch: l.epoch, Started: l.started}
}

func (c *Controller) viewRoles() []api.Role {
	roles := c.table.Roles()
	views := make([]api.Role, 0, len(roles))
	for _, r := range roles {
		current := r.Current()
		views = append(views, api.Role{
			Name: r.Name, Selector: r.Selector(), MemberFacts: r.MemberFacts, DependsOn: r.DependsOn,
			Revision: current.Revision, Members: current.Members, Nodes: r.Nodes(), Dependents: c.fleet.dependentsOf(r),
			Sync: r.Sync(), Held: r.Held(c.table.Shadow()), Unknown: r.Unknown(),
			MinMembers: r.MinMembers, Refused: r.Refusal(), Incomplete: r.Incomplete(), Quarantined: r.Quarantined(),
		})
	}
	return views
}

func (c *Controller) viewConflicts() []api.Conflict {
	var views []api.Conflict
	for _, node := range sortedKeys(c.rejected.conflicts) {
		views = append(views, c.rejected.conflicts[node].Conflict)
	}
	return views
}

func (c *Controller) viewVersions() []api.VersionMismatch {
	var views []api.VersionMismatch
	for _, node := range sortedKeys(c.rejected.versions) {
		views = append(views, c.rejected.versions[node].VersionMismatch)
	}
	return views
}
