package plan

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

func TestGates(t *testing.T) {
	type gates = []api.Gate
	type role = membership.RoleConfig
	observe := gates{gate(api.GateObserve, "the mode is observe: otherwise it would be kicked")}
	for _, test := range []struct {
		claim string
		roles []role
		given func(*Cluster, *Situation, *Action)
		want  gates
	}{
		{"an action that is stale, settled and free waits for nothing", nil, func(*Cluster, *Situation, *Action) {}, nil},
		{"nothing is kicked before the inventory is complete", nil, func(_ *Cluster, s *Situation, _ *Action) {
			s.Sync = api.Sync{Why: "waiting for nodes to report", Until: in(time.Second)}
		}, gates{gate(api.GateSynced, "waiting for nodes to report", time.Second)}},
		{"roles are not waited for before the inventory is complete", nil, func(c *Cluster, s *Situation, _ *Action) {
			s.Sync = api.Sync{Why: "waiting for nodes to report"}
			c.Close("web", in(time.Second))
		}, gates{gate(api.GateSynced, "waiting for nodes to report")}},
		{"nothing is kicked for a role that may be a typo", nil, func(c *Cluster, _ *Situation, a *Action) {
			a.Needs = c.Needs("wbe")
			c.Publish()
		}, gates{gate(api.GateUnknown, "no node has role wbe and no configuration names it")}},
		{"a role whose last member left is too small", nil, func(c *Cluster, _ *Situation, _ *Action) {
			c.Leave("web1", ago(time.Minute))
			c.Leave("web2", ago(time.Minute))
			c.Publish()
		}, gates{gate(api.GateMinMembers, "role web has 0 members, fewer than its min_members 1")}},
		{"a role may be empty if min_members is 0", []role{{Name: "db"}}, func(c *Cluster, _ *Situation, a *Action) {
			a.Needs = c.Needs("db")
			c.Publish()
		}, nil},
		{"a burst of changes settles first", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.from = ago(400 * time.Millisecond)
		}, gates{gate(api.GateSettle, "more changes may follow", 600*time.Millisecond)}},
		{"also if the last kick was long ago", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.from, a.Retry.kicked = ago(400*time.Millisecond), ago(time.Hour)
		}, gates{gate(api.GateSettle, "more changes may follow", 600*time.Millisecond)}},
		{"nothing settles if settling is off", nil, func(_ *Cluster, s *Situation, a *Action) {
			a.from, a.Retry.kicked, s.Settle = noon, ago(time.Second), 0
		}, nil},
		{"two kicks of an action are settle_min apart", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.Retry.kicked = ago(2 * time.Second)
		}, gates{gate(api.GateSettle, "more changes may follow", 3*time.Second)}},
		{"or four times the duration of its last run", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.Retry.kicked, a.Retry.Took = ago(2*time.Second), 10*time.Second
		}, gates{gate(api.GateSettle, "more changes may follow", 38*time.Second)}},
		{"or settle_max", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.Retry.kicked, a.Retry.Took = ago(2*time.Second), time.Hour
		}, gates{gate(api.GateSettle, "more changes may follow", 58*time.Second)}},
		{"a kick without a reply counts too: it may have run", nil, func(_ *Cluster, _ *Situation, a *Action) {
			*a.Retry = Retry{SendAgain: "r1", Tried: "1-other", Sent: ago(2 * time.Second), kicked: ago(time.Hour)}
		}, gates{gate(api.GateSettle, "more changes may follow", 3*time.Second)}},
		{"unless it is sent again", nil, func(_ *Cluster, _ *Situation, a *Action) {
			*a.Retry = Retry{SendAgain: "r1", Tried: a.Fingerprint(), Sent: ago(2 * time.Second), kicked: ago(time.Hour)}
		}, nil},
		{"an action waits for its run to end", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.Running = &kick.Running{Run: "r1", Action: "reload"}
		}, gates{gate(api.GateRunning, "run r1 of lb1/reload")}},
		{"and for the run of another action of its node", nil, func(_ *Cluster, s *Situation, a *Action) {
			flies(s, a, Flight{Key: Key{"lb1", "other"}})
		}, gates{gate(api.GateRunning, "run r of lb1/other (since 11:59:50, until 12:01:00 at the latest)", time.Minute)}},
		{"and for a kick on its way, until its deadline", nil, func(_ *Cluster, s *Situation, a *Action) {
			flies(s, a, Flight{Asked: true})
		}, gates{gate(api.GateRunning, "run r of lb1/reload (since 11:59:50, until 12:01:00 at the latest)", time.Minute)}},
		{"and for a run that is overdue", nil, func(_ *Cluster, s *Situation, a *Action) {
			flies(s, a, Flight{Overdue: ago(time.Second)})
		}, gates{gate(api.GateRunning,
			"run r of lb1/reload (since 11:59:50, overdue since 11:59:59, until 12:01:00 at the latest)", time.Minute)}},
		{"also beyond its deadline, if its node reports it", nil, func(_ *Cluster, s *Situation, a *Action) {
			flies(s, a, Flight{Overdue: ago(time.Second), Deadline: noon})
		}, gates{gate(api.GateRunning,
			"run r of lb1/reload (since 11:59:50, overdue since 11:59:59, until 12:00:00 at the latest)")}},
		{"a kick without a reply is sent again", nil, func(_ *Cluster, s *Situation, a *Action) {
			flies(s, a, Flight{Doubt: true})
		}, nil},
		{"in the place that it has", []role{{Name: "lb", Budget: "1"}}, func(c *Cluster, s *Situation, a *Action) {
			c.Has("lb", "lb1", "lb2")
			s.InFlight, s.Limits = 1, []Limit{{"reload", 1}}
			c.Fail(s.Rollout, "web", 3)
			flies(s, a, Flight{Doubt: true, Handed: map[string]string{"web": twoWebs}})
		}, nil},
		{"also if it is overdue", []role{{Name: "lb", Budget: "1"}}, func(c *Cluster, s *Situation, a *Action) {
			c.Has("lb", "lb1", "lb2")
			runs(c, s, "lb2")
			flies(s, a, Flight{Doubt: true, Overdue: ago(time.Second)})
			*a.Retry = Retry{SendAgain: "r", Tried: a.Fingerprint()}
		}, nil},
		{"but another kick needs a place, for the overdue run has none", nil, func(c *Cluster, s *Situation, a *Action) {
			s.InFlight = 1
			runs(c, s, "other1")
			flies(s, a, Flight{Doubt: true, Overdue: ago(time.Second)})
			*a.Retry = Retry{SendAgain: "r", Tried: "1-other"}
		}, gates{gate(api.GateBudget, "1 run in progress in the cluster, as many as in_flight allows: lb1/reload (no reply "+
			"since 11:59:50, overdue since 11:59:59, until 12:01:00 at the latest), other1/run "+usually)}},
		{"but not while the reply may come", nil, func(_ *Cluster, s *Situation, a *Action) {
			flies(s, a, Flight{Doubt: true, Asked: true})
		}, gates{gate(api.GateRunning,
			"run r of lb1/reload (no reply since 11:59:50, until 12:01:00 at the latest)", time.Minute)}},
		{"nor by another action of the node", nil, func(_ *Cluster, s *Situation, a *Action) {
			flies(s, a, Flight{Key: Key{"lb1", "other"}, Doubt: true})
		}, gates{gate(api.GateRunning,
			"run r of lb1/other (no reply since 11:59:50, until 12:01:00 at the latest)", time.Minute)}},
		{"a failed run delays the next", nil, func(_ *Cluster, _ *Situation, a *Action) {
			*a.Retry = Retry{Failures: 1, NotBefore: in(5 * time.Second), Why: "it failed", Tried: a.Fingerprint()}
		}, gates{gate(api.GateBackoff, "it failed", 5*time.Second)}},
		{"memberships that did not fail are not tried at once", nil, func(_ *Cluster, _ *Situation, a *Action) {
			*a.Retry = Retry{
				Failures: 1, NotBefore: in(time.Minute), Why: "it failed", Tried: "1-other", Sent: ago(time.Second),
			}
		}, gates{gate(api.GateBackoff, "it failed", DefaultConfig.Backoff.Initial-time.Second)}},
		{"but after the initial backoff", nil, func(_ *Cluster, _ *Situation, a *Action) {
			*a.Retry = Retry{Failures: 1, NotBefore: in(time.Minute), Tried: "1-other", Sent: ago(time.Minute)}
		}, nil},
		{"a backoff that has ended is no gate", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.Retry.Failures, a.Retry.NotBefore = 1, noon
		}, nil},
		{"nothing is kicked while another controller leads", nil, func(_ *Cluster, s *Situation, _ *Action) {
			s.NotLeading = "controller ctl2 leads"
		}, gates{gate(api.GateLeader, "controller ctl2 leads")}},
		{"an action waits for a role that it depends on to recover", nil, func(c *Cluster, _ *Situation, _ *Action) {
			c.Close("web", in(time.Second))
		}, gates{gate(api.GateSynced,
			"role web: waiting for lb9/reload to report the members it last applied", time.Second)}},
		{"and for the facts of its node", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.NoFacts = true
		}, gates{gate(api.GateSynced, "the facts of node lb1 have not been received yet")}},
		{"and not for a role that only others depend on", nil, func(c *Cluster, _ *Situation, _ *Action) {
			c.Needs("db")
		}, nil},
		{"nothing is kicked where the mode is observe", nil, func(_ *Cluster, s *Situation, _ *Action) {
			s.Mode = ModeObserve
		}, observe},
		{"not even by an order", nil, func(_ *Cluster, s *Situation, a *Action) {
			s.Mode, a.Order = ModeObserve, &api.KickOrder{}
		}, observe},
		{"nor where the mode of one of its node's roles is observe",
			[]role{{Name: "a", Mode: ModeAct}, {Name: "b", Mode: ModeObserve}, {Name: "c", Mode: ModeAct}},
			func(c *Cluster, _ *Situation, _ *Action) {
				c.Has("a", "lb1")
				c.Has("b", "lb1")
				c.Has("c", "lb1")
			}, gates{gate(api.GateObserve, "the mode of role b is observe: otherwise it would be kicked")}},
		{"the mode of a role that it depends on does not matter", []role{{Name: "web", Mode: ModeObserve}},
			func(*Cluster, *Situation, *Action) {}, nil},
		{"one role may act before the others", []role{{Name: "a"}, {Name: "b", Mode: ModeAct}},
			func(c *Cluster, s *Situation, _ *Action) {
				s.Mode = ModeObserve
				c.Has("a", "lb1")
				c.Has("b", "lb1")
			}, nil},
		{"a role without a mode of its own has the cluster's", []role{{Name: "a"}},
			func(c *Cluster, s *Situation, _ *Action) {
				s.Mode = ModeObserve
				c.Has("a", "lb1")
			}, observe},
		{"a role with too few members is waited for", []role{{Name: "web", MinMembers: 3}},
			func(*Cluster, *Situation, *Action) {},
			gates{gate(api.GateMinMembers, "role web has 2 members, fewer than its min_members 3")}},
		{"and one with a single member", []role{{Name: "web", MinMembers: 2}}, func(c *Cluster, _ *Situation, _ *Action) {
			c.Leave("web1", ago(time.Minute))
			c.Publish()
		}, gates{gate(api.GateMinMembers, "role web has 1 member, fewer than its min_members 2")}},
		{"but not one with just enough members", []role{{Name: "web", MinMembers: 2}},
			func(*Cluster, *Situation, *Action) {}, nil},
		{"nothing is kicked if a dependency is not resolved", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.Unresolved = "the node itself has no fact environment"
		}, gates{gate(api.GateUnknown, "the node itself has no fact environment")}},
		{"no more runs than in_flight are in progress", nil, func(c *Cluster, s *Situation, _ *Action) {
			s.InFlight = 2
			runs(c, s, "other1", "other2")
		}, gates{gate(api.GateBudget, "2 runs in progress in the cluster, as many as in_flight allows: "+
			"other1/run "+usually+", other2/run "+usually)}},
		{"even if in_flight is one", nil, func(c *Cluster, s *Situation, _ *Action) {
			s.InFlight = 1
			runs(c, s, "other1")
		}, gates{gate(api.GateBudget, "1 run in progress in the cluster, as many as in_flight allows: other1/run "+usually)}},
		{"more overdue runs than in_flight stop the cluster", nil, func(c *Cluster, s *Situation, _ *Action) {
			s.InFlight = 1
			overdue(c, s, "other1", "other2")
		}, gates{gate(api.GateBudget, "2 runs are overdue in the cluster, more than in_flight 1 tolerates: "+
			"other1/run "+overdueSince+", other2/run "+overdueSince)}},
		{"no more runs of an action are in progress than its limit", nil, func(c *Cluster, s *Situation, _ *Action) {
			s.Limits = []Limit{{"run", 9}, {"reload", 2}}
			runs(c, s, "lb7", "lb8", "lb9")
			s.Runs[0].Action, s.Runs[1].Action = "reload", "reload"
		}, gates{gate(api.GateBudget, "2 runs of action reload in progress in the cluster, as many as its limit allows: "+
			"lb7/reload "+usually+", lb8/reload "+usually)}},
		{"runs of other actions do not count for it", nil, func(c *Cluster, s *Situation, _ *Action) {
			s.Limits = []Limit{{"run", 1}, {"reload", 1}}
			runs(c, s, "lb8", "lb9")
		}, nil},
		{"more overdue runs of an action than its limit stop it", nil, func(c *Cluster, s *Situation, _ *Action) {
			s.Limits = []Limit{{"reload", 1}}
			overdue(c, s, "lb8", "lb9")
			s.Runs[0].Action, s.Runs[1].Action = "reload", "reload"
		}, gates{gate(api.GateBudget, "2 runs are overdue of action reload in the cluster, more than its limit 1 tolerates: "+
			"lb8/reload "+overdueSince+", lb9/reload "+overdueSince)}},
		{"no more nodes of a role run than its budget", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Has("lb", "lb1", "lb2", "lb3")
			runs(c, s, "lb3")
		}, gates{gate(api.GateBudget, "runs on 1 of 3 nodes of role lb, as many as its budget 10% allows: lb3/run "+usually)}},
		{"an overdue run gives its place back", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Has("lb", "lb1", "lb2", "lb3")
			overdue(c, s, "lb3")
		}, nil},
		{"more of them than the budget stop the role", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Has("lb", "lb1", "lb2", "lb3")
			runs(c, s, "lb9")
			overdue(c, s, "lb2", "lb3")
		}, gates{gate(api.GateBudget, "2 runs are overdue on nodes of role lb, more than its budget 10% tolerates: "+
			"lb2/run "+overdueSince+", lb3/run "+overdueSince)}},
		{"a run counts for the role that its node had before", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Has("lb", "lb1", "lb2")
			runs(c, s, "lb9")
			s.Runs[0].Roles = []string{"lb"}
		}, gates{gate(api.GateBudget, "runs on 1 of 2 nodes of role lb, as many as its budget 10% allows: lb9/run "+usually)}},
		{"runs of other roles do not count", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Has("lb", "lb1")
			c.Has("db", "db1")
			runs(c, s, "db1")
		}, nil},
		{"each of the node's roles has its own budget", []role{{Name: "lb", Budget: "2"}},
			func(c *Cluster, s *Situation, _ *Action) {
				c.Has("lb", "lb1", "lb2")
				c.Has("edge", "lb1", "e1")
				runs(c, s, "lb2", "e1")
			}, gates{gate(api.GateBudget, "runs on 1 of 2 nodes of role edge, as many as its budget 10% allows: e1/run "+usually)}},
		{"runs on nodes that are gone count, and are named", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Has("lb", "lb1", "lb2")
			runs(c, s, "lb3")
			s.Runs[0].Roles, s.Runs[0].Gone = []string{"lb"}, ago(20*time.Second)
		}, gates{gate(api.GateBudget, "runs on 1 of 3 nodes of role lb, as many as its budget 10% allows: "+
			"lb3/run (since 11:59:50, its node is gone, until 12:00:40 at the latest)")}},
		{"three of many are named, the oldest first", []role{{Name: "lb", Budget: "4"}},
			func(c *Cluster, s *Situation, _ *Action) {
				c.Has("lb", "lb1", "lb2", "lb3", "lb4", "lb5")
				runs(c, s, "lb2", "lb3", "lb4", "lb5")
				s.Runs[3].Sent = ago(time.Minute)
			}, gates{gate(api.GateBudget, "runs on 4 of 5 nodes of role lb, as many as its budget 4 allows: "+
				"lb5/run (since 11:59:00, until 12:01:00 at the latest), lb2/run "+usually+", lb3/run "+usually+" and 1 more")}},
		{"one node at a time tries a revision that failed on three", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Fail(s.Rollout, "web", 3)
			runs(c, s, "lb9")
		}, gates{gate(api.GateRollout, "role web: runs with revision "+twoWebs+" failed and none succeeded: "+
			"one node at a time tries it, now lb9/run "+usually)}},
		{"a run that is overdue no longer tries it", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Fail(s.Rollout, "web", 3)
			overdue(c, s, "lb9")
		}, nil},
		{"nor does one that was handed another revision", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Fail(s.Rollout, "web", 3)
			runs(c, s, "lb9")
			s.Runs[0].Handed = map[string]string{"web": "1-older"}
		}, nil},
		{"what a former controller handed over is not known", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Fail(s.Rollout, "web", 3)
			runs(c, s, "lb9")
			s.Runs[0].Handed = nil
		}, gates{gate(api.GateRollout, "role web: runs with revision "+twoWebs+" failed and none succeeded: "+
			"one node at a time tries it, now lb9/run "+usually)}},
		{"but one node does", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Fail(s.Rollout, "web", 3)
		}, nil},
		{"all nodes try a revision that failed on two", nil, func(c *Cluster, s *Situation, _ *Action) {
			c.Fail(s.Rollout, "web", 2)
			runs(c, s, "lb9")
		}, nil},
		{"an order does not settle", nil, func(_ *Cluster, _ *Situation, a *Action) {
			a.Order, a.from, a.Retry.kicked = &api.KickOrder{}, noon, noon
		}, nil},
		{"but waits for a run, for sync and after a rejection", nil, func(_ *Cluster, s *Situation, a *Action) {
			a.Order, a.Running = &api.KickOrder{}, &kick.Running{Run: "r1", Action: "reload"}
			s.Sync = api.Sync{Why: "waiting for nodes to report"}
			a.Retry.NotBefore, a.Retry.Why = in(time.Second), "rejected"
		}, gates{
			gate(api.GateSynced, "waiting for nodes to report"), gate(api.GateRunning, "run r1 of lb1/reload"),
			gate(api.GateBackoff, "rejected", time.Second),
		}},
		{"all gates of its own are shown, and none of others", []role{{Name: "web", MinMembers: 3}},
			func(c *Cluster, s *Situation, a *Action) {
				s.InFlight = 1
				runs(c, s, "other1")
				a.from = noon
				a.Retry.NotBefore, a.Retry.Why = in(time.Minute), "it failed"
			}, gates{
				gate(api.GateMinMembers, "role web has 2 members, fewer than its min_members 3"),
				gate(api.GateSettle, "more changes may follow", time.Second), gate(api.GateBackoff, "it failed", time.Minute),
			}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			c, s, a := HourOld(t, test.roles...)
			test.given(c, &s, a)
			v := Make(s, noon)[0]
			if v.State == api.Converged {
				t.Fatalf("the verdict is %+v, want stale", v)
			}
			if diff := cmp.Diff(test.want, v.Gates); diff != "" {
				t.Errorf("gates (-want +got):\n%s", diff)
			}
		})
	}
}

// gate is a gate that opens after a time from noon, or at no certain time.
func gate(name, why string, after ...time.Duration) api.Gate {
	g := api.NewGate(name, why, time.Time{})
	for _, d := range after {
		g.Until = in(d)
	}
	return g
}

// twoWebs is the hash of web as it is in HourOld.
var twoWebs = kick.Hash([]kick.Member{{Node: "web1", Facts: usual}, {Node: "web2", Facts: usual}})

// usual is the facts of a member that nothing else is said of.
var usual = map[string]any{"ipaddress": "10.0.0.1", "port": "80"}

// runs has an action run on each of these nodes. It depends on web, and waits for nothing but its run.
func runs(c *Cluster, s *Situation, nodes ...string) {
	for _, name := range nodes {
		a := &Action{Key: Key{name, "run"}, Needs: c.Needs("web"), Retry: &Retry{}}
		s.Actions = append(s.Actions, a)
		flies(s, a, Flight{Handed: map[string]string{"web": a.Needs[0].Role.Current().Revision.Hash}})
	}
}

// overdue has such runs that are overdue.
func overdue(c *Cluster, s *Situation, nodes ...string) {
	first := len(s.Runs)
	runs(c, s, nodes...)
	for _, f := range s.Runs[first:] {
		f.Overdue = ago(time.Second)
	}
}

// flies gives the node of an action a run. What is not set of it is usual.
func flies(s *Situation, a *Action, f Flight) {
	if f.ID, f.Sent = "r", ago(10*time.Second); f.Node == "" {
		f.Key = a.Key
	}
	if f.Deadline.IsZero() {
		f.Deadline = in(time.Minute)
	}
	a.Flight, s.Runs = &f, append(s.Runs, &f)
}

// What gates say of runs like those.
const (
	usually      = "(since 11:59:50, until 12:01:00 at the latest)"
	overdueSince = "(since 11:59:50, overdue since 11:59:59, until 12:01:00 at the latest)"
)

func TestStates(t *testing.T) {
	type revisions = map[string]kick.Revision
	for _, test := range []struct {
		claim  string
		given  func(*Cluster, *Action, kick.Revision)
		state  api.State
		reason string
	}{
		{"a role that was never applied is pending", func(*Cluster, *Action, kick.Revision) {},
			api.Pending, "web: never applied"},
		{"an action that applied what is current is converged", func(_ *Cluster, a *Action, now kick.Revision) {
			a.Status.Applied = revisions{"web": now}
		}, api.Converged, ""},
		{"equal members are the same in any revision", func(_ *Cluster, a *Action, now kick.Revision) {
			a.Status.Applied = revisions{"web": {Epoch: 1, N: 99, Hash: now.Hash}}
		}, api.Converged, ""},
		{"the reason is what changed since", func(c *Cluster, a *Action, now kick.Revision) {
			a.Status.Applied = revisions{"web": now}
			c.Member("web3", inventory.Facts{"role": "web"}, noon)
			c.Lose("web1", noon)
			c.Member("web2", inventory.Facts{"role": "web", "port": 1.0}, noon)
			c.Publish()
		}, api.Pending, "web: +web3 -web1 ~web2"},
		{"unless the revision of before is not remembered", func(_ *Cluster, a *Action, _ kick.Revision) {
			a.Status.Applied = revisions{"web": {Hash: "1-old"}}
		}, api.Pending, "web: another membership was applied"},
		{"a run that did not succeed leaves an action pending", func(_ *Cluster, a *Action, now kick.Revision) {
			a.Status.Applied, a.Status.Dirty = revisions{"web": now}, true
		}, api.Pending, "its last run did not succeed"},
		{"an action that depends on nothing is converged", func(_ *Cluster, a *Action, _ kick.Revision) {
			a.Needs, a.Status.Dirty = nil, true
		}, api.Converged, ""},
		{"unless it is ordered", func(_ *Cluster, a *Action, _ kick.Revision) {
			a.Needs, a.Order = nil, &api.KickOrder{By: "ann"}
		}, api.Pending, "ordered by ann"},
		{"an order without a name is an operator's", func(_ *Cluster, a *Action, _ kick.Revision) {
			a.Needs, a.Order = nil, &api.KickOrder{}
		}, api.Pending, "ordered by an operator"},
		{"a failure makes it failing", func(_ *Cluster, a *Action, _ kick.Revision) {
			a.Retry.Failures = 1
		}, api.Failing, "web: never applied"},
		{"an action whose role is not known yet is pending", func(c *Cluster, a *Action, _ kick.Revision) {
			a.Needs = c.Needs("db")
		}, api.Pending, "db: its members are not known yet"},
		{"even if it applied the last revision of the role", func(c *Cluster, a *Action, now kick.Revision) {
			a.Status.Applied = revisions{"web": now}
			c.Close("web", in(time.Second))
		}, api.Pending, "web: its members are not known yet"},
		{"an action with an unresolved dependency is pending", func(_ *Cluster, a *Action, now kick.Revision) {
			a.Status.Applied, a.Unresolved = revisions{"web": now}, "the node itself has no fact environment"
		}, api.Pending, "not all that it depends on is known"},
		{"a role is compared under the name that the node uses", func(_ *Cluster, a *Action, now kick.Revision) {
			a.Needs = []membership.Need{{As: "front", Role: a.Needs[0].Role, Shared: "site=a"}}
			a.Status.Applied = revisions{"front": now}
		}, api.Converged, ""},
		{"each role is a reason of its own", func(c *Cluster, a *Action, _ kick.Revision) {
			a.Needs = c.Needs("web", "db")
			c.Publish()
		}, api.Pending, "web: never applied; db: never applied"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			c, s, a := HourOld(t)
			test.given(c, a, c.Role("web").Current().Revision)
			v := Make(s, noon)[0]
			if v.State != test.state || v.Reason != test.reason {
				t.Errorf("the verdict is %s (%q), want %s (%q)", v.State, v.Reason, test.state, test.reason)
			}
			if _, stale := a.stale(noon); stale != (v.State != api.Converged && a.Order == nil) {
				t.Errorf("stale is %t, and the verdict is %s", stale, v.State)
			}
		})
	}
}

func TestActionLacksARoleThatIsNotRecovered(t *testing.T) {
	c, _, a := HourOld(t)
	if a.lacks() {
		t.Error("web is lacking, and has two members")
	}
	if c.Close("web", in(time.Second)); !a.lacks() {
		t.Error("web is not lacking, and its members are not known yet")
	}
}

func TestOfTwoActionsOfANodeTheFirstIsKicked(t *testing.T) {
	_, s, a := HourOld(t)
	second := *a
	second.Action, second.Retry = "second", &Retry{}
	s.Actions = append(s.Actions, &second)
	verdicts := Make(s, noon)
	first, then := verdicts[0].Gates, verdicts[1].Gates
	if len(first) != 0 || len(then) != 1 || then[0].Name != api.GateRunning {
		t.Errorf("the gates are %+v and %+v, want none and running", first, then)
	}
}

func TestPlanKeepsItsPromises(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		before := shown(s)
		verdicts := Make(s, noon)
		if diff := cmp.Diff(verdicts, Make(s, noon)); diff != "" {
			t.Fatalf("the same situation has two plans:\n%s", diff)
		}
		if diff := cmp.Diff(before, shown(s)); diff != "" {
			t.Fatalf("the plan changed the situation:\n%s", diff)
		}
		ran, all := countRuns(s, nil), countRuns(s, verdicts)
		kicked := map[string]bool{}
		for i, v := range verdicts {
			a := s.Actions[i]
			for _, g := range v.Gates {
				seen[g.Name]++
			}
			_, stale := a.stale(noon)
			switch {
			case v.State == api.Converged && len(v.Gates) > 0:
				t.Fatalf("converged, and waits: %+v", v)
			case v.State == api.Converged && (stale || a.Order != nil):
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
					t.Fatalf("%s waits for a place, and there is one: %+v", a.Key, v.Gates)
				}
				continue
			case !stale && a.Order == nil:
				t.Fatalf("kicked, and neither stale nor ordered: %+v", v)
			case kicked[v.Node] || a.Flight != nil && !a.Flight.again(a.Key) || a.Flight == nil && a.Running != nil:
				t.Fatalf("two runs on %s", v.Node)
			case !s.Sync.Open || s.NotLeading != "" || a.Unresolved != "":
				t.Fatalf("kicked with sync %+v, not leading because %q, unresolved %q", s.Sync, s.NotLeading, a.Unresolved)
			}
			seen["kicked"]++
			kicked[v.Node] = true
			for _, need := range a.Needs {
				r := need.Role
				if !r.Open() || r.Unknown() || len(r.Current().Members) < r.MinMembers {
					t.Fatalf("kicked with role %+v", r)
				}
			}
		}
		check := func(what string, is, was, late, most int) {
			switch {
			case is > max(most, was):
				t.Fatalf("%d runs of %s, %d before, and at most %d are allowed", is, what, was, most)
			case is > was && late > most:
				t.Fatalf("%d runs of %s, %d before, and %d are overdue: at most %d are tolerated", is, what, was, late, most)
			}
			if late > most {
				seen["too many are overdue"]++
			}
		}
		check("the cluster", all.nodes, ran.nodes, ran.overdue.nodes, s.InFlight)
		for r, n := range all.roles {
			check("role "+r.Name, n, ran.roles[r], ran.overdue.roles[r], budget(r))
		}
		for _, limit := range s.Limits {
			name := limit.Action
			check("action "+name, all.actions[name], ran.actions[name], ran.overdue.actions[name], limit.InFlight)
		}
		for r, n := range all.tries {
			if failed := s.Rollout.failures(r); failed >= brokenFrom && n > max(1, ran.tries[r]) {
				t.Fatalf("%d runs try %s, %d before, and it failed on %d nodes", n, r.Name, ran.tries[r], failed)
			}
		}
		next := Next(verdicts)
		most := 7 * 24 * time.Hour
		if !next.IsZero() {
			most = next.Sub(noon) - 1
		}
		later := noon.Add(time.Duration(rapid.Int64Range(0, int64(max(most, 0))).Draw(t, "later")))
		if diff := cmp.Diff(verdicts, Make(s, later)); diff != "" {
			t.Fatalf("next is %s, and at %s the plan is another:\n%s", next, later, diff)
		}
	})
	for _, what := range []string{
		"kicked", "too many are overdue", api.GateLeader, api.GateSynced, api.GateUnknown, api.GateMinMembers, api.GateSettle, api.GateRunning,
		api.GateBudget, api.GateRollout, api.GateBackoff,
	} {
		if seen[what] == 0 {
			t.Errorf("%q never happened, so the test shows too little: %v", what, seen)
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

// tallies is how many runs there are, that are overdue or that are not.
type tallies struct {
	nodes   int
	roles   map[*membership.Role]int // by the roles that their nodes have or had
	actions map[string]int
}

// counts is how many runs there are: those in progress, and those that a plan begins.
type counts struct {
	tallies // not overdue
	overdue tallies
	tries   map[*membership.Role]int // by the roles that they were handed
}

func countRuns(s Situation, verdicts []api.Verdict) counts {
	empty := func() tallies { return tallies{roles: map[*membership.Role]int{}, actions: map[string]int{}} }
	n := counts{empty(), empty(), map[*membership.Role]int{}}
	count := func(t *tallies, k Key, had ...string) {
		roles := map[*membership.Role]bool{}
		for _, r := range s.Table.Of(k.Node) {
			roles[r] = true
		}
		for _, name := range had {
			roles[s.Table.Role(name)] = true
		}
		for r := range roles {
			t.roles[r]++
		}
		t.nodes++
		t.actions[k.Action]++
	}
	for _, f := range s.Runs {
		if !f.Overdue.IsZero() {
			count(&n.overdue, f.Key, f.Roles...)
			continue
		}
		count(&n.tallies, f.Key, f.Roles...)
		for name := range f.Handed { // the current revisions
			n.tries[s.Table.Role(name)]++
		}
	}
	for i, a := range s.Actions {
		if verdicts == nil || verdicts[i].State == api.Converged || len(verdicts[i].Gates) > 0 || a.Flight != nil {
			continue
		}
		count(&n.tallies, a.Key)
		for _, need := range a.Needs {
			n.tries[need.Role]++
		}
	}
	return n
}

// full reports whether one more run, of that action, would be too many.
func (n counts) full(s Situation, a *Action) bool {
	no := func(runs, overdue, most int) bool { return runs >= most || overdue > most }
	for _, limit := range s.Limits {
		if limit.Action == a.Action && no(n.actions[a.Action], n.overdue.actions[a.Action], limit.InFlight) {
			return true
		}
	}
	return no(n.nodes, n.overdue.nodes, s.InFlight) ||
		slices.ContainsFunc(s.Table.Of(a.Node), func(r *membership.Role) bool {
			return no(n.roles[r], n.overdue.roles[r], budget(r))
		})
}

func budget(r *membership.Role) int {
	n, err := r.Budget.Of(len(r.Nodes()))
	if err != nil {
		panic(err)
	}
	return n
}

func drawSituation(t *rapid.T) Situation {
	moments := rapid.Int64Range(-int64(2*time.Minute), int64(20*time.Second))
	moment := func(what string) time.Time { return noon.Add(time.Duration(moments.Draw(t, what))) }
	sometimes := func(what string) bool { return rapid.IntRange(0, 9).Draw(t, what) == 0 }
	var roles []membership.RoleConfig
	for _, name := range []string{"lb", "edge"} {
		budget := rapid.SampledFrom([]membership.Budget{membership.DefaultBudget, "50%", "2", "100%"}).Draw(t, "budget")
		roles = append(roles, membership.RoleConfig{Name: name, Budget: budget})
	}
	for _, name := range []string{"web", "db"} {
		if !sometimes("unknown") {
			r := membership.RoleConfig{Name: name}
			if sometimes("too few") {
				r.MinMembers = 5
			}
			roles = append(roles, r)
		}
	}
	c := NewCluster(t, roles...)
	for i := range rapid.IntRange(0, 4).Draw(t, "members") {
		role := rapid.SampledFrom([]string{"web", "db"}).Draw(t, "role")
		c.Member(fmt.Sprint("m", i), inventory.Facts{"role": role}, ago(time.Hour))
	}
	c.Needs("web", "db")
	c.Publish()
	s := Situation{Config: DefaultConfig, Table: c.Table, Rollout: Rollout{}}
	s.Sync.Open = !sometimes("not synced")
	for _, name := range []string{"web", "db"} {
		c.Fail(s.Rollout, name, rapid.SampledFrom([]int{0, 2, 3, 4}).Draw(t, "failed"))
		if sometimes("closed") {
			c.Close(name, in(5*time.Second))
		}
	}
	if !s.Sync.Open {
		opens := rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, "opens")
		s.Sync.Why, s.Sync.Until = "waiting for nodes to report", in(opens)
	}
	if sometimes("follows") {
		s.NotLeading = "controller ctl2 leads"
	}
	s.InFlight = rapid.IntRange(1, 5).Draw(t, "in flight")
	if rapid.Bool().Draw(t, "limited") {
		s.Limits = []Limit{{"a1", rapid.IntRange(1, 2).Draw(t, "limit")}}
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
		node := fmt.Sprint("n", i)
		for _, role := range []string{"lb", "edge"} {
			if rapid.Bool().Draw(t, role) {
				c.Has(role, node)
			}
		}
		var flying *Flight
		if rapid.IntRange(0, 3).Draw(t, "busy") == 0 {
			flying = drawFlight(t, c, node)
			s.Runs = append(s.Runs, flying)
		}
		for j := range rapid.IntRange(1, 3).Draw(t, "actions") {
			a := &Action{Key: Key{node, fmt.Sprint("a", j)}, Retry: &Retry{}, Flight: flying}
			needs := rapid.SampledFrom([][]string{nil, {"web"}, {"db"}, {"web", "db"}}).Draw(t, "needs")
			a.Needs = c.Needs(needs...)
			a.Status.Dirty = rapid.Bool().Draw(t, "dirty")
			a.Status.Applied = map[string]kick.Revision{}
			for _, need := range a.Needs {
				if rapid.Bool().Draw(t, "applied") {
					a.Status.Applied[need.As] = need.Role.Current().Revision
				}
			}
			if sometimes("unresolved") {
				a.Unresolved = "the node itself has no fact site"
			}
			a.from, a.since = moment("from"), moment("since")
			if sometimes("failing") {
				a.Retry.Failures, a.Retry.NotBefore, a.Retry.Why = 1, moment("not before"), "it failed"
				if sometimes("with these needs") {
					a.Retry.Tried = a.Fingerprint()
				}
			}
			if sometimes("kicked before") {
				a.Retry.kicked = moment("kicked")
				a.Retry.Took = time.Duration(rapid.IntRange(0, 20).Draw(t, "took")) * time.Second
			}
			if sometimes("ordered") {
				a.Order = &api.KickOrder{}
			}
			s.Actions = append(s.Actions, a)
		}
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "gone") {
		f := drawFlight(t, c, fmt.Sprint("gone", i))
		f.Gone = ago(10 * time.Second)
		s.Runs = append([]*Flight{f}, s.Runs...)
	}
	slices.SortFunc(s.Runs, func(a, b *Flight) int { return strings.Compare(a.Node, b.Node) })
	return s
}

// drawFlight is a run on a node.
func drawFlight(t *rapid.T, c *Cluster, node string) *Flight {
	f := &Flight{
		ID: "f", Key: Key{node, fmt.Sprint("a", rapid.IntRange(0, 2).Draw(t, "which"))}, Sent: ago(90 * time.Second),
		Deadline: in(time.Minute), Handed: map[string]string{},
	}
	for _, name := range []string{"lb", "edge"} {
		if rapid.Bool().Draw(t, "had "+name) {
			f.Roles = append(f.Roles, name)
		}
	}
	if rapid.Bool().Draw(t, "handed web") {
		f.Handed["web"] = c.Role("web").Current().Revision.Hash
	}
	switch rapid.IntRange(0, 5).Draw(t, "how") {
	case 0:
		f.Asked = true
	case 1:
		f.Doubt = true
	case 2, 3, 4:
		f.Overdue = ago(30 * time.Second)
	}
	return f
}

func TestActionThatWaitsLongestIsFirst(t *testing.T) {
	_, s, a := HourOld(t)
	s.InFlight = 1
	older, younger, never := *a, *a, *a
	older.Node, younger.Node, never.Node = "lb2", "lb3", "lb4"
	older.since = ago(2 * time.Hour)
	younger.since = ago(time.Minute)
	a.Retry = &Retry{Sent: ago(time.Hour)} // as long as lb4, which was never kicked
	s.Actions = append(s.Actions, &older, &younger, &never)
	if got, want := kickOrder(s), []string{"lb2", "lb4", "lb1", "lb3"}; !slices.Equal(got, want) {
		t.Errorf("the nodes are kicked in the order %q, want %q", got, want)
	}
}

func TestActionWhoseRunEndedIsBehindThoseThatWaited(t *testing.T) {
	_, s, a := HourOld(t)
	s.InFlight = 1
	hung, later := *a, *a
	a.since = ago(5 * time.Minute) // while lb0 ran
	hung.Node, hung.since = "lb0", ago(11*time.Minute)
	hung.Retry = &Retry{Sent: ago(10 * time.Minute), Ended: ago(time.Minute)}
	later.Node, later.since = "lb2", ago(30*time.Second)
	s.Actions = []*Action{&hung, a, &later}
	if got, want := kickOrder(s), []string{"lb1", "lb0", "lb2"}; !slices.Equal(got, want) {
		t.Errorf("the nodes are kicked in the order %q, want %q", got, want)
	}
}

func TestBrokenRevisionIsTriedWhereItWasTriedLeastRecently(t *testing.T) {
	c, s, a := HourOld(t)
	s.InFlight = 1
	c.Fail(s.Rollout, "web", 3)
	for i, kicked := range []time.Time{ago(time.Minute), {}, ago(10 * time.Minute)} {
		other := *a
		other.Node, other.since, other.Retry = fmt.Sprint("lb", i+2), ago(2*time.Hour), &Retry{Sent: kicked}
		s.Actions = append(s.Actions, &other)
	}
	a.Retry.Sent = ago(5 * time.Minute)
	if got, want := kickOrder(s), []string{"lb3", "lb4", "lb1", "lb2"}; !slices.Equal(got, want) {
		t.Errorf("the nodes are kicked in the order %q, want %q", got, want)
	}
}

// kickOrder is the order in which nodes are kicked, if each of them converges before the next is.
func kickOrder(s Situation) []string {
	var order []string
	for range s.Actions {
		for i, v := range Make(s, noon) {
			if len(v.Gates) == 0 {
				order = append(order, v.Node)
				s.Actions = slices.Delete(s.Actions, i, i+1)
				break
			}
		}
	}
	return order
}

// Each stale action is kicked some time, while other runs succeed, fail, and fail everywhere.
func TestNoActionStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.SampledFrom([]membership.Budget{membership.DefaultBudget, "3"}).Draw(t, "budget")
		c := NewCluster(t, membership.RoleConfig{Name: "lb", Budget: budget})
		for _, role := range []string{"web", "db"} {
			c.Member("m-"+role, inventory.Facts{"role": role}, ago(time.Hour))
		}
		c.Publish()
		s := Situation{Config: DefaultConfig, Sync: api.Sync{Open: true}, Table: c.Table, Rollout: Rollout{}}
		s.InFlight = rapid.IntRange(1, 3).Draw(t, "in flight")
		const nodes = 9
		rounds := map[string]int{} // of waiting
		for i := range nodes {
			node := fmt.Sprint("lb", i)
			c.Has("lb", node)
			needs := rapid.SampledFrom([][]string{{"web"}, {"db"}, {"web", "db"}}).Draw(t, "needs")
			s.Actions = append(s.Actions, &Action{
				Key: Key{node, "reload"}, Needs: c.Needs(needs...), since: ago(time.Hour), from: ago(time.Hour), Retry: &Retry{},
			})
		}
		now := noon
		for range 12 * nodes {
			now = now.Add(2 * time.Minute)
			for i, v := range Make(s, now) {
				a := s.Actions[i]
				if len(v.Gates) > 0 {
					if rounds[a.Node]++; rounds[a.Node] > 3*nodes {
						t.Fatalf("%s has waited for %d rounds, now for %+v", a.Node, rounds[a.Node], v.Gates)
					}
					continue
				}
				rounds[a.Node] = 0
				a.Retry.Sent, a.Retry.kicked = now, now
				f := a.NewFlight("r", v.Reason, c.Of(a.Node), now, now)
				succeeded := rapid.IntRange(0, 9).Draw(t, "outcome") == 0
				s.Rollout.Ended(f, succeeded, c.Table)
				if succeeded {
					a.since = now // and stale again at once
				}
			}
		}
	})
}

// shown is all that a plan may read, by value.
func shown(s Situation) []string {
	var all []string
	for _, a := range s.Actions {
		all = append(all, fmt.Sprintf("%+v %+v %+v", *a, *a.Retry, a.Status.Applied))
	}
	for _, r := range s.Table.Roles() {
		fields := reflect.ValueOf(*r)
		for i := range fields.NumField() {
			if name := fields.Type().Field(i).Name; name != "names" && name != "diffs" { // they only save time
				all = append(all, fmt.Sprintf("%s: %s: %+v", r.Name, name, fields.Field(i)))
			}
		}
	}
	for _, f := range s.Runs {
		all = append(all, fmt.Sprintf("%+v", *f))
	}
	return append(all, fmt.Sprintf("%+v %s %+v %+v", s.Sync, s.NotLeading, s.Config, s.Rollout))
}
