package controller

import (
	"context"
	"fmt"
	"reflect"
	"time"
)

// Plan is what another configuration would change. Actions and roles that it would leave as they are, are not in it.
type Plan struct {
	Actions []PlannedAction `json:"actions"` // by node, then in the node's order
	Roles   []PlannedRole   `json:"roles"`   // by name
}

// PlannedAction is an action and the verdicts on it, now and then.
type PlannedAction struct {
	Node         string  `json:"node"`
	Action       string  `json:"action"`
	BecomesStale bool    `json:"becomes_stale"` // converged now, and not then
	Now          Verdict `json:"now"`
	Then         Verdict `json:"then"`
}

// PlannedRole is a role now and then.
type PlannedRole struct {
	Name    string   `json:"name"`
	Now     *Role    `json:"now"`  // null: there is none
	Then    *Role    `json:"then"` // null: there is none
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
	Changed []string `json:"changed,omitempty"` // same members, other member facts
}

// Stale is how many actions would become stale.
func (p Plan) Stale() int {
	n := 0
	for _, a := range p.Actions {
		if a.BecomesStale {
			n++
		}
	}
	return n
}

// Plan is what Reload would change at this moment. It changes nothing. The error may wrap ErrNotSynced. Any goroutine may call it while
// Run runs.
func (c *Controller) Plan(ctx context.Context, cfg Config) (p Plan, err error) {
	if gone := c.inLoop(ctx, func(_ context.Context, now time.Time) { p, err = c.foresee(cfg, now) }); gone != nil {
		return Plan{}, gone
	}
	return p, err
}

func (c *Controller) foresee(cfg Config, now time.Time) (Plan, error) {
	if !c.sync.Open {
		return Plan{}, fmt.Errorf("plan: %w: %s", ErrNotSynced, c.sync.Why)
	}
	next, err := c.under(cfg, now)
	if err != nil {
		return Plan{}, err
	}
	verdicts := next.foreseen(now)
	return newPlan(c.View(), verdicts, next.showRoles()), nil
}

// foreseen is the verdicts that a turn would begin with, of a controller that nobody hears of.
func (c *Controller) foreseen(now time.Time) []Verdict {
	if c.sync.Open {
		c.openRoles(now)
		c.publish(now)
	}
	c.track(now)
	return plan(c.situation(), now)
}

func newPlan(now *View, verdicts []Verdict, roles []Role) Plan {
	p := Plan{Actions: []PlannedAction{}, Roles: []PlannedRole{}}
	was := map[key]Verdict{}
	for _, v := range now.Verdicts {
		was[key{v.Node, v.Action}] = v
	}
	for _, then := range verdicts {
		now := was[key{then.Node, then.Action}]
		if now.State == then.State && now.Reason == then.Reason && reflect.DeepEqual(currents(now), currents(then)) {
			continue
		}
		p.Actions = append(p.Actions, PlannedAction{
			Node: then.Node, Action: then.Action, BecomesStale: now.State == Converged && then.State != Converged, Now: now, Then: then,
		})
	}
	type pair struct{ now, then *Role }
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
		var was, is Role
		if both.now != nil {
			was = *both.now
		}
		if both.then != nil {
			is = *both.then
		}
		d := between(was.Members, is.Members)
		p.Roles = append(p.Roles, PlannedRole{Name: name, Now: both.now, Then: both.then, Added: d.added, Removed: d.removed, Changed: d.changed})
	}
	return p
}

// currents is what an action would be configured from.
func currents(v Verdict) map[string]string {
	hashes := map[string]string{}
	for _, n := range v.Needs {
		hashes[n.Role+" "+n.Shared] = n.Current.Hash
	}
	return hashes
}
