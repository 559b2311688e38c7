package controller

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/inventory/query"
)

// opinions is one round of asking dependents whether they reach the members whose loss is held. If one of them does, it is our link
// that died.
type opinions struct {
	hold    *hold
	asked   []string // the lost ones, sorted
	waiting int
	silent  int      // that gave no answer
	against []string // "lb1 reaches 10.0.0.3:8080"
	agreed  []string // that reach none
}

// seekOpinions asks where a hold has lasted long enough.
func (c *Controller) seekOpinions(ctx context.Context, now time.Time) {
	if c.rival.id != "" {
		return
	}
	for _, name := range sortedKeys(c.roles.byName) {
		r := c.roles.byName[name]
		h := r.guard.hold
		if h == nil || !r.gate.open || now.Before(h.ask) {
			continue
		}
		h.ask = now.Add(opinionEvery)
		targets, nodes := r.guard.addresses(), c.witnesses(r)
		switch {
		case len(targets) == 0:
			h.opinion = "nobody knows an address and port of the lost ones to try: an operator has to say what is true"
			continue
		case len(nodes) == 0:
			h.opinion = "there is no dependent to be asked: an operator has to say what is true"
			continue
		}
		round := &opinions{hold: h, asked: sortedKeys(r.guard.missing), waiting: len(nodes)}
		for _, node := range nodes {
			c.send(ctx, func(ctx context.Context) func(time.Time) {
				reached, err := c.bus.Probe(ctx, node, targets)
				return func(now time.Time) { c.opinion(name, round, node, reached, err, now) }
			})
		}
	}
}

// addresses is where the missing took connections, as far as their facts say.
func (g *guard) addresses() []string {
	var addresses []string
	for _, name := range sortedKeys(g.missing) {
		facts := g.missing[name].facts
		if facts == nil {
			facts = g.missing[name].member.Facts
		}
		host, hasHost := query.Lookup(facts, "ipaddress")
		port, hasPort := query.Lookup(facts, "port")
		if hasHost && hasPort && len(addresses) < inventory.MaxTargets {
			addresses = append(addresses, net.JoinHostPort(fmt.Sprint(host), fmt.Sprint(port)))
		}
	}
	return addresses
}

// witnesses is some nodes that depend on a role and are not lost themselves.
func (c *Controller) witnesses(r *role) []string {
	var nodes []string
	for _, a := range c.sorted() {
		depends := slices.ContainsFunc(a.needs, func(n need) bool { return n.role == r })
		if _, lost := r.guard.missing[a.node]; lost {
			continue // alive, but not what it was
		}
		if depends && len(nodes) < witnesses && !slices.Contains(nodes, a.node) && c.inv.Snapshot().Node(a.node).Life == inventory.Alive {
			nodes = append(nodes, a.node)
		}
	}
	return nodes
}

// opinion takes in one answer; the last one of a round decides, but never that nothing is left.
func (c *Controller) opinion(role string, round *opinions, node string, reached []string, err error, now time.Time) {
	round.waiting--
	switch {
	case err != nil:
		round.silent++
	case len(reached) > 0:
		round.against = append(round.against, fmt.Sprintf("%s reaches %s", node, abridged(reached)))
	default:
		round.agreed = append(round.agreed, node)
	}
	r := c.roles.byName[role]
	if round.waiting > 0 || r == nil || r.guard.hold != round.hold {
		return
	}
	c.changed = true
	was := round.hold.opinion
	more := slices.ContainsFunc(sortedKeys(r.guard.missing), func(lost string) bool { return !slices.Contains(round.asked, lost) })
	if round.hold.opinion = round.verdict(r.sound()); round.confirmed() && more {
		round.hold.ask = now // about those as well
	} else if round.confirmed() && r.sound() > 0 {
		c.event(api.Event{Time: now, Kind: api.EventHoldEnded, Role: r.Name, Text: c.shadowed(fmt.Sprintf("role %s: the loss of %d is believed: %s", r.Name, len(r.guard.missing), round.hold.opinion))})
		r.guard.accept(now, len(r.members))
		r.note(now)
	} else if round.hold.opinion != was {
		c.event(api.Event{Time: now, Kind: api.EventHoldBegan, Role: r.Name, Text: c.shadowed(fmt.Sprintf("role %s: removals are held still: %s", r.Name, round.hold.opinion))})
	}
}

// confirmed reports whether somebody was heard, and everybody who was can't reach the lost ones.
func (o *opinions) confirmed() bool { return len(o.agreed) > 0 && len(o.against) == 0 }

func (o *opinions) verdict(sound int) string {
	switch {
	case len(o.against) > 0:
		slices.Sort(o.against)
		return strings.Join(o.against, "; ") + ": it is our link that died"
	case len(o.agreed) == 0:
		return fmt.Sprintf("%s asked, and none answered", quantity(o.silent, "dependent"))
	case sound == 0:
		slices.Sort(o.agreed)
		return fmt.Sprintf("%s can't reach them either, but nothing would be left: an operator has to say that this is true", abridged(o.agreed))
	}
	slices.Sort(o.agreed)
	return abridged(o.agreed) + " can't reach them either"
}
