package controller

import (
	"context"
	"fmt"
	"kicker/controller/api"
	"reflect"
	"time"
)

// Plan is what Reload would change at this moment. It changes nothing. The error may wrap ErrNotSynced. Any goroutine may call it while
// Run runs.
func (c *Controller) Plan(ctx context.Context, cfg Config) (p api.Plan, err error) {
	if gone := c.inLoop(ctx, func(_ context.Context, now time.Time) { p, err = c.foresee(cfg, now) }); gone != nil {
		return api.Plan{}, gone
	}
	return p, err
}

func (c *Controller) foresee(cfg Config, now time.Time) (api.Plan, error) {
	if !c.sync.Open {
		return api.Plan{}, fmt.Errorf("plan: %w: %s", api.ErrNotSynced, c.sync.Why)
	}
	next, err := c.under(cfg, now)
	if err != nil {
		return api.Plan{}, err
	}
	verdicts := next.foreseen(now)
	return newPlan(c.View(), verdicts, next.showRoles()), nil
}

// foreseen is the verdicts that a turn would begin with, of a controller that nobody hears of.
func (c *Controller) foreseen(now time.Time) []api.Verdict {
	if c.sync.Open {
		c.openRoles(now)
		c.publish(now)
	}
	c.track(now)
	return plan(c.situation(), now)
}

func newPlan(now *api.View, verdicts []api.Verdict, roles []api.Role) api.Plan {
	p := api.Plan{Actions: []api.PlannedAction{}, Roles: []api.PlannedRole{}}
	was := map[key]api.Verdict{}
	for _, v := range now.Verdicts {
		was[key{v.Node, v.Action}] = v
	}
	for _, then := range verdicts {
		now := was[key{then.Node, then.Action}]
		if now.State == then.State && now.Reason == then.Reason && reflect.DeepEqual(currents(now), currents(then)) {
			continue
		}
		p.Actions = append(p.Actions, api.PlannedAction{
			Node: then.Node, Action: then.Action, BecomesStale: now.State == api.Converged && then.State != api.Converged, Now: now, Then: then,
		})
	}
	type pair struct{ now, then *api.Role }
	byName := map[string]pair{}
	for i := range now.Roles {
		byName[now.Roles[i].Name] = pair{now: &now.Roles[i]}
	}
	for i := range roles {
		both := byName[roles[i].Name]
		both.then = &roles[i]
		byName[roles[i].Name] = both
	}
	for _, name := range sortedKeys(byName) {
		both := byName[name]
		if both.now != nil && both.then != nil && reflect.DeepEqual(*both.now, *both.then) {
			continue
		}
		var was, is api.Role
		if both.now != nil {
			was = *both.now
		}
		if both.then != nil {
			is = *both.then
		}
		d := between(was.Members, is.Members)
		p.Roles = append(p.Roles, api.PlannedRole{Name: name, Now: both.now, Then: both.then, Added: d.added, Removed: d.removed, Changed: d.changed})
	}
	return p
}

// currents is what an action would be configured from.
func currents(v api.Verdict) map[string]string {
	hashes := map[string]string{}
	for _, n := range v.Needs {
		hashes[n.Role+" "+n.Shared] = n.Current.Hash
	}
	return hashes
}
