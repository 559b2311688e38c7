package controller

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
)

// Plan is what Reload would change at this moment. It changes nothing. The error may wrap api.ErrNotSynced. Any
// goroutine may call it while Run runs.
func (c *Controller) Plan(ctx context.Context, cfg Config) (p api.Plan, err error) {
	gone := c.inLoop(ctx, func(_ context.Context, now time.Time) (changed bool) {
		p, err = c.dryRun(cfg, now)
		return false
	})
	if gone != nil {
		return api.Plan{}, gone
	}
	return p, err
}

// dryRun compares with the first turn of a copy of this controller under another configuration. The copy carries
// nothing out.
func (c *Controller) dryRun(cfg Config, now time.Time) (api.Plan, error) {
	if !c.listening.sync.Open {
		return api.Plan{}, fmt.Errorf("plan: %w: %s", api.ErrNotSynced, c.listening.sync.Why)
	}
	next, err := c.with(cfg, now)
	if err != nil {
		return api.Plan{}, err
	}
	verdicts := next.firstTurn(now)
	return compare(c.View(), verdicts, next.viewRoles()), nil
}

// firstTurn is the verdicts of a copy's first turn.
func (c *Controller) firstTurn(now time.Time) []api.Verdict {
	if c.listening.sync.Open {
		c.table.Recover(c.inv.Snapshot(), c.reports(), now)
		c.publish(now)
	}
	c.track(now)
	return plan.Make(c.situation(now), now)
}

// compare is what differs between a view and the verdicts and roles of a dry run.
func compare(now *api.View, verdicts []api.Verdict, roles []api.Role) api.Plan {
	p := api.Plan{Actions: []api.PlannedAction{}, Roles: []api.PlannedRole{}}
	was := map[plan.Key]api.Verdict{}
	for _, v := range now.Verdicts {
		was[plan.Key{Node: v.Node, Action: v.Action}] = v
	}
	for _, then := range verdicts {
		now := was[plan.Key{Node: then.Node, Action: then.Action}]
		if now.State == then.State && now.Reason == then.Reason && reflect.DeepEqual(hashes(now), hashes(then)) {
			continue
		}
		p.Actions = append(p.Actions, api.PlannedAction{
			Node: then.Node, Action: then.Action, Now: now, Then: then,
			BecomesStale: now.State == api.Converged && then.State != api.Converged,
		})
	}
	planned := map[string]api.PlannedRole{}
	for i := range now.Roles {
		planned[now.Roles[i].Name] = api.PlannedRole{Now: &now.Roles[i]}
	}
	for i := range roles {
		planned[roles[i].Name] = api.PlannedRole{Now: planned[roles[i].Name].Now, Then: &roles[i]}
	}
	for _, name := range sortedKeys(planned) {
		r := planned[name]
		if r.Now != nil && r.Then != nil && reflect.DeepEqual(*r.Now, *r.Then) {
			continue
		}
		var was, is api.Role
		if r.Now != nil {
			was = *r.Now
		}
		if r.Then != nil {
			is = *r.Then
		}
		d := membership.Between(was.Members, is.Members)
		r.Name, r.Added, r.Removed, r.Changed = name, d.Added, d.Removed, d.Changed
		p.Roles = append(p.Roles, r)
	}
	return p
}

// hashes is the memberships that an action would be configured from.
func hashes(v api.Verdict) map[string]string {
	of := map[string]string{}
	for _, n := range v.Needs {
		of[n.Role+" "+n.Shared] = n.Current.Hash
	}
	return of
}
