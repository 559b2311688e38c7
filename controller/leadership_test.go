package controller

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

// led is a controller "m" of epoch 100 that started at noon, and how often it sends a beacon.
func led(t *testing.T, standby bool) (c *Controller, beacons *[]int64) {
	t.Helper()
	beacons = new([]int64)
	cfg := DefaultConfig()
	cfg.Standby = standby
	c, err := New(cfg, "m", inventory.New(), Bus{Beacon: func(_ string, epoch int64, _ time.Duration) { *beacons = append(*beacons, epoch) }}, silent)
	if err != nil {
		t.Fatal(err)
	}
	c.identity.Epoch, c.identity.Started = 100, noon
	return c, beacons
}

func TestWhoLeadsWhenTwoMeet(t *testing.T) {
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
		{"of equal ones the greater name leads", "", inventory.Beacon{ID: "z", Epoch: 100}, in(time.Hour), "z", false},
		{"and the lesser does not", "", inventory.Beacon{ID: "a", Epoch: 100}, in(time.Hour), "", true},
		{"whoever led before this one had asked leads, whatever its epoch", "", inventory.Beacon{ID: "z", Epoch: 99}, in(introduction - 1), "z", false},
		{"who asks is told", "", inventory.Beacon{ID: "z"}, in(time.Hour), "", true},
		{"even at the start", "", inventory.Beacon{ID: "z"}, noon, "", true},
		{"its own beacon says nothing", "", inventory.Beacon{ID: "m", Epoch: 100}, in(time.Hour), "", false},
		{"a third one with a higher epoch takes the lead", "y", inventory.Beacon{ID: "z", Epoch: 201}, in(time.Hour), "z", false},
		{"with a lower one it does not", "y", inventory.Beacon{ID: "z", Epoch: 199}, in(time.Hour), "y", false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			ctl, _ := led(t, true)
			if c.follows != "" {
				ctl.rival = rival{c.follows, 200, noon}
			}
			ctl.beacon = in(2 * time.Hour)
			ctl.meet(c.b, c.at)
			if ctl.rival.id != c.want || ctl.beacon.IsZero() != c.replies {
				t.Errorf("it follows %q and replies: %t, want %q and %t", ctl.rival.id, ctl.beacon.IsZero(), c.want, c.replies)
			}
		})
	}
}

func TestControllerAsksFirstAndThenSaysThatItLeads(t *testing.T) {
	c, beacons := led(t, true)
	for ms := range 12_000 {
		c.introduce(in(time.Duration(ms) * time.Millisecond))
	}
	if want := []int64{0, 0, 0, 0, 100, 100}; len(*beacons) != len(want) || (*beacons)[3] != 0 || (*beacons)[4] != 100 {
		t.Errorf("in twelve seconds it said %v, want %v: four questions, then its epoch every ten seconds", *beacons, want)
	}
	*beacons = nil
	c.meet(inventory.Beacon{ID: "z", Epoch: 101}, in(12*time.Second))
	c.meet(inventory.Beacon{ID: "y"}, in(12*time.Second))
	for s := range 60 {
		c.introduce(in(time.Minute + time.Duration(s)*time.Second))
	}
	if len(*beacons) != 0 {
		t.Errorf("while another one leads it said %v", *beacons)
	}
}

func TestOnlyAStandbyFollows(t *testing.T) {
	for _, standby := range []bool{false, true} {
		c, _ := led(t, standby)
		if err := c.yields(); err != nil {
			t.Errorf("standby %t, alone: %v", standby, err)
		}
		c.meet(inventory.Beacon{ID: "z", Epoch: 101}, in(time.Hour))
		if err := c.yields(); errors.Is(err, ErrOtherLeads) == standby {
			t.Errorf("standby %t, and another one leads: %v", standby, err)
		}
	}
}

func TestStandbyTakesOverWithAHigherEpochWhenItsLeaderIsSilent(t *testing.T) {
	c, _ := led(t, true)
	c.meet(inventory.Beacon{ID: "z", Epoch: 700}, noon)
	c.hearRival("another", in(5*time.Second))
	c.hearRival("z", in(time.Second))
	c.hear(inventory.Received{At: in(time.Second + c.cfg.GoneAfter - 1), Canary: true})
	if c.rival.id != "z" {
		t.Fatal("it took over before its leader was silent for long enough")
	}
	c.hear(inventory.Received{At: in(time.Second + c.cfg.GoneAfter), Canary: true})
	if c.rival.id != "" || c.identity.Epoch != 701 || !c.beacon.IsZero() {
		t.Errorf("it follows %q with epoch %d, want it to lead with 701, and to say so at once", c.rival.id, c.identity.Epoch)
	}
}

func TestWhoTakesOverBeginsWithWhatDependentsHold(t *testing.T) {
	c, _ := led(t, true)
	c.meet(inventory.Beacon{ID: "z", Epoch: 700}, noon)
	r := mustNeed(c.roles, "web")
	r.gate.open = true
	r.guard = *losing(10, 6) // which the one that led may have accepted
	r.guard.judge(noon, 4, nil, nobodyElse)
	held := kick.Revision{Epoch: 700, N: 4, Hash: "1-a"}
	c.byNode["lb1"] = []*action{{node: "lb1", name: "reload", needs: needing(c.roles, "web"), status: kick.ActionStatus{
		Applied: map[string]kick.Revision{"web": held},
	}}}
	c.hear(inventory.Received{At: in(c.cfg.GoneAfter), Canary: true})
	if c.rival.id != "" {
		t.Fatal("it does not take over")
	}
	if r.guard.hold != nil || len(r.guard.missing) != 0 || len(r.guard.sizes) != 0 {
		t.Errorf("what a follower's guard took in is kept: %+v", r.guard)
	}
	if r.gate.open || r.gate.newest.revision != held || r.gate.newest.node != "lb1" {
		t.Errorf("the role is open: %t, and the newest that was heard of is %+v; want that lb1 is to be asked", r.gate.open, r.gate.newest)
	}
}

func TestEpochThatAnotherOneChoseTooIsRaised(t *testing.T) {
	c, _ := led(t, true)
	c.seen = 100
	c.challenged(in(time.Minute))
	for ms := range 1500 {
		c.introduce(in(time.Minute + time.Duration(ms)*time.Millisecond))
	}
	if c.identity.Epoch != 101 || c.notLeading() != "" {
		t.Errorf("its epoch is %d (%s), want 101: nodes that saw 100 of a greater name don't obey it", c.identity.Epoch, c.notLeading())
	}
	r := mustNeed(c.roles, "web")
	r.gate.open, c.gate.since = true, in(time.Minute)
	c.byNode["lb1"] = []*action{{node: "lb1", name: "reload", needs: needing(c.roles, "web"), status: kick.ActionStatus{
		Applied: map[string]kick.Revision{"web": {Epoch: 101, N: 1, Hash: "1-forgotten"}},
	}}}
	if c.noteHeld("lb1", in(time.Minute)); !r.gate.open {
		t.Error("what it said itself, with its new epoch, is taken for another controller's")
	}
}

func TestEpochIsNeverRaisedAboveWhatNodesObey(t *testing.T) {
	c, _ := led(t, true)
	c.seen = kick.MaxEpoch
	if c.raise(); c.identity.Epoch != 100 {
		t.Errorf("its epoch is %d, and no node obeys more than %d", c.identity.Epoch, kick.MaxEpoch)
	}
}

func TestBlindStandbyDoesNotTakeItsLeaderForGone(t *testing.T) {
	c, _ := led(t, true)
	c.meet(inventory.Beacon{ID: "z", Epoch: 700}, noon)
	c.hear(inventory.Received{At: in(time.Minute), Missed: "the machine was suspended for 60 s"})
	c.hear(inventory.Received{At: in(time.Minute + inventory.CanaryEvery), Canary: true})
	if c.rival.id != "z" {
		t.Error("who was blind took over at once")
	}
	c.hear(inventory.Received{At: in(time.Minute + c.cfg.GoneAfter), Canary: true})
	if c.rival.id != "" {
		t.Error("who was blind never takes over")
	}
}

func TestWhoWasBlindSaysAtOnceThatItLeads(t *testing.T) {
	c, beacons := led(t, false)
	c.introduce(in(time.Minute))
	c.hear(inventory.Received{At: in(61 * time.Second), Missed: "nothing came back"})
	*beacons = nil
	if c.introduce(in(61 * time.Second)); len(*beacons) != 1 {
		t.Errorf("it said %v: another one may lead since, and would answer", *beacons)
	}
}

func TestEpochIsRaisedAboveWhatNodesHaveSeenOnlyIfNobodyLeadsWithIt(t *testing.T) {
	for _, c := range []struct {
		claim   string
		follows string
		answer  *inventory.Beacon
		want    int64
		said    []int64
	}{
		{"nobody answers", "", nil, 5001, []int64{0, 0, 0, 0, 5001}},
		{"whose epoch it is answers", "", &inventory.Beacon{ID: "z", Epoch: 5000}, 100, []int64{0, 0}},
		{"another one answers, with a lower one than this one's", "", &inventory.Beacon{ID: "z", Epoch: 99}, 5001, []int64{0, 0, 0, 0, 0, 5001}},
		{"it is a standby", "z", nil, 100, nil},
	} {
		t.Run(c.claim, func(t *testing.T) {
			ctl, beacons := led(t, true)
			ctl.roles.byName["web"] = &role{now: kick.Membership{Revision: kick.Revision{Epoch: 100, N: 3, Hash: "1-a"}}}
			if ctl.rival.id = c.follows; c.follows == "" {
				ctl.introduce(in(time.Minute))
				*beacons = nil
			}
			ctl.beacon = in(2 * time.Minute)
			ctl.seen = 5000
			ctl.challenged(in(time.Minute))
			if led := ctl.notLeading() == ""; led {
				t.Error("it kicks nodes that don't obey it")
			}
			for ms := range 1500 {
				now := in(time.Minute + time.Duration(ms)*time.Millisecond)
				if ms == 300 && c.answer != nil {
					ctl.meet(*c.answer, now)
				}
				ctl.challenged(now) // as each heartbeat does
				ctl.introduce(now)
			}
			if ctl.identity.Epoch != c.want || ctl.roles.byName["web"].now.Revision != (kick.Revision{Epoch: c.want, N: 3, Hash: "1-a"}) {
				t.Errorf("it has epoch %d and %+v, want %d", ctl.identity.Epoch, ctl.roles.byName["web"].now.Revision, c.want)
			}
			if leads := c.want > 100; !slices.Equal(*beacons, c.said) || (ctl.notLeading() == "") != leads {
				t.Errorf("it said %v, want %v, and does not lead because %q", *beacons, c.said, ctl.notLeading())
			}
		})
	}
}

// A loop that never sleeps never lets virtual time pass: this test would not end.
func TestLoopSleepsWhileNothingCanBeDone(t *testing.T) {
	t.Run("with a hold, and another one leads", func(t *testing.T) {
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
			l.heard <- inventory.Received{At: time.Now(), Beacon: &inventory.Beacon{ID: "z", Epoch: 1 << 42}}
			time.Sleep(time.Hour)
		})
	})
	t.Run("with a loss that is pending, and the controller was blind", func(t *testing.T) {
		inLoop(t, patient(), func(l *loop) {
			for range 3 {
				for _, web := range []string{"web1", "web2", "web3"} {
					l.says(web, "web", kick.Status{})
				}
			}
			l.sync(t)
			l.says("web1", "db", kick.Status{}) // it is no web any more
			l.heard <- inventory.Received{At: time.Now(), Missed: "the bus was away"}
			time.Sleep(time.Hour)
		})
	})
	t.Run("with a loss that is pending, and its role is not accounted for", func(t *testing.T) {
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
