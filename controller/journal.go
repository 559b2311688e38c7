package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/plan"
	"kicker/kick"
)

// Bounds of what is kept.
const (
	keepEvents   = 4096
	keepRuns     = 1000
	invalidEvery = time.Second // an event at most, however many messages are invalid
	maxText      = 1 << 10     // bytes of an event's text
	maxKinds     = 32          // of answers and outcomes that are counted apart: nodes can send any
)

// journal is what happened and was decided.
type journal struct {
	seq    int64       // of the newest event
	events []api.Event // at least the last keepEvents; what was written is never changed, for views hold it
	runs   []api.Run   // at least the last keepRuns; replaced as a whole when one of them ends
	kicks  int64       // how many run ids were made
	counts api.Counts
	loaded api.Loaded // the configuration in force
	warned time.Time  // when the last event about an invalid message was made
}

func newJournal() journal {
	return journal{counts: api.Counts{
		Events: map[string]int64{}, Kicks: map[kick.Answer]int64{}, Runs: map[kick.Outcome]int64{},
	}}
}

func cloneCounts(t api.Counts) api.Counts {
	t.Events, t.Kicks, t.Runs = maps.Clone(t.Events), maps.Clone(t.Kicks), maps.Clone(t.Runs)
	return t
}

func (j *journal) add(e api.Event, log *slog.Logger) {
	j.seq++
	e.Seq = j.seq
	if len(e.Text) > maxText {
		e.Text = strings.ToValidUTF8(e.Text[:maxText], "") + "…"
	}
	if len(j.events) >= 2*keepEvents {
		j.events = slices.Clone(j.events[keepEvents:])
	}
	j.events = append(j.events, e)
	j.counts.Events[e.Kind]++
	attrs := []slog.Attr{slog.String("text", e.Text)}
	for _, subject := range [][2]string{{"node", e.Node}, {"role", e.Role}, {"action", e.Action}, {"run", e.Run}} {
		if subject[1] != "" {
			attrs = append(attrs, slog.String(subject[0], subject[1]))
		}
	}
	log.LogAttrs(context.Background(), api.EventLevel(e.Kind), e.Kind, attrs...)
}

// event is an event of the controller itself.
func event(now time.Time, kind, format string, args ...any) api.Event {
	return api.Event{Time: now, Kind: kind, Text: fmt.Sprintf(format, args...)}
}

func (c *Controller) event(e api.Event) { c.journal.add(e, c.log) }

func (c *Controller) roleEvent(now time.Time, kind, role, format string, args ...any) {
	e := event(now, kind, "role %s: "+format, append([]any{role}, args...)...)
	e.Role = role
	c.event(e)
}

func (c *Controller) nodeEvent(now time.Time, kind, node, format string, args ...any) {
	e := event(now, kind, format, args...)
	e.Node = node
	c.event(e)
}

func (c *Controller) runEvent(now time.Time, kind string, k plan.Key, run, format string, args ...any) {
	e := event(now, kind, format, args...)
	e.Node, e.Action, e.Run = k.Node, k.Action, run
	c.event(e)
}

// invalid counts an invalid message, and makes an event of it unless there was one a moment ago.
func (j *journal) invalid(err error, now time.Time, log *slog.Logger) {
	j.counts.InvalidMessages++
	if now.Sub(j.warned) < invalidEvery {
		return
	}
	j.warned = now
	j.add(event(now, api.EventInvalidMessage, "invalid message: %s", err), log)
}

func (j *journal) begin(r api.Run) {
	if len(j.runs) >= 2*keepRuns {
		j.runs = slices.Clone(j.runs[keepRuns:])
	}
	j.runs = append(j.runs, r)
}

// knows reports whether the journal has a run.
func (j *journal) knows(id string) bool {
	return slices.ContainsFunc(j.runs, func(r api.Run) bool { return r.ID == id })
}

// started is when a run began, as far as the journal knows; otherwise now.
func (j *journal) started(id string, now time.Time) time.Time {
	if i := slices.IndexFunc(j.runs, func(r api.Run) bool { return r.ID == id }); i >= 0 {
		return j.runs[i].Started
	}
	return now
}

// over reports whether the end of a run was reported. A run that is only lost may go on.
func (j *journal) over(id string) bool {
	return slices.ContainsFunc(j.runs, func(r api.Run) bool {
		return r.ID == id && !r.Ended.IsZero() && r.Outcome != kick.Lost
	})
}

// end notes how a run ended. It reports false if that was known; then it only adds what was not.
func (j *journal) end(id string, now time.Time, res kick.Result) bool {
	i := slices.IndexFunc(j.runs, func(r api.Run) bool { return r.ID == id })
	if i < 0 {
		if res.Node == "" {
			return false
		}
		took := milliseconds(res.Duration)
		j.begin(api.Run{
			ID: id, Node: res.Node, Action: res.Action, Started: now.Add(-took),
			Reason: "kicked by a former controller",
		})
		i = len(j.runs) - 1
	}
	r := j.runs[i]
	known := r.Outcome != ""
	if r.Outcome == kick.Lost && res.Outcome != kick.Lost {
		known = false // its node did not report for a while, and now says how it ended
		j.counts.Runs[kick.Lost]--
	}
	says := len(res.Error)+len(res.Output)+len(res.LeftBehind) > 0
	if known && (r.Error+r.Output != "" || !says) {
		return false
	}
	if !known {
		r.Ended, r.Outcome, r.Exit = now, res.Outcome, res.Exit
		r.Duration = milliseconds(res.Duration)
		count(j.counts.Runs, res.Outcome)
	}
	r.Error, r.Output, r.LeftBehind = res.Error, res.Output, res.LeftBehind
	j.runs = slices.Clone(j.runs) // views hold the old ones
	j.runs[i] = r
	return !known
}

func count[K ~string](counts map[K]int64, what K) {
	if _, known := counts[what]; !known && len(counts) >= maxKinds {
		what = "other"
	}
	counts[what]++
}

func last[E any](all []E, most int) []E {
	return all[max(0, len(all)-most):len(all):len(all)]
}
