package controller

import (
	"fmt"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

// situation is all that a plan is made from.
type situation struct {
	cfg        Config
	sync       api.Sync
	notLeading string // why this controller must not kick, "" if it leads
	roles      *roles
	actions    []*action // by node, then in the node's order
	strays     []stray   // by node
}

// stray is a run on a node that has no action which is heard of: the node is gone, or was configured anew.
type stray struct {
	key
	bears []*role // what its node bears, or bore
	tries []*role // whose current membership it was handed
	gone  bool
}

// plan is the verdict on every action. It changes nothing: who carries out the verdicts without gates has done all there is to do at now.
func plan(s situation, now time.Time) []api.Verdict {
	verdicts, room := make([]api.Verdict, len(s.actions)), roomFor(s.actions...)
	for i, a := range s.actions {
		judge(&verdicts[i], a, room)
		if verdicts[i].State != api.Converged {
			verdicts[i].Gates = s.gates(a, now)
		}
	}
	s.admit(verdicts)
	return verdicts
}

// room is where the needs of many verdicts are put: one piece of memory for all costs less than many small ones.
type room struct {
	needs   []api.Need
	applied []kick.Revision
}

func roomFor(actions ...*action) *room {
	n := 0
	for _, a := range actions {
		n += len(a.needs)
	}
	return &room{needs: make([]api.Need, n), applied: make([]kick.Revision, n)}
}

// take is a part of the room. Nobody else gets it.
func (r *room) take(n int) ([]api.Need, []kick.Revision) {
	needs, applied := r.needs[:n:n], r.applied[:n:n]
	r.needs, r.applied = r.needs[n:], r.applied[n:]
	return needs, applied
}

// judge says in v whether an action is stale, and why. Most are not, so it has to be quick about those.
func judge(v *api.Verdict, a *action, room *room) {
	needs, applied := room.take(len(a.needs))
	v.Node, v.Action, v.State, v.Since, v.Last, v.Running, v.Needs = a.node, a.name, api.Converged, a.since, a.status.Last, a.running, needs
	var reasons []string
	if a.forced != nil {
		reasons = append(reasons, a.forced.reason())
	}
	for i, n := range a.needs {
		r, need := n.role, &needs[i]
		need.Role, need.Shared, need.Current = n.as, n.shared, r.now.Revision
		revision, ok := a.status.Applied[n.as]
		current := ok && revision.Hash == r.now.Revision.Hash
		if ok {
			applied[i] = revision
			need.Applied = &applied[i]
		}
		if ok && !current {
			if d, known := r.since(revision.Hash); known {
				need.Added, need.Removed, need.Changed = d.added, d.removed, d.changed
			}
		}
		if !r.gate.open {
			reasons = append(reasons, n.as+": not known yet")
		} else if !current {
			reasons = append(reasons, whyStale(*need))
		}
	}
	if a.unresolved != "" {
		reasons = append(reasons, "what it depends on is not clear")
	}
	if a.status.Dirty && len(a.needs) > 0 {
		reasons = append(reasons, "its last run did not succeed")
	}
	if len(reasons) == 0 {
		return
	}
	v.State, v.Reason = api.Pending, strings.Join(reasons, "; ")
	if a.memory.failures > 0 {
		v.State = api.Failing
	}
}

// whyStale says why what was applied is not what is current.
func whyStale(n api.Need) string {
	if n.Applied == nil {
		return n.Role + ": never applied"
	}
	if d := (diff{n.Added, n.Removed, n.Changed}).String(); d != "" {
		return n.Role + ": " + d
	}
	return n.Role + ": another membership was applied"
}

// gates are the reasons for which a stale action has to wait.
func (s situation) gates(a *action, now time.Time) []api.Gate {
	var gates []api.Gate
	closed := func(name, why string, until time.Time) { gates = append(gates, api.Gate{name, why, until}) }
	if s.notLeading != "" {
		closed(api.GateLeader, s.notLeading, time.Time{})
	}
	if why := s.observing(a); why != "" {
		closed(api.GateObserve, why, time.Time{})
	}
	if !s.sync.Open {
		closed(api.GateSynced, s.sync.Why, s.sync.Until)
	} else {
		for _, need := range a.needs {
			if g := need.role.gate; !g.open {
				closed(api.GateSynced, fmt.Sprintf("role %s: %s", need.as, g.why), g.until)
			}
		}
	}
	if a.unresolved != "" {
		closed(api.GateUnknown, a.unresolved, time.Time{})
	}
	for _, need := range a.needs {
		if need.role.unheardOf() {
			closed(api.GateUnknown, fmt.Sprintf("no node has ever borne %s and nothing declares it", need.role.Name), time.Time{})
		}
		if r := need.role; r.tooFew() {
			closed(api.GateMinMembers, fmt.Sprintf("role %s has %s, fewer than its min_members %d", r.Name, quantity(len(r.now.Members), "member"), r.MinMembers), time.Time{})
		}
	}
	switch {
	case a.running != nil:
		closed(api.GateRunning, fmt.Sprintf("run %s of %s", a.running.Run, a.running.Action), time.Time{})
	case a.flight != nil:
		closed(api.GateRunning, fmt.Sprintf("run %s of %s", a.flight.id, a.flight.action), a.flight.deadline)
	}
	if until := settled(s.cfg, a); a.forced == nil && now.Before(until) {
		closed(api.GateSettle, "more changes may follow", until)
	}
	if until := dampedUntil(s.cfg, a); now.Before(until) {
		closed(api.GateBackoff, dampedWhy(a), until)
	}
	if now.Before(a.memory.notBefore) {
		if until := a.memory.next(s.cfg.Backoff, s.roles.fingerprint(a)); now.Before(until) {
			closed(api.GateBackoff, a.memory.why, until)
		}
	}
	return gates
}

// observing is why an action is only watched, "" if it is kicked: a role of its node that is observed counts more than one that is acted on,
// and either more than what the cluster does.
func (s situation) observing(a *action) string {
	acts := s.cfg.Mode != ModeObserve
	for _, r := range s.roles.of[a.node] {
		switch r.Mode {
		case ModeObserve:
			return fmt.Sprintf("the mode of role %s is observe: else it would be kicked", r.Name)
		case ModeAct:
			acts = true
		}
	}
	if acts {
		return ""
	}
	return "the mode is observe: else it would be kicked"
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
func (a *action) order(v api.Verdict, id string, identity api.Identity) kick.Kick {
	k := kick.Kick{
		V: kick.Version, ID: id, Controller: identity.ID, Epoch: identity.Epoch,
		Node: v.Node, Action: v.Action, Reason: v.Reason, Force: a.forced != nil,
		Needs: make([]kick.Membership, 0, len(a.needs)),
	}
	for _, need := range a.needs {
		membership := need.role.now
		membership.Role = need.as
		k.Needs = append(k.Needs, membership)
	}
	return k
}

// next is when the verdicts can change by nothing but the passing of time; zero: never.
func next(verdicts []api.Verdict) time.Time {
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
