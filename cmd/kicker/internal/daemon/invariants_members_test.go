package daemon

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

// balanced is a cluster with five webs and so many balancers that have applied them. A run that is handed web6 ends
// as bad says.
func (c *cluster) balanced(balancers int, timeout time.Duration, bad func() kick.Ending) {
	c.t.Helper()
	c.startController()
	for i := range 5 {
		c.web(fmt.Sprint("web", i+1))
	}
	for i := range balancers {
		n := c.node(fmt.Sprintf("lb%02d", i))
		n.cfg.Agent.Roles = []string{"haproxy"}
		n.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"}, DependsOn: []string{"web"},
			Timeout: timeout, Grace: runGrace}}
		n.do = func(r ranAction) kick.Ending {
			if slices.Contains(r.members, "web6") {
				return bad()
			}
			time.Sleep(time.Second)
			return kick.Ending{}
		}
		c.startAgent(n)
	}
	c.synced()
	c.converged(5 * time.Minute)
}

// unusedWithin waits until no balancer uses a web.
func (c *cluster) unusedWithin(web string, most time.Duration) time.Duration {
	c.t.Helper()
	return c.until(web+" is used by no balancer", most, func(v *api.View) bool {
		return !slices.ContainsFunc(v.Verdicts, func(v api.Verdict) bool { return c.uses(v.Node, web) })
	})
}

// quarantined reports whether a node is quarantined in role web.
func quarantined(v *api.View, node string) bool {
	return slices.ContainsFunc(v.Roles, func(r api.Role) bool {
		return r.Name == "web" && slices.ContainsFunc(r.Quarantined, func(q api.Quarantined) bool { return q.Node == node })
	})
}

func TestInvariant25RemovalArrivesThoughEveryRunHangs(t *testing.T) {
	inCluster(t, func(c *cluster) {
		const timeout = 10 * time.Minute
		c.balanced(20, timeout, func() kick.Ending {
			time.Sleep(timeout + runGrace)
			return kick.Ending{Exit: -1, TimedOut: true, Signal: "killed"}
		})
		c.web("web6")
		time.Sleep(30 * time.Second)
		c.kill(c.agents["web1"])
		took := c.unusedWithin("web1", time.Hour)
		// The first runs are overdue after a minute. Four of them hang until their deadline, then one tries without web6.
		if most := timeout + runGrace + 3*time.Minute; took > most {
			t.Errorf("the removal of web1 took %s, want %s at most", took, most)
		}
		runs, most := c.ran(), 0
		for _, r := range runs {
			hanging := 0
			for _, other := range runs {
				inProgress := !other.started.After(r.started) && (other.ended.IsZero() || other.ended.After(r.started))
				if inProgress && slices.Contains(other.members, "web6") {
					hanging++
				}
			}
			most = max(most, hanging)
		}
		if most > 4 {
			t.Errorf("%d runs hung at once, want twice the budget at most, 4", most)
		}
	})
}

func TestInvariant25RemovalArrivesThoughANodeComesAndGoes(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.balanced(5, time.Minute, func() kick.Ending {
			time.Sleep(time.Second)
			return kick.Ending{Exit: 1}
		})
		c.web("web6")
		c.web("web7")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			web7 := c.agents["web7"]
			for {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Second):
				}
				web7.announcer.Leave()
				time.Sleep(2 * time.Second)
				c.stopAgent(web7)
				c.startAgent(web7)
			}
		}()
		time.Sleep(5 * time.Second)
		c.kill(c.agents["web1"])
		took := c.unusedWithin("web1", time.Hour)
		out := quarantined(c.control.View(), "web6")
		close(stop)
		<-stopped
		if took > 5*time.Minute || !out {
			t.Errorf("the removal of web1 took %s, want 5 min at most; web6 is quarantined: %t", took, out)
		}
	})
}

// The only dependent is away when a controller starts, so nothing is known of what it applied.
func TestInvariant25RemovalArrivesAtADependentThatWasAway(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.balanced(1, time.Minute, func() kick.Ending {
			time.Sleep(time.Second)
			return kick.Ending{Exit: 1}
		})
		lb := c.agents["lb00"]
		lb.wire.stall(true)
		time.Sleep(20 * time.Second) // it is gone
		c.stopController()
		c.startController()
		c.synced()
		c.web("web6")
		time.Sleep(time.Minute)
		lb.wire.stall(false)
		time.Sleep(10 * time.Second)
		c.kill(c.agents["web1"])
		if took := c.unusedWithin("web1", time.Hour); took > 5*time.Minute {
			t.Errorf("the removal of web1 took %s, want 5 min at most", took)
		}
	})
}
