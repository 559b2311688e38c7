package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

// smallWorld is a controller without a loop, whose nodes, configurations and troubles are drawn.
type smallWorld struct {
	*Controller
	t   *rapid.T
	now time.Time
}

var quietly, over = context.WithCancel(context.Background())

func newSmallWorld(t *rapid.T) *smallWorld {
	over() // what is sent is sent in vain
	w := &smallWorld{t: t}
	c, err := New(w.config("before"), "me", inventory.New(), Bus{
		Send: func(context.Context, kick.Kick) (kick.Reply, error) { return kick.Reply{}, context.Canceled },
		Roster: func(context.Context, string, string, string) ([]kick.Member, string, error) {
			return nil, "", context.Canceled
		},
		Probe: func(context.Context, string, []string) ([]string, error) { return nil, context.Canceled },
		Ask:   func(string, string) {}, RequestReports: func(time.Duration) {}, Beacon: func(string, int64, time.Duration) {},
		TellLeaving: func(string, string, inventory.LeaveStatus) {}, OrderLeave: func(string, string, bool) {},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.Controller, w.now = c, c.leadership.started
	return w
}

func draw[E any](w *smallWorld, what string, from ...E) E {
	return rapid.SampledFrom(from).Draw(w.t, what)
}

func (w *smallWorld) config(when string) Config {
	cfg := DefaultConfig()
	cfg.Settle = draw(w, when+" settle", 0, time.Second, time.Minute)
	cfg.InFlight = draw(w, when+" in_flight", 1, 256)
	cfg.Limits = draw(w, when+" limits", nil, []plan.Limit{{Action: "reload", InFlight: 1}})
	cfg.Guard = draw(w, when+" guard", GuardOn, GuardOn, GuardShadow)
	cfg.Mode = draw(w, when+" mode", plan.ModeAct, plan.ModeAct, plan.ModeObserve)
	cfg.Backoff.Max = draw(w, when+" backoff.max", 10*time.Second, 10*time.Minute)
	for _, name := range []string{"web", "db", "lb", "front"} {
		if !draw(w, when+" has "+name, true, false) {
			continue
		}
		cfg.Roles = append(cfg.Roles, membership.RoleConfig{
			Name:        name,
			Selector:    draw(w, name+" selector", "", "", "role="+name, "role=wbe", "env=prod"),
			MemberFacts: draw(w, name+" member_facts", nil, []string{"port"}, []string{"port", "env?"}),
			DependsOn:   draw(w, name+" depends_on", nil, []string{"web"}, []string{"db", "env=prod"}, []string{"web same=env"}, []string{"none"}),
			MinMembers:  draw(w, name+" min_members", 0, 0, 2),
			Budget:      draw[membership.Budget](w, name+" budget", "", "1", "100%"),
			Mode:        draw(w, name+" mode", "", plan.ModeAct, plan.ModeObserve),
		})
	}
	return cfg
}

// says is a heartbeat of a node, and its facts.
func (w *smallWorld) says(name string) {
	facts := inventory.Facts{"role": draw(w, name+" role", "web", "web", "db", "lb"), "env": draw(w, name+" env", "prod", "test"), "port": draw(w, name+" port", "1", "2"), "ipaddress": "10.0.0.1"}
	a := kick.ActionStatus{Name: "reload", Applied: map[string]kick.Revision{}, Dirty: draw(w, name+" dirty", false, false, true)}
	a.DependsOn = draw(w, name+" depends_on", nil, []string{"web"}, []string{"web same=env"}, []string{"web", "db"})
	for _, as := range []string{"web", "db", "env=prod"} {
		if r := w.table.Role(draw(w, name+" applied "+as, as, "web where env=prod", "other")); r != nil {
			a.Applied[as] = r.Current().Revision
		}
	}
	if draw(w, name+" failed", false, false, true) {
		a.Last = &kick.LastRun{Run: "r", Outcome: kick.Failed, Failures: 3}
	}
	data, err := json.Marshal(kick.Status{Actions: []kick.ActionStatus{a}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ingest(inventory.Received{At: w.now, Facts: &inventory.FactsMessage{Node: name, Instance: "m", Boot: "b", Facts: facts}})
	w.ingest(inventory.Received{At: w.now, Beat: &inventory.Beat{
		Node: name, Instance: "m", Boot: "b", Conn: inventory.Conn{Server: name, Client: 1}, Facts: facts.Digest(),
		Ready: draw(w, name+" ready", true, true, true, false), Leaving: draw(w, name+" leaving", false, false, false, true), NextIn: 1000, Kick: data,
	}})
}

func (w *smallWorld) passes(d time.Duration) {
	w.now = w.now.Add(d)
	w.ingest(inventory.Received{At: w.now, Canary: true})
	w.turn(quietly, true, w.now)
	w.asking.Wait()
}

// reloaded puts another configuration in force, and takes the turn that follows.
func (w *smallWorld) reloaded(cfg Config) {
	if err := w.reload(cfg, w.now); err != nil {
		w.t.Fatal(err)
	}
	w.turn(quietly, true, w.now)
}

// lives is some time in which things happen.
func (w *smallWorld) lives() {
	for range draw(w, "steps", 1, 2, 4) {
		for i := range 6 {
			name := fmt.Sprint("n", i)
			switch draw(w, name, "says", "says", "dies", "nothing") {
			case "says":
				w.says(name)
			case "dies":
				w.ingest(inventory.Received{At: w.now, Disconnect: &inventory.Disconnect{Conn: inventory.Conn{Server: name, Client: 1}}})
			}
		}
		w.passes(draw(w, "passes", 500*time.Millisecond, 5*time.Second, time.Minute))
	}
}

// state is all that a change of configuration may move, to be compared.
func (w *smallWorld) state() any {
	return []any{w.cfg, w.viewRoles(), plan.Make(w.situation(w.now), w.now), w.table.Next(true), w.journal.seq, len(w.fleet.flights), len(w.fleet.retries)}
}

var asOne = cmp.Options{cmpopts.EquateEmpty(), cmp.AllowUnexported(inventory.Snapshot{})}

func TestDryRunIsWhatAReloadDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(t)
		w.says("n0")
		w.passes(10 * time.Second)
		w.lives()
		cfg := w.config("after")

		before := w.state()
		next, err := w.with(cfg, w.now)
		if err != nil {
			t.Fatal(err)
		}
		verdicts := next.firstTurn(w.now)
		roles := next.viewRoles()
		if diff := cmp.Diff(before, w.state(), asOne); diff != "" {
			t.Fatalf("a plan changed (-before +after):\n%s", diff)
		}

		w.reloaded(cfg)
		if diff := cmp.Diff(verdicts, w.View().Verdicts, asOne); diff != "" {
			t.Fatalf("verdicts (-planned +reloaded):\n%s", diff)
		}
		if diff := cmp.Diff(roles, w.View().Roles, asOne); diff != "" {
			t.Fatalf("roles (-planned +reloaded):\n%s", diff)
		}
		w.asking.Wait()
		w.lives() // with what it is made of now
	})
}

func TestReloadedRolesAgreeWithTheNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(t)
		w.says("n0")
		w.passes(10 * time.Second)
		w.lives()
		w.reloaded(w.config("after"))
		for _, r := range w.table.Roles() {
			if !r.Open() || r.Held(false) != nil {
				continue
			}
			want := map[string]bool{}
			for n := range w.inv.Snapshot().All() {
				if n.Eligible() && r.Has(n.Name) || r.Missing(n.Name) {
					want[n.Name] = true
				}
			}
			got := map[string]bool{}
			for _, m := range r.Current().Members {
				if w.inv.Snapshot().Node(m.Node) != nil {
					got[m.Node] = true
				}
			}
			if diff := cmp.Diff(want, got, asOne); diff != "" {
				t.Fatalf("members of %s (-want +got):\n%s", r.Name, diff)
			}
		}
		for _, a := range w.fleet.all() {
			if a.Retry != w.fleet.retries[a.Key] {
				t.Fatalf("%s has another retry", a.Key)
			}
			for _, need := range a.Needs {
				if w.table.Role(need.Role.Name) != need.Role {
					t.Fatalf("%s depends on a role %s that is no longer there", a.Key, need.Role.Name)
				}
			}
		}
	})
}

func TestSameConfigurationKeepsTheRoles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(t)
		w.says("n0")
		w.passes(10 * time.Second)
		w.lives()
		w.passes(2 * time.Second) // losses that wait for others are published
		w.passes(tidyEvery)       // otherwise it has roles that are no longer needed
		next, err := w.with(w.cfg, w.now)
		if err != nil {
			t.Fatal(err)
		}
		w.turn(quietly, true, w.now)
		verdicts := next.firstTurn(w.now)
		if diff := cmp.Diff(w.View().Roles, next.viewRoles(), asOne); diff != "" {
			t.Fatalf("roles (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(w.View().Verdicts, verdicts, asOne); diff != "" {
			t.Fatalf("verdicts (-before +after):\n%s", diff)
		}
		w.asking.Wait()
	})
}

func TestPlanShowsOnlyWhatChanges(t *testing.T) {
	one, two := kick.Revision{Epoch: 1, N: 1, Hash: "1-0ne"}, kick.Revision{Epoch: 1, N: 2, Hash: "1-tw0"}
	verdict := func(node string, state api.State, reason string, current kick.Revision) api.Verdict {
		return api.Verdict{Node: node, Action: "reload", State: state, Reason: reason, Needs: []api.Need{{Role: "web", Current: current}}}
	}
	now := []api.Verdict{
		verdict("lb1", api.Converged, "", one), verdict("lb2", api.Converged, "", one), verdict("lb3", api.Pending, "web: +web1", one),
		verdict("lb4", api.Pending, "web: +web1", one), verdict("lb5", api.Failing, "web: +web1", one),
	}
	then := []api.Verdict{
		verdict("lb1", api.Converged, "", one), verdict("lb2", api.Pending, "web: -web1", two), verdict("lb3", api.Pending, "web: +web1", one),
		verdict("lb4", api.Pending, "web: +web1 +web2", one), verdict("lb5", api.Failing, "web: +web1", two),
	}
	same, other := api.Role{Name: "db"}, api.Role{Name: "web", Selector: "role=web"}
	was := other
	was.Selector = "role=wbe"
	p := compare(&api.View{Verdicts: now, Roles: []api.Role{same, was}}, then, []api.Role{same, other})
	var actions []string
	for _, a := range p.Actions {
		actions = append(actions, fmt.Sprintf("%s %t", a.Node, a.BecomesStale))
	}
	if diff := cmp.Diff([]string{"lb2 true", "lb4 false", "lb5 false"}, actions); diff != "" || p.Stale() != 1 {
		t.Errorf("%d become stale; actions (-want +got):\n%s", p.Stale(), diff)
	}
	if len(p.Roles) != 1 || p.Roles[0].Name != "web" {
		t.Errorf("the roles are %+v, want web alone", p.Roles)
	}
}

func TestReloadNamesWhatChanged(t *testing.T) {
	was, is := DefaultConfig(), DefaultConfig()
	was.Roles = []membership.RoleConfig{{Name: "web"}, {Name: "db", MinMembers: 1}, {Name: "gone"}}
	is.Roles = []membership.RoleConfig{{Name: "db", MinMembers: 2}, {Name: "web"}, {Name: "new"}}
	is.Settle, is.Backoff.Max = 2*time.Second, time.Hour
	want := []string{"settle", "backoff", "role db", "role gone", "role new"}
	if diff := cmp.Diff(want, changedKeys(was, is)); diff != "" {
		t.Errorf("changed keys (-want +got):\n%s", diff)
	}
	if got := changedKeys(is, is); len(got) != 0 {
		t.Errorf("nothing changed, and %q did", got)
	}
}

func TestRoleThatAnActionHasAppliedIsKnown(t *testing.T) {
	for _, applied := range []bool{true, false} {
		inLoop(t, patient(), func(l *loop) {
			a := kick.ActionStatus{Name: "reload", DependsOn: []string{"web"}}
			if applied {
				a.Applied = map[string]kick.Revision{"web": {Hash: "1-of-before"}}
			}
			l.says("lb1", "lb", kick.Status{Actions: []kick.ActionStatus{a}})
			l.sync(t)
			if web := l.View().Roles[1]; web.Unknown == applied {
				t.Errorf("lb1 has applied web: %t, and web is unknown: %t", applied, web.Unknown)
			}
		})
	}
}
