// Package plan decides what each action should do now, and what it waits for. It is pure: a verdict follows from a
// Situation and the time, and making it changes nothing. The controller carries out the verdicts that wait for nothing.
package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
)

// Config is what decides when an action is kicked.
type Config struct {
	Settle    time.Duration `mapstructure:"settle"`     // wait after the first change after calm; 0 turns settling off
	SettleMin time.Duration `mapstructure:"settle_min"` // least time between two kicks of an action
	SettleMax time.Duration `mapstructure:"settle_max"` // most time that an action settles between two kicks
	Backoff   BackoffConfig `mapstructure:"backoff"`
	InFlight  int           `mapstructure:"in_flight"`   // most runs at once in the cluster
	Limits    []Limit       `mapstructure:"limits"`      // of single actions; each is there once
	RunAtMost time.Duration `mapstructure:"run_at_most"` // a deadline that a node reports counts up to this
	Mode      string        `mapstructure:"mode"`        // one of the Mode constants
}

// Limit is how many runs of actions of one name are in progress at once in the cluster.
type Limit struct {
	Action   string `mapstructure:"action"`
	InFlight int    `mapstructure:"in_flight"`
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
	Runs       []*Flight // all that are or may be in progress, by node
	Rollout    Rollout
	Usual      map[string]time.Duration // of the actions in Runs, see Usual
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
		if v.Needs[i], reason = compare(n, a); reason != "" {
			reasons = append(reasons, n.As+": "+reason)
		}
	}
	if a.Unresolved != "" {
		reasons = append(reasons, "not all that it depends on is known")
	}
	if a.Status.Dirty && len(a.Needs) > 0 {
		reasons = append(reasons, a.dirtyWhy())
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

// dirtyWhy is why a run of an action that is dirty has to follow. An action is dirty from the begin of a run to its
// success.
func (a *Action) dirtyWhy() string {
	if a.Running != nil && a.Running.Action == a.Action || a.Flight != nil && a.Flight.Action == a.Action {
		return "a run began and has not succeeded yet"
	}
	return "its last run did not succeed"
}

// compare is a need with what an action applied of it, and why that is stale; empty if it is not.
func compare(n membership.Need, a *Action) (need api.Need, stale string) {
	need = api.Need{Role: n.As, Shared: n.Shared, Current: n.Role.Current().Revision}
	var diff membership.Diff
	was, ok := a.Status.Applied[n.As]
	if ok {
		need.Applied = &was
		diff, _ = n.Role.Since(was.Hash)
		need.Added, need.Removed, need.Changed = diff.Added, diff.Removed, diff.Changed
	}
	trial := n.Role.Trial()
	switch {
	case !n.Role.Open():
		return need, "its members are not known yet"
	case n.Role.Tries(a.Key.String()):
		return need, "tries again with " + api.List(trial.Of, 3) + ", which it does not have yet"
	case ok && was.Hash == need.Current.Hash:
		return need, ""
	case !ok:
		stale = "never applied"
	default:
		stale = cmp.Or(diff.String(), "another membership was applied")
	}
	if trial != nil && !trial.Again && slices.Contains(trial.By, a.Key.String()) {
		them := "it"
		if len(trial.Of) > 1 {
			them = "them"
		}
		stale += ", tries without " + api.List(trial.Of, 3) + ", because runs with " + them + " failed"
	}
	return need, stale
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
	if a.NoFacts && s.Sync.Open {
		wait(api.GateSynced, fmt.Sprintf("the facts of node %s have not been received yet", a.Node), time.Time{})
	}
	for _, need := range a.Needs {
		if refusal := need.Role.Refusal(); refusal != nil && (s.Sync.Open || refusal.Code != api.RefusedNotSynced) {
			wait(refusalGates[refusal.Code], refusal.Why, refusal.Until)
		}
	}
	if a.Unresolved != "" {
		wait(api.GateUnknown, a.Unresolved, time.Time{})
	}
	switch f := a.Flight; {
	case f != nil && f.again(a.Key):
	case f != nil:
		until := f.Ends()
		if !now.Before(until) {
			until = time.Time{} // its node still reports it
		}
		wait(api.GateRunning, fmt.Sprintf("run %s of %s", f.ID, f), until)
	case a.Running != nil:
		wait(api.GateRunning, fmt.Sprintf("run %s of %s/%s", a.Running.Run, a.Node, a.Running.Action), time.Time{})
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

// refusalGates is the gate of each reason not to hand out members.
var refusalGates = map[string]string{
	api.RefusedUnknown: api.GateUnknown, api.RefusedNotSynced: api.GateSynced, api.RefusedTooFew: api.GateMinMembers,
	api.RefusedHeld: api.GateHeld,
}

// Idle reports whether an action is converged, has no run, and would be kicked if it were not converged.
func (s Situation) Idle(a *Action) bool {
	_, stale := a.stale(time.Time{})
	return !stale && a.Order == nil && a.Running == nil && a.Flight == nil && s.observed(a) == ""
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
	kicked := a.Retry.lastKick(a.Fingerprint())
	if kicked.IsZero() {
		return first
	}
	again := kicked.Add(min(max(4*a.Retry.Took, c.SettleMin), c.SettleMax))
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
