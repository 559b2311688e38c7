package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
)

// places is the runs of one plan: those in progress, and those admitted so far. Each takes its place from those that
// come after it.
type places struct {
	Situation
	busy   map[string]struct{}           // nodes with a run
	runs   map[*membership.Role]int      // how many of them have a role
	gone   map[*membership.Role][]string // those of them that are gone
	trying map[*membership.Role]string   // for a broken revision, an action that tries it now
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
	for _, i := range candidates {
		if verdicts[i].Gates = p.full(s.Actions[i]); len(verdicts[i].Gates) == 0 {
			p.take(s.Actions[i])
		}
	}
}

// inProgress is the places of the runs that are in progress.
func (s Situation) inProgress() *places {
	p := &places{
		s, map[string]struct{}{}, map[*membership.Role]int{}, map[*membership.Role][]string{}, map[*membership.Role]string{},
	}
	for _, stray := range s.Strays {
		for _, r := range stray.Tries {
			p.try(r, stray.Key)
		}
		p.occupy(stray.Node, stray.Roles)
		if stray.Gone {
			for _, r := range stray.Roles {
				p.gone[r] = append(p.gone[r], stray.Node)
			}
		}
	}
	for _, a := range s.Actions {
		if a.Running != nil || a.Flight != nil {
			p.take(a)
		}
	}
	return p
}

// take gives an action its place.
func (p *places) take(a *Action) {
	runs := a.Running == nil || a.Running.Action == a.Action // this action, of all that the node has
	if a.Flight != nil {
		runs = a.Flight.Action == a.Action
	}
	if runs {
		for _, need := range a.Needs {
			p.try(need.Role, a.Key)
		}
	}
	p.occupy(a.Node, p.Table.Of(a.Node))
}

func (p *places) try(r *membership.Role, by Key) {
	if p.Rollout.failures(r) >= brokenFrom {
		p.trying[r] = by.String()
	}
}

func (p *places) occupy(node string, roles []*membership.Role) {
	if _, counted := p.busy[node]; counted {
		return
	}
	p.busy[node] = struct{}{}
	for _, r := range roles {
		p.runs[r]++
	}
}

// full is why there is no place for an action; nil if there is one.
func (p *places) full(a *Action) []api.Gate {
	var gates []api.Gate
	wait := func(name, why string, args ...any) {
		gates = append(gates, api.NewGate(name, fmt.Sprintf(why, args...), time.Time{}))
	}
	if _, busy := p.busy[a.Node]; busy {
		wait(api.GateRunning, "another action of this node goes first")
	}
	if n := len(p.busy); n >= p.InFlight {
		wait(api.GateBudget, "%s in progress in the cluster, as many as in_flight allows", api.Count(n, "run"))
	}
	for _, r := range p.Table.Of(a.Node) {
		nodes, gone := len(r.Nodes()), p.gone[r]
		most, err := r.Budget.Of(nodes)
		if err != nil {
			most = 1 // config rejects it
		}
		if n := p.runs[r]; n >= most {
			doubt := ""
			if len(gone) > 0 {
				doubt = fmt.Sprintf(" (gone, perhaps still running: %s)", api.List(gone, 5))
			}
			wait(api.GateBudget, "runs on %d of %s of role %s%s, as many as its budget %s allows",
				n, api.Count(nodes+len(gone), "node"), r.Name, doubt, r.Budget)
		}
	}
	for _, need := range a.Needs {
		if other := p.trying[need.Role]; other != "" {
			wait(api.GateRollout,
				"role %s: revision %s failed on %d nodes and succeeded on none: one node at a time tries it, now %s",
				need.As, need.Role.Current().Revision.Hash, p.Rollout.failures(need.Role), other)
		}
	}
	return gates
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
