// Package controller keeps every node that depends on a role configured from the role's present membership. What the
// nodes report goes in, a verdict on every action comes out, and the verdicts that wait for nothing are carried out.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

const (
	sweepEvery   = 5 * time.Second // a turn, however quiet it is
	replyTimeout = 3 * time.Second // for the answer to a kick, or to a question
	askAgain     = time.Second     // after a kick that got no answer, or met a run

	tidyEvery    = time.Minute
	measureEvery = 10 * time.Second // how long actions usually run
	batch        = 1024             // messages that are read before the next turn
)

// Bus is what a controller sends to the nodes. The functions that take a context wait for an answer.
type Bus struct {
	Send           func(context.Context, kick.Kick) (kick.Reply, error)
	Roster         func(ctx context.Context, node, action, role string) (members []kick.Member, hash string, err error)
	Probe          func(ctx context.Context, node string, targets []string) (reached []string, err error)
	Ask            func(node, do string)                            // do is one of the inventory's Do constants
	RequestReports func(splay time.Duration)                        // of every node, within splay
	Beacon         func(id string, epoch int64, pace time.Duration) // to every node and controller
	// TellLeaving tells a leaving node how far it is. OrderLeave makes a node leave. Both are for one run of its agent.
	TellLeaving func(node, agent string, status inventory.LeaveStatus)
	OrderLeave  func(node, agent string, last bool)
}

// Controller is one run of the daemon. Everything in it belongs to the goroutine in Run, but for view, requests and
// answers.
type Controller struct {
	cfg Config
	bus Bus
	log *slog.Logger

	// What it knows.
	leadership leadership
	listening  listening
	inv        *inventory.Inventory
	table      *membership.Table
	fleet      *fleet
	leaving    map[string]*leaving // by node
	departed   departed
	rejected   rejected

	// What it says.
	journal journal
	views   views

	// How it waits.
	requests chan request
	answers  chan func(now time.Time) (changed bool) // to what was asked, for the loop
	asking   sync.WaitGroup
	due      time.Time // when the next turn is due though nothing changes
}

// request is something that another goroutine wants done in the loop.
type request struct {
	do   func(ctx context.Context, now time.Time) (changed bool)
	done chan struct{}
}

// New is a controller that knows nothing yet. It owns inv from here on. id, unique to this run, names it.
func New(cfg Config, id string, inv *inventory.Inventory, bus Bus, log *slog.Logger) (*Controller, error) {
	table, err := membership.New(cfg.membership())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c := &Controller{
		cfg: cfg, bus: bus, log: log, inv: inv, table: table, fleet: newFleet(),
		leadership: newLeadership(cfg.Cluster, id, cfg.GoneAfter, now), listening: newListening(now),
		leaving: map[string]*leaving{}, rejected: rejected{map[string]conflict{}, map[string]version{}}, departed: newDeparted(),
		journal:  newJournal(),
		requests: make(chan request), answers: make(chan func(time.Time) bool),
	}
	inv.GoneAfter = func(n *inventory.Node) time.Duration { return c.table.GoneAfter(n.Name) }
	c.journal.loaded.At = now
	c.event(event(now, api.EventStarted, "controller %s of cluster %s started", id, cfg.Cluster))
	c.publishView(nil, now)
	return c, nil
}

// View is what the controller knows as of its last turn. Any goroutine may call it.
func (c *Controller) View() *api.View { return c.views.current.Load() }

// inLoop has the loop do something and follow it up, and waits until that is done. An error is ctx's: then it may still
// be done.
func (c *Controller) inLoop(ctx context.Context, do func(ctx context.Context, now time.Time) (changed bool)) error {
	r := request{do, make(chan struct{})}
	select {
	case c.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-r.done // the loop is doing it
	return nil
}

// Run follows what the nodes report and how runs end until ctx ends. It waits for the kicks that it sent.
func (c *Controller) Run(ctx context.Context, received <-chan inventory.Received, results <-chan kick.Result) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.asking.Wait()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	changed := true
	for {
		var asked request
		select {
		case <-ctx.Done():
			return nil
		case m := <-received:
			changed = c.ingest(m) || changed
		case res := <-results:
			changed = c.result(res, time.Now()) || changed
		case answer := <-c.answers:
			changed = answer(time.Now()) || changed
		case asked = <-c.requests:
		case <-timer.C:
		}
		changed = c.ingestAll(received, results) || changed
		now := time.Now()
		c.turn(ctx, changed, now)
		changed = false
		if asked.do != nil {
			if asked.do(ctx, now) {
				c.turn(ctx, true, now)
			}
			close(asked.done)
		}
		if err := c.leadership.yields(c.cfg.Standby); err != nil {
			return err
		}
		timer.Reset(max(0, time.Until(api.Soonest(c.due, c.listening.next()))))
	}
}

// ingestAll reads what else is there, up to batch.
func (c *Controller) ingestAll(received <-chan inventory.Received, results <-chan kick.Result) (changed bool) {
	for range batch {
		select {
		case m := <-received:
			changed = c.ingest(m) || changed
		case res := <-results:
			changed = c.result(res, time.Now()) || changed
		case answer := <-c.answers:
			changed = answer(time.Now()) || changed
		default:
			return changed
		}
	}
	return changed
}

// turn does what follows from all that was read. changed says that a verdict may have changed. Without it there is
// nothing to do but what is due.
func (c *Controller) turn(ctx context.Context, changed bool, now time.Time) {
	if c.listening.setPace(c.inv.Len()) {
		c.leadership.next = time.Time{} // the beacon carries it
	}
	changed = c.carryOut(c.leadership.tick(now), now) || changed
	for _, node := range c.inv.FactsToRequest(now) {
		c.bus.Ask(node, inventory.DoFacts)
	}
	for _, node := range c.inv.NewSuspects() {
		c.bus.Ask(node, inventory.DoBeat)
	}
	changed = c.expire(now) || changed
	changed = c.markOverdue(now) || changed
	changed = c.endReports(now) || changed
	changed = c.carryOut(c.listening.tick(now), now) || changed
	if !changed && now.Before(c.due) {
		return
	}
	c.carryOut(c.listening.synchronise(c.inv.Len(), c.inv.MissingFacts(), now), now)
	if c.listening.sync.Open {
		for _, q := range c.table.Recover(c.inv.Snapshot(), c.reports(), now) {
			c.askRoster(ctx, q)
		}
		c.publish(now)
		c.askProven(ctx, now)
		c.table.Try(func(r *membership.Role) string { return c.triesAgain(r, now) }, c.fleet.dependsOn, now)
		c.startProbes(ctx, now)
	}
	c.orderLeaving(now)
	c.track(now)
	c.tidy(now)
	s := c.situation(now)
	verdicts := plan.Make(s, now)
	for i, v := range verdicts {
		if v.State != api.Converged && len(v.Gates) == 0 {
			c.dispatch(ctx, s.Actions[i], v, now)
		}
	}
	c.answerLeaving(ctx, s, verdicts, now)
	c.publishView(verdicts, now)
	c.due = c.nextTurn(verdicts, now)
}

func (c *Controller) situation(now time.Time) plan.Situation {
	return plan.Situation{
		Config: c.cfg.Config, Sync: c.listening.sync, NotLeading: c.leadership.silent(), Table: c.table,
		Actions: c.fleet.all(), Runs: c.fleet.runs(), Rollout: c.fleet.rollout, Usual: c.fleet.usual,
	}
}

// nextTurn is when a turn is due though nothing changes.
func (c *Controller) nextTurn(verdicts []api.Verdict, now time.Time) time.Time {
	next := api.Soonest(now.Add(sweepEvery), c.leadership.next, c.listening.sync.Until, plan.Next(verdicts))
	for _, f := range c.fleet.flights {
		for _, t := range []time.Time{f.Ends(), f.OverdueAt(c.fleet.usual)} {
			if t.After(now) { // a run that is over the time goes on if its node reports it
				next = api.Soonest(next, t)
			}
		}
	}
	next = api.Soonest(next, c.nextLeaving(now))
	if c.listening.sync.Open {
		next = api.Soonest(next, c.table.Next(c.leadership.leads()))
	}
	return next
}

// publish gives new revisions to the roles that changed, as far as their guards let it, and records what changed.
func (c *Controller) publish(now time.Time) {
	for _, ch := range c.table.Publish(c.leadership.epoch, c.inv.Snapshot(), now) {
		r := ch.Role
		if ch.Renewed() {
			c.departed.published(ch, now)
			c.followed(r, now)
			c.fleet.origins.Note(ch, now, func(node string) bool { return c.fleet.ranLately(node, now) })
		}
		if r.Unknown() {
			continue // an action depends on it, and that is all there is of it
		}
		if ch.HoldBegan != "" {
			c.roleEvent(now, api.EventHoldBegan, r.Name, "removals are held: %s%s", ch.HoldBegan, c.shadow())
		}
		if ch.HoldEnded != "" {
			c.roleEvent(now, api.EventHoldEnded, r.Name, "removals are no longer held: %s%s", ch.HoldEnded, c.shadow())
		}
		for _, q := range ch.QuarantineBegan {
			c.roleEvent(now, api.EventQuarantineBegan, r.Name, "%s is quarantined: %s", q.Node, q.Why)
		}
		if len(ch.QuarantineEnded) > 0 {
			c.roleEvent(now, api.EventQuarantineEnded, r.Name, "no longer quarantined: %s", api.List(ch.QuarantineEnded, 5))
		}
		if !ch.Renewed() {
			continue
		}
		members := api.Count(len(r.Current().Members), "member")
		if ch.Was.Revision.Hash != "" {
			members = fmt.Sprintf("%d → %s: %s%s", len(ch.Was.Members), members, ch.Diff, reasons(r.Departed(ch.Diff.Removed)))
		}
		c.roleEvent(now, api.EventRoleChanged, r.Name, "%s", members)
	}
}

// followed notes the actions that have applied what a role is now: as a trial, or before. An action whose last run did
// not succeed has not: that run may have written other members.
func (c *Controller) followed(r *membership.Role, now time.Time) {
	if len(c.departed.byRole[r.Name]) == 0 {
		return
	}
	for _, a := range c.fleet.all() {
		for _, need := range a.Needs {
			if hash := a.Status.Applied[need.As].Hash; !a.Status.Dirty && need.Role == r && hash == r.Current().Revision.Hash {
				c.departed.applied(a.Key, map[string]string{r.Name: hash}, c.table, now)
			}
		}
	}
}

// askProven asks failing actions for the members that they applied, if no membership of a role is known with which a
// run succeeded: without one no member is suspected.
func (c *Controller) askProven(ctx context.Context, now time.Time) {
	for _, a := range c.fleet.all() {
		if a.Retry.Failures == 0 {
			continue
		}
		for _, need := range a.Needs {
			if !need.Role.Unproven(a.Status.Applied[need.As].Hash, now) {
				continue
			}
			key := a.Key
			c.ask(ctx, func(ctx context.Context) func(time.Time) bool {
				members, hash, err := c.bus.Roster(ctx, key.Node, key.Action, need.As)
				return func(time.Time) bool {
					if err == nil {
						need.Role.Learn(hash, members)
					}
					return err == nil
				}
			})
		}
	}
}

// reasons is why nodes departed, after a difference: " (gone: web2; left: web3)". It is empty if that is not known.
func reasons(departed map[string]kick.Departure) string {
	var parts []string
	for _, why := range kick.Departures {
		var nodes []string
		for _, node := range sortedKeys(departed) {
			if departed[node] == why {
				nodes = append(nodes, node)
			}
		}
		if len(nodes) > 0 {
			parts = append(parts, string(why)+": "+api.List(nodes, 3))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, "; ") + ")"
}

// triesAgain is an action that may try quarantined members of a role again: it is converged and its node is alive. Of
// several it is the one whose last kick is oldest. Empty: there is none.
func (c *Controller) triesAgain(r *membership.Role, now time.Time) string {
	s, nodes := c.situation(now), c.inv.Snapshot()
	var chosen *plan.Action
	for _, a := range c.fleet.all() {
		n := nodes.Node(a.Node)
		if !a.DependsOn(r) || n == nil || n.Life != inventory.Alive || !s.Idle(a) {
			continue
		}
		if chosen == nil || a.Retry.Sent.Before(chosen.Retry.Sent) {
			chosen = a
		}
	}
	if chosen == nil {
		return ""
	}
	return chosen.Key.String()
}

// shadow marks what the guard shows and does not enforce.
func (c *Controller) shadow() string {
	if !c.table.Shadow() {
		return ""
	}
	return " (guard: shadow, not enforced)"
}

// track follows which actions are stale, and what runs on their nodes.
func (c *Controller) track(now time.Time) {
	for node := range c.fleet.running {
		if c.fleet.flights[node] == nil {
			c.follow(node, now)
		}
	}
	for _, a := range c.fleet.all() {
		a.Flight, a.Running = c.fleet.flights[a.Node], c.fleet.running[a.Node]
		a.Track(c.listening.sync.Open, c.fleet.origins, c.fleet.cycles, c.table, now)
		if e := c.cfg.Damp(a, now); e != nil {
			c.event(*e)
		}
	}
}

// tidy forgets now and then what is of no use any more.
func (c *Controller) tidy(now time.Time) {
	if now.Before(c.fleet.tidied.Add(tidyEvery)) {
		return
	}
	c.fleet.tidied = now
	c.departed.tidy(now)
	c.fleet.tidy(c.table, 2*c.cfg.Backoff.Max, now)
	if c.listening.sync.Open {
		for _, e := range c.fleet.findCycles(c.table, now) {
			c.event(e)
		}
	}
}

// askRoster asks an action for the members that it applied last.
func (c *Controller) askRoster(ctx context.Context, q membership.Question) {
	c.ask(ctx, func(ctx context.Context) func(time.Time) bool {
		members, hash, err := c.bus.Roster(ctx, q.Node, q.Action, q.As)
		return func(time.Time) bool {
			return err == nil && c.table.Answer(q.Role, hash, members) // otherwise it is asked for again
		}
	})
}

// ask waits for an answer beside the loop, for replyTimeout at most. What do returns follows the answer in the loop.
func (c *Controller) ask(ctx context.Context, do func(context.Context) func(now time.Time) (changed bool)) {
	c.asking.Go(func() {
		bounded, cancel := context.WithTimeout(ctx, replyTimeout)
		defer cancel()
		answer := do(bounded)
		select {
		case c.answers <- answer:
		case <-ctx.Done(): // the loop has ended
		}
	})
}

// newRunID names a run: unique over all controllers of the cluster.
func (c *Controller) newRunID() string {
	c.journal.kicks++
	return strconv.FormatInt(c.leadership.epoch, 36) + "-" + strconv.FormatInt(c.journal.kicks, 10)
}
