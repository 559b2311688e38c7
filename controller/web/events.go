package web

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"time"

	"kicker/controller/api"
)

const (
	streamBeat = 15 * time.Second // between two blank lines of a stream without events
	slowAfter  = 10 * time.Second // a reader that takes no byte for so long is disconnected
)

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	q, v := r.URL.Query(), s.View()
	since, err := number(q, "since", 0)
	err = cmp.Or(checkQuery(r, "since", "follow"), err)
	switch follow := q.Get("follow"); {
	case err != nil:
	case since > newestEvent(v):
		err = fail(http.StatusGone, "start over with since=0",
			"since=%d: the newest event is %d: the controller restarted", since, newestEvent(v))
	case follow == "1":
		s.follow(w, r, since)
		return
	case follow != "" && follow != "0":
		err = errors.New("follow: want 0 or 1")
	}
	send(w, list(eventsAfter(v, since)), err)
}

// follow writes one event per line until the reader goes or is too slow. A slow reader delays nothing else.
func (s *server) follow(w http.ResponseWriter, r *http.Request, since int64) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	conn, lines := http.NewResponseController(w), json.NewEncoder(w)
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for first := true; ; first = false {
		v := s.View()
		events := eventsAfter(v, since)
		conn.SetWriteDeadline(time.Now().Add(slowAfter)) // best effort: a ResponseWriter in tests has none
		if !first && len(events) > 0 && events[0].Seq > since+1 {
			const lost = "the reader is too slow: events %d to %d are no longer kept"
			lines.Encode(api.Error{Error: fmt.Sprintf(lost, since+1, events[0].Seq-1)})
			return
		}
		for _, e := range events {
			lines.Encode(e)
			since = e.Seq
		}
		if conn.Flush() != nil { // also after an earlier error
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-v.Next:
		case <-beat.C:
			io.WriteString(w, "\n")
		}
	}
}

func eventsAfter(v *api.View, seq int64) []api.Event {
	return v.Events[sort.Search(len(v.Events), func(i int) bool { return v.Events[i].Seq > seq }):]
}

func newestEvent(v *api.View) int64 {
	if len(v.Events) == 0 {
		return 0
	}
	return v.Events[len(v.Events)-1].Seq
}
