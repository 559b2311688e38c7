// Package controller keeps every node that depends on a role configured from the role's membership as it is now: what it heard goes
// in, a verdict on every action comes out, and the verdicts that wait for nothing are carried out.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

const (
	sweepEvery   = 5 * time.Second  // however quiet it is
	beaconEvery  = 10 * time.Second // whatever happens
	pace         = time.Second      // between two beats of a node
	replyTimeout = 3 * time.Second  // for the answer to a kick
	askAgain     = time.Second      // after a kick that got no answer, or met a run
	tidyEvery    = time.Minute
	batch        = 1024 // messages taken in before the next verdicts
)

// Bus is what a controller says to the nodes. None of it but Send waits.
type Bus struct {
	Send     func(context.Context, kick.Kick) (kick.Reply, error)
	Ask      func(node string)                                // for its facts
	CallRoll func(splay time.Duration)                        // ask every node to beat within splay
	Beacon   func(id string, epoch int64, pace time.Duration) // to everyone
	Farewell func(reply string, farewell inventory.Farewell)  // to a leaving node
}

// Controller is one run of the daemon. Everything in it belongs to the goroutine in Run, but for view and orders.
type Controller struct {
	cfg Config
	inv *inventory.Inventory
	bus Bus
	log *slog.Logger

	view   atomic.Pointer[View]
	orders chan *order

	identity Identity
	kicks    int64 // how many kicks were made, for their ids
	gate     syncGate
	sync     Sync
	rolls    []time.Time // when the roll is still to be called
	beacon   time.Time   // when the next is due
	changed  bool        // something was taken in that verdicts may depend on
	due      time.Time   // when verdicts can change by the passing of time

	roles    *roles
	byNode   map[string][]*action
	actions  []*action // sorted; nil: to be sorted anew
	tidied   time.Time
	status   map[string]kick.Status
	memories map[key]*memory
	flights  map[string]*flight
	leaving  map[string]*leaving

	replies chan reply
	sends   sync.WaitGroup
	journal journal
}

// reply is what came of a kick.
type reply struct {
	flight *flight
	kick.Reply
	err error
}

// leaving is a node that said goodbye and wants to know how far it is.
type leaving struct {
	reply string // where to answer
	told  string // the last answer
}

// order is a KickOrder on its way through the loop.
type order struct {
	KickOrder
	done chan orderDone
}

type orderDone struct {
	kicked Kicked
	err    error
}

func (o *order) reason() string {
	if o.By == "" {
		return "ordered by an operator"
	}
	return "ordered by " + o.By
}

// New is a controller that has heard nothing yet. It owns inv from here on. id, unique to this run, names it.
func New(cfg Config, id string, inv *inventory.Inventory, bus Bus, log *slog.Logger) (*Controller, error) {
	roles, err := newRoles(cfg.Roles)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		cfg: cfg, inv: inv, bus: bus, log: log, orders: make(chan *order), roles: roles,
		byNode: map[string][]*action{}, status: map[string]kick.Status{}, memories: map[key]*memory{},
		flights: map[string]*flight{}, leaving: map[string]*leaving{}, replies: make(chan reply, maxFlights),
		journal: newJournal(),
	}
	now := time.Now()
	c.identity = Identity{Cluster: cfg.Cluster, ID: id, Epoch: now.UnixMilli(), Started: now}
	inv.GoneAfter = c.goneAfter
	c.journal.add(Event{Time: now, Kind: EventStarted, Text: fmt.Sprintf("controller %s of cluster %s started", id, cfg.Cluster)}, log)
	c.blind(now)
	c.show(now, nil)
	return c, nil
}

// goneAfter is the shortest time that a role of the node asks for, else the cluster's.
func (c *Controller) goneAfter(n *inventory.Node) time.Duration {
	bound := c.cfg.GoneAfter
	own := time.Duration(0)
	for _, cfg := range c.cfg.Roles {
		r := c.roles.byName[cfg.Name]
		if _, in := r.nodes[n.Name]; in && cfg.GoneAfter > 0 && (own == 0 || cfg.GoneAfter < own) {
			own = cfg.GoneAfter
		}
	}
	if own > 0 {
		return own
	}
	return bound
}

// View is what the controller knows as of its last turn. Any goroutine may call it.
func (c *Controller) View() *View { return c.view.Load() }

// Kick hands the loop an operator's order. The error wraps ErrNotFound or ErrNotSynced. Any goroutine may call it while Run runs.
func (c *Controller) Kick(ctx context.Context, o KickOrder) (Kicked, error) {
	asked := &order{o, make(chan orderDone, 1)}
	select {
	case c.orders <- asked:
	case <-ctx.Done():
		return Kicked{}, ctx.Err()
	}
	select {
	case done := <-asked.done:
		return done.kicked, done.err
	case <-ctx.Done():
		return Kicked{}, ctx.Err()
	}
}

// Run takes in what is heard and what runs came to, and does what follows, until ctx ends.
func (c *Controller) Run(ctx context.Context, heard <-chan inventory.Heard, results <-chan kick.Result) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.sends.Wait()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var asked *order
		select {
		case <-ctx.Done():
			return nil
		case h := <-heard:
			c.hear(h)
		case res := <-results:
			c.result(res, time.Now())
		case r := <-c.replies:
			c.replied(r, time.Now())
		case asked = <-c.orders:
		case <-timer.C:
		}
		for range batch {
			select {
			case h := <-heard:
				c.hear(h)
				continue
			case res := <-results:
				c.result(res, time.Now())
				continue
			case r := <-c.replies:
				c.replied(r, time.Now())
				continue
			default:
			}
			break
		}
		now := time.Now()
		c.turn(ctx, now)
		if asked != nil {
			kicked, err := c.command(ctx, asked, now)
			asked.done <- orderDone{kicked, err}
		}
		timer.Reset(max(0, time.Until(c.due)))
	}
}

// turn does what follows from all that was taken in.
func (c *Controller) turn(ctx context.Context, now time.Time) {
	for len(c.rolls) > 0 && !now.Before(c.rolls[0]) {
		c.rolls = c.rolls[1:]
		c.bus.CallRoll(rollcallSplay)
	}
	if !now.Before(c.beacon) {
		c.beacon = now.Add(beaconEvery)
		c.bus.Beacon(c.identity.ID, c.identity.Epoch, pace)
	}
	for _, node := range c.inv.Wanting(now) {
		c.bus.Ask(node)
	}
	c.expire(now)
	if !c.changed && now.Before(c.due) {
		return
	}
	c.changed = false
	c.synchronise(now)
	if c.sync.Open {
		c.publish(now)
	}
	c.track(now)
	c.tidy(now)
	s := c.situation()
	verdicts := plan(s, now)
	for i, v := range verdicts {
		if v.State != Converged && len(v.Gates) == 0 {
			c.dispatch(ctx, s, s.actions[i], v, now)
		}
	}
	c.sayFarewell()
	c.show(now, verdicts)
	c.due = c.nextDue(verdicts, now)
}

func (c *Controller) situation() situation {
	return situation{cfg: c.cfg, sync: c.sync, roles: c.roles, actions: c.sorted(), flights: len(c.flights)}
}

func (c *Controller) nextDue(verdicts []Verdict, now time.Time) time.Time {
	due := now.Add(sweepEvery)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	earlier(c.beacon)
	earlier(c.sync.Until)
	earlier(next(verdicts))
	if len(c.rolls) > 0 {
		earlier(c.rolls[0])
	}
	for _, f := range c.flights {
		earlier(f.deadline)
	}
	return due
}

// blind begins listening anew: nothing that was not heard from here on counts.
func (c *Controller) blind(now time.Time) {
	c.gate = syncGate{since: now}
	c.rolls = []time.Time{now, now.Add(reconnectTime)}
	c.sync = c.gate.judge(now, pace, 0, 0)
	c.changed = true
}

func (c *Controller) synchronise(now time.Time) {
	if c.sync.Open {
		return
	}
	nodes, withoutFacts := 0, 0
	for n := range c.inv.Snapshot().All() {
		nodes++
		if n.Facts == nil {
			withoutFacts++
		}
	}
	if c.sync = c.gate.judge(now, pace, nodes, withoutFacts); c.sync.Open {
		c.event(Event{Time: now, Kind: EventSynced, Text: fmt.Sprintf("synced after %.1f s: %d nodes are heard", now.Sub(c.gate.since).Seconds(), nodes)})
	}
}

// publish gives the roles that changed their new revisions.
func (c *Controller) publish(now time.Time) {
	for _, p := range c.roles.publish(c.identity.Epoch) {
		r := p.role
		if r.unheardOf() {
			continue // somebody needs it, and that is all there is
		}
		text := fmt.Sprintf("role %s has %d members", r.Name, len(r.now.Members))
		if p.was.Revision.Hash != "" {
			text = fmt.Sprintf("role %s: %d → %d members: %s", r.Name, len(p.was.Members), len(r.now.Members), p.diff)
		}
		c.event(Event{Time: now, Kind: EventRole, Role: r.Name, Text: text})
	}
}

// raise makes this controller's epoch higher than any that was heard: nodes obey the highest.
func (c *Controller) raise(heard int64) {
	if heard < c.identity.Epoch {
		return
	}
	c.identity.Epoch = heard + 1
	for _, r := range c.roles.byName {
		if r.now.Revision.Hash != "" {
			r.now.Revision.Epoch = c.identity.Epoch
		}
	}
	c.beacon = time.Time{}
}

// command carries out an operator's order.
func (c *Controller) command(ctx context.Context, asked *order, now time.Time) (Kicked, error) {
	kicked := Kicked{Actions: []Verdict{}, After: c.journal.seq}
	if !c.sync.Open {
		return kicked, fmt.Errorf("kick %s: %w: %s", asked.Object, ErrNotSynced, c.sync.Why)
	}
	nodes, err := c.nodesOf(asked.Object)
	if err != nil {
		return kicked, err
	}
	var chosen []*action
	for _, node := range nodes {
		for _, a := range c.byNode[node] {
			if asked.Action == "" || asked.Action == a.name {
				chosen = append(chosen, a)
			}
		}
	}
	if len(chosen) == 0 && asked.Action != "" {
		return kicked, fmt.Errorf("kick %s: action %s: %w", asked.Object, asked.Action, ErrNotFound)
	}
	if len(chosen) == 0 {
		return kicked, fmt.Errorf("kick %s: an action: %w: no agent there has one (kicker agent --action NAME=COMMAND)", asked.Object, ErrNotFound)
	}
	for _, a := range chosen {
		forced, notBefore := a.forced, a.memory.notBefore
		a.forced, a.memory.notBefore = asked, time.Time{}
		s := c.situation()
		v := s.judge(a, now)
		v.Gates = s.gates(a, now)
		kicked.Actions = append(kicked.Actions, v)
		if asked.DryRun {
			a.forced, a.memory.notBefore = forced, notBefore
		}
	}
	if !asked.DryRun {
		c.changed = true
		c.turn(ctx, now)
	}
	return kicked, nil
}

// nodesOf is the nodes that an object names: node/N, or all that bear role/R.
func (c *Controller) nodesOf(object string) ([]string, error) {
	kind, name, _ := strings.Cut(object, "/")
	switch kind {
	case "node":
		if c.inv.Snapshot().Node(name) == nil {
			return nil, fmt.Errorf("%s: %w", object, ErrNotFound)
		}
		return []string{name}, nil
	case "role":
		if r := c.roles.byName[name]; r != nil && len(r.nodes) > 0 {
			return r.nodeNames(), nil
		}
		return nil, fmt.Errorf("%s: %w: no node bears it", object, ErrNotFound)
	}
	return nil, fmt.Errorf("object %q: %w: want node/NAME or role/NAME", object, ErrNotFound)
}

func (c *Controller) event(e Event) { c.journal.add(e, c.log) }

func (c *Controller) newRunID() string {
	c.kicks++
	return strconv.FormatInt(c.identity.Epoch, 36) + "-" + strconv.FormatInt(c.kicks, 10)
}
