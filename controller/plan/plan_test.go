package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }
func in(d time.Duration) time.Time  { return noon.Add(d) }

// serving is a node that is a member of its roles.
func serving(name string, facts inventory.Facts) *inventory.Node {
	return &inventory.Node{Name: name, Life: inventory.Alive, Ready: true, Facts: facts}
}

// hourOld is a situation in which web1 and web2 have borne web for an hour, and lb1/reload needs web and never applied it.
func hourOld(t failer) (situation, *action) {
	rs := newTestRoles(t)
	for _, name := range []string{"web1", "web2"} {
		rs.mustMove(nil, serving(name, inventory.Facts{"role": "web"}), ago(time.Hour))
	}
	rs.publish()
	a := &action{node: "lb1", name: "reload", needs: needing(rs.roles, "web"), since: ago(time.Hour), from: ago(time.Hour), memory: &memory{}}
	return situation{cfg: DefaultConfig(), sync: api.Sync{Open: true}, roles: rs.roles, actions: []*action{a}}, a
}

// inModes has a node bear roles of its own, of these modes: NODE-1, NODE-2 and so on.
func inModes(rs *roles, node string, modes ...string) {
	for i, mode := range modes {
		role := fmt.Sprintf("%s-%d", node, i+1)
		bear(rs, role, node)
		rs.byName[role].Mode = mode
	}
}

func TestGates(t *testing.T) {
	type gates = []api.Gate
	for _, c := range []struct {
		claim string
		given func(*situation, *action)
		want  gates
	}{
		{"what is stale, settled and free waits for nothing", func(*situation, *action) {}, nil},
		{"nobody is kicked while the sync gate is closed", func(s *situation, _ *action) {
			s.sync = api.Sync{Why: "calling the roll", Until: in(time.Second)}
		}, gates{{api.GateSynced, "calling the roll", in(time.Second)}}},
		{"nobody is kicked into the list of a role that may be a typo", func(s *situation, a *action) {
			mustNeed(s.roles, "wbe")
			a.needs = needing(s.roles, "wbe")
			published(s.roles)
		}, gates{{api.GateUnknown, "no node has ever borne wbe and nothing declares it", time.Time{}}}},
		{"a role that was ever borne may be empty", func(s *situation, a *action) {
			for _, name := range []string{"web1", "web2"} {
				was := serving(name, inventory.Facts{"role": "web"})
				left := *was
				left.Life = inventory.Left
				_ = s.roles.move(was, &left, ago(time.Minute))
			}
			published(s.roles)
		}, nil},
		{"a role that is configured may be empty", func(s *situation, a *action) {
			mustNeed(s.roles, "db").configured = true
			a.needs = needing(s.roles, "db")
			published(s.roles)
		}, nil},
		{"a burst of changes is waited for", func(_ *situation, a *action) {
			a.from = ago(400 * time.Millisecond)
		}, gates{{api.GateSettle, "more changes may follow", in(600 * time.Millisecond)}}},
		{"unless settling is off", func(s *situation, a *action) {
			a.from, a.memory.kicked, s.cfg.Settle = noon, ago(time.Second), 0
		}, nil},
		{"two kicks of an action are five seconds apart", func(_ *situation, a *action) {
			a.memory.kicked = ago(2 * time.Second)
		}, gates{{api.GateSettle, "more changes may follow", in(3 * time.Second)}}},
		{"or four times what its last run took", func(_ *situation, a *action) {
			a.memory.kicked, a.memory.took = ago(2*time.Second), 10*time.Second
		}, gates{{api.GateSettle, "more changes may follow", in(38 * time.Second)}}},
		{"or a minute", func(_ *situation, a *action) {
			a.memory.kicked, a.memory.took = ago(2*time.Second), time.Hour
		}, gates{{api.GateSettle, "more changes may follow", in(58 * time.Second)}}},
		{"a run in progress is waited for", func(_ *situation, a *action) {
			a.running = &kick.Running{Run: "r1", Action: "reload"}
		}, gates{{api.GateRunning, "run r1 of reload", time.Time{}}}},
		{"of another action too", func(_ *situation, a *action) {
			a.running = &kick.Running{Run: "r1", Action: "other"}
		}, gates{{api.GateRunning, "run r1 of other", time.Time{}}}},
		{"and a kick on its way, until its deadline", func(_ *situation, a *action) {
			a.flight = &flight{id: "r1", action: "reload", deadline: in(time.Minute)}
		}, gates{{api.GateRunning, "run r1 of reload", in(time.Minute)}}},
		{"a failed run spaces the next", func(s *situation, a *action) {
			a.memory.failures, a.memory.notBefore, a.memory.why = 1, in(5*time.Second), "it failed"
			a.memory.tried = s.roles.fingerprint(a)
		}, gates{{api.GateBackoff, "it failed", in(5 * time.Second)}}},
		{"but what is needed now and did not fail is not tried at once", func(_ *situation, a *action) {
			a.memory.failures, a.memory.notBefore, a.memory.why, a.memory.tried, a.memory.sent = 1, in(time.Minute), "it failed", "1-other", ago(time.Second)
		}, gates{{api.GateBackoff, "it failed", in(DefaultConfig().Backoff.Initial - time.Second)}}},
		{"though as soon as any other", func(_ *situation, a *action) {
			a.memory.failures, a.memory.notBefore, a.memory.tried, a.memory.sent = 1, in(time.Minute), "1-other", ago(time.Minute)
		}, nil},
		{"backoff that is over is no gate", func(_ *situation, a *action) {
			a.memory.failures, a.memory.notBefore = 1, noon
		}, nil},
		{"nobody is kicked while another controller leads", func(s *situation, _ *action) {
			s.notLeading = "controller ctl2 leads"
		}, gates{{api.GateLeader, "controller ctl2 leads", time.Time{}}}},
		{"a needed role that is not accounted for is waited for", func(s *situation, _ *action) {
			s.roles.byName["web"].gate = roleGate{why: "lb9/reload was asked whom it is configured with", until: in(time.Second)}
		}, gates{{api.GateSynced, "role web: lb9/reload was asked whom it is configured with", in(time.Second)}}},
		{"a role that is needed by others only is not", func(s *situation, _ *action) {
			mustNeed(s.roles, "db").gate = roleGate{}
		}, nil},
		{"nobody is kicked where the mode is observe", func(s *situation, _ *action) {
			s.cfg.Mode = ModeObserve
		}, gates{{api.GateObserve, "the mode is observe: else it would be kicked", time.Time{}}}},
		{"not even by an order", func(s *situation, a *action) {
			s.cfg.Mode, a.forced = ModeObserve, &order{}
		}, gates{{api.GateObserve, "the mode is observe: else it would be kicked", time.Time{}}}},
		{"nor where that of a role that its node bears is", func(s *situation, _ *action) {
			inModes(s.roles, "lb1", ModeAct, ModeObserve, ModeAct)
		}, gates{{api.GateObserve, "the mode of role lb1-2 is observe: else it would be kicked", time.Time{}}}},
		{"that of a role that it needs is none of its own", func(s *situation, _ *action) {
			s.roles.byName["web"].Mode = ModeObserve
		}, nil},
		{"one role after the other may begin", func(s *situation, _ *action) {
			s.cfg.Mode = ModeObserve
			inModes(s.roles, "lb1", "", ModeAct)
		}, nil},
		{"a role without a mode of its own has the cluster's", func(s *situation, _ *action) {
			s.cfg.Mode = ModeObserve
			inModes(s.roles, "lb1", "")
		}, gates{{api.GateObserve, "the mode is observe: else it would be kicked", time.Time{}}}},
		{"a list that is too short is waited for to grow", func(s *situation, _ *action) {
			s.roles.byName["web"].MinMembers = 3
		}, gates{{api.GateMinMembers, "role web has 2 members, fewer than its min_members 3", time.Time{}}}},
		{"from one member too", func(s *situation, a *action) {
			web1 := serving("web1", inventory.Facts{"role": "web"})
			left := *web1
			left.Life = inventory.Left
			_ = s.roles.move(web1, &left, ago(time.Minute))
			published(s.roles)
			s.roles.byName["web"].MinMembers = 2
		}, gates{{api.GateMinMembers, "role web has 1 member, fewer than its min_members 2", time.Time{}}}},
		{"though not one that is just long enough", func(s *situation, _ *action) {
			s.roles.byName["web"].MinMembers = 2
		}, nil},
		{"nobody is kicked when it is not clear what it depends on", func(_ *situation, a *action) {
			a.unresolved = "the node itself has no fact environment"
		}, gates{{api.GateUnknown, "the node itself has no fact environment", time.Time{}}}},
		{"as many runs as may be are in progress in the cluster", func(s *situation, _ *action) {
			s.cfg.InFlight = 2
			runs(s, "other1", "other2")
		}, gates{{api.GateBudget, "2 runs in progress in the cluster, as many as in_flight allows", time.Time{}}}},
		{"even if it is one", func(s *situation, _ *action) {
			s.cfg.InFlight = 1
			runs(s, "other1")
		}, gates{{api.GateBudget, "1 run in progress in the cluster, as many as in_flight allows", time.Time{}}}},
		{"as many runs as may be are in progress on the nodes of its role", func(s *situation, _ *action) {
			bear(s.roles, "lb", "lb1", "lb2", "lb3")
			runs(s, "lb3")
		}, gates{{api.GateBudget, "something runs on 1 of 3 nodes of role lb, as many as its budget 10% allows", time.Time{}}}},
		{"runs of other roles take nothing of its budget", func(s *situation, _ *action) {
			bear(s.roles, "lb", "lb1")
			bear(s.roles, "db", "db1")
			runs(s, "db1")
		}, nil},
		{"each of its roles has a budget of its own", func(s *situation, _ *action) {
			bear(s.roles, "lb", "lb1", "lb2")
			s.roles.byName["lb"].Budget = "2"
			bear(s.roles, "edge", "lb1", "e1")
			runs(s, "lb2", "e1")
		}, gates{{api.GateBudget, "something runs on 1 of 2 nodes of role edge, as many as its budget 10% allows", time.Time{}}}},
		{"a revision that failed on three nodes is tried on one node at a time", func(s *situation, _ *action) {
			fails(s.roles.byName["web"], 3)
			runs(s, "lb9")
		}, gates{{api.GateRollout, "role web: 3 nodes failed with revision " + twoWebs + " and none succeeded: one at a time, now lb9/run", time.Time{}}}},
		{"though on one it is", func(s *situation, _ *action) {
			fails(s.roles.byName["web"], 3)
		}, nil},
		{"a revision that failed on two nodes is tried everywhere", func(s *situation, _ *action) {
			fails(s.roles.byName["web"], 2)
			runs(s, "lb9")
		}, nil},
		{"an order does not wait for a burst to be over", func(_ *situation, a *action) {
			a.forced, a.from, a.memory.kicked = &order{}, noon, noon
		}, nil},
		{"but for a run in progress, the sync gate, and its own refusal", func(s *situation, a *action) {
			a.forced, a.running = &order{}, &kick.Running{Run: "r1", Action: "reload"}
			s.sync = api.Sync{Why: "calling the roll"}
			a.memory.notBefore, a.memory.why = in(time.Second), "refused"
		}, gates{
			{api.GateSynced, "calling the roll", time.Time{}}, {api.GateRunning, "run r1 of reload", time.Time{}},
			{api.GateBackoff, "refused", in(time.Second)},
		}},
		{"all reasons are told at once, and only who has none other waits for a place", func(s *situation, a *action) {
			s.cfg.InFlight = 1
			runs(s, "other1")
			s.roles.byName["web"].MinMembers = 3
			a.from = noon
			a.memory.notBefore, a.memory.why = in(time.Minute), "it failed"
		}, gates{
			{api.GateMinMembers, "role web has 2 members, fewer than its min_members 3", time.Time{}},
			{api.GateSettle, "more changes may follow", in(time.Second)}, {api.GateBackoff, "it failed", in(time.Minute)},
		}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			s, a := hourOld(t)
			c.given(&s, a)
			v := plan(s, noon)[0]
			if v.State == api.Converged {
				t.Fatalf("the verdict is %+v, want stale", v)
			}
			if diff := cmp.Diff(c.want, v.Gates); diff != "" {
				t.Errorf("gates: want -, have +:\n%s", diff)
			}
		})
	}
}

// twoWebs is the hash of web as hourOld has it.
var twoWebs = kick.Hash([]kick.Member{{Node: "web1", Facts: map[string]any{}}, {Node: "web2", Facts: map[string]any{}}})

// bear makes nodes bear a role, without being members of it.
func bear(rs *roles, role string, nodes ...string) {
	for _, name := range nodes {
		r := mustNeed(rs, role)
		r.nodes[name] = struct{}{}
		rs.of[name] = append(rs.of[name], r)
	}
}

// runs is that on each of these nodes an action which needs web, and has nothing to wait for but itself, runs.
func runs(s *situation, nodes ...string) {
	for _, name := range nodes {
		s.actions = append(s.actions, &action{
			node: name, name: "run", needs: needing(s.roles, "web"), memory: &memory{}, running: &kick.Running{Run: "r", Action: "run"},
		})
	}
}

// fails is that the current revision of a role failed on so many nodes.
func fails(r *role, nodes int) {
	r.failed = map[string]struct{}{}
	for i := range nodes {
		r.failed[fmt.Sprint("lb", i+10)] = struct{}{}
	}
}

func TestStates(t *testing.T) {
	for _, c := range []struct {
		claim  string
		given  func(*situation, *action, kick.Revision)
		state  api.State
		reason string
	}{
		{"what was never applied is wanted", func(*situation, *action, kick.Revision) {}, api.Pending, "web: never applied"},
		{"what is applied is converged", func(_ *situation, a *action, now kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": now}
		}, api.Converged, ""},
		{"equal members are the same, whoever published them", func(_ *situation, a *action, now kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": {Epoch: 1, N: 99, Hash: now.Hash}}
		}, api.Converged, ""},
		{"what changed since is told", func(s *situation, a *action, now kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": now}
			_ = s.roles.move(nil, serving("web3", inventory.Facts{"role": "web"}), noon)
			_ = s.roles.move(serving("web1", inventory.Facts{"role": "web"}), nil, noon)
			_ = s.roles.move(nil, serving("web2", inventory.Facts{"role": "web", "port": 1.0}), noon)
			published(s.roles)
		}, api.Pending, "web: +web3 -web1 ~web2"},
		{"unless it is not remembered", func(_ *situation, a *action, _ kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": {Hash: "1-old"}}
		}, api.Pending, "web: another membership was applied"},
		{"a run that began and did not succeed leaves it stale, though all is applied", func(_ *situation, a *action, now kick.Revision) {
			a.status.Applied, a.status.Dirty = map[string]kick.Revision{"web": now}, true
		}, api.Pending, "its last run did not succeed"},
		{"who depends on nothing is never stale", func(_ *situation, a *action, _ kick.Revision) {
			a.needs, a.status.Dirty = nil, true
		}, api.Converged, ""},
		{"but may be ordered", func(_ *situation, a *action, _ kick.Revision) {
			a.needs, a.forced = nil, &order{KickOrder: api.KickOrder{By: "ann"}}
		}, api.Pending, "ordered by ann"},
		{"after a failure it is failing", func(_ *situation, a *action, _ kick.Revision) {
			a.memory.failures = 1
		}, api.Failing, "web: never applied"},
		{"who needs a role that is not accounted for may be stale", func(s *situation, a *action, _ kick.Revision) {
			a.needs = needing(s.roles, "db")
		}, api.Pending, "db: not known yet"},
		{"so may who says that it applied the membership of before", func(s *situation, a *action, now kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": now}
			s.roles.byName["web"].gate.open = false
		}, api.Pending, "web: not known yet"},
		{"who depends on what is not clear may be stale", func(_ *situation, a *action, now kick.Revision) {
			a.status.Applied, a.unresolved = map[string]kick.Revision{"web": now}, "the node itself has no fact environment"
		}, api.Pending, "what it depends on is not clear"},
		{"a narrowed role is compared by the name that its node gives it", func(s *situation, a *action, now kick.Revision) {
			a.needs = []need{{as: "front", role: s.roles.byName["web"], shared: "site=a"}}
			a.status.Applied = map[string]kick.Revision{"front": now}
		}, api.Converged, ""},
		{"every need is a reason of its own", func(s *situation, a *action, _ kick.Revision) {
			mustNeed(s.roles, "db")
			published(s.roles)
			a.needs = needing(s.roles, "web", "db")
		}, api.Pending, "web: never applied; db: never applied"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			s, a := hourOld(t)
			c.given(&s, a, s.roles.byName["web"].now.Revision)
			v := plan(s, noon)[0]
			if v.State != c.state || v.Reason != c.reason {
				t.Errorf("the verdict is %s (%q), want %s (%q)", v.State, v.Reason, c.state, c.reason)
			}
			if _, stale := s.roles.stale(a, noon); stale != (v.State != api.Converged && a.forced == nil) {
				t.Errorf("stale: %t, and the verdict is %s", stale, v.State)
			}
		})
	}
}

func TestOfTwoActionsOfANodeTheFirstIsKicked(t *testing.T) {
	s, a := hourOld(t)
	second := *a
	second.name, second.memory = "second", &memory{}
	s.actions = append(s.actions, &second)
	verdicts := plan(s, noon)
	if len(verdicts[0].Gates) != 0 || len(verdicts[1].Gates) != 1 || verdicts[1].Gates[0].Name != api.GateRunning {
		t.Errorf("the gates are %+v and %+v, want none and running", verdicts[0].Gates, verdicts[1].Gates)
	}
}

func TestOrderCarriesWhatIsCurrent(t *testing.T) {
	s, a := hourOld(t)
	k := a.order(plan(s, noon)[0], "r1", api.Identity{ID: "me", Epoch: 7})
	want := kick.Kick{
		V: kick.Version, ID: "r1", Controller: "me", Epoch: 7, Node: "lb1", Action: "reload", Reason: "web: never applied",
		Needs: []kick.Membership{s.roles.byName["web"].now},
	}
	if diff := cmp.Diff(want, k); diff != "" {
		t.Errorf("want -, have +:\n%s", diff)
	}
	if got := kick.Hash(k.Needs[0].Members); got != k.Needs[0].Revision.Hash || len(k.Needs[0].Members) != 2 {
		t.Errorf("the members' hash is %s, their revision says %s", got, k.Needs[0].Revision.Hash)
	}
	a.needs[0].as = "frontends"
	if k := a.order(api.Verdict{}, "r2", api.Identity{}); k.Needs[0].Role != "frontends" {
		t.Errorf("the node, which says frontends, is told of %q", k.Needs[0].Role)
	}
}

func TestPlanKeepsItsPromises(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		before := shown(s)
		verdicts := plan(s, noon)
		if diff := cmp.Diff(verdicts, plan(s, noon)); diff != "" {
			t.Fatalf("the same situation has two plans:\n%s", diff)
		}
		if diff := cmp.Diff(before, shown(s)); diff != "" {
			t.Fatalf("the plan changed what it was made from:\n%s", diff)
		}
		ran, all := places(s, nil), places(s, verdicts)
		kicked := map[string]bool{}
		for i, v := range verdicts {
			a := s.actions[i]
			for _, g := range v.Gates {
				seen[g.Name]++
			}
			_, stale := s.roles.stale(a, noon)
			switch {
			case v.State == api.Converged && len(v.Gates) > 0:
				t.Fatalf("converged, and waits: %+v", v)
			case v.State == api.Converged && (stale || a.forced != nil):
				t.Fatalf("stale or ordered, and called converged: %+v", v)
			case v.State == api.Converged:
				continue
			case len(v.Gates) > 0:
				for _, g := range v.Gates {
					if g.Why == "" {
						t.Fatalf("gate %s has no reason", g.Name)
					}
				}
				if names := gateNames(v); strings.Trim(names, "budget ") == "" && !all.full(s, a) {
					t.Fatalf("%s/%s is refused a place, and there is one: %+v", v.Node, v.Action, v.Gates)
				}
				continue
			case !stale && a.forced == nil:
				t.Fatalf("kicked, and neither stale nor ordered: %+v", v)
			case kicked[v.Node] || a.flight != nil || a.running != nil:
				t.Fatalf("two runs on %s", v.Node)
			case !s.sync.Open || s.notLeading != "" || a.unresolved != "":
				t.Fatalf("kicked with sync %+v, not leading because %q, unresolved %q", s.sync, s.notLeading, a.unresolved)
			}
			seen["kicked"]++
			kicked[v.Node] = true
			for _, need := range a.needs {
				if !need.role.gate.open || need.role.unheardOf() || len(need.role.now.Members) < need.role.MinMembers {
					t.Fatalf("kicked with role %+v", need.role)
				}
			}
		}
		if all.nodes > max(s.cfg.InFlight, ran.nodes) {
			t.Fatalf("%d runs at once, %d before, and in_flight is %d", all.nodes, ran.nodes, s.cfg.InFlight)
		}
		for r, n := range all.roles {
			if n > max(r.budget(), ran.roles[r]) {
				t.Fatalf("%d runs on nodes of %s, %d before, and its budget is %d", n, r.Name, ran.roles[r], r.budget())
			}
		}
		for r, n := range all.tries {
			if len(r.failed) >= brokenAfter && n > max(1, ran.tries[r]) {
				t.Fatalf("%d runs try %s, %d before, and it failed on %d nodes", n, r.Name, ran.tries[r], len(r.failed))
			}
		}
		due := next(verdicts)
		most := 7 * 24 * time.Hour
		if !due.IsZero() {
			most = due.Sub(noon) - 1
		}
		later := noon.Add(time.Duration(rapid.Int64Range(0, int64(max(most, 0))).Draw(t, "later")))
		if diff := cmp.Diff(verdicts, plan(s, later)); diff != "" {
			t.Fatalf("next is %s, and %s the plan is another:\n%s", due, later, diff)
		}
	})
	for _, what := range []string{
		"kicked", api.GateLeader, api.GateSynced, api.GateUnknown, api.GateMinMembers, api.GateSettle, api.GateRunning, api.GateBudget, api.GateRollout, api.GateBackoff,
	} {
		if seen[what] == 0 {
			t.Errorf("%q never happened: the test shows less than it says; %v", what, seen)
		}
	}
}

func gateNames(v api.Verdict) string {
	var names []string
	for _, g := range v.Gates {
		names = append(names, g.Name)
	}
	return strings.Join(names, " ")
}

// taken is the places that runs have: those in progress, and those that a plan begins.
type taken struct {
	nodes int
	roles map[*role]int // by the roles that the nodes bear
	tries map[*role]int // by the roles that the actions need
}

func places(s situation, verdicts []api.Verdict) taken {
	n := taken{roles: map[*role]int{}, tries: map[*role]int{}}
	busy := map[string]bool{}
	for i, a := range s.actions {
		begins := verdicts != nil && verdicts[i].State != api.Converged && len(verdicts[i].Gates) == 0
		if runsNow := a.running != nil && a.running.Action == a.name || a.flight != nil && a.flight.action == a.name; begins || runsNow {
			for _, need := range a.needs {
				n.tries[need.role]++
			}
		}
		if begins || a.running != nil || a.flight != nil {
			busy[a.node] = true
		}
	}
	for _, stray := range s.strays {
		for _, r := range stray.tries {
			n.tries[r]++
		}
		for _, r := range stray.bears {
			n.roles[r]++
		}
	}
	n.nodes = len(busy) + len(s.strays)
	for node := range busy {
		for _, r := range s.roles.of[node] {
			n.roles[r]++
		}
	}
	return n
}

// full reports whether one more run, of that action, would be too many.
func (n taken) full(s situation, a *action) bool {
	return n.nodes >= s.cfg.InFlight || slices.ContainsFunc(s.roles.of[a.node], func(r *role) bool { return n.roles[r] >= r.budget() })
}

func drawSituation(t *rapid.T) situation {
	rs := newTestRoles(t)
	moments := rapid.Int64Range(-int64(2*time.Minute), int64(20*time.Second))
	moment := func(what string) time.Time { return noon.Add(time.Duration(moments.Draw(t, what))) }
	sometimes := func(what string) bool { return rapid.IntRange(0, 9).Draw(t, what) == 0 }
	for i := range rapid.IntRange(0, 4).Draw(t, "members") {
		role := rapid.SampledFrom([]string{"web", "db"}).Draw(t, "role")
		rs.mustMove(nil, serving(fmt.Sprint("m", i), inventory.Facts{"role": role}), ago(time.Hour))
	}
	mustNeed(rs.roles, "web")
	mustNeed(rs.roles, "db")
	rs.publish()
	for _, name := range []string{"web", "db"} {
		r := rs.byName[name]
		if sometimes("closed") {
			r.gate = roleGate{why: "members are missing", until: in(5 * time.Second)}
		}
		if sometimes("too few") {
			r.MinMembers = 5
		}
		r.configured = !sometimes("unheard of")
		fails(r, rapid.SampledFrom([]int{0, 2, 3, 4}).Draw(t, "failed"))
	}
	s := situation{cfg: DefaultConfig(), roles: rs.roles, sync: api.Sync{Open: !sometimes("not synced")}}
	if !s.sync.Open {
		s.sync.Why, s.sync.Until = "calling the roll", in(rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, "opens"))
	}
	if sometimes("follows") {
		s.notLeading = "controller ctl2 leads"
	}
	s.cfg.InFlight = rapid.IntRange(1, 5).Draw(t, "in flight")
	for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
		node := fmt.Sprint("n", i)
		for _, role := range []string{"lb", "edge"} {
			if rapid.Bool().Draw(t, role) {
				bear(rs.roles, role, node)
				rs.byName[role].Budget = rapid.SampledFrom([]Budget{DefaultBudget, "50%", "2", "100%"}).Draw(t, "budget")
			}
		}
		var running *kick.Running
		var flying *flight
		switch first := fmt.Sprint("a", rapid.IntRange(0, 2).Draw(t, "which")); rapid.IntRange(0, 7).Draw(t, "busy") {
		case 0:
			running = &kick.Running{Run: "r", Action: first}
		case 1:
			flying = &flight{id: "f", action: first, deadline: in(time.Minute)}
		}
		for j := range rapid.IntRange(1, 3).Draw(t, "actions") {
			a := &action{node: node, name: fmt.Sprint("a", j), memory: &memory{}, running: running, flight: flying}
			a.needs = needing(rs.roles, rapid.SampledFrom([][]string{nil, {"web"}, {"db"}, {"web", "db"}}).Draw(t, "needs")...)
			a.status.Dirty = rapid.Bool().Draw(t, "dirty")
			a.status.Applied = map[string]kick.Revision{}
			for _, need := range a.needs {
				if rapid.Bool().Draw(t, "applied") {
					a.status.Applied[need.as] = need.role.now.Revision
				}
			}
			if sometimes("unresolved") {
				a.unresolved = "the node itself has no fact site"
			}
			a.from, a.since = moment("from"), moment("since")
			if sometimes("failing") {
				a.memory.failures, a.memory.notBefore, a.memory.why = 1, moment("not before"), "it failed"
				if sometimes("with these needs") {
					a.memory.tried = s.roles.fingerprint(a)
				}
			}
			if sometimes("kicked before") {
				a.memory.kicked, a.memory.took = moment("kicked"), time.Duration(rapid.IntRange(0, 20).Draw(t, "took"))*time.Second
			}
			if sometimes("forced") {
				a.forced = &order{}
			}
			s.actions = append(s.actions, a)
		}
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "strays") {
		stray := stray{key: key{fmt.Sprint("gone", i), "a0"}, gone: rapid.Bool().Draw(t, "gone")}
		for _, name := range []string{"lb", "edge"} {
			if r := rs.byName[name]; r != nil && rapid.Bool().Draw(t, "bore "+name) {
				stray.bears = append(stray.bears, r)
			}
		}
		if rapid.Bool().Draw(t, "handed web") {
			stray.tries = []*role{rs.byName["web"]}
		}
		s.strays = append(s.strays, stray)
	}
	return s
}

func TestWhoWaitsLongestIsFirst(t *testing.T) {
	s, a := hourOld(t)
	s.cfg.InFlight = 1
	older, younger, never := *a, *a, *a
	older.node, younger.node, never.node = "lb2", "lb3", "lb4"
	older.since = ago(2 * time.Hour)
	younger.since = ago(time.Minute)
	a.memory = &memory{sent: ago(time.Hour)} // as long as never, which was never kicked
	s.actions = append(s.actions, &older, &younger, &never)
	var order []string
	for range s.actions {
		for i, v := range plan(s, noon) {
			if len(v.Gates) == 0 {
				order = append(order, v.Node)
				s.actions = slices.Delete(s.actions, i, i+1)
				break
			}
		}
	}
	if want := []string{"lb2", "lb4", "lb1", "lb3"}; !slices.Equal(order, want) {
		t.Errorf("they are kicked in the order %q, want %q", order, want)
	}
}

func TestBrokenRevisionIsTriedWhereItWasTriedLeastRecently(t *testing.T) {
	s, a := hourOld(t)
	s.cfg.InFlight = 1
	fails(s.roles.byName["web"], 3)
	for i, kicked := range []time.Time{ago(time.Minute), {}, ago(10 * time.Minute)} {
		other := *a
		other.node, other.since, other.memory = fmt.Sprint("lb", i+2), ago(2*time.Hour), &memory{sent: kicked}
		s.actions = append(s.actions, &other)
	}
	a.memory.sent = ago(5 * time.Minute)
	var order []string
	for range s.actions {
		for i, v := range plan(s, noon) {
			if len(v.Gates) == 0 {
				order = append(order, v.Node)
				s.actions = slices.Delete(s.actions, i, i+1)
				break
			}
		}
	}
	if want := []string{"lb3", "lb4", "lb1", "lb2"}; !slices.Equal(order, want) {
		t.Errorf("they are kicked in the order %q, want %q", order, want)
	}
}

// Whoever is stale is kicked some time, whatever else goes on: runs that succeed, fail, and fail everywhere.
func TestNobodyStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs := newTestRoles(t)
		for _, role := range []string{"web", "db"} {
			rs.mustMove(nil, serving("m-"+role, inventory.Facts{"role": role}), ago(time.Hour))
		}
		rs.publish()
		s := situation{cfg: DefaultConfig(), sync: api.Sync{Open: true}, roles: rs.roles}
		s.cfg.InFlight = rapid.IntRange(1, 3).Draw(t, "in flight")
		const nodes = 9
		rounds := map[string]int{} // of waiting
		for i := range nodes {
			node := fmt.Sprint("lb", i)
			bear(rs.roles, "lb", node)
			needs := rapid.SampledFrom([][]string{{"web"}, {"db"}, {"web", "db"}}).Draw(t, "needs")
			s.actions = append(s.actions, &action{
				node: node, name: "reload", needs: needing(rs.roles, needs...), since: ago(time.Hour), from: ago(time.Hour), memory: &memory{},
			})
		}
		rs.byName["lb"].Budget = rapid.SampledFrom([]Budget{DefaultBudget, "3"}).Draw(t, "budget")
		now := noon
		for range 12 * nodes {
			now = now.Add(2 * time.Minute)
			for i, v := range plan(s, now) {
				a := s.actions[i]
				if len(v.Gates) > 0 {
					if rounds[a.node]++; rounds[a.node] > 3*nodes {
						t.Fatalf("%s waits for %+v since %d rounds", a.node, v.Gates, rounds[a.node])
					}
					continue
				}
				rounds[a.node] = 0
				a.memory.sent, a.memory.kicked = now, now
				f := flight{node: a.node}
				for _, need := range a.needs {
					f.handed = append(f.handed, handed{need.role, need.role.now.Revision.Hash})
				}
				succeeded := rapid.IntRange(0, 9).Draw(t, "outcome") == 0
				f.ended(succeeded)
				if succeeded {
					a.since = now // and stale again at once
				}
			}
		}
	})
}

// shown is all that a plan may read, by value.
func shown(s situation) []string {
	var all []string
	for _, a := range s.actions {
		all = append(all, fmt.Sprintf("%+v %+v %+v", *a, *a.memory, a.status.Applied))
	}
	for _, name := range sortedKeys(s.roles.byName) {
		r := s.roles.byName[name]
		all = append(all, fmt.Sprintf("%s %+v %v %v %t %v %v %+v", name, r.now, r.nodes, r.members, r.changed, r.past, r.failed, r.gate))
	}
	return append(all, fmt.Sprintf("%+v %s %+v", s.sync, s.notLeading, s.cfg))
}
