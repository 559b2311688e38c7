package controller

import (
	"maps"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
)

const (
	keepDeparted = 24 * time.Hour
	maxDeparted  = 10_000 // nodes
)

// departed is the nodes that are no longer members of roles, or no longer there, for keepDeparted. Views hold its
// entries, so they are replaced and never changed.
type departed struct {
	nodes map[string]api.Departed
	// byRole is the names of nodes that departed from a role.
	byRole map[string]map[string]struct{}
	// shown is the copy of nodes that views hold; nil if it is outdated.
	shown map[string]api.Departed
}

func newDeparted() departed {
	return departed{nodes: map[string]api.Departed{}, byRole: map[string]map[string]struct{}{}}
}

// view is the departed as they are now. It never changes.
func (d *departed) view() map[string]api.Departed {
	if d.shown == nil {
		d.shown = maps.Clone(d.nodes)
	}
	return d.shown
}

// change replaces what is remembered of a node.
func (d *departed) change(node string, now time.Time, how func(*api.Departed)) {
	is, known := d.nodes[node]
	if !known {
		d.makeRoom(now)
		is = api.Departed{Node: node, At: now}
	}
	is.Roles = maps.Clone(is.Roles)
	how(&is)
	d.nodes[node], d.shown = is, nil
}

// makeRoom forgets the oldest of too many.
func (d *departed) makeRoom(now time.Time) {
	if len(d.nodes) < maxDeparted {
		return
	}
	oldest, at := "", now
	for node, is := range d.nodes {
		if oldest == "" || is.At.Before(at) {
			oldest, at = node, is.At
		}
	}
	d.forget(oldest)
}

func (d *departed) forget(node string) {
	for role := range d.nodes[node].Roles {
		if delete(d.byRole[role], node); len(d.byRole[role]) == 0 {
			delete(d.byRole, role)
		}
	}
	delete(d.nodes, node)
	d.shown = nil
}

// follow notes the change of a node: it is gone, left, or there.
func (d *departed) follow(change inventory.Change, now time.Time) {
	before, after := change.Before, change.After
	switch {
	case after == nil && before.Life == inventory.Left:
		// its agent stopped after it had left: nothing new
	case after == nil:
		d.change(before.Name, now, func(is *api.Departed) { is.Life, is.At, is.Why = api.Gone, now, change.Why })
	case after.Life == inventory.Left && (before == nil || before.Life != inventory.Left):
		d.change(after.Name, now, func(is *api.Departed) { is.Life, is.At, is.Why = string(inventory.Left), now, "" })
	case before == nil && len(d.nodes[after.Name].Roles) == 0:
		if _, known := d.nodes[after.Name]; known {
			d.forget(after.Name)
		}
	case before == nil:
		d.change(after.Name, now, func(is *api.Departed) { is.Life, is.Why = "", "" })
	}
}

// published notes which nodes departed from a role, and which are members again.
func (d *departed) published(c membership.Change, now time.Time) {
	role := c.Role.Name
	why := c.Role.Departed(c.Diff.Removed)
	for _, node := range c.Diff.Removed {
		d.change(node, now, func(is *api.Departed) {
			if is.Roles == nil {
				is.Roles = map[string]api.RoleDeparture{}
			}
			is.Roles[role] = api.RoleDeparture{Why: why[node], At: now}
		})
		if d.byRole[role] == nil {
			d.byRole[role] = map[string]struct{}{}
		}
		d.byRole[role][node] = struct{}{}
	}
	for _, node := range c.Diff.Added {
		if _, departed := d.byRole[role][node]; !departed {
			continue
		}
		delete(d.byRole[role], node)
		if d.change(node, now, func(is *api.Departed) { delete(is.Roles, role) }); len(d.nodes[node].Roles) == 0 {
			d.forget(node)
		}
	}
}

// applied notes that an action applied memberships with success: it no longer uses the nodes that are not in them.
func (d *departed) applied(action plan.Key, handed map[string]string, table *membership.Table, now time.Time) {
	for role, hash := range handed {
		r := table.Role(role)
		if r == nil || len(d.byRole[role]) == 0 {
			continue
		}
		for node := range d.byRole[role] {
			was := d.nodes[node].Roles[role]
			_, dropped := was.Dropped[action.String()]
			if has, known := r.Applied(hash, node); has || !known || dropped {
				continue
			}
			d.change(node, now, func(is *api.Departed) {
				is.Roles[role] = was.DroppedBy(action.String(), now)
			})
		}
	}
}

// tidy forgets what is old.
func (d *departed) tidy(now time.Time) {
	for node, is := range d.nodes {
		if now.Sub(is.At) > keepDeparted {
			d.forget(node)
		}
	}
}
