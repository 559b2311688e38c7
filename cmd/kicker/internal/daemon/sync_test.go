package daemon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
)

func TestSlowReporterAtARestartIsNotTakenForGone(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(4)
		before := len(c.ran())
		c.stopController()
		webs[3].wire.hush(true)
		c.startController()
		c.synced()
		time.Sleep(7 * time.Second) // it reports at the last moment
		webs[3].wire.hush(false)
		c.converged(time.Minute)
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("%d runs after a restart with a slow reporter, want none: %q", n, c.events(api.EventRoleChanged))
		}
	})
}

func TestRoleWaitsForMembersThatItsDependentsKnowOf(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(4)
		c.stopController()
		webs[3].wire.silence()
		c.startController()
		c.synced()
		time.Sleep(3 * time.Second)
		gates := c.control.View().Verdicts[0].Gates
		if len(gates) != 1 || gates[0].Name != api.GateSynced || !strings.Contains(gates[0].Why, "web03") {
			t.Errorf("the gates are %+v, want one that names web03", gates)
		}
		c.until("3 members", 20*time.Second, members("web", 3))
		c.converged(time.Minute)
		if got := c.ran()[len(c.ran())-1].env["KICKER_REMOVED"]; got != "web03" {
			t.Errorf("KICKER_REMOVED is %q, want web03", got)
		}
	})
}

func TestRoleOfItsOwnPatienceIsWaitedForAsLongAfterARestart(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", GoneAfter: time.Minute}}
		webs := c.fleet(4)
		before := len(c.ran())
		c.stopController()
		webs[3].wire.hush(true) // its machine is being snapshotted
		c.startController()
		time.Sleep(40 * time.Second)
		webs[3].wire.hush(false)
		c.synced()
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("%d runs after a restart in which a member of a role with a gone_after of a minute was silent for 40 s: %q", n, c.events(api.EventRoleChanged))
		}
	})
}

func TestWhoeverComesBackOneAfterTheOtherIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		what      string
		elsewhere bool
		restart   func(c *cluster)
	}{
		{"the controller and its bus", false, func(c *cluster) { c.stopController(); c.startController() }},
		{"the bus alone", true, func(c *cluster) { c.closeBroker(); c.openBroker() }},
	} {
		t.Run(c.what, func(t *testing.T) {
			elsewhere, restart := c.elsewhere, c.restart
			inCluster(t, func(c *cluster) {
				if elsewhere {
					c.closeBroker()
					c.openBroker()
				}
				webs := c.fleet(50)
				before := len(c.ran())
				late := webs[40:]
				for _, n := range webs[5:] {
					n.wire.hush(true)
				}
				restart(c)
				for _, n := range webs[5:40] { // as handshakes take their time
					time.Sleep(400 * time.Millisecond)
					n.wire.hush(false)
				}
				for _, n := range late {
					n.wire.hush(false)
				}
				c.synced()
				c.converged(time.Minute)
				time.Sleep(time.Minute)
				if n := len(c.ran()) - before; n != 0 || len(c.events(api.EventGone)) > 0 {
					t.Errorf("%d runs, want none; gone: %q", n, c.events(api.EventGone))
				}
			})
		})
	}
}

func TestDependentThatComesBackLateIsNotKickedForMembersThatAreLateToo(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(20)
		before := len(c.ran())
		c.stopController()
		late := append(webs[5:], c.agents["lb1"])
		for _, n := range late {
			n.wire.hush(true)
		}
		c.startController()
		c.synced()
		if !members("web", 5)(c.control.View()) {
			t.Fatal("the role is not open: the test shows nothing")
		}
		time.Sleep(time.Minute) // as handshakes take their time
		c.agents["lb1"].wire.hush(false)
		time.Sleep(5 * time.Second)
		for _, n := range webs[5:] {
			n.wire.hush(false)
		}
		c.converged(time.Minute)
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 || !members("web", 20)(c.control.View()) {
			t.Errorf("%d runs, want none: %q", n, c.events(api.EventRoleChanged))
		}
	})
}

func TestServiceThatIsBeingCheckedIsNoLoss(t *testing.T) {
	for what, restart := range map[string]func(c *cluster){
		"its agent was started again":     func(*cluster) {},
		"and the controller at that time": func(c *cluster) { c.stopController(); c.startController() },
	} {
		t.Run(what, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				web := c.fleet(4)[0]
				before := len(c.ran())
				web.checks = 8 * time.Second // three successes, three seconds apart
				c.stopAgent(web)
				restart(c)
				c.startAgent(web)
				time.Sleep(time.Minute)
				c.converged(time.Minute)
				if n := len(c.ran()) - before; n != 0 || !members("web", 4)(c.control.View()) {
					t.Errorf("%d runs, want none: %q", n, c.events(api.EventRoleChanged))
				}
			})
		})
	}
}

func TestMassLossAcrossARestartIsHeld(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		before := len(c.ran())
		c.stopController()
		for _, n := range webs[:6] {
			n.wire.silence()
		}
		c.startController()
		c.until("held", time.Minute, func(v *api.View) bool { return held(v) != nil })
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 || !members("web", 10)(c.control.View()) {
			t.Errorf("%d runs after 6 of 10 were lost during a restart: %q", n, c.events(api.EventRoleChanged))
		}
	})
}

func TestHoldSurvivesARestart(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		for _, n := range webs[:6] {
			c.kill(n)
		}
		c.until("held", time.Minute, func(v *api.View) bool { return held(v) != nil })
		c.web("web99")
		c.until("11 members", time.Minute, members("web", 11))
		c.converged(time.Minute)
		before := len(c.ran())
		c.stopController()
		c.startController()
		c.until("held again", time.Minute, func(v *api.View) bool { return held(v) != nil })
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 || !members("web", 11)(c.control.View()) {
			t.Errorf("%d runs after a restart in the middle of a hold: %q", n, c.events(api.EventRoleChanged))
		}
	})
}

func TestGoodbyeDuringARestartIsNoLoss(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		c.stopController()
		for _, n := range webs[:9] {
			n.announcer.Leave()
		}
		c.startController()
		c.until("1 member", time.Minute, members("web", 1))
		c.converged(time.Minute)
		if got := c.events(api.EventHoldBegan); len(got) != 0 {
			t.Errorf("goodbyes were held: %q", got)
		}
	})
}

func TestDependentThatWasAwayForLongDoesNotRaiseTheDead(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(3)
		old := c.agents["lb1"]
		c.kill(old)
		c.lb("lb2", nil)
		for i, n := range webs { // all of them are replaced while lb1 is away
			c.web("new" + string(rune('a'+i)))
			time.Sleep(time.Minute)
			n.announcer.Leave()
			time.Sleep(time.Minute)
		}
		c.stopController()
		c.startController()
		c.synced()
		c.converged(time.Minute)
		c.startAgent(old)
		c.until("lb1", time.Minute, func(v *api.View) bool { return v.Nodes.Node("lb1") != nil })
		c.converged(time.Minute)
		last := c.ran()[len(c.ran())-1]
		if want := []string{"newa", "newb", "newc"}; last.node != "lb1" || !slices.Equal(last.members, want) {
			t.Errorf("%s was told %q, want lb1 with %q", last.node, last.members, want)
		}
		if got := c.events(api.EventHoldBegan); len(got) != 0 {
			t.Errorf("the dead were taken for lost: %q", got)
		}
	})
}
