package controller

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kicker/controller/api"
	"kicker/kick"
)

func TestJournalKeepsTheLastOfEach(t *testing.T) {
	j := newJournal()
	for i := range 3*keepEvents + 7 {
		j.add(api.Event{Kind: api.EventJoined, Text: fmt.Sprint(i)}, silent)
		j.begin(api.Run{ID: fmt.Sprint(i)})
		if len(j.events) > 2*keepEvents || len(j.runs) > 2*keepRuns {
			t.Fatalf("%d events and %d runs are kept", len(j.events), len(j.runs))
		}
	}
	events, runs := last(j.events, keepEvents), last(j.runs, keepRuns)
	if len(events) != keepEvents || len(runs) != keepRuns {
		t.Fatalf("%d events and %d runs, want %d and %d", len(events), len(runs), keepEvents, keepRuns)
	}
	for i, e := range events {
		if want := int64(2*keepEvents + 7 + i + 1); e.Seq != want || e.Text != fmt.Sprint(want-1) {
			t.Fatalf("event %d is %+v, want the one with seq %d", i, e, want)
		}
	}
	if got := j.counts.Events[api.EventJoined]; got != 3*keepEvents+7 {
		t.Errorf("%d events are counted", got)
	}
}

func TestViewIsNeverChanged(t *testing.T) {
	j := newJournal()
	j.add(api.Event{Text: "first"}, silent)
	j.begin(api.Run{ID: "r1"})
	events, runs, counts := last(j.events, keepEvents), last(j.runs, keepRuns), cloneCounts(j.counts)
	for range 3 * keepEvents {
		j.add(api.Event{Text: "more"}, silent)
	}
	j.end("r1", noon, kick.Result{Outcome: kick.Succeeded})
	if len(events) != 1 || events[0].Text != "first" || runs[0].Outcome != "" || counts.Runs[kick.Succeeded] != 0 {
		t.Errorf("what was shown became %+v, %+v, %+v", events, runs, counts)
	}
}

func TestJournalNotesEachEndOfARunOnce(t *testing.T) {
	heartbeat := kick.Result{Node: "lb1", Action: "reload", Outcome: kick.Failed, Exit: 2, Duration: 1500}
	message := heartbeat
	message.Output, message.Error = "line", "why"
	lost := kick.Result{Outcome: kick.Lost, Exit: -1, Error: "no report"}
	type report struct {
		res  kick.Result
		news bool
	}
	for _, c := range []struct {
		claim   string
		reports []report
		run     api.Run
		counts  map[kick.Outcome]int64
	}{
		{"reported by the message, then by the heartbeat", []report{{message, true}, {heartbeat, false}},
			api.Run{Outcome: kick.Failed, Exit: 2, Output: "line", Error: "why"}, map[kick.Outcome]int64{kick.Failed: 1}},
		{"reported by the heartbeat, then by the message: only the output is new", []report{{heartbeat, true}, {message, false}, {heartbeat, false}},
			api.Run{Outcome: kick.Failed, Exit: 2, Output: "line", Error: "why"}, map[kick.Outcome]int64{kick.Failed: 1}},
		{"an error without output is new too", []report{{heartbeat, true}, {kick.Result{Outcome: kick.Failed, Exit: 2, Error: "why"}, false}},
			api.Run{Outcome: kick.Failed, Exit: 2, Error: "why"}, map[kick.Outcome]int64{kick.Failed: 1}},
		{"reported twice", []report{{message, true}, {message, false}},
			api.Run{Outcome: kick.Failed, Exit: 2, Output: "line", Error: "why"}, map[kick.Outcome]int64{kick.Failed: 1}},
		{"lost, and then the truth", []report{{lost, true}, {heartbeat, true}},
			api.Run{Outcome: kick.Failed, Exit: 2}, map[kick.Outcome]int64{kick.Failed: 1, kick.Lost: 0}},
		{"the truth, and then lost", []report{{message, true}, {lost, false}},
			api.Run{Outcome: kick.Failed, Exit: 2, Output: "line", Error: "why"}, map[kick.Outcome]int64{kick.Failed: 1}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			j := newJournal()
			j.begin(api.Run{ID: "other"})
			j.begin(api.Run{ID: "r1"})
			for i, r := range c.reports {
				if news := j.end("r1", in(time.Duration(i)), r.res); news != r.news {
					t.Errorf("report %d is news: %t, want %t", i+1, news, r.news)
				}
			}
			r := j.runs[1]
			if r.Outcome != c.run.Outcome || r.Exit != c.run.Exit || r.Output != c.run.Output || r.Error != c.run.Error {
				t.Errorf("the run is %+v, want %+v", r, c.run)
			}
			for outcome, want := range c.counts {
				if got := j.counts.Runs[outcome]; got != want {
					t.Errorf("%d runs are %s, want %d", got, outcome, want)
				}
			}
			if j.runs[0].Outcome != "" {
				t.Error("another run ended with it")
			}
		})
	}
}

func TestJournalAddsRunsOfAFormerController(t *testing.T) {
	j := newJournal()
	if j.end("r1", noon, kick.Result{Outcome: kick.Lost}) || len(j.runs) != 0 {
		t.Error("an unknown run was lost, and that was news")
	}
	if !j.end("r1", noon, kick.Result{Node: "lb1", Action: "reload", Outcome: kick.Succeeded, Duration: 2000}) {
		t.Error("its end is no news")
	}
	if r := j.runs[0]; r.Node != "lb1" || r.Started != ago(2*time.Second) || r.Ended != noon {
		t.Errorf("the run is %+v", r)
	}
}

func TestInvalidMessagesMakeOneEventASecond(t *testing.T) {
	j := newJournal()
	for i := range 10_000 {
		j.invalid(errors.New("garbage"), in(time.Duration(i)*time.Millisecond), silent)
	}
	if j.counts.InvalidMessages != 10_000 || len(j.events) != 10 {
		t.Errorf("10 000 refusals in 10 s: %d counted, %d events; want all and 10", j.counts.InvalidMessages, len(j.events))
	}
}

func TestNodesCannotMakeTheJournalLong(t *testing.T) {
	j := newJournal()
	j.add(api.Event{Text: strings.Repeat("é", maxText)}, silent)
	if text := j.events[0].Text; len(text) > maxText+len("…") || !utf8.ValidString(text) || !strings.HasSuffix(text, "…") {
		t.Errorf("an event's text has %d bytes, valid: %t", len(text), utf8.ValidString(text))
	}
	for i := range 1000 {
		count(j.counts.Kicks, kick.Answer(fmt.Sprint("answer ", i)))
	}
	if n := len(j.counts.Kicks); n > maxKinds+1 {
		t.Errorf("%d answers are counted apart", n)
	}
	if got := j.counts.Kicks["other"]; got != 1000-maxKinds {
		t.Errorf("%d answers are counted as others, want %d", got, 1000-maxKinds)
	}
}

func TestEventsUseTheSingularForOne(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		var texts []string
		for _, e := range l.View().Events {
			texts = append(texts, e.Text)
		}
		all := strings.Join(texts, "\n")
		for _, want := range []string{"s with 1 node", "role web: 1 member"} {
			if !strings.Contains(all+"\n", want+"\n") {
				t.Errorf("no event says %q:\n%s", want, all)
			}
		}
	})
}

func TestJournalNotesWhatARunLeftBehind(t *testing.T) {
	j := newJournal()
	j.begin(api.Run{ID: "r1"})
	j.end("r1", noon, kick.Result{Outcome: kick.Succeeded})
	left := []string{"sleep (pid 123)"}
	j.end("r1", noon, kick.Result{Outcome: kick.Succeeded, LeftBehind: left})
	j.end("r1", noon, kick.Result{Outcome: kick.Succeeded})
	if got := j.runs[0].LeftBehind; len(got) != 1 || got[0] != left[0] {
		t.Errorf("the run left behind %q, want %q", got, left)
	}
}
