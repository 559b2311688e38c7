package controller

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"kicker/inventory"
)

// ErrOtherLeads ends a controller that hears another one of its cluster, unless it is a standby.
var ErrOtherLeads = errors.New("another controller of this cluster runs")

// introduction is how long a controller that has just started waits for an answer to its question who else is there.
const introduction = time.Second

// rival is another controller that leads. It is heard of by its beacons, and then four times a second by its canary.
type rival struct {
	id    string
	epoch int64
	heard time.Time
}

// meet takes in a beacon.
func (c *Controller) meet(b inventory.Beacon, now time.Time) {
	if b.ID == c.identity.ID {
		return
	}
	ahead := cmp.Or(cmp.Compare(b.Epoch, c.identity.Epoch), cmp.Compare(b.ID, c.identity.ID)) > 0
	introduced := !now.Before(c.identity.Started.Add(introduction))
	switch {
	case b.Epoch == 0 || !ahead && introduced && c.rival.id == "":
		c.beacon = time.Time{} // it will learn who leads
	case c.rival.id == b.ID || c.rival.id == "" || b.Epoch > c.rival.epoch:
		if c.rival.id != b.ID {
			c.event(Event{Time: now, Kind: EventFollows, Text: fmt.Sprintf("controller %s leads cluster %s, epoch %d: this one does nothing", b.ID, c.cfg.Cluster, b.Epoch)})
		}
		c.rival = rival{b.ID, b.Epoch, now}
		c.changed = true
	}
}

// hearRival takes in that another controller is alive.
func (c *Controller) hearRival(id string, now time.Time) {
	if id == c.rival.id {
		c.rival.heard = now
	}
}

// succeed takes over from a rival that is silent, by canary time.
func (c *Controller) succeed(canary time.Time) {
	if c.rival.id == "" || canary.Sub(c.rival.heard) < c.cfg.GoneAfter {
		return
	}
	c.event(Event{Time: canary, Kind: EventLeads, Text: fmt.Sprintf("controller %s was silent for %.1f s: this one leads now", c.rival.id, canary.Sub(c.rival.heard).Seconds())})
	c.seen = max(c.seen, c.rival.epoch)
	c.rival = rival{}
	c.raise()
	c.inherit(canary)
	c.changed = true
}

// inherit begins with what dependents have applied, as after a restart: this controller's own guards did not hear what an operator, or
// second opinions, told the one that led.
func (c *Controller) inherit(now time.Time) {
	for _, r := range c.roles.byName {
		r.gate, r.guard = roleGate{}, guard{}
	}
	for node := range c.byNode {
		c.noteHeld(node, now)
	}
}

// yields is the error that ends a controller which is no standby when it hears that another one leads.
func (c *Controller) yields() error {
	if c.rival.id == "" || c.cfg.Standby {
		return nil
	}
	return fmt.Errorf("cluster %s: %w: %s, epoch %d: stop that one first, or start this one with --standby", c.cfg.Cluster, ErrOtherLeads, c.rival.id, c.rival.epoch)
}

// introduce says who leads: at the start a question, then a beacon now and then, unless another one leads.
func (c *Controller) introduce(now time.Time) {
	if now.Before(c.beacon) {
		return
	}
	switch {
	case now.Before(c.identity.Started.Add(introduction)):
		c.beacon = now.Add(introduction / 4) // again: the question or the answer may be lost
		c.bus.Beacon(c.identity.ID, 0, c.pace)
	case c.rival.id == "":
		c.beacon = now.Add(beaconEvery)
		c.bus.Beacon(c.identity.ID, c.identity.Epoch, c.pace)
	default:
		c.beacon = now.Add(beaconEvery)
	}
}
