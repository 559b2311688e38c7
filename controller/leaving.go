package controller

import (
	"context"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
)

const (
	orderAgain   = time.Second      // after an order to leave that the agent's heartbeats do not show
	rosterTries  = 3                // questions for applied members without an answer, until they count as not to be had
	refusedAgain = 10 * time.Second // after the last of them
	keepOrder    = time.Hour        // that a node which is gone was ordered to leave
)

// leaving is a node that leaves. It is kept until the node is back, or is gone; if a person ordered it, for a while
// longer.
type leaving struct {
	agent string // the run of its agent that leaves
	told  bool   // that run knows: its heartbeats say that it leaves, and are answered
	// last says that the node's roles may become empty, until the node is released.
	last bool
	// answer is what the node was told last.
	answer *inventory.LeaveStatus

	// ordered is when a person ordered it, zero if none did. sent is when the agent was told so last.
	ordered, sent time.Time

	// has is whether the node is in a membership, by the membership's hash.
	has map[string]bool
	// asked is when the members of a hash were asked for last, tries how often an action was asked in vain.
	asked map[string]time.Time
	tries map[tried]int
}

// tried is an action that was asked for the members of a hash.
type tried struct {
	plan.Key
	hash string
}

func newLeaving(agent string) *leaving {
	return &leaving{
		agent: agent, has: map[string]bool{}, asked: map[string]time.Time{}, tries: map[tried]int{},
	}
}

// Has implements plan.Memory.
func (l *leaving) Has(role *membership.Role, hash, node string) (has, known bool) {
	if has, known = l.has[hash]; known {
		return has, true
	}
	if has, known = role.Applied(hash, node); known {
		l.has[hash] = has
	}
	return has, known
}

// Refused implements plan.Memory.
func (l *leaving) Refused(k plan.Key, hash string) bool {
	return l.tries[tried{k, hash}] >= rosterTries
}

// leaves notes a heartbeat that says that its node leaves and asks how far that is.
func (c *Controller) leaves(b *inventory.Beat) {
	l := c.leaving[b.Node]
	if l == nil {
		l = newLeaving(b.Agent)
		c.leaving[b.Node] = l
	}
	released := l.answer != nil && l.answer.Released
	l.agent, l.told, l.answer = b.Agent, true, nil
	l.last = l.last || b.LeavingLast && !released
}

// orderLeaving tells agents that were ordered to leave so, until they know, and lets the roles of the last nodes become
// empty.
func (c *Controller) orderLeaving(now time.Time) {
	if !c.leadership.leads() {
		return
	}
	for node, l := range c.leaving {
		n := c.inv.Snapshot().Node(node)
		switch {
		case l.ordered.IsZero():
		case n == nil && now.Sub(l.ordered) > keepOrder:
			delete(c.leaving, node)
		case n != nil && !l.told && now.Sub(l.sent) >= orderAgain:
			l.sent = now
			c.bus.OrderLeave(node, l.agent, l.last)
		}
		if !l.last || !c.listening.sync.Open {
			continue
		}
		for _, r := range c.table.Roles() {
			if r.TooFew() && r.Related(node) {
				r.AllowFew()
			}
		}
	}
}

// nextLeaving is when orderLeaving or answerLeaving has something to do though nothing changes.
func (c *Controller) nextLeaving(now time.Time) (next time.Time) {
	for node, l := range c.leaving {
		if !l.ordered.IsZero() && !l.told && c.inv.Snapshot().Node(node) != nil {
			next = api.Soonest(next, l.sent.Add(orderAgain))
		}
	}
	if from := c.releasesFrom(); len(c.leaving) > 0 && now.Before(from) {
		next = api.Soonest(next, from)
	}
	return next
}

// releasesFrom is when the first node is released. A dependent whose agent restarted when the controller began to
// listen is not known before it reports.
func (c *Controller) releasesFrom() time.Time {
	return c.listening.since.Add(membership.ReconnectTime + min(c.cfg.GoneAfter, inventory.MaxRestart))
}

// releasesNone is why the controller releases no node now, empty if it may.
func (c *Controller) releasesNone(now time.Time) string {
	switch from := c.releasesFrom(); {
	case !c.listening.sync.Open:
		return c.listening.sync.Why
	case c.leadership.silent() != "":
		return c.leadership.silent()
	case now.Before(from):
		return "the controller has just begun to listen, and a dependent may not have reported yet"
	}
	return ""
}

// answerLeaving tells the nodes that leave how far they are, when that has changed. Only the controller that leads does.
func (c *Controller) answerLeaving(ctx context.Context, s plan.Situation, verdicts []api.Verdict, now time.Time) {
	if !c.leadership.leads() {
		return
	}
	for node, l := range c.leaving {
		status := c.leaveStatus(node, l, s, verdicts, now, func(a *plan.Action, need membership.Need) {
			c.askApplied(ctx, l, a, need, now)
		})
		if status.Released {
			l.last = false
		}
		if l.answer != nil && sameStatus(*l.answer, status) {
			continue
		}
		l.answer = &status
		if l.told {
			c.bus.TellLeaving(node, l.agent, status)
		}
	}
}

// sameStatus reports whether two statuses say the same, apart from the time that is left.
func sameStatus(a, b inventory.LeaveStatus) bool {
	if a.Released != b.Released || a.Why != b.Why || a.More != b.More || a.Person != b.Person ||
		len(a.Waiting) != len(b.Waiting) {
		return false
	}
	for i, x := range a.Waiting {
		y := b.Waiting[i]
		if x.Node != y.Node || x.Action != y.Action || len(x.Gates) != len(y.Gates) {
			return false
		}
		for j := range x.Gates {
			if x.Gates[j].Name != y.Gates[j].Name || x.Gates[j].Why != y.Gates[j].Why {
				return false
			}
		}
	}
	return true
}

// leaveStatus says how far a node's leaving is. It calls ask with what has to be asked for.
func (c *Controller) leaveStatus(
	node string, l *leaving, s plan.Situation, verdicts []api.Verdict, now time.Time,
	ask func(*plan.Action, membership.Need),
) inventory.LeaveStatus {
	status := inventory.LeaveStatus{V: inventory.Version, Received: true, Why: c.releasesNone(now)}
	if status.Why != "" {
		return status.Bounded()
	}
	persons := 0
	for i, a := range s.Actions {
		if a.Node == node {
			continue
		}
		use := a.MayUse(node, l)
		for _, need := range use.Ask {
			ask(a, need)
		}
		if !use.May {
			continue
		}
		gates := verdicts[i].Gates
		if use.Why != "" {
			gates = append([]api.Gate{api.NewGate(api.GateSynced, use.Why, time.Time{})}, gates...)
		}
		if api.OnlyPerson(gates) {
			persons++
		}
		if len(status.Waiting) < inventory.MaxBlockers {
			status.Waiting = append(status.Waiting, blocker(a.Key, gates, now))
		} else {
			status.More++
		}
	}
	waiting := len(status.Waiting) + status.More
	status.Released, status.Person = waiting == 0, waiting > 0 && persons == waiting
	return status.Bounded()
}

func blocker(k plan.Key, gates []api.Gate, now time.Time) inventory.Blocker {
	b := inventory.Blocker{Node: k.Node, Action: k.Action}
	for _, g := range gates {
		wait := inventory.Wait{Name: g.Name, Why: g.Why, Person: g.Person}
		if g.Until.After(now) {
			wait.Left = g.Until.Sub(now).Milliseconds()
		}
		b.Gates = append(b.Gates, wait)
	}
	return b
}

// askApplied asks an action for the members that it applied last, now and then until it answers. A node that is about to
// be back or gone has not refused.
func (c *Controller) askApplied(ctx context.Context, l *leaving, a *plan.Action, need membership.Need, now time.Time) {
	hash, key := a.Status.Applied[need.As].Hash, a.Key
	pause := askAgain
	if l.Refused(key, hash) { // the next action with the same members is asked
		pause = refusedAgain
	}
	if now.Sub(l.asked[hash]) < pause {
		return
	}
	l.asked[hash] = now
	c.ask(ctx, func(ctx context.Context) func(time.Time) bool {
		members, got, err := c.bus.Roster(ctx, key.Node, key.Action, need.As)
		return func(time.Time) bool {
			n := c.inv.Snapshot().Node(key.Node)
			switch {
			case err == nil && got != "":
				need.Role.Learn(got, members)
			case n != nil && (n.Life == inventory.Alive || n.Life == inventory.Left):
				l.tries[tried{key, hash}]++
			}
			return true
		}
	})
}
