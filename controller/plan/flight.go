package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

const (
	// GonePlace is how long the run of a node that is gone keeps its place.
	GonePlace = time.Minute

	overdueFactor = 5           // times the median duration, and a run is overdue
	overdueLeast  = time.Minute // no run is overdue before
)

// Flight is a run that is or may be in progress: from the moment that its kick is sent, or that its node first reports
// it, until it is known to have ended. A node has one at most. It outlives the node's presence: a node that is gone may
// go on running.
type Flight struct {
	ID string // of the run
	Key
	// Instance is the machine that was kicked.
	Instance string
	// Reason is the verdict's, for people. It is empty for a run that this controller did not kick, and so is what it
	// was handed.
	Reason string
	cause  cause // of the action when the kick was sent
	// Tried is the Fingerprint that the action had, Handed is the same by the names of the roles.
	Tried  string
	Handed map[string]string
	// Roles is the names of the roles that the node had.
	Roles []string
	// Sent is when the kick was first sent, or when a heartbeat first reported the run.
	Sent time.Time

	// Asked is true while the reply to the kick may come. Accepted is false until a reply, or a report of the run,
	// shows that the node took the kick. Reported is true if a heartbeat alone says that the run is in progress.
	Asked, Accepted, Reported bool
	// Doubt is true if a kick got no reply, and nothing else shows whether its run exists. Then the run keeps its place,
	// and the same action may be kicked again in that place.
	Doubt bool
	// Deadline is when the run has ended at the latest, as the node says and the controller believes.
	Deadline time.Time
	// Took is how long the action's last run took on this node, if it succeeded.
	Took time.Duration
	// Gone is when the node went; zero: it is there.
	Gone time.Time
	// Overdue is when the run became overdue; zero: it is not. It stays overdue until it ends.
	Overdue time.Time
}

// NewFlight is the flight of a kick that carries out a verdict on the action. roles is those of its node.
func (a *Action) NewFlight(id, reason string, roles []*membership.Role, now, deadline time.Time) *Flight {
	f := &Flight{
		ID: id, Key: a.Key, Reason: reason, cause: a.cause, Tried: a.Fingerprint(), Handed: map[string]string{},
		Roles: RoleNames(roles), Sent: now, Asked: true, Deadline: deadline,
	}
	if last := a.Status.Last; last != nil && last.Outcome == kick.Succeeded {
		f.Took = time.Duration(last.Duration) * time.Millisecond
	}
	for _, need := range a.Needs {
		f.Handed[need.Role.Name] = need.Role.Handed(a.Key.String()).Revision.Hash
	}
	return f
}

// Ends is when the run no longer keeps a place at the latest: at its deadline, or a minute after its node went.
func (f *Flight) Ends() time.Time {
	if f.Gone.IsZero() {
		return f.Deadline
	}
	return api.Soonest(f.Deadline, f.Gone.Add(GonePlace))
}

// OverdueAt is when the run becomes overdue: after five times the median duration of its action, which usual has, or of
// its node's own last run if that took longer, but not within a minute. If the median is not known, it is at the run's
// deadline.
//
// Example: the median of reload is 20 s. A reload that was kicked at 12:00:00 is overdue at 12:01:40.
func (f *Flight) OverdueAt(usual map[string]time.Duration) time.Time {
	median, known := usual[f.Action]
	if !known {
		return f.Ends()
	}
	return api.Soonest(f.Ends(), f.Sent.Add(max(overdueFactor*median, overdueFactor*f.Took, overdueLeast)))
}

// again reports whether an action may be kicked in the place of this run.
func (f *Flight) again(k Key) bool { return f.Doubt && !f.Asked && f.Key == k }

// needsPlace reports whether a kick of its action in the place of this run needs a place of its own: an overdue run has
// given its place back, and the kick is not the same one again, so another run may start.
func (f *Flight) needsPlace(a *Action) bool {
	return !f.Overdue.IsZero() && !a.Retry.Resends(a.Fingerprint())
}

// String names the run for people, with the times that others who wait for its place want to know.
func (f *Flight) String() string {
	clock := func(t time.Time) string { return t.Format("15:04:05") }
	if f.Sent.IsZero() {
		return fmt.Sprintf("%s (being kicked)", f.Key)
	}
	text := "since " + clock(f.Sent)
	if f.Doubt {
		text = "no reply since " + clock(f.Sent)
	}
	if !f.Gone.IsZero() {
		text += ", its node is gone"
	}
	if !f.Overdue.IsZero() {
		text += ", overdue since " + clock(f.Overdue)
	}
	return fmt.Sprintf("%s (%s, until %s at the latest)", f.Key, text, clock(f.Ends()))
}

// Usual is the median duration of the successful runs that nodes report, of each of these actions. An action without
// one is not in it.
func Usual(actions []*Action, names map[string]struct{}) map[string]time.Duration {
	durations := map[string][]int64{}
	for _, a := range actions {
		if last := a.Status.Last; last != nil && last.Outcome == kick.Succeeded {
			if _, asked := names[a.Action]; asked {
				durations[a.Action] = append(durations[a.Action], last.Duration)
			}
		}
	}
	usual := make(map[string]time.Duration, len(durations))
	for name, ms := range durations {
		slices.Sort(ms)
		usual[name] = time.Duration(ms[(len(ms)-1)/2]) * time.Millisecond
	}
	return usual
}

// Overdue is the runs that are overdue, by node, and what each of them keeps from starting.
func (s Situation) Overdue() []api.Overdue {
	var all []api.Overdue
	var p *places
	for _, f := range s.Runs {
		if f.Overdue.IsZero() {
			continue
		}
		if p == nil {
			p = s.inProgress()
		}
		all = append(all, api.Overdue{
			Node: f.Node, Action: f.Action, Run: f.ID, Started: f.Sent, Since: f.Overdue, Until: f.Ends(),
			Usual: s.Usual[f.Action], NoReply: f.Doubt, Blocks: p.blockedBy(f),
		})
	}
	slices.SortFunc(all, func(a, b api.Overdue) int { return cmp.Compare(a.Node, b.Node) })
	return all
}
