package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kicker/controller/api"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

// dispatch sends the kick that carries out a verdict. Its reply comes back to the loop.
func (c *Controller) dispatch(ctx context.Context, a *plan.Action, v api.Verdict, now time.Time) {
	id := a.Retry.SendAgain
	if !a.Retry.Resends(a.Fingerprint()) {
		id = c.newRunID()
	}
	f := a.NewFlight(id, v.Reason, c.table.Of(a.Node), now, now.Add(2*replyTimeout))
	f.Instance = c.instance(a.Node)
	if was := c.fleet.flights[a.Node]; was != nil { // its run may be in progress
		f.Doubt, f.Deadline, f.Gone = true, was.Deadline, was.Gone
		f.Roles = slices.Compact(slices.Sorted(slices.Values(append(f.Roles, was.Roles...))))
		if was.ID == id {
			f.Sent, f.Overdue = was.Sent, was.Overdue
		}
	}
	a.Retry.SendAgain, a.Retry.Tried, a.Retry.Sent = "", f.Tried, now
	c.fleet.flights[a.Node] = f
	order := a.Kick(id, v.Reason, c.identity())
	c.ask(ctx, func(ctx context.Context) func(time.Time) bool {
		reply, err := c.bus.Send(ctx, order)
		return func(now time.Time) bool { c.replied(f, reply, err, now); return true }
	})
}

// instance is the machine that has a node's name.
func (c *Controller) instance(node string) string {
	if n := c.inv.Snapshot().Node(node); n != nil {
		return n.Instance
	}
	return ""
}

// replied follows how a node answered a kick.
func (c *Controller) replied(f *plan.Flight, r kick.Reply, err error, now time.Time) {
	count(c.journal.counts.Kicks, r.Answer)
	f.Asked = false
	if c.fleet.flights[f.Node] != f {
		return // the end of its run was received before the reply
	}
	accepted := err == nil && r.Answer == kick.Accepted
	if f.Accepted { // a heartbeat showed the run before the reply
		if accepted {
			f.Deadline = c.believed(r, now)
		}
		return
	}
	if accepted {
		c.accepted(f, c.believed(r, now), now)
		return
	}
	c.keepDoubt(f, r, err, now)
	a := c.fleet.action(f.Key)
	if a == nil {
		return
	}
	retry := a.Retry
	later := func(why string) { retry.NotBefore, retry.Why = now.Add(askAgain), why }
	kind, text := api.EventKickUnanswered, "kick of %s unanswered: %s"
	switch {
	case err == nil && r.Answer == kick.AlreadyApplied:
		a.Order = nil
		later("it reports that all is applied; its next heartbeat will show it")
		return
	case err == nil && r.Answer == kick.Busy:
		later("run " + r.Run + " was in progress")
		return
	case err == nil && r.Answer == kick.Disabled:
		kind, text = api.EventKickRejected, "kick of %s rejected: %s"
		retry.Disabled(c.cfg.Backoff, now, "kick rejected: "+rejection(r))
	case errors.Is(err, context.DeadlineExceeded):
		retry.SendAgain = f.ID // it may have been accepted
		later("the node gave no answer within 3s")
	case errors.Is(err, kick.ErrNoAgent):
		if f.Doubt {
			retry.SendAgain = f.ID
		}
		later(kick.ErrNoAgent.Error())
	case err != nil:
		later(err.Error())
	default:
		kind, text = api.EventKickRejected, "kick of %s rejected: %s"
		retry.Failed(c.cfg.Backoff, now, "kick rejected: "+rejection(r))
	}
	why := retry.Why
	if err == nil {
		why = rejection(r)
	}
	c.runEvent(now, kind, f.Key, f.ID, text, f.Key, why)
}

// keepDoubt decides what a kick that was not accepted leaves behind: nothing, another run, or a run that may be in
// progress.
func (c *Controller) keepDoubt(f *plan.Flight, r kick.Reply, err error, now time.Time) {
	switch {
	case errors.Is(err, kick.ErrNoAgent) && !f.Doubt:
		delete(c.fleet.flights, f.Node) // the kick reached no agent
	case err != nil:
		if !f.Doubt {
			f.Doubt, f.Deadline = true, f.Sent.Add(c.atMost(kick.DefaultTimeout+kick.DefaultGrace))
		}
	case r.Answer == kick.Busy && c.fleet.ended(f.Node, r.Run):
		delete(c.fleet.flights, f.Node) // its heartbeat was received before the reply
	case r.Answer == kick.Busy:
		c.fleet.flights[f.Node] = &plan.Flight{
			ID: r.Run, Key: plan.Key{Node: f.Node}, Instance: f.Instance, Roles: f.Roles, Sent: now, Accepted: true,
			Reported: true, Deadline: c.believed(r, now), Gone: f.Gone,
		}
	case !f.Doubt:
		delete(c.fleet.flights, f.Node)
	case r.Answer == kick.AlreadyApplied, r.Answer == kick.Disabled, r.Answer == kick.Incomplete:
		if f.Gone.IsZero() { // otherwise the run in doubt is on another machine
			delete(c.fleet.flights, f.Node) // a node says so only while the action does not run
		}
	}
}

// believed is when a run ends at the latest, by its node's word.
func (c *Controller) believed(r kick.Reply, now time.Time) time.Time {
	return now.Add(c.atMost(milliseconds(r.Deadline)) + 2*replyTimeout)
}

// limited is when a run that a heartbeat reports ends at the latest: it may have begun just now.
func (c *Controller) limited(r *kick.Running, now time.Time) time.Time {
	limit := c.cfg.RunAtMost
	if r.Limit > 0 {
		limit = c.atMost(milliseconds(r.Limit))
	}
	return now.Add(limit + 2*replyTimeout)
}

// atMost is a duration that a node says, as far as it is believed.
func (c *Controller) atMost(d time.Duration) time.Duration { return max(0, min(d, c.cfg.RunAtMost)) }

func rejection(r kick.Reply) string {
	if r.Detail == "" {
		return string(r.Answer)
	}
	return fmt.Sprintf("%s (%s)", r.Answer, r.Detail)
}

// accepted notes that the node took a kick.
func (c *Controller) accepted(f *plan.Flight, deadline time.Time, now time.Time) {
	f.Accepted, f.Doubt, f.Deadline = true, false, deadline
	if _, there := c.fleet.status[f.Node]; there {
		f.Gone = time.Time{} // the run in doubt was on another machine
	}
	if a := c.fleet.action(f.Key); a != nil {
		a.Retry.Accepted(f)
		a.Order, a.Retry.SendAgain = nil, ""
	}
	c.journal.begin(api.Run{ID: f.ID, Node: f.Node, Action: f.Action, Reason: f.Reason, Started: f.Sent})
	c.runEvent(now, api.EventKicked, f.Key, f.ID, "kicked %s (%s)", f.Key, f.Reason)
	c.endedBy(f.Node, c.fleet.status[f.Node], now)
}

// result follows the message that says how a run ended. The message may be lost: the node's heartbeat says it again.
func (c *Controller) result(res kick.Result, now time.Time) (changed bool) {
	f, status := c.fleet.flights[res.Node], c.fleet.status[res.Node]
	inFlight := f != nil && f.ID == res.Run
	a := c.fleet.action(plan.Key{Node: res.Node, Action: res.Action})
	running := status.Running != nil && status.Running.Run == res.Run
	if a == nil {
		if running {
			status.Running = nil
			c.fleet.setStatus(res.Node, status)
		}
		if inFlight {
			c.endStray(f, res, now)
		}
		return inFlight // otherwise its node is gone, or there is no such action
	}
	if !inFlight && !running && !c.journal.knows(res.Run) {
		return false // late: the heartbeat has said more since
	}
	if (inFlight || running) && (a.Status.Last == nil || a.Status.Last.Run != res.Run) {
		// Until its next heartbeat.
		a.Status.Applied, a.Status.Dirty, a.Status.Last = res.Applied, res.Dirty, lastRun(a.Status.Last, res)
	}
	if running {
		status.Running = nil
		c.fleet.setStatus(res.Node, status)
	}
	c.end(a, res, now)
	return true
}

// lastRun is what the node's next heartbeat will say of a run.
func lastRun(before *kick.LastRun, res kick.Result) *kick.LastRun {
	last := &kick.LastRun{Run: res.Run, Outcome: res.Outcome, Exit: res.Exit, Duration: res.Duration}
	if res.Outcome != kick.Succeeded {
		last.Failures = 1
		if before != nil {
			last.Failures += before.Failures
		}
	}
	return last
}

// endedBy ends the runs that a heartbeat reports as ended.
func (c *Controller) endedBy(node string, status kick.Status, now time.Time) {
	for _, s := range status.Actions {
		a, f := c.fleet.action(plan.Key{Node: node, Action: s.Name}), c.fleet.flights[node]
		if a == nil || s.Last == nil {
			continue
		}
		inFlight := f != nil && f.ID == s.Last.Run
		was := c.fleet.running[node]
		if inFlight || was != nil && was.Run == s.Last.Run {
			c.end(a, kick.Result{
				Node: node, Action: s.Name, Run: s.Last.Run,
				Outcome: s.Last.Outcome, Exit: s.Last.Exit, Duration: s.Last.Duration,
			}, now)
		}
	}
}

// end is the end of a run. It may be reported twice.
func (c *Controller) end(a *plan.Action, res kick.Result, now time.Time) {
	succeeded := res.Outcome == kick.Succeeded
	if f := c.fleet.flights[a.Node]; f != nil && f.ID == res.Run {
		if !f.Accepted {
			c.accepted(f, now, now) // the reply is late, or lost
			if c.fleet.flights[a.Node] != f {
				return
			}
		}
		delete(c.fleet.flights, a.Node)
		c.fleet.rollout.Ended(f, succeeded, c.table)
		if succeeded {
			c.departed.applied(f.Key, f.Handed, c.table, now)
		}
		if res.Outcome != kick.Lost && (succeeded || f.Overdue.IsZero()) { // an overdue run has counted already
			c.table.Ended(f.Handed, a.Key.String(), succeeded, now)
		}
	}
	if !c.journal.end(res.Run, now, res) {
		return
	}
	retry := a.Retry
	retry.Ended, retry.Took = now, milliseconds(res.Duration)
	if succeeded {
		retry.Succeeded()
		c.runEvent(now, api.EventSucceeded, a.Key, res.Run, "%s succeeded in %s", a.Key, api.Duration(retry.Took))
		return
	}
	outcome := api.Outcome(res.Outcome, res.Exit)
	if res.Error != "" {
		outcome += ": " + res.Error
	}
	retry.Failed(c.cfg.Backoff, now, "last run: "+outcome)
	next := "now"
	if again := retry.Next(c.cfg.Backoff, a.Fingerprint()).Sub(now); again > 0 {
		next = "in " + api.Duration(again)
	}
	c.runEvent(now, api.EventFailed, a.Key, res.Run, "%s %s; failure %d in a row, next try %s",
		a.Key, outcome, retry.Failures, next)
}

// expire ends the runs of which no report came while they keep a place.
func (c *Controller) expire(now time.Time) (changed bool) {
	for node, f := range c.fleet.flights {
		running := c.fleet.running[node]
		reported := running != nil && running.Run == f.ID
		if now.Before(f.Ends()) || f.Asked || f.Reported && reported {
			continue // a kick that has no reply yet has a timeout of its own
		}
		changed = true
		lost := kick.Result{Run: f.ID, Outcome: kick.Lost, Exit: -1, Error: "no report of its end came by its deadline"}
		a := c.fleet.action(f.Key)
		switch {
		case f.Doubt || f.Reported:
			delete(c.fleet.flights, node)
		case a != nil:
			c.end(a, lost, now)
		default:
			c.endStray(f, lost, now)
		}
		if reported {
			still := *f
			still.Reported = true
			c.fleet.flights[node] = &still
		}
	}
	return changed
}

// markOverdue notes which runs became overdue.
func (c *Controller) markOverdue(now time.Time) (changed bool) {
	c.fleet.measure(now)
	for _, f := range c.fleet.runs() {
		if !f.Overdue.IsZero() || f.Asked || now.Before(f.OverdueAt(c.fleet.usual)) {
			continue
		}
		changed = true
		f.Overdue = now
		if f.Accepted {
			c.fleet.rollout.Overdue(f, c.table)
			c.table.Ended(f.Handed, f.Key.String(), false, now)
		}
		usual := "its deadline is over, and its node still reports it"
		if d, known := c.fleet.usual[f.Action]; known {
			usual = "it usually takes " + api.Duration(max(d, f.Took))
		}
		c.runEvent(now, api.EventOverdue, f.Key, f.ID, "%s is overdue after %s: %s",
			f.Key, api.Duration(now.Sub(f.Sent)), usual)
	}
	return changed
}

// endStray ends a run whose action its node no longer reports.
func (c *Controller) endStray(f *plan.Flight, res kick.Result, now time.Time) {
	if !f.Accepted {
		c.accepted(f, now, now) // the reply is late, or lost
	}
	delete(c.fleet.flights, f.Node)
	c.journal.end(f.ID, now, res)
}

// keepPlace notes that a node goes in the middle of its run: the run may go on.
func (c *Controller) keepPlace(node string, now time.Time) {
	if f := c.fleet.flights[node]; f != nil {
		f.Gone = now
	}
}

// follow makes a flight of the run that a node reports, unless it is the one that is known. A run that only a heartbeat
// reported is over when the next one does not.
func (c *Controller) follow(node string, now time.Time) {
	run, f := c.fleet.running[node], c.fleet.flights[node]
	if f != nil && f.Reported && (run == nil || run.Run != f.ID) {
		delete(c.fleet.flights, node)
		f = nil
	}
	switch {
	case run == nil:
	case f != nil && f.ID == run.Run:
		f.Action = run.Action
		if !f.Accepted {
			c.accepted(f, c.limited(run, now), now) // the reply is late, or lost
		}
	case f == nil:
		c.fleet.flights[node] = &plan.Flight{
			ID: run.Run, Key: plan.Key{Node: node, Action: run.Action}, Instance: c.instance(node),
			Roles: plan.RoleNames(c.table.Of(node)), Sent: c.journal.started(run.Run, now), Accepted: true, Reported: true,
			Deadline: c.limited(run, now),
		}
	}
}

// rejoined ends the run that was in progress when a node went or rebooted, unless the node reports it: who accepted a
// kick knows of it. A run on another machine that had the node's name may go on for a while.
func (c *Controller) rejoined(n *inventory.Node, now time.Time) {
	c.endedBy(n.Name, c.fleet.status[n.Name], now) // its actions are known by now
	f := c.fleet.flights[n.Name]
	if f == nil {
		return
	}
	run := c.fleet.running[n.Name]
	switch {
	case f.Instance != n.Instance:
		if f.Accepted {
			lost := kick.Result{Outcome: kick.Lost, Exit: -1, Error: "another machine has the node's name"}
			c.journal.end(f.ID, now, lost)
		}
		if f.Gone.IsZero() {
			f.Gone = now
		}
		f.Accepted, f.Doubt, f.Reported = false, true, false
	case f.Accepted && (run == nil || run.Run != f.ID):
		c.endStray(f, kick.Result{Outcome: kick.Lost, Exit: -1, Error: "its node does not know of it"}, now)
	default:
		f.Gone = time.Time{}
	}
}
