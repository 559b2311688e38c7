package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"kicker/controller/api"
	"kicker/controller/membership"
)

// admission is what may still be kicked in one plan. Every kick that is admitted takes its place from those after it.
type admission struct {
	Situation
	busy   map[string]struct{}           // nodes with a run; their number counts against in_flight
	runs   map[*membership.Role]int      // how many of them have a role
	gone   map[*membership.Role][]string // those of them that are gone
	trying map[*membership.Role]string   // for a broken revision, the one action that tries it now
}

// admit adds the gates of the actions that wait for nothing else: one run a node, the budgets, and a broken revision. Those that wait
// longest come first.
func (s Situation) admit(verdicts []api.Verdict) {
	ad := admission{s, map[string]struct{}{}, map[*membership.Role]int{}, map[*membership.Role][]string{}, map[*membership.Role]string{}}
	for _, stray := range s.Strays {
		for _, r := range stray.Tries {
			ad.try(r, stray.Key)
		}
		ad.occupy(stray.Node, stray.Roles)
		if stray.Gone {
			for _, r := range stray.Roles {
				ad.gone[r] = append(ad.gone[r], stray.Node)
			}
		}
	}
	var candidates []int
	for i, a := range s.Actions {
		if a.Running != nil || a.Flight != nil {
			ad.admit(a)
		}
		if verdicts[i].State != api.Converged && len(verdicts[i].Gates) == 0 {
			candidates = append(candidates, i)
		}
	}
	slices.SortStableFunc(candidates, func(i, j int) int {
		a, b := s.Actions[i], s.Actions[j]
		return cmp.Or(a.waits().Compare(b.waits()), a.Retry.Sent.Compare(b.Retry.Sent))
	})
	for _, i := range candidates {
		if verdicts[i].Gates = ad.gates(s.Actions[i]); len(verdicts[i].Gates) == 0 {
			ad.admit(s.Actions[i])
		}
	}
}

// admit gives an action its place.
func (ad *admission) admit(a *Action) {
	runs := a.Running == nil || a.Running.Action == a.Action // this action, of all that the node has
	if a.Flight != nil {
		runs = a.Flight.Action == a.Action
	}
	if runs {
		for _, need := range a.Needs {
			ad.try(need.Role, a.Key)
		}
	}
	ad.occupy(a.Node, ad.Table.Of(a.Node))
}

func (ad *admission) try(r *membership.Role, by Key) {
	if ad.Rollout.broken(r) {
		ad.trying[r] = by.String()
	}
}

func (ad *admission) occupy(node string, roles []*membership.Role) {
	if _, counted := ad.busy[node]; counted {
		return
	}
	ad.busy[node] = struct{}{}
	for _, r := range roles {
		ad.runs[r]++
	}
}

func (ad *admission) gates(a *Action) []api.Gate {
	var gates []api.Gate
	wait := func(name, why string, args ...any) {
		gates = append(gates, api.Gate{Name: name, Why: fmt.Sprintf(why, args...)})
	}
	if _, busy := ad.busy[a.Node]; busy {
		wait(api.GateRunning, "another action of this node goes first")
	}
	if n := len(ad.busy); n >= ad.InFlight {
		wait(api.GateBudget, "%s in progress in the cluster, as many as in_flight allows", api.Count(n, "run"))
	}
	for _, r := range ad.Table.Of(a.Node) {
		gone := ad.gone[r]
		nodes := len(r.Nodes())
		most, err := r.Budget.Of(nodes)
		if err != nil {
			most = 1 // config rejects it
		}
		if n := ad.runs[r]; n >= most {
			doubt := ""
			if len(gone) > 0 {
				doubt = fmt.Sprintf(" (perhaps on %s, which is gone)", api.List(gone, 5))
			}
			wait(api.GateBudget, "runs on %d of %s of role %s%s, as many as its budget %s allows",
				n, api.Count(nodes+len(gone), "node"), r.Name, doubt, r.Budget)
		}
	}
	for _, need := range a.Needs {
		if other := ad.trying[need.Role]; other != "" {
			wait(api.GateRollout, "role %s: revision %s failed on %d nodes and succeeded on none: one node at a time tries it, now %s",
				need.As, need.Role.Current().Revision.Hash, ad.Rollout.failures(need.Role), other)
		}
	}
	return gates
}

// brokenFrom is on how many nodes a revision has to fail, and succeed on none, until one node at a time tries it.
const brokenFrom = 3

// Rollout is on which nodes runs with a role's present revision failed, by the role's name. A revision that fails everywhere must not
// be tried everywhere at once.
type Rollout map[string]Failures

// Failures is for one revision: the role's n-th. A newer one has none.
type Failures struct {
	n     int64
	nodes map[string]struct{}
}

// Ended notes how a run ended. Only runs with the present revision say something of it; one success clears it.
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

func (ro Rollout) failures(r *membership.Role) int {
	if f := ro[r.Name]; f.n == r.Current().Revision.N {
		return len(f.nodes)
	}
	return 0
}

func (ro Rollout) broken(r *membership.Role) bool { return ro.failures(r) >= brokenFrom }

// Clone is a Rollout that shares nothing with this one that changes.
func (ro Rollout) Clone() Rollout {
	c := Rollout{}
	for role, f := range ro {
		c[role] = Failures{f.n, maps.Clone(f.nodes)}
	}
	return c
}
