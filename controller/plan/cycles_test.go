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
	"kicker/kick"
)

func TestShortestCircleOfEachLotIsShown(t *testing.T) {
	for _, test := range []struct {
		claim  string
		arrows map[string][]string
		want   string
	}{
		{"a chain is none", map[string][]string{"lb": {"web"}, "web": {"db"}}, ""},
		{"nor are two ways to the same", map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}, ""},
		{"two", map[string][]string{"web": {"lb"}, "lb": {"web"}}, "lb web"},
		{"three, and who only leads there is not in it", map[string][]string{"a": {"c"}, "c": {"b"}, "b": {"d"}, "d": {"c"}}, "b d c"},
		{"the shortest from the first", map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"c"}}, "a b c"},
		{"each lot has its own", map[string][]string{"x": {"y"}, "y": {"x", "a"}, "a": {"b"}, "b": {"a"}}, "a b, x y"},
	} {
		var shown []string
		for _, k := range circlesIn(test.arrows).shown {
			shown = append(shown, strings.Join(k.Roles, " "))
		}
		if got := strings.Join(shown, ", "); got != test.want {
			t.Errorf("%s: %v has %q, want %q", test.claim, test.arrows, got, test.want)
		}
	}
}

// Roles have the same number if each can be reached from the other, which a plain search says too.
func TestRolesThatReachEachOtherAreOneLot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		arrows := map[string][]string{}
		var names []string
		for i := range rapid.IntRange(1, 7).Draw(t, "roles") {
			names = append(names, fmt.Sprint("r", i))
		}
		for _, from := range names {
			if to := rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID[string]).Draw(t, from); len(to) > 0 {
				arrows[from] = slices.DeleteFunc(slices.Sorted(slices.Values(to)), func(to string) bool { return to == from })
			}
		}
		reach := func(from, to string) bool {
			met := map[string]bool{from: true}
			for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
				for _, next := range arrows[queue[0]] {
					if !met[next] {
						met[next] = true
						queue = append(queue, next)
					}
				}
			}
			return met[to]
		}
		cs := circlesIn(arrows)
		lots := map[string]bool{}
		for _, a := range names {
			for _, b := range names {
				atA, known := cs.of[a]
				atB, also := cs.of[b]
				together := a != b && reach(a, b) && reach(b, a)
				if got := a != b && known && also && atA == atB; got != together {
					t.Fatalf("%s and %s are together: %v, want %v, of %v", a, b, got, together, arrows)
				}
				if together {
					lots[fmt.Sprint(atA)] = true
				}
			}
		}
		if len(cs.shown) != len(lots) {
			t.Fatalf("%d circles of %v, want %d", len(cs.shown), arrows, len(lots))
		}
		for _, k := range cs.shown {
			for i, from := range k.Roles {
				if to := k.Roles[(i+1)%len(k.Roles)]; !slices.Contains(arrows[from], to) {
					t.Fatalf("%v is no circle of %v", k.Roles, arrows)
				}
			}
		}
	})
}

func TestWhoMadeAChange(t *testing.T) {
	member := func(node string, port any) kick.Member {
		return kick.Member{Node: node, Facts: map[string]any{"ipaddress": "10.0.0.1", "port": port}}
	}
	was := []kick.Member{member("web1", 1), member("web2", 1)}
	for _, test := range []struct {
		claim string
		is    []kick.Member
		ran   string
		want  string // "": somebody outside
	}{
		{"the run of the node whose fact changed", []kick.Member{member("web1", 2), member("web2", 1)}, "web1", "port of web1"},
		{"nobody that ran", []kick.Member{member("web1", 2), member("web2", 1)}, "web2", ""},
		{"not all of them ran", []kick.Member{member("web1", 2), member("web2", 2)}, "web1", ""},
		{"all of them ran", []kick.Member{member("web1", 2), member("web2", 2)}, "web1 web2", "port of web1"},
		{"the fact is new", []kick.Member{{Node: "web1", Facts: map[string]any{"ipaddress": "10.0.0.1", "port": 1, "site": "x"}}, member("web2", 1)}, "web1", "site of web1"},
		{"somebody came besides", []kick.Member{member("web1", 2), member("web2", 1), member("web3", 1)}, "web1 web3", ""},
		{"somebody went besides", []kick.Member{member("web1", 2)}, "web1 web2", ""},
	} {
		p := publication{role: &role{now: kick.Membership{Members: test.is}}, was: kick.Membership{Members: was}, diff: between(was, test.is)}
		p.attribute(noon, func(node string) bool { return slices.Contains(strings.Fields(test.ran), node) })
		want := &role{now: p.role.now, own: ownChange{noon, test.want}}
		if test.want == "" {
			want.own, want.outside = ownChange{}, noon
		}
		if p.role.own != want.own || !p.role.outside.Equal(want.outside) {
			t.Errorf("%s: it is %+v, or outside at %s; want %q", test.claim, p.role.own, p.role.outside, test.want)
		}
	}
}

func TestChangeIsARunsDoingForAMinute(t *testing.T) {
	a := &action{node: "web1", memory: &memory{ended: ago(time.Minute)}}
	c := &Controller{byNode: map[string][]*action{"web1": {a}}, flights: map[string]*flight{}, running: map[string]*kick.Running{}}
	if !c.ranLately("web1", noon) || c.ranLately("web1", in(time.Millisecond)) {
		t.Error("want a minute from the end of the run, and no more")
	}
	c.flights["web1"] = &flight{}
	if !c.ranLately("web1", in(time.Hour)) {
		t.Error("want it while the run is in progress")
	}
	delete(c.flights, "web1")
	if c.running["web1"] = (&kick.Running{}); !c.ranLately("web1", in(time.Hour)) {
		t.Error("want it while a former controller's run is in progress")
	}
}

func TestCauseOfStaleness(t *testing.T) {
	kicked := ago(time.Minute)
	later := ownChange{ago(time.Second), "port of web1"}
	for _, test := range []struct {
		claim       string
		bears       string // beside lb: web depends on that
		given       func(web *role, a *action)
		want        cause
		wantChanged string
	}{
		{"nothing since the last kick: it failed", "web", func(web *role, _ *action) { web.own.at, web.outside = ago(time.Hour), ago(time.Hour) }, nothing, ""},
		{"a run's change of its own role", "web", func(web *role, _ *action) { web.own = later }, selfMade, "port of web1"},
		{"of a role in a circle with its own", "circle", func(web *role, _ *action) { web.own = later }, selfMade, "port of web1"},
		{"of a role that leads nowhere near it", "other", func(web *role, _ *action) { web.own = later }, outside, ""},
		{"somebody outside, too", "web", func(web *role, _ *action) { web.own, web.outside = later, ago(2*time.Second) }, outside, ""},
		{"it was never kicked", "web", func(web *role, a *action) { web.own, a.memory.kicked = later, time.Time{} }, outside, ""},
	} {
		s, a := hourOld(t)
		a.memory.kicked = kicked
		cs := circles{of: map[string]int{"web": 1, "circle": 1, "other": 2}}
		bear(s.roles, test.bears, "lb1")
		web := s.roles.byName["web"]
		test.given(web, a)
		if is, what := cs.causeOf(a, s.roles); is != test.want || what != test.wantChanged {
			t.Errorf("%s: cause %d, %q; want %d, %q", test.claim, is, what, test.want, test.wantChanged)
		}
	}
}

func TestSelfMadeKicksAreSpacedFromTheSixthOn(t *testing.T) {
	s, a := hourOld(t)
	a.cause, a.own = selfMade, "port of web1"
	var waits []time.Duration
	for range 12 {
		a.memory.accepted(noon, selfMade)
		waits = append(waits, max(0, dampedUntil(s.cfg, a).Sub(noon)))
	}
	m := time.Minute
	if diff := cmp.Diff([]time.Duration{0, 0, 0, 0, m, 2 * m, 4 * m, 8 * m, 10 * m, 10 * m, 10 * m, 10 * m}, waits); diff != "" {
		t.Errorf("waits after each (-want +got):\n%s", diff)
	}
	a.memory.selfMade = 1 << 40
	if got := dampedUntil(s.cfg, a); !got.Equal(in(10 * m)) {
		t.Errorf("after very many it waits until %s, want 10 minutes", got)
	}
	why := "its role's member facts change with every run: port of web1; an action must not change them"
	if diff := cmp.Diff([]api.Gate{{api.GateBackoff, why, in(10 * m)}}, s.gates(a, in(m))); diff != "" {
		t.Errorf("gates (-want +got):\n%s", diff)
	}
	for name, let := range map[string]func(*action){
		"a change outside":           func(a *action) { a.cause = outside },
		"a failure that is retried":  func(a *action) { a.cause = nothing },
		"an operator's order":        func(a *action) { a.forced = &order{} },
		"a kick for somebody else's": func(a *action) { a.memory.accepted(noon, outside) },
	} {
		free := *a
		memory := *a.memory
		free.memory = &memory
		let(&free)
		if !dampedUntil(s.cfg, &free).IsZero() {
			t.Errorf("%s does not let it go", name)
		}
	}
	a.memory.accepted(noon, nothing)
	if a.memory.selfMade != 1<<40 {
		t.Error("the retry of a failure counts")
	}
}
