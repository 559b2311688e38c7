package plan_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }
func in(d time.Duration) time.Time  { return noon.Add(d) }

type revisions = map[string]kick.Revision

func TestKickCarriesTheCurrentMemberships(t *testing.T) {
	c, s, a := plan.HourOld(t)
	k := a.Kick("r1", plan.Make(s, noon)[0].Reason, api.Identity{ID: "me", Epoch: 7})
	want := kick.Kick{
		V: kick.Version, ID: "r1", Controller: "me", Epoch: 7, Node: "lb1", Action: "reload", Reason: "web: never applied",
		Needs: []kick.Membership{c.Role("web").Current()},
	}
	if diff := cmp.Diff(want, k); diff != "" {
		t.Errorf("kick (-want +got):\n%s", diff)
	}
	if got := kick.Hash(k.Needs[0].Members); got != k.Needs[0].Revision.Hash || len(k.Needs[0].Members) != 2 {
		t.Errorf("the hash of the members is %s, and their revision has %s", got, k.Needs[0].Revision.Hash)
	}
	a.Needs[0].As = "frontends"
	if k := a.Kick("r2", "", api.Identity{}); k.Needs[0].Role != "frontends" || k.Ordered {
		t.Errorf("%+v calls the role %q, want frontends, and not ordered", k, k.Needs[0].Role)
	}
	if a.Order = (&api.KickOrder{}); !a.Kick("r3", "", api.Identity{}).Ordered {
		t.Error("the kick of an order is not ordered")
	}
	for _, force := range []bool{false, true} {
		a.Order = &api.KickOrder{Force: force}
		if k := a.Kick("r4", "", api.Identity{}); k.Force != force {
			t.Errorf("the kick of an order with force %v has force %v", force, k.Force)
		}
	}
}

// memory remembers what the roles remember. Of actions that did not answer it knows the hash.
type memory map[string]bool

func (m memory) Has(r *membership.Role, hash, node string) (has, known bool) {
	return r.Applied(hash, node)
}
func (m memory) Refused(_ plan.Key, hash string) bool { return m[hash] }

func TestActionMayUseANodeUntilItAppliedTheRevisionWithoutIt(t *testing.T) {
	for _, test := range []struct {
		claim string
		given func(c *plan.Cluster, a *plan.Action, with, without kick.Revision)
		want  bool
		asks  int
	}{
		{"it applied the revision with the node", func(_ *plan.Cluster, a *plan.Action, with, _ kick.Revision) {
			a.Status.Applied = revisions{"web": with}
		}, true, 0},
		{"it applied the revision without the node", func(_ *plan.Cluster, a *plan.Action, _, without kick.Revision) {
			a.Status.Applied = revisions{"web": without}
		}, false, 0},
		{"it never reported a revision", func(*plan.Cluster, *plan.Action, kick.Revision, kick.Revision) {}, true, 0},
		{"the role was never the node's, and it never applied it", func(c *plan.Cluster, a *plan.Action, _, _ kick.Revision) {
			a.Needs = c.Needs("db")
			c.Publish()
		}, false, 0},
		{"it applied a revision that is not remembered", func(_ *plan.Cluster, a *plan.Action, _, _ kick.Revision) {
			a.Status.Applied = revisions{"web": {Hash: "1-x"}}
		}, true, 1},
		{"a revision of another role is not remembered", func(c *plan.Cluster, a *plan.Action, _, _ kick.Revision) {
			a.Needs, a.Status.Applied = c.Needs("db"), revisions{"db": {Hash: "1-x"}}
			c.Publish()
		}, true, 1},
		{"the members cannot be had, the node had the role", func(_ *plan.Cluster, a *plan.Action, _, _ kick.Revision) {
			a.Status.Applied = revisions{"web": {Hash: "1-refused"}}
		}, true, 1},
		{"the members cannot be had, and the node never had the role", func(c *plan.Cluster, a *plan.Action, _, _ kick.Revision) {
			a.Needs, a.Status.Applied = c.Needs("db"), revisions{"db": {Hash: "1-refused"}}
			c.Publish()
		}, false, 1},
		{"the members were learned", func(c *plan.Cluster, a *plan.Action, _, _ kick.Revision) {
			others := []kick.Member{{Node: "web8"}, {Node: "web9"}}
			c.Role("web").Learn(kick.Hash(others), others)
			a.Status.Applied = revisions{"web": {Hash: kick.Hash(others)}}
		}, false, 0},
		{"its last run did not succeed", func(_ *plan.Cluster, a *plan.Action, _, without kick.Revision) {
			a.Status.Applied, a.Status.Dirty = revisions{"web": without}, true
		}, true, 0},
		{"its last run with another role did not succeed", func(c *plan.Cluster, a *plan.Action, _, _ kick.Revision) {
			a.Needs = c.Needs("db")
			c.Publish()
			a.Status.Applied, a.Status.Dirty = revisions{"db": c.Role("db").Current().Revision}, true
		}, false, 0},
		{"a former controller's run is in flight", func(_ *plan.Cluster, a *plan.Action, _, without kick.Revision) {
			a.Status.Applied, a.Flight = revisions{"web": without}, &plan.Flight{}
		}, true, 0},
		{"a run in flight was handed the node", func(_ *plan.Cluster, a *plan.Action, with, without kick.Revision) {
			a.Status.Applied = revisions{"web": without}
			a.Flight = &plan.Flight{Handed: map[string]string{"web": with.Hash}}
		}, true, 0},
		{"a run in flight was not handed the node", func(_ *plan.Cluster, a *plan.Action, _, without kick.Revision) {
			a.Status.Applied = revisions{"web": without}
			a.Flight = &plan.Flight{Handed: map[string]string{"web": without.Hash}}
		}, false, 0},
		{"the node has another role by now", func(c *plan.Cluster, a *plan.Action, with, _ kick.Revision) {
			a.Status.Applied = revisions{"web": with}
			c.Member("web1", inventory.Facts{"role": "spare"}, noon)
			c.Leave("web1", noon)
			c.Publish()
		}, true, 0},
		{"the role is not recovered", func(c *plan.Cluster, a *plan.Action, _, without kick.Revision) {
			a.Status.Applied = revisions{"web": without}
			c.Close("web", in(time.Minute))
		}, true, 0},
	} {
		t.Run(test.claim, func(t *testing.T) {
			c := plan.NewCluster(t)
			c.Member("web1", inventory.Facts{"role": "web"}, noon)
			c.Publish()
			with := c.Role("web").Current().Revision
			c.Leave("web1", noon)
			c.Publish()
			a := &plan.Action{Needs: c.Needs("web")}
			test.given(c, a, with, c.Role("web").Current().Revision)
			use := a.MayUse("web1", memory{"1-refused": true})
			if use.May != test.want || len(use.Ask) != test.asks {
				t.Errorf("it may use web1: %+v, want %t and %d questions", use, test.want, test.asks)
			}
		})
	}
}

// queue is a cluster with one action, that is tracked as the controller does it.
type queue struct {
	t *testing.T
	*plan.Cluster
	plan.Situation
	a       *plan.Action
	origins plan.Origins
}

func newQueue(t *testing.T, roles ...membership.RoleConfig) *queue {
	c, s, a := plan.HourOld(t, roles...)
	s.Settle = 0
	return &queue{t, c, s, a, plan.Origins{}}
}

// verdict publishes what changed, and is the verdict at a time.
func (q *queue) verdict(now time.Time) api.Verdict {
	for _, c := range q.Publish() {
		q.origins.Note(c, now, func(string) bool { return false })
	}
	q.a.Track(q.Sync.Open, q.origins, plan.Cycles{}, q.Cluster.Table, now)
	return plan.Make(q.Situation, now)[0]
}

// wait fails unless the action is in that state, and waits for the gate named; for none if it is empty.
func (q *queue) wait(now time.Time, state api.State, gate string) {
	q.t.Helper()
	v := q.verdict(now)
	got := ""
	for _, g := range v.Gates {
		got += g.Name
	}
	if v.State != state || got != gate {
		q.t.Fatalf("the action is %s (%s) and waits for %q, want %s and %q", v.State, v.Reason, got, state, gate)
	}
}

func (q *queue) kick(id string, now time.Time) {
	q.a.Flight = q.a.NewFlight(id, "", q.Of("lb1"), now, now.Add(time.Minute))
	q.a.Retry.Sent, q.a.Retry.Tried = now, q.a.Flight.Tried
	q.a.Retry.Accepted(q.a.Flight)
}

func (q *queue) succeed() {
	q.a.Status.Applied = revisions{"web": {Hash: q.a.Flight.Handed["web"]}}
	q.a.Flight = nil
	q.a.Retry.Succeeded()
}

func TestChangesDuringARunMakeOneMoreRun(t *testing.T) {
	q := newQueue(t)
	q.SettleMin, q.SettleMax = 0, 0
	q.wait(noon, api.Pending, "")
	q.kick("r1", noon)
	for i, name := range []string{"web3", "web4", "web5"} {
		q.Member(name, inventory.Facts{"role": "web"}, noon)
		q.wait(in(time.Duration(i)*time.Second), api.Pending, api.GateRunning)
	}
	q.succeed()
	q.wait(in(5*time.Second), api.Pending, "")
	q.kick("r2", in(5*time.Second))
	if got, want := q.a.Flight.Handed["web"], q.Role("web").Current().Revision.Hash; got != want {
		t.Errorf("the second kick hands over revision %s, want the current one, %s", got, want)
	}
	q.succeed()
	q.wait(in(6*time.Second), api.Converged, "")
}

func TestActionIsStaleFromTheFirstChangeThatItLacks(t *testing.T) {
	q := newQueue(t)
	q.Settle = 3 * time.Second
	q.a.Status.Applied = revisions{"web": q.Role("web").Current().Revision}
	q.wait(ago(4*time.Second), api.Converged, "")
	q.Lose("web1", ago(2*time.Second)) // it was suspect from then on
	q.Member("web3", inventory.Facts{"role": "web"}, ago(time.Second))
	for i, next := range []string{"web4", "web5"} {
		v := q.verdict(in(time.Duration(i) * time.Millisecond))
		if len(v.Gates) != 1 || v.Gates[0].Name != api.GateSettle || !v.Gates[0].Until.Equal(in(time.Second)) {
			t.Fatalf("the gates are %+v, want settle until 3 s after the first change", v.Gates)
		}
		if !v.Since.Equal(noon) {
			t.Errorf("pending since %s, want %s", v.Since, noon)
		}
		q.Member(next, inventory.Facts{"role": "web"}, noon) // which does not delay it
	}
	q.verdict(in(2 * time.Millisecond))
	q.a.Status.Applied = revisions{"web": q.Role("web").Current().Revision}
	if v := q.verdict(in(time.Second)); v.State != api.Converged || !v.Since.IsZero() {
		t.Errorf("the verdict is %+v, want converged", v)
	}
}

func TestActionSettlesAgainWhenItLacksNoRole(t *testing.T) {
	for _, test := range []struct {
		claim        string
		roles        []membership.RoleConfig
		lacks, comes func(q *queue)
		gate         string
	}{
		{"its role was unknown", nil, func(q *queue) { q.a.Needs = q.Needs("db") },
			func(q *queue) { q.Member("db1", inventory.Facts{"role": "db"}, noon) }, api.GateUnknown},
		{"its role had too few members", []membership.RoleConfig{{Name: "web", MinMembers: 3}}, func(*queue) {},
			func(q *queue) { q.Member("web3", inventory.Facts{"role": "web"}, noon) }, api.GateMinMembers},
		{"a dependency was not resolved", nil, func(q *queue) { q.a.Unresolved = "the node itself has no fact site" },
			func(q *queue) { q.a.Unresolved = "" }, api.GateUnknown},
	} {
		t.Run(test.claim, func(t *testing.T) {
			q := newQueue(t, test.roles...)
			q.Settle = time.Second
			test.lacks(q)
			q.wait(noon, api.Pending, test.gate)
			test.comes(q)
			q.wait(in(time.Minute), api.Pending, api.GateSettle) // it may be the first of several
			q.wait(in(time.Minute+time.Second), api.Pending, "")
		})
		t.Run(test.claim+" before the inventory was complete", func(t *testing.T) {
			q := newQueue(t, test.roles...)
			q.Settle, q.Sync.Open = time.Second, false
			test.lacks(q)
			q.wait(noon, api.Pending, api.GateSynced+test.gate)
			test.comes(q)
			q.Sync.Open = true
			q.wait(in(time.Minute), api.Pending, "")
		})
	}
}

func TestOrderMakesAConvergedActionPending(t *testing.T) {
	q := newQueue(t)
	q.a.Status.Applied = revisions{"web": q.Role("web").Current().Revision}
	q.wait(noon, api.Converged, "")
	q.a.Order = &api.KickOrder{}
	q.wait(in(time.Second), api.Pending, "")
	if v := q.verdict(in(2 * time.Second)); !v.Since.Equal(in(time.Second)) || !q.a.Retry.Used.Equal(in(2*time.Second)) {
		t.Errorf("pending since %s, used at %s; want the order and now", v.Since, q.a.Retry.Used)
	}
	q.a.Order = nil
	q.wait(in(time.Minute), api.Converged, "")
}
