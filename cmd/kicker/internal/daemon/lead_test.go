package daemon

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kicker/controller"
	"kicker/controller/api"
)

func TestSecondControllerStopsAndNamesTheFirst(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.fleet(2)
		first := c.control
		c.startController()
		second := c.control
		c.control = first
		err := <-second.done
		if !errors.Is(err, controller.ErrOtherLeads) || !strings.Contains(err.Error(), first.View().Identity.ID) {
			t.Errorf("the second controller ended with %v, want an error that names %s", err, first.View().Identity.ID)
		}
		time.Sleep(time.Minute)
		if first.View().Leader != "" {
			t.Errorf("the first controller follows %s", first.View().Leader)
		}
	})
}

func TestStandbyTakesOverWhenTheLeaderIsSilent(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.fleet(3)
		first := c.control
		c.cfg.Standby = true
		c.startController()
		standby := c.control
		time.Sleep(time.Minute)
		before := len(c.ran())
		c.web("web50")
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) > before })
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 1 {
			t.Errorf("%d runs after one change with a leader and a standby, want 1", n)
		}
		if v := standby.View(); v.Leader != first.View().Identity.ID || len(v.Counts.Kicks) != 0 {
			t.Errorf("the standby follows %q and kicked %v, want the leader and none", v.Leader, v.Counts.Kicks)
		}
		first.stop()
		if err := <-first.done; err != nil {
			t.Fatal(err)
		}
		gone := time.Now()
		before = len(c.ran())
		c.web("web51")
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) > before })
		if took := time.Since(gone); took > c.cfg.GoneAfter+2*time.Second {
			t.Errorf("the standby kicked %s after the leader's end, want about gone_after, %s", took, c.cfg.GoneAfter)
		}
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 1 {
			t.Errorf("%d runs after the takeover, want 1", n)
		}
		c.wantEvent(api.EventFollows, first.View().Identity.ID+" leads cluster main with epoch ", ": this one kicks no node")
		c.wantEvent(api.EventLeads, "controller "+first.View().Identity.ID+" was silent for 10", ": this one leads now")
	})
}

func TestStandbyKeepsTheDecisionsOfTheLeader(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		first := c.control
		c.cfg.Standby = true
		c.startController()
		standby := c.control
		time.Sleep(time.Minute)
		for _, n := range webs[:6] {
			c.kill(n)
		}
		c.control = first
		c.until("held", 15*time.Second, func(v *api.View) bool { return held(v) != nil })
		if err := first.Lose(c.t.Context(), api.LossOrder{Object: "role/web", Accept: 6}); err != nil {
			t.Error(err)
		}
		c.control = standby
		time.Sleep(time.Minute)
		before := len(c.ran())
		first.stop()
		if err := <-first.done; err != nil {
			t.Fatal(err)
		}
		c.until("the takeover", time.Minute, func(v *api.View) bool { return v.Leader == "" })
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("%d runs after a takeover without a change, the last with %q, want none", n, c.members())
		}
		if v := standby.View(); held(v) != nil || !members("web", 4)(v) {
			t.Errorf("after the takeover the guard holds %+v, want nothing: the loss was accepted", held(v))
		}
		c.kill(webs[6])
		c.until("3 members", 15*time.Second, members("web", 3))
		c.converged(time.Minute)
		if n := len(c.ran()) - before; n != 1 {
			t.Errorf("%d runs after one death under the new leader, want 1", n)
		}
	})
}

func TestOfTwoLeadersThatMeetOneStandsDown(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Standby = true
		var apart atomic.Bool // they receive nothing from each other
		apart.Store(true)
		c.drop = func(_, subject string) bool { return apart.Load() && strings.HasSuffix(subject, ".controller") }
		c.fleet(3)
		first := c.control
		c.startController()
		second := c.control
		time.Sleep(30 * time.Second)
		if first.View().Leader != "" || second.View().Leader != "" {
			t.Fatal("they know each other, so this test proves nothing")
		}
		apart.Store(false)
		time.Sleep(time.Minute)
		leaders := 0
		for _, ctl := range []*controlled{first, second} {
			if ctl.View().Leader == "" {
				leaders++
			}
		}
		if leaders != 1 {
			t.Errorf("%d of two controllers that met lead, want 1", leaders)
		}
		first.stop()
		if err := <-first.done; err != nil {
			t.Error(err)
		}
	})
}
