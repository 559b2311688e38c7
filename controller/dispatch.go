package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/controller/plan"
	"kicker/kick"
)

// dispatch sends the kick that carries out a verdict. Its reply comes back to the loop.
func (c *Controller) dispatch(ctx context.Context, a *plan.Action, v api.Verdict, now time.Time) {
	id := a.Retry.SendAgain
	if id == "" || a.Retry.Tried != a.Fingerprint() {
		id = c.newRunID()
	}
	f := a.NewFlight(id, v.Reason, c.table.Of(a.Node), now, now.Add(2*replyTimeout))
	a.Retry.SendAgain, a.Retry.Tried, a.Retry.Sent = "", f.Tried, now
	c.fleet.flights[a.Node] = f
	order := a.Kick(id, v.Reason, c.identity())
	c.ask(ctx, func(ctx context.Context) func(time.Time) bool {
		reply, err := c.bus.Send(ctx, order)
		return func(now time.Time) bool { c.replied(f, reply, err, now); return true }
	})
}

// replied follows how a node answered a kick.
func (c *Controller) replied(f *plan.Flight, r kick.Reply, err error, now time.Time) {
	count(c.journal.counts.Kicks, r.Answer)
	if c.fleet.flights[f.Node] != f {
		return // the end of its run was received before the reply
	}
	if err == nil && r.Answer == kick.Accepted {
		c.accepted(f, milliseconds(r.Deadline), now)
		return
	}
	delete(c.fleet.flights, f.Node)
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

func rejection(r kick.Reply) string {
	if r.Detail == "" {
		return string(r.Answer)
	}
	return fmt.Sprintf("%s (%s)", r.Answer, r.Detail)
}

func (c *Controller) accepted(f *plan.Flight, atMost time.Duration, now time.Time) {
	f.Accepted = true
	f.Deadline = now.Add(atMost + 2*replyTimeout)
	if a := c.fleet.action(f.Key); a != nil {
		a.Retry.Accepted(f)
		a.Order = nil
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
	if a == nil {
		if inFlight {
			c.endStray(f, res, now)
		}
		return inFlight // otherwise its node is gone, or there is no such action
	}
	running := status.Running != nil && status.Running.Run == res.Run
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
			c.accepted(f, 0, now) // the reply is late, or lost
			if c.fleet.flights[a.Node] != f {
				return
			}
		}
		delete(c.fleet.flights, a.Node)
		c.fleet.rollout.Ended(f, succeeded, c.table)
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
	again := retry.Next(c.cfg.Backoff, a.Fingerprint()).Sub(now)
	c.runEvent(now, api.EventFailed, a.Key, res.Run, "%s %s; failure %d in a row, next try in %s",
		a.Key, outcome, retry.Failures, api.Duration(again))
}

// expire ends the runs of which no report came by their deadline.
func (c *Controller) expire(now time.Time) (changed bool) {
	for _, f := range c.fleet.flights {
		if now.Before(f.Deadline) || !f.Accepted {
			continue // a kick that has no reply yet has a timeout of its own
		}
		changed = true
		lost := kick.Result{Run: f.ID, Outcome: kick.Lost, Exit: -1, Error: "no report of its end came by its deadline"}
		if a := c.fleet.action(f.Key); a != nil {
			c.end(a, lost, now)
		} else {
			c.endStray(f, lost, now)
		}
	}
	return changed
}

// endStray ends a run whose action its node no longer reports.
func (c *Controller) endStray(f *plan.Flight, res kick.Result, now time.Time) {
	if !f.Accepted {
		c.accepted(f, 0, now) // the reply is late, or lost
	}
	delete(c.fleet.flights, f.Node)
	c.journal.end(f.ID, now, res)
}

// keepPlace makes a flight of a run that a former controller kicked, when its node goes. The runs of this controller
// are flights already, or ended at their deadlines.
func (c *Controller) keepPlace(node string, now time.Time) {
	run := c.fleet.running[node]
	if run == nil || c.fleet.flights[node] != nil || c.journal.knows(run.Run) {
		return
	}
	c.fleet.flights[node] = &plan.Flight{
		ID: run.Run, Key: plan.Key{Node: node, Action: run.Action},
		Roles: plan.RoleNames(c.table.Of(node)), Accepted: true,
		Deadline: now.Add(kick.DefaultTimeout + kick.DefaultGrace), // the node told only the former controller
	}
}

// rejoined ends the run that was in progress when a node went or rebooted, unless the node reports it: who accepted a
// kick knows of it.
func (c *Controller) rejoined(node string, now time.Time) {
	c.endedBy(node, c.fleet.status[node], now) // its actions are known by now
	f := c.fleet.flights[node]
	if f == nil || !f.Accepted {
		return
	}
	if run := c.fleet.running[node]; run != nil && run.Run == f.ID {
		return
	}
	c.endStray(f, kick.Result{Outcome: kick.Lost, Exit: -1, Error: "its node does not know of it"}, now)
}
