// Package membership knows which nodes are members of which role, and at which revision.
//
// A Table follows the inventory: Apply takes each change of a node. Publish then gives a new revision to every role
// whose members changed. Its guard may hold removals, and a role that this controller does not know yet is first
// recovered from its dependents. Nothing here waits, locks or sends: time comes in as now, and what has to be done
// comes back as values.
package membership

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// Bounds of what nodes can make a table remember.
const (
	maxRoles   = 10_000
	maxOrphans = 1000 // roles that are kept only because members of theirs are missing
	maxPast    = 64   // memberships of a role
)

// Table is every role that a node has, an action depends on, or the configuration names. It has one owner.
type Table struct {
	cfg Config
	// byName is all roles: every other list of roles is a part of it.
	byName map[string]*Role
	// sorted is all of byName by name. It is nil after a role was added or removed.
	sorted []*Role
	// selected is the roles whose selector is not role=NAME: every node is compared with each.
	selected []*Role
	// byNode is the roles that a node has under a name, sorted.
	byNode map[string][]*Role
	// n is the number of the revision published last. It counts up over all roles.
	n int64

	// unfilled is those of selected that were not compared yet with the nodes that are there.
	unfilled []*Role
	// former is copies of the roles of another table while With builds this one. add takes a role from there.
	former map[string]*Role
}

// New is a table with the roles of a configuration, and no nodes.
func New(cfg Config) (*Table, error) {
	t := &Table{byName: map[string]*Role{}, byNode: map[string][]*Role{}}
	if err := t.configure(cfg); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Table) configure(cfg Config) error {
	t.cfg = cfg
	for _, c := range cfg.Roles {
		if err := CheckRole(c.Name); err != nil {
			return err
		}
		for _, text := range c.DependsOn {
			if _, err := ParseDependency(text); err != nil {
				return fmt.Errorf("role %s: %w", c.Name, err)
			}
		}
		r, err := t.role(c.Name)
		if err != nil {
			return err
		}
		r.configured = true
		if c.Budget == "" {
			c.Budget = r.Budget
		}
		if c.MemberFacts == nil {
			c.MemberFacts = r.MemberFacts
		}
		r.RoleConfig = c
		if c.Selector != "" {
			if r.selector, err = query.Parse(c.Selector); err != nil {
				return fmt.Errorf("role %s: %w", c.Name, err)
			}
			t.selected = append(t.selected, r)
		}
	}
	return nil
}

func (t *Table) add(name string, selector query.Selector, cfg RoleConfig, implicit bool) (*Role, error) {
	if len(t.byName) >= maxRoles {
		return nil, fmt.Errorf("role %.40q: there are %d roles already", name, maxRoles)
	}
	r := t.former[name]
	if r == nil {
		r = newRole()
	}
	cfg.Name = name
	r.RoleConfig, r.selector, r.implicit, r.configured = cfg, selector, implicit, false
	t.byName[name], t.sorted = r, nil
	if implicit {
		t.selected, t.unfilled = append(t.selected, r), append(t.unfilled, r)
	}
	return r, nil
}

// Role is the role of that name, nil if there is none.
func (t *Table) Role(name string) *Role { return t.byName[name] }

// Roles is every role, by name. The caller must not change it.
func (t *Table) Roles() []*Role {
	if t.sorted == nil {
		t.sorted = slices.SortedFunc(maps.Values(t.byName), byRoleName)
	}
	return t.sorted
}

func byRoleName(a, b *Role) int { return strings.Compare(a.Name, b.Name) }

// Of is the roles that a node has under a name, sorted. The caller must not change it.
func (t *Table) Of(node string) []*Role { return t.byNode[node] }

// Selected is the roles whose selector is not role=NAME. The caller must not change it.
func (t *Table) Selected() []*Role { return t.selected }

// Shadow reports whether holds are shown and not enforced.
func (t *Table) Shadow() bool { return t.cfg.Shadow }

// GoneAfter is the silence after which a node is gone: the shortest that one of its roles names, else the cluster's.
func (t *Table) GoneAfter(node string) time.Duration {
	var own time.Duration
	for _, c := range t.cfg.Roles {
		if c.GoneAfter > 0 && (own == 0 || c.GoneAfter < own) && t.byName[c.Name].Has(node) {
			own = c.GoneAfter
		}
	}
	return cmp.Or(own, t.cfg.GoneAfter)
}

func (t *Table) goneAfter(r *Role) time.Duration { return cmp.Or(r.GoneAfter, t.cfg.GoneAfter) }

// DependsOn is the dependencies that the configuration adds to an action of a node.
func (t *Table) DependsOn(node, action string) []string {
	var texts []string
	for _, c := range t.cfg.Roles {
		if len(c.DependsOn) > 0 && (c.Action == "" || c.Action == action) && t.byName[c.Name].Has(node) {
			texts = append(texts, c.DependsOn...)
		}
	}
	return texts
}

// Apply follows the change of a node, which began at from. An error names roles that the node cannot have; the change
// is applied without them.
func (t *Table) Apply(change inventory.Change, from time.Time) error {
	before, after := change.Before, change.After
	node := cmp.Or(after, before).Name
	concerned := map[*Role]struct{}{}
	for _, r := range t.selected {
		concerned[r] = struct{}{}
	}
	var invalid error
	for _, n := range []*inventory.Node{before, after} {
		if n == nil {
			continue
		}
		for _, name := range n.Facts.Roles() {
			r, err := t.role(name)
			if err != nil {
				invalid = fmt.Errorf("node %s: %w", node, err)
				continue
			}
			concerned[r] = struct{}{}
		}
	}
	if after != nil && after.Life == inventory.Left {
		for _, r := range t.byName { // its facts may have changed since it was a member there
			if r.Missing(node) {
				concerned[r] = struct{}{}
			}
		}
	}
	var named []*Role
	for r := range concerned {
		r.update(before, after, from)
		if r.Has(node) && !r.implicit {
			named = append(named, r)
		}
	}
	delete(t.byNode, node)
	if len(named) > 0 {
		slices.SortFunc(named, byRoleName)
		t.byNode[node] = named
	}
	return invalid
}

// Drop forgets the roles that no node has, no action depends on and no configuration names. A role with missing members
// stays, for its dependents may be cut off together with them; of very many such roles the oldest go.
func (t *Table) Drop(needed map[*Role]bool) {
	var orphans []*Role
	for name, r := range t.byName {
		switch {
		case needed[r] || r.configured || len(r.nodes) > 0:
		case len(r.guard.missing) > 0:
			orphans = append(orphans, r)
		default:
			delete(t.byName, name)
		}
	}
	if len(orphans) > maxOrphans {
		slices.SortFunc(orphans, func(a, b *Role) int { return b.from.Compare(a.from) })
		for _, r := range orphans[maxOrphans:] {
			delete(t.byName, r.Name)
		}
	}
	t.sorted = nil
	t.selected = slices.DeleteFunc(t.selected, func(r *Role) bool { return t.byName[r.Name] != r })
}

// Change is what Publish did to a role: a new membership, a hold that began or ended, or several of these.
type Change struct {
	Role *Role
	Was  kick.Membership
	Diff Diff // from Was to the current membership

	HoldBegan string // why removals are held from now on; empty: no hold began
	HoldEnded string // why removals are no longer held; empty: no hold ended

	QuarantineBegan []api.Quarantined // members that are kept out from now on
	QuarantineEnded []string          // members that are no longer kept out, or no longer there
}

// isNews reports whether there is anything to say of it.
func (c Change) isNews() bool {
	return c.Renewed() || c.HoldBegan+c.HoldEnded != "" || len(c.QuarantineBegan)+len(c.QuarantineEnded) > 0
}

// Renewed reports whether the role has a new revision.
func (c Change) Renewed() bool { return c.Was.Revision.Hash != c.Role.current.Revision.Hash }

// Publish gives a new revision to every role whose membership changed, and decides which removals are held. It returns
// what is new, by role. A held node is still in the membership, unless holds are only shown.
func (t *Table) Publish(epoch int64, nodes *inventory.Snapshot, now time.Time) []Change {
	var changes []Change
	for _, r := range t.Roles() {
		if !r.recovery.done || !r.changed && len(r.guard.missing) == 0 && r.guard.hold == nil {
			continue
		}
		if c := t.publish(r, epoch, nodes, now); c.isNews() {
			changes = append(changes, c)
		}
	}
	return changes
}

func (t *Table) publish(r *Role, epoch int64, nodes *inventory.Snapshot, now time.Time) Change {
	v := r.guard.judge(now, r.present(), r.lossWords, func() []inventory.Facts { return r.facts(nodes) })
	c := Change{Role: r, Was: r.current, HoldBegan: v.began, HoldEnded: v.ended}
	if !r.changed && v == (verdict{}) {
		return c
	}
	r.changed = false
	members := r.unquarantined(now)
	c.QuarantineBegan, c.QuarantineEnded = r.news()
	if r.guard.hold == nil || !t.cfg.Shadow {
		for _, l := range r.guard.missing {
			members = append(members, l.member)
		}
	}
	slices.SortFunc(members, byNode)
	first := r.guard.begin(now)
	hash := kick.Hash(members)
	if hash == r.current.Revision.Hash {
		return c // the change was undone before it was published, or is held
	}
	t.n++
	c.Diff = Between(c.Was.Members, members)
	if !first {
		r.guard.published(c.Diff, r.purposely, now)
	}
	r.current = kick.Membership{Role: r.Name, Revision: kick.Revision{Epoch: epoch, N: t.n, Hash: hash}, Members: members}
	r.published = r.from
	r.few = r.few && r.tooFew()
	r.remember(hash, members)
	r.diffs = map[string]Diff{}
	for _, name := range c.Diff.Added {
		delete(r.departed, name)
	}
	return c
}

// facts is the facts of all members, in no order.
func (r *Role) facts(nodes *inventory.Snapshot) []inventory.Facts {
	var all []inventory.Facts
	for name := range r.members {
		if n := nodes.Node(name); n != nil {
			all = append(all, n.Facts)
		}
	}
	return all
}

// Ended notes how a run of an action, NODE/ACTION, ended that was handed these memberships: hashes by role. A success
// applied all of them. A failure says that one of them, or the node, is at fault.
func (t *Table) Ended(handed map[string]string, by string, succeeded bool, now time.Time) {
	for name, hash := range handed {
		if r := t.byName[name]; r != nil {
			r.ended(hash, by, succeeded, now)
		}
	}
}

// Try begins the trials that are due. again finds an action that may try quarantined members of a role again, as
// NODE/ACTION; empty if there is none. exists reports whether an action still depends on the role.
func (t *Table) Try(again func(*Role) string, exists func(r *Role, action string) bool, now time.Time) {
	for _, r := range t.byName {
		r.try(func() string { return again(r) }, func(action string) bool { return exists(r, action) }, now)
	}
}

// Renumber publishes all memberships under another epoch of the same controller.
func (t *Table) Renumber(epoch int64) {
	for _, r := range t.byName {
		if r.current.Revision.Hash != "" {
			r.current.Revision.Epoch = epoch
		}
	}
}

// Next is when Recover, Publish or a probe has something to do though no node changed; zero: never. probes says whether
// this controller asks for probes.
func (t *Table) Next(probes bool) time.Time {
	var next time.Time
	for _, r := range t.byName {
		switch g := &r.recovery; {
		case g.done:
			next = api.Soonest(next, r.guard.next(probes), r.quarantine.nextTry())
		case g.known == nil:
			next = api.Soonest(next, g.until, g.asked.Add(askAgain))
		default:
			next = api.Soonest(next, g.until)
		}
	}
	return next
}

// AcceptLoss removes the members whose removal is held now, and returns how many they are. n is how many the person
// knows of: if it is another number by now, that is an *OtherLossError. It is an error too if no removal is held.
func (t *Table) AcceptLoss(r *Role, n int, now time.Time) (int, error) {
	held := slices.Sorted(maps.Keys(r.guard.missing))
	switch {
	case r.guard.hold == nil:
		return 0, errors.New("no removal is held there")
	case len(held) != n:
		return 0, &OtherLossError{held}
	}
	for _, other := range t.byName { // the same nodes with other member facts, or a part of them
		isPart := other.implicit && strings.HasPrefix(other.Name, r.Name+" ")
		if other == r || other.guard.hold == nil || !isPart {
			continue
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(other.guard.missing)), func(name string) bool {
			return !r.Missing(name)
		}) {
			other.accept(now)
		}
	}
	return r.accept(now), nil
}

// OtherLossError is the error for an accepted loss of another size than the one that is held.
type OtherLossError struct{ Held []string }

func (e *OtherLossError) Error() string {
	return fmt.Sprintf("%s held by now, of %s", api.Count(len(e.Held), "removal"), api.List(e.Held, 20))
}

// Is reports whether target is api.ErrOtherLoss.
func (e *OtherLossError) Is(target error) bool { return target == api.ErrOtherLoss }

// ExpectLoss makes the guard let up to percent of a role's members depart until a time.
func (t *Table) ExpectLoss(r *Role, percent int, until time.Time) {
	r.guard.expect = expectation{share: 100 - percent, until: until}
}
