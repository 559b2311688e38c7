package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
)

// fleet starts nodes web00, web01 and so on, in two racks, and lb1. All is calm when it returns.
func (c *cluster) fleet(webs int) []*node {
	c.t.Helper()
	c.startController()
	nodes := make([]*node, webs)
	for i := range nodes {
		n := c.node(fmt.Sprintf("web%02d", i))
		n.cfg.Agent.Roles = []string{"web"}
		n.cfg.Agent.Facts = []string{"ipaddress=10.0.0.1", "port=8080", fmt.Sprintf("rack=%d", i/(webs/2+1))}
		c.startAgent(n)
		nodes[i] = n
	}
	c.lb("lb1", nil)
	c.synced()
	c.converged(time.Minute)
	time.Sleep(2 * time.Minute)
	return nodes
}

// loseSix starts a fleet of ten, kills six of them, and waits until their removal is held. It returns the fleet.
func (c *cluster) loseSix() []*node {
	c.t.Helper()
	webs := c.fleet(10)
	for _, n := range webs[:6] {
		c.kill(n)
	}
	c.until("held", 15*time.Second, func(v *api.View) bool { return held(v) != nil })
	return webs
}

// held is what the guard of role web holds, nil for nothing.
func held(v *api.View) *api.Held {
	for _, r := range v.Roles {
		if r.Name == "web" {
			return r.Held
		}
	}
	return nil
}

func TestMassLossIsHeldBeforeTheFirstRemoval(t *testing.T) {
	for name, lose := range map[string]func(*cluster, *node){
		"closed connections": func(c *cluster, n *node) { c.kill(n) },
		"silence":            func(_ *cluster, n *node) { n.wire.silence() },
		"readiness":          func(_ *cluster, n *node) { n.announcer.SetReady(false, "database is away") },
		"a fact":             func(_ *cluster, n *node) { _ = n.announcer.SetFacts(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				webs := c.fleet(10)
				before := len(c.ran())
				for _, n := range webs[:6] {
					lose(c, n)
				}
				c.until("held", 15*time.Second, func(v *api.View) bool { return held(v) != nil })
				time.Sleep(2 * time.Minute)
				if n := len(c.ran()) - before; n != 0 || !members("web", 10)(c.control.View()) {
					t.Errorf("%d runs after 6 of 10 were lost at once, want none: %q", n,
						c.events(api.EventRoleChanged))
				}
				c.web("web99")
				c.until("the addition", time.Minute, members("web", 11))
				c.converged(time.Minute)
				if n := len(strings.Fields(c.members())); n != 11 {
					t.Errorf("after a join the run got %d members, want 11: a hold does not stop additions", n)
				}
			})
		})
	}
}

func TestHoldEndsWhenTheLostAreBack(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.loseSix()
		before := len(c.ran())
		if why := held(c.control.View()).Why; !strings.Contains(why, "all rack=0") {
			t.Errorf("the hold says %q, want the fact that the lost nodes share", why)
		}
		time.Sleep(time.Minute)
		for _, n := range webs[:6] {
			c.startAgent(n)
		}
		c.until("no hold", time.Minute, func(v *api.View) bool { return held(v) == nil })
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("%d runs though all are back, want none", n)
		}
		c.wantEvent(api.EventHoldBegan,
			"role web: removals are held: 6 of 10 are gone or suspect within 1m, all rack=0")
		c.wantEvent(api.EventHoldEnded, "role web: removals are no longer held: ")
	})
}

func TestOperatorAcceptsALoss(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.loseSix()
		if err := c.control.Lose(c.t.Context(), api.LossOrder{Object: "role/web", Accept: 6, By: "alice"}); err != nil {
			t.Fatal(err)
		}
		c.until("4 members", time.Second, members("web", 4))
		c.converged(time.Minute)
		if n := len(strings.Fields(c.members())); n != 4 {
			t.Errorf("after the loss was accepted the run got %d members, want 4", n)
		}
		if err := c.control.Lose(c.t.Context(), api.LossOrder{Object: "role/web", Accept: 6}); err == nil {
			t.Error("a loss was accepted, and nothing is held")
		}
		c.wantEvent(api.EventHoldEnded, "role web: alice accepts the loss of 6")
	})
}

func TestExpectedLossIsNotHeld(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		if err := c.control.Lose(c.t.Context(),
			api.LossOrder{Object: "role/web", Expect: 70, For: 15 * time.Minute}); err != nil {
			t.Fatal(err)
		}
		for _, n := range webs[:6] {
			c.kill(n)
		}
		c.until("4 members", 10*time.Second, members("web", 4))
		c.converged(time.Minute)
		c.wantEvent(api.EventLossExpected, "role web: an operator expects a loss of up to 70 % for 15m")
		if got := c.events(api.EventHoldBegan); len(got) != 0 {
			t.Errorf("an expected loss is held: %q", got)
		}
	})
}

func TestLastMemberIsHeldWhateverTheSize(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(1)
		before := len(c.ran())
		c.kill(webs[0])
		c.until("held", 15*time.Second, func(v *api.View) bool { return held(v) != nil })
		time.Sleep(20 * time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("%d runs with an empty list, and no node left", n)
		}
		if held(c.control.View()) == nil {
			t.Error("the hold ended by itself, and the role is empty")
		}
	})
}

func TestScaleToZeroWithLeaveIsNotHeld(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", MinMembers: 0}}
		for _, n := range c.fleet(10) {
			n.announcer.Leave()
		}
		c.until("no members", 10*time.Second, members("web", 0))
		c.converged(time.Minute)
		if got := c.events(api.EventHoldBegan); len(got) != 0 {
			t.Errorf("nodes that left are held: %q", got)
		}
	})
}

func TestBlueGreenIsNotHeld(t *testing.T) {
	inCluster(t, func(c *cluster) {
		blue := c.fleet(10)
		for i := range 10 {
			c.web(fmt.Sprintf("green%d", i))
		}
		c.until("20 members", 10*time.Second, members("web", 20))
		time.Sleep(2 * time.Minute)
		for _, n := range blue[:9] {
			n.announcer.Leave()
		}
		c.kill(blue[9])
		c.until("10 members", 10*time.Second, members("web", 10))
		c.converged(time.Minute)
		if got := c.events(api.EventHoldBegan); len(got) != 0 {
			t.Errorf("replaced nodes are held: %q", got)
		}
	})
}

func TestReplacementsAfterTheLossEndTheHold(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.loseSix()
		for i := range 6 {
			c.web(fmt.Sprintf("new%d", i))
		}
		c.until("10 members", 10*time.Second, members("web", 10))
		c.converged(time.Minute)
		c.wantEvent(api.EventHoldEnded, "role web: removals are no longer held: ")
	})
}

func TestSlowLossIsHeldToo(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.reaches = func(string, string) bool { return true }
		webs := c.fleet(10)
		for _, n := range webs[:6] {
			c.kill(n)
			time.Sleep(3 * time.Minute)
		}
		if !members("web", 8)(c.control.View()) || held(c.control.View()) == nil {
			t.Errorf("6 of 10 died one by one, role web: %q; want the third death held", c.events(api.EventRoleChanged))
		}
	})
}

func TestFewLossesAreNotHeld(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		c.kill(webs[0])
		c.kill(webs[1])
		c.until("8 members", 10*time.Second, members("web", 8))
		c.converged(time.Minute)
	})
}

func TestSuspectNodeIsAMemberAndRevivesWithOneHeartbeat(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(3)
		before := len(c.ran())
		webs[0].wire.hush(true)
		c.until("suspect", 5*time.Second, func(v *api.View) bool { return v.Nodes.Node("web00").Life == "suspect" })
		webs[0].wire.hush(false)
		c.until("alive", 2*time.Second, func(v *api.View) bool { return v.Nodes.Node("web00").Life == "alive" })
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("a suspect node caused %d runs, want none", n)
		}
	})
}

func TestHoldEndsWhenDependentsConfirmTheLoss(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.loseSix()
		took := c.until("4 members", 10*time.Minute, members("web", 4))
		if took < 3*time.Minute-time.Second || took > 3*time.Minute+10*time.Second {
			t.Errorf("an undisputed hold ended after %s, want 3 minutes", took)
		}
		c.wantEvent(api.EventHoldEnded, "role web: the loss of 6 members is accepted: lb1 cannot reach them either")
		c.converged(time.Minute)
		c.kill(webs[6])
		if took := c.until("3 members", 10*time.Minute, members("web", 3)); took > 15*time.Second {
			t.Errorf("the next death took %s, want 15 s at most: the ended hold must not delay it", took)
		}
	})
}

func TestLossThatDependentsDisputeStaysHeld(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.reaches = func(from, address string) bool { return from == "lb1" && address == "10.0.0.1:8080" }
		webs := c.fleet(10)
		before := len(c.ran())
		for _, n := range webs[:6] {
			n.wire.silence()
		}
		c.until("held", 15*time.Second, func(v *api.View) bool { return held(v) != nil })
		time.Sleep(20 * time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("%d runs though lb1 still reaches the lost nodes", n)
		}
		if h := held(c.control.View()); h == nil || !strings.Contains(h.Probe, "lb1 reaches 10.0.0.1:8080") {
			t.Errorf("the hold says %+v, want which node reaches which", h)
		}
		if n := len(c.events(api.EventHoldBegan)); n > 3 {
			t.Errorf("%d events of one hold", n)
		}
	})
}
