package web

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sort"
	"time"

	"kicker/controller/api"
)

const (
	streamBeat  = 15 * time.Second // between two blank lines of a stream without events
	slowAfter   = 10 * time.Second // a reader that takes no byte for so long is disconnected
	followParam = "follow"
)

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r, "since", followParam) {
		return
	}
	since, err := number(r.URL.Query(), "since", 0)
	if err != nil {
		s.badRequest(w, err, "")
		return
	}
	v := s.View()
	if newest := newestEvent(v); since > newest {
		s.fail(w, http.StatusGone, api.Error{
			Error:  fmt.Sprintf("since=%d: the newest event is %d: the controller restarted", since, newest),
			Remedy: "start over with since=0",
		})
		return
	}
	switch r.URL.Query().Get(followParam) {
	case "", "0":
		s.answer(w, append([]api.Event{}, eventsAfter(v.Events, since)...))
	case "1":
		s.follow(w, r, since)
	default:
		s.badRequest(w, fmt.Errorf("%s: want 0 or 1", followParam), "")
	}
}

// follow writes one event per line until the reader goes or is too slow. A view never changes, so a slow reader delays
// nothing else.
func (s *server) follow(w http.ResponseWriter, r *http.Request, since int64) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	conn := http.NewResponseController(w)
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for first := true; ; first = false {
		v := s.View()
		events := eventsAfter(v.Events, since)
		conn.SetWriteDeadline(time.Now().Add(slowAfter)) // best effort: a ResponseWriter in tests has none
		if !first && len(events) > 0 && events[0].Seq > since+1 {
			lost := fmt.Sprintf("the reader is too slow: events %d to %d are no longer kept", since+1, events[0].Seq-1)
			writeLine(w, api.Error{Error: lost})
			return
		}
		for _, e := range events {
			if writeLine(w, e) != nil {
				return
			}
			since = e.Seq
		}
		if conn.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-v.Next:
		case <-beat.C:
			if _, err := io.WriteString(w, "\n"); err != nil {
				return
			}
		}
	}
}

func writeLine(w io.Writer, line any) error { return json.NewEncoder(w).Encode(line) }

func eventsAfter(events []api.Event, seq int64) []api.Event {
	return events[sort.Search(len(events), func(i int) bool { return events[i].Seq > seq }):]
}

func newestEvent(v *api.View) int64 {
	if len(v.Events) == 0 {
		return 0
	}
	return v.Events[len(v.Events)-1].Seq
}
