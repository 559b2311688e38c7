package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// What the sync gate waits for before a controller that has just started, or was blind, acts on what it heard.
const (
	rollcallSplay  = 500 * time.Millisecond
	reconnectTime  = 2200 * time.Millisecond                         // by then every agent has reconnected to a bus that was restarted
	quiet          = time.Second                                     // without a node that was not heard before
	quietAtMost    = 30 * time.Second                                // a cluster where nodes join all the time is never quiet
	strangerWithin = 5 * time.Minute                                 // of a start, who comes back may hold what another controller made
	canaryOverdue  = inventory.MissedAfter + 2*inventory.CanaryEvery // the listener says so only when one has come back
	factsAtMost    = 10 * time.Second                                // for facts that were asked for and don't come
)

// roleGate keeps a role from being acted on until what its dependents are configured with is accounted for: each member that they know
// of was heard, or is lost, and then the guard has its say. It belongs to the loop.
type roleGate struct {
	open   bool
	why    string
	until  time.Time
	newest holder        // whoever has the newest revision that was heard of, and is to be asked next
	others []holder      // that have it too; a few
	known  []kick.Member // of that revision
	basis  kick.Revision // open: the newest one that was accounted for
	asked  time.Time     // for them
	have   int           // of them that were heard
	came   time.Time     // the last of those
	since  time.Time     // closed since
}

// holder is an action that applied a revision, which it calls by a name of its own.
type holder struct {
	revision         kick.Revision
	node, action, as string
}

// heard takes in that an action holds a revision. The newest one counts: the older ones led to it, and an action that has failed for
// weeks must not raise the dead.
func (g *roleGate) heard(h holder) {
	const most = 4
	same := g.newest.revision.Hash == h.revision.Hash
	knows := func(o holder) bool { return o.node == h.node && o.action == h.action && o.as == h.as }
	switch {
	case same && !knows(g.newest) && len(g.others) < most && !slices.ContainsFunc(g.others, knows):
		g.others = append(g.others, h)
	case g.newest.revision.Hash == "" || g.newest.revision.Before(h.revision):
		if !same {
			g.known, g.others, g.have = nil, nil, 0
			g.asked = time.Time{}
		}
		g.newest = h
	}
}

// next turns to another holder: the one that was asked did not know, or is gone.
func (g *roleGate) next() {
	if len(g.others) > 0 {
		g.newest, g.others = g.others[0], append(slices.Clone(g.others[1:]), g.newest)
	}
}

// judge opens the gate, or says what it waits for, until last at the latest; and while members come back one after the other, until
// none has come for the time in which one is gone. present says what is heard of a node.
func (g *roleGate) judge(now, last time.Time, gone time.Duration, present func(node string) bool) {
	g.why, g.until = "", time.Time{}
	switch {
	case g.newest.revision.Hash == "":
		g.open = true // nobody was ever told of this role
	case g.known == nil && now.Before(last):
		g.why, g.until = fmt.Sprintf("%s/%s was asked whom it is configured with", g.newest.node, g.newest.action), last
	case g.known == nil:
		g.open = true // whoever knew is gone too
	default:
		var missing []string
		for _, m := range g.known {
			if !present(m.Node) {
				missing = append(missing, m.Node)
			}
		}
		if have := len(g.known) - len(missing); have > g.have {
			g.have, g.came = have, now
		}
		if others := g.came.Add(gone); others.After(last) {
			last = others
		}
		if len(missing) > 0 && now.Before(last) {
			g.why, g.until = fmt.Sprintf("%d of %d members that dependents know of were not heard yet: %s", len(missing), len(g.known), abridged(missing)), last
			return
		}
		g.open = true
	}
}

// abridged is some of many names.
func abridged(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// syncGate keeps what Sync is judged from.
type syncGate struct {
	since  time.Time // listening, and not blind, since
	joined time.Time // the last node that was not heard before
	owing  int       // nodes whose facts are not known
	paid   time.Time // when they became fewer last
	opened time.Time
}

// owes takes in how many nodes' facts are not known.
func (g *syncGate) owes(n int, now time.Time) {
	if n < g.owing {
		g.paid = now
	}
	g.owing = n
}

// judge says whether the gate is open. Once open it stays open until the controller was blind.
func (g syncGate) judge(now time.Time, pace time.Duration, nodes int) api.Sync {
	heardAll := g.since.Add(reconnectTime + rollcallSplay + pace)
	calm := g.joined.Add(max(quiet, g.joined.Sub(heardAll)/4)) // who is slow makes longer pauses
	if calm.Before(heardAll) {
		calm = heardAll
	}
	if last := g.since.Add(quietAtMost); calm.After(last) {
		calm = last
	}
	paid := heardAll.Add(factsAtMost)
	if later := g.paid.Add(factsAtMost); later.After(paid) {
		paid = later
	}
	switch {
	case now.Before(heardAll):
		return api.Sync{Why: "calling the roll", Until: heardAll}
	case nodes == 0:
		return api.Sync{Why: "no node is heard: nothing is known, so nothing is done"}
	case now.Before(calm):
		return api.Sync{Why: "nodes are still being heard for the first time", Until: calm}
	case g.owing > 0 && now.Before(paid):
		return api.Sync{Why: fmt.Sprintf("the facts of %s were asked for", quantity(g.owing, "node")), Until: paid}
	}
	return api.Sync{Open: true}
}

// heard takes in that a node joined.
func (g *syncGate) heard(c inventory.Change, now time.Time) {
	if c.Before == nil {
		g.joined = now
	}
}

// noteHeld takes in which revisions a node's actions hold. One that is newer than anything this controller has said was made by another
// one, and one that is newer than those which a role was accounted for with may come from a slow reporter: then the role is closed
// again until it is accounted for.
func (c *Controller) noteHeld(node string, now time.Time) {
	for _, a := range c.byNode[node] {
		for _, need := range a.needs {
			held, ok := a.status.Applied[need.as]
			g := &need.role.gate
			slow := !slices.Contains(c.epochs, held.Epoch) && now.Before(c.gate.since.Add(strangerWithin))
			if newer := held.Epoch > c.identity.Epoch || slow && g.basis.Before(held); !ok || g.open && (!newer || need.role.knows(held.Hash)) {
				continue
			}
			g.open = false
			g.heard(holder{held, node, a.name, need.as})
		}
	}
}

// heardBy is when whoever was there at a time has been heard, or is gone, as far as a role is concerned: while others were still being
// heard for the first time, it may have been on its way too.
func (c *Controller) heardBy(r *role, since time.Time) time.Time {
	from := since.Add(reconnectTime)
	if from.Before(c.gate.opened) {
		from = c.gate.opened
	}
	return from.Add(c.goneAfterOf(r))
}

func (c *Controller) goneAfterOf(r *role) time.Duration { return cmp.Or(r.GoneAfter, c.cfg.GoneAfter) }

// knows reports whether a membership with that hash is remembered.
func (r *role) knows(hash string) bool {
	_, ok := r.past[hash]
	return ok
}

// openRoles lets those roles be acted on that are accounted for. It returns those of whose members somebody is to be asked now.
func (c *Controller) openRoles(now time.Time) (ask []*role) {
	nodes := c.inv.Snapshot()
	for _, name := range sortedKeys(c.roles.byName) {
		r := c.roles.byName[name]
		g := &r.gate
		if g.open {
			continue
		}
		if g.known == nil && g.newest.revision.Hash != "" && now.Sub(g.asked) >= askAgain {
			if !g.asked.IsZero() {
				g.next()
			}
			g.asked = now
			ask = append(ask, r)
		}
		if g.since.IsZero() {
			g.since = now
		}
		last := c.gate.since
		if last.Before(g.since) {
			last = g.since
		}
		last, gone := c.heardBy(r, last), c.goneAfterOf(r)
		if g.known == nil {
			for _, h := range append([]holder{g.newest}, g.others...) {
				if by := answersBy(nodes.Node(h.node), gone); last.Before(by) {
					last = by
				}
			}
		}
		g.judge(now, last, gone, func(node string) bool {
			n := nodes.Node(node)
			return n != nil && n.Facts != nil && !n.Checking
		})
		if g.open {
			c.account(r, nodes, now)
		}
	}
	return ask
}

// answersBy is when a node that is asked has answered, or is gone: it may be suspect or back soon, or just be back.
func answersBy(n *inventory.Node, gone time.Duration) time.Time {
	switch {
	case n == nil:
		return time.Time{}
	case n.Life == inventory.Restarting:
		return backBy(n).Add(gone)
	}
	return n.Since.Add(gone)
}

// backBy is when a node that said that it is back soon is gone at the latest.
func backBy(n *inventory.Node) time.Time { return n.Since.Add(inventory.MaxRestart) }

// account takes as lost those members that dependents know of and that are none any more, for whatever reason but a goodbye.
func (c *Controller) account(r *role, nodes *inventory.Snapshot, now time.Time) {
	for _, m := range r.gate.known {
		if _, still := r.members[m.Node]; still {
			continue
		}
		if _, missing := r.guard.missing[m.Node]; missing {
			continue
		}
		n := nodes.Node(m.Node)
		if n != nil && n.Life == inventory.Left {
			continue
		}
		l := loss{member: m, at: now.Add(-guardPause)}
		if n != nil {
			l.facts = n.Facts
		}
		if n != nil && n.Life == inventory.Restarting && (n.Facts == nil || n.Checking) {
			l.at = backBy(n) // it said so before it could be heard whole
		}
		r.guard.lost(m.Node, l)
	}
	if r.gate.known != nil {
		r.remember(r.gate.newest.revision.Hash, r.gate.known)
	}
	r.guard.note(now, len(r.members)+len(r.guard.missing))
	r.gate = roleGate{open: true, basis: r.gate.newest.revision}
	r.note(now)
}

// askRoster asks for the members that an action holds. The answer comes back to the loop.
func (c *Controller) askRoster(ctx context.Context, name string, h holder) {
	c.send(ctx, func(ctx context.Context) func(time.Time) {
		members, hash, err := c.bus.Roster(ctx, h.node, h.action, h.as)
		return func(now time.Time) {
			r := c.roles.byName[name]
			if err != nil || hash == "" || r == nil || r.gate.open || hash != r.gate.newest.revision.Hash {
				return // it is asked for again
			}
			r.gate.known = members
			if members == nil {
				r.gate.known = []kick.Member{}
			}
			c.changed = true
		}
	})
}
