package controller

import (
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
)

// conflict is a name that two machines claim, for as long as both are heard.
type conflict struct {
	api.Conflict
	heard time.Time // the refused one was, last
}

// noteConflict takes in that a heartbeat was refused, as another instance bears its node's name. It is told once, and shown for as long as
// it lasts.
func (c *Controller) noteConflict(heard *inventory.Conflict, now time.Time) {
	c.journal.counts.InvalidMessages++
	is := conflict{api.Conflict{Node: heard.Node, Accepted: heard.Accepted, Rejected: heard.Rejected, Since: now}, now}
	was, lasts := c.conflicts[heard.Node]
	if lasts {
		is.Since = was.Since
	} else {
		c.event(api.Event{Time: now, Kind: api.EventConflictBegan, Node: is.Node, Text: fmt.Sprintf("node %s: %s", is.Node, is)})
	}
	c.changed = c.changed || is.Accepted != was.Accepted || is.Rejected != was.Rejected
	c.conflicts[heard.Node] = is
}

// endConflicts forgets those of which the refused instance is not heard any more. Who is blind hears nobody.
func (c *Controller) endConflicts(now time.Time) {
	if !c.sync.Open {
		return
	}
	for node, k := range c.conflicts {
		if now.Sub(k.heard) >= max(c.cfg.GoneAfter, 4*c.pace) {
			c.conflictOver(node, "instance "+k.Rejected+" is not heard any more", now)
		}
	}
}

func (c *Controller) conflictOver(node, why string, now time.Time) {
	if _, lasts := c.conflicts[node]; lasts {
		delete(c.conflicts, node)
		c.changed = true
		c.event(api.Event{Time: now, Kind: api.EventConflictEnded, Node: node, Text: fmt.Sprintf("node %s: one machine claims this name: %s", node, why)})
	}
}

// showConflicts is the conflicts by node.
func (c *Controller) showConflicts() []api.Conflict {
	var shown []api.Conflict
	for _, node := range sortedKeys(c.conflicts) {
		shown = append(shown, c.conflicts[node].Conflict)
	}
	return shown
}
