package membership

import (
	"maps"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kicker/inventory/query"
)

// Remembered is how many past memberships, and differences from them, a role keeps.
func (r *Role) Remembered() (past, diffs int) { return len(r.past), len(r.diffs) }

// Members is the nodes that are members now, sorted.
func (r *Role) Members() []string { return slices.Sorted(maps.Keys(r.members)) }

// GuardSets is how many names the guard's sets A and R have within a window.
func (r *Role) GuardSets(now time.Time, w time.Duration) (a, joined int) {
	return r.guard.sets(now, w, r.present())
}

// Difference is everything in which two tables differ, for people; empty if they know the same.
func Difference(a, b *Table) string {
	return cmp.Diff(a.plain(), b.plain(), cmpopts.EquateEmpty(),
		cmp.AllowUnexported(Role{}, recovery{}, guard{}, step{}, loss{}, hold{}, expectation{},
			departure{}, reselection{}, quarantine{}, failure{}, quarantined{}, Trial{}),
		cmp.Comparer(func(a, b query.Selector) bool { return a.String() == b.String() }))
}

type plainTable struct {
	Config   Config
	Roles    map[string]Role
	Selected []string
	ByNode   map[string][]string
	N        int64
}

// plain is a table without pointers between its parts.
func (t *Table) plain() plainTable {
	names := func(roles []*Role) (names []string) {
		for _, r := range roles {
			names = append(names, r.Name)
		}
		return names
	}
	p := plainTable{t.cfg, map[string]Role{}, names(t.selected), map[string][]string{}, t.n}
	slices.Sort(p.Selected)
	for name, r := range t.byName {
		r.Nodes() // makes names what it is without a cache
		p.Roles[name] = *r
	}
	for node, roles := range t.byNode {
		p.ByNode[node] = names(roles)
	}
	return p
}

// Spare gives all slices that grow spare room: if a copy shares one, both append to the same place.
func (t *Table) Spare() {
	for _, r := range t.byName {
		for name, steps := range r.guard.history {
			r.guard.history[name] = slices.Grow(steps, 100)
		}
		r.recovery.others = slices.Grow(r.recovery.others, 100)
	}
}
