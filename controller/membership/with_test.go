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

// world is a table and what it follows: an inventory, and one action on each node.
type world struct {
	table    *membership.Table
	cfg      membership.Config
	inv      *inventory.Inventory
	actions  map[string]*action // by node that is there
	reported map[string]*action // by node: what it reported last
	conns    map[string]uint64  // by node: its connections so far that closed
	now      time.Time
	hashes   []string // of all memberships that were published
}

type action struct {
	dependsOn []string
	applied   map[string]kick.Revision
	needs     []membership.Need
}

func newWorld(t failer, cfg membership.Config) *world {
	t.Helper()
	table, err := membership.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		table: table, cfg: cfg, inv: inventory.New(), now: noon,
		actions: map[string]*action{}, reported: map[string]*action{}, conns: map[string]uint64{},
	}
	w.inv.GoneAfter = func(n *inventory.Node) time.Duration { return w.table.GoneAfter(n.Name) }
	return w
}

func draw[E any](t *rapid.T, what string, from ...E) E { return rapid.SampledFrom(from).Draw(t, what) }

func drawConfig(t *rapid.T, when string) membership.Config {
	cfg := membership.Config{GoneAfter: inventory.DefaultGoneAfter, Shadow: draw(t, when+" shadow", false, false, true)}
	for _, name := range []string{"web", "db", "lb", "front"} {
		if !draw(t, when+" has "+name, true, false) {
			continue
		}
		cfg.Roles = append(cfg.Roles, membership.RoleConfig{
			Name:        name,
			Selector:    draw(t, name+" selector", "", "", "role="+name, "role=wbe", "env=prod"),
			MemberFacts: draw(t, name+" member_facts", nil, []string{"port"}, []string{"port", "env?"}),
			DependsOn: draw(t, name+" depends_on", nil, []string{"web"}, []string{"db", "env=prod"}, []string{"web same=env"},
				[]string{"empty"}),
			MinMembers: draw(t, name+" min_members", 0, 0, 2),
			Budget:     draw[membership.Budget](t, name+" budget", "", "1", "100%"),
			Mode:       draw(t, name+" mode", "", "act", "observe"),
		})
	}
	return cfg
}

func (w *world) reports() membership.Reports {
	return membership.Reports{Since: noon, Synced: noon, Epochs: []int64{7}}
}

// receive follows one thing that the listener received.
func (w *world) receive(m inventory.Received) {
	m.At = w.now
	changes, err := w.inv.Apply(m)
	if err != nil {
		panic(err)
	}
	for _, c := range changes {
		from := w.now
		if c.After == nil && c.Before.Life == inventory.Suspect {
			from = c.Before.Since
		}
		if err := w.table.Apply(c, from); err != nil {
			panic(err)
		}
		if c.After == nil {
			delete(w.actions, c.Before.Name)
			continue
		}
		w.actions[c.After.Name] = w.reported[c.After.Name]
		w.resolve(w.table, c.After.Name)
		w.report(w.table, c.After.Name)
	}
}

// resolve finds what a node's action depends on.
func (w *world) resolve(table *membership.Table, node string) {
	a := w.actions[node]
	a.needs = nil
	for _, text := range append(slices.Clone(a.dependsOn), table.DependsOn(node, "reload")...) {
		need, err := table.Resolve(text, w.inv.Snapshot().Node(node).Facts, w.inv.Snapshot(), w.now)
		if err == nil && !slices.ContainsFunc(a.needs, func(n membership.Need) bool { return n.As == need.As }) {
			a.needs = append(a.needs, need)
		}
	}
}

func (w *world) report(table *membership.Table, node string) {
	a := w.actions[node]
	for _, need := range a.needs {
		if applied, ok := a.applied[need.As]; ok {
			h := membership.Holder{Revision: applied, Node: node, Action: "reload", As: need.As}
			table.Report(need, h, w.reports(), w.now)
		}
	}
}

// turn does what a controller does after it received something.
func (w *world) turn() {
	w.table.Recover(w.inv.Snapshot(), w.reports(), w.now)
	for _, c := range w.table.Publish(7, w.inv.Snapshot(), w.now) {
		w.hashes = append(w.hashes, c.Role.Current().Revision.Hash)
	}
}

func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.receive(inventory.Received{Canary: true})
	w.turn()
}

// drop forgets the roles that are of no use.
func (w *world) drop() {
	needed := map[*membership.Role]bool{}
	for _, a := range w.actions {
		for _, need := range a.needs {
			needed[need.Role] = true
		}
	}
	w.table.Drop(needed)
}

// with is this world with another configuration. The two share the inventory.
func (w *world) with(cfg membership.Config) (*world, error) {
	next := &world{cfg: cfg, inv: w.inv, actions: map[string]*action{}, now: w.now}
	for node, a := range w.actions {
		next.actions[node] = &action{dependsOn: a.dependsOn, applied: a.applied}
	}
	var err error
	next.table, err = w.table.With(cfg, w.inv.Snapshot(), w.now, func(table *membership.Table) {
		for _, do := range []func(*membership.Table, string){next.resolve, next.report} {
			for _, node := range slices.Sorted(maps.Keys(next.actions)) {
				do(table, node)
			}
		}
	})
	return next, err
}

// step is something that happens. It does the same in every world that is alike.
type step func(*world)

// drawHeartbeat is a heartbeat of a node with its facts, and with the revisions that its action has applied.
func drawHeartbeat(t *rapid.T, name string) step {
	facts := inventory.Facts{
		"role": draw(t, name+" role", "web", "web", "db", "lb"), "env": draw(t, name+" env", "prod", "test"),
		"port": draw(t, name+" port", "1", "2"), "ipaddress": "10.0.0.1",
	}
	dependsOn := draw(t, name+" depends_on", nil, []string{"web"}, []string{"web same=env"}, []string{"web", "db"})
	applied := map[string]string{}
	for _, as := range []string{"web", "db", "env=prod"} {
		applied[as] = draw(t, name+" applied "+as, as, "web where env=prod", "other")
	}
	ready := draw(t, name+" ready", true, true, true, false)
	leaving := draw(t, name+" leaving", false, false, false, true)
	return func(w *world) {
		a := &action{dependsOn: dependsOn, applied: map[string]kick.Revision{}}
		for as, role := range applied {
			if r := w.table.Role(role); r != nil && r.Current().Revision.Hash != "" {
				a.applied[as] = r.Current().Revision
			}
		}
		w.heartbeat(inventory.Beat{Node: name, Ready: ready, Leaving: leaving}, facts, a)
	}
}

func (w *world) heartbeat(b inventory.Beat, facts inventory.Facts, a *action) {
	b.Instance, b.Boot, b.Conn, b.Facts = "m", "b", w.conn(b.Node), facts.Digest()
	b.NextIn = max(b.NextIn, 1000)
	w.reported[b.Node] = a
	w.receive(inventory.Received{Facts: &inventory.FactsMessage{Node: b.Node, Instance: "m", Boot: "b", Facts: facts}})
	w.receive(inventory.Received{Beat: &b})
}

func (w *world) conn(node string) inventory.Conn {
	return inventory.Conn{Server: node, Client: w.conns[node]}
}

func disconnect(name string) step {
	return func(w *world) {
		w.receive(inventory.Received{Disconnect: &inventory.Disconnect{Conn: w.conn(name)}})
		w.conns[name]++
	}
}

// live draws some time in which things happen.
func (w *world) live(t *rapid.T) {
	for range draw(t, "steps", 1, 2, 4) {
		for i := range 6 {
			name := fmt.Sprint("n", i)
			switch draw(t, name, "reports", "reports", "dies", "nothing") {
			case "reports":
				drawHeartbeat(t, name)(w)
			case "dies":
				disconnect(name)(w)
			}
		}
		w.pass(draw(t, "time", 500*time.Millisecond, 5*time.Second, time.Minute))
	}
}

// begin is a world after some time.
func begin(t *rapid.T) *world {
	w := newWorld(t, drawConfig(t, "before"))
	drawHeartbeat(t, "n0")(w)
	w.pass(10 * time.Second)
	w.live(t)
	return w
}

func TestRolesOfAnotherConfigurationAgreeWithTheNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := begin(t)
		w, err := before.with(drawConfig(t, "after"))
		if err != nil {
			t.Fatal(err)
		}
		w.turn()
		for _, r := range w.table.Roles() {
			selector, err := query.Parse(r.Selector())
			if err != nil {
				t.Fatal(err)
			}
			var want, missing []string
			for n := range w.inv.Snapshot().All() {
				if n.Eligible() && selector.Matches(n.Facts) {
					want = append(want, n.Name)
				}
			}
			if diff := cmp.Diff(want, r.Members()); diff != "" {
				t.Fatalf("members of %s (-want +got):\n%s", r.Name, diff)
			}
			for i := range 6 {
				if name := fmt.Sprint("n", i); r.Missing(name) {
					missing = append(missing, name)
				}
			}
			if got := strings.Fields(members(r)); r.Open() && !w.cfg.Shadow && len(got) != len(want)+len(missing) {
				t.Fatalf("%s was published with %q, want %q and the missing %q", r.Name, got, want, missing)
			}
		}
		for node, a := range w.actions {
			for _, need := range a.needs {
				if w.table.Role(need.Role.Name) != need.Role {
					t.Fatalf("%s depends on a role %s that is not in the table", node, need.Role.Name)
				}
			}
		}
	})
}

func TestRolesUnderTheSameConfigurationAreTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := begin(t)
		w.pass(2 * pause)
		w.pass(time.Minute)
		w.drop()
		w.now = w.now.Add(1) // a loss of this very moment would not wait for others in the copy
		next, err := w.with(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.turn()
		next.turn()
		if diff := membership.Difference(w.table, next.table); diff != "" {
			t.Fatalf("table (-before +after):\n%s", diff)
		}
	})
}

// drawKinds is the kinds of steps, each a few times, in any order.
func drawKinds(t *rapid.T, label string) []string {
	kinds := []string{
		"heartbeat", "disconnect", "crowd", "crash", "time", "foreign", "foreign", "foreign", "answer", "order", "probe",
		"since",
	}
	return rapid.Permutation(slices.Repeat(kinds, rapid.IntRange(1, 3).Draw(t, label))).Draw(t, label)
}

// drawStep is something that happens to some nodes, an order, a report of another controller's revision, or time.
func drawStep(t *rapid.T, kind string) step {
	n := rapid.IntRange(0, 9).Draw(t, "node")
	node := fmt.Sprint("n", n)
	old := []kick.Member{{Node: "old1"}, {Node: "old2"}}[:draw(t, "old", 1, 2, 2, 2, 2, 2)]
	d := draw(t, "time", 100*time.Millisecond, 600*time.Millisecond, 2*time.Second, 3*time.Second, 20*time.Second)
	switch kind {
	case "heartbeat":
		return drawHeartbeat(t, node)
	case "disconnect":
		return disconnect(node)
	case "crowd":
		return func(w *world) { w.crowd() }
	case "crash":
		crashed, d := draw(t, "crashed", 1, 1, 3), draw(t, "gone after", 2*time.Second, 3*time.Second)
		return func(w *world) {
			w.crowd()
			w.pass(time.Second)
			for i := range crashed {
				disconnect(fmt.Sprint("web", n+i))(w)
			}
			w.pass(d)
			w.pass(pause)
		}
	case "foreign":
		return func(w *world) {
			need, err := w.table.Resolve("db", nil, w.inv.Snapshot(), w.now)
			if err != nil {
				panic(err)
			}
			for i := range 4 {
				h := membership.Holder{Node: fmt.Sprint("lb", n+i), Action: "reload", As: "db"}
				h.Revision = kick.Revision{Epoch: 8, N: int64(len(old)), Hash: kick.Hash(old)}
				w.table.Report(need, h, w.reports(), w.now)
			}
		}
	case "answer":
		return func(w *world) { w.table.Answer("db", kick.Hash(old), old) }
	case "order":
		expects := draw(t, "expects", true, false)
		return func(w *world) {
			for _, r := range w.table.Roles() {
				if expects {
					w.table.ExpectLoss(r, 50, w.now.Add(d))
				} else {
					_, _ = w.table.AcceptLoss(r, held(r), w.now) // an error means that nothing is held
				}
			}
		}
	case "probe":
		wait := draw(t, "wait", 0, 0, 3*time.Minute)
		return func(w *world) {
			w.pass(wait)
			for _, p := range w.table.Probes(w.now) {
				w.table.Probed(p, false, node, w.now)
			}
		}
	case "since":
		return func(w *world) {
			for _, r := range w.table.Roles() {
				for _, hash := range w.hashes {
					r.Since(hash)
				}
			}
		}
	}
	return func(w *world) { w.pass(d) }
}

// crowd is a heartbeat of each of many nodes that have role web.
func (w *world) crowd() {
	for i := range 30 {
		b := inventory.Beat{Node: fmt.Sprint("web", i), Ready: true, NextIn: 10_000} // so that not all are suspect soon
		w.heartbeat(b, inventory.Facts{"role": "web"}, &action{})
	}
}

func TestWithSharesNothingThatChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawConfig(t, "before"), drawConfig(t, "after")
		var history []step
		for _, kind := range drawKinds(t, "before") {
			history = append(history, drawStep(t, kind))
		}
		replay := func() *world {
			w := newWorld(t, before)
			for _, s := range history {
				s(w)
			}
			return w
		}
		copyOf := func(w *world) *world {
			next, err := w.with(after)
			if err != nil {
				t.Fatal(err)
			}
			copied := replay() // for an inventory of its own
			copied.table, copied.actions, copied.cfg = next.table, next.actions, after
			return copied
		}
		original := replay()
		original.table.Spare()
		copied, lone := copyOf(original), copyOf(replay()) // nothing happens to the original of lone
		pairs := [][2]*world{{original, replay()}, {copied, lone}}
		for _, kind := range drawKinds(t, "after") {
			for _, pair := range pairs { // the same kind at the same time, to meet in what they might share
				if s := drawStep(t, kind); rapid.IntRange(0, 3).Draw(t, "happens") > 0 {
					s(pair[0])
					s(pair[1])
				}
			}
		}
		for i, pair := range pairs {
			if diff := membership.Difference(pair[1].table, pair[0].table); diff != "" {
				t.Fatalf("%s (-alone +got):\n%s", []string{"original", "copy"}[i], diff)
			}
		}
	})
}

// worldWithHold is a world whose role web had ten members, web0 to web9, six of which are lost and held.
func worldWithHold(t *testing.T, cfg membership.Config) *world {
	t.Helper()
	w := newWorld(t, cfg)
	for i := range 10 {
		facts := inventory.Facts{"role": "web", "env": "prod", "port": "80", "ipaddress": "10.0.0.1"}
		w.heartbeat(inventory.Beat{Node: fmt.Sprint("web", i), Ready: true}, facts, &action{})
	}
	w.pass(time.Second)
	for i := range 6 {
		disconnect(fmt.Sprint("web", i))(w)
	}
	w.pass(2 * time.Second)
	if h := w.table.Role("web").Held(cfg.Shadow); h == nil || len(h.Nodes) != 6 || h.Shadow != cfg.Shadow {
		t.Fatalf("six of ten are lost, and held is %+v", h)
	}
	return w
}

// turnWith is a world with another configuration after its first turn.
func (w *world) turnWith(t *testing.T, cfg membership.Config) (*world, *membership.Role) {
	t.Helper()
	next, err := w.with(cfg)
	if err != nil {
		t.Fatal(err)
	}
	next.turn()
	return next, next.table.Role("web")
}

func TestShadowShowsHoldsAndDoesNotEnforceThem(t *testing.T) {
	cfg := membership.Config{GoneAfter: inventory.DefaultGoneAfter, Roles: []membership.RoleConfig{{Name: "web"}}}
	shadow := cfg
	shadow.Shadow = true
	if w := worldWithHold(t, shadow); members(w.table.Role("web")) != "web6 web7 web8 web9" {
		t.Errorf("in shadow mode the members are %q", members(w.table.Role("web")))
	}
	if _, r := worldWithHold(t, cfg).turnWith(t, cfg); len(r.Current().Members) != 10 || r.Held(false) == nil {
		t.Errorf("under the same configuration the members are %q, held is %+v", members(r), r.Held(false))
	}
	if _, r := worldWithHold(t, cfg).turnWith(t, shadow); len(r.Current().Members) != 4 || r.Held(true) == nil {
		t.Errorf("after a change to shadow the members are %q, held is %+v", members(r), r.Held(true))
	}
	w, r := worldWithHold(t, shadow).turnWith(t, cfg)
	if w.pass(time.Second); len(r.Current().Members) != 4 || r.Held(false) != nil || r.Missing("web0") {
		t.Errorf("after a change from shadow the members are %q, held is %+v", members(r), r.Held(false))
	}
}

func TestNodesThatANewSelectorExcludesDepartAtOnce(t *testing.T) {
	cfg := membership.Config{GoneAfter: inventory.DefaultGoneAfter, Roles: []membership.RoleConfig{{Name: "web"}}}
	w := newWorld(t, cfg)
	for i := range 10 {
		facts := inventory.Facts{"role": "web", "old": fmt.Sprint(i < 2)}
		w.heartbeat(inventory.Beat{Node: fmt.Sprint("web", i), Ready: true}, facts, &action{})
	}
	w.turn()
	cfg.Roles = []membership.RoleConfig{{Name: "web", Selector: "role=web,old=false"}}
	if _, r := w.turnWith(t, cfg); len(r.Current().Members) != 8 || len(r.Nodes()) != 8 {
		t.Errorf("the members are %q of %q, want eight", members(r), r.Nodes())
	}
	cfg.Roles = []membership.RoleConfig{{Name: "web", Selector: "role=web,old=true"}}
	_, r := w.turnWith(t, cfg)
	if h := r.Held(false); len(r.Current().Members) != 10 || h == nil || len(h.Nodes) != 8 {
		t.Errorf("the members are %q, held is %+v; want eight of them held", members(r), r.Held(false))
	}
}

func TestHeldMembersGetTheNewMemberFacts(t *testing.T) {
	cfg := membership.Config{GoneAfter: inventory.DefaultGoneAfter}
	w := worldWithHold(t, cfg)
	cfg.Roles = []membership.RoleConfig{{Name: "web", MemberFacts: []string{"env"}}}
	_, r := w.turnWith(t, cfg)
	for _, m := range r.Current().Members {
		if diff := cmp.Diff(map[string]any{"env": "prod"}, m.Facts); diff != "" {
			t.Errorf("facts of %s (-want +got):\n%s", m.Node, diff)
		}
	}
	if len(r.Current().Members) != 10 {
		t.Errorf("the members are %q", members(r))
	}
}

func TestRoleIsRecoveredFromWhatAnotherRoleRemembers(t *testing.T) {
	cfg := membership.Config{GoneAfter: inventory.DefaultGoneAfter}
	w := newWorld(t, cfg)
	w.heartbeat(inventory.Beat{Node: "web0", Ready: true}, inventory.Facts{"role": "web"}, &action{})
	w.turn()
	applied := map[string]kick.Revision{"db": w.table.Role("web").Current().Revision}
	lb := action{dependsOn: []string{"db"}, applied: applied}
	w.heartbeat(inventory.Beat{Node: "lb0", Ready: true}, inventory.Facts{"role": "lb"}, &lb)
	next, err := w.with(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := next.table.Role("db")
	if q := next.table.Recover(next.inv.Snapshot(), next.reports(), next.now); len(q) != 0 || !db.Open() {
		t.Errorf("the questions are %+v, and db waits for %+v", q, db.Sync())
	}
}

func TestConfigurationThatIsWrongLeavesTheTableAsItIs(t *testing.T) {
	w := worldWithHold(t, membership.Config{GoneAfter: inventory.DefaultGoneAfter})
	wrong := membership.Config{Roles: []membership.RoleConfig{{Name: "web", Selector: "x"}}}
	if next, err := w.with(wrong); err == nil || next.table != nil {
		t.Errorf("%+v was accepted", wrong)
	}
	if r := w.table.Role("web"); r.Held(false) == nil || r.Selector() != "role=web" {
		t.Errorf("role %q, held is %+v", r.Selector(), r.Held(false))
	}
}

// A blue/green switch by a reload of the selector.
func TestSwitchToOtherNodesIsNotHeld(t *testing.T) {
	cfg := membership.Config{GoneAfter: inventory.DefaultGoneAfter}
	cfg.Roles = []membership.RoleConfig{{Name: "web", Selector: "role=web,color=blue"}}
	tab := newTable(t, cfg.Roles...)
	inv := inventory.New()
	for i := range 8 {
		color := []string{"blue", "green"}[i%2]
		n := receiveNode(t, inv, fmt.Sprint("web", i), inventory.Facts{
			"role": "web", "color": color, "ipaddress": "10.0.0.1", "port": "80",
		})
		tab.apply(nil, n, noon)
	}
	tab.nodes = inv.Snapshot()
	tab.resolve("web")
	tab.publish()
	now := in(time.Minute)
	cfg.Roles = []membership.RoleConfig{{Name: "web", Selector: "role=web,color=green"}}
	next, err := tab.With(cfg, tab.nodes, now, func(next *membership.Table) {
		_, _ = next.Resolve("web", nil, tab.nodes, now)
	})
	if err != nil {
		t.Fatal(err)
	}
	changes := next.Publish(7, tab.nodes, now)
	if r := next.Role("web"); r.Held(false) != nil || members(r) != "web1 web3 web5 web7" || len(changes) != 1 {
		t.Errorf("held is %+v, members %q, %d changes; want the green ones at once", r.Held(false), members(r), len(changes))
	}
}

// Cases B6: the words of a hold follow its cause.
func TestHoldAfterAReloadNamesTheReload(t *testing.T) {
	for _, c := range []struct {
		role       membership.RoleConfig
		why, undo  string
		handedOver bool
	}{
		{membership.RoleConfig{Name: "web", Selector: "role=wbe"},
			"4 alive members are no longer selected since the reload at 12:01:00 UTC, which changed the selector to role=wbe",
			"undo the change of the selector, which is now role=wbe", true},
		{membership.RoleConfig{Name: "web", MemberFacts: []string{"ipaddress", "port", "rack"}},
			"4 alive members lack a fact since the reload at 12:01:00 UTC, after which members need ipaddress, port, rack",
			"undo the change of member_facts, or give the members these facts", false},
	} {
		tab := newTable(t)
		inv := inventory.New()
		for i := range 4 {
			n := receiveNode(t, inv, fmt.Sprint("web", i), inventory.Facts{"role": "web", "ipaddress": "10.0.0.1", "port": "80"})
			tab.apply(nil, n, noon)
		}
		tab.nodes = inv.Snapshot()
		tab.resolve("web")
		tab.publish()
		now := in(time.Minute)
		c.role.MinMembers = 1
		cfg := membership.Config{GoneAfter: inventory.DefaultGoneAfter, Roles: []membership.RoleConfig{c.role}}
		next, err := tab.With(cfg, tab.nodes, now, func(next *membership.Table) {
			_, _ = next.Resolve("web", nil, tab.nodes, now)
		})
		if err != nil {
			t.Fatal(err)
		}
		next.Publish(7, tab.nodes, now)
		r := next.Role("web")
		h := r.Held(false)
		if h == nil || !strings.HasPrefix(h.Why, c.why) || h.Undo != c.undo || len(h.Nodes) != 4 {
			t.Fatalf("held is %+v, want %q, %q", h, c.why, c.undo)
		}
		if refused := r.Refusal(); (refused == nil) != c.handedOver {
			t.Errorf("%s: refused is %+v, handed over: want %t", c.undo, refused, c.handedOver)
		}
	}
}

func receiveNode(t *testing.T, inv *inventory.Inventory, name string, facts inventory.Facts) *inventory.Node {
	t.Helper()
	for _, m := range []inventory.Received{
		{At: noon, Facts: &inventory.FactsMessage{Node: name, Instance: "m", Boot: "b", Facts: facts}},
		{At: noon, Beat: &inventory.Beat{Node: name, Instance: "m", Boot: "b", Facts: facts.Digest(), Ready: true, NextIn: 1000,
			Conn: inventory.Conn{Server: name, Client: 1}}},
	} {
		if _, err := inv.Apply(m); err != nil {
			t.Fatal(err)
		}
	}
	return inv.Snapshot().Node(name)
}
