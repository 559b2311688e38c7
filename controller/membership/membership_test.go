package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kicker/inventory"
	"kicker/kick"
)

type failer interface {
	Helper()
	Fatal(...any)
}

type testRoles struct {
	*roles
	t failer
}

func newTestRoles(t failer, configured ...RoleConfig) testRoles {
	t.Helper()
	rs, err := newRoles(configured)
	if err != nil {
		t.Fatal(err)
	}
	return testRoles{rs, t}
}

func (rs testRoles) mustMove(before, after *inventory.Node, from time.Time) {
	rs.t.Helper()
	if err := rs.move(before, after, from); err != nil {
		rs.t.Fatal(err)
	}
}

// joined moves a node that bears web in.
func (rs testRoles) joined(name string, from time.Time) *inventory.Node {
	rs.t.Helper()
	n := serving(name, inventory.Facts{"role": "web"})
	rs.mustMove(nil, n, from)
	return n
}

func mustNeed(rs *roles, name string) *role {
	r, err := rs.need(name)
	if err != nil {
		panic(err)
	}
	return r
}

// needing is what an action that depends on these roles needs.
func needing(rs *roles, names ...string) []need {
	var needs []need
	for _, name := range names {
		needs = append(needs, need{as: name, role: mustNeed(rs, name)})
	}
	return needs
}

// published publishes all roles, each of which is accounted for, when a departure at noon has waited for others like it.
func published(rs *roles) []publication {
	for _, r := range rs.byName {
		r.gate.open = true
	}
	return rs.publish(7, in(guardPause), func(string) inventory.Facts { return nil })
}

func (rs testRoles) publish() []publication { return published(rs.roles) }

func memberNames(r *role) string {
	var names []string
	for _, m := range r.now.Members {
		names = append(names, m.Node)
	}
	return strings.Join(names, " ")
}

func TestPublishedMembershipIsSortedAndNumbered(t *testing.T) {
	rs := newTestRoles(t)
	rs.joined("web2", noon)
	rs.joined("web1", noon)
	p := rs.publish()
	if len(p) != 1 || memberNames(p[0].role) != "web1 web2" {
		t.Fatalf("%+v was published, want web with web1 and web2", p)
	}
	m := p[0].role.now
	if want := (kick.Revision{Epoch: 7, N: 1, Hash: kick.Hash(m.Members)}); m.Revision != want {
		t.Errorf("the revision is %+v, want %+v", m.Revision, want)
	}
	if p := rs.publish(); len(p) != 0 {
		t.Errorf("%+v was published, though nothing changed", p)
	}
	rs.joined("web3", noon)
	if p := rs.publish(); len(p) != 1 || p[0].role.now.Revision.N != 2 || p[0].diff.String() != "+web3" || len(p[0].was.Members) != 2 {
		t.Errorf("%+v was published, want revision 2 with +web3", p)
	}
}

func TestChangeThatIsUndoneIsNotPublished(t *testing.T) {
	rs := newTestRoles(t)
	web1 := rs.joined("web1", noon)
	before := rs.publish()[0].role.now
	rs.mustMove(web1, nil, noon)
	rs.mustMove(nil, web1, noon)
	if p := rs.publish(); len(p) != 0 || rs.byName["web"].now.Revision != before.Revision {
		t.Errorf("%+v was published", p)
	}
}

func TestEmptyMembershipHasARevision(t *testing.T) {
	rs := newTestRoles(t)
	mustNeed(rs.roles, "web")
	if p := rs.publish(); len(p) != 1 || p[0].role.now.Revision.Hash != kick.Hash(nil) {
		t.Errorf("%+v was published, want the empty membership", p)
	}
}

func TestWhoIsAMember(t *testing.T) {
	web := inventory.Facts{"role": "web"}
	for _, c := range []struct {
		claim string
		node  *inventory.Node
		want  string
	}{
		{"who is alive, ready and bears the role", serving("n", web), "n"},
		{"not who is not ready", &inventory.Node{Name: "n", Life: inventory.Alive, Facts: web}, ""},
		{"a suspect still", &inventory.Node{Name: "n", Life: inventory.Suspect, Ready: true, Facts: web}, "n"},
		{"who is back soon still", &inventory.Node{Name: "n", Life: inventory.Restarting, Ready: true, Facts: web}, "n"},
		{"not who said goodbye", &inventory.Node{Name: "n", Life: inventory.Left, Ready: true, Facts: web}, ""},
		{"not who bears another role", serving("n", inventory.Facts{"role": "db"}), ""},
		{"not whose facts are not known", serving("n", nil), ""},
		{"who bears several roles", serving("n", inventory.Facts{"role": []any{"db", "web"}}), "n"},
		{"nobody who is gone", nil, ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			rs := newTestRoles(t)
			rs.joined("other", noon) // without whom the last one's departure would be held
			was := serving("n", web)
			rs.mustMove(nil, was, noon)
			rs.publish()
			rs.mustMove(was, c.node, noon)
			rs.publish()
			if got, want := memberNames(rs.byName["web"]), strings.TrimSpace(c.want+" other"); got != want {
				t.Errorf("the members are %q, want %q", got, want)
			}
		})
	}
}

func TestNodeThatMovesToAnotherRoleChangesBoth(t *testing.T) {
	rs := newTestRoles(t)
	was := rs.joined("n", noon)
	rs.joined("other", noon)
	rs.publish()
	rs.mustMove(was, serving("n", inventory.Facts{"role": "db"}), noon)
	if p := rs.publish(); len(p) != 2 || memberNames(rs.byName["web"]) != "other" || memberNames(rs.byName["db"]) != "n" {
		t.Errorf("%+v was published, want web without n and db with it", p)
	}
}

func TestOnlyMemberFactsAreTold(t *testing.T) {
	rs := newTestRoles(t, RoleConfig{Name: "web", MemberFacts: []string{"ip", "os.family"}})
	facts := func(uptime, ip string) inventory.Facts {
		return inventory.Facts{"role": "web", "ip": ip, "uptime": uptime, "os": map[string]any{"family": "Debian", "name": "x"}}
	}
	was := serving("n", facts("1", "10.0.0.1"))
	rs.mustMove(nil, was, noon)
	rs.publish()
	want := []kick.Member{{Node: "n", Facts: map[string]any{"ip": "10.0.0.1", "os.family": "Debian"}}}
	if diff := cmp.Diff(want, rs.byName["web"].now.Members); diff != "" {
		t.Errorf("want -, have +:\n%s", diff)
	}
	other := serving("n", facts("2", "10.0.0.1"))
	rs.mustMove(was, other, noon)
	if p := rs.publish(); len(p) != 0 {
		t.Errorf("another uptime published %+v", p)
	}
	rs.mustMove(other, serving("n", facts("3", "10.0.0.2")), noon)
	if p := rs.publish(); len(p) != 1 || p[0].diff.String() != "~n" {
		t.Errorf("another address published %+v, want ~n", p)
	}
}

func TestSettlingBeginsWithTheFirstChangeOrItsSuspicion(t *testing.T) {
	rs := newTestRoles(t)
	web1, web2 := rs.joined("web1", ago(time.Hour)), rs.joined("web2", ago(time.Hour))
	rs.publish()
	rs.mustMove(web1, nil, ago(time.Second)) // suspected then
	rs.mustMove(web2, nil, ago(2*time.Second))
	rs.joined("web3", noon)
	rs.publish()
	r := rs.byName["web"]
	if want := ago(2 * time.Second); r.published != want {
		t.Errorf("what was published began %s, want %s", r.published, want)
	}
	a := &action{needs: needing(rs.roles, "web")}
	if from, stale := rs.stale(a, in(time.Hour)); !stale || from != r.published {
		t.Errorf("stale %t from %s, want from %s", stale, from, r.published)
	}
	rs.joined("web4", in(time.Minute))
	rs.publish()
	if want := in(time.Minute); r.published != want {
		t.Errorf("the next change began %s, want %s", r.published, want)
	}
}

func TestSelectorIsOneRoleHoweverItIsSpelled(t *testing.T) {
	rs := newTestRoles(t)
	r := mustNeed(rs.roles, "b=2,a=1")
	if other := mustNeed(rs.roles, ` a = "1" , b=2 `); other != r || len(rs.custom) != 1 {
		t.Errorf("two spellings are two roles: %q and %q", r.Name, other.Name)
	}
	rs.mustMove(nil, serving("n", inventory.Facts{"a": 1.0, "b": "2"}), noon)
	rs.mustMove(nil, serving("m", inventory.Facts{"a": 1.0, "b": "3"}), noon)
	rs.publish()
	if got := memberNames(r); got != "n" {
		t.Errorf("the members are %q, want n", got)
	}
}

func TestNewRoleHasTheNodesThatAreThereAlready(t *testing.T) {
	inv := inventory.New()
	b := inventory.Beat{Node: "n", Instance: "m", Boot: "b", Ready: true, NextIn: 1000, Facts: inventory.Facts{"a": "1"}.Digest()}
	for _, h := range []inventory.Received{
		{At: noon, Beat: &b}, {At: noon, Facts: &inventory.FactsMessage{Node: "n", Instance: "m", Boot: "b", Facts: inventory.Facts{"a": "1"}}},
	} {
		if _, err := inv.Apply(h); err != nil {
			t.Fatal(err)
		}
	}
	rs := newTestRoles(t)
	r := mustNeed(rs.roles, "a=1")
	rs.fill(r, inv.Snapshot(), noon)
	if got := r.nodeNames(); !slices.Equal(got, []string{"n"}) || r.unheardOf() {
		t.Errorf("the role has %q, unheard of: %t; want n", got, r.unheardOf())
	}
}

func TestWrongRoleOfTheConfigurationIsRefused(t *testing.T) {
	for _, cfg := range []RoleConfig{
		{Name: "a=1"}, {Name: ""}, {Name: "web", Selector: "a"}, {Name: "web", DependsOn: []string{"d b"}}, {Name: "web", DependsOn: []string{"a="}},
	} {
		if _, err := newRoles([]RoleConfig{cfg}); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestCheckRole(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "Web-1_a.b:c": true, strings.Repeat("x", 128): true,
		"": false, strings.Repeat("x", 129): false, "a b": false, "a=b": false, "ä": false, "a/b": false, "a\x00": false,
	} {
		if err := CheckRole(name); (err == nil) != want {
			t.Errorf("CheckRole(%q) = %v, want it allowed: %t", name, err, want)
		}
	}
}

func TestGarbageMakesBoundedlyManyRolesAndCostsNobodyElseOne(t *testing.T) {
	rs := newTestRoles(t)
	web1 := rs.joined("web1", noon)
	var refused error
	for i := range maxRoles + 10 {
		n := serving(fmt.Sprint("n", i), inventory.Facts{"role": fmt.Sprint("r", i)})
		refused = rs.move(nil, n, noon)
		rs.move(n, nil, noon) //nolint:errcheck // refused above
	}
	if refused == nil || len(rs.byName) > maxRoles {
		t.Fatalf("%d roles are kept, and the last was refused with %v", len(rs.byName), refused)
	}
	needed := mustNeed(rs.roles, "r7")
	rs.drop([]*action{{needs: needing(rs.roles, "r7")}})
	if got := sortedKeys(rs.byName); !slices.Equal(got, []string{"r7", "web"}) || rs.byName["r7"] != needed {
		t.Errorf("%d roles are left, want the one that is borne and the one that is needed", len(got))
	}
	rs.mustMove(web1, nil, noon)
	rs.mustMove(nil, serving("new", inventory.Facts{"role": "new"}), noon)
}

func TestDroppedSelectorIsTriedNoMore(t *testing.T) {
	rs := newTestRoles(t, RoleConfig{Name: "front", Selector: "tier=front"})
	mustNeed(rs.roles, "a=1")
	rs.drop(nil)
	if len(rs.custom) != 1 || rs.custom[0].Name != "front" {
		t.Errorf("%d selectors are tried, want the configured one", len(rs.custom))
	}
}

func TestPastMembershipsAreRememberedBoundedly(t *testing.T) {
	rs := newTestRoles(t)
	first := rs.joined("web0", noon)
	rs.publish()
	r := rs.byName["web"]
	hash := r.now.Revision.Hash
	rs.joined("web1", noon)
	rs.mustMove(first, nil, noon)
	rs.publish()
	if d, known := r.since(hash); !known || d.String() != "+web1 -web0" {
		t.Errorf("since the first: %q, %t; want +web1 -web0", d, known)
	}
	for i := range 3 * maxPast {
		rs.joined(fmt.Sprint("more", i), noon)
		rs.publish()
	}
	if len(r.past) > maxPast || len(r.diffs) > maxPast {
		t.Errorf("%d memberships are remembered, want %d", len(r.past), maxPast)
	}
	if _, known := r.since("1-never"); known {
		t.Error("a membership that never was is known")
	}
}

func TestDiffForPeople(t *testing.T) {
	names := func(n int) (names []string) {
		for i := range n {
			names = append(names, fmt.Sprint("w", i))
		}
		return names
	}
	for _, c := range []struct {
		d    diff
		want string
	}{
		{diff{}, ""},
		{diff{added: []string{"a"}, removed: []string{"b"}, changed: []string{"c"}}, "+a -b ~c"},
		{diff{added: names(4)}, "+w0 +w1 +w2 +w3"},
		{diff{removed: names(5)}, "-w0 -w1 -w2 -2 more"},
		{diff{changed: names(100)}, "~w0 ~w1 ~w2 ~97 more"},
	} {
		if got := c.d.String(); got != c.want {
			t.Errorf("%+v is %q, want %q", c.d, got, c.want)
		}
	}
}

func TestDiffIsWhatLiesBetween(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(what string) map[string]int {
			return rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), rapid.IntRange(0, 1)).Draw(t, what)
		}
		was, is := draw("was"), draw("is")
		d := between(asMembers(was), asMembers(is))
		var want diff
		for _, n := range slices.Sorted(maps.Keys(is)) {
			if v, ok := was[n]; !ok {
				want.added = append(want.added, n)
			} else if v != is[n] {
				want.changed = append(want.changed, n)
			}
		}
		for _, n := range slices.Sorted(maps.Keys(was)) {
			if _, ok := is[n]; !ok {
				want.removed = append(want.removed, n)
			}
		}
		if diff := cmp.Diff(want, d, cmp.AllowUnexported(diff{})); diff != "" {
			t.Fatalf("between %v and %v: want -, have +:\n%s", was, is, diff)
		}
	})
}

func asMembers(m map[string]int) []kick.Member {
	var members []kick.Member
	for _, n := range slices.Sorted(maps.Keys(m)) {
		members = append(members, kick.Member{Node: n, Facts: map[string]any{"port": float64(m[n])}})
	}
	return members
}

// Whatever moves, and however often roles are published, each is exactly who serves and matches it, and who departed and is held. When
// the losses are accepted, nobody else is left.
func TestRolesAgreeWithTheNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs := newTestRoles(t, RoleConfig{Name: "front", Selector: "tier=front"})
		mustNeed(rs.roles, "tier=front,role=web")
		nodes := map[string]*inventory.Node{}
		published := map[string]string{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "node")
			var after *inventory.Node
			if rapid.IntRange(0, 4).Draw(t, "gone") > 0 {
				after = &inventory.Node{
					Name:  name,
					Life:  rapid.SampledFrom([]inventory.Life{inventory.Alive, inventory.Suspect, inventory.Left}).Draw(t, "life"),
					Ready: rapid.Bool().Draw(t, "ready"),
				}
				if rapid.IntRange(0, 4).Draw(t, "known") > 0 {
					after.Facts = inventory.Facts{
						"role": rapid.SampledFrom([]any{"web", "db", []any{"web", "db"}}).Draw(t, "role"),
						"tier": rapid.SampledFrom([]string{"front", "back"}).Draw(t, "tier"),
						"port": float64(rapid.IntRange(0, 1).Draw(t, "port")),
					}
				}
			}
			if nodes[name] == nil && after == nil {
				continue
			}
			rs.mustMove(nodes[name], after, noon)
			if nodes[name] = after; after == nil {
				delete(nodes, name)
			}
			if rapid.Bool().Draw(t, "publish") {
				for _, p := range rs.publish() {
					if p.was.Revision == p.role.now.Revision && p.judgement != (judgement{}) {
						continue // what its guard made of it, and no more
					}
					if published[p.role.Name] == p.role.now.Revision.Hash {
						t.Fatalf("%s was published again as it was", p.role.Name)
					}
					published[p.role.Name] = p.role.now.Revision.Hash
				}
			}
		}
		for _, name := range sortedKeys(rs.byName) {
			r := rs.byName[name]
			for name := range r.guard.missing {
				if n := nodes[name]; n.Eligible() && r.selector.Matches(n.Facts) {
					t.Fatalf("%s is said to be missing from %s, and serves", name, r.Name)
				}
			}
			r.guard.accept(noon, len(r.members))
			r.note(noon)
		}
		rs.publish()
		for _, r := range rs.byName {
			var bear, members []string
			for _, name := range slices.Sorted(maps.Keys(nodes)) {
				if n := nodes[name]; n.Facts != nil && r.selector.Matches(n.Facts) {
					bear = append(bear, name)
					if n.Eligible() {
						members = append(members, name)
					}
				}
			}
			if got := memberNames(r); got != strings.Join(members, " ") || !slices.Equal(r.nodeNames(), bear) {
				t.Fatalf("%s has members %q of %q, want %q of %q", r.Name, got, r.nodeNames(), members, bear)
			}
			for _, m := range r.now.Members {
				if m.Facts["port"] != nodes[m.Node].Facts["port"] {
					t.Fatalf("%s of %s has port %v", m.Node, r.Name, m.Facts["port"])
				}
			}
		}
	})
}

func TestWhoMayStillBeConfiguredWithALeavingNode(t *testing.T) {
	type revisions = map[string]kick.Revision
	for _, c := range []struct {
		claim string
		given func(a *action, with, without kick.Revision)
		want  bool
	}{
		{"who applied the membership with it", func(a *action, with, _ kick.Revision) { a.status.Applied = revisions{"web": with} }, true},
		{"not who applied the one without it", func(a *action, _, without kick.Revision) { a.status.Applied = revisions{"web": without} }, false},
		{"who never said what it applied", func(*action, kick.Revision, kick.Revision) {}, true},
		{"who applied what is not remembered", func(a *action, _, _ kick.Revision) { a.status.Applied = revisions{"web": {Hash: "1-x"}} }, true},
		{"whose last run did not succeed", func(a *action, _, without kick.Revision) {
			a.status.Applied, a.status.Dirty = revisions{"web": without}, true
		}, true},
		{"who is being kicked", func(a *action, _, without kick.Revision) {
			a.status.Applied, a.flight = revisions{"web": without}, &flight{}
		}, true},
		{"not who does not depend on its role", func(a *action, _, _ kick.Revision) { a.needs = []need{{as: "db", role: &role{}}} }, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			rs := newTestRoles(t)
			was := rs.joined("web1", noon)
			rs.publish()
			with := rs.byName["web"].now.Revision
			left := *was
			left.Life = inventory.Left
			rs.mustMove(was, &left, noon)
			rs.publish()
			a := &action{needs: needing(rs.roles, "web")}
			c.given(a, with, rs.byName["web"].now.Revision)
			if got := rs.mayServe(a, "web1"); got != c.want {
				t.Errorf("may serve: %t, want %t", got, c.want)
			}
		})
	}
}
