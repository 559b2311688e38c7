package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
)

// maxProbers is how many dependents are asked at once whether they reach lost members.
const maxProbers = 5

// probe is one round of that question, with the answers so far.
type probe struct {
	membership.Probe
	alive   bool // some of the lost members report: they are not ready, or no longer selected
	waiting int
	silent  int
	reached []string // "lb1 reaches 10.0.0.3:8080"
	agreed  []string // nodes that reach none
}

// startProbes asks dependents whether they reach the members whose removal is held, where a hold has lasted long
// enough. If one of them does, it is the network between the controller and those members that is broken.
func (c *Controller) startProbes(ctx context.Context, now time.Time) {
	if !c.leadership.leads() {
		return
	}
	for _, due := range c.table.Probes(now) {
		p := &probe{Probe: due, alive: due.AnyOf(c.inv.Snapshot())}
		nodes := c.probers(due.Role)
		switch {
		case len(due.Targets) == 0:
			c.table.Probed(due, false, "no address and port of the lost members is known: a person has to decide", now)
			continue
		case len(nodes) == 0:
			c.table.Probed(due, false, "there is no dependent to ask: a person has to decide", now)
			continue
		}
		p.waiting = len(nodes)
		for _, node := range nodes {
			c.ask(ctx, func(ctx context.Context) func(time.Time) bool {
				reached, err := c.bus.Probe(ctx, node, due.Targets)
				return func(now time.Time) bool { return c.probed(p, node, reached, err, now) }
			})
		}
	}
}

// probers is some nodes that depend on a role, are alive, and are not lost themselves.
func (c *Controller) probers(r *membership.Role) []string {
	var nodes []string
	all := c.inv.Snapshot()
	for _, a := range c.fleet.all() {
		depends := slices.ContainsFunc(a.Needs, func(n membership.Need) bool { return n.Role == r })
		if !depends || slices.Contains(nodes, a.Node) || r.Missing(a.Node) {
			continue
		}
		if all.Node(a.Node).Life == inventory.Alive {
			nodes = append(nodes, a.Node)
		}
		if len(nodes) == maxProbers {
			break
		}
	}
	return nodes
}

// probed notes one answer. The last one of a round decides.
func (c *Controller) probed(p *probe, node string, reached []string, err error, now time.Time) (changed bool) {
	p.waiting--
	switch {
	case err != nil:
		p.silent++
	case len(reached) > 0:
		p.reached = append(p.reached, fmt.Sprintf("%s reaches %s", node, api.List(reached, 5)))
	default:
		p.agreed = append(p.agreed, node)
	}
	if p.waiting > 0 {
		return false
	}
	text := p.text()
	confirmed := len(p.agreed) > 0 && len(p.reached) == 0
	accepted, news := c.table.Probed(p.Probe, confirmed, text, now)
	role := p.Role.Name
	switch {
	case accepted > 0:
		c.roleEvent(now, api.EventHoldEnded, role, "the loss of %s is accepted: %s%s",
			api.Count(accepted, "member"), text, c.shadow())
	case news != "":
		c.roleEvent(now, api.EventHoldProbed, role, "removals are still held: %s%s", news, c.shadow())
	}
	return true
}

// text says what a round found.
func (p *probe) text() string {
	slices.Sort(p.reached)
	slices.Sort(p.agreed)
	switch {
	case len(p.reached) > 0 && p.alive:
		return strings.Join(p.reached, "; ") + ": not all of them are down"
	case len(p.reached) > 0:
		return strings.Join(p.reached, "; ") + " and the controller does not: the network between them is broken"
	case len(p.agreed) == 0:
		return fmt.Sprintf("%s asked, none answered", api.Count(p.silent, "dependent"))
	}
	return api.List(p.agreed, 5) + " cannot reach them either"
}
