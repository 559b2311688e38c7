package membership

import (
	"slices"

	"kicker/kick"
)

// AllowFew lets the dependents of the role be kicked although it has fewer members than its min_members. That ends when
// it has as many again.
func (r *Role) AllowFew() { r.few = r.few || r.tooFew() }

// Learn remembers the members that an action of the role's dependents has applied, sorted by name.
func (r *Role) Learn(hash string, members []kick.Member) {
	if hash != "" && kick.Hash(members) == hash {
		r.remember(hash, members)
	}
}

// Applied reports whether a node is in the membership of that hash, and whether that is known.
func (r *Role) Applied(hash, node string) (has, known bool) {
	members, known := r.past[hash]
	if !known && hash != "" && hash == r.current.Revision.Hash {
		members, known = r.current.Members, true
	}
	return hasMember(members, node), known
}

// Related reports whether a node has or had the role, as far as that is remembered, or is a member of any membership of
// it that is remembered. A former controller may have handed it out.
func (r *Role) Related(node string) bool {
	if _, had := r.departed[node]; had {
		return true
	}
	if r.Has(node) || r.Missing(node) || r.isPublished(node) || hasMember(r.recovery.known, node) {
		return true
	}
	for _, members := range r.past {
		if hasMember(members, node) {
			return true
		}
	}
	return false
}

// hasMember reports whether a node is in a list of members that is sorted by name.
func hasMember(members []kick.Member, node string) bool {
	_, found := slices.BinarySearchFunc(members, node, nodeIs)
	return found
}
