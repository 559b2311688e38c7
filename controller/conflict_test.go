package controller

import (
	"fmt"
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

func TestNodeOfAnotherVersionIsShownWhileItReports(t *testing.T) {
	cfg := DefaultConfig()
	inLoop(t, cfg, func(l *loop) {
		beats := func(seconds int, old bool) {
			for range seconds {
				l.says("web1", "web", kick.Status{})
				if old {
					l.received <- inventory.Received{At: time.Now(), Invalid: &inventory.VersionError{Node: "web2", Version: 1}}
				}
				time.Sleep(time.Second)
			}
			synctest.Wait()
		}
		since := time.Now()
		beats(20, true)
		v := l.View()
		if want := (api.VersionMismatch{Node: "web2", Version: 1, Since: since}); len(v.WrongVersion) != 1 || v.WrongVersion[0] != want {
			t.Errorf("wrong versions: %+v, want %+v", v.WrongVersion, want)
		}
		if n := v.Counts.Events[api.EventWrongVersion]; n != 1 {
			t.Errorf("%d events, want one", n)
		}
		beats(8, false)
		if len(l.View().WrongVersion) != 1 {
			t.Error("it is forgotten before gone_after")
		}
		beats(3, false)
		if v := l.View(); len(v.WrongVersion) != 0 {
			t.Errorf("long after its last message: %+v", v.WrongVersion)
		}
		for i := range 2 * maxVersions {
			l.received <- inventory.Received{At: time.Now(), Invalid: &inventory.VersionError{Node: fmt.Sprint("n", i), Version: 1}}
		}
		synctest.Wait()
		if n := len(l.View().WrongVersion); n != maxVersions {
			t.Errorf("%d are remembered of %d, want %d", n, 2*maxVersions, maxVersions)
		}
		beats(12, false)
		beats(2, true)
		l.says("web2", "web", kick.Status{}) // upgraded
		synctest.Wait()
		if v := l.View(); len(v.WrongVersion) != 0 {
			t.Errorf("after its upgrade: %+v", v.WrongVersion)
		}
	})
}
