package controller

import (
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
)

// conflict is a name that two machines claim, for as long as both report.
type conflict struct {
	api.Conflict
	last time.Time // when the rejected one reported last
}

// nameConflict notes that a heartbeat was rejected because another machine has its node's name. It is recorded once, and shown for as
// long as it lasts.
func (c *Controller) nameConflict(with *inventory.Conflict, now time.Time) (changed bool) {
	c.journal.counts.InvalidMessages++
	is := conflict{api.Conflict{Node: with.Node, Accepted: with.Accepted, Rejected: with.Rejected, Since: now}, now}
	was, lasts := c.conflicts[with.Node]
	if lasts {
		is.Since = was.Since
	} else {
		c.event(api.Event{Time: now, Kind: api.EventConflictBegan, Node: is.Node, Text: is.String()})
	}
	c.conflicts[with.Node] = is
	return is.Accepted != was.Accepted || is.Rejected != was.Rejected
}

// endConflicts ends those whose rejected machine no longer reports, as far as messages are received.
func (c *Controller) endConflicts(now time.Time) (changed bool) {
	if !c.listening.sync.Open {
		return false
	}
	for node, k := range c.conflicts {
		if now.Sub(k.last) >= max(c.cfg.GoneAfter, 4*c.listening.pace) {
			c.conflictEnded(node, "instance "+k.Rejected+" no longer reports", now)
			changed = true
		}
	}
	return changed
}

func (c *Controller) conflictEnded(node, why string, now time.Time) {
	if _, lasts := c.conflicts[node]; lasts {
		delete(c.conflicts, node)
		c.event(api.Event{Time: now, Kind: api.EventConflictEnded, Node: node,
			Text: fmt.Sprintf("node %s: one machine claims this name: %s", node, why)})
	}
}
