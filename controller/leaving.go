package controller

import (
	"slices"

	"kicker/inventory"
)

// leaving is a node that leaves and wants to know which dependents still use it.
type leaving struct {
	reply string                 // where to answer
	last  *inventory.LeaveStatus // the answer before
}

// answerLeaving tells the nodes that leave how far they are, when that has changed.
func (c *Controller) answerLeaving() {
	if !c.leadership.leads() {
		return // the controller that leads answers
	}
	for node, l := range c.leaving {
		waiting := c.mayUse(node)
		if l.last == nil || !slices.Equal(l.last.Waiting, waiting) {
			l.last = &inventory.LeaveStatus{
				V: inventory.Version, Received: true, Released: len(waiting) == 0, Waiting: waiting,
			}
			c.bus.TellLeaving(l.reply, *l.last)
		}
	}
}

// mayUse is the actions that may still be configured with a node that left.
func (c *Controller) mayUse(node string) []string {
	if !c.listening.sync.Open {
		return []string{"the controller: " + c.listening.sync.Why}
	}
	var waiting []string
	for _, a := range c.fleet.all() {
		if a.Node != node && a.MayUse(node) {
			waiting = append(waiting, a.Key.String())
		}
	}
	return waiting
}
