package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
)

// places is the runs of one plan: those in progress, and those admitted so far. Each takes its place from those that
// come after it.
type places struct {
	Situation
	busy    map[string]*Flight // the run of a node
	all     tally
	roles   map[*membership.Role]*tally
	actions map[string]*tally            // of those that have a limit
	trying  map[*membership.Role]*Flight // for a broken revision, the run that tries it now
	testers map[*membership.Role]string  // of a trial, an action that makes it sooner or later
}

// tally is the runs that count for one budget. A run that is overdue takes no place, but there may be only as many of
// them as there are places.
type tally struct {
	runs, overdue []*Flight
	gone          int    // how many of both are on nodes that are gone
	holders       string // of the places, for people; empty: it is not made yet
}

// admit adds the gates of the actions that wait for nothing else: one run a node, the budgets, and a broken revision.
// Those that wait longest come first.
func (s Situation) admit(verdicts []api.Verdict) {
	var candidates []int
	for i, v := range verdicts {
		if v.State != api.Converged && len(v.Gates) == 0 {
			candidates = append(candidates, i)
		}
	}
	slices.SortStableFunc(candidates, func(i, j int) int {
		a, b := s.Actions[i], s.Actions[j]
		return cmp.Or(a.waits().Compare(b.waits()), a.Retry.Sent.Compare(b.Retry.Sent))
	})
	p := s.inProgress()
	p.findTesters(verdicts)
	for _, i := range candidates {
		if verdicts[i].Gates = p.full(s.Actions[i]); len(verdicts[i].Gates) == 0 {
			p.take(s.Actions[i])
		}
	}
}

// findTesters finds the actions that make the trials in which suspected members are left out. One that waits for a person
// makes none.
func (p *places) findTesters(verdicts []api.Verdict) {
	isTrial := func(r *membership.Role) bool { t := r.Trial(); return t != nil && !t.Again }
	if !slices.ContainsFunc(p.Table.Roles(), isTrial) {
		return
	}
	byPerson := func(g api.Gate) bool { return g.Person }
	for i, a := range p.Actions {
		for _, need := range a.Needs {
			if isTrial(need.Role) && slices.Contains(need.Role.Trial().By, a.Key.String()) &&
				verdicts[i].State != api.Converged && !slices.ContainsFunc(verdicts[i].Gates, byPerson) {
				p.testers[need.Role] = a.Key.String()
			}
		}
	}
}

// inProgress is the places of the runs that are in progress.
func (s Situation) inProgress() *places {
	p := &places{
		Situation: s, busy: map[string]*Flight{}, roles: map[*membership.Role]*tally{}, actions: map[string]*tally{},
		trying: map[*membership.Role]*Flight{}, testers: map[*membership.Role]string{},
	}
	for _, limit := range s.Limits {
		p.actions[limit.Action] = &tally{}
	}
	for _, f := range s.Runs {
		p.occupy(f, p.rolesOf(f))
		if f.Overdue.IsZero() {
			p.try(f)
		}
	}
	return p
}

// rolesOf is the roles that a run's node had when it was kicked, and those that it has now.
func (p *places) rolesOf(f *Flight) []*membership.Role {
	roles := p.Table.Of(f.Node)
	for _, name := range f.Roles {
		if r := p.Table.Role(name); r != nil && !slices.Contains(roles, r) {
			roles = append(slices.Clone(roles), r)
		}
	}
	return roles
}

// take gives an action that is to be kicked its place.
func (p *places) take(a *Action) {
	f := &Flight{Key: a.Key}
	if was := p.busy[a.Node]; was != nil && was.needsPlace(a) {
		delete(p.busy, a.Node)
	}
	p.occupy(f, p.Table.Of(a.Node))
	for _, need := range a.Needs {
		p.tryRole(need.Role, f)
	}
}

// try notes which current revisions a run was handed. Of a run that another controller kicked that is not known: then
// it is those that its action depends on.
func (p *places) try(f *Flight) {
	for name, hash := range f.Handed {
		if r := p.Table.Role(name); r != nil && r.Handed(f.Key.String()).Revision.Hash == hash {
			p.tryRole(r, f)
		}
	}
	if f.Handed != nil {
		return
	}
	byNode := func(a *Action, node string) int { return strings.Compare(a.Node, node) }
	i, _ := slices.BinarySearchFunc(p.Actions, f.Node, byNode)
	for ; i < len(p.Actions) && p.Actions[i].Node == f.Node; i++ {
		if p.Actions[i].Action == f.Action {
			for _, need := range p.Actions[i].Needs {
				p.tryRole(need.Role, f)
			}
		}
	}
}

func (p *places) tryRole(r *membership.Role, f *Flight) {
	if trial := r.Trial(); p.Rollout.failures(r) >= brokenFrom || trial != nil && !trial.Again {
		p.trying[r] = f
	}
}

func (p *places) occupy(f *Flight, roles []*membership.Role) {
	if _, counted := p.busy[f.Node]; counted {
		return
	}
	p.busy[f.Node] = f
	p.all.add(f)
	for _, r := range roles {
		if p.roles[r] == nil {
			p.roles[r] = &tally{}
		}
		p.roles[r].add(f)
	}
	if t := p.actions[f.Action]; t != nil {
		t.add(f)
	}
}

func (t *tally) add(f *Flight) {
	if t.holders = ""; f.Overdue.IsZero() {
		t.runs = append(t.runs, f)
	} else {
		t.overdue = append(t.overdue, f)
	}
	if !f.Gone.IsZero() {
		t.gone++
	}
}

// full is why there is no place for an action; nil if there is one.
func (p *places) full(a *Action) []api.Gate {
	var gates []api.Gate
	wait := func(name, why string, args ...any) {
		gates = append(gates, api.NewGate(name, fmt.Sprintf(why, args...), time.Time{}))
	}
	switch f := p.busy[a.Node]; {
	case f == nil:
	case f.again(a.Key):
		if !f.needsPlace(a) {
			return nil // it is kicked again in the place that it has
		}
	case f.Key == a.Key:
		wait(api.GateRunning, "its last kick is not over: %s", f)
	default:
		wait(api.GateRunning, "another action of this node goes first: %s", f)
	}
	switch t := &p.all; {
	case len(t.overdue) > p.InFlight:
		wait(api.GateBudget, "%s in the cluster, more than in_flight %d tolerates: %s",
			overdueRuns(len(t.overdue)), p.InFlight, t.who())
	case len(t.runs) >= p.InFlight:
		wait(api.GateBudget, "%s in progress in the cluster, as many as in_flight allows: %s",
			api.Count(len(t.runs), "run"), t.who())
	}
	for _, limit := range p.Limits {
		switch t := p.actions[limit.Action]; {
		case limit.Action != a.Action:
		case len(t.overdue) > limit.InFlight:
			wait(api.GateBudget, "%s of action %s in the cluster, more than its limit %d tolerates: %s",
				overdueRuns(len(t.overdue)), a.Action, limit.InFlight, t.who())
		case len(t.runs) >= limit.InFlight:
			wait(api.GateBudget, "%s of action %s in progress in the cluster, as many as its limit allows: %s",
				api.Count(len(t.runs), "run"), a.Action, t.who())
		}
	}
	for _, r := range p.Table.Of(a.Node) {
		t := p.roles[r]
		if t == nil {
			continue
		}
		switch most := placesOf(r); {
		case len(t.overdue) > most:
			wait(api.GateBudget, "%s on nodes of role %s, more than its budget %s tolerates: %s",
				overdueRuns(len(t.overdue)), r.Name, r.Budget, t.who())
		case len(t.runs) >= most:
			wait(api.GateBudget, "runs on %d of %s of role %s, as many as its budget %s allows: %s",
				len(t.runs), api.Count(len(r.Nodes())+t.gone, "node"), r.Name, r.Budget, t.who())
		}
	}
	for _, need := range a.Needs {
		if tester := p.testers[need.Role]; tester != "" && !slices.Contains(need.Role.Trial().By, a.Key.String()) {
			wait(api.GateRollout, "role %s: runs with %s failed: first %s tries without",
				need.As, api.List(need.Role.Trial().Of, 3), tester)
		}
		if other := p.trying[need.Role]; other != nil {
			wait(api.GateRollout, "role %s: runs with revision %s failed and none succeeded: one node at a time tries it, now %s",
				need.As, need.Role.Current().Revision.Hash, other)
		}
	}
	return gates
}

// who names the runs that keep others waiting: those that are overdue first, then by their starts.
func (t *tally) who() string {
	if t.holders != "" {
		return t.holders
	}
	var names []string
	for _, runs := range [][]*Flight{t.overdue, t.runs} {
		oldest := slices.SortedStableFunc(slices.Values(runs), func(a, b *Flight) int { return a.Sent.Compare(b.Sent) })
		for _, f := range oldest {
			names = append(names, f.String())
		}
	}
	t.holders = api.List(names, 3)
	return t.holders
}

// blockedBy is what starts nothing new because too many runs are overdue, of what an overdue run counts for.
func (p *places) blockedBy(f *Flight) (blocked []string) {
	if len(p.all.overdue) > p.InFlight {
		blocked = append(blocked, "the cluster")
	}
	for _, limit := range p.Limits {
		if limit.Action == f.Action && len(p.actions[f.Action].overdue) > limit.InFlight {
			blocked = append(blocked, "action "+f.Action)
		}
	}
	for _, r := range p.rolesOf(f) {
		if len(p.roles[r].overdue) > placesOf(r) {
			blocked = append(blocked, "role "+r.Name)
		}
	}
	return blocked
}

// placesOf is how many runs the budget of a role allows.
func placesOf(r *membership.Role) int {
	most, err := r.Budget.Of(len(r.Nodes()))
	if err != nil {
		return 1 // config rejects it
	}
	return most
}

// overdueRuns is the begin of a sentence: "1 run is overdue", "3 runs are overdue".
func overdueRuns(n int) string {
	if n == 1 {
		return "1 run is overdue"
	}
	return fmt.Sprintf("%d runs are overdue", n)
}

// brokenFrom is on how many nodes a revision has to fail, and succeed on none, until one node at a time tries it.
const brokenFrom = 3

// Rollout is on which nodes runs with a role's current revision failed, by the role's name. A revision that fails
// everywhere must not be tried everywhere at once.
type Rollout map[string]Failures

// Failures is on which nodes runs with one revision failed, the n-th. They say nothing of any other revision.
type Failures struct {
	n     int64
	nodes map[string]struct{}
}

// Overdue notes that a run is overdue. That counts as a failure, until a run succeeds.
func (ro Rollout) Overdue(f *Flight, table *membership.Table) { ro.Ended(f, false, table) }

// Ended notes how a run ended. Only a run with the current revision counts. One success clears the failures.
func (ro Rollout) Ended(f *Flight, succeeded bool, table *membership.Table) {
	for name, hash := range f.Handed {
		r := table.Role(name)
		switch {
		case r == nil || r.Current().Revision.Hash != hash:
		case succeeded:
			delete(ro, name)
		default:
			if ro.failures(r) == 0 {
				ro[name] = Failures{r.Current().Revision.N, map[string]struct{}{}}
			}
			ro[name].nodes[f.Node] = struct{}{}
		}
	}
}

// failures is on how many nodes the current revision of a role failed.
func (ro Rollout) failures(r *membership.Role) int {
	if f := ro[r.Name]; f.n == r.Current().Revision.N {
		return len(f.nodes)
	}
	return 0
}

// Clone is a Rollout like this one that shares nothing with it that changes.
func (ro Rollout) Clone() Rollout {
	c := Rollout{}
	for role, f := range ro {
		c[role] = Failures{f.n, maps.Clone(f.nodes)}
	}
	return c
}
