package daemon

import (
	"strings"
	"testing"
	"time"

	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/membership"
)

func TestShadowGuardReportsAndDoesNotHold(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Guard = controller.GuardShadow
		webs := c.fleet(10)
		for _, n := range webs[:6] {
			c.kill(n)
		}
		c.until("4 members", 15*time.Second, members("web", 4))
		c.converged(time.Minute)
		if n := len(strings.Fields(c.members())); n != 4 {
			t.Errorf("the run got %d members, want the 4 that are left", n)
		}
		if h := held(c.control.View()); h == nil || !h.Shadow || len(h.Nodes) != 6 {
			t.Errorf("the hold is %+v, want 6 nodes that would be held", h)
		}
		if got := c.events(api.EventHoldBegan); len(got) != 1 || !strings.Contains(got[0], "shadow") {
			t.Errorf("events of the hold: %q, want one with the word shadow", got)
		}
		for _, n := range webs[:6] {
			c.startAgent(n)
		}
		c.until("no hold", time.Minute, func(v *api.View) bool { return held(v) == nil })
		c.until("10 members", time.Minute, members("web", 10))
	})
}

func TestShadowGuardDoesNotHoldTheLastMember(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Guard = controller.GuardShadow
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", MinMembers: 0}}
		c.kill(c.fleet(1)[0])
		c.until("no members", 15*time.Second, members("web", 0))
		c.converged(time.Minute)
		if err := c.control.Lose(c.t.Context(), api.LossOrder{Object: "role/web", Accept: 1}); err != nil {
			t.Errorf("accept a loss that would be held: %v", err)
		}
		if h := held(c.control.View()); h != nil {
			t.Errorf("after it was accepted the hold is still shown: %+v", h)
		}
	})
}
