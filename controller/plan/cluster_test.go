package plan

import (
	"fmt"
	"maps"
	"time"

	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }
func in(d time.Duration) time.Time  { return noon.Add(d) }

// Cluster is a table of roles with its nodes. Its exported names are for the tests in plan_test.
type Cluster struct {
	*membership.Table
	t     failer
	nodes map[string]*inventory.Node
	none  *inventory.Snapshot // for what looks at nodes of which it was not told
}

type failer interface {
	Helper()
	Fatal(...any)
}

const (
	clusterEpoch     = 7
	clusterGoneAfter = 10 * time.Second
)

// NewCluster is a cluster without nodes.
func NewCluster(t failer, roles ...membership.RoleConfig) *Cluster {
	t.Helper()
	table, err := membership.New(membership.Config{Roles: roles, GoneAfter: clusterGoneAfter})
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{table, t, map[string]*inventory.Node{}, inventory.New().Snapshot()}
}

// Member has a node that is alive and ready join or change. It has the usual member facts, unless facts says otherwise.
func (c *Cluster) Member(name string, facts inventory.Facts, from time.Time) {
	c.t.Helper()
	all := inventory.Facts{"ipaddress": "10.0.0.1", "port": "80"}
	maps.Copy(all, facts)
	facts = all
	c.set(name, &inventory.Node{Name: name, Life: inventory.Alive, Ready: true, Facts: facts}, from)
}

// Has gives nodes one more role. They are not members.
func (c *Cluster) Has(role string, nodes ...string) {
	c.t.Helper()
	for _, name := range nodes {
		roles := []any{role}
		if n := c.nodes[name]; n != nil {
			for _, r := range n.Facts.Roles() {
				roles = append(roles, r)
			}
		}
		c.set(name, &inventory.Node{Name: name, Life: inventory.Alive, Facts: inventory.Facts{"role": roles}}, ago(time.Hour))
	}
}

// Leave has a node leave.
func (c *Cluster) Leave(name string, from time.Time) {
	c.t.Helper()
	left := *c.nodes[name]
	left.Life = inventory.Left
	c.set(name, &left, from)
}

// Lose has a node depart without leaving.
func (c *Cluster) Lose(name string, from time.Time) {
	c.t.Helper()
	c.set(name, nil, from)
}

func (c *Cluster) set(name string, after *inventory.Node, from time.Time) {
	c.t.Helper()
	if err := c.Apply(inventory.Change{Before: c.nodes[name], After: after}, from); err != nil {
		c.t.Fatal(err)
	}
	if c.nodes[name] = after; after == nil {
		delete(c.nodes, name)
	}
}

// Needs is what an action that depends on these roles needs.
func (c *Cluster) Needs(roles ...string) []membership.Need {
	c.t.Helper()
	var needs []membership.Need
	for _, role := range roles {
		need, err := c.Resolve(role, nil, c.none, noon)
		if err != nil {
			c.t.Fatal(err)
		}
		needs = append(needs, need)
	}
	return needs
}

// Publish opens all roles and publishes them, when a departure at noon has waited for others like it.
func (c *Cluster) Publish() []membership.Change {
	c.Recover(c.none, membership.Reports{}, noon)
	return c.Table.Publish(clusterEpoch, c.none, in(time.Second))
}

// Close has a role wait until a time for lb9/reload, which reports a revision of another controller.
func (c *Cluster) Close(role string, until time.Time) {
	c.t.Helper()
	foreign := membership.Holder{
		Revision: kick.Revision{Epoch: clusterEpoch + 1, N: 1, Hash: "1-foreign"}, Node: "lb9", Action: "reload", As: role,
	}
	began := until.Add(-membership.ReconnectTime - clusterGoneAfter)
	c.Report(c.Needs(role)[0], foreign, membership.Reports{Epochs: []int64{clusterEpoch}}, began)
	c.Recover(c.none, membership.Reports{}, began)
	if s := c.Role(role).Sync(); s.Open || !s.Until.Equal(until) {
		c.t.Fatal("role ", role, " is not closed as it should be: ", s)
	}
}

// Fail has runs with a role's current revision fail on so many nodes.
func (c *Cluster) Fail(ro Rollout, role string, nodes int) {
	c.t.Helper()
	handed := map[string]string{role: c.Needs(role)[0].Role.Current().Revision.Hash}
	for i := range nodes {
		ro.Ended(&Flight{Key: Key{fmt.Sprint("lb", i+10), "reload"}, Handed: handed}, false, c.Table)
	}
}

// DefaultConfig is the controller's.
var DefaultConfig = Config{
	Settle: time.Second, SettleMin: 5 * time.Second, SettleMax: time.Minute,
	Backoff: BackoffConfig{Initial: 5 * time.Second, Max: 10 * time.Minute}, InFlight: 256, Mode: ModeAct,
}

// HourOld is a cluster in which web1 and web2 have had role web for an hour, and a situation in which lb1/reload
// depends on web and has never applied it.
func HourOld(t failer, roles ...membership.RoleConfig) (*Cluster, Situation, *Action) {
	t.Helper()
	c := NewCluster(t, roles...)
	for _, name := range []string{"web1", "web2"} {
		c.Member(name, inventory.Facts{"role": "web"}, ago(time.Hour))
	}
	c.Publish()
	a := &Action{Key: Key{"lb1", "reload"}, Needs: c.Needs("web"), Retry: &Retry{}, since: ago(time.Hour)}
	a.from = a.since
	s := Situation{Config: DefaultConfig, Table: c.Table, Actions: []*Action{a}, Rollout: Rollout{}}
	s.Sync.Open = true
	return c, s, a
}
