// Package controller keeps every node that depends on a role configured from the role's membership as it is now: what it heard goes
// in, a verdict on every action comes out, and the verdicts that wait for nothing are carried out.
package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

const (
	sweepEvery   = 5 * time.Second  // however quiet it is
	beaconEvery  = 10 * time.Second // whatever happens
	replyTimeout = 3 * time.Second  // for the answer to a kick
	askAgain     = time.Second      // after a kick that got no answer, or met a run
	tidyEvery    = time.Minute
	batch        = 1024 // messages taken in before the next verdicts
)

// Bus is what a controller says to the nodes. Those that take a context wait for an answer.
type Bus struct {
	Send           func(context.Context, kick.Kick) (kick.Reply, error)
	Roster         func(ctx context.Context, node, action, role string) (members []kick.Member, hash string, err error)
	Probe          func(ctx context.Context, node string, others []string) (reached []string, err error)
	Ask            func(node, do string)                              // one of the inventory's Do constants
	RequestReports func(splay time.Duration)                          // ask every node to beat within splay
	Beacon         func(id string, epoch int64, pace time.Duration)   // to everyone
	TellLeaving    func(reply string, farewell inventory.LeaveStatus) // to a leaving node
}

// Controller is one run of the daemon. Everything in it belongs to the goroutine in Run, but for view and orders.
type Controller struct {
	cfg Config
	inv *inventory.Inventory
	bus Bus
	log *slog.Logger

	view atomic.Pointer[api.View]
	next chan struct{} // closed when the next view is published
	asks chan ask

	identity api.Identity
	pace     time.Duration // between two beats of a node
	epochs   []int64       // that this controller has spoken with
	seen     int64         // the highest epoch that a node has seen of another controller
	rival    rival         // another controller that leads; none: this one does
	asking   time.Time     // since when it is asked whose epoch a node has seen; zero: it is not
	kicks    int64         // how many kicks were made, for their ids
	gate     syncGate
	canary   time.Time // when the listener's own beat came back last
	cutOff   bool      // it is overdue
	deaf     string    // why closed connections are not heard, "" if they are
	sync     api.Sync
	rolls    []time.Time // when the roll is still to be called
	beacon   time.Time   // when the next is due
	changed  bool        // something was taken in that verdicts may depend on
	due      time.Time   // when verdicts can change by the passing of time

	roles    *roles
	byNode   map[string][]*action
	actions  []*action          // sorted; nil: to be sorted anew
	serves   map[*role][]string // the actions that need a role, as shown; nil: to be gathered anew
	tidied   time.Time
	status   map[string]kick.Status
	running  map[string]*kick.Running // those of status
	memories map[key]*memory
	flights  map[string]*flight
	leaving  map[string]*leaving

	conflicts map[string]conflict // by node
	circles   circles

	answers chan func(now time.Time) // of what was sent, to be taken in by the loop
	sends   sync.WaitGroup
	journal journal
	loaded  api.Loaded
}

// leaving is a node that said goodbye and wants to know how far it is.
type leaving struct {
	reply string // where to answer
	told  string // the last answer
}

// order is a KickOrder that was not carried out yet.
type order struct{ api.KickOrder }

func (o *order) reason() string {
	if o.By == "" {
		return "ordered by an operator"
	}
	return "ordered by " + o.By
}

// ask is something that another goroutine wants done in the loop.
type ask struct {
	do   func(ctx context.Context, now time.Time)
	done chan struct{}
}

// New is a controller that has heard nothing yet. It owns inv from here on. id, unique to this run, names it.
func New(cfg Config, id string, inv *inventory.Inventory, bus Bus, log *slog.Logger) (*Controller, error) {
	roles, err := newRoles(cfg.Roles)
	if err != nil {
		return nil, err
	}
	roles.shadow = cfg.Guard == GuardShadow
	c := &Controller{
		cfg: cfg, inv: inv, bus: bus, log: log, pace: time.Second, asks: make(chan ask), roles: roles,
		byNode: map[string][]*action{}, status: map[string]kick.Status{}, memories: map[key]*memory{},
		running: map[string]*kick.Running{}, flights: map[string]*flight{}, leaving: map[string]*leaving{}, conflicts: map[string]conflict{}, answers: make(chan func(time.Time)),
		journal: newJournal(),
	}
	now := time.Now()
	c.loaded.At = now
	c.identity = api.Identity{Cluster: cfg.Cluster, ID: id, Epoch: now.UnixMilli(), Started: now}
	c.epochs = []int64{c.identity.Epoch}
	inv.GoneAfter = c.goneAfter
	c.journal.add(api.Event{Time: now, Kind: api.EventStarted, Text: fmt.Sprintf("controller %s of cluster %s started", id, cfg.Cluster)}, log)
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
func (c *Controller) View() *api.View { return c.view.Load() }

// Kick carries out an operator's order. The error wraps ErrNotFound or ErrNotSynced. Any goroutine may call it while Run runs.
func (c *Controller) Kick(ctx context.Context, o api.KickOrder) (kicked api.Kicked, err error) {
	gone := c.inLoop(ctx, func(ctx context.Context, now time.Time) { kicked, err = c.command(ctx, &order{o}, now) })
	if gone != nil {
		return api.Kicked{}, gone
	}
	return kicked, err
}

// Lose carries out an operator's word on a loss. The error wraps ErrNotFound. Any goroutine may call it while Run runs.
func (c *Controller) Lose(ctx context.Context, o api.LossOrder) (err error) {
	if gone := c.inLoop(ctx, func(ctx context.Context, now time.Time) { err = c.lose(ctx, o, now) }); gone != nil {
		return gone
	}
	return err
}

// inLoop has the loop do something, and waits until it is done. An error is ctx's: then it may still be done.
func (c *Controller) inLoop(ctx context.Context, do func(ctx context.Context, now time.Time)) error {
	a := ask{do, make(chan struct{})}
	select {
	case c.asks <- a:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-a.done // the loop is doing it
	return nil
}

// Run takes in what is heard and what runs came to, and does what follows, until ctx ends.
func (c *Controller) Run(ctx context.Context, heard <-chan inventory.Received, results <-chan kick.Result) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.sends.Wait()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var asked ask
		select {
		case <-ctx.Done():
			return nil
		case h := <-heard:
			c.hear(h)
		case res := <-results:
			c.result(res, time.Now())
		case take := <-c.answers:
			take(time.Now())
		case asked = <-c.asks:
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
			case take := <-c.answers:
				take(time.Now())
				continue
			default:
			}
			break
		}
		now := time.Now()
		c.turn(ctx, now)
		if err := c.yields(); err != nil {
			return err
		}
		if asked.do != nil {
			asked.do(ctx, now)
			close(asked.done)
		}
		timer.Reset(max(0, time.Until(c.wake())))
	}
}

// turn does what follows from all that was taken in.
func (c *Controller) turn(ctx context.Context, now time.Time) {
	for len(c.rolls) > 0 && !now.Before(c.rolls[0]) {
		c.rolls = c.rolls[1:]
		c.bus.RequestReports(rollcallSplay)
	}
	if to := paceFor(c.inv.Len(), c.pace); to != c.pace {
		c.pace, c.beacon = to, time.Time{}
	}
	c.introduce(now)
	for _, node := range c.inv.FactsToRequest(now) {
		c.bus.Ask(node, inventory.DoFacts)
	}
	for _, node := range c.inv.NewSuspects() {
		c.bus.Ask(node, inventory.DoBeat)
	}
	c.expire(now)
	c.endConflicts(now)
	c.listenForCanary(now)
	if !c.changed && now.Before(c.due) {
		return
	}
	c.changed = false
	c.synchronise(now)
	if c.sync.Open {
		for _, r := range c.openRoles(now) {
			c.askRoster(ctx, r.Name, r.gate.newest)
		}
		c.publish(now)
		c.seekOpinions(ctx, now)
	}
	c.track(now)
	c.tidy(now)
	s := c.situation()
	verdicts := plan(s, now)
	for i, v := range verdicts {
		if v.State != api.Converged && len(v.Gates) == 0 {
			c.dispatch(ctx, s.actions[i], v, now)
		}
	}
	c.sayFarewell()
	c.show(now, verdicts)
	c.due = c.nextDue(verdicts, now)
}

func (c *Controller) situation() situation {
	return situation{cfg: c.cfg, sync: c.sync, notLeading: c.notLeading(), roles: c.roles, actions: c.sorted(), strays: c.strays()}
}

func (c *Controller) nextDue(verdicts []api.Verdict, now time.Time) time.Time {
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
	for _, r := range c.roles.byName {
		switch {
		case !c.sync.Open:
			// nothing of a role is judged
		case r.gate.open:
			if r.guard.hold == nil || c.rival.id == "" { // who leads asks for opinions
				earlier(r.guard.next())
			}
		default:
			earlier(r.gate.until)
			if r.gate.known == nil {
				earlier(r.gate.asked.Add(askAgain))
			}
		}
	}
	return due
}

// blind begins listening anew: nothing that was not heard from here on counts.
func (c *Controller) blind(now time.Time) {
	c.gate = syncGate{since: now}
	c.canary, c.cutOff = now, false
	c.rolls = []time.Time{now, now.Add(reconnectTime)}
	c.sync = c.gate.judge(now, c.pace, 0)
	c.changed = true
}

// wake is when the loop has to turn again though nothing is heard.
func (c *Controller) wake() time.Time {
	if overdue := c.canary.Add(canaryOverdue); !c.cutOff && overdue.Before(c.due) {
		return overdue
	}
	return c.due
}

// listenForCanary closes the sync gate when nothing comes back from the bus: only when something does is it known for how long the
// controller was blind, and until then it must not act on what it knew.
func (c *Controller) listenForCanary(now time.Time) {
	if c.cutOff || now.Before(c.canary.Add(canaryOverdue)) {
		return
	}
	if c.sync.Open {
		c.event(api.Event{Time: now, Kind: api.EventBusLost, Text: "nothing comes back from the bus: nobody is removed or kicked until it does"})
	}
	c.cutOff, c.changed = true, true
	c.sync = api.Sync{Why: "nothing comes back from the bus"}
}

func (c *Controller) synchronise(now time.Time) {
	if c.sync.Open || c.cutOff {
		return
	}
	nodes := c.inv.Len()
	c.gate.owes(c.inv.MissingFacts(), now)
	if c.sync = c.gate.judge(now, c.pace, nodes); c.sync.Open {
		c.gate.opened = now
		c.event(api.Event{Time: now, Kind: api.EventSynced, Text: fmt.Sprintf("synced after %.1f s: %s heard", now.Sub(c.gate.since).Seconds(), quantity(nodes, "node"))})
	}
}

// publish gives the roles that changed their new revisions, as far as their guards let it.
func (c *Controller) publish(now time.Time) {
	nodes := c.inv.Snapshot()
	facts := func(name string) inventory.Facts {
		if n := nodes.Node(name); n != nil {
			return n.Facts
		}
		return nil
	}
	for _, p := range c.roles.publish(c.identity.Epoch, now, facts) {
		r := p.role
		if p.was.Revision != r.now.Revision {
			p.attribute(now, func(node string) bool { return c.ranLately(node, now) })
		}
		if r.unheardOf() {
			continue // somebody needs it, and that is all there is
		}
		if began := p.judgement.began; began != nil {
			c.event(api.Event{Time: now, Kind: api.EventHoldBegan, Role: r.Name, Text: c.shadowed(fmt.Sprintf("role %s: removals are held: %s", r.Name, began.why))})
		}
		if why := p.judgement.ended; why != "" {
			c.event(api.Event{Time: now, Kind: api.EventHoldEnded, Role: r.Name, Text: c.shadowed(fmt.Sprintf("role %s: removals are no longer held: %s", r.Name, why))})
		}
		if p.was.Revision == r.now.Revision {
			continue
		}
		text := fmt.Sprintf("role %s has %s", r.Name, quantity(len(r.now.Members), "member"))
		if p.was.Revision.Hash != "" {
			text = fmt.Sprintf("role %s: %d → %s: %s", r.Name, len(p.was.Members), quantity(len(r.now.Members), "member"), p.diff)
		}
		c.event(api.Event{Time: now, Kind: api.EventRoleChanged, Role: r.Name, Text: text})
	}
}

// shadowed marks what would be so if the guard were on.
func (c *Controller) shadowed(text string) string {
	if !c.roles.shadow {
		return text
	}
	return text + " (only in shadow: they are let pass)"
}

// command carries out an operator's order.
func (c *Controller) command(ctx context.Context, asked *order, now time.Time) (api.Kicked, error) {
	kicked := api.Kicked{Actions: []api.Verdict{}, After: c.journal.seq}
	if !c.sync.Open {
		return kicked, fmt.Errorf("kick %s: %w: %s", asked.Object, api.ErrNotSynced, c.sync.Why)
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
		return kicked, fmt.Errorf("kick %s: action %s: %w", asked.Object, asked.Action, api.ErrNotFound)
	}
	if len(chosen) == 0 {
		return kicked, fmt.Errorf("kick %s: an action: %w: no agent there has one (kicker agent --action NAME=COMMAND)", asked.Object, api.ErrNotFound)
	}
	for _, a := range chosen {
		forced, notBefore := a.forced, a.memory.notBefore
		a.forced, a.memory.notBefore = asked, time.Time{}
		s := c.situation()
		v := api.Verdict{}
		judge(&v, a, roomFor(a))
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

// lose carries out an operator's word on a loss.
func (c *Controller) lose(ctx context.Context, o api.LossOrder, now time.Time) error {
	name, isRole := strings.CutPrefix(o.Object, "role/")
	r := c.roles.byName[name]
	if !isRole || r == nil {
		return fmt.Errorf("loss of %s: %w: want role/NAME of a role that is known", o.Object, api.ErrNotFound)
	}
	by := cmp.Or(o.By, "an operator")
	switch {
	case o.Expect > 0:
		r.guard.expect = expectation{share: 100 - o.Expect, until: now.Add(o.For)}
		c.event(api.Event{Time: now, Kind: api.EventLossExpected, Role: name, Text: fmt.Sprintf("role %s: %s expects a loss of up to %d %% for %s", name, by, o.Expect, o.For)})
	case r.guard.hold == nil:
		return fmt.Errorf("loss of %s: %w: nothing is held there", o.Object, api.ErrNotFound)
	default:
		c.event(api.Event{Time: now, Kind: api.EventHoldEnded, Role: name, Text: fmt.Sprintf("role %s: %s accepts the loss of %d", name, by, len(r.guard.missing))})
		r.guard.accept(now, len(r.members))
		r.note(now)
	}
	c.changed = true
	c.turn(ctx, now)
	return nil
}

// nodesOf is the nodes that an object names: node/N, or all that bear role/R.
func (c *Controller) nodesOf(object string) ([]string, error) {
	kind, name, _ := strings.Cut(object, "/")
	switch kind {
	case "node":
		if c.inv.Snapshot().Node(name) == nil {
			return nil, fmt.Errorf("%s: %w", object, api.ErrNotFound)
		}
		return []string{name}, nil
	case "role":
		if r := c.roles.byName[name]; r != nil && len(r.nodes) > 0 {
			return r.nodeNames(), nil
		}
		return nil, fmt.Errorf("%s: %w: no node bears it", object, api.ErrNotFound)
	}
	return nil, fmt.Errorf("object %q: %w: want node/NAME or role/NAME", object, api.ErrNotFound)
}

// send does what waits for an answer beside the loop, for replyTimeout at most. What it returns takes the answer in, in the loop.
func (c *Controller) send(ctx context.Context, do func(context.Context) func(now time.Time)) {
	c.sends.Go(func() {
		bounded, cancel := context.WithTimeout(ctx, replyTimeout)
		defer cancel()
		take := do(bounded)
		select {
		case c.answers <- take:
		case <-ctx.Done(): // nobody listens any more
		}
	})
}

func (c *Controller) event(e api.Event) { c.journal.add(e, c.log) }

func (c *Controller) newRunID() string {
	c.kicks++
	return strconv.FormatInt(c.identity.Epoch, 36) + "-" + strconv.FormatInt(c.kicks, 10)
}
