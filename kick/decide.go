package kick

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// decide returns how the node answers a kick, and the state after it. If that state has a run and s has none, the run
// is to be started. disabled is why no run may start, or empty.
func (s state) decide(now time.Time, actions []Action, disabled string, k Kick) (state, Reply) {
	answer := func(a Answer, detail string, args ...any) Reply {
		return Reply{V: Version, Answer: a, Detail: bounded(printable(fmt.Sprintf(detail, args...)), maxText)}
	}

	if k.Epoch <= 0 || k.Epoch > MaxEpoch {
		return s, answer(Invalid, "epoch %d: out of range", k.Epoch)
	}
	if !s.obeys(k.Epoch, k.Controller) {
		return s, answer(Stale, "the node obeys controller %s with epoch %d", s.Controller, s.Epoch)
	}
	s = s.withController(k.Epoch, k.Controller)

	i := actionIndex(actions, k.Action)
	if i < 0 {
		return s, answer(NoSuchAction, "")
	}
	action, known := actions[i], s.Actions[k.Action]

	if s.Run != nil && s.Run.ID == k.ID && s.Run.Action == k.Action {
		return s, s.Run.reply(Accepted, now)
	}
	if known.Last != nil && known.Last.Run == k.ID {
		detail := "the run has already ended: " + string(known.Last.Outcome)
		return s, Reply{V: Version, Answer: Accepted, Run: k.ID, Detail: detail}
	}
	if newer := known.newer(k.Needs); newer != "" {
		return s, answer(Older, "%s", newer)
	}
	if !k.Ordered && known.upToDate(k.Needs) {
		return s.withAction(k.Action, known.withLater(k.Needs)), answer(AlreadyApplied, "")
	}
	if s.Run != nil {
		return s, s.Run.reply(Busy, now)
	}
	if disabled != "" {
		return s, answer(Disabled, "%s", disabled)
	}
	for _, need := range k.Needs {
		if Hash(need.Members) != need.Revision.Hash {
			return s, answer(Incomplete, "role %s: the %d members received do not match the revision's hash %s",
				need.Role, len(need.Members), need.Revision.Hash)
		}
	}

	known.Dirty, known.Attempted = true, map[string]Revision{}
	for _, need := range k.Needs {
		known.Attempted[need.Role] = need.Revision
	}
	known.Runs = append(slices.Clone(known.Runs), k.ID)
	known.Runs = known.Runs[max(0, len(known.Runs)-keptRuns):]
	s = s.withAction(k.Action, known)
	limit := action.Timeout + action.Grace + slack
	s.Run = &run{
		ID: k.ID, Action: k.Action, Success: action.Success, Limit: limit.Milliseconds(), deadline: now.Add(limit),
	}
	return s, s.Run.reply(Accepted, now)
}

// afterRun returns the state after the run in progress has ended, and the result to report.
func (s state) afterRun(e Ending) (state, Result) {
	a := s.Actions[s.Run.Action]
	outcome := e.outcome(s.Run.Success)
	last := &LastRun{Run: s.Run.ID, Outcome: outcome, Exit: e.Exit, Duration: e.Duration}
	if outcome == Succeeded {
		a.Applied, a.Dirty = a.Attempted, false
	} else {
		last.Failures = 1
		if a.Last != nil {
			last.Failures += a.Last.Failures
		}
	}
	a.Last = last
	result := Result{
		V: Version, Action: s.Run.Action, Run: s.Run.ID, Outcome: outcome, Exit: e.Exit, Duration: e.Duration,
		Error: bounded(printable(e.Error), maxText), Output: e.Output, Applied: a.Applied, Dirty: a.Dirty,
		LeftBehind: e.LeftBehind,
	}
	s = s.withAction(s.Run.Action, a)
	s.Run = nil
	return s, result
}

// obeys reports whether a controller may give orders: none with a higher (epoch, id) was seen. The id decides between
// two controllers that chose the same epoch, so that every node obeys the same one.
func (s state) obeys(epoch int64, controller string) bool {
	return epoch > s.Epoch || epoch == s.Epoch && controller >= s.Controller
}

// newer says which revision the action was given that is newer than what a kick needs, or nothing.
func (a actionState) newer(needs []Membership) string {
	for _, need := range needs {
		for _, rev := range []Revision{a.Applied[need.Role], a.Attempted[need.Role]} {
			if need.Revision.Before(rev) && need.Revision.Hash != rev.Hash {
				return fmt.Sprintf("role %s: the node has the newer revision %d of epoch %d", need.Role, rev.N, rev.Epoch)
			}
		}
	}
	return ""
}

// upToDate reports whether the action applied exactly these memberships.
func (a actionState) upToDate(needs []Membership) bool {
	return !a.Dirty && !slices.ContainsFunc(needs, func(m Membership) bool {
		rev, ok := a.Applied[m.Role]
		return !ok || rev.Hash != m.Revision.Hash
	})
}

// withLater replaces what is applied by later revisions of the same members.
func (a actionState) withLater(needs []Membership) actionState {
	a.Applied = maps.Clone(a.Applied)
	for _, need := range needs {
		if a.Applied[need.Role].Before(need.Revision) {
			a.Applied[need.Role] = need.Revision
		}
	}
	return a
}

func actionIndex(actions []Action, name string) int {
	return slices.IndexFunc(actions, func(a Action) bool { return a.Name == name })
}

// reply tells how much time the run has left.
func (r *run) reply(a Answer, now time.Time) Reply {
	return Reply{V: Version, Answer: a, Run: r.ID, Deadline: max(0, r.deadline.Sub(now).Milliseconds())}
}
