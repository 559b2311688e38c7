package controller

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// hear takes in one thing that was heard on the bus.
func (c *Controller) hear(h inventory.Received) {
	if h.Missed != "" {
		c.event(api.Event{Time: h.At, Kind: api.EventBusLost, Text: h.Missed + ": nobody who was silent meanwhile counts as gone"})
		c.blind(h.At)
		c.rival.heard, c.beacon = h.At, time.Time{} // it may lead still, and another one may lead since
	}
	switch {
	case h.Beacon != nil:
		c.meet(*h.Beacon, h.At)
	case h.Rival != "":
		c.hearRival(h.Rival, h.At)
	case h.DisconnectsLost != nil:
		c.noteDeaf(*h.DisconnectsLost, h.At)
	case h.Canary:
		if c.cutOff { // the loop was late, not the bus
			c.blind(h.At)
		}
		c.canary = h.At
		c.succeed(h.At)
	}
	changes, err := c.inv.Apply(h)
	if conflict := (*inventory.Conflict)(nil); errors.As(err, &conflict) {
		c.noteConflict(conflict, h.At)
	} else if err != nil {
		c.refuse(err, h.At)
	}
	for _, change := range changes {
		c.take(change, h.At)
	}
	if n := len(changes); h.Reply != "" && n > 0 && changes[n-1].After != nil && h.Beat.Leaving { // not a late one
		c.leaving[h.Beat.Node] = &leaving{reply: h.Reply}
		c.changed = true
	}
}

// noteDeaf takes in whether closed connections are heard. While they are not, a death is found by silence: later, but no less surely.
func (c *Controller) noteDeaf(why string, now time.Time) {
	switch {
	case why == c.deaf:
		return
	case why == "":
		c.event(api.Event{Time: now, Kind: api.EventDisconnectsRestored, Text: "closed connections are heard"})
	default:
		c.event(api.Event{Time: now, Kind: api.EventDisconnectsLost, Text: why})
	}
	c.deaf, c.changed = why, true
}

// refuse counts a message that was no good, and tells of it. It changes nothing else.
func (c *Controller) refuse(err error, now time.Time) { c.journal.refuse(err, now, c.log) }

// take takes in a change of one node.
func (c *Controller) take(change inventory.Change, now time.Time) {
	c.changed = true
	c.gate.heard(change, now)
	c.tell(change, now)
	before, after := change.Before, change.After
	from := now
	if after == nil && before.Life == inventory.Suspect {
		from = before.Since // settling counts from the suspicion
	}
	if after == nil {
		c.keepPlace(before.Name, now)
	}
	if err := c.roles.move(before, after, from); err != nil {
		c.refuse(err, now)
	}
	if after == nil {
		c.forget(before.Name)
		return
	}
	if after.Life != inventory.Left {
		delete(c.leaving, after.Name)
	}
	if before != nil && before.Instance != after.Instance {
		c.conflictOver(after.Name, "instance "+after.Instance+" took over", now)
	}
	status, err := kick.ParseStatus(after.Kick)
	if err != nil {
		c.refuse(fmt.Errorf("heartbeat of %s: %w", after.Name, err), now)
		status = c.status[after.Name]
	}
	c.ended(after.Name, status, now)
	c.setStatus(after.Name, status)
	c.setActions(after, status, now)
	if err == nil && (before == nil || before.Boot != after.Boot) {
		c.rejoined(after.Name, now)
	}
	c.noteHeld(after.Name, now)
	if status.Controller != c.identity.ID {
		c.seen = max(c.seen, status.Epoch)
		c.challenged(now)
	}
}

// tell makes events of a change.
func (c *Controller) tell(change inventory.Change, now time.Time) {
	before, after := change.Before, change.After
	say := func(kind, format string, args ...any) {
		c.event(api.Event{Time: now, Kind: kind, Node: name(change), Text: fmt.Sprintf("node %s ", name(change)) + fmt.Sprintf(format, args...)})
	}
	switch {
	case after == nil && before.Life == inventory.Left:
		// its agent stopped after the goodbye: nothing new
	case after == nil:
		say(api.EventGone, "is gone: %s", change.Why)
	case before == nil:
		say(api.EventJoined, "joined%s", readiness(after))
	case before.Boot != after.Boot || before.Instance != after.Instance:
		say(api.EventReplaced, "was replaced: %s", change.Why)
	case before.Life != after.Life && after.Life == inventory.Suspect:
		say(api.EventSuspect, "is suspect: %s", change.Why)
	case before.Life != after.Life && after.Life == inventory.Restarting:
		say(api.EventRestarting, "is back soon: its agent stopped")
	case before.Life != after.Life && after.Life == inventory.Left:
		say(api.EventLeft, "said goodbye")
	case before.Life != after.Life:
		say(api.EventBack, "is back")
	case before.Ready && !after.Ready:
		say(api.EventNotReady, "is not ready: %s", after.NotReady)
	case !before.Ready && after.Ready:
		say(api.EventReady, "is ready")
	}
}

func name(change inventory.Change) string {
	if change.After != nil {
		return change.After.Name
	}
	return change.Before.Name
}

func readiness(n *inventory.Node) string {
	switch {
	case n.Life == inventory.Left:
		return ", leaving"
	case n.Ready:
		return ""
	case n.NotReady == "":
		return ", not ready"
	}
	return ", not ready: " + n.NotReady
}

// setActions takes over what a node says of its actions.
func (c *Controller) setActions(n *inventory.Node, status kick.Status, now time.Time) {
	was := c.byNode[n.Name]
	var actions []*action
	for _, s := range status.Actions {
		i := slices.IndexFunc(was, func(a *action) bool { return a.name == s.Name })
		a := &action{node: n.Name, name: s.Name, memory: c.remember(key{n.Name, s.Name}, s, now)}
		if i >= 0 {
			a = was[i]
		}
		a.status = s
		needs, unresolved := c.needs(n, s, now)
		if !slices.Equal(a.needs, needs) {
			c.serves = nil
		}
		a.needs, a.unresolved = needs, unresolved
		actions = append(actions, a)
	}
	if len(actions) == 0 {
		delete(c.byNode, n.Name)
	} else {
		c.byNode[n.Name] = actions
	}
	if !slices.Equal(was, actions) {
		c.actions, c.serves = nil, nil
	}
}

// needs is the roles that an action depends on: what the node says, and what the controller's configuration adds for the node's roles.
func (c *Controller) needs(n *inventory.Node, s kick.ActionStatus, now time.Time) (needs []need, unresolved string) {
	wanted := slices.Clone(s.DependsOn)
	for _, cfg := range c.cfg.Roles {
		if _, in := c.roles.byName[cfg.Name].nodes[n.Name]; in && (cfg.Action == "" || cfg.Action == s.Name) {
			wanted = append(wanted, cfg.DependsOn...)
		}
	}
	for _, text := range wanted {
		found, err := c.roles.needOf(text, n.Facts)
		if err != nil {
			unresolved = err.Error()
			if n.Facts != nil { // else they are on their way
				c.refuse(fmt.Errorf("node %s: action %s: %w", n.Name, s.Name, err), now)
			}
			continue
		}
		for _, r := range c.roles.unfilled {
			c.roles.fill(r, c.inv.Snapshot(), now)
		}
		c.roles.unfilled = nil
		if _, applied := s.Applied[found.as]; applied {
			found.role.known = true // to a former controller
		}
		if !slices.ContainsFunc(needs, func(have need) bool { return have.as == found.as }) {
			needs = append(needs, found)
		}
	}
	return needs, unresolved
}

// remember is what is known of an action from before, or begins with the failures that the node itself remembers.
func (c *Controller) remember(k key, s kick.ActionStatus, now time.Time) *memory {
	m := c.memories[k]
	if m == nil {
		m = &memory{}
		if s.Last != nil {
			m.failures = s.Last.Failures
			m.took = time.Duration(s.Last.Duration) * time.Millisecond
		}
		c.memories[k] = m
	}
	m.used = now
	return m
}

// setStatus notes what a node says of its actions.
func (c *Controller) setStatus(node string, status kick.Status) {
	c.status[node] = status
	if status.Running == nil {
		delete(c.running, node)
	} else {
		c.running[node] = status.Running
	}
}

// forget drops what was known of a node that is no longer heard, but for its actions' memories, and its run, which may go on.
func (c *Controller) forget(node string) {
	delete(c.byNode, node)
	delete(c.status, node)
	delete(c.running, node)
	delete(c.leaving, node)
	c.actions, c.serves = nil, nil
}

// tidy forgets what no node that is heard makes the controller remember.
func (c *Controller) tidy(now time.Time) {
	if now.Before(c.tidied.Add(tidyEvery)) {
		return
	}
	c.tidied = now
	for k, m := range c.memories {
		if c.action(k.node, k.action) == nil && (!m.kept() || now.Sub(m.used) > 2*c.cfg.Backoff.Max) {
			delete(c.memories, k)
		}
	}
	c.roles.drop(c.sorted())
	if c.sync.Open {
		c.findCircles(now)
	}
}

// sorted is every action, by node, then in the node's order.
func (c *Controller) sorted() []*action {
	if c.actions == nil {
		c.actions = make([]*action, 0, len(c.byNode))
		for _, node := range sortedKeys(c.byNode) {
			c.actions = append(c.actions, c.byNode[node]...)
		}
	}
	return c.actions
}

// track notes since when each action is stale, and what runs on its node.
func (c *Controller) track(now time.Time) {
	for _, a := range c.sorted() {
		a.flight = c.flights[a.node]
		a.running = c.running[a.node]
		from, stale := c.roles.stale(a, now)
		switch {
		case !stale && a.forced == nil:
			a.since, a.from = time.Time{}, time.Time{}
		case a.since.IsZero():
			a.since, a.from = now, from
		}
		was := a.barred
		if a.barred = stale && c.sync.Open && a.lacks(); was && stale && !a.barred {
			a.from = now // what it waited for may be the first change of a burst
		}
		a.cause, a.own = nothing, ""
		switch {
		case a.forced != nil:
			a.cause = outside
		case stale:
			a.cause, a.own = c.circles.causeOf(a, c.roles)
		}
		c.damp(a, now)
		a.memory.used = now
	}
}

// sayFarewell tells the nodes that are leaving how far they are, when that has changed.
func (c *Controller) sayFarewell() {
	if c.rival.id != "" {
		return // who leads says it
	}
	for node, l := range c.leaving {
		farewell := inventory.LeaveStatus{V: inventory.Version, Received: true, Waiting: c.dependsStillOn(node)}
		farewell.Released = len(farewell.Waiting) == 0
		if told := fmt.Sprint(farewell); told != l.told {
			l.told = told
			c.bus.TellLeaving(l.reply, farewell)
		}
	}
}

// dependsStillOn is the actions that may still be configured with a node that said goodbye.
func (c *Controller) dependsStillOn(node string) []string {
	if !c.sync.Open {
		return []string{"the controller: " + c.sync.Why}
	}
	var waiting []string
	for _, a := range c.sorted() {
		if a.node != node && c.roles.mayServe(a, node) {
			waiting = append(waiting, key{a.node, a.name}.String())
		}
	}
	return waiting
}
