package controller

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// Bounds of what nodes can make the controller remember.
const (
	maxRoles   = 10_000 // more can only be garbage
	maxOrphans = 1000   // roles that only what is missing from them keeps
	maxPast    = 64     // memberships of a role, to say what changed since one of them
)

// roles is every role that is borne, needed or configured, with its membership. It belongs to the loop.
type roles struct {
	shadow bool // what guards hold is removed all the same
	byName map[string]*role
	custom []*role            // those whose selector is not role=NAME: every node is tried
	of     map[string][]*role // the roles that a node bears by name
	n      int64              // of the revision that was published last

	unfilled []*role          // of custom: the nodes that are there were not tried yet
	heirs    map[string]*role // of those of another configuration, while these succeed them
}

// role is a named set of nodes. A member is one of them that is serving.
type role struct {
	RoleConfig
	selector   query.Selector
	implicit   bool // a selector that somebody needs, or a role narrowed for them: nobody calls it by a name
	configured bool
	known      bool // somebody bears it, did, or has applied it

	nodes    map[string]struct{}
	names    []string // nodes, sorted, as views show them: never changed; nil: to be sorted anew
	members  map[string]kick.Member
	suspects map[string]struct{} // members that may be gone
	gate     roleGate
	guard    guard

	now       kick.Membership          // as published; Revision is zero before the first time
	changed   bool                     // members differ from now, perhaps
	from      time.Time                // when what is not published yet began; a removal begins with the suspicion
	published time.Time                // from, of the membership published last
	outside   time.Time                // when a change was published that no runs made
	own       ownChange                // the last one that runs made
	failed    map[string]struct{}      // nodes on which a run with now failed, none having succeeded since
	past      map[string][]kick.Member // by hash
	diffs     map[string]diff          // by hash, from that past to now
}

// diff is what lies between two memberships, as node names.
type diff struct{ added, removed, changed []string }

func newRoles(configured []RoleConfig) (*roles, error) {
	return (&roles{}).succeededBy(configured, false, time.Time{})
}

// configure makes the roles that are configured.
func (rs *roles) configure(configured []RoleConfig) error {
	for _, cfg := range configured {
		if err := CheckRole(cfg.Name); err != nil {
			return err
		}
		for _, text := range cfg.DependsOn {
			if err := checkNeed(text); err != nil {
				return fmt.Errorf("role %s: %w", cfg.Name, err)
			}
		}
		r, err := rs.need(cfg.Name)
		if err != nil {
			return err
		}
		r.configured = true
		r.DependsOn, r.Action, r.GoneAfter, r.MinMembers, r.Mode = cfg.DependsOn, cfg.Action, cfg.GoneAfter, cfg.MinMembers, cfg.Mode
		if cfg.Budget != "" {
			r.Budget = cfg.Budget
		}
		if cfg.MemberFacts != nil {
			r.MemberFacts = cfg.MemberFacts
		}
		if cfg.Selector != "" {
			if r.selector, err = query.Parse(cfg.Selector); err != nil {
				return fmt.Errorf("role %s: %w", cfg.Name, err)
			}
			rs.custom = append(rs.custom, r)
		}
	}
	return nil
}

// need is a role that an action depends on, by the name that its node gives it.
type need struct {
	as     string
	role   *role
	shared string // "environment=prod": what its members share with the dependent, if it was narrowed to that
}

// ParseNeed takes a depends_on apart: a role's name or a selector, and the facts that members must share with the dependent.
func ParseNeed(text string) (name string, same []string, err error) {
	name, list, narrowed := strings.Cut(text, " same=")
	if !narrowed {
		return text, nil, nil
	}
	for path := range strings.SplitSeq(list, ",") {
		if path = strings.TrimSpace(path); path == "" || strings.ContainsAny(path, " =") {
			return "", nil, fmt.Errorf("depends_on %q: after same= come names of facts, as in web same=environment,site", text)
		}
		same = append(same, path)
	}
	return strings.TrimSpace(name), same, nil
}

// checkNeed reports why something can't be depended on.
func checkNeed(text string) error {
	name, _, err := ParseNeed(text)
	switch {
	case err != nil:
		return err
	case strings.Contains(name, "="):
		_, err = query.Parse(name)
		return err
	}
	return CheckRole(name)
}

// needOf is what a depends_on means for a node with these facts.
func (rs *roles) needOf(text string, facts inventory.Facts) (need, error) {
	name, same, err := ParseNeed(text)
	if err != nil {
		return need{}, err
	}
	r, err := rs.need(name)
	if err != nil || len(same) == 0 {
		return need{as: name, role: r}, err
	}
	var terms []string
	for _, path := range same {
		value, ok := query.Lookup(facts, path)
		if !ok {
			return need{}, fmt.Errorf("depends_on %q: the node itself has no fact %s", text, path)
		}
		terms = append(terms, path+"="+strconv.Quote(fmt.Sprint(value)))
	}
	shared, err := query.Parse(strings.Join(terms, ","))
	if err != nil {
		return need{}, fmt.Errorf("depends_on %q: %w", text, err)
	}
	narrow, err := rs.narrow(r, shared)
	return need{as: name, role: narrow, shared: shared.String()}, err
}

// narrow is the part of a role whose nodes match a selector as well.
func (rs *roles) narrow(r *role, shared query.Selector) (*role, error) {
	name := r.Name + " where " + shared.String()
	if narrow := rs.byName[name]; narrow != nil {
		return narrow, nil
	}
	return rs.add(name, r.selector.And(shared), r.RoleConfig, true)
}

// need is the role that a depends_on names: a role's name, or a selector, which is a role by itself.
func (rs *roles) need(name string) (*role, error) {
	if r := rs.byName[name]; r != nil {
		return r, nil
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
	return rs.add(name, selector, RoleConfig{MemberFacts: DefaultMemberFacts, Budget: DefaultBudget}, selects)
}

func (rs *roles) add(name string, selector query.Selector, cfg RoleConfig, implicit bool) (*role, error) {
	if len(rs.byName) >= maxRoles {
		return nil, fmt.Errorf("role %.40q: %d roles are known already", name, maxRoles)
	}
	cfg.Name = name
	r := &role{
		nodes:    map[string]struct{}{},
		members:  map[string]kick.Member{},
		suspects: map[string]struct{}{},
		past:     map[string][]kick.Member{},
		changed:  true, // even an empty membership has a revision
	}
	if heir := rs.heirs[name]; heir != nil {
		r = heir
	}
	r.RoleConfig, r.selector, r.implicit, r.configured = cfg, selector, implicit, false
	rs.byName[name] = r
	if implicit {
		rs.custom, rs.unfilled = append(rs.custom, r), append(rs.unfilled, r)
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

// drop forgets the roles that nobody bears, needs or configured. Whoever needed one may be cut off with its members: what is held, or
// missing, is kept, but for the oldest of very many.
func (rs *roles) drop(actions []*action) {
	needed := map[*role]bool{}
	for _, a := range actions {
		for _, need := range a.needs {
			needed[need.role] = true
		}
	}
	var orphans []*role
	for name, r := range rs.byName {
		switch {
		case needed[r] || r.configured || len(r.nodes) > 0:
		case len(r.guard.missing) > 0:
			orphans = append(orphans, r)
		default:
			delete(rs.byName, name)
		}
	}
	if len(orphans) > maxOrphans {
		slices.SortFunc(orphans, func(a, b *role) int { return b.from.Compare(a.from) })
		for _, r := range orphans[maxOrphans:] {
			delete(rs.byName, r.Name)
		}
	}
	rs.custom = slices.DeleteFunc(rs.custom, func(r *role) bool { return rs.byName[r.Name] != r })
}

// unheardOf reports whether a role may be only a typo. Nobody is kicked into the empty list that it stands for.
func (r *role) unheardOf() bool { return !r.configured && !r.known }

// fill puts the nodes that are there already into a role that was new a moment ago.
func (rs *roles) fill(r *role, nodes *inventory.Snapshot, now time.Time) {
	for n := range nodes.All() {
		r.move(n, n, now)
	}
}

// move takes in that a node changed; from is when its change began.
func (rs *roles) move(before, after *inventory.Node, from time.Time) error {
	node := before
	if after != nil {
		node = after
	}
	for _, r := range rs.custom {
		r.move(before, after, from)
	}
	named := map[*role]struct{}{}
	for _, r := range rs.custom {
		named[r] = struct{}{}
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
			r.move(before, after, from)
			named[r] = struct{}{}
		}
	}
	if after != nil && after.Life == inventory.Left {
		for _, r := range rs.byName { // that miss it, whatever its facts say by now
			if _, missing := r.guard.missing[node.Name]; missing {
				r.move(before, after, from)
			}
		}
	}
	rs.noteBorne(node.Name, named)
	return refused
}

// noteBorne keeps roles.of, from the roles that a node may have begun or ceased to bear.
func (rs *roles) noteBorne(node string, touched map[*role]struct{}) {
	var of []*role
	for r := range touched {
		if _, in := r.nodes[node]; in && !r.implicit {
			of = append(of, r)
		}
	}
	if len(of) == 0 {
		delete(rs.of, node)
		return
	}
	slices.SortFunc(of, func(a, b *role) int { return strings.Compare(a.Name, b.Name) })
	rs.of[node] = of
}

func (r *role) move(before, after *inventory.Node, from time.Time) {
	n, left := after, after != nil && after.Life == inventory.Left
	if n == nil {
		n = before
	}
	name := n.Name
	if after == nil || after.Facts == nil || !r.selector.Matches(after.Facts) {
		if _, in := r.nodes[name]; in {
			delete(r.nodes, name)
			r.names = nil
		}
		n = nil
	} else {
		if _, in := r.nodes[name]; !in {
			r.nodes[name] = struct{}{}
			r.names = nil
		}
		r.known = true
	}
	if n.Eligible() && n.Life == inventory.Suspect {
		r.suspects[name] = struct{}{}
	} else {
		delete(r.suspects, name)
	}
	was, is := r.members[name]
	switch {
	case n.Eligible():
		m := kick.Member{Node: name, Facts: pick(n.Facts, r.MemberFacts)}
		r.members[name] = m
		back := r.guard.back(name)
		if !is && !back {
			r.guard.joins(name, from)
		}
		if is && !back && reflect.DeepEqual(was.Facts, m.Facts) {
			return
		}
	case left:
		_, missing := r.guard.missing[name]
		if !is && !missing {
			return
		}
		delete(r.members, name)
		r.guard.left(name)
	case is:
		delete(r.members, name)
		if !r.told(name) {
			r.guard.left(name)
			break // and so nothing is lost
		}
		r.guard.lost(name, loss{member: was, facts: before.Facts, at: from})
	default:
		return
	}
	r.note(from)
}

// told reports whether a node is in the membership that was published last.
func (r *role) told(node string) bool {
	_, told := slices.BinarySearchFunc(r.now.Members, node, func(m kick.Member, node string) int { return strings.Compare(m.Node, node) })
	return told
}

// note is that something changed at from, and is to be published.
func (r *role) note(from time.Time) {
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

// publish gives every role whose membership changed a new revision, and returns those roles as they were and are. What the guard of
// a role holds is still in its membership.
func (rs *roles) publish(epoch int64, now time.Time, facts func(node string) inventory.Facts) []publication {
	var out []publication
	var due []string
	for name, r := range rs.byName {
		if r.gate.open && (r.changed || len(r.guard.missing) > 0 || r.guard.hold != nil) {
			due = append(due, name)
		}
	}
	slices.Sort(due)
	for _, name := range due {
		r := rs.byName[name]
		p := publication{role: r, was: r.now, judgement: r.judge(now, facts)}
		if !r.changed && p.judgement == (judgement{}) {
			continue
		}
		r.changed = false
		members := slices.Collect(maps.Values(r.members))
		if r.guard.hold == nil || !rs.shadow {
			for _, l := range r.guard.missing {
				members = append(members, l.member)
			}
		}
		slices.SortFunc(members, byNode)
		r.guard.note(now, len(members))
		if hash := kick.Hash(members); hash != r.now.Revision.Hash { // else it was undone before anybody heard of it, or is held
			rs.n++
			r.now = kick.Membership{Role: name, Revision: kick.Revision{Epoch: epoch, N: rs.n, Hash: hash}, Members: members}
			r.published = r.from
			r.remember(hash, members)
			r.diffs, r.failed = map[string]diff{}, nil
			p.diff = between(p.was.Members, members)
		} else if p.judgement == (judgement{}) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func (r *role) judge(now time.Time, facts func(node string) inventory.Facts) judgement {
	if len(r.guard.missing) == 0 && r.guard.hold == nil {
		return judgement{}
	}
	return r.guard.judge(now, r.sound(), r.suspects, func() []inventory.Facts {
		rest := make([]inventory.Facts, 0, len(r.members))
		for name := range r.members {
			rest = append(rest, facts(name))
		}
		return rest
	})
}

// sound is how many members are certainly there.
func (r *role) sound() int { return len(r.members) - len(r.suspects) }

func byNode(a, b kick.Member) int { return strings.Compare(a.Node, b.Node) }

// publication is what there is to tell of a role: a membership that changed, if its revision is not the one it was, and what the guard
// made of it.
type publication struct {
	role      *role
	was       kick.Membership
	diff      diff
	judgement judgement
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
	if hash == r.now.Revision.Hash {
		return diff{}, true
	}
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
	for _, need := range a.needs {
		r := need.role
		if !r.gate.open {
			stale = true // as far as anybody knows
			continue
		}
		if a.status.Applied[need.as].Hash == r.now.Revision.Hash {
			continue
		}
		stale = true
		if r.published.Before(from) {
			from = r.published
		}
	}
	return from, stale || a.unresolved != "" || a.status.Dirty && len(a.needs) > 0
}

// fingerprint identifies what an action would be configured from now.
func (rs *roles) fingerprint(a *action) string {
	hashes := make([]string, 0, len(a.needs))
	for _, need := range a.needs {
		hashes = append(hashes, need.role.now.Revision.Hash)
	}
	return strings.Join(hashes, " ")
}

// mayServe reports whether an action may still be configured with a node that is a member no more.
func (rs *roles) mayServe(a *action, node string) bool {
	for _, need := range a.needs {
		r := need.role
		if _, bears := r.nodes[node]; !bears {
			continue
		}
		hash := a.status.Applied[need.as].Hash
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
func (r *role) nodeNames() []string {
	if r.names == nil {
		r.names = sortedKeys(r.nodes)
	}
	return r.names
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
