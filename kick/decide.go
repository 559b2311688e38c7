package kick

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// state is what a Runner remembers across its restarts. It is a value: what changes it returns the next one and leaves the one
// before as it was, so that a state that can't be written was never taken.
type state struct {
	V          int                    `json:"v"`
	Instance   string                 `json:"instance"` // whose state it is
	Epoch      int64                  `json:"epoch"`    // the highest seen
	Controller string                 `json:"controller"`
	Actions    map[string]actionState `json:"actions"`
	Run        *run                   `json:"run,omitempty"` // in progress
}

// actionState is what is remembered of one action.
type actionState struct {
	Applied map[string]Revision `json:"applied,omitempty"`
	Dirty   bool                `json:"dirty,omitempty"`
	Handed  map[string]Revision `json:"handed,omitempty"` // to the last run, whatever became of it
	Last    *LastRun            `json:"last,omitempty"`
	Runs    []string            `json:"runs,omitempty"` // whose directories are kept, oldest first
}

// run is the one in progress. It is judged by the configuration that it was started with.
type run struct {
	ID       string `json:"id"`
	Action   string `json:"action"`
	Success  []int  `json:"success"`
	Deadline int64  `json:"deadline_ms"` // how long it may take

	over time.Time // at the latest, on this process's monotonic clock
}

// keptRuns is how many runs' directories an action keeps.
const keptRuns = 5

// decide says what the node makes of a kick, and the state that follows. If that has a run where s had none, it is to be started.
// disabled is why nothing may run here, or empty.
func (s state) decide(now time.Time, actions []Action, disabled string, k Kick) (state, Reply) {
	answer := func(a Answer, detail string) Reply { return Reply{V: Version, Answer: a, Detail: detail} }

	if k.Epoch <= 0 || k.Epoch > MaxEpoch {
		return s, answer(Invalid, fmt.Sprintf("epoch %d: out of range", k.Epoch))
	}
	if !s.obeys(k.Epoch, k.Controller) {
		return s, answer(Stale, fmt.Sprintf("epoch %d of %s has been seen", s.Epoch, s.Controller))
	}
	s = s.saw(k.Epoch, k.Controller)

	i := slices.IndexFunc(actions, func(a Action) bool { return a.Name == k.Action })
	if i < 0 {
		return s, answer(NoSuchAction, "")
	}
	action, known := actions[i], s.Actions[k.Action]

	if s.Run != nil && s.Run.ID == k.ID && s.Run.Action == k.Action {
		return s, s.Run.reply(Accepted, now)
	}
	if known.Last != nil && known.Last.Run == k.ID {
		reply := answer(Accepted, "it has ended: "+string(known.Last.Outcome))
		reply.Run = k.ID
		return s, reply
	}
	if role, newer := known.newerThan(k.Needs); role != "" {
		return s, answer(Older, fmt.Sprintf("role %s: revision %d, %d is known", role, newer.Epoch, newer.N))
	}
	if !k.Force && known.has(k.Needs) {
		return s.with(k.Action, known.reaffirmed(k.Needs)), answer(AlreadyApplied, "")
	}
	if s.Run != nil {
		return s, s.Run.reply(Busy, now)
	}
	if disabled != "" {
		return s, answer(Disabled, disabled)
	}
	for _, need := range k.Needs {
		if Hash(need.Members) != need.Revision.Hash {
			return s, answer(Incomplete, fmt.Sprintf("role %s: %d members arrived, and they are not those of %s", need.Role, len(need.Members), need.Revision.Hash))
		}
	}

	known.Dirty = true
	known.Handed = handed(k.Needs)
	known.Runs = append(slices.Clone(known.Runs), k.ID)
	if len(known.Runs) > keptRuns {
		known.Runs = known.Runs[len(known.Runs)-keptRuns:]
	}
	s = s.with(k.Action, known)
	s.Run = &run{
		ID: k.ID, Action: k.Action, Success: action.Success,
		Deadline: action.deadline().Milliseconds(), over: now.Add(action.deadline()),
	}
	return s, s.Run.reply(Accepted, now)
}

// ended is the state after the run in progress ended, and what there is to say of it.
func (s state) ended(e Ending) (state, Result) {
	a := s.Actions[s.Run.Action]
	outcome := e.outcome(s.Run.Success)
	last := &LastRun{Run: s.Run.ID, Outcome: outcome, Exit: e.Exit, Duration: e.Duration}
	if outcome == Succeeded {
		a.Applied, a.Dirty = a.Handed, false
	} else {
		last.Failures = 1
		if a.Last != nil {
			last.Failures += a.Last.Failures
		}
	}
	a.Last = last
	result := Result{
		V: Version, Action: s.Run.Action, Run: s.Run.ID, Outcome: outcome, Exit: e.Exit, Duration: e.Duration,
		Error: e.Error, Output: e.Output, Applied: a.Applied, Dirty: a.Dirty,
	}
	s = s.with(s.Run.Action, a)
	s.Run = nil
	return s, result
}

// obeys reports whether a controller may give orders. Controllers are ordered by epoch and id, so that of two that chose the
// same epoch every node obeys the same one.
func (s state) obeys(epoch int64, controller string) bool {
	return epoch > s.Epoch || epoch == s.Epoch && controller >= s.Controller
}

func (s state) saw(epoch int64, controller string) state {
	if epoch <= MaxEpoch && s.obeys(epoch, controller) {
		s.Epoch, s.Controller = epoch, controller
	}
	return s
}

func (s state) with(action string, a actionState) state {
	actions := maps.Clone(s.Actions)
	if actions == nil {
		actions = map[string]actionState{}
	}
	actions[action] = a
	s.Actions = actions
	return s
}

// status is what the heartbeat says.
func (s state) status(actions []Action) Status {
	st := Status{Epoch: s.Epoch, Controller: s.Controller}
	for _, a := range actions {
		known := s.Actions[a.Name]
		st.Actions = append(st.Actions, ActionStatus{
			Name: a.Name, DependsOn: a.DependsOn, Applied: known.Applied, Dirty: known.Dirty, Last: known.Last,
		})
	}
	if s.Run != nil {
		st.Running = &Running{Run: s.Run.ID, Action: s.Run.Action}
	}
	return st
}

// newerThan returns a role of which a newer membership, and another one, has been handed over already.
func (a actionState) newerThan(needs []Membership) (string, Revision) {
	for _, need := range needs {
		for _, known := range []map[string]Revision{a.Applied, a.Handed} {
			if rev, ok := known[need.Role]; ok && need.Revision.Before(rev) && need.Revision.Hash != rev.Hash {
				return need.Role, rev
			}
		}
	}
	return "", Revision{}
}

// has reports whether exactly these memberships are applied.
func (a actionState) has(needs []Membership) bool {
	return !a.Dirty && !slices.ContainsFunc(needs, func(m Membership) bool {
		rev, ok := a.Applied[m.Role]
		return !ok || rev.Hash != m.Revision.Hash
	})
}

// reaffirmed remembers the later of equal revisions.
func (a actionState) reaffirmed(needs []Membership) actionState {
	a.Applied = maps.Clone(a.Applied)
	for _, need := range needs {
		if a.Applied[need.Role].Before(need.Revision) {
			a.Applied[need.Role] = need.Revision
		}
	}
	return a
}

func handed(needs []Membership) map[string]Revision {
	h := map[string]Revision{}
	for _, need := range needs {
		h[need.Role] = need.Revision
	}
	return h
}

func (r *run) reply(a Answer, now time.Time) Reply {
	left := max(0, r.over.Sub(now).Milliseconds())
	return Reply{V: Version, Answer: a, Run: r.ID, Deadline: left}
}
