package membership

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

// With is a copy of this table under another configuration. The two share nothing that changes. nodes is the nodes that
// there are. resolve is called when the copy has the roles of these nodes and those that are configured. It has to
// Resolve what actions depend on, and Report what they have applied. Other roles are dropped, unless members of theirs
// are missing and the configuration of the roles stays as it is.
//
// A membership that stays as it is keeps its revision. What is held stays held.
func (t *Table) With(cfg Config, nodes *inventory.Snapshot, now time.Time, resolve func(*Table)) (*Table, error) {
	next := &Table{byName: map[string]*Role{}, byNode: map[string][]*Role{}, n: t.n, former: map[string]*Role{}}
	for name, r := range t.byName {
		c := r.clone()
		if cfg.Shadow != t.cfg.Shadow && c.guard.hold != nil {
			if !cfg.Shadow { // what was let pass is not held afterwards
				c.accept(now)
			}
			c.touch(now)
		}
		next.former[name] = c
	}
	if err := next.configure(cfg); err != nil {
		return nil, err
	}
	for n := range nodes.All() {
		_ = next.Apply(inventory.Change{Before: n, After: n}, now) // the error was reported when the node named its roles
	}
	resolve(next)
	if reflect.DeepEqual(cfg.Roles, t.cfg.Roles) { // otherwise a dependent that returns finds them as configured by then
		next.keepOrphans(t)
	}
	for name, r := range next.byName {
		switch was := t.byName[name]; {
		case was == nil:
		case was.Selector() != r.Selector():
			r.reselected = reselection{at: now, selector: r.Selector()}
		case !slices.Equal(was.MemberFacts, r.MemberFacts):
			r.reselected = reselection{at: now, facts: r.MemberFacts}
		}
		r.reselect(nodes, now)
		if g := &r.recovery; !g.done && g.known == nil {
			if members, ok := t.past(g.newest.Revision.Hash); ok {
				g.known = append([]kick.Member{}, members...)
			}
		}
	}
	next.former = nil
	return next, nil
}

// clone is a role like this one that shares nothing with it that changes.
func (r *Role) clone() *Role {
	c := *r
	c.nodes, c.members, c.suspects = maps.Clone(r.nodes), maps.Clone(r.members), maps.Clone(r.suspects)
	c.past, c.diffs = maps.Clone(r.past), maps.Clone(r.diffs)
	c.lacks, c.departed = maps.Clone(r.lacks), maps.Clone(r.departed)
	c.recovery.others = slices.Clone(r.recovery.others)
	c.guard, c.quarantine = r.guard.clone(), r.quarantine.clone()
	return &c
}

// keepOrphans takes over the former roles that are kept only because members of theirs are missing.
func (t *Table) keepOrphans(from *Table) {
	for name, r := range t.former {
		if t.byName[name] != nil || len(r.guard.missing) == 0 {
			continue
		}
		t.byName[name], t.sorted = r, nil
		if slices.Contains(from.selected, from.byName[name]) {
			t.selected = append(t.selected, r)
		}
	}
}

// reselect removes the nodes that the selector no longer matches. For the guard they depart without leaving, all at
// once, so it need not wait for others.
func (r *Role) reselect(nodes *inventory.Snapshot, now time.Time) {
	for name := range r.nodes {
		if n := nodes.Node(name); n != nil {
			r.update(n, n, now)
		}
	}
	for name, l := range r.guard.missing {
		was := l.member
		if l.at.Equal(now) {
			l.at = now.Add(-guardPause)
		}
		if l.facts != nil {
			l.member.Facts, _ = memberFacts(l.facts, r.MemberFacts)
		}
		if !reflect.DeepEqual(l.member, was) {
			r.touch(now)
		}
		r.guard.missing[name] = l
	}
}

// past is a membership that any role remembers, by its hash.
func (t *Table) past(hash string) ([]kick.Member, bool) {
	for _, r := range t.byName {
		if members, ok := r.past[hash]; ok {
			return members, true
		}
	}
	return nil, false
}
