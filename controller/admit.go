package controller

import (
	"cmp"
	"fmt"
	"kicker/controller/api"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Budget is a number of runs, or a percentage of a role's nodes, as ParseBudget reads it.
type Budget string

// DefaultBudget is how many of a role's nodes may run something at once, unless its configuration says otherwise.
const DefaultBudget Budget = "10%"

// brokenAfter is on how many nodes a revision has to fail, with no success since, to be tried on one node at a time.
const brokenAfter = 3

// ParseBudget reads a number of runs, or a percentage of a role's nodes; it returns what that is for a role of that size: at least 1.
func ParseBudget(text Budget, size int) (int, error) {
	number, percent := strings.CutSuffix(string(text), "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || percent && n > 100 {
		return 0, fmt.Errorf("budget %q: want a number of runs from 1, or a percentage such as %s", text, DefaultBudget)
	}
	if percent {
		n = max(1, (size*n+99)/100)
	}
	return n, nil
}

// admission is what may still be kicked in one plan: every kick that is let through takes its place from the next.
type admission struct {
	inFlight int                 // nodes on which something runs
	running  map[*role]int       // those of them that bear a role
	gone     map[*role][]string  // those of them that are not heard any more
	probing  map[*role]string    // broken roles, and the action that tries them now
	busy     map[string]struct{} // nodes
}

// admit puts gates on those that waited for nothing else: one run a node, the budgets, and a broken revision. Whoever waits longest is
// first.
func (s situation) admit(verdicts []api.Verdict) {
	now := admission{running: map[*role]int{}, gone: map[*role][]string{}, probing: map[*role]string{}, busy: map[string]struct{}{}}
	for _, stray := range s.strays {
		now.takeStray(stray)
	}
	var candidates []int
	for i, a := range s.actions {
		if a.running != nil || a.flight != nil {
			now.take(s.roles, a)
		}
		if verdicts[i].State != api.Converged && len(verdicts[i].Gates) == 0 {
			candidates = append(candidates, i)
		}
	}
	slices.SortStableFunc(candidates, func(i, j int) int {
		a, b := s.actions[i], s.actions[j]
		return cmp.Or(a.waits().Compare(b.waits()), a.memory.sent.Compare(b.memory.sent))
	})
	for _, i := range candidates {
		if verdicts[i].Gates = now.gates(s, s.actions[i]); len(verdicts[i].Gates) == 0 {
			now.take(s.roles, s.actions[i])
		}
	}
}

// take gives an action its place.
func (n *admission) take(roles *roles, a *action) {
	runs := a.running == nil || a.running.Action == a.name // of the node's actions, the one that runs
	if a.flight != nil {
		runs = a.flight.action == a.name
	}
	if runs {
		for _, need := range a.needs {
			n.probe(need.role, key{a.node, a.name})
		}
	}
	n.occupy(a.node, roles.of[a.node])
}

func (n *admission) takeStray(s stray) {
	for _, r := range s.tries {
		n.probe(r, s.key)
	}
	n.occupy(s.node, s.bears)
	if s.gone {
		for _, r := range s.bears {
			n.gone[r] = append(n.gone[r], s.node)
		}
	}
}

func (n *admission) probe(r *role, by key) {
	if len(r.failed) >= brokenAfter {
		n.probing[r] = by.String()
	}
}

func (n *admission) occupy(node string, bears []*role) {
	if _, counted := n.busy[node]; counted {
		return
	}
	n.busy[node] = struct{}{}
	n.inFlight++
	for _, r := range bears {
		n.running[r]++
	}
}

func (n *admission) gates(s situation, a *action) []api.Gate {
	var gates []api.Gate
	closed := func(name, format string, args ...any) {
		gates = append(gates, api.Gate{Name: name, Why: fmt.Sprintf(format, args...)})
	}
	if _, busy := n.busy[a.node]; busy {
		closed(api.GateRunning, "another action of this node goes first")
	}
	if n.inFlight >= s.cfg.InFlight {
		closed(api.GateBudget, "%s in progress in the cluster, as many as in_flight allows", quantity(n.inFlight, "run"))
	}
	for _, r := range s.roles.of[a.node] {
		if most := r.budget(); n.running[r] >= most {
			doubt := ""
			if gone := n.gone[r]; len(gone) > 0 {
				doubt = fmt.Sprintf(" (on %s perhaps: not heard any more)", abridged(gone))
			}
			closed(api.GateBudget, "something runs on %d of %s of role %s%s, as many as its budget %s allows",
				n.running[r], quantity(len(r.nodes)+len(n.gone[r]), "node"), r.Name, doubt, r.Budget)
		}
	}
	for _, need := range a.needs {
		if other := n.probing[need.role]; other != "" {
			closed(api.GateRollout, "role %s: %d nodes failed with revision %s and none succeeded: one at a time, now %s",
				need.as, len(need.role.failed), need.role.now.Revision.Hash, other)
		}
	}
	return gates
}

func (r *role) budget() int {
	n, err := ParseBudget(r.Budget, len(r.nodes))
	if err != nil {
		return 1 // config refuses it
	}
	return n
}

// waits is since when an action waits for its place: a try that failed, or hung, puts it behind those that were not tried since.
func (a *action) waits() time.Time {
	if a.memory.sent.After(a.since) {
		return a.memory.sent
	}
	return a.since
}
