package controller

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

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
	rs.publish(7)
	a := &action{node: "lb1", name: "reload", needs: []string{"web"}, since: ago(time.Hour), from: ago(time.Hour), memory: &memory{}}
	return situation{cfg: DefaultConfig(), sync: Sync{Open: true}, roles: rs.roles, actions: []*action{a}}, a
}

func TestGates(t *testing.T) {
	type gates = []Gate
	for _, c := range []struct {
		claim string
		given func(*situation, *action)
		want  gates
	}{
		{"what is stale, settled and free waits for nothing", func(*situation, *action) {}, nil},
		{"nobody is kicked while the sync gate is closed", func(s *situation, _ *action) {
			s.sync = Sync{Why: "calling the roll", Until: in(time.Second)}
		}, gates{{GateSynced, "calling the roll", in(time.Second)}}},
		{"nobody is kicked into the list of a role that may be a typo", func(s *situation, a *action) {
			mustNeed(s.roles, "wbe")
			a.needs = []string{"wbe"}
			s.roles.publish(7)
		}, gates{{GateUnknown, "no node has ever borne wbe and nothing declares it", time.Time{}}}},
		{"a role that was ever borne may be empty", func(s *situation, a *action) {
			for _, name := range []string{"web1", "web2"} {
				_ = s.roles.move(serving(name, inventory.Facts{"role": "web"}), nil, ago(time.Minute))
			}
			s.roles.publish(7)
		}, nil},
		{"a role that is configured may be empty", func(s *situation, a *action) {
			mustNeed(s.roles, "db").configured = true
			a.needs = []string{"db"}
			s.roles.publish(7)
		}, nil},
		{"a burst of changes is waited for", func(_ *situation, a *action) {
			a.from = ago(400 * time.Millisecond)
		}, gates{{GateSettling, "more changes may follow", in(600 * time.Millisecond)}}},
		{"unless settling is off", func(s *situation, a *action) {
			a.from, a.memory.kicked, s.cfg.Settle = noon, ago(time.Second), 0
		}, nil},
		{"two kicks of an action are five seconds apart", func(_ *situation, a *action) {
			a.memory.kicked = ago(2 * time.Second)
		}, gates{{GateSettling, "more changes may follow", in(3 * time.Second)}}},
		{"or four times what its last run took", func(_ *situation, a *action) {
			a.memory.kicked, a.memory.took = ago(2*time.Second), 10*time.Second
		}, gates{{GateSettling, "more changes may follow", in(38 * time.Second)}}},
		{"or a minute", func(_ *situation, a *action) {
			a.memory.kicked, a.memory.took = ago(2*time.Second), time.Hour
		}, gates{{GateSettling, "more changes may follow", in(58 * time.Second)}}},
		{"a run in progress is waited for", func(_ *situation, a *action) {
			a.running = &kick.Running{Run: "r1", Action: "reload"}
		}, gates{{GateRunning, "run r1 of reload", time.Time{}}}},
		{"of another action too", func(_ *situation, a *action) {
			a.running = &kick.Running{Run: "r1", Action: "other"}
		}, gates{{GateRunning, "run r1 of other", time.Time{}}}},
		{"and a kick on its way, until its deadline", func(_ *situation, a *action) {
			a.flight = &flight{id: "r1", action: "reload", deadline: in(time.Minute)}
		}, gates{{GateRunning, "run r1 of reload", in(time.Minute)}}},
		{"a failed run spaces the next", func(_ *situation, a *action) {
			a.memory.failures, a.memory.notBefore, a.memory.why = 1, in(5*time.Second), "it failed"
		}, gates{{GateBackoff, "it failed", in(5 * time.Second)}}},
		{"backoff that is over is no gate", func(_ *situation, a *action) {
			a.memory.failures, a.memory.notBefore = 1, noon
		}, nil},
		{"as many runs as may be are in progress", func(s *situation, _ *action) {
			s.flights = maxFlights
		}, gates{{GateBudget, "256 runs are in progress in the cluster", time.Time{}}}},
		{"an order does not wait for a burst to be over", func(_ *situation, a *action) {
			a.forced, a.from, a.memory.kicked = &order{}, noon, noon
		}, nil},
		{"but for a run in progress, the sync gate, and its own refusal", func(s *situation, a *action) {
			a.forced, a.running = &order{}, &kick.Running{Run: "r1", Action: "reload"}
			s.sync = Sync{Why: "calling the roll"}
			a.memory.notBefore, a.memory.why = in(time.Second), "refused"
		}, gates{
			{GateSynced, "calling the roll", time.Time{}}, {GateRunning, "run r1 of reload", time.Time{}},
			{GateBackoff, "refused", in(time.Second)},
		}},
		{"all reasons are told at once", func(s *situation, a *action) {
			s.flights = maxFlights
			a.from = noon
			a.memory.notBefore, a.memory.why = in(time.Minute), "it failed"
		}, gates{
			{GateSettling, "more changes may follow", in(time.Second)}, {GateBackoff, "it failed", in(time.Minute)},
			{GateBudget, "256 runs are in progress in the cluster", time.Time{}},
		}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			s, a := hourOld(t)
			c.given(&s, a)
			v := plan(s, noon)[0]
			if v.State == Converged {
				t.Fatalf("the verdict is %+v, want stale", v)
			}
			if diff := cmp.Diff(c.want, v.Gates); diff != "" {
				t.Errorf("gates: want -, have +:\n%s", diff)
			}
		})
	}
}

func TestStates(t *testing.T) {
	for _, c := range []struct {
		claim  string
		given  func(*situation, *action, kick.Revision)
		state  State
		reason string
	}{
		{"what was never applied is wanted", func(*situation, *action, kick.Revision) {}, Wanted, "web: never applied"},
		{"what is applied is converged", func(_ *situation, a *action, now kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": now}
		}, Converged, ""},
		{"equal members are the same, whoever published them", func(_ *situation, a *action, now kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": {Epoch: 1, N: 99, Hash: now.Hash}}
		}, Converged, ""},
		{"what changed since is told", func(s *situation, a *action, now kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": now}
			_ = s.roles.move(nil, serving("web3", inventory.Facts{"role": "web"}), noon)
			_ = s.roles.move(serving("web1", inventory.Facts{"role": "web"}), nil, noon)
			_ = s.roles.move(nil, serving("web2", inventory.Facts{"role": "web", "port": 1.0}), noon)
			s.roles.publish(7)
		}, Wanted, "web: +web3 -web1 ~web2"},
		{"unless it is not remembered", func(_ *situation, a *action, _ kick.Revision) {
			a.status.Applied = map[string]kick.Revision{"web": {Hash: "1-old"}}
		}, Wanted, "web: another membership was applied"},
		{"a run that began and did not succeed leaves it stale, though all is applied", func(_ *situation, a *action, now kick.Revision) {
			a.status.Applied, a.status.Dirty = map[string]kick.Revision{"web": now}, true
		}, Wanted, "its last run did not succeed"},
		{"who depends on nothing is never stale", func(_ *situation, a *action, _ kick.Revision) {
			a.needs, a.status.Dirty = nil, true
		}, Converged, ""},
		{"but may be ordered", func(_ *situation, a *action, _ kick.Revision) {
			a.needs, a.forced = nil, &order{KickOrder: KickOrder{By: "ann"}}
		}, Wanted, "ordered by ann"},
		{"after a failure it is failing", func(_ *situation, a *action, _ kick.Revision) {
			a.memory.failures = 1
		}, Failing, "web: never applied"},
		{"what has not been published is no reason", func(s *situation, a *action, _ kick.Revision) {
			mustNeed(s.roles, "db")
			a.needs = []string{"db"}
		}, Converged, ""},
		{"every need is a reason of its own", func(s *situation, a *action, _ kick.Revision) {
			mustNeed(s.roles, "db")
			s.roles.publish(7)
			a.needs = []string{"web", "db"}
		}, Wanted, "web: never applied; db: never applied"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			s, a := hourOld(t)
			c.given(&s, a, s.roles.byName["web"].now.Revision)
			v := plan(s, noon)[0]
			if v.State != c.state || v.Reason != c.reason {
				t.Errorf("the verdict is %s (%q), want %s (%q)", v.State, v.Reason, c.state, c.reason)
			}
			if _, stale := s.roles.stale(a, noon); stale != (v.State != Converged && a.forced == nil) {
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
	if len(verdicts[0].Gates) != 0 || len(verdicts[1].Gates) != 1 || verdicts[1].Gates[0].Name != GateRunning {
		t.Errorf("the gates are %+v and %+v, want none and running", verdicts[0].Gates, verdicts[1].Gates)
	}
}

func TestOrderCarriesWhatIsCurrent(t *testing.T) {
	s, _ := hourOld(t)
	k := s.order(plan(s, noon)[0], "r1", Identity{ID: "me", Epoch: 7}, false)
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
}

func TestPlanKeepsItsPromises(t *testing.T) {
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
		kicked := map[string]bool{}
		for i, v := range verdicts {
			a := s.actions[i]
			_, stale := s.roles.stale(a, noon)
			switch {
			case v.State == Converged && len(v.Gates) > 0:
				t.Fatalf("converged, and waits: %+v", v)
			case v.State == Converged || len(v.Gates) > 0:
				continue
			case !stale && a.forced == nil:
				t.Fatalf("kicked, and neither stale nor ordered: %+v", v)
			case kicked[v.Node] || a.flight != nil || a.running != nil:
				t.Fatalf("two runs on %s", v.Node)
			case !s.sync.Open:
				t.Fatalf("kicked, though the sync gate is closed: %+v", v)
			}
			kicked[v.Node] = true
		}
		if s.flights+len(kicked) > max(maxFlights, s.flights) {
			t.Fatalf("%d kicks while %d runs are in progress", len(kicked), s.flights)
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
}

func drawSituation(t *rapid.T) situation {
	rs := newTestRoles(t)
	moments := rapid.Int64Range(-int64(2*time.Minute), int64(2*time.Minute))
	moment := func(what string) time.Time { return noon.Add(time.Duration(moments.Draw(t, what))) }
	for i := range rapid.IntRange(0, 4).Draw(t, "members") {
		role := rapid.SampledFrom([]string{"web", "db"}).Draw(t, "role")
		rs.mustMove(nil, serving(fmt.Sprint("m", i), inventory.Facts{"role": role}), ago(time.Hour))
	}
	mustNeed(rs.roles, "web")
	mustNeed(rs.roles, "db")
	rs.publish(7)
	s := situation{cfg: DefaultConfig(), roles: rs.roles, sync: Sync{Open: rapid.IntRange(0, 9).Draw(t, "open") > 0}}
	if !s.sync.Open {
		s.sync.Until = in(rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, "opens"))
	}
	s.flights = rapid.SampledFrom([]int{0, 1, maxFlights - 1, maxFlights, maxFlights + 1}).Draw(t, "flights")
	for i := range rapid.IntRange(0, 4).Draw(t, "nodes") {
		for j := range rapid.IntRange(1, 3).Draw(t, "actions") {
			a := &action{node: fmt.Sprint("n", i), name: fmt.Sprint("a", j), memory: &memory{}}
			a.needs = rapid.SampledFrom([][]string{nil, {"web"}, {"db"}, {"web", "db"}}).Draw(t, "needs")
			a.status.Dirty = rapid.Bool().Draw(t, "dirty")
			a.status.Applied = map[string]kick.Revision{}
			for _, need := range a.needs {
				if rapid.Bool().Draw(t, "applied") {
					a.status.Applied[need] = rs.byName[need].now.Revision
				}
			}
			a.from = moment("from")
			if rapid.Bool().Draw(t, "failing") {
				a.memory.failures, a.memory.notBefore = 1, moment("not before")
			}
			if rapid.Bool().Draw(t, "kicked before") {
				a.memory.kicked, a.memory.took = moment("kicked"), time.Duration(rapid.IntRange(0, 100).Draw(t, "took"))*time.Second
			}
			if rapid.IntRange(0, 4).Draw(t, "forced") == 0 {
				a.forced = &order{}
			}
			switch rapid.IntRange(0, 5).Draw(t, "busy") {
			case 0:
				a.running = &kick.Running{Run: "r", Action: "a"}
			case 1:
				a.flight = &flight{id: "f", deadline: in(time.Minute)}
			}
			s.actions = append(s.actions, a)
		}
	}
	return s
}

// shown is all that a plan may read, by value.
func shown(s situation) []string {
	var all []string
	for _, a := range s.actions {
		all = append(all, fmt.Sprintf("%+v %+v %+v", *a, *a.memory, a.status.Applied))
	}
	for _, name := range sortedKeys(s.roles.byName) {
		r := s.roles.byName[name]
		all = append(all, fmt.Sprintf("%s %+v %v %v %t %v", name, r.now, r.nodes, r.members, r.changed, r.past))
	}
	return append(all, fmt.Sprintf("%+v %d %+v", s.sync, s.flights, s.cfg))
}
