package controller

import (
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

func TestNameConflictIsRecordedOnceAndShownWhileItLasts(t *testing.T) {
	cfg := DefaultConfig()
	cfg.GoneAfter = time.Minute
	inLoop(t, cfg, func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		beats := func(seconds int, also string) {
			for range seconds {
				l.says("web1", "web", kick.Status{})
				if also != "" {
					l.received <- inventory.Received{At: time.Now(), Beat: &inventory.Beat{
						Node: "web1", Instance: also, Boot: "b", Conn: inventory.Conn{Server: "web1", Client: 9}, Ready: true, NextIn: 1000,
					}}
				}
				time.Sleep(time.Second)
			}
			synctest.Wait()
		}
		since := time.Now()
		beats(90, "m2")
		v := l.View()
		if len(v.Conflicts) != 1 || v.Conflicts[0].Node != "web1" || v.Conflicts[0].Accepted != "m" || v.Conflicts[0].Rejected != "m2" || !v.Conflicts[0].Since.Equal(since) {
			t.Errorf("the conflicts are %+v, want m2's over web1 since %s", v.Conflicts, since)
		}
		if n := v.Counts.Events; n[api.EventConflictBegan] != 1 || n[api.EventInvalidMessage] != 0 || v.Counts.InvalidMessages != 90 {
			t.Errorf("the events are %v, and %d messages were refused; want one conflict, and 90", n, v.Counts.InvalidMessages)
		}
		l.mute.Store(true)
		time.Sleep(2 * time.Minute)
		l.mute.Store(false)
		beats(30, "m2")
		if v := l.View(); len(v.Conflicts) != 1 || v.Counts.Events[api.EventConflictBegan] != 1 {
			t.Errorf("after a time without messages the conflicts are %+v, and the events %v; want what there was before", v.Conflicts, v.Counts.Events)
		}
		beats(50, "")
		if len(l.View().Conflicts) != 1 {
			t.Error("it is over, though the machine may only be silent")
		}
		beats(20, "")
		if v := l.View(); len(v.Conflicts) != 0 || v.Counts.Events[api.EventConflictEnded] != 1 {
			t.Errorf("when one machine reports the conflicts are %+v, and the events %v; want it over", v.Conflicts, v.Counts.Events)
		}
	})
}
