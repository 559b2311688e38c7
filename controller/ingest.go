package controller

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

// ingest applies one thing that the listener received. It reports whether that may change a verdict.
func (c *Controller) ingest(m inventory.Received) (changed bool) {
	switch {
	case m.Missed != "":
		c.carryOut(c.listening.missed(m.Missed, m.At), m.At)
		c.leadership.missed(m.At)
		changed = true
	case m.Beacon != nil:
		changed = c.carryOut(c.leadership.beacon(*m.Beacon, m.At), m.At)
	case m.Rival != "":
		c.leadership.rivalAlive(m.Rival, m.At)
	case m.DisconnectsLost != nil:
		changed = c.carryOut(c.listening.setDisconnects(*m.DisconnectsLost, m.At), m.At)
	case m.Canary:
		restarted := c.listening.received(m.At)
		changed = c.carryOut(c.leadership.canary(m.At), m.At) || restarted
	}
	changes, err := c.inv.Apply(m)
	changed = c.ingestError(err, m.At) || changed
	if err != nil && m.Beat != nil && m.Beat.Leaving && m.Reply != "" && c.leadership.leads() {
		c.bus.TellLeaving(m.Beat.Node, m.Beat.Agent, inventory.LeaveStatus{Rejected: err.Error()})
	}
	for _, change := range changes {
		c.ingestChange(change, m.At)
	}
	if n := len(changes); m.Reply != "" && n > 0 && changes[n-1].After != nil && m.Beat.Leaving { // not a late one
		c.leaves(m.Beat)
	}
	return changed || len(changes) > 0
}

// ingestError notes a message that changed nothing: it claims a name that another machine has, is of another version,
// or invalid.
func (c *Controller) ingestError(err error, now time.Time) (changed bool) {
	if conflict, ok := errors.AsType[*inventory.Conflict](err); ok {
		return c.nameConflict(conflict, now)
	}
	if other, ok := errors.AsType[*inventory.VersionError](err); ok {
		return c.wrongVersion(other, now)
	}
	if err != nil {
		c.invalid(err, now)
	}
	return false
}

// invalid counts a message that was invalid, and records it. It changes nothing else.
func (c *Controller) invalid(err error, now time.Time) { c.journal.invalid(err, now, c.log) }

// ingestChange follows the change of one node.
func (c *Controller) ingestChange(change inventory.Change, now time.Time) {
	before, after := change.Before, change.After
	if before == nil {
		c.listening.joined = now
	}
	if after != nil {
		delete(c.rejected.versions, after.Name) // it was upgraded
	}
	c.recordChange(change, now)
	c.departed.follow(change, now)
	from := now
	if after == nil {
		if before.Life == inventory.Suspect {
			from = before.Since // the settle time counts from the suspicion
		}
		c.keepPlace(before.Name, now)
	}
	if err := c.table.Apply(change, from); err != nil {
		c.invalid(err, now)
	}
	if after == nil {
		c.fleet.forget(before.Name)
		if l := c.leaving[before.Name]; l != nil && l.ordered.IsZero() {
			delete(c.leaving, before.Name)
		}
		return
	}
	if after.Life != inventory.Left {
		delete(c.leaving, after.Name) // it is back
	}
	if before != nil && before.Instance != after.Instance {
		c.conflictEnded(after.Name, "instance "+after.Instance+" replaced the other one", now)
	}
	status, err := kick.ParseStatus(after.Kick)
	if before != nil && before.Boot == after.Boot && before.Instance == after.Instance &&
		bytes.Equal(before.Kick, after.Kick) {
		status, err = c.fleet.reported(after.Name), nil // results that came since say more
	}
	if err != nil {
		c.invalid(fmt.Errorf("heartbeat of %s: %w", after.Name, err), now)
		status = c.fleet.status[after.Name]
	}
	c.endedBy(after.Name, status, now)
	if status.Running != nil && c.journal.over(status.Running.Run) {
		status.Running = nil // its result was received before, or the heartbeat is an old one
	}
	c.fleet.setStatus(after.Name, status)
	c.setActions(after, status, now)
	if err == nil && (before == nil || before.Boot != after.Boot) {
		c.rejoined(after, now)
	}
	c.follow(after.Name, now)
	c.reportApplied(c.table, after.Name, now)
	if status.Controller != c.leadership.id {
		c.leadership.reported(status.Epoch, now)
	}
}

func (c *Controller) setActions(n *inventory.Node, status kick.Status, now time.Time) {
	nodes := c.inv.Snapshot()
	c.fleet.setActions(n.Name, status, now, func(s kick.ActionStatus) ([]membership.Need, string) {
		needs, err := needsOf(c.table, n, s, nodes, now)
		if err == nil {
			return needs, ""
		}
		if n.Facts != nil { // otherwise they are on their way
			c.invalid(fmt.Errorf("node %s: action %s: %w", n.Name, s.Name, err), now)
		}
		return needs, err.Error()
	})
	for _, a := range c.fleet.actions[n.Name] {
		a.NoFacts = n.Facts == nil
	}
}

// reportApplied tells the table which revisions a node's actions have applied.
func (c *Controller) reportApplied(table *membership.Table, node string, now time.Time) {
	for _, a := range c.fleet.actions[node] {
		for _, need := range a.Needs {
			if applied, ok := a.Status.Applied[need.As]; ok {
				h := membership.Holder{Revision: applied, Node: node, Action: a.Action, As: need.As}
				table.Report(need, h, c.reports(), now)
			}
		}
	}
}

// reportAll tells the table which revisions all actions have applied.
func (c *Controller) reportAll(now time.Time) {
	for node := range c.fleet.actions {
		c.reportApplied(c.table, node, now)
	}
}

func (c *Controller) reports() membership.Reports {
	return membership.Reports{Since: c.listening.since, Synced: c.listening.synced, Epochs: c.leadership.epochs}
}

// recordChange makes an event of a node's change.
func (c *Controller) recordChange(change inventory.Change, now time.Time) {
	before, after := change.Before, change.After
	node := after
	if node == nil {
		node = before
	}
	record := func(kind, format string, args ...any) {
		c.nodeEvent(now, kind, node.Name, "node %s "+format, append([]any{node.Name}, args...)...)
	}
	switch {
	case after == nil && before.Life == inventory.Left:
		// its agent stopped after it had left: nothing new
	case after == nil:
		record(api.EventGone, "is gone: %s", change.Why)
	case before == nil:
		record(api.EventJoined, "joined%s", readiness(after))
	case before.Boot != after.Boot || before.Instance != after.Instance:
		record(api.EventReplaced, "was replaced: %s", change.Why)
	case before.Life != after.Life && after.Life == inventory.Suspect:
		record(api.EventSuspect, "is suspect: %s", change.Why)
	case before.Life != after.Life && after.Life == inventory.Restarting:
		record(api.EventRestarting, "is restarting: its agent stopped")
	case before.Life != after.Life && after.Life == inventory.Left:
		record(api.EventLeft, "left")
	case before.Life != after.Life:
		record(api.EventBack, "is back")
	case before.Ready && !after.Ready:
		record(api.EventNotReady, "is not ready: %s", after.NotReady)
	case !before.Ready && after.Ready:
		record(api.EventReady, "is ready")
	}
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
