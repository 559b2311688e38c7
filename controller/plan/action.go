package plan

import (
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

// Key names an action of a node.
type Key struct{ Node, Action string }

func (k Key) String() string { return k.Node + "/" + k.Action }

// Action is one action of a node: what the node reports of it, and what the controller remembers. It has one owner.
type Action struct {
	Key
	// Needs is what the action depends on. Unresolved is why something that it depends on is missing from Needs.
	Needs      []membership.Need
	Unresolved string
	// Status is what the node reported last, or what follows from a result since.
	Status kick.ActionStatus
	// Running and Flight are the run in progress on the node, of this action or another. A node has one at most.
	Running *kick.Running
	Flight  *Flight
	// Order is an operator's order that the node has not accepted yet.
	Order *Order

	// Since is when the action became stale; zero while it is not.
	Since time.Time
	// from is when the first change began that made it stale. The settle time counts from here.
	from time.Time
	// lacking is true while it is stale and has nothing to be configured from, see lacks.
	lacking bool
	// cause and fact say why it is stale: fact is the member fact that runs of its own cycle changed.
	cause Cause
	fact  string

	// Retry is never nil.
	Retry *Retry
}

// Order is an operator's order to run an action now.
type Order struct{ api.KickOrder }

func (o *Order) reason() string {
	if o.By == "" {
		return "ordered by an operator"
	}
	return "ordered by " + o.By
}

// Flight is a kick that was sent, until its run is known to be over. A node has one at most. It outlives the node's presence: a node
// that is gone may go on running.
type Flight struct {
	ID string
	Key
	Reason string
	Cause  Cause
	// Tried identifies the memberships that it handed over, see Action.Fingerprint; Handed is their hashes by role.
	Tried  string
	Handed map[string]string
	// Roles is the names of the roles that the node had.
	Roles    []string
	Sent     time.Time
	Accepted bool
	// Deadline is when it is over at the latest.
	Deadline time.Time
}

// lacks reports whether something that the action depends on cannot be configured from yet.
func (a *Action) lacks() bool {
	return a.Unresolved != "" || slices.ContainsFunc(a.Needs, func(n membership.Need) bool {
		return !n.Role.Open() || n.Role.Unknown() || n.Role.TooFew()
	})
}

// Fingerprint identifies the memberships that the action would be configured from now.
func (a *Action) Fingerprint() string {
	hashes := make([]string, 0, len(a.Needs))
	for _, need := range a.Needs {
		hashes = append(hashes, need.Role.Current().Revision.Hash)
	}
	return strings.Join(hashes, " ")
}

// stale reports whether what the action has applied is not current, and when the first change began that it lacks.
func (a *Action) stale(now time.Time) (from time.Time, stale bool) {
	from = now
	for _, need := range a.Needs {
		r := need.Role
		switch {
		case !r.Open():
			stale = true // as far as is known
		case a.Status.Applied[need.As].Hash != r.Current().Revision.Hash:
			stale = true
			if r.Published().Before(from) {
				from = r.Published()
			}
		}
	}
	return from, stale || a.Unresolved != "" || a.Status.Dirty && len(a.Needs) > 0
}

// Track notes since when the action is stale, and why. synced says that the inventory is complete.
func (a *Action) Track(synced bool, origins Origins, cycles Cycles, table *membership.Table, now time.Time) {
	from, stale := a.stale(now)
	switch {
	case !stale && a.Order == nil:
		a.Since, a.from = time.Time{}, time.Time{}
	case a.Since.IsZero():
		a.Since, a.from = now, from
	}
	was := a.lacking
	a.lacking = stale && synced && a.lacks()
	if was && stale && !a.lacking {
		a.from = now // what it waited for may be the first change of a burst
	}
	a.cause, a.fact = CauseNone, ""
	switch {
	case a.Order != nil:
		a.cause = CauseOutside
	case stale:
		a.cause, a.fact = cycles.causeOf(a, origins, table)
	}
	a.Retry.Used = now
}

// MayUse reports whether the action may still be configured with a node that is no longer a member.
func (a *Action) MayUse(node string) bool {
	for _, need := range a.Needs {
		r := need.Role
		if !r.Has(node) {
			continue
		}
		if a.Status.Dirty || a.Flight != nil {
			return true
		}
		hash := a.Status.Applied[need.As].Hash
		if hash == r.Current().Revision.Hash {
			continue
		}
		members, known := r.Past(hash)
		if !known || slices.ContainsFunc(members, func(m kick.Member) bool { return m.Node == node }) {
			return true
		}
	}
	return false
}

// NewFlight is the kick that carries out a verdict on an action.
func (a *Action) NewFlight(id, reason string, roles []*membership.Role, now, deadline time.Time) *Flight {
	f := &Flight{
		ID: id, Key: a.Key, Reason: reason, Cause: a.cause, Tried: a.Fingerprint(), Handed: map[string]string{},
		Roles: RoleNames(roles), Sent: now, Deadline: deadline,
	}
	for _, need := range a.Needs {
		f.Handed[need.Role.Name] = need.Role.Current().Revision.Hash
	}
	return f
}

// RoleNames is the names of roles, in their order.
func RoleNames(roles []*membership.Role) []string {
	var names []string
	for _, r := range roles {
		names = append(names, r.Name)
	}
	return names
}

// Kick is the message that carries out a verdict on the action.
func (a *Action) Kick(id, reason string, by api.Identity) kick.Kick {
	k := kick.Kick{
		V: kick.Version, ID: id, Controller: by.ID, Epoch: by.Epoch, Node: a.Node, Action: a.Action, Reason: reason,
		Force: a.Order != nil, Needs: make([]kick.Membership, 0, len(a.Needs)),
	}
	for _, need := range a.Needs {
		m := need.Role.Current()
		m.Role = need.As
		k.Needs = append(k.Needs, m)
	}
	return k
}

// waits is since when an action waits for its place. A try that failed, or got no answer, puts it behind those that were not tried since.
func (a *Action) waits() time.Time {
	if a.Retry.Sent.After(a.Since) {
		return a.Retry.Sent
	}
	return a.Since
}
