package membership

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// Role is a named set of nodes. Those of them that are alive, ready and known with their facts are its members. A Role
// is read-only outside this package.
type Role struct {
	RoleConfig
	selector   query.Selector
	implicit   bool // a selector, or a part of a role, that an action depends on: it has no name of its own
	configured bool // the configuration names it
	known      bool // a node has or had it, or an action has applied it

	// nodes is every node whose facts the selector matches. names is the same, sorted; it is nil after nodes changed.
	nodes map[string]struct{}
	names []string
	// members is those of nodes that count now. suspects is those of members that may be gone.
	members  map[string]kick.Member
	suspects map[string]struct{}

	recovery recovery
	guard    guard

	// current is the membership published last. Its revision is zero until the first one is published.
	current kick.Membership
	// published is when the first change that current shows began. It is zero for the first one.
	published time.Time
	// changed is true from the first change that current does not show yet until the next Publish.
	changed bool
	// from is when the first of those changes began: for a removal, when the suspicion began.
	from time.Time

	// past is memberships that were published or recovered, by their hash, at most maxPast. diffs is what changed since
	// some of them.
	past  map[string][]kick.Member
	diffs map[string]Diff

	// few is true from AllowFew until the role has min_members members again.
	few bool
}

func newRole() *Role {
	return &Role{
		nodes:    map[string]struct{}{},
		members:  map[string]kick.Member{},
		suspects: map[string]struct{}{},
		past:     map[string][]kick.Member{},
		diffs:    map[string]Diff{},
		changed:  true, // an empty membership has a revision, too
	}
}

// Current is the membership that was published last. Before the first time its revision is zero.
func (r *Role) Current() kick.Membership { return r.current }

// Published is when the first change of the current membership began.
func (r *Role) Published() time.Time { return r.published }

// Selector says which nodes have the role.
func (r *Role) Selector() string { return r.selector.String() }

// Implicit reports whether the role is a selector or a part of another role, and has no name of its own.
func (r *Role) Implicit() bool { return r.implicit }

// Has reports whether a node has the role, as a member or not.
func (r *Role) Has(node string) bool {
	_, has := r.nodes[node]
	return has
}

// Nodes is every node that has the role, sorted. The caller must not change it.
func (r *Role) Nodes() []string {
	if r.names == nil {
		r.names = slices.Sorted(maps.Keys(r.nodes))
	}
	return r.names
}

// Unknown reports whether the role may be a typo: no node has or had it, no action has applied it, and the
// configuration does not name it.
func (r *Role) Unknown() bool { return !r.configured && !r.known }

// TooFew reports whether the role has fewer members than its dependents may be kicked with.
func (r *Role) TooFew() bool { return r.tooFew() && !r.few }

func (r *Role) tooFew() bool { return len(r.current.Members) < r.MinMembers }

// Sync says whether the members of the role are recovered, and what it waits for if not.
func (r *Role) Sync() api.Sync {
	return api.Sync{Open: r.recovery.done, Why: r.recovery.why, Until: r.recovery.until}
}

// Open reports whether the members of the role are recovered.
func (r *Role) Open() bool { return r.recovery.done }

// Held is the removals that the guard keeps back, nil if there are none. shadow marks them as shown only.
func (r *Role) Held(shadow bool) *api.Held {
	h := r.guard.hold
	if h == nil {
		return nil
	}
	return &api.Held{
		Nodes: slices.Sorted(maps.Keys(r.guard.missing)), Since: h.since, Why: h.why, Probe: h.probe, Shadow: shadow,
	}
}

// Missing reports whether a node departed from the role without leaving, and its removal is not published.
func (r *Role) Missing(node string) bool {
	_, missing := r.guard.missing[node]
	return missing
}

// Past is the members of a membership that was published, or recovered, as far as it is remembered.
func (r *Role) Past(hash string) (members []kick.Member, known bool) {
	members, known = r.past[hash]
	return members, known
}

// Since is what changed since the membership of that hash, and whether that one is remembered.
func (r *Role) Since(hash string) (Diff, bool) {
	if hash == r.current.Revision.Hash {
		return Diff{}, true
	}
	members, ok := r.past[hash]
	if !ok {
		return Diff{}, false
	}
	d, ok := r.diffs[hash]
	if !ok {
		d = Between(members, r.current.Members)
		r.diffs[hash] = d
	}
	return d, true
}

func (r *Role) remember(hash string, members []kick.Member) {
	if len(r.past) >= maxPast {
		for old := range r.past { // any of them: without it a reason is less exact, and that is all
			delete(r.past, old)
			break
		}
	}
	r.past[hash] = members
}

// update applies the change of one node, which began at from.
func (r *Role) update(before, after *inventory.Node, from time.Time) {
	name := cmp.Or(after, before).Name
	has := after != nil && after.Facts != nil && r.selector.Matches(after.Facts)
	if has != r.Has(name) {
		r.names = nil
	}
	if has {
		r.nodes[name], r.known = struct{}{}, true
	} else {
		delete(r.nodes, name)
	}
	counts := has && after.Eligible()
	if counts && after.Life == inventory.Suspect {
		r.suspects[name] = struct{}{}
	} else {
		delete(r.suspects, name)
	}
	was, isMember := r.members[name]
	switch {
	case counts:
		m := kick.Member{Node: name, Facts: pick(after.Facts, r.MemberFacts)}
		r.members[name] = m
		back := r.guard.back(name)
		if !isMember && !back {
			r.guard.joined(name, from)
		}
		if isMember && !back && reflect.DeepEqual(was.Facts, m.Facts) {
			return
		}
	case after != nil && after.Life == inventory.Left:
		if !isMember && !r.Missing(name) {
			return
		}
		delete(r.members, name)
		r.guard.left(name)
	case isMember:
		delete(r.members, name)
		if r.isPublished(name) {
			r.guard.lost(name, loss{member: was, facts: before.Facts, at: from})
		} else {
			r.guard.left(name) // no dependent was given it, so nothing is lost
		}
	default:
		return
	}
	r.touch(from)
}

// isPublished reports whether a node is in the current membership.
func (r *Role) isPublished(node string) bool {
	_, found := slices.BinarySearchFunc(r.current.Members, node,
		func(m kick.Member, node string) int { return strings.Compare(m.Node, node) })
	return found
}

// touch says that something changed at from, which the next Publish has to show.
func (r *Role) touch(from time.Time) {
	if !r.changed || from.Before(r.from) {
		r.from = from
	}
	r.changed = true
}

// accept removes the missing members, and returns how many they are.
func (r *Role) accept(now time.Time) int {
	n := len(r.guard.missing)
	r.guard.accept(now, len(r.members))
	r.touch(now)
	return n
}

// sound is how many members are not suspect.
func (r *Role) sound() int { return len(r.members) - len(r.suspects) }

// pick is the named facts, by their paths, without those that are absent.
func pick(facts inventory.Facts, paths []string) map[string]any {
	picked := make(map[string]any, len(paths))
	for _, path := range paths {
		if v, ok := query.Lookup(facts, path); ok {
			picked[path] = v
		}
	}
	return picked
}
