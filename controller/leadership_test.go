package controller

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// leaderSince is the leadership of controller "m" with epoch 100, which started at noon.
func leaderSince(noon time.Time) *leadership {
	l := newLeadership("main", "m", 10*time.Second, noon)
	l.epoch, l.epochs = 100, []int64{100}
	return &l
}

// beacons is the epochs of the beacons among effects.
func beacons(effects []effect) []int64 {
	var epochs []int64
	for _, e := range effects {
		if b, ok := e.(sendBeacon); ok {
			epochs = append(epochs, b.epoch)
		}
	}
	return epochs
}

func TestHigherEpochThenGreaterIDLeads(t *testing.T) {
	for _, c := range []struct {
		claim   string
		follows string // before
		b       inventory.Beacon
		at      time.Time
		want    string
		replies bool
	}{
		{"a higher epoch leads", "", inventory.Beacon{ID: "z", Epoch: 101}, in(time.Hour), "z", false},
		{"a lower one learns who leads", "", inventory.Beacon{ID: "z", Epoch: 99}, in(time.Hour), "", true},
		{"of equal ones the greater id leads", "", inventory.Beacon{ID: "z", Epoch: 100}, in(time.Hour), "z", false},
		{"and the lesser does not", "", inventory.Beacon{ID: "a", Epoch: 100}, in(time.Hour), "", true},
		{"one that led before this one had asked leads, whatever its epoch", "", inventory.Beacon{ID: "z", Epoch: 99}, in(introduction - 1), "z", false},
		{"a question is answered", "", inventory.Beacon{ID: "z"}, in(time.Hour), "", true},
		{"but not by one that asks itself", "", inventory.Beacon{ID: "z"}, noon, "", false},
		{"its own beacon says nothing", "", inventory.Beacon{ID: "m", Epoch: 100}, in(time.Hour), "", false},
		{"a third one with a higher epoch takes the lead", "y", inventory.Beacon{ID: "z", Epoch: 201}, in(time.Hour), "z", false},
		{"with a lower one it does not", "y", inventory.Beacon{ID: "z", Epoch: 199}, in(time.Hour), "y", false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			l := leaderSince(noon)
			if c.follows != "" {
				l.rival = rival{c.follows, 200, noon}
			}
			l.next = in(2 * time.Hour)
			l.beacon(c.b, c.at)
			if l.rival.id != c.want || l.next.IsZero() != c.replies {
				t.Errorf("it follows %q and replies: %t, want %q and %t", l.rival.id, l.next.IsZero(), c.want, c.replies)
			}
		})
	}
}

func TestControllerAsksFirstThenSaysThatItLeads(t *testing.T) {
	l := leaderSince(noon)
	var sent []int64
	for ms := range 12_000 {
		sent = append(sent, beacons(l.tick(in(time.Duration(ms)*time.Millisecond)))...)
	}
	if want := []int64{0, 0, 0, 0, 100, 100}; !slices.Equal(sent, want) {
		t.Errorf("in twelve seconds it sent %v, want %v: four questions, then its epoch every ten seconds", sent, want)
	}
	sent = nil
	l.beacon(inventory.Beacon{ID: "z", Epoch: 101}, in(12*time.Second))
	l.beacon(inventory.Beacon{ID: "y"}, in(12*time.Second))
	for s := range 60 {
		sent = append(sent, beacons(l.tick(in(time.Minute+time.Duration(s)*time.Second)))...)
	}
	if len(sent) != 0 {
		t.Errorf("while another one leads it sent %v", sent)
	}
}

func TestOnlyAStandbyFollows(t *testing.T) {
	for _, standby := range []bool{false, true} {
		l := leaderSince(noon)
		if err := l.yields(standby); err != nil {
			t.Errorf("standby %t, alone: %v", standby, err)
		}
		l.beacon(inventory.Beacon{ID: "z", Epoch: 101}, in(time.Hour))
		if err := l.yields(standby); errors.Is(err, ErrOtherLeads) == standby {
			t.Errorf("standby %t, and another one leads: %v", standby, err)
		}
	}
}

func TestStandbyTakesOverFromASilentLeader(t *testing.T) {
	l := leaderSince(noon)
	l.beacon(inventory.Beacon{ID: "z", Epoch: 700}, noon)
	l.rivalAlive("another", in(5*time.Second))
	l.rivalAlive("z", in(time.Second))
	l.canary(in(time.Second + l.takeOver - 1))
	if l.rival.id != "z" {
		t.Fatal("it took over before its leader was silent for long enough")
	}
	effects := l.canary(in(time.Second + l.takeOver))
	if !l.leads() || l.epoch != 701 || !l.next.IsZero() {
		t.Errorf("it follows %q with epoch %d, want it to lead with 701, and to say so at once", l.rival.id, l.epoch)
	}
	if !slices.Contains(effects, effect(recoverRoles{})) || !slices.Contains(effects, effect(renumber{})) {
		t.Errorf("the effects are %v, want the roles to be recovered, under the new epoch", effects)
	}
}

func TestSameEpochOfAnotherControllerIsOutdone(t *testing.T) {
	l := leaderSince(noon)
	l.reported(100, in(time.Minute))
	for ms := range 1500 {
		l.tick(in(time.Minute + time.Duration(ms)*time.Millisecond))
	}
	if l.epoch != 101 || l.silent() != "" {
		t.Errorf("its epoch is %d (%s), want 101: nodes that saw 100 of a greater id reject its kicks", l.epoch, l.silent())
	}
	if !slices.Equal(l.epochs, []int64{100, 101}) {
		t.Errorf("it remembers the epochs %v as its own, want both", l.epochs)
	}
}

func TestEpochIsNeverRaisedAboveWhatNodesAccept(t *testing.T) {
	l := leaderSince(noon)
	l.seen = kick.MaxEpoch
	if l.raise(); l.epoch != 100 {
		t.Errorf("its epoch is %d, and no node accepts more than %d", l.epoch, kick.MaxEpoch)
	}
}

func TestMissedMessagesDoNotMakeALeaderSilent(t *testing.T) {
	l := leaderSince(noon)
	l.beacon(inventory.Beacon{ID: "z", Epoch: 700}, noon)
	l.missed(in(time.Minute))
	l.canary(in(time.Minute + inventory.CanaryEvery))
	if l.rival.id != "z" {
		t.Error("it took over at once after messages were missed")
	}
	l.canary(in(time.Minute + l.takeOver))
	if !l.leads() {
		t.Error("it never takes over after messages were missed")
	}
}

func TestLeaderSaysSoAtOnceAfterMissedMessages(t *testing.T) {
	l := leaderSince(noon)
	l.tick(in(time.Minute))
	l.missed(in(61 * time.Second))
	if sent := beacons(l.tick(in(61 * time.Second))); len(sent) != 1 {
		t.Errorf("it sent %v: another one may lead since, and would answer", sent)
	}
}

func TestReportedEpochIsOutdoneOnlyWithoutAnAnswer(t *testing.T) {
	for _, c := range []struct {
		claim   string
		follows string
		answer  *inventory.Beacon
		want    int64
		sent    []int64
	}{
		{"none answers", "", nil, 5001, []int64{0, 0, 0, 0, 5001}},
		{"the controller with that epoch answers", "", &inventory.Beacon{ID: "z", Epoch: 5000}, 100, []int64{0, 0}},
		{"another one answers, with a lower epoch", "", &inventory.Beacon{ID: "z", Epoch: 99}, 5001, []int64{0, 0, 0, 0, 5001}},
		{"it is a standby", "z", nil, 100, nil},
	} {
		t.Run(c.claim, func(t *testing.T) {
			l := leaderSince(noon)
			if l.rival.id = c.follows; c.follows == "" {
				l.tick(in(time.Minute))
			}
			l.next = in(2 * time.Minute)
			l.reported(5000, in(time.Minute))
			if l.silent() == "" {
				t.Error("it kicks nodes that reject its kicks")
			}
			var sent []int64
			renumbered := false
			for ms := range 1500 {
				now := in(time.Minute + time.Duration(ms)*time.Millisecond)
				if ms == 300 && c.answer != nil {
					l.beacon(*c.answer, now)
				}
				l.reported(5000, now) // as each heartbeat does
				effects := l.tick(now)
				sent = append(sent, beacons(effects)...)
				renumbered = renumbered || slices.Contains(effects, effect(renumber{}))
			}
			leads := c.want > 100
			if l.epoch != c.want || renumbered != leads {
				t.Errorf("it has epoch %d, and its memberships carry it: %t; want %d", l.epoch, renumbered, c.want)
			}
			if !slices.Equal(sent, c.sent) || (l.silent() == "") != leads {
				t.Errorf("it sent %v, want %v, and does not lead because %q", sent, c.sent, l.silent())
			}
		})
	}
}

// Two leaderships talk over a network that loses, delays and reorders what they send. When it works again, exactly one
// of them leads within a bounded time, and it stays so.
func TestOneOfTwoLeadsOverALossyNetwork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const step = 250 * time.Millisecond // the time between two canaries
		type message struct {
			at     time.Time
			to     int
			beacon *inventory.Beacon
			rival  string
		}
		var wire []message
		now := noon
		started := [2]time.Time{noon, noon.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "second starts")) * step)}
		var both [2]leadership
		for i, id := range []string{"a", "b"} {
			both[i] = newLeadership("main", id, 10*time.Second, started[i])
			both[i].epoch = int64(rapid.IntRange(100, 102).Draw(t, "epoch of "+id))
			both[i].epochs = []int64{both[i].epoch}
		}
		lossy := true
		send := func(to int, m message) {
			if lossy && rapid.IntRange(0, 9).Draw(t, "lost") < 4 {
				return
			}
			m.to, m.at = to, now
			if lossy {
				m.at = now.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "late")) * step)
			}
			wire = append(wire, m)
		}
		seconds := func(n int) {
			for range n * int(time.Second/step) {
				now = now.Add(step)
				var later []message
				for _, m := range wire {
					switch {
					case now.Before(m.at) || now.Before(started[m.to]):
						later = append(later, m)
					case m.beacon != nil:
						both[m.to].beacon(*m.beacon, now)
					default:
						both[m.to].rivalAlive(m.rival, now)
					}
				}
				wire = later
				for i := range both {
					l := &both[i]
					if now.Before(started[i]) {
						continue
					}
					l.canary(now)
					for _, epoch := range beacons(l.tick(now)) {
						send(1-i, message{beacon: &inventory.Beacon{ID: l.id, Epoch: epoch}})
					}
					send(1-i, message{rival: l.id})
				}
			}
		}
		seconds(rapid.IntRange(1, 60).Draw(t, "seconds of trouble"))
		lossy, wire = false, nil
		seconds(40)
		leads := func() string { return fmt.Sprint(both[0].leads(), both[1].leads()) }
		first := leads()
		if both[0].leads() == both[1].leads() {
			t.Fatalf("a and b lead: %s, with epochs %d and %d; want one of them", first, both[0].epoch, both[1].epoch)
		}
		seconds(60)
		if leads() != first {
			t.Fatalf("who leads changed from %s to %s though nothing was lost", first, leads())
		}
	})
}

func TestTakeoverRecoversFromWhatDependentsHold(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Standby = true
	inLoop(t, cfg, func(l *loop) {
		members := webs(10)
		l.rosters = map[string][]kick.Member{"lb1/reload": members}
		l.received <- inventory.Received{At: time.Now(), Beacon: &inventory.Beacon{ID: "z", Epoch: 1 << 42}}
		beat := func(n int) {
			for _, m := range members[:n] {
				l.says(m.Node, "web", kick.Status{})
			}
			l.says("lb1", "lb", reload(appliedBefore(members)))
			l.received <- inventory.Received{At: time.Now(), Rival: "z"}
			time.Sleep(time.Second)
		}
		for range 8 {
			beat(10)
		}
		for _, m := range members[4:] {
			l.closes(m.Node)
		}
		for range 4 {
			beat(4)
		}
		synctest.Wait()
		if web := l.View().Roles[1]; web.Held == nil || l.View().Leader != "z" {
			t.Fatalf("the standby of %q holds %+v, want the six that died", l.View().Leader, web.Held)
		}
		for range 12 { // the leader is silent
			for _, m := range members[:4] {
				l.says(m.Node, "web", kick.Status{})
			}
			l.says("lb1", "lb", reload(appliedBefore(members[:4]))) // an operator had the leader accept the loss
			time.Sleep(time.Second)
		}
		l.mu.Lock()
		l.rosters = map[string][]kick.Member{"lb1/reload": members[:4]}
		l.mu.Unlock()
		for range 12 {
			for _, m := range members[:4] {
				l.says(m.Node, "web", kick.Status{})
			}
			l.says("lb1", "lb", reload(appliedBefore(members[:4])))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		web := l.View().Roles[1]
		if l.View().Leader != "" || web.Held != nil || len(web.Members) != 4 {
			t.Errorf("after the takeover from %q web has %d members and holds %+v; want the four that lb1 holds", l.View().Leader, len(web.Members), web.Held)
		}
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks, though lb1 has applied what there is", n)
		}
	})
}

// A loop that never sleeps never lets virtual time pass: this test would not end.
func TestLoopSleepsWhileThereIsNothingToDo(t *testing.T) {
	t.Run("with a hold, and another controller leads", func(t *testing.T) {
		cfg := patient()
		cfg.Standby = true
		inLoop(t, cfg, func(l *loop) {
			l.says("web1", "web", kick.Status{})
			l.says("lb1", "lb", reload())
			l.sync(t)
			l.closes("web1")
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if l.View().Roles[1].Held == nil {
				t.Fatal("nothing is held")
			}
			l.received <- inventory.Received{At: time.Now(), Beacon: &inventory.Beacon{ID: "z", Epoch: 1 << 42}}
			time.Sleep(time.Hour)
		})
	})
	t.Run("with a pending loss, and messages were missed", func(t *testing.T) {
		inLoop(t, patient(), func(l *loop) {
			for range 3 {
				for _, web := range []string{"web1", "web2", "web3"} {
					l.says(web, "web", kick.Status{})
				}
			}
			l.sync(t)
			l.says("web1", "db", kick.Status{}) // it no longer has role web
			l.received <- inventory.Received{At: time.Now(), Missed: "the bus was away"}
			time.Sleep(time.Hour)
		})
	})
	t.Run("with a pending loss, and its role is not recovered", func(t *testing.T) {
		inLoop(t, patient(), func(l *loop) {
			for _, web := range []string{"web1", "web2", "web3"} {
				l.says(web, "web", kick.Status{})
			}
			l.sync(t)
			l.says("web1", "db", kick.Status{})
			l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
				a.Applied = map[string]kick.Revision{"web": {Epoch: 1 << 42, N: 1, Hash: "1-newer"}}
			}))
			time.Sleep(time.Hour)
		})
	})
}

// appliedBefore says that a former controller configured a dependent with these members.
func appliedBefore(members []kick.Member) func(*kick.ActionStatus) {
	return func(a *kick.ActionStatus) {
		a.Applied = map[string]kick.Revision{"web": {Epoch: 1000, N: 7, Hash: kick.Hash(members)}}
	}
}

func webs(n int) []kick.Member {
	var members []kick.Member
	for i := range n {
		facts := map[string]any{"ipaddress": "10.0.0.1", "port": "80"}
		members = append(members, kick.Member{Node: fmt.Sprint("web", i+1), Facts: facts})
	}
	return members
}

func gateNames(v api.Verdict) string {
	var names string
	for _, g := range v.Gates {
		names += g.Name
	}
	return names
}

// Two controllers that start within a second of each other must not flood the bus.
func TestQuestionIsNotAnsweredWithAQuestion(t *testing.T) {
	now := time.Now()
	asks := func(l *leadership) bool {
		return slices.ContainsFunc(l.tick(now), func(e effect) bool { return e == sendBeacon{0} })
	}
	first, second := newLeadership("main", "a", time.Second, now), newLeadership("main", "b", time.Second, now)
	if !asks(&first) || !asks(&second) {
		t.Fatal("a controller that starts does not ask who leads")
	}
	question := inventory.Beacon{ID: "a"}
	if second.beacon(question, now); asks(&second) {
		t.Error("it has just started, and answers a question with a question")
	}
	now = now.Add(time.Minute)
	second.tick(now)
	second.reported(second.epoch+1, now)
	if !asks(&second) {
		t.Fatal("a controller does not ask about a higher epoch")
	}
	if second.beacon(question, now); asks(&second) {
		t.Error("it asks about a higher epoch, and answers a question with a question")
	}
}
