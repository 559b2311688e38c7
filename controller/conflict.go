package controller

import (
	"fmt"
	"time"

	"kicker/inventory"
)

// noteConflict takes in that a heartbeat was refused, as another instance bears its node's name. It is told once, and shown for as long as
// it lasts.
func (c *Controller) noteConflict(heard *inventory.Conflict, now time.Time) {
	c.journal.counts.Refused++
	is := Conflict{Node: heard.Node, Bears: heard.Bears, Claims: heard.Claims, Since: now, heard: now}
	was, lasts := c.conflicts[heard.Node]
	if lasts {
		is.Since = was.Since
	} else {
		c.event(Event{Time: now, Kind: EventConflict, Node: is.Node, Text: fmt.Sprintf("node %s: %s", is.Node, is)})
	}
	c.changed = c.changed || is.Bears != was.Bears || is.Claims != was.Claims
	c.conflicts[heard.Node] = is
}

// String says what is wrong, and what to do.
func (k Conflict) String() string {
	return fmt.Sprintf("two machines claim this name: instance %s bears it, instance %s is refused: stop one, or give it another agent.name", k.Bears, k.Claims)
}

// endConflicts forgets those of which the refused instance is not heard any more. Who is blind hears nobody.
func (c *Controller) endConflicts(now time.Time) {
	if !c.sync.Open {
		return
	}
	for node, k := range c.conflicts {
		if now.Sub(k.heard) >= max(c.cfg.GoneAfter, 4*c.pace) {
			c.conflictOver(node, "instance "+k.Claims+" is not heard any more", now)
		}
	}
}

func (c *Controller) conflictOver(node, why string, now time.Time) {
	if _, lasts := c.conflicts[node]; lasts {
		delete(c.conflicts, node)
		c.changed = true
		c.event(Event{Time: now, Kind: EventConflictOver, Node: node, Text: fmt.Sprintf("node %s: one machine claims this name: %s", node, why)})
	}
}
