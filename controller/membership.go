package controller

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// Bounds of what nodes can make the controller remember.
const (
	maxRoles = 10_000 // more can only be garbage
	maxPast  = 64     // memberships of a role, to say what changed since one of them
)

// roles is every role that is borne, needed or configured, with its membership. It belongs to the loop.
type roles struct {
	byName map[string]*role
	custom []*role // those whose selector is not role=NAME: every node is tried
	n      int64   // of the revision that was published last
}

// role is a named set of nodes. A member is one of them that is serving.
type role struct {
	RoleConfig
	selector   query.Selector
	configured bool
	known      bool // somebody bears it, did, or has applied it

	nodes   map[string]struct{}
	members map[string]kick.Member

	now       kick.Membership          // as published; Revision is zero before the first time
	changed   bool                     // members differ from now, perhaps
	from      time.Time                // when what is not published yet began; a removal begins with the suspicion
	published time.Time                // from, of the membership published last
	past      map[string][]kick.Member // by hash
	diffs     map[string]diff          // by hash, from that past to now
}

// diff is what lies between two memberships, as node names.
type diff struct{ added, removed, changed []string }

func newRoles(configured []RoleConfig) (*roles, error) {
	rs := &roles{byName: map[string]*role{}}
	for _, cfg := range configured {
		if err := CheckRole(cfg.Name); err != nil {
			return nil, err
		}
		r, err := rs.need(cfg.Name)
		if err != nil {
			return nil, err
		}
		r.configured = true
		r.DependsOn, r.Action, r.GoneAfter = cfg.DependsOn, cfg.Action, cfg.GoneAfter
		if cfg.MemberFacts != nil {
			r.MemberFacts = cfg.MemberFacts
		}
		if cfg.Selector != "" {
			if r.selector, err = query.Parse(cfg.Selector); err != nil {
				return nil, fmt.Errorf("role %s: %w", cfg.Name, err)
			}
			rs.custom = append(rs.custom, r)
		}
	}
	for _, cfg := range configured {
		for _, need := range cfg.DependsOn {
			if _, err := rs.need(need); err != nil {
				return nil, fmt.Errorf("role %s: %w", cfg.Name, err)
			}
		}
	}
	return rs, nil
}

// need is the role that a depends_on names: a role's name, or a selector, which is a role by itself.
func (rs *roles) need(name string) (*role, error) {
	if r := rs.byName[name]; r != nil {
		return r, nil
	}
	if len(rs.byName) >= maxRoles {
		return nil, fmt.Errorf("role %.40q: %d roles are known already", name, maxRoles)
	}
	selects := strings.Contains(name, "=")
	text := name
	if !selects {
		if err := CheckRole(name); err != nil {
			return nil, err
		}
		text = "role=" + name
	}
	selector, err := query.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("role %.40q: %w", name, err)
	}
	if canonical := selector.String(); selects && canonical != name {
		return rs.need(canonical)
	}
	r := &role{
		RoleConfig: RoleConfig{Name: name, MemberFacts: DefaultMemberFacts},
		selector:   selector,
		nodes:      map[string]struct{}{},
		members:    map[string]kick.Member{},
		past:       map[string][]kick.Member{},
		changed:    true, // even an empty membership has a revision
	}
	rs.byName[name] = r
	if selects {
		rs.custom = append(rs.custom, r)
	}
	return r, nil
}

// CheckRole reports why name can't be a role's: it is 1 to 128 of [A-Za-z0-9_.:-].
func CheckRole(name string) error {
	if name == "" || len(name) > 128 {
		return fmt.Errorf("role %.20q: must have 1 to 128 characters", name)
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_.:-", c) >= 0) {
			return fmt.Errorf("role %q: %q is not allowed, only letters, digits and _ . : -", name, c)
		}
	}
	return nil
}

// drop forgets the roles that nobody bears, needs or configured.
func (rs *roles) drop(actions []*action) {
	needed := map[string]bool{}
	for _, a := range actions {
		for _, name := range a.needs {
			needed[name] = true
		}
	}
	for name, r := range rs.byName {
		if !needed[name] && !r.configured && len(r.nodes) == 0 {
			delete(rs.byName, name)
		}
	}
	rs.custom = slices.DeleteFunc(rs.custom, func(r *role) bool { return rs.byName[r.Name] != r })
}

// unheardOf reports whether a role may be only a typo. Nobody is kicked into the empty list that it stands for.
func (r *role) unheardOf() bool { return !r.configured && !r.known }

// fill puts the nodes that are there already into a role that was new a moment ago.
func (rs *roles) fill(r *role, nodes *inventory.Snapshot, now time.Time) {
	for n := range nodes.All() {
		r.move(n.Name, n, now)
	}
}

// move takes in that a node changed; from is when its change began.
func (rs *roles) move(before, after *inventory.Node, from time.Time) error {
	node := before
	if after != nil {
		node = after
	}
	for _, r := range rs.custom {
		r.move(node.Name, after, from)
	}
	var refused error
	for _, n := range []*inventory.Node{before, after} {
		if n == nil {
			continue
		}
		for _, name := range n.Facts.Roles() {
			r, err := rs.need(name)
			if err != nil {
				refused = fmt.Errorf("node %s: %w", n.Name, err)
				continue
			}
			r.move(node.Name, after, from)
		}
	}
	return refused
}

func (r *role) move(name string, n *inventory.Node, from time.Time) {
	if n == nil || n.Facts == nil || !r.selector.Matches(n.Facts) {
		delete(r.nodes, name)
		n = nil
	} else {
		r.nodes[name] = struct{}{}
		r.known = true
	}
	was, is := r.members[name]
	switch {
	case !n.Serving() && !is:
		return
	case !n.Serving():
		delete(r.members, name)
	default:
		m := kick.Member{Node: name, Facts: pick(n.Facts, r.MemberFacts)}
		if is && reflect.DeepEqual(was.Facts, m.Facts) {
			return
		}
		r.members[name] = m
	}
	if !r.changed || from.Before(r.from) {
		r.from = from
	}
	r.changed = true
}

// pick is the named facts, by their paths; those that are absent are left out.
func pick(facts inventory.Facts, paths []string) map[string]any {
	picked := make(map[string]any, len(paths))
	for _, path := range paths {
		if v, ok := query.Lookup(facts, path); ok {
			picked[path] = v
		}
	}
	return picked
}

// publish gives every role whose membership changed a new revision, and returns those roles as they were and are.
func (rs *roles) publish(epoch int64) []publication {
	var out []publication
	var changed []string
	for name, r := range rs.byName {
		if r.changed {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	for _, name := range changed {
		r := rs.byName[name]
		r.changed = false
		members := slices.SortedFunc(maps.Values(r.members), func(a, b kick.Member) int { return strings.Compare(a.Node, b.Node) })
		hash := kick.Hash(members)
		if hash == r.now.Revision.Hash {
			continue // undone before anybody heard of it
		}
		was := r.now
		rs.n++
		r.now = kick.Membership{Role: name, Revision: kick.Revision{Epoch: epoch, N: rs.n, Hash: hash}, Members: members}
		r.published = r.from
		r.remember(hash, members)
		r.diffs = map[string]diff{}
		out = append(out, publication{role: r, was: was, diff: between(was.Members, members)})
	}
	return out
}

type publication struct {
	role *role
	was  kick.Membership
	diff diff
}

func (r *role) remember(hash string, members []kick.Member) {
	if len(r.past) >= maxPast {
		for old := range r.past { // any: what is forgotten only makes a reason less exact
			delete(r.past, old)
			break
		}
	}
	r.past[hash] = members
}

// since is what changed since the membership of that hash, and whether it is remembered.
func (r *role) since(hash string) (diff, bool) {
	members, ok := r.past[hash]
	if !ok {
		return diff{}, false
	}
	d, ok := r.diffs[hash]
	if !ok {
		d = between(members, r.now.Members)
		r.diffs[hash] = d
	}
	return d, true
}

// between compares two sorted lists of members.
func between(was, is []kick.Member) diff {
	var d diff
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].Node < is[0].Node:
			d.removed = append(d.removed, was[0].Node)
			was = was[1:]
		case len(was) == 0 || is[0].Node < was[0].Node:
			d.added = append(d.added, is[0].Node)
			is = is[1:]
		default:
			if !reflect.DeepEqual(was[0].Facts, is[0].Facts) {
				d.changed = append(d.changed, is[0].Node)
			}
			was, is = was[1:], is[1:]
		}
	}
	return d
}

// String is the difference for people: "+web4 -web2 ~web1", long ones cut.
func (d diff) String() string {
	var words []string
	for _, part := range []struct {
		sign  string
		nodes []string
	}{{"+", d.added}, {"-", d.removed}, {"~", d.changed}} {
		for i, node := range part.nodes {
			if i == 3 && len(part.nodes) > 4 {
				words = append(words, fmt.Sprintf("%s%d more", part.sign, len(part.nodes)-i))
				break
			}
			words = append(words, part.sign+node)
		}
	}
	return strings.Join(words, " ")
}

// stale reports whether an action's applied is not what is current, and when that began.
func (rs *roles) stale(a *action, now time.Time) (from time.Time, stale bool) {
	from = now
	for _, name := range a.needs {
		r := rs.byName[name]
		if r.now.Revision.Hash == "" || a.status.Applied[name].Hash == r.now.Revision.Hash {
			continue
		}
		stale = true
		if r.published.Before(from) {
			from = r.published
		}
	}
	return from, stale || a.status.Dirty && len(a.needs) > 0
}

// fingerprint identifies what an action would be configured from now.
func (rs *roles) fingerprint(a *action) string {
	hashes := make([]string, 0, len(a.needs))
	for _, name := range a.needs {
		hashes = append(hashes, rs.byName[name].now.Revision.Hash)
	}
	return strings.Join(hashes, " ")
}

// mayServe reports whether an action may still be configured with a node that is a member no more.
func (rs *roles) mayServe(a *action, node string) bool {
	for _, name := range a.needs {
		r := rs.byName[name]
		if _, bears := r.nodes[node]; !bears {
			continue
		}
		hash := a.status.Applied[name].Hash
		if a.status.Dirty || a.flight != nil {
			return true
		}
		if hash == r.now.Revision.Hash {
			continue
		}
		members, known := r.past[hash]
		if !known || slices.ContainsFunc(members, func(m kick.Member) bool { return m.Node == node }) {
			return true
		}
	}
	return false
}

// nodeNames is the nodes of a role, sorted.
func (r *role) nodeNames() []string { return sortedKeys(r.nodes) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
