package membership

import (
	"cmp"
	"fmt"
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
	declared   bool // it is a part of a role that is known or that the configuration names
	known      bool // a node has or had it, or an action has applied it
	needed     bool // an action depends on it, or did: its members have all required facts

	// nodes is every node whose facts the selector matches. names is the same, sorted; it is nil after nodes changed.
	nodes map[string]struct{}
	names []string
	// members is those of nodes that count now. suspects is those of members that may be gone. lacks is why those of
	// nodes do not count that would count if their facts were right.
	members  map[string]kick.Member
	suspects map[string]struct{}
	lacks    map[string]string

	recovery   recovery
	guard      guard
	quarantine quarantine

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

	// departed is why nodes that had the role are no longer members, at most maxDeparted.
	departed map[string]departure
	// reselected is the last change of the configuration after which alive nodes no longer had the role.
	reselected reselection
	// few is true from AllowFew until the role has min_members members again.
	few bool
}

// departure is why a node is no longer a member of a role, and since when.
type departure struct {
	why kick.Departure
	at  time.Time
}

// reselection is a reload that changed which nodes have a role, or which facts its members need.
type reselection struct {
	at       time.Time
	selector string   // the new one; empty: it is as it was
	facts    []string // likewise
}

// maxDeparted is how many departures a role remembers.
const maxDeparted = 1000

func newRole() *Role {
	return &Role{
		nodes:    map[string]struct{}{},
		members:  map[string]kick.Member{},
		suspects: map[string]struct{}{},
		lacks:    map[string]string{},
		past:     map[string][]kick.Member{},
		diffs:    map[string]Diff{},
		departed: map[string]departure{},
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
func (r *Role) Unknown() bool { return !r.configured && !r.known && !r.declared }

// Refusal is why a role's members are not handed out, to anyone who asks; nil: they are. A list must not be short, or
// empty, by mistake.
func (r *Role) Refusal() *api.Refusal {
	switch {
	case r.Unknown():
		return &api.Refusal{Code: api.RefusedUnknown, Why: fmt.Sprintf(
			"no node has role %s and no configuration names it", r.Name)}
	case !r.recovery.done:
		why := cmp.Or(r.recovery.why, "its members are not known yet")
		return &api.Refusal{Code: api.RefusedNotSynced, Why: fmt.Sprintf("role %s: %s", r.Name, why), Until: r.recovery.until}
	case r.heldWithout() != "":
		return &api.Refusal{Code: api.RefusedHeld, Why: fmt.Sprintf("role %s: the removal of members is held that cannot be "+
			"handed out: %s", r.Name, r.heldWithout())}
	case r.TooFew():
		return &api.Refusal{Code: api.RefusedTooFew, Why: fmt.Sprintf("role %s has %s, fewer than its min_members %d",
			r.Name, api.Count(len(r.current.Members), "member"), r.MinMembers)}
	}
	return nil
}

// heldWithout is a missing member that lacks a required fact, and which; empty if there is none. Its dependents keep what
// they have.
func (r *Role) heldWithout() string {
	if r.guard.hold == nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(r.guard.missing)) {
		if _, lacks := memberFacts(r.guard.missing[name].member.Facts, r.MemberFacts); lacks != "" {
			return name + " " + lacks
		}
	}
	return ""
}

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
		Nodes: slices.Sorted(maps.Keys(r.guard.missing)), Since: h.since, Why: h.why, Undo: r.undo(), Probe: h.probe,
		Shadow: shadow,
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
	had := r.Has(name)
	if has != had {
		r.names = nil
	}
	if has {
		r.nodes[name], r.known = struct{}{}, true
	} else {
		delete(r.nodes, name)
	}
	if _, known := r.departed[name]; had && !has && !known { // also if it was no member here
		r.depart(name, r.whyNot(before, after), from)
	}
	counts := has && after.Eligible()
	var facts map[string]any
	delete(r.lacks, name)
	if counts {
		var lacks string
		if facts, lacks = memberFacts(after.Facts, r.MemberFacts); lacks != "" && r.needed {
			r.lacks[name], counts = lacks, false
		}
	}
	if counts && after.Life == inventory.Suspect {
		r.suspects[name] = struct{}{}
	} else {
		delete(r.suspects, name)
	}
	was, isMember := r.members[name]
	switch {
	case counts:
		m := kick.Member{Node: name, Facts: facts}
		r.members[name] = m
		back := r.guard.back(name)
		if isMember && !back && reflect.DeepEqual(was.Facts, m.Facts) {
			return
		}
	case after != nil && after.Life == inventory.Left:
		if !isMember && !r.Missing(name) {
			return
		}
		delete(r.members, name)
		r.guard.left(name)
		r.depart(name, kick.DepartedLeft, from)
	case isMember:
		delete(r.members, name)
		why := r.whyNot(before, after)
		if r.isPublished(name) {
			r.guard.lost(name, loss{member: was, facts: before.Facts, at: from, why: why})
		}
		r.depart(name, why, from)
	default:
		return
	}
	r.touch(from)
}

// whyNot is why a node that was a member no longer is, if it did not leave.
func (r *Role) whyNot(before, after *inventory.Node) kick.Departure {
	switch {
	case after == nil:
		return kick.DepartedGone
	case before != nil && (before.Instance != after.Instance || before.Boot != after.Boot):
		return kick.DepartedReplaced
	case !r.Has(after.Name) && after.Facts != nil:
		return kick.DepartedDeselected
	case r.lacks[after.Name] != "":
		return kick.DepartedFactMissing
	}
	return kick.DepartedNotReady
}

// depart notes why a node is no longer a member.
func (r *Role) depart(name string, why kick.Departure, at time.Time) {
	if len(r.departed) >= maxDeparted && r.departed[name] == (departure{}) {
		oldest := name
		for other, d := range r.departed {
			if oldest == name || d.at.Before(r.departed[oldest].at) {
				oldest = other
			}
		}
		delete(r.departed, oldest)
	}
	r.departed[name] = departure{why, at}
}

// DepartedSince is why the nodes that departed since the membership of that hash are no longer members, as far as that
// is remembered.
func (r *Role) DepartedSince(hash string) map[string]kick.Departure {
	d, _ := r.Since(hash)
	return r.Departed(d.Removed)
}

// Departed is why nodes are no longer members, as far as that is remembered; nil if of none.
func (r *Role) Departed(nodes []string) map[string]kick.Departure {
	var why map[string]kick.Departure
	for _, node := range nodes {
		if d, known := r.departed[node]; known {
			if why == nil {
				why = map[string]kick.Departure{}
			}
			why[node] = d.why
		}
	}
	return why
}

// Incomplete is the ready nodes that have the role and are not members because of their facts, by name.
func (r *Role) Incomplete() []api.Incomplete {
	var all []api.Incomplete
	for _, node := range slices.Sorted(maps.Keys(r.lacks)) {
		all = append(all, api.Incomplete{Node: node, Why: r.lacks[node]})
	}
	return all
}

// isPublished reports whether a node is in the current membership.
func (r *Role) isPublished(node string) bool {
	return hasMember(r.current.Members, node)
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
	r.guard.accept(now)
	r.touch(now)
	return n
}

// present is the members of now for the guard, without those that are quarantined.
func (r *Role) present() present {
	is := func(name string) bool {
		_, member := r.members[name]
		return member && !r.quarantine.has(name)
	}
	p := present{is: is}
	if len(r.guard.missing) > 0 && r.changed && !r.guard.since.IsZero() { // at first all were there
		for name := range r.members {
			if is(name) && !r.isPublished(name) {
				p.fresh = append(p.fresh, name)
			}
		}
	}
	for name := range r.suspects {
		if is(name) {
			p.suspects++
		}
	}
	p.sound = len(r.members) - p.suspects
	for name := range r.quarantine.out {
		if _, member := r.members[name]; member {
			p.sound--
		}
	}
	return p
}

// purposely reports whether a node departed on purpose, or for no fault of its own.
func (r *Role) purposely(name string) bool {
	why := r.departed[name].why
	return why == kick.DepartedLeft || why == kick.DepartedQuarantined
}

// undo is the remedy if a reload deselected all missing members; empty if it did not.
func (r *Role) undo() string {
	if r.reselected.at.IsZero() || len(r.guard.missing) == 0 {
		return ""
	}
	why, undo := kick.DepartedDeselected, "undo the change of the selector, which is now "+r.reselected.selector
	if r.reselected.selector == "" {
		why, undo = kick.DepartedFactMissing, "undo the change of member_facts, or give the members these facts"
	}
	for _, l := range r.guard.missing {
		if l.why != why {
			return ""
		}
	}
	return undo
}

// lossWords is why members are missing, for people. all is what to say if they are all gone or suspect.
func (r *Role) lossWords(all string) string {
	count := map[kick.Departure]int{}
	for _, l := range r.guard.missing {
		count[l.why]++
	}
	n := len(r.guard.missing)
	switch undo := r.undo(); {
	case undo == "":
	case r.reselected.selector == "":
		return fmt.Sprintf("%d alive members lack a fact since the reload at %s, after which members need %s",
			n, r.reselected.at.Format("15:04:05 MST"), strings.Join(r.reselected.facts, ", "))
	default:
		return fmt.Sprintf("%d alive members are no longer selected since the reload at %s, which changed the selector to %s",
			n, r.reselected.at.Format("15:04:05 MST"), r.reselected.selector)
	}
	if count[kick.DepartedGone] == n {
		return all
	}
	var words []string
	for _, why := range kick.Departures {
		if count[why] > 0 {
			words = append(words, fmt.Sprintf("%d %s", count[why], why))
		}
	}
	return strings.Replace(all, "are gone or suspect", "are lost", 1) + " (" + strings.Join(words, ", ") + ")"
}

// memberFacts is the facts of a node that a role's dependents get, by their paths and in canonical form. paths that
// end in ? are optional. lacks is why the node cannot be a member: a fact is missing or invalid. Empty: it can.
func memberFacts(facts inventory.Facts, paths []string) (picked map[string]any, lacks string) {
	picked = make(map[string]any, len(paths))
	for _, entry := range paths {
		path, optional := strings.CutSuffix(entry, "?")
		value, _ := query.Lookup(facts, path)
		if value == nil {
			if !optional && lacks == "" {
				lacks = "has no fact " + path
			}
			continue
		}
		canonical, err := inventory.MemberFact(path, value)
		if err != nil {
			if lacks == "" {
				lacks = err.Error()
			}
			continue
		}
		picked[path] = canonical
	}
	return picked, lacks
}
