package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
)

// Kick carries out an operator's order. The error wraps api.ErrNotFound or api.ErrNotSynced. Any goroutine may call it
// while Run runs.
func (c *Controller) Kick(ctx context.Context, o api.KickOrder) (kicked api.Kicked, err error) {
	gone := c.inLoop(ctx, func(_ context.Context, now time.Time) (changed bool) {
		kicked, err = c.kick(&o, now)
		return err == nil && !o.DryRun
	})
	if gone != nil {
		return api.Kicked{}, gone
	}
	return kicked, err
}

// Lose carries out an operator's order about a loss. The error wraps api.ErrNotFound. Any goroutine may call it while
// Run runs.
func (c *Controller) Lose(ctx context.Context, o api.LossOrder) (err error) {
	gone := c.inLoop(ctx, func(_ context.Context, now time.Time) (changed bool) {
		err = c.lose(o, now)
		return err == nil
	})
	return cmp.Or(gone, err)
}

func (c *Controller) kick(order *api.KickOrder, now time.Time) (api.Kicked, error) {
	kicked := api.Kicked{Actions: []api.Verdict{}, After: c.journal.seq}
	if !c.listening.sync.Open {
		return kicked, fmt.Errorf("kick %s: %w: %s", order.Object, api.ErrNotSynced, c.listening.sync.Why)
	}
	nodes, err := c.nodesOf(order.Object)
	if err != nil {
		return kicked, err
	}
	var chosen []*plan.Action
	for _, node := range nodes {
		for _, a := range c.fleet.actions[node] {
			if order.Action == "" || order.Action == a.Action {
				chosen = append(chosen, a)
			}
		}
	}
	if len(chosen) == 0 && order.Action != "" {
		return kicked, fmt.Errorf("kick %s: action %s: %w", order.Object, order.Action, api.ErrNotFound)
	}
	if len(chosen) == 0 {
		return kicked, fmt.Errorf("kick %s: an action: %w: no agent there has one (kicker agent --action NAME=COMMAND)",
			order.Object, api.ErrNotFound)
	}
	s := c.situation(now)
	for _, a := range chosen {
		was, notBefore := a.Order, a.Retry.NotBefore
		a.Order, a.Retry.NotBefore = order, time.Time{}
		kicked.Actions = append(kicked.Actions, s.Judge(a, now))
		if order.DryRun {
			a.Order, a.Retry.NotBefore = was, notBefore
		}
	}
	return kicked, nil
}

// nodesOf is the nodes that an object names: node/N, or all that have role/R.
func (c *Controller) nodesOf(object string) ([]string, error) {
	kind, name, _ := strings.Cut(object, "/")
	switch kind {
	case "node":
		if c.inv.Snapshot().Node(name) == nil {
			return nil, fmt.Errorf("%s: %w", object, api.ErrNotFound)
		}
		return []string{name}, nil
	case "role":
		if r := c.table.Role(name); r != nil && len(r.Nodes()) > 0 {
			return r.Nodes(), nil
		}
		return nil, fmt.Errorf("%s: %w: no node has it", object, api.ErrNotFound)
	}
	return nil, fmt.Errorf("object %q: %w: want node/NAME or role/NAME", object, api.ErrNotFound)
}

func (c *Controller) lose(o api.LossOrder, now time.Time) error {
	name, isRole := strings.CutPrefix(o.Object, "role/")
	r := c.table.Role(name)
	if !isRole || r == nil {
		return fmt.Errorf("loss of %s: %w: want role/NAME of a known role", o.Object, api.ErrNotFound)
	}
	by := cmp.Or(o.By, "an operator")
	if o.Expect > 0 {
		c.table.ExpectLoss(r, o.Expect, now.Add(o.For))
		c.roleEvent(now, api.EventLossExpected, name, "%s expects a loss of up to %d %% for %s",
			by, o.Expect, api.Duration(o.For))
		return nil
	}
	n, err := c.table.AcceptLoss(r, o.Accept, now)
	if other, ok := errors.AsType[*membership.OtherLossError](err); ok {
		return fmt.Errorf("loss of %s: %w: %w", o.Object, api.ErrOtherLoss, other)
	}
	if err != nil {
		return fmt.Errorf("loss of %s: %w: %w", o.Object, api.ErrNotFound, err)
	}
	c.roleEvent(now, api.EventHoldEnded, name, "%s accepts the loss of %s", by, api.Count(n, "member"))
	return nil
}
