package controller

import (
	"fmt"
	"strings"
	"time"

	"kicker/kick"
)

// situation is all that a plan is made from.
type situation struct {
	cfg     Config
	sync    Sync
	roles   *roles
	actions []*action // by node, then in the node's order
	flights int       // kicks whose run is not known to be over
}

// maxFlights is how many runs may be in progress in the cluster.
const maxFlights = 256

// plan is the verdict on every action. It changes nothing: who carries out the verdicts without gates has done all there is to do at now.
func plan(s situation, now time.Time) []Verdict {
	verdicts := make([]Verdict, 0, len(s.actions))
	busy := "" // the node that this very plan kicks; actions are sorted by node
	for _, a := range s.actions {
		v := s.judge(a, now)
		if v.State != Converged {
			v.Gates = s.gates(a, now)
			if busy == a.node {
				v.Gates = append(v.Gates, Gate{Name: GateRunning, Why: "another action of this node goes first"})
			}
			if s.flights >= maxFlights {
				v.Gates = append(v.Gates, Gate{Name: GateBudget, Why: fmt.Sprintf("%d runs are in progress in the cluster", s.flights)})
			}
			if len(v.Gates) == 0 {
				busy = a.node
				s.flights++
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// judge says whether an action is stale, and why.
func (s situation) judge(a *action, now time.Time) Verdict {
	v := Verdict{
		Node: a.node, Action: a.name, State: Converged, Since: a.since, Last: a.status.Last, Running: a.running,
		Needs: make([]Need, 0, len(a.needs)),
	}
	var reasons []string
	if a.forced != nil {
		reasons = append(reasons, a.forced.reason())
	}
	for _, name := range a.needs {
		r := s.roles.byName[name]
		need := Need{Role: name, Current: r.now.Revision}
		if applied, ok := a.status.Applied[name]; ok {
			need.Applied = &applied
			if d, known := r.since(applied.Hash); known {
				need.Added, need.Removed, need.Changed = d.added, d.removed, d.changed
			}
		}
		if why := need.stale(); why != "" {
			reasons = append(reasons, why)
		}
		v.Needs = append(v.Needs, need)
	}
	if a.status.Dirty && len(a.needs) > 0 {
		reasons = append(reasons, "its last run did not succeed")
	}
	if len(reasons) == 0 {
		return v
	}
	v.State, v.Reason = Wanted, strings.Join(reasons, "; ")
	if a.memory.failures > 0 {
		v.State = Failing
	}
	return v
}

// stale says why what was applied is not what is current, "" if it is.
func (n Need) stale() string {
	switch {
	case n.Current.Hash == "":
		return "" // not published yet: the sync gate is closed
	case n.Applied == nil:
		return n.Role + ": never applied"
	case n.Applied.Hash == n.Current.Hash:
		return ""
	}
	if d := (diff{n.Added, n.Removed, n.Changed}).String(); d != "" {
		return n.Role + ": " + d
	}
	return n.Role + ": another membership was applied"
}

// gates are the reasons for which a stale action has to wait.
func (s situation) gates(a *action, now time.Time) []Gate {
	var gates []Gate
	closed := func(name, why string, until time.Time) { gates = append(gates, Gate{name, why, until}) }
	if !s.sync.Open {
		closed(GateSynced, s.sync.Why, s.sync.Until)
	}
	for _, name := range a.needs {
		if s.roles.byName[name].unheardOf() {
			closed(GateUnknown, fmt.Sprintf("no node has ever borne %s and nothing declares it", name), time.Time{})
		}
	}
	switch {
	case a.running != nil:
		closed(GateRunning, fmt.Sprintf("run %s of %s", a.running.Run, a.running.Action), time.Time{})
	case a.flight != nil:
		closed(GateRunning, fmt.Sprintf("run %s of %s", a.flight.id, a.flight.action), a.flight.deadline)
	}
	if until := settled(s.cfg, a); a.forced == nil && now.Before(until) {
		closed(GateSettling, "more changes may follow", until)
	}
	if now.Before(a.memory.notBefore) {
		closed(GateBackoff, a.memory.why, a.memory.notBefore)
	}
	return gates
}

// settled is when an action has waited long enough for a burst of changes to be over.
func settled(cfg Config, a *action) time.Time {
	if cfg.Settle == 0 {
		return time.Time{}
	}
	first := a.from.Add(cfg.Settle)
	if a.memory.kicked.IsZero() {
		return first
	}
	again := a.memory.kicked.Add(min(max(4*a.memory.took, cfg.SettleMin), cfg.SettleMax))
	if again.After(first) {
		return again
	}
	return first
}

// order is the kick that carries out a verdict.
func (s situation) order(v Verdict, id string, identity Identity, force bool) kick.Kick {
	k := kick.Kick{
		V: kick.Version, ID: id, Controller: identity.ID, Epoch: identity.Epoch,
		Node: v.Node, Action: v.Action, Reason: v.Reason, Force: force,
		Needs: make([]kick.Membership, 0, len(v.Needs)),
	}
	for _, need := range v.Needs {
		k.Needs = append(k.Needs, s.roles.byName[need.Role].now)
	}
	return k
}

// next is when the verdicts can change by nothing but the passing of time; zero: never.
func next(verdicts []Verdict) time.Time {
	var due time.Time
	for _, v := range verdicts {
		for _, g := range v.Gates {
			if !g.Until.IsZero() && (due.IsZero() || g.Until.Before(due)) {
				due = g.Until
			}
		}
	}
	return due
}
