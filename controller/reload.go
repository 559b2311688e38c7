package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// Reload puts another configuration in force, as a whole or not at all. What was heard, remembered, held and is in progress stays; a
// membership that it leaves as it is keeps its revision. Any goroutine may call it while Run runs.
func (c *Controller) Reload(ctx context.Context, cfg Config) (err error) {
	if gone := c.inLoop(ctx, func(ctx context.Context, now time.Time) { err = c.reload(ctx, cfg, now) }); gone != nil {
		return gone
	}
	return err
}

// RefuseReload takes in that there was another configuration, which is no good, so that this one stays. Any goroutine may call it while
// Run runs.
func (c *Controller) RefuseReload(ctx context.Context, why error) error {
	return c.inLoop(ctx, func(ctx context.Context, now time.Time) { c.refuseReload(ctx, why, now) })
}

func (c *Controller) reload(ctx context.Context, cfg Config, now time.Time) error {
	next, err := c.under(cfg, now)
	if err != nil {
		c.refuseReload(ctx, err, now)
		return err
	}
	failed := c.loaded.Failed
	c.loaded = api.Loaded{At: now}
	if what := changedKeys(c.cfg, cfg); len(what) > 0 {
		c.event(api.Event{Time: now, Kind: api.EventReloaded, Text: "the configuration was reloaded: " + strings.Join(what, ", ") + " changed"})
		c.adopt(next)
	} else if failed != "" {
		c.event(api.Event{Time: now, Kind: api.EventReloaded, Text: "the configuration is good again, and as it was"})
	}
	c.changed = true
	c.turn(ctx, now)
	return nil
}

func (c *Controller) refuseReload(ctx context.Context, why error, now time.Time) {
	c.loaded.Failed = strings.ReplaceAll(why.Error(), "\n", "; ")
	c.event(api.Event{Time: now, Kind: api.EventReloadRejected, Text: "the configuration was not reloaded, the old one stays: " + c.loaded.Failed})
	c.changed = true
	c.turn(ctx, now)
}

// under is this controller as it would be with another configuration. They share nothing that changes, and nobody hears of it.
func (c *Controller) under(cfg Config, now time.Time) (*Controller, error) {
	if cfg.Cluster != c.cfg.Cluster || cfg.Standby != c.cfg.Standby {
		return nil, fmt.Errorf("configuration: cluster and standby can't change while the controller runs: restart it")
	}
	roles, err := c.roles.succeededBy(cfg.Roles, cfg.Guard == GuardShadow, now)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	next := &Controller{
		cfg: cfg, roles: roles, inv: c.inv, log: slog.New(slog.DiscardHandler), journal: newJournal(),
		identity: c.identity, epochs: c.epochs, rival: c.rival, asking: c.asking, sync: c.sync, gate: c.gate,
		byNode: map[string][]*action{}, memories: map[key]*memory{}, status: c.status, running: c.running, flights: c.flights, circles: c.circles,
	}
	for k, m := range c.memories {
		next.memories[k] = m.under(cfg.Backoff, now)
	}
	nodes := c.inv.Snapshot()
	for n := range nodes.All() {
		if err := roles.move(n, n, now); err != nil {
			next.refuse(err, now)
		}
	}
	for _, a := range c.sorted() {
		heir := *a
		heir.memory = next.memories[key{a.node, a.name}]
		heir.needs, heir.unresolved = next.needs(nodes.Node(a.node), a.status, now)
		next.byNode[a.node] = append(next.byNode[a.node], &heir)
	}
	for node := range next.byNode {
		next.noteHeld(node, now)
	}
	if reflect.DeepEqual(cfg.Roles, c.cfg.Roles) { // else whoever needed them finds them as they are then
		roles.keepOrphans(c.roles)
	}
	for _, r := range roles.byName {
		r.reselect(nodes, now)
		if g := &r.gate; !g.open && g.known == nil {
			g.known = c.roles.membersOf(g.newest.revision.Hash)
		}
	}
	roles.heirs = nil
	return next, nil
}

// adopt makes of the other controller's configuration, and of all that follows from it, this one's.
func (c *Controller) adopt(next *Controller) {
	c.cfg, c.roles, c.byNode, c.memories = next.cfg, next.roles, next.byNode, next.memories
	c.actions, c.serves = nil, nil
	for _, f := range c.flights {
		kept := f.handed[:0]
		for _, h := range f.handed {
			if h.role = c.roles.byName[h.role.Name]; h.role != nil {
				kept = append(kept, h)
			}
		}
		f.handed = kept
	}
}

// succeededBy is the roles of another configuration, which take over what was known of those that have the same name.
func (rs *roles) succeededBy(configured []RoleConfig, shadow bool, now time.Time) (*roles, error) {
	next := &roles{byName: map[string]*role{}, of: map[string][]*role{}, heirs: map[string]*role{}, n: rs.n, shadow: shadow}
	for name, r := range rs.byName {
		heir := r.heir()
		if shadow != rs.shadow && heir.guard.hold != nil {
			if !shadow { // what was let pass is not held afterwards
				heir.guard.accept(now, len(heir.members))
			}
			heir.note(now)
		}
		next.heirs[name] = heir
	}
	if err := next.configure(configured); err != nil {
		return nil, err
	}
	return next, nil
}

// keepOrphans takes over the roles that only what is missing from them keeps.
func (rs *roles) keepOrphans(from *roles) {
	for name, heir := range rs.heirs {
		if rs.byName[name] != nil || len(heir.guard.missing) == 0 {
			continue
		}
		rs.byName[name] = heir
		if slices.Contains(from.custom, from.byName[name]) {
			rs.custom = append(rs.custom, heir)
		}
	}
}

// heir is a role like this one that shares nothing with it that changes.
func (r *role) heir() *role {
	heir := *r
	heir.nodes, heir.members, heir.suspects = maps.Clone(r.nodes), maps.Clone(r.members), maps.Clone(r.suspects)
	heir.failed, heir.past, heir.diffs = maps.Clone(r.failed), maps.Clone(r.past), maps.Clone(r.diffs)
	g := &heir.guard
	g.sizes, g.departed = slices.Clone(g.sizes), slices.Clone(g.departed)
	g.missing, g.joined = maps.Clone(g.missing), maps.Clone(g.joined)
	return &heir
}

// reselect moves out the nodes that were in an heir and that its selector does not match any more. For its guard they depart without a
// goodbye; there are no others to wait for.
func (r *role) reselect(nodes *inventory.Snapshot, now time.Time) {
	for name := range r.nodes {
		if n := nodes.Node(name); n != nil {
			r.move(n, n, now)
		}
	}
	for name, l := range r.guard.missing {
		if l.at.Equal(now) {
			l.at = now.Add(-guardPause)
		}
		if l.facts != nil {
			l.member.Facts = pick(l.facts, r.MemberFacts)
		}
		if !reflect.DeepEqual(l.member, r.guard.missing[name].member) {
			r.note(now)
		}
		r.guard.missing[name] = l
	}
}

// membersOf is a membership of any role that is remembered, by its hash; nil if none is.
func (rs *roles) membersOf(hash string) []kick.Member {
	for _, r := range rs.byName {
		if members, ok := r.past[hash]; ok {
			return append([]kick.Member{}, members...)
		}
	}
	return nil
}

// under is a memory with another backoff: who waits longer than that allows waits less.
func (m *memory) under(cfg BackoffConfig, now time.Time) *memory {
	next := *m
	if m.backoff == nil {
		return &next
	}
	paced := *m.backoff
	paced.MaxInterval = cfg.Max
	next.backoff = &paced
	if latest := now.Add(cfg.Max); next.notBefore.After(latest) {
		next.notBefore = latest
	}
	return &next
}

// changedKeys is the keys in which two configurations differ, a role by its name.
func changedKeys(was, is Config) []string {
	var keys []string
	a, b := reflect.ValueOf(was), reflect.ValueOf(is)
	for i := range a.NumField() {
		if key := a.Type().Field(i).Tag.Get("mapstructure"); key != "roles" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	roles := map[string][2]RoleConfig{}
	for i, cfg := range [][]RoleConfig{was.Roles, is.Roles} {
		for _, r := range cfg {
			both := roles[r.Name]
			both[i] = r
			roles[r.Name] = both
		}
	}
	for _, name := range sortedKeys(roles) {
		if both := roles[name]; !reflect.DeepEqual(both[0], both[1]) {
			keys = append(keys, "role "+name)
		}
	}
	return keys
}
