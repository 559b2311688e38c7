package plan

import (
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

// Key names an action of a node. The action may be unknown.
type Key struct{ Node, Action string }

func (k Key) String() string { return strings.TrimSuffix(k.Node+"/"+k.Action, "/") }

// Action is one action of a node: what the node reports of it, and what the controller remembers. It has one owner.
//
// It works like an item of a work queue. A node has at most one run in flight, of all its actions. An action that
// becomes stale while a run is in flight is kicked once more after it, however much changed in the meantime.
type Action struct {
	Key
	// Needs is what the action depends on, under different names. Unresolved is why some of it is not in Needs, empty
	// if all is.
	Needs      []membership.Need
	Unresolved string
	// NoFacts is true until the facts of the node were received. Its roles, and so its budget and mode, are unknown.
	NoFacts bool
	// Status is what the node reported last, or what follows from a result that came since.
	Status kick.ActionStatus
	// Disabled is why the node runs no action, as it reported last; empty if it does.
	Disabled string

	// Running is the run that the node reports. Flight is the run that is or may be in progress, also one of another
	// controller. Both are nil while there is none. They are the node's: its other actions have the same ones.
	Running *kick.Running
	Flight  *Flight
	// Order is an operator's order that the node has not accepted yet, or nil.
	Order *api.KickOrder
	// Retry is never nil. The next Action with this Key has the same one.
	Retry *Retry

	// Track sets the rest. since is when the action became stale, or was ordered. It is zero while the action is
	// neither.
	since time.Time
	// from is when the first change began that made the action stale. The settle time counts from here. It is before
	// since if the change was suspected first, and after since if the action was lacking. It means nothing while since
	// is zero.
	from time.Time
	// lacking is true while the action is stale and lacks a role. It is false before the inventory is complete.
	lacking bool
	// cause is why the action is stale, and causeNone if it is not. fact is the member fact that runs changed; it is
	// set exactly if cause is causeOwnCycle.
	cause cause
	fact  string
}

// DependsOn reports whether the action depends on a role.
func (a *Action) DependsOn(r *membership.Role) bool {
	return slices.ContainsFunc(a.Needs, func(n membership.Need) bool { return n.Role == r })
}

// lacks reports whether the members of a role that the action depends on are not handed out.
func (a *Action) lacks() bool {
	return a.Unresolved != "" || slices.ContainsFunc(a.Needs, func(n membership.Need) bool {
		return n.Role.Refusal() != nil
	})
}

// Fingerprint identifies the memberships that the action would be configured from now.
func (a *Action) Fingerprint() string {
	hashes := make([]string, 0, len(a.Needs))
	for _, need := range a.Needs {
		hashes = append(hashes, need.Role.Handed(a.Key.String()).Revision.Hash)
	}
	return strings.Join(hashes, " ")
}

// stale reports whether the action has to run, and when the first change began that it lacks.
func (a *Action) stale(now time.Time) (from time.Time, stale bool) {
	from = now
	for _, need := range a.Needs {
		r := need.Role
		switch {
		case !r.Open():
			stale = true // as far as is known
		case r.Tries(a.Key.String()):
			stale = true
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
		a.since, a.from = time.Time{}, time.Time{}
	case a.since.IsZero():
		a.since, a.from = now, from
	}
	lacked := a.lacking
	a.lacking = stale && synced && a.lacks()
	if lacked && stale && !a.lacking {
		a.from = now // what it lacked may be the first change of a burst
	}
	a.cause, a.fact = causeNone, ""
	switch {
	case a.Order != nil:
		a.cause = causeOutside
	case stale:
		a.cause, a.fact = cycles.causeOf(a, origins, table)
	}
	a.Retry.Used = now
}

// Use is what the reports of an action say about a node that left: whether it may still be configured with the node.
type Use struct {
	May bool
	// Why is what it waits for if no gate says so.
	Why string
	// Ask is the needs whose applied members are not known: their nodes can be asked.
	Ask []membership.Need
}

// Memory is what is remembered of memberships.
type Memory interface {
	// Has reports whether a node is in the membership of that hash, and whether that is known.
	Has(role *membership.Role, hash, node string) (has, known bool)
	// Refused reports whether an action that applied the membership of that hash did not say which members it has.
	Refused(action Key, hash string) bool
}

// MayUse says whether the action may still be configured with a node that left. Only what it reports as applied clears
// it, for every role that the node was ever a member of:
//   - A role that is not recovered clears no node.
//   - A run that was handed the node, or an unknown membership, may have used it until another run succeeds.
//   - An unknown membership may have the node. If its members cannot be had, it may if the role is related to the node.
func (a *Action) MayUse(node string, memory Memory) (use Use) {
	for _, need := range a.Needs {
		r := need.Role
		handed := func() bool {
			has, known := memory.Has(r, a.Flight.Handed[r.Name], node)
			return has || !known && r.Related(node)
		}
		applied := a.Status.Applied[need.As].Hash
		has, known := memory.Has(r, applied, node)
		switch {
		case !r.Open():
			use.May, use.Why = true, "role "+need.As+": "+r.Sync().Why
		case has, a.Status.Dirty && r.Related(node), a.Flight != nil && handed():
			use.May = true
		case applied == "":
			use.May = use.May || r.Related(node) // it has yet to apply its first members
		case !known:
			use.Ask = append(use.Ask, need)
			use.Why = "it was asked for the members of " + need.As + " that it last applied"
			use.May = use.May || !memory.Refused(a.Key, applied) || r.Related(node)
		}
	}
	return use
}

// RoleNames is the names of roles, in their order.
func RoleNames(roles []*membership.Role) []string {
	var names []string
	for _, r := range roles {
		names = append(names, r.Name)
	}
	return names
}

// Kick is the message that carries out a verdict on the action. A trial runs even if its members are applied already.
func (a *Action) Kick(id, reason string, by api.Identity) kick.Kick {
	k := kick.Kick{
		V: kick.Version, ID: id, Controller: by.ID, Epoch: by.Epoch, Node: a.Node, Action: a.Action, Reason: reason,
		Ordered: a.Order != nil, Force: a.Order != nil && a.Order.Force, Needs: make([]kick.Membership, 0, len(a.Needs)),
	}
	for _, need := range a.Needs {
		m := need.Role.Handed(a.Key.String())
		m.Role = need.As
		m.Departed = need.Role.DepartedSince(a.Status.Applied[need.As].Hash)
		trial := need.Role.Trial()
		k.Ordered = k.Ordered || trial != nil && m.Revision.Hash == trial.Membership.Revision.Hash
		k.Needs = append(k.Needs, m)
	}
	return k
}

// waits is since when the action waits for its turn. A try puts it behind those that were not tried since: one that got
// no answer when it was sent, and one whose run ended when it ended.
//
// Example: the kick of lb2 is sent at 12:00:00. lb1 waits for its place since 12:00:02. The run of lb2 times out at
// 12:05:00. Then lb1 is kicked, and lb2 after it.
func (a *Action) waits() time.Time {
	return slices.MaxFunc([]time.Time{a.since, a.Retry.Sent, a.Retry.Ended}, time.Time.Compare)
}
