package controller

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
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
			c.event(api.Event{Time: now, Kind: api.EventFollows, Text: fmt.Sprintf("controller %s leads cluster %s, epoch %d: this one does nothing", b.ID, c.cfg.Cluster, b.Epoch)})
		}
		c.rival = rival{b.ID, b.Epoch, now}
		c.changed = true
	}
}

// challenged takes in that a node may have seen a higher epoch than this controller's. Perhaps another one leads, on the other side of a
// partition until now: it is asked for, and only if nobody answers does this one raise its epoch above it.
func (c *Controller) challenged(now time.Time) {
	if c.rival.id != "" || c.seen < c.identity.Epoch || c.seen >= kick.MaxEpoch || !c.asking.IsZero() {
		return
	}
	c.asking, c.beacon, c.changed = now, time.Time{}, true
}

// notLeading says why this controller must not kick, "" if it leads.
func (c *Controller) notLeading() string {
	switch {
	case c.rival.id != "":
		return fmt.Sprintf("controller %s leads", c.rival.id)
	case !c.asking.IsZero():
		return fmt.Sprintf("a node has seen epoch %d, and whose that is was asked", c.seen)
	}
	return ""
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
	c.event(api.Event{Time: canary, Kind: api.EventLeads, Text: fmt.Sprintf("controller %s was silent for %.1f s: this one leads now", c.rival.id, canary.Sub(c.rival.heard).Seconds())})
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

// raise makes this controller's epoch higher than any that a node has seen of another one: nodes obey the highest.
func (c *Controller) raise() {
	if c.seen < c.identity.Epoch || c.seen >= kick.MaxEpoch {
		return // higher than that no node would obey
	}
	c.identity.Epoch = c.seen + 1
	c.epochs = append(c.epochs, c.identity.Epoch)
	for _, r := range c.roles.byName {
		if r.now.Revision.Hash != "" {
			r.now.Revision.Epoch = c.identity.Epoch
		}
	}
	c.beacon = time.Time{}
}

// yields is the error that ends a controller which is no standby when it hears that another one leads.
func (c *Controller) yields() error {
	if c.rival.id == "" || c.cfg.Standby {
		return nil
	}
	return fmt.Errorf("cluster %s: %w: %s, epoch %d: stop that one first, or start this one with --standby", c.cfg.Cluster, ErrOtherLeads, c.rival.id, c.rival.epoch)
}

// introduce says who leads: at the start, and when it is challenged, a question, then a beacon now and then, unless another one leads.
func (c *Controller) introduce(now time.Time) {
	if now.Before(c.beacon) {
		return
	}
	if c.rival.id != "" {
		c.asking = time.Time{}
	}
	switch {
	case now.Before(c.identity.Started.Add(introduction)), now.Before(c.asking.Add(introduction)):
		c.beacon = now.Add(introduction / 4) // again: the question or the answer may be lost
		c.bus.Beacon(c.identity.ID, 0, c.pace)
	case c.rival.id == "":
		if !c.asking.IsZero() {
			c.asking, c.changed = time.Time{}, true
			c.raise()
		}
		c.beacon = now.Add(beaconEvery)
		c.bus.Beacon(c.identity.ID, c.identity.Epoch, c.pace)
	default:
		c.beacon = now.Add(beaconEvery)
	}
}
