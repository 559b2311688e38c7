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

func TestDepartedAreRememberedWithTheirReasons(t *testing.T) {
	for _, c := range []struct {
		claim string
		do    func(l *loop)
		life  string
		why   kick.Departure
	}{
		{"killed", func(l *loop) { l.closes("web2") }, api.Gone, kick.DepartedGone},
		{"left", func(l *loop) { l.leaveBeat("web2", "a1", nil) }, string(inventory.Left), kick.DepartedLeft},
		{"another role", func(l *loop) { l.says("web2", "spare", kick.Status{}) }, "", kick.DepartedDeselected},
		{"a fact is missing", func(l *loop) {
			l.reports("web2", inventory.Facts{"role": "web", "ipaddress": "10.0.0.1"}, kick.Status{})
		}, "", kick.DepartedFactMissing},
		{"a fact is invalid", func(l *loop) {
			l.reports("web2", inventory.Facts{"role": "web", "ipaddress": "10.0.0.1", "port": "eighty"}, kick.Status{})
		}, "", kick.DepartedFactMissing},
		{"rebooted", func(l *loop) { l.beatsFrom("web2", "m", "b2", usualFacts("spare"), kick.Status{}) }, "", kick.DepartedReplaced},
		{"not ready", func(l *loop) {
			l.leaveBeat("web2", "", func(b *inventory.Beat) { b.Leaving, b.Ready, b.NotReady = false, false, "refused" })
		}, "", kick.DepartedNotReady},
	} {
		t.Run(c.claim, func(t *testing.T) {
			twoWebs(t, patient(), func(l *loop) {
				l.says("web1", "web", kick.Status{})
				c.do(l)
				l.passes(5 * time.Second)
				is, known := l.View().Departed["web2"]
				if role := is.Roles["web"]; !known || is.Life != c.life || role.Why != c.why || len(role.Dropped) != 0 {
					t.Fatalf("remembered is %+v, want life %q and web: %s", is, c.life, c.why)
				}
				k := l.kicked()[len(l.kicked())-1]
				if got := k.Needs[0].Departed["web2"]; got != c.why {
					t.Errorf("lb1 is kicked because web2 is %q, want %q", got, c.why)
				}
				l.ends(success(k))
				if dropped := l.View().Departed["web2"].Roles["web"].Dropped; dropped["lb1/reload"].IsZero() {
					t.Errorf("the departure was applied by %v, want lb1/reload", dropped)
				}
				if was := is.Roles["web"].Dropped; len(was) != 0 {
					t.Errorf("a view that was published has changed: %v", was)
				}
				l.conns++
				l.reportsFrom("web2", "m", "b3", usualFacts("web"), kick.Status{})
				l.passes(5 * time.Second)
				if is, known := l.View().Departed["web2"]; known {
					t.Errorf("web2 is a member again, and %+v is remembered", is)
				}
			})
		})
	}
}

func TestAFailedRunDropsNoDepartedNode(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		l.says("lb1", "lb", reload(applied(l.hashOf("web"))))
		l.says("web3", "web", kick.Status{})
		l.passes(5 * time.Second)
		l.ends(failed(l.kicked()[1])) // after it wrote web3
		dirty := func(a *kick.ActionStatus) { a.Dirty = true }
		before := applied(l.kicked()[0].Needs[0].Revision)
		l.says("lb1", "lb", reload(before, dirty))
		l.leaveBeat("web3", "a1", nil)
		l.passes(2 * time.Second)
		role := l.View().Departed["web3"].Roles["web"]
		if role.Why != kick.DepartedLeft || len(role.Dropped) != 0 {
			t.Errorf("web3 departed as %+v, want that no action applied members without it", role)
		}
	})
}

func TestDepartedAreForgottenAfterADay(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		l.closes("web2")
		l.passes(5 * time.Second)
		time.Sleep(keepDeparted - time.Minute)
		l.passes(time.Second)
		if _, known := l.View().Departed["web2"]; !known {
			t.Error("web2 is forgotten within the day")
		}
		time.Sleep(2*time.Minute + tidyEvery)
		synctest.Wait()
		if _, known := l.View().Departed["web2"]; known {
			t.Error("web2 is remembered after a day")
		}
	})
}

func TestDepartedAreLimited(t *testing.T) {
	d := newDeparted()
	for i := range maxDeparted + 10 {
		n := &inventory.Node{Name: fmt.Sprint("n", i), Life: inventory.Alive}
		d.follow(inventory.Change{Before: n, Why: "silent"}, time.Unix(int64(i), 0))
	}
	_, oldest := d.nodes["n9"]
	_, newest := d.nodes[fmt.Sprint("n", maxDeparted+9)]
	if len(d.nodes) != maxDeparted || oldest || !newest {
		t.Errorf("%d nodes are remembered, the oldest %t, the newest %t", len(d.nodes), oldest, newest)
	}
}
