package plan

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
)

func TestOriginOfAChange(t *testing.T) {
	web := func(port float64) inventory.Facts {
		return inventory.Facts{"role": "web", "ipaddress": "10.0.0.1", "port": port}
	}
	withSite := web(1)
	withSite["site"] = "x"
	for _, test := range []struct {
		claim string
		given func(*Cluster)
		ran   string
		want  string // empty: it came from outside
	}{
		{"the run of the node whose fact changed", func(c *Cluster) {
			c.Member("web1", web(2), noon)
		}, "web1", "port of web1"},
		{"not the run of another node", func(c *Cluster) { c.Member("web1", web(2), noon) }, "web2", ""},
		{"not if one of the changed nodes had no run", func(c *Cluster) {
			c.Member("web1", web(2), noon)
			c.Member("web2", web(2), noon)
		}, "web1", ""},
		{"all changed nodes had runs", func(c *Cluster) {
			c.Member("web1", web(2), noon)
			c.Member("web2", web(2), noon)
		}, "web1 web2", "port of web1"},
		{"the fact is new", func(c *Cluster) { c.Member("web1", withSite, noon) }, "web1", "site of web1"},
		{"not if a node joins as well", func(c *Cluster) {
			c.Member("web1", web(2), noon)
			c.Member("web3", web(1), noon)
		}, "web1 web3", ""},
		{"not if a node goes as well", func(c *Cluster) {
			c.Member("web1", web(2), noon)
			c.Lose("web2", noon)
		}, "web1 web2", ""},
	} {
		c := NewCluster(t, membership.RoleConfig{Name: "web", MemberFacts: []string{"ipaddress", "port", "site"}})
		c.Member("web1", web(1), ago(time.Hour))
		c.Member("web2", web(1), ago(time.Hour))
		c.Publish()
		test.given(c)
		changes := c.Publish()
		if len(changes) != 1 {
			t.Fatalf("%s: %+v was published, want web", test.claim, changes)
		}
		got := Origins{}
		got.Note(changes[0], noon, func(node string) bool { return slices.Contains(strings.Fields(test.ran), node) })
		want := Origin{own: noon, fact: test.want}
		if test.want == "" {
			want = Origin{outside: noon}
		}
		if got["web"] != want {
			t.Errorf("%s: the origin is %+v, want %+v", test.claim, got["web"], want)
		}
	}
}

func TestOriginsAreKeptByRoleAndKind(t *testing.T) {
	c := NewCluster(t)
	o := Origins{}
	note := func(at time.Time, ran bool) {
		for _, change := range c.Publish() {
			o.Note(change, at, func(string) bool { return ran })
		}
	}
	c.Member("web1", inventory.Facts{"role": "web"}, noon)
	note(in(time.Second), true)
	c.Member("web1", inventory.Facts{"role": "web", "port": 1.0}, noon)
	note(in(2*time.Second), true)
	c.Member("db1", inventory.Facts{"role": "db"}, noon)
	note(in(3*time.Second), true)
	c.Member("web1", inventory.Facts{"role": "web", "port": 2.0}, noon)
	note(in(4*time.Second), false)
	want := Origins{
		"web": {outside: in(4 * time.Second), own: in(2 * time.Second), fact: "port of web1"},
		"db":  {outside: in(3 * time.Second)},
	}
	if diff := cmp.Diff(want, o, cmp.AllowUnexported(Origin{})); diff != "" {
		t.Errorf("origins (-want +got):\n%s", diff)
	}
}

func TestCauseOfStaleness(t *testing.T) {
	kicked, older := ago(time.Minute), Origin{own: ago(time.Hour), outside: ago(time.Hour)}
	own := Origin{own: ago(time.Second), fact: "port of web1"}
	both := own
	both.outside = ago(2 * time.Second)
	for _, test := range []struct {
		claim  string
		has    string // lb1, beside lb
		web    Origin
		kicked time.Time
		want   cause
		fact   string
	}{
		{"nothing since the last kick: it failed", "web", older, kicked, causeNone, ""},
		{"a run's change of a role of its own node", "web", own, kicked, causeOwnCycle, "port of web1"},
		{"of a role in a cycle with its node's", "cycle", own, kicked, causeOwnCycle, "port of web1"},
		{"of a role that does not depend on it", "other", own, kicked, causeOutside, ""},
		{"a change from outside, too", "web", both, kicked, causeOutside, ""},
		{"it was never kicked", "web", own, time.Time{}, causeOutside, ""},
	} {
		c, _, a := HourOld(t)
		a.Retry.kicked = test.kicked
		cs := Cycles{of: map[string]int{"web": 1, "cycle": 1, "other": 2}}
		c.Has(test.has, "lb1")
		if got, fact := cs.causeOf(a, Origins{"web": test.web}, c.Table); got != test.want || fact != test.fact {
			t.Errorf("%s: cause %d, %q; want %d, %q", test.claim, got, fact, test.want, test.fact)
		}
	}
}

func TestOneChangeFromOutsideIsEnoughACause(t *testing.T) {
	c, _, a := HourOld(t)
	a.Retry.kicked = ago(time.Minute)
	c.Has("web", "lb1")
	c.Has("db", "lb1")
	c.Publish()
	origins := Origins{"web": {outside: noon}, "db": {own: noon, fact: "port of db1"}}
	for _, needs := range [][]string{{"web", "db"}, {"db", "web"}} {
		a.Needs = c.Needs(needs...)
		if got, fact := (Cycles{}).causeOf(a, origins, c.Table); got != causeOutside || fact != "" {
			t.Errorf("of %q the cause is %d, %q; want a change outside", needs, got, fact)
		}
	}
}

func TestNodeJoinsTheRolesOfItsSelectorsToo(t *testing.T) {
	c, _, a := HourOld(t)
	c.Needs("site=a", "site=b")
	c.Member("lb1", inventory.Facts{"role": "lb", "site": "a"}, noon)
	cs := Cycles{of: map[string]int{"web": 1, "site=a": 1, "site=b": 2, "db": 2}}
	if web := a.Needs[0].Role; !cs.join(web, "lb1", c.Table) || cs.join(web, "lb2", c.Table) {
		t.Error("want web to depend on lb1, which is in site=a, and not on lb2")
	}
	if db := c.Needs("db")[0].Role; cs.join(db, "lb1", c.Table) {
		t.Error("db depends on lb1, which is not in site=b")
	}
}

func TestOrderIsACauseFromOutside(t *testing.T) {
	c, _, a := HourOld(t)
	c.Has("web", "lb1")
	a.Retry.kicked, a.Order = ago(time.Minute), &api.KickOrder{}
	a.Track(true, Origins{"web": {own: noon}}, Cycles{}, c.Table, noon)
	if f := a.NewFlight("r", "", nil, noon, noon); a.cause != causeOutside || f.cause != causeOutside {
		t.Errorf("the causes are %d and %d, want a change outside", a.cause, f.cause)
	}
	a.Order = nil
	a.Track(true, Origins{"web": {own: noon}}, Cycles{}, c.Table, noon)
	if f := a.NewFlight("r", "", nil, noon, noon); a.cause != causeOwnCycle || f.cause != causeOwnCycle {
		t.Errorf("the causes are %d and %d, want the action's own cycle", a.cause, f.cause)
	}
}

func TestKicksOfTheirOwnCycleAreSpacedFromTheSixthOn(t *testing.T) {
	_, s, a := HourOld(t)
	a.cause, a.fact = causeOwnCycle, "port of web1"
	accepted := func(why cause) { a.Retry.Accepted(&Flight{Sent: noon, cause: why}) }
	var waits []time.Duration
	for range 12 {
		accepted(causeOwnCycle)
		waits = append(waits, max(0, s.dampedUntil(a).Sub(noon)))
	}
	m := time.Minute
	want := []time.Duration{0, 0, 0, 0, m, 2 * m, 4 * m, 8 * m, 10 * m, 10 * m, 10 * m, 10 * m}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Errorf("waits after each (-want +got):\n%s", diff)
	}
	a.Retry.ownCycle = 1 << 40
	if got := s.dampedUntil(a); !got.Equal(in(10 * m)) {
		t.Errorf("after very many it waits until %s, want 10 minutes", got)
	}
	why := "every run changes a member fact that it depends on: port of web1; an action must not do that"
	if diff := cmp.Diff([]api.Gate{gate(api.GateBackoff, why, 10*m)}, s.gates(a, in(m))); diff != "" {
		t.Errorf("gates (-want +got):\n%s", diff)
	}
	for claim, release := range map[string]func(*Action){
		"a change outside":          func(a *Action) { a.cause = causeOutside },
		"a failure that is retried": func(a *Action) { a.cause = causeNone },
		"an operator's order":       func(a *Action) { a.Order = &api.KickOrder{} },
		"a kick for another cause":  func(a *Action) { a.Retry.Accepted(&Flight{Sent: noon, cause: causeOutside}) },
	} {
		free, retry := *a, *a.Retry
		free.Retry = &retry
		release(&free)
		if !s.dampedUntil(&free).IsZero() {
			t.Errorf("%s does not release it", claim)
		}
	}
	accepted(causeNone)
	if a.Retry.ownCycle != 1<<40 {
		t.Error("the retry of a failure counts")
	}
}

func TestDampingIsReportedWhenItBeginsAndEnds(t *testing.T) {
	longAfter := noon.Add(2*DefaultConfig.Backoff.Max + 1)
	began := "lb1/reload is damped after 5 kicks in a row without a change outside: " +
		"every run changes a member fact that it depends on: port of web1; an action must not do that"
	ended := "lb1/reload is no longer damped"
	for _, test := range []struct {
		claim string
		retry Retry
		cause cause
		now   time.Time
		want  string // the text of the event
		left  int    // of the kicks in a row
	}{
		{"an action that runs for other reasons", Retry{}, causeOutside, noon, "", 0},
		{"it is not damped yet", Retry{ownCycle: 4}, causeOwnCycle, noon, "", 4},
		{"it begins", Retry{ownCycle: 5}, causeOwnCycle, noon, began, 5},
		{"it is reported once", Retry{ownCycle: 5, damped: true}, causeOwnCycle, noon, "", 5},
		{"not if the next kick is due already", Retry{ownCycle: 5}, causeOwnCycle, in(time.Minute), "", 5},
		{"it goes on through a retry", Retry{ownCycle: 6, damped: true}, causeNone, longAfter.Add(-1), "", 6},
		{"it ends with a change outside", Retry{ownCycle: 6, damped: true}, causeOutside, noon, ended, 0},
		{"it ends after a long calm", Retry{ownCycle: 6, damped: true}, causeNone, longAfter, ended, 0},
		{"what did not begin does not end", Retry{ownCycle: 4}, causeOutside, noon, "", 0},
	} {
		t.Run(test.claim, func(t *testing.T) {
			_, s, a := HourOld(t)
			a.Retry, a.cause, a.fact = &test.retry, test.cause, "port of web1"
			a.Retry.kicked = noon
			from := a.from
			e := s.Damp(a, test.now)
			got := api.Event{}
			if e != nil {
				got = *e
			}
			want := api.Event{}
			if test.want != "" {
				want = api.Event{Time: test.now, Kind: api.EventDampingBegan, Node: "lb1", Action: "reload", Text: test.want}
			}
			if test.want != "" && test.left == 0 {
				want.Kind, from = api.EventDampingEnded, test.now // it settles again
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
			if a.Retry.ownCycle != test.left || !a.from.Equal(from) {
				t.Errorf("%d kicks in a row, settles from %s; want %d, %s", a.Retry.ownCycle, a.from, test.left, from)
			}
		})
	}
}

// However an action becomes stale: damping begins and ends in turn, and only after dampAfter kicks.
func TestDampingBeginsAndEndsInTurn(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		_, s, a := HourOld(t)
		now, damped := noon, false
		for range rapid.IntRange(10, 60).Draw(t, "turns") {
			now = now.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "pause")) * time.Second)
			a.cause = rapid.SampledFrom([]cause{
				causeOwnCycle, causeOwnCycle, causeOwnCycle, causeOwnCycle, causeOwnCycle, causeNone, causeOutside,
			}).Draw(t, "cause")
			switch e := s.Damp(a, now); {
			case e == nil:
			case (e.Kind == api.EventDampingBegan) == damped:
				t.Fatalf("%s twice in a row", e.Kind)
			default:
				damped = !damped
				seen[e.Kind]++
			}
			if a.Retry.damped != damped || damped && a.Retry.ownCycle < dampAfter {
				t.Fatalf("damped is %t, and %+v", damped, a.Retry)
			}
			if !now.Before(s.dampedUntil(a)) && rapid.Bool().Draw(t, "kicked") {
				a.Retry.Accepted(&Flight{Sent: now, cause: a.cause})
			}
		}
	})
	if len(seen) != 2 {
		t.Errorf("damping never began and ended: %v", seen)
	}
}
