package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
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

// Leave carries out an operator's order that a node leaves. The error wraps api.ErrNotFound or api.ErrNotSynced. Any
// goroutine may call it while Run runs.
func (c *Controller) Leave(ctx context.Context, o api.LeaveOrder) (api.Leaving, error) {
	var err error
	gone := c.inLoop(ctx, func(_ context.Context, now time.Time) (changed bool) {
		err = c.leave(o, now)
		return err == nil
	})
	if err = cmp.Or(gone, err); err != nil {
		return api.Leaving{}, err
	}
	return c.Leaving(ctx, strings.TrimPrefix(o.Object, "node/"))
}

// Leaving says how far the leaving of a node is. The error wraps api.ErrNotFound. Any goroutine may call it while Run
// runs.
func (c *Controller) Leaving(ctx context.Context, node string) (answer api.Leaving, err error) {
	gone := c.inLoop(ctx, func(_ context.Context, now time.Time) (changed bool) {
		answer, err = c.howFar(node, now)
		return false
	})
	return answer, cmp.Or(gone, err)
}

func (c *Controller) leave(o api.LeaveOrder, now time.Time) error {
	node, isNode := strings.CutPrefix(o.Object, "node/")
	switch {
	case !isNode:
		return fmt.Errorf("leave %s: %w: want node/NAME", o.Object, api.ErrNotFound)
	case !c.listening.sync.Open:
		return fmt.Errorf("leave %s: %w: %s", o.Object, api.ErrNotSynced, c.listening.sync.Why)
	case !c.knows(node):
		return fmt.Errorf("leave %s: no node is called %s: %w", o.Object, node, api.ErrNotFound)
	}
	last := ""
	if o.Last {
		last = "; its roles may become empty"
	}
	c.nodeEvent(now, api.EventLeaveOrdered, node, "%s orders node %s to leave%s",
		cmp.Or(o.By, "an operator"), node, last)
	change, there := c.inv.Leave(node, now)
	if there {
		c.ingestChange(change, now)
	} else if err := c.table.Apply(leftFor(node), now); err != nil { // its removal may be held
		c.invalid(err, now)
	}
	l := c.leaving[node]
	if l == nil {
		l = newLeaving("")
		c.leaving[node] = l
	}
	if there && l.agent != change.After.Agent() {
		l.agent, l.told = change.After.Agent(), false
	}
	l.ordered, l.sent, l.last = now, time.Time{}, l.last || o.Last
	return nil
}

// leftFor is the change of a node that is gone, and that a person ordered to leave.
func leftFor(node string) inventory.Change {
	return inventory.Change{After: &inventory.Node{Name: node, Life: inventory.Left}}
}

// knows reports whether there is, or was, a node of that name.
func (c *Controller) knows(node string) bool {
	return c.inv.Snapshot().Node(node) != nil || c.inv.Left(node) || c.leaving[node] != nil ||
		slices.ContainsFunc(c.table.Roles(), func(r *membership.Role) bool { return r.Related(node) })
}

// howFar says how far the leaving of a node is.
func (c *Controller) howFar(node string, now time.Time) (api.Leaving, error) {
	n := c.inv.Snapshot().Node(node)
	answer := api.Leaving{Node: node, Gone: n == nil, LeaveStatus: inventory.LeaveStatus{V: inventory.Version}}
	switch {
	case !c.listening.sync.Open:
		answer.Received, answer.Why = c.leaving[node] != nil, c.listening.sync.Why
		return answer, nil
	case !c.knows(node):
		return answer, fmt.Errorf("no node is called %s: %w", node, api.ErrNotFound)
	case n != nil && n.Life != inventory.Left:
		answer.Why = "the node does not leave: it is " + string(n.Life)
		return answer, nil
	}
	l := c.leaving[node]
	if l == nil {
		l = newLeaving("")
	}
	s := c.situation(now)
	answer.LeaveStatus = c.leaveStatus(node, l, s, plan.Make(s, now), now, func(*plan.Action, membership.Need) {})
	return answer, nil
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
			if c.departed.nodes[name].Life == api.Gone {
				return nil, fmt.Errorf("%s: %w: it is gone, so no action can run there", object, api.ErrNotFound)
			}
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
	if errors.Is(err, api.ErrOtherLoss) {
		return fmt.Errorf("loss of %s: %w", o.Object, err)
	}
	if err != nil {
		return fmt.Errorf("loss of %s: %w: %w", o.Object, api.ErrNotFound, err)
	}
	c.roleEvent(now, api.EventHoldEnded, name, "%s accepts the loss of %s", by, api.Count(n, "member"))
	return nil
}
