package membership_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }
func in(d time.Duration) time.Time  { return noon.Add(d) }

// pause is how long a loss waits for others before it is published.
const pause = time.Second

// reports says that no report was missed since an hour ago, and that this controller publishes with epoch 7.
var reports = membership.Reports{Since: ago(time.Hour), Synced: ago(time.Hour), Epochs: []int64{7}}

type failer interface {
	Helper()
	Fatal(...any)
}

type table struct {
	*membership.Table
	t     failer
	nodes *inventory.Snapshot // what Publish and Resolve get
}

func newTable(t failer, roles ...membership.RoleConfig) table {
	t.Helper()
	tab, err := membership.New(membership.Config{Roles: roles, GoneAfter: inventory.DefaultGoneAfter})
	if err != nil {
		t.Fatal(err)
	}
	return table{tab, t, inventory.New().Snapshot()}
}

// apply follows the change of a node, which the table must accept.
func (tab table) apply(before, after *inventory.Node, from time.Time) {
	tab.t.Helper()
	if err := tab.Apply(inventory.Change{Before: before, After: after}, from); err != nil {
		tab.t.Fatal(err)
	}
}

// join adds a node that has role web.
func (tab table) join(name string, from time.Time) *inventory.Node {
	tab.t.Helper()
	n := web(name)
	tab.apply(nil, n, from)
	return n
}

func (tab table) resolve(text string) *membership.Role {
	tab.t.Helper()
	need, err := tab.Resolve(text, nil, tab.nodes, noon)
	if err != nil {
		tab.t.Fatal(err)
	}
	return need.Role
}

// publish publishes all roles, when a loss of noon has waited for others like it. No dependent has applied one of them.
func (tab table) publish() []membership.Change { return tab.publishAt(in(pause)) }

func (tab table) publishAt(now time.Time) []membership.Change {
	tab.Recover(tab.nodes, reports, now)
	return tab.Publish(7, tab.nodes, now)
}

func (tab table) names() []string {
	var names []string
	for _, r := range tab.Roles() {
		names = append(names, r.Name)
	}
	return names
}

// eligible is a node that is ready. It has the usual member facts, unless facts says otherwise.
func eligible(name string, facts inventory.Facts) *inventory.Node {
	all := inventory.Facts{"ipaddress": "10.0.0.1", "port": "80"}
	maps.Copy(all, facts)
	return &inventory.Node{Name: name, Life: inventory.Alive, Ready: true, Facts: all}
}

// held is how many removals of a role are held.
func held(r *membership.Role) int {
	if h := r.Held(false); h != nil {
		return len(h.Nodes)
	}
	return 0
}

// web is a node that can be a member of role web.
func web(name string) *inventory.Node { return eligible(name, inventory.Facts{"role": "web"}) }

func with(n *inventory.Node, life inventory.Life) *inventory.Node {
	n.Life = life
	return n
}

func members(r *membership.Role) string {
	var names []string
	for _, m := range r.Current().Members {
		names = append(names, m.Node)
	}
	return strings.Join(names, " ")
}

func TestPublishedMembershipIsSortedAndNumbered(t *testing.T) {
	tab := newTable(t)
	tab.join("web2", noon)
	tab.join("web1", noon)
	c := tab.publish()
	if len(c) != 1 || members(c[0].Role) != "web1 web2" {
		t.Fatalf("%+v was published, want web with web1 and web2", c)
	}
	m := c[0].Role.Current()
	if want := (kick.Revision{Epoch: 7, N: 1, Hash: kick.Hash(m.Members)}); m.Revision != want {
		t.Errorf("the revision is %+v, want %+v", m.Revision, want)
	}
	if c := tab.publish(); len(c) != 0 {
		t.Errorf("%+v was published, though nothing changed", c)
	}
	tab.join("web3", noon)
	c = tab.publish()
	if len(c) != 1 || c[0].Role.Current().Revision.N != 2 || c[0].Diff.String() != "+web3" || len(c[0].Was.Members) != 2 {
		t.Errorf("%+v was published, want revision 2 with +web3", c)
	}
}

func TestChangeThatIsUndoneIsNotPublished(t *testing.T) {
	tab := newTable(t)
	web1 := tab.join("web1", noon)
	before := tab.publish()[0].Role.Current()
	tab.apply(web1, nil, noon)
	tab.apply(nil, web1, noon)
	if c := tab.publish(); len(c) != 0 || tab.Role("web").Current().Revision != before.Revision {
		t.Errorf("%+v was published, though web1 is back", c)
	}
}

func TestEmptyMembershipHasARevision(t *testing.T) {
	tab := newTable(t)
	tab.resolve("web")
	if c := tab.publish(); len(c) != 1 || c[0].Role.Current().Revision.Hash != kick.Hash(nil) {
		t.Errorf("%+v was published, want the empty membership", c)
	}
}

func TestWhichNodesAreMembers(t *testing.T) {
	facts := inventory.Facts{"role": "web"}
	for _, c := range []struct {
		claim string
		node  *inventory.Node
		want  string
	}{
		{"alive, ready and with the role", web("n"), "n"},
		{"not ready: no", &inventory.Node{Name: "n", Life: inventory.Alive, Facts: facts}, ""},
		{"suspect: still", with(web("n"), inventory.Suspect), "n"},
		{"restarting: still", with(web("n"), inventory.Restarting), "n"},
		{"left: no", with(web("n"), inventory.Left), ""},
		{"with another role: no", eligible("n", inventory.Facts{"role": "db"}), ""},
		{"with unknown facts: no", eligible("n", nil), ""},
		{"with several roles", eligible("n", inventory.Facts{"role": []any{"db", "web"}}), "n"},
		{"gone: no", nil, ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			tab := newTable(t)
			tab.join("other", noon) // otherwise the loss of the last one would be held
			was := web("n")
			tab.apply(nil, was, noon)
			tab.publish()
			tab.apply(was, c.node, noon)
			tab.publish()
			if got, want := members(tab.Role("web")), strings.TrimSpace(c.want+" other"); got != want {
				t.Errorf("the members are %q, want %q", got, want)
			}
		})
	}
}

func TestNodeThatMovesToAnotherRoleChangesBoth(t *testing.T) {
	tab := newTable(t)
	was := tab.join("n", noon)
	tab.join("other", noon)
	tab.publish()
	tab.apply(was, eligible("n", inventory.Facts{"role": "db"}), noon)
	if c := tab.publish(); len(c) != 2 || members(tab.Role("web")) != "other" || members(tab.Role("db")) != "n" {
		t.Errorf("%+v was published, want web without n and db with it", c)
	}
}

func TestRolesOfANodeAreThoseItHasUnderAName(t *testing.T) {
	tab := newTable(t, membership.RoleConfig{Name: "front", Selector: "tier=front"})
	tab.resolve("tier=front")
	n := eligible("n", inventory.Facts{"role": []any{"web", "db"}, "tier": "front"})
	for _, step := range []struct {
		before, after *inventory.Node
		want          string
	}{
		{nil, n, "db front web"},
		{n, with(eligible("n", inventory.Facts{"role": "web"}), inventory.Left), "web"},
		{eligible("n", inventory.Facts{"role": "web"}), nil, ""},
	} {
		tab.apply(step.before, step.after, noon)
		var got []string
		for _, r := range tab.Of("n") {
			got = append(got, r.Name)
		}
		if strings.Join(got, " ") != step.want {
			t.Errorf("the roles are %q, want %q", got, step.want)
		}
	}
}

func TestOnlyMemberFactsArePublished(t *testing.T) {
	tab := newTable(t, membership.RoleConfig{Name: "web", MemberFacts: []string{"ip", "os.family"}})
	facts := func(uptime, ip string) inventory.Facts {
		os := map[string]any{"family": "Debian", "name": "x"}
		return inventory.Facts{"role": "web", "ip": ip, "uptime": uptime, "os": os}
	}
	was := eligible("n", facts("1", "10.0.0.1"))
	tab.apply(nil, was, noon)
	tab.publish()
	want := []kick.Member{{Node: "n", Facts: map[string]any{"ip": "10.0.0.1", "os.family": "Debian"}}}
	if diff := cmp.Diff(want, tab.Role("web").Current().Members); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	other := eligible("n", facts("2", "10.0.0.1"))
	tab.apply(was, other, noon)
	if c := tab.publish(); len(c) != 0 {
		t.Errorf("another uptime published %+v", c)
	}
	tab.apply(other, eligible("n", facts("3", "10.0.0.2")), noon)
	if c := tab.publish(); len(c) != 1 || c[0].Diff.String() != "~n" {
		t.Errorf("another address published %+v, want ~n", c)
	}
}

func TestPublishedBeginsWithTheFirstChangeOrItsSuspicion(t *testing.T) {
	tab := newTable(t)
	web1, web2 := tab.join("web1", ago(time.Hour)), tab.join("web2", ago(time.Hour))
	tab.publish()
	tab.apply(web1, nil, ago(time.Second)) // when it became suspect
	tab.apply(web2, nil, ago(2*time.Second))
	tab.join("web3", noon)
	tab.publish()
	r := tab.Role("web")
	if want := ago(2 * time.Second); r.Published() != want {
		t.Errorf("the published change began %s, want %s", r.Published(), want)
	}
	tab.join("web4", in(time.Minute))
	tab.publish()
	if want := in(time.Minute); r.Published() != want {
		t.Errorf("the next change began %s, want %s", r.Published(), want)
	}
}

func TestSelectorIsOneRoleInEverySpelling(t *testing.T) {
	tab := newTable(t)
	r := tab.resolve("b=2,a=1")
	if other := tab.resolve(` a = "1" , b=2 `); other != r || len(tab.Selected()) != 1 {
		t.Errorf("two spellings are two roles: %q and %q", r.Name, other.Name)
	}
	tab.apply(nil, eligible("n", inventory.Facts{"a": 1.0, "b": "2"}), noon)
	tab.apply(nil, eligible("m", inventory.Facts{"a": 1.0, "b": "3"}), noon)
	tab.publish()
	if got := members(r); got != "n" {
		t.Errorf("the members are %q, want n", got)
	}
}

func TestNewRoleHasTheNodesThatAreThereAlready(t *testing.T) {
	inv := inventory.New()
	facts := inventory.Facts{"a": "1"}
	beat := inventory.Beat{Node: "n", Instance: "m", Boot: "b", Ready: true, NextIn: 1000, Facts: facts.Digest()}
	for _, m := range []inventory.Received{
		{At: noon, Beat: &beat},
		{At: noon, Facts: &inventory.FactsMessage{Node: "n", Instance: "m", Boot: "b", Facts: facts}},
	} {
		if _, err := inv.Apply(m); err != nil {
			t.Fatal(err)
		}
	}
	tab := newTable(t)
	tab.nodes = inv.Snapshot()
	r := tab.resolve("a=1")
	if got := r.Nodes(); !slices.Equal(got, []string{"n"}) || r.Unknown() {
		t.Errorf("the role has %q, unknown: %t; want n", got, r.Unknown())
	}
}

func TestWrongRoleOfTheConfigurationIsRejected(t *testing.T) {
	for _, cfg := range []membership.RoleConfig{
		{Name: "a=1"}, {Name: ""}, {Name: "web", Selector: "a"}, {Name: "web", DependsOn: []string{"d b"}},
		{Name: "web", DependsOn: []string{"a="}},
	} {
		if _, err := membership.New(membership.Config{Roles: []membership.RoleConfig{cfg}}); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestCheckRole(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "Web-1_a.b:c": true, strings.Repeat("x", 128): true,
		"": false, strings.Repeat("x", 129): false, "a b": false, "a=b": false, "ä": false, "a/b": false, "a\x00": false,
	} {
		if err := membership.CheckRole(name); (err == nil) != want {
			t.Errorf("CheckRole(%q) = %v, want it allowed: %t", name, err, want)
		}
	}
}

func TestRolesAreBoundedAndOthersLoseNone(t *testing.T) {
	const most = 10_000
	tab := newTable(t)
	web1 := tab.join("web1", noon)
	var rejected error
	for i := range most + 10 {
		n := eligible(fmt.Sprint("n", i), inventory.Facts{"role": fmt.Sprint("r", i)})
		rejected = tab.Apply(inventory.Change{After: n}, noon)
		_ = tab.Apply(inventory.Change{Before: n}, noon) // rejected above
	}
	if n := len(tab.Roles()); rejected == nil || n != most {
		t.Fatalf("there are %d roles, and the error for the last is %v", n, rejected)
	}
	needed := tab.resolve("r7")
	tab.Drop(map[*membership.Role]bool{needed: true})
	if got := tab.names(); !slices.Equal(got, []string{"r7", "web"}) || tab.Role("r7") != needed {
		t.Errorf("%d roles are left, want the one that a node has and the one that an action depends on", len(got))
	}
	tab.apply(web1, nil, noon)
	tab.apply(nil, eligible("new", inventory.Facts{"role": "new"}), noon)
}

func TestNodesAreNotComparedWithADroppedSelector(t *testing.T) {
	tab := newTable(t, membership.RoleConfig{Name: "front", Selector: "tier=front"})
	tab.resolve("a=1")
	tab.Drop(nil)
	if s := tab.Selected(); len(s) != 1 || s[0].Name != "front" {
		t.Errorf("nodes are compared with %d selectors, want the configured one", len(s))
	}
}

func TestPastMembershipsAreBounded(t *testing.T) {
	const most = 64
	tab := newTable(t)
	first := tab.join("web0", noon)
	tab.publish()
	r := tab.Role("web")
	hash := r.Current().Revision.Hash
	tab.join("web1", noon)
	tab.apply(first, nil, noon)
	tab.publish()
	if d, known := r.Since(hash); !known || d.String() != "+web1 -web0" {
		t.Errorf("since the first: %q, %t; want +web1 -web0", d, known)
	}
	hashes := []string{hash}
	for i := range 3 * most {
		tab.join(fmt.Sprint("more", i), noon)
		tab.publish()
		hashes = append(hashes, r.Current().Revision.Hash)
		for _, hash := range hashes {
			r.Since(hash)
		}
	}
	if past, diffs := r.Remembered(); past > most || diffs > most {
		t.Errorf("%d memberships and %d differences are remembered, want %d", past, diffs, most)
	}
	if _, known := r.Since("1-never"); known {
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
		d    membership.Diff
		want string
	}{
		{membership.Diff{}, ""},
		{membership.Diff{Added: []string{"a"}, Removed: []string{"b"}, Changed: []string{"c"}}, "+a -b ~c"},
		{membership.Diff{Added: names(4)}, "+w0 +w1 +w2 +w3"},
		{membership.Diff{Removed: names(5)}, "-w0 -w1 -w2 -2 more"},
		{membership.Diff{Changed: names(100)}, "~w0 ~w1 ~w2 ~97 more"},
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
		d := membership.Between(asMembers(was), asMembers(is))
		var want membership.Diff
		for _, n := range slices.Sorted(maps.Keys(is)) {
			if v, ok := was[n]; !ok {
				want.Added = append(want.Added, n)
			} else if v != is[n] {
				want.Changed = append(want.Changed, n)
			}
		}
		for _, n := range slices.Sorted(maps.Keys(was)) {
			if _, ok := is[n]; !ok {
				want.Removed = append(want.Removed, n)
			}
		}
		if diff := cmp.Diff(want, d); diff != "" {
			t.Fatalf("between %v and %v (-want +got):\n%s", was, is, diff)
		}
	})
}

func asMembers(ports map[string]int) []kick.Member {
	var members []kick.Member
	for _, n := range slices.Sorted(maps.Keys(ports)) {
		members = append(members, kick.Member{Node: n, Facts: map[string]any{"port": float64(ports[n])}})
	}
	return members
}

// After any changes, published at any times, the members of a role are the nodes that are eligible and match it, and
// those that are missing and held. When the losses are accepted, only the first are left.
func TestRolesAgreeWithTheNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := newTable(t, membership.RoleConfig{Name: "front", Selector: "tier=front"})
		tab.resolve("tier=front,role=web")
		names := []string{"a", "b", "c"}
		nodes := map[string]*inventory.Node{}
		published := map[string]string{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "node")
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
						"port": float64(rapid.IntRange(1, 2).Draw(t, "port")), "ipaddress": "10.0.0.1",
					}
				}
			}
			if nodes[name] == nil && after == nil {
				continue
			}
			tab.apply(nodes[name], after, noon)
			if nodes[name] = after; after == nil {
				delete(nodes, name)
			}
			if rapid.Bool().Draw(t, "publish") {
				for _, c := range tab.publish() {
					r := c.Role
					if !c.Renewed() && c.HoldBegan+c.HoldEnded == "" {
						t.Fatalf("%s did not change, and was returned", r.Name)
					}
					if c.Renewed() && published[r.Name] == r.Current().Revision.Hash {
						t.Fatalf("%s was published again as it was", r.Name)
					}
					published[r.Name] = r.Current().Revision.Hash
				}
			}
		}
		matches := func(r *membership.Role, n *inventory.Node) bool {
			selector, err := query.Parse(r.Selector())
			return err == nil && n != nil && n.Facts != nil && selector.Matches(n.Facts)
		}
		for _, r := range tab.Roles() {
			for _, name := range names {
				if n := nodes[name]; r.Missing(name) && n.Eligible() && matches(r, n) {
					t.Fatalf("%s is missing from %s, though it is eligible", name, r.Name)
				}
			}
		}
		tab.publish()
		for _, r := range tab.Roles() {
			_, _ = tab.AcceptLoss(r, held(r), noon) // an error means that nothing is held
		}
		tab.publish()
		for _, r := range tab.Roles() {
			var have, count []string
			for _, name := range slices.Sorted(maps.Keys(nodes)) {
				if n := nodes[name]; matches(r, n) {
					have = append(have, name)
					if n.Eligible() {
						count = append(count, name)
					}
				}
			}
			if got := members(r); got != strings.Join(count, " ") || !slices.Equal(r.Nodes(), have) {
				t.Fatalf("%s has members %q of %q, want %q of %q", r.Name, got, r.Nodes(), count, have)
			}
			for _, m := range r.Current().Members {
				if m.Facts["port"] != fmt.Sprint(nodes[m.Node].Facts["port"]) {
					t.Fatalf("%s of %s has port %v", m.Node, r.Name, m.Facts["port"])
				}
			}
		}
	})
}

// Cases E36: a former controller may have handed it out.
func TestNodeThatHadTheRoleStaysRelated(t *testing.T) {
	tab := newTable(t)
	r := tab.resolve("web")
	web1 := tab.join("web1", noon)
	tab.apply(web1, eligible("web1", inventory.Facts{"role": "spare"}), noon) // before anything was published
	notReady := web("web2")
	notReady.Ready = false
	tab.apply(nil, notReady, noon)
	tab.apply(notReady, eligible("web2", inventory.Facts{"role": "spare"}), noon)
	tab.publish()
	for node, want := range map[string]bool{"web1": true, "web2": true, "web3": false} {
		if got := r.Related(node); got != want {
			t.Errorf("%s is related to web: %t, want %t", node, got, want)
		}
	}
}
