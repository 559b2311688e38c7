package controller

import (
	"encoding/json"
	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnotherHolderIsAskedIfTheFirstIsSilent(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		members := webs(10)
		l.rosters = map[string][]kick.Member{"lb2/reload": members}
		l.says("lb1", "lb", reload(appliedBefore(members))) // and is gone, or has lost its memory
		l.says("lb2", "lb", reload(appliedBefore(members)))
		for _, m := range members[:4] {
			l.says(m.Node, "web", kick.Status{})
		}
		for range 16 {
			time.Sleep(time.Second)
			for _, m := range members[:4] {
				l.says(m.Node, "web", kick.Status{})
			}
			l.says("lb1", "lb", reload(appliedBefore(members)))
			l.says("lb2", "lb", reload(appliedBefore(members)))
		}
		time.Sleep(time.Second)
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks after a restart in which six of ten were lost", n)
		}
		if r := l.View().Roles[1]; r.Name != "web" || r.Held == nil || len(r.Members) != 10 {
			t.Errorf("web is %+v, want six of ten held", r)
		}
	})
}

// Two dependents remember the only member, each from another controller, and the one that was kicked last reports again
// and dies before it is asked. The other one must be asked, or the role is emptied though its member never left.
func TestRoleIsNotEmptiedWhenOneOfTwoHoldersDies(t *testing.T) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "web", GoneAfter: inventory.DefaultGoneAfter}}
	inLoop(t, cfg, func(l *loop) {
		l.rosters = map[string][]kick.Member{"lb1/reload": webs(1)}
		newer := reload(func(a *kick.ActionStatus) {
			a.Applied = map[string]kick.Revision{"web": {Epoch: 2000, N: 1, Hash: kick.Hash(webs(1))}}
		})
		l.pace = time.Minute // only what has changed is reported again
		l.says("lb1", "lb", reload(appliedBefore(webs(1))))
		l.says("lb2", "lb", newer)
		l.says("lb2", "lb", newer)
		l.closes("lb2")
		time.Sleep(30 * time.Second)
		if kicks := l.kicked(); len(kicks) > 0 {
			t.Errorf("%d kicks, the first with %+v", len(kicks), kicks[0].Needs)
		}
		if r := l.View().Roles[1]; r.Name != "web" || r.Held == nil || len(r.Members) != 1 {
			t.Errorf("web is %+v, want its only member held", r)
		}
	})
}

func TestOnlyHolderIsWaitedForWhileItRestarts(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		members := webs(10)
		status := reload(appliedBefore(members))
		beat := func() {
			for _, m := range members[:2] {
				l.says(m.Node, "web", kick.Status{})
			}
			time.Sleep(time.Second)
		}
		l.says("lb1", "lb", status)
		data, err := json.Marshal(status)
		if err != nil {
			t.Fatal(err)
		}
		l.received <- inventory.Received{At: time.Now(), Beat: &inventory.Beat{
			Node: "lb1", Instance: "m", Boot: "b", Conn: inventory.Conn{Server: "lb1", Client: 1}, Facts: usualFacts("lb").Digest(),
			Ready: true, NextIn: 1000, Kick: data, RestartWithin: inventory.MaxRestart.Milliseconds(),
		}}
		for range 55 {
			beat()
		}
		l.conns++
		l.says("lb1", "lb", status) // and does not answer at once
		for range 5 {
			beat()
		}
		l.mu.Lock()
		l.rosters = map[string][]kick.Member{"lb1/reload": members}
		l.mu.Unlock()
		for range 20 {
			l.says("lb1", "lb", status)
			beat()
		}
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks after a restart in which eight of ten were lost", n)
		}
		if r := l.View().Roles[1]; r.Name != "web" || r.Held == nil || len(r.Members) != 10 {
			t.Errorf("web is %+v, want eight of ten held", r)
		}
	})
}

func TestSlowDependentBeginsARecoveryAnew(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		members := webs(10)
		l.rosters = map[string][]kick.Member{"lb1/reload": members}
		for _, m := range members[:4] {
			l.says(m.Node, "web", kick.Status{})
		}
		l.sync(t)
		l.says("lb1", "lb", reload(appliedBefore(members)))
		time.Sleep(time.Second)
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks: the six that lb1 knows are forgotten", n)
		}
		synctest.Wait()
		v := l.View().Verdicts[0]
		if gateNames(v) != api.GateSynced || !strings.Contains(v.Gates[0].Why, "6 of 10 last known members") {
			t.Errorf("the gates are %+v, want six of ten that have not reported", v.Gates)
		}
	})
}

func TestMuchLaterDependentBringsNoMemberBack(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		members := webs(10)
		l.rosters = map[string][]kick.Member{"lb1/reload": members}
		for range int(5 * time.Minute / time.Second) {
			l.says("web1", "web", kick.Status{})
			l.says("web2", "web", kick.Status{})
			time.Sleep(time.Second)
		}
		l.says("lb1", "lb", reload(appliedBefore(members)))
		time.Sleep(time.Second)
		if kicks := l.kicked(); len(kicks) != 1 || len(kicks[0].Needs[0].Members) != 2 {
			t.Errorf("the kicks are %+v, want one with the two members there are", kicks)
		}
	})
}

func TestMemberListOfAnotherRevisionIsNoAnswer(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.rosters = map[string][]kick.Member{"lb1/reload": webs(1)}
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload(appliedBefore(webs(10))))
		l.sync(t)
		if v := l.View().Verdicts[0]; gateNames(v) != api.GateSynced || !strings.Contains(v.Gates[0].Why, "waiting for lb1/reload") {
			t.Errorf("the gates are %+v, want lb1 to be asked still for the ten", v.Gates)
		}
	})
}

func TestEmptyMemberListIsAnAnswer(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.rosters = map[string][]kick.Member{"lb1/reload": nil}
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload(appliedBefore(nil)))
		l.sync(t)
		if kicks := l.kicked(); len(kicks) != 1 {
			t.Errorf("%d kicks, want one: the role had no member to wait for", len(kicks))
		}
	})
}
