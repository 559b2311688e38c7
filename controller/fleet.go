package controller

import (
	"maps"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

// fleet is what the nodes report of their actions and runs, and what the controller remembers of them.
type fleet struct {
	// actions is the actions of each node that is there, in the node's order.
	actions map[string][]*plan.Action
	// status is what each node reported last. running is the runs in progress of those reports.
	status  map[string]kick.Status
	running map[string]*kick.Running
	// flights is the runs that are or may be in progress, by node: the kicks that were sent, and what nodes report.
	flights map[string]*plan.Flight
	// usual is how long the actions that run usually take, as of measured. It is replaced as a whole.
	usual    map[string]time.Duration
	measured time.Time
	// retries outlive their actions for a while.
	retries map[plan.Key]*plan.Retry
	rollout plan.Rollout
	origins plan.Origins
	cycles  plan.Cycles

	// tidied is when it last forgot what is of no use.
	tidied time.Time
	// sorted is all of actions; nil when they changed. dependents is the actions that depend on each role; nil when
	// needs changed.
	sorted     []*plan.Action
	dependents map[*membership.Role][]string
}

func newFleet() *fleet {
	return &fleet{
		actions: map[string][]*plan.Action{}, status: map[string]kick.Status{}, running: map[string]*kick.Running{},
		flights: map[string]*plan.Flight{}, retries: map[plan.Key]*plan.Retry{},
		rollout: plan.Rollout{}, origins: plan.Origins{},
	}
}

// all is every action, by node, then in the node's order.
func (f *fleet) all() []*plan.Action {
	if f.sorted == nil {
		f.sorted = make([]*plan.Action, 0, len(f.actions))
		for _, node := range sortedKeys(f.actions) {
			f.sorted = append(f.sorted, f.actions[node]...)
		}
	}
	return f.sorted
}

// action is the action of that name on a node, nil if there is none.
func (f *fleet) action(k plan.Key) *plan.Action {
	for _, a := range f.actions[k.Node] {
		if a.Action == k.Action {
			return a
		}
	}
	return nil
}

// dependsOn reports whether an action, NODE/ACTION, depends on a role.
func (f *fleet) dependsOn(r *membership.Role, action string) bool {
	return slices.Contains(f.dependentsOf(r), action)
}

// dependentsOf is the actions that depend on a role, as NODE/ACTION.
func (f *fleet) dependentsOf(r *membership.Role) []string {
	if f.dependents == nil {
		f.dependents = map[*membership.Role][]string{}
		for _, a := range f.all() {
			for _, need := range a.Needs {
				f.dependents[need.Role] = append(f.dependents[need.Role], a.Key.String())
			}
		}
	}
	return f.dependents[r]
}

// setStatus notes what a node reports.
func (f *fleet) setStatus(node string, status kick.Status) {
	f.status[node] = status
	if status.Running == nil {
		delete(f.running, node)
	} else {
		f.running[node] = status.Running
	}
}

// reported is what a node reported last, with the results that came since.
func (f *fleet) reported(node string) kick.Status {
	status := f.status[node]
	status.Actions = slices.Clone(status.Actions)
	for i, s := range status.Actions {
		if a := f.action(plan.Key{Node: node, Action: s.Name}); a != nil {
			status.Actions[i] = a.Status
		}
	}
	return status
}

// setActions follows what a node reports of its actions. resolve finds what one of them depends on.
func (f *fleet) setActions(
	node string, status kick.Status, now time.Time, resolve func(kick.ActionStatus) ([]membership.Need, string),
) {
	was := f.actions[node]
	var actions []*plan.Action
	for _, s := range status.Actions {
		k := plan.Key{Node: node, Action: s.Name}
		a := f.action(k)
		if a == nil {
			a = &plan.Action{Key: k, Retry: f.retry(k, s)}
		}
		a.Retry.Used = now
		if a.Disabled == "" && status.Disabled != "" {
			a.Retry.NotBefore = time.Time{} // when it is no longer disabled, it is kicked at once
		}
		a.Status, a.Disabled = s, status.Disabled
		needs, unresolved := resolve(s)
		if !slices.Equal(a.Needs, needs) {
			f.dependents = nil
		}
		a.Needs, a.Unresolved = needs, unresolved
		actions = append(actions, a)
	}
	if len(actions) == 0 {
		delete(f.actions, node)
	} else {
		f.actions[node] = actions
	}
	if !slices.Equal(was, actions) {
		f.sorted, f.dependents = nil, nil
	}
}

// retry is what is remembered of an action from before. A new one begins with the failures that the node itself
// remembers.
func (f *fleet) retry(k plan.Key, s kick.ActionStatus) *plan.Retry {
	if f.retries[k] == nil {
		f.retries[k] = &plan.Retry{}
		if s.Last != nil {
			f.retries[k].Failures = s.Last.Failures
			f.retries[k].Took = milliseconds(s.Last.Duration)
		}
	}
	return f.retries[k]
}

// forget drops a node that is gone, but for its retries, and its flight: the run may go on.
func (f *fleet) forget(node string) {
	delete(f.actions, node)
	delete(f.status, node)
	delete(f.running, node)
	f.sorted, f.dependents = nil, nil
}

// tidy forgets what no node that is there makes the controller remember.
func (f *fleet) tidy(table *membership.Table, keep time.Duration, now time.Time) {
	for k, r := range f.retries {
		if f.action(k) == nil && (!r.Kept() || now.Sub(r.Used) > keep) {
			delete(f.retries, k)
		}
	}
	needed := map[*membership.Role]bool{}
	for _, a := range f.all() {
		for _, need := range a.Needs {
			needed[need.Role] = true
		}
	}
	table.Drop(needed)
	maps.DeleteFunc(f.rollout, func(role string, _ plan.Failures) bool { return table.Role(role) == nil })
	maps.DeleteFunc(f.origins, func(role string, _ plan.Origin) bool { return table.Role(role) == nil })
}

// runs is all runs that are or may be in progress, by node.
func (f *fleet) runs() []*plan.Flight {
	runs := slices.Collect(maps.Values(f.flights))
	slices.SortFunc(runs, func(a, b *plan.Flight) int { return strings.Compare(a.Node, b.Node) })
	return runs
}

// measure keeps the usual durations of the actions that run. It looks at all actions, so it does that now and then: no
// run is overdue within its first minute.
func (f *fleet) measure(now time.Time) {
	if len(f.flights) == 0 || now.Before(f.measured.Add(measureEvery)) {
		return
	}
	names := map[string]struct{}{}
	for _, flight := range f.flights {
		names[flight.Action] = struct{}{}
	}
	f.usual, f.measured = plan.Usual(f.all(), names), now
}

// ended reports whether a node said how a run ended, as its last run of an action.
func (f *fleet) ended(node, run string) bool {
	return slices.ContainsFunc(f.actions[node], func(a *plan.Action) bool {
		return a.Status.Last != nil && a.Status.Last.Run == run
	})
}

// ranLately reports whether a run is in progress on a node, or ended a moment ago.
func (f *fleet) ranLately(node string, now time.Time) bool {
	endedLately := func(a *plan.Action) bool { return now.Sub(a.Retry.Ended) <= plan.OwnRunTime }
	return f.flights[node] != nil || f.running[node] != nil || slices.ContainsFunc(f.actions[node], endedLately)
}

// clone is a fleet that shares nothing with this one that changes. Its actions have no needs yet.
func (f *fleet) clone(backoff plan.BackoffConfig, now time.Time) *fleet {
	c := newFleet()
	c.status, c.running, c.flights = maps.Clone(f.status), maps.Clone(f.running), maps.Clone(f.flights)
	c.usual, c.measured = f.usual, f.measured
	c.rollout, c.origins, c.cycles, c.tidied = f.rollout.Clone(), maps.Clone(f.origins), f.cycles, f.tidied
	for k, r := range f.retries {
		c.retries[k] = r.With(backoff, now)
	}
	for node, actions := range f.actions {
		for _, a := range actions {
			copied := *a
			copied.Retry = c.retries[a.Key]
			copied.Needs = nil
			c.actions[node] = append(c.actions[node], &copied)
		}
	}
	return c
}

// findCycles looks where roles depend on each other now. It returns what there is to say of cycles that began or ended.
func (f *fleet) findCycles(table *membership.Table, now time.Time) []api.Event {
	next := plan.FindCycles(table, f.all())
	same := func(c api.Cycle) func(api.Cycle) bool {
		return func(other api.Cycle) bool { return slices.Equal(c.Roles, other.Roles) }
	}
	var events []api.Event
	record := func(kind string, c api.Cycle, text string) {
		e := event(now, kind, "%s", text)
		e.Role = c.Roles[0]
		events = append(events, e)
	}
	for i := range next.Found {
		c := &next.Found[i]
		if at := slices.IndexFunc(f.cycles.Found, same(*c)); at >= 0 {
			c.Since = f.cycles.Found[at].Since
			continue
		}
		c.Since = now
		record(api.EventCycleBegan, *c, c.String())
	}
	for _, c := range f.cycles.Found {
		if !slices.ContainsFunc(next.Found, same(c)) {
			around := strings.Join(append(slices.Clone(c.Roles), c.Roles[0]), " → ")
			record(api.EventCycleEnded, c, "roles "+around+" no longer depend on each other")
		}
	}
	f.cycles = next
	return events
}

// needsOf is what an action of a node depends on: what the node reports, and what the configuration adds for the node's
// roles. unresolved is why one of them could not be resolved.
func needsOf(
	table *membership.Table, n *inventory.Node, s kick.ActionStatus, nodes *inventory.Snapshot, now time.Time,
) (needs []membership.Need, unresolved error) {
	for _, text := range append(slices.Clone(s.DependsOn), table.DependsOn(n.Name, s.Name)...) {
		need, err := table.Resolve(text, n.Facts, nodes, now)
		if err != nil {
			unresolved = err
			continue
		}
		if !slices.ContainsFunc(needs, func(other membership.Need) bool { return other.As == need.As }) {
			needs = append(needs, need)
		}
	}
	return needs, unresolved
}

// milliseconds is a duration of a message.
func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
