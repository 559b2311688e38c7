package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

// dispatch sends the kick that carries out a verdict. Its reply comes back to the loop.
func (c *Controller) dispatch(ctx context.Context, a *action, v api.Verdict, now time.Time) {
	f := &flight{
		node: a.node, action: a.name, reason: v.Reason, tried: c.roles.fingerprint(a), cause: a.cause,
		bears: c.roles.borneBy(a.node), sent: now, deadline: now.Add(2 * replyTimeout),
	}
	for _, need := range a.needs {
		f.handed = append(f.handed, handed{need.role, need.role.now.Revision.Hash})
	}
	if a.memory.retry != "" && a.memory.tried == f.tried {
		f.id = a.memory.retry
	} else {
		f.id = c.newRunID()
	}
	a.memory.retry, a.memory.tried, a.memory.sent = "", f.tried, now
	c.flights[a.node] = f
	order := a.order(v, f.id, c.identity)
	c.send(ctx, func(ctx context.Context) func(time.Time) {
		reply, err := c.bus.Send(ctx, order)
		return func(now time.Time) { c.replied(f, reply, err, now) }
	})
}

// replied takes in what a node made of a kick.
func (c *Controller) replied(f *flight, r kick.Reply, err error, now time.Time) {
	c.changed = true
	count(c.journal.counts.Kicks, r.Answer)
	if c.flights[f.node] != f {
		return // its run's end was heard before its beginning
	}
	if err == nil && r.Answer == kick.Accepted {
		c.accepted(f, time.Duration(r.Deadline)*time.Millisecond, now)
		return
	}
	delete(c.flights, f.node)
	a := c.action(f.node, f.action)
	if a == nil {
		return
	}
	m := a.memory
	switch {
	case err == nil && r.Answer == kick.AlreadyApplied:
		a.forced = nil
		m.notBefore, m.why = now.Add(askAgain), "it says that all is applied; its next heartbeat will show it"
		return
	case err == nil && r.Answer == kick.Busy:
		m.notBefore, m.why = now.Add(askAgain), "run "+r.Run+" was in progress"
		return
	case errors.Is(err, context.DeadlineExceeded):
		m.retry = f.id // it may have been accepted
		m.notBefore, m.why = now.Add(askAgain), "no reply to the last kick"
	case err != nil:
		m.notBefore, m.why = now.Add(askAgain), err.Error()
	default:
		m.failed(c.cfg.Backoff, now, fmt.Sprintf("the last kick was refused: %s", refusal(r)))
	}
	why := m.why
	if err == nil {
		why = refusal(r)
	}
	c.event(api.Event{Time: now, Kind: api.EventKickRejected, Node: f.node, Action: f.action, Run: f.id, Text: fmt.Sprintf("kick of %s/%s was not accepted: %s", f.node, f.action, why)})
}

func refusal(r kick.Reply) string {
	if r.Detail == "" {
		return string(r.Answer)
	}
	return fmt.Sprintf("%s (%s)", r.Answer, r.Detail)
}

func (c *Controller) accepted(f *flight, bound time.Duration, now time.Time) {
	f.accepted = true
	f.deadline = now.Add(bound + 2*replyTimeout)
	if a := c.action(f.node, f.action); a != nil {
		a.memory.accepted(f.sent, f.cause)
		a.forced = nil
	}
	c.journal.begin(api.Run{ID: f.id, Node: f.node, Action: f.action, Reason: f.reason, Started: f.sent})
	c.event(api.Event{Time: now, Kind: api.EventKicked, Node: f.node, Action: f.action, Run: f.id, Text: fmt.Sprintf("kicked %s/%s (%s)", f.node, f.action, f.reason)})
	c.ended(f.node, c.status[f.node], now)
}

// result takes in how a run ended, from the message that says so. The message may be lost: the node's heartbeat says it again.
func (c *Controller) result(res kick.Result, now time.Time) {
	f, status := c.flights[res.Node], c.status[res.Node]
	flying := f != nil && f.id == res.Run
	a := c.action(res.Node, res.Action)
	if a == nil {
		if flying {
			c.land(f, res, now)
		}
		return // not heard of any more, or garbage
	}
	running := status.Running != nil && status.Running.Run == res.Run
	if !flying && !running && !c.journal.knows(res.Run) {
		return // late: the heartbeat has said more since
	}
	c.changed = true
	if (flying || running) && (a.status.Last == nil || a.status.Last.Run != res.Run) {
		a.status.Applied, a.status.Dirty, a.status.Last = res.Applied, res.Dirty, lastRun(a.status.Last, res) // its heartbeat follows
	}
	if running {
		status.Running = nil
		c.setStatus(res.Node, status)
	}
	c.end(a, res, now)
}

// lastRun is what the node's next heartbeat will say of the run.
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

// ended takes in how runs ended, from what a heartbeat says.
func (c *Controller) ended(node string, status kick.Status, now time.Time) {
	for _, s := range status.Actions {
		a, f := c.action(node, s.Name), c.flights[node]
		if a == nil || s.Last == nil {
			continue
		}
		ours := f != nil && f.id == s.Last.Run
		former := c.status[node].Running != nil && c.status[node].Running.Run == s.Last.Run
		if ours || former {
			c.end(a, kick.Result{
				Node: node, Action: s.Name, Run: s.Last.Run, Outcome: s.Last.Outcome, Exit: s.Last.Exit, Duration: s.Last.Duration,
			}, now)
		}
	}
}

// end is the end of a run. It may be told twice.
func (c *Controller) end(a *action, res kick.Result, now time.Time) {
	if f := c.flights[a.node]; f != nil && f.id == res.Run {
		if !f.accepted {
			c.accepted(f, 0, now) // the reply is late, or lost
			if c.flights[a.node] != f {
				return
			}
		}
		delete(c.flights, a.node)
		f.ended(res.Outcome == kick.Succeeded)
	}
	if !c.journal.end(res.Run, now, res) {
		return
	}
	m := a.memory
	m.ended, m.took = now, time.Duration(res.Duration)*time.Millisecond
	if res.Outcome == kick.Succeeded {
		m.succeeded()
		c.event(api.Event{Time: now, Kind: api.EventSucceeded, Node: a.node, Action: a.name, Run: res.Run, Text: fmt.Sprintf("%s/%s succeeded in %s", a.node, a.name, m.took)})
		return
	}
	why := fmt.Sprintf("%s/%s %s", a.node, a.name, describe(res))
	m.failed(c.cfg.Backoff, now, "the last run "+describe(res))
	again := m.next(c.cfg.Backoff, c.roles.fingerprint(a)).Sub(now)
	c.event(api.Event{Time: now, Kind: api.EventFailed, Node: a.node, Action: a.name, Run: res.Run,
		Text: fmt.Sprintf("%s, failure %d in a row; again in %.1f s", why, m.failures, max(0, again).Seconds())})
}

func describe(res kick.Result) string {
	text := string(res.Outcome)
	if res.Outcome == kick.Failed && res.Exit >= 0 {
		text = fmt.Sprintf("failed with exit code %d", res.Exit)
	}
	if res.Outcome == kick.Lost {
		text = "was lost"
	}
	if res.Error != "" {
		text += ": " + res.Error
	}
	return text
}

// expire ends the runs that were not heard of by their deadline.
func (c *Controller) expire(now time.Time) {
	for node, f := range c.flights {
		if now.Before(f.deadline) || !f.accepted {
			continue // an unanswered Send has its own deadline
		}
		c.changed = true
		lost := kick.Result{Run: f.id, Outcome: kick.Lost, Exit: -1, Error: "nothing was heard of it by its deadline"}
		if a := c.action(node, f.action); a != nil {
			c.end(a, lost, now)
		} else {
			c.land(f, lost, now)
		}
	}
}

// land ends a flight whose action is not heard of any more.
func (c *Controller) land(f *flight, res kick.Result, now time.Time) {
	c.changed = true
	if !f.accepted {
		c.accepted(f, 0, now) // the reply is late, or lost
	}
	delete(c.flights, f.node)
	c.journal.end(f.id, now, res)
}

// keepPlace makes a flight of a run that a former controller kicked, when its node goes. Those of this one are flights already, or were
// given up at their deadlines.
func (c *Controller) keepPlace(node string, now time.Time) {
	run := c.running[node]
	if run == nil || c.flights[node] != nil || c.journal.knows(run.Run) {
		return
	}
	c.flights[node] = &flight{
		id: run.Run, node: node, action: run.Action, bears: c.roles.borneBy(node), accepted: true,
		deadline: now.Add(kick.DefaultTimeout + kick.DefaultGrace), // only the former controller was told
	}
}

// rejoined takes in what became of the run that was in progress when a node went, or rebooted: whoever accepted a kick knows of it.
func (c *Controller) rejoined(node string, now time.Time) {
	c.ended(node, c.status[node], now) // by now its actions are known
	f := c.flights[node]
	if f == nil || !f.accepted {
		return
	}
	if run := c.running[node]; run != nil && run.Run == f.id {
		return
	}
	c.land(f, kick.Result{Outcome: kick.Lost, Exit: -1, Error: "its node knows nothing of it"}, now)
}

func (c *Controller) action(node, name string) *action {
	for _, a := range c.byNode[node] {
		if a.name == name {
			return a
		}
	}
	return nil
}
