// Package plan decides what each action should do now, and what it waits for. It is pure: a verdict follows from a
// Situation and the time, and making it changes nothing. The controller carries out the verdicts that wait for nothing.
package plan

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

// Config is what decides when an action is kicked.
type Config struct {
	Settle    time.Duration `mapstructure:"settle"`     // wait after the first change after calm; 0 turns settling off
	SettleMin time.Duration `mapstructure:"settle_min"` // least time between two kicks of an action
	SettleMax time.Duration `mapstructure:"settle_max"` // most time that an action settles between two kicks
	Backoff   BackoffConfig `mapstructure:"backoff"`
	InFlight  int           `mapstructure:"in_flight"` // most runs at once in the cluster
	Mode      string        `mapstructure:"mode"`      // one of the Mode constants
}

// What happens to a verdict that waits for nothing else.
const (
	ModeAct     = "act"     // it is carried out
	ModeObserve = "observe" // it is only shown
)

// Situation is all that verdicts are made from.
type Situation struct {
	Config
	Sync       api.Sync
	NotLeading string // why this controller must not kick, empty if it leads
	Table      *membership.Table
	Actions    []*Action // by node, then in the node's order
	Strays     []Stray   // by node
	Rollout    Rollout
}

// Stray is a run on a node that reports no action: the node is gone, or was configured anew.
type Stray struct {
	Key
	Roles []*membership.Role // that the node has or had
	Tries []*membership.Role // whose current membership the run was given
	Gone  bool
}

// Make is the verdict on every action, in their order.
func Make(s Situation, now time.Time) []api.Verdict {
	verdicts := make([]api.Verdict, len(s.Actions))
	for i, a := range s.Actions {
		verdicts[i] = s.Judge(a, now)
	}
	s.admit(verdicts)
	return verdicts
}

// Judge is the verdict on one action, without the gates that depend on other actions. It is quick if the action is
// converged, for most are.
func (s Situation) Judge(a *Action, now time.Time) api.Verdict {
	v := api.Verdict{
		Node: a.Node, Action: a.Action, State: api.Converged, Since: a.since, Last: a.Status.Last, Running: a.Running,
		Needs: make([]api.Need, len(a.Needs)), Disabled: a.Disabled,
	}
	var reasons []string
	if a.Order != nil {
		reasons = append(reasons, "ordered by "+cmp.Or(a.Order.By, "an operator"))
	}
	for i, n := range a.Needs {
		var reason string
		if v.Needs[i], reason = compare(n, a.Status.Applied); reason != "" {
			reasons = append(reasons, n.As+": "+reason)
		}
	}
	if a.Unresolved != "" {
		reasons = append(reasons, "not all that it depends on is known")
	}
	if a.Status.Dirty && len(a.Needs) > 0 {
		reasons = append(reasons, "its last run did not succeed")
	}
	if len(reasons) == 0 {
		return v
	}
	v.State, v.Reason = api.Pending, strings.Join(reasons, "; ")
	if a.Retry.Failures > 0 {
		v.State = api.Failing
	}
	v.Gates = s.gates(a, now)
	return v
}

// compare is a need with what was applied of it, and why that is stale; empty if it is not.
func compare(n membership.Need, applied map[string]kick.Revision) (need api.Need, stale string) {
	need = api.Need{Role: n.As, Shared: n.Shared, Current: n.Role.Current().Revision}
	var diff membership.Diff
	was, ok := applied[n.As]
	if ok {
		need.Applied = &was
		diff, _ = n.Role.Since(was.Hash)
		need.Added, need.Removed, need.Changed = diff.Added, diff.Removed, diff.Changed
	}
	switch {
	case !n.Role.Open():
		return need, "its members are not known yet"
	case !ok:
		return need, "never applied"
	case was.Hash == need.Current.Hash:
		return need, ""
	}
	return need, cmp.Or(diff.String(), "another membership was applied")
}

// gates is what a stale action waits for, apart from other actions.
func (s Situation) gates(a *Action, now time.Time) []api.Gate {
	var gates []api.Gate
	wait := func(name, why string, until time.Time) {
		gates = append(gates, api.NewGate(name, why, until))
	}
	if s.NotLeading != "" {
		wait(api.GateLeader, s.NotLeading, time.Time{})
	}
	if why := s.observed(a); why != "" {
		wait(api.GateObserve, why, time.Time{})
	}
	if a.Disabled != "" {
		wait(api.GateDisabled, a.Disabled, time.Time{})
	}
	if !s.Sync.Open {
		wait(api.GateSynced, s.Sync.Why, s.Sync.Until)
	}
	for _, need := range a.Needs {
		if role := need.Role.Sync(); s.Sync.Open && !role.Open {
			wait(api.GateSynced, fmt.Sprintf("role %s: %s", need.As, role.Why), role.Until)
		}
	}
	if a.Unresolved != "" {
		wait(api.GateUnknown, a.Unresolved, time.Time{})
	}
	for _, need := range a.Needs {
		r := need.Role
		if r.Unknown() {
			wait(api.GateUnknown, fmt.Sprintf("no node has role %s and no configuration names it", r.Name), time.Time{})
		}
		if r.TooFew() {
			has := api.Count(len(r.Current().Members), "member")
			why := fmt.Sprintf("role %s has %s, fewer than its min_members %d", r.Name, has, r.MinMembers)
			wait(api.GateMinMembers, why, time.Time{})
		}
	}
	switch {
	case a.Running != nil:
		wait(api.GateRunning, fmt.Sprintf("run %s of action %s", a.Running.Run, a.Running.Action), time.Time{})
	case a.Flight != nil:
		wait(api.GateRunning, fmt.Sprintf("run %s of action %s", a.Flight.ID, a.Flight.Action), a.Flight.Deadline)
	}
	if until := s.settled(a); a.Order == nil && now.Before(until) {
		wait(api.GateSettle, "more changes may follow", until)
	}
	if until := s.dampedUntil(a); now.Before(until) {
		wait(api.GateBackoff, dampedWhy(a), until)
	}
	if now.Before(a.Retry.NotBefore) {
		if until := a.Retry.Next(s.Backoff, a.Fingerprint()); now.Before(until) {
			wait(api.GateBackoff, a.Retry.Why, until)
		}
	}
	return gates
}

// observed is why an action is only observed, empty if it is kicked. Of its node's roles, one that is observed counts
// more than one that is acted on, and either counts more than the cluster's mode.
func (s Situation) observed(a *Action) string {
	acts := s.Mode != ModeObserve
	for _, r := range s.Table.Of(a.Node) {
		switch r.Mode {
		case ModeObserve:
			return fmt.Sprintf("the mode of role %s is observe: otherwise it would be kicked", r.Name)
		case ModeAct:
			acts = true
		}
	}
	if acts {
		return ""
	}
	return "the mode is observe: otherwise it would be kicked"
}

// settled is when an action has waited long enough for a burst of changes to end.
func (c Config) settled(a *Action) time.Time {
	if c.Settle == 0 {
		return time.Time{}
	}
	first := a.from.Add(c.Settle)
	if a.Retry.kicked.IsZero() {
		return first
	}
	again := a.Retry.kicked.Add(min(max(4*a.Retry.Took, c.SettleMin), c.SettleMax))
	if again.After(first) {
		return again
	}
	return first
}

// Next is when verdicts can change though nothing happens; zero: never.
func Next(verdicts []api.Verdict) time.Time {
	var next time.Time
	for _, v := range verdicts {
		for _, g := range v.Gates {
			next = api.Soonest(next, g.Until)
		}
	}
	return next
}
