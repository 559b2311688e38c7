package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"kicker/controller/api"
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
		TellLeaving: func(string, inventory.LeaveStatus) {},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.Controller, w.now = c, c.identity.Started
	return w
}

func draw[E any](w *smallWorld, what string, from ...E) E {
	return rapid.SampledFrom(from).Draw(w.t, what)
}

func (w *smallWorld) config(when string) Config {
	cfg := DefaultConfig()
	cfg.Settle = draw(w, when+" settle", 0, time.Second, time.Minute)
	cfg.InFlight = draw(w, when+" in_flight", 1, 256)
	cfg.Guard = draw(w, when+" guard", GuardOn, GuardOn, GuardShadow)
	cfg.Mode = draw(w, when+" mode", ModeAct, ModeAct, ModeObserve)
	cfg.Backoff.Max = draw(w, when+" backoff.max", 10*time.Second, 10*time.Minute)
	for _, name := range []string{"web", "db", "lb", "front"} {
		if !draw(w, when+" has "+name, true, false) {
			continue
		}
		cfg.Roles = append(cfg.Roles, RoleConfig{
			Name:        name,
			Selector:    draw(w, name+" selector", "", "", "role="+name, "role=wbe", "env=prod"),
			MemberFacts: draw(w, name+" member_facts", nil, []string{"port"}, []string{"port", "env"}),
			DependsOn:   draw(w, name+" depends_on", nil, []string{"web"}, []string{"db", "env=prod"}, []string{"web same=env"}, []string{"nobody"}),
			MinMembers:  draw(w, name+" min_members", 0, 0, 2),
			Budget:      draw[Budget](w, name+" budget", "", "1", "100%"),
			Mode:        draw(w, name+" mode", "", ModeAct, ModeObserve),
		})
	}
	return cfg
}

// says is a heartbeat of a node, and its facts.
func (w *smallWorld) says(name string) {
	facts := inventory.Facts{"role": draw(w, name+" role", "web", "web", "db", "lb"), "env": draw(w, name+" env", "prod", "test"), "port": draw(w, name+" port", "1", "2")}
	a := kick.ActionStatus{Name: "reload", Applied: map[string]kick.Revision{}, Dirty: draw(w, name+" dirty", false, false, true)}
	a.DependsOn = draw(w, name+" depends_on", nil, []string{"web"}, []string{"web same=env"}, []string{"web", "db"})
	for _, as := range []string{"web", "db", "env=prod"} {
		r := w.roles.byName[draw(w, name+" applied "+as, as, "web where env=prod", "other")]
		if r != nil {
			a.Applied[as] = r.now.Revision
		}
	}
	if draw(w, name+" failed", false, false, true) {
		a.Last = &kick.LastRun{Run: "r", Outcome: kick.Failed, Failures: 3}
	}
	data, err := json.Marshal(kick.Status{Actions: []kick.ActionStatus{a}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.hear(inventory.Received{At: w.now, Facts: &inventory.FactsMessage{Node: name, Instance: "m", Boot: "b", Facts: facts}})
	w.hear(inventory.Received{At: w.now, Beat: &inventory.Beat{
		Node: name, Instance: "m", Boot: "b", Conn: inventory.Conn{Server: name, Client: 1}, Facts: facts.Digest(),
		Ready: draw(w, name+" ready", true, true, true, false), Leaving: draw(w, name+" leaving", false, false, false, true), NextIn: 1000, Kick: data,
	}})
}

func (w *smallWorld) passes(d time.Duration) {
	w.now = w.now.Add(d)
	w.hear(inventory.Received{At: w.now, Canary: true})
	w.changed = true
	w.turn(quietly, w.now)
	w.sends.Wait()
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
				w.hear(inventory.Received{At: w.now, Disconnect: &inventory.Disconnect{Conn: inventory.Conn{Server: name, Client: 1}}})
			}
		}
		w.passes(draw(w, "passes", 500*time.Millisecond, 5*time.Second, time.Minute))
	}
}

// state is all that a change of configuration may move, to be compared.
func (w *smallWorld) state() any {
	return []any{w.cfg, w.showRoles(), plan(w.situation(), w.now), w.roles.n, w.journal.seq, len(w.flights), len(w.memories)}
}

var asOne = cmp.Options{cmpopts.EquateEmpty(), cmp.AllowUnexported(inventory.Snapshot{})}

func TestPlanIsWhatReloadDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(t)
		w.says("n0")
		w.passes(10 * time.Second)
		w.lives()
		cfg := w.config("after")

		before := w.state()
		next, err := w.under(cfg, w.now)
		if err != nil {
			t.Fatal(err)
		}
		verdicts := next.foreseen(w.now)
		roles := next.showRoles()
		if diff := cmp.Diff(before, w.state(), asOne); diff != "" {
			t.Fatalf("a plan changed (-before +after):\n%s", diff)
		}

		if err := w.reload(quietly, cfg, w.now); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(verdicts, w.View().Verdicts, asOne); diff != "" {
			t.Fatalf("verdicts (-planned +reloaded):\n%s", diff)
		}
		if diff := cmp.Diff(roles, w.View().Roles, asOne); diff != "" {
			t.Fatalf("roles (-planned +reloaded):\n%s", diff)
		}
		w.sends.Wait()
		w.lives() // with what it is made of now
	})
}

func TestReloadedRolesAgreeWithTheNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(t)
		w.says("n0")
		w.passes(10 * time.Second)
		w.lives()
		if err := w.reload(quietly, w.config("after"), w.now); err != nil {
			t.Fatal(err)
		}
		for _, r := range w.roles.byName {
			want := map[string]bool{}
			for n := range w.inv.Snapshot().All() {
				if n.Eligible() && r.selector.Matches(n.Facts) {
					want[n.Name] = true
				}
			}
			got := map[string]bool{}
			for name := range r.members {
				got[name] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("members of %s (-want +got):\n%s", r.Name, diff)
			}
			if r.gate.open && !w.roles.shadow {
				for name := range r.guard.missing {
					want[name] = true
				}
				if names := memberNames(r); len(strings.Fields(names)) != len(want) {
					t.Fatalf("%s was published with %s, want %v", r.Name, names, want)
				}
			}
		}
		for node, actions := range w.byNode {
			for _, a := range actions {
				if a.memory != w.memories[key{node, a.name}] {
					t.Fatalf("%s/%s has another memory", node, a.name)
				}
				for _, need := range a.needs {
					if w.roles.byName[need.role.Name] != need.role {
						t.Fatalf("%s/%s needs a role %s that is there no more", node, a.name, need.role.Name)
					}
				}
			}
		}
	})
}

func TestRolesUnderTheSameConfigurationAreTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(t)
		w.says("n0")
		w.passes(10 * time.Second)
		w.lives()
		w.passes(2 * guardPause)
		w.passes(tidyEvery) // else it has roles that nobody needs any more
		next, err := w.under(w.cfg, w.now)
		if err != nil {
			t.Fatal(err)
		}
		w.changed = true
		w.turn(quietly, w.now)
		verdicts := next.foreseen(w.now)
		if diff := cmp.Diff(w.View().Roles, next.showRoles(), asOne); diff != "" {
			t.Fatalf("roles (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(w.View().Verdicts, verdicts, asOne); diff != "" {
			t.Fatalf("verdicts (-before +after):\n%s", diff)
		}
		w.sends.Wait()
	})
}

func TestPlanIsOfWhatBecomesAnotherAlone(t *testing.T) {
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
	p := newPlan(&api.View{Verdicts: now, Roles: []api.Role{same, was}}, then, []api.Role{same, other})
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
	was.Roles = []RoleConfig{{Name: "web"}, {Name: "db", MinMembers: 1}, {Name: "gone"}}
	is.Roles = []RoleConfig{{Name: "db", MinMembers: 2}, {Name: "web"}, {Name: "new"}}
	is.Settle, is.Backoff.Max = 2*time.Second, time.Hour
	want := []string{"settle", "backoff", "role db", "role gone", "role new"}
	if diff := cmp.Diff(want, changedKeys(was, is)); diff != "" {
		t.Errorf("changed keys (-want +got):\n%s", diff)
	}
	if got := changedKeys(is, is); len(got) != 0 {
		t.Errorf("nothing changed, and %q did", got)
	}
}

func TestRoleThatSomebodyHasAppliedIsKnownThoughNobodyBearsIt(t *testing.T) {
	for _, applied := range []bool{true, false} {
		c, err := New(DefaultConfig(), "me", inventory.New(), Bus{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		a := kick.ActionStatus{Name: "reload", DependsOn: []string{"web"}}
		if applied {
			a.Applied = map[string]kick.Revision{"web": {Hash: "1-of a former controller"}}
		}
		lb := &inventory.Node{Name: "lb1", Life: inventory.Alive, Ready: true, Facts: inventory.Facts{}}
		c.setActions(lb, kick.Status{Actions: []kick.ActionStatus{a}}, c.identity.Started)
		if c.roles.byName["web"].unheardOf() == applied {
			t.Errorf("lb1 has applied web: %t, and web is unheard of: %t", applied, c.roles.byName["web"].unheardOf())
		}
	}
}
