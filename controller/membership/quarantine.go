package membership

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

const (
	suspectFrom = 3                // failed runs, and none that succeeded, make new members suspected
	retryFirst  = time.Minute      // after which a quarantined member is tried again; doubled with each failure
	retryMost   = 10 * time.Minute // between two tries
	trialTime   = time.Hour        // after which a trial that brought no result is given up

	// clearAgain is how long other facts do not clear a member again, and how long a member that is gone is remembered.
	// A fact that changes all the time would otherwise clear it before it is suspected, or quarantined for long enough,
	// and no removal would reach the dependents.
	clearAgain = retryMost
)

// quarantine keeps members out of a role with which every run fails. A member is accused if it is new, or has new facts,
// since the last membership with which a run succeeded, and a run with it failed. It is suspected after suspectFrom such
// runs. Then one dependent is handed the members without all accused ones: two may be bad, and without one of them
// runs would still fail. If that run succeeds, they are quarantined. If it fails, they are not the cause. A removal is
// never suspected.
//
// Quarantined members are tried again on one dependent. Several are tried together: as many as succeeded last time,
// twice; after a failure half as many. So one bad member among many is found in a few tries.
type quarantine struct {
	// good is the last membership with which a run succeeded; nil: none is known.
	good []kick.Member
	// failed is the members that are not in good and were part of failed runs, by node.
	failed map[string]failure
	// out is the quarantined members, by node.
	out map[string]quarantined
	// trial is the membership that a dependent is handed in place of the current one; nil: there is none. former is
	// those before it whose runs may still end, newest last, at most maxFormer.
	trial  *Trial
	former []Trial
	// most is how many quarantined members are tried again together.
	most int
	// shown is the names of out that Publish reported.
	shown map[string]struct{}
	// looked is when try looked last for what is due. What was due then and did not begin waits for a change.
	looked time.Time
	// asked is when an action was asked last for the members that it applied, because good is not known.
	asked time.Time
}

// maxFormer is how many former trials are remembered.
const maxFormer = 8

// failure is the failed runs that a member was part of, since other facts cleared it.
type failure struct {
	facts   string // a digest
	runs    int
	by      []string  // the actions, at most maxBy
	trials  int       // runs without it that failed too
	cleared time.Time // when other facts cleared it
	last    time.Time // when a run failed last, or other facts cleared it
}

// changed is the failure of the member with other facts. They clear it, unless they did so within clearAgain.
//
// Example: web6 makes runs fail at 12:00, and its weight changes every 2 s. The change at 12:00:02 clears it, the next
// ones do not. It is suspected at 12:00:04, when three runs have failed since, whatever its weight was in each.
func (f failure) changed(facts string, now time.Time) failure {
	if !clears(f.cleared, now) {
		f.facts = facts
		return f
	}
	return failure{facts: facts, cleared: now, last: now}
}

// clears reports whether other facts clear a member that they cleared at that time; zero: never.
func clears(cleared, now time.Time) bool { return cleared.IsZero() || now.Sub(cleared) >= clearAgain }

// suspected reports whether there were enough failed runs. After each trial that failed it takes twice as many.
func (f failure) suspected() bool { return f.runs >= suspectFrom<<min(f.trials, 6) }

// maxBy is how many actions of failed runs are remembered by name.
const maxBy = 5

// quarantined is a member that is kept out while it has these facts, or other ones that do not clear it.
type quarantined struct {
	facts   string    // a digest
	cleared time.Time // when other facts cleared it
	since   time.Time
	failed  []string      // actions that failed with it
	without string        // the action that succeeded without it
	due     time.Time     // when it is tried again
	wait    time.Duration // before that
}

// Trial is a membership that one dependent at a time is handed in place of the current one, to find out which members
// make runs fail.
type Trial struct {
	// Of is the members that it is about: left out because they are suspected, or added although they are quarantined.
	Of    []string
	Again bool // they are quarantined, and are tried again
	// By is the actions that are handed the trial, as NODE/ACTION: those whose runs failed, for a success of another one
	// would prove nothing. Quarantined members are tried again by one.
	By         []string
	Membership kick.Membership

	began time.Time
}

func (q *quarantine) has(node string) bool { _, has := q.out[node]; return has }

// clone is a quarantine that shares nothing with this one that changes.
func (q *quarantine) clone() quarantine {
	c := *q
	c.failed, c.out, c.shown = maps.Clone(q.failed), maps.Clone(q.out), maps.Clone(q.shown)
	c.former = slices.Clone(q.former)
	if q.trial != nil {
		trial := *q.trial
		c.trial = &trial
	}
	return c
}

// digest identifies the facts of a member.
func digest(m kick.Member) string {
	data, _ := json.Marshal(m.Facts) // they came as JSON; map keys are sorted
	return string(data)
}

// unquarantined is the members that are not kept out. A member that other facts clear is not kept out.
func (r *Role) unquarantined(now time.Time) []kick.Member {
	q := &r.quarantine
	for name, was := range q.out {
		m, member := r.members[name]
		switch {
		case !member && now.Sub(was.due) > retryMost:
			delete(q.out, name)
		case !member || digest(m) == was.facts:
		case clears(was.cleared, now):
			delete(q.out, name)
			if q.failed == nil {
				q.failed = map[string]failure{}
			}
			q.failed[name] = failure{}.changed(digest(m), now)
		default:
			was.facts = digest(m)
			q.out[name] = was
		}
	}
	members := make([]kick.Member, 0, len(r.members)+len(r.guard.missing))
	for name, m := range r.members {
		if !q.has(name) {
			members = append(members, m)
		}
	}
	return members
}

// ended notes how a run of an action ended that was handed a membership of the role, by its hash. A run that was lost
// says nothing.
func (r *Role) ended(hash, by string, succeeded bool, now time.Time) {
	q := &r.quarantine
	members, known := r.past[hash]
	if !known {
		return
	}
	trial := q.trialOf(hash, by)
	if succeeded {
		q.good = members
		for _, m := range members {
			if q.failed[m.Node].facts == digest(m) {
				delete(q.failed, m.Node)
			}
		}
	}
	switch {
	case trial == nil && !succeeded:
		r.suspect(members, by, now)
	case trial == nil:
	case succeeded:
		r.trialSucceeded(*trial, by, now)
	default:
		r.trialFailed(*trial, now)
	}
}

// Unproven reports whether a failing action is to be asked for the members that it applied, of that hash: no membership
// is known with which a run succeeded, because no holder was there when the role was recovered.
func (r *Role) Unproven(hash string, now time.Time) bool {
	q := &r.quarantine
	if q.good != nil || hash == "" || !r.recovery.done {
		return false
	}
	if members, known := r.past[hash]; known {
		q.good = members
		return false
	}
	if now.Sub(q.asked) < askAgain {
		return false
	}
	q.asked = now
	return true
}

// trialOf is the trial that an action was handed with a membership, also if another one has followed; nil: none.
func (q *quarantine) trialOf(hash, by string) *Trial {
	is := func(t Trial) bool { return t.Membership.Revision.Hash == hash && slices.Contains(t.By, by) }
	if q.trial != nil && is(*q.trial) {
		return q.trial
	}
	for _, t := range slices.Backward(q.former) {
		if is(t) {
			return &t
		}
	}
	return nil
}

// end ends the trial that is handed out. Its run may still be in progress.
func (q *quarantine) end() {
	if q.trial == nil {
		return
	}
	q.former = append(q.former, *q.trial)
	q.former = slices.Clone(q.former[max(0, len(q.former)-maxFormer):])
	q.trial = nil
}

// suspect counts a failed run for the members that are new, or have new facts, since the last success.
func (r *Role) suspect(members []kick.Member, by string, now time.Time) {
	q := &r.quarantine
	if q.good == nil {
		return
	}
	d := Between(q.good, members)
	isNew := map[string]bool{}
	for _, name := range slices.Concat(d.Added, d.Changed) {
		isNew[name] = true
	}
	if len(isNew) > 0 && q.failed == nil {
		q.failed = map[string]failure{}
	}
	for _, m := range members {
		if !isNew[m.Node] {
			continue
		}
		f, facts := q.failed[m.Node], digest(m)
		switch is, member := r.members[m.Node]; {
		case f.facts == "":
			f.facts = facts
		case f.facts == facts:
		case member && digest(is) == facts:
			f = f.changed(facts, now)
		case f.runs == 0:
			continue // it was handed the facts before those that cleared the member
		}
		f.runs, f.last = f.runs+1, now
		if !slices.Contains(f.by, by) && len(f.by) < maxBy {
			f.by = append(slices.Clone(f.by), by)
		}
		q.failed[m.Node] = f
	}
}

// accused is the current members that are accused, if one of them is suspected. If the role could not do without all of
// them, it is as many of those that are suspected as it could do without. by is the actions whose runs with them failed,
// as far as they exist.
func (r *Role) accused(exists func(action string) bool, now time.Time) (names, by []string) {
	q := &r.quarantine
	var all, suspected []string
	for name, f := range q.failed {
		m, member := r.members[name]
		if !member { // it may come and go all the time
			if now.Sub(f.last) > clearAgain {
				delete(q.failed, name)
			}
			continue
		}
		if facts := digest(m); facts != f.facts {
			f = f.changed(facts, now)
		}
		f.by = slices.DeleteFunc(slices.Clone(f.by), func(action string) bool { return !exists(action) })
		q.failed[name] = f
		if !r.isPublished(name) || f.runs+f.trials == 0 {
			continue
		}
		if all = append(all, name); f.suspected() {
			suspected = append(suspected, name)
		}
	}
	if len(suspected) == 0 || !r.enoughWithout(all) {
		all = suspected
	}
	slices.SortFunc(all, func(a, b string) int { // those that were left out least often first
		return cmp.Or(cmp.Compare(q.failed[a].trials, q.failed[b].trials), strings.Compare(a, b))
	})
	for len(all) > 1 && !r.enoughWithout(all) {
		all = all[:len(all)-1]
	}
	for _, name := range all {
		by = append(by, q.failed[name].by...)
	}
	slices.Sort(all)
	slices.Sort(by)
	return all, slices.Compact(by)
}

// try begins the trial that is due, or gives up the one that has become pointless, see Table.Try.
func (r *Role) try(again func() string, exists func(action string) bool, now time.Time) {
	q := &r.quarantine
	if !r.recovery.done || len(q.failed)+len(q.out) == 0 && q.trial == nil {
		return
	}
	q.looked = now
	accused, by := r.accused(exists, now)
	if t := q.trial; t != nil {
		old := now.Sub(t.began) > trialTime
		if t.Again {
			old = old || len(accused) > 0 || !exists(t.By[0])
		} else {
			old = old || !slices.Equal(t.Of, accused) || !slices.Equal(t.By, by)
		}
		if !old && slices.EqualFunc(t.Membership.Members, r.trialMembers(t.Of, t.Again), sameMember) {
			return
		}
		q.end()
	}
	if len(accused) > 0 && len(by) > 0 && r.enoughWithout(accused) {
		r.begin(Trial{Of: accused, By: by, began: now})
		return
	}
	names := r.dueAgain(now)
	if len(names) == 0 {
		return
	}
	if by := again(); by != "" {
		r.begin(Trial{Of: names, Again: true, By: []string{by}, began: now})
	}
}

func sameMember(a, b kick.Member) bool { return a.Node == b.Node && digest(a) == digest(b) }

// begin hands out a trial from now on. Its revision is as new as the current one, so nodes take the one after the
// other.
func (r *Role) begin(t Trial) {
	members := r.trialMembers(t.Of, t.Again)
	revision := r.current.Revision
	revision.Hash = kick.Hash(members)
	t.Membership = kick.Membership{Role: r.Name, Revision: revision, Members: members}
	r.remember(revision.Hash, members)
	r.quarantine.trial = &t
}

// trialMembers is the current members without, or with, those that a trial is about.
func (r *Role) trialMembers(of []string, with bool) []kick.Member {
	members := make([]kick.Member, 0, len(r.current.Members)+len(of))
	for _, m := range r.current.Members {
		if with || !slices.Contains(of, m.Node) {
			members = append(members, m)
		}
	}
	if with {
		for _, name := range of {
			if m, member := r.members[name]; member && !r.isPublished(name) {
				members = append(members, m)
			}
		}
		slices.SortFunc(members, byNode)
	}
	return members
}

// enoughWithout reports whether the role could do without these members: a trial must not hand out a list that is too
// short, or from which the guard would hold removals.
func (r *Role) enoughWithout(names []string) bool {
	left := len(r.current.Members) - len(names)
	old := 0 // of the names: members of the last good list, with other facts
	for _, name := range names {
		if hasMember(r.quarantine.good, name) {
			old++
		}
	}
	mass := old >= holdFrom && left*100 <= len(r.quarantine.good)*holdShare
	return left >= max(1, r.MinMembers) && !mass
}

// dueAgain is the quarantined members that are to be tried again together now.
func (r *Role) dueAgain(now time.Time) []string {
	q := &r.quarantine
	var names []string
	for name, m := range q.out {
		if _, member := r.members[name]; member && !now.Before(m.due) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(q.out[a].due.Compare(q.out[b].due), strings.Compare(a, b))
	})
	return names[:min(len(names), max(1, q.most))]
}

// trialSucceeded quarantines the members without which a run succeeded, or releases those with which it did.
func (r *Role) trialSucceeded(t Trial, by string, now time.Time) {
	q := &r.quarantine
	q.end()
	hash := t.Membership.Revision.Hash
	q.former = slices.DeleteFunc(q.former, func(o Trial) bool { return o.Membership.Revision.Hash == hash })
	if t.Again {
		for _, name := range t.Of {
			delete(q.out, name)
		}
		q.most *= 2
		r.touch(now)
		return
	}
	if q.out == nil {
		q.out = map[string]quarantined{}
	}
	for _, name := range t.Of {
		m, member := r.members[name]
		f, failed := q.failed[name]
		if !member || !failed || digest(m) != f.facts {
			continue // it is gone, or has other facts by now
		}
		delete(q.failed, name)
		first := quarantined{
			facts: f.facts, cleared: f.cleared, since: now, failed: f.by, without: by, due: now.Add(retryFirst), wait: retryFirst,
		}
		if !f.suspected() { // it joined between the failures of others: most likely it is innocent
			first.due = now
		}
		q.out[name] = first
		r.depart(name, kick.DepartedQuarantined, now)
	}
	q.most = max(1, (len(q.out)+1)/2)
	r.touch(now)
}

// trialFailed clears the suspected members: they are not the cause. If they were quarantined, they stay so.
func (r *Role) trialFailed(t Trial, now time.Time) {
	q := &r.quarantine
	q.end()
	if !t.Again {
		for _, name := range t.Of {
			if f, ok := q.failed[name]; ok {
				f.runs, f.trials = 0, f.trials+1
				q.failed[name] = f
			}
		}
		return
	}
	for _, name := range t.Of {
		m, ok := q.out[name]
		if !ok {
			continue
		}
		if len(t.Of) == 1 {
			m.wait = min(2*m.wait, retryMost)
			m.due = now.Add(m.wait)
		}
		q.out[name] = m
	}
	q.most = max(1, len(t.Of)/2)
}

// nextTry is when try has something to do though nothing changes; zero: never. A quarantined member that is due and has
// no action that could try it is not it: an action that becomes able to is a change.
func (q *quarantine) nextTry() time.Time {
	var next time.Time
	soonest := func(t time.Time) {
		if t.After(q.looked) {
			next = api.Soonest(next, t)
		}
	}
	if q.trial != nil {
		soonest(q.trial.began.Add(trialTime + 1))
		return next
	}
	for _, m := range q.out {
		soonest(m.due)
	}
	return next
}

// Trial is the trial that is handed out in place of the current membership; nil: there is none.
func (r *Role) Trial() *Trial { return r.quarantine.trial }

// Handed is the membership that an action is handed now: of a trial, or the current one.
func (r *Role) Handed(action string) kick.Membership {
	if t := r.quarantine.trial; t != nil && slices.Contains(t.By, action) {
		return t.Membership
	}
	return r.current
}

// Tries reports whether an action has to run because it tries quarantined members again.
func (r *Role) Tries(action string) bool {
	t := r.quarantine.trial
	return t != nil && t.Again && slices.Contains(t.By, action)
}

// Quarantined is the members that are kept out, by name, with the reason for people.
func (r *Role) Quarantined() []api.Quarantined {
	var all []api.Quarantined
	for _, name := range slices.Sorted(maps.Keys(r.quarantine.out)) {
		q := r.quarantine.out[name]
		if _, member := r.members[name]; !member {
			continue
		}
		why := fmt.Sprintf("with %s runs failed on %s; without it one succeeded on %s",
			name, strings.Join(q.failed, ", "), q.without)
		all = append(all, api.Quarantined{Node: name, Since: q.since, Why: why, Retry: q.due})
	}
	return all
}

// news is the members that were quarantined, and released, since the last call.
func (r *Role) news() (began []api.Quarantined, ended []string) {
	q := &r.quarantine
	if len(q.out)+len(q.shown) == 0 {
		return nil, nil
	}
	shown := map[string]struct{}{}
	for _, m := range r.Quarantined() {
		if _, known := q.shown[m.Node]; !known {
			began = append(began, m)
		}
		shown[m.Node] = struct{}{}
	}
	for name := range q.shown {
		if _, still := shown[name]; !still {
			ended = append(ended, name)
		}
	}
	slices.Sort(ended)
	q.shown = shown
	return began, ended
}

func byNode(a, b kick.Member) int { return strings.Compare(a.Node, b.Node) }

func nodeIs(m kick.Member, node string) int { return strings.Compare(m.Node, node) }
