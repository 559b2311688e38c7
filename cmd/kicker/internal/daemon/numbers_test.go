package daemon

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
)

// The numbers that kicker promises, on virtual time: they measure how long it waits, not how fast a machine is.
// docs/explanation/performance.md has them beside measured times.

// actedWithin wants the first run after so many to start within most after began.
func (c *cluster) actedWithin(most time.Duration, before int, began time.Time) {
	c.t.Helper()
	c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) > before })
	took := c.ran()[before].started.Sub(began)
	c.t.Logf("the dependent's action started after %s", took)
	if took > most {
		c.t.Errorf("with %d nodes the dependent's action started after %s, want %s", len(c.agents), took, most)
	}
}

// wantGone wants so many nodes to be gone, and no others.
func (c *cluster) wantGone(meant int) {
	c.t.Helper()
	if gone := c.control.View().Counts.Events[api.EventGone]; gone != int64(meant) {
		c.t.Errorf("%d nodes are gone, want %d: %q", gone, meant, c.events(api.EventGone))
	}
}

func TestNumber500JoinsIn30sCauseSixKicks(t *testing.T) {
	const joins, within = 500, 30 * time.Second
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web")
		c.lb("lb1", succeedsIn(2*time.Second))
		c.synced()
		c.converged(10 * time.Second)
		time.Sleep(time.Minute) // calm
		before, joined := len(c.ran()), map[string]time.Time{}
		for i := range joins {
			name := fmt.Sprintf("web%03d", i)
			joined[name] = time.Now()
			c.web(name)
			time.Sleep(within / joins)
		}
		c.until("all members", 10*time.Second, members("web", joins+1))
		c.converged(time.Minute)

		runs := c.ran()[before:]
		var slowest time.Duration
		if len(runs) > 6 {
			t.Errorf("%d joins in %s caused %d kicks, want at most 6", joins, within, len(runs))
		}
		if took := runs[0].started.Sub(joined["web000"]); took > 3*time.Second {
			t.Errorf("the first kick came %s after the first join, want 3s", took)
		}
		for name, at := range joined {
			i := slices.IndexFunc(runs, func(r ranAction) bool { return slices.Contains(r.members, name) })
			if i < 0 {
				t.Errorf("%s was never applied", name)
			} else {
				slowest = max(slowest, runs[i].ended.Sub(at))
			}
		}
		if slowest > 30*time.Second {
			t.Errorf("a member was applied %s after it joined, want 30s", slowest)
		}
		t.Logf("%d kicks, the first after %s, every member applied within %s", len(runs),
			runs[0].started.Sub(joined["web000"]), slowest)
		c.wantGone(0)
	})
}

func TestNumberChurnIsFollowedWithin6s(t *testing.T) {
	const every, changes = 9 * time.Second, 400 // an hour
	inCluster(t, func(c *cluster) {
		c.startController()
		web := c.web("web1")
		c.web("web2")
		c.lb("lb1", succeedsIn(200*time.Millisecond))
		c.synced()
		c.converged(10 * time.Second)
		time.Sleep(time.Minute) // calm
		var changed []time.Time
		before := len(c.ran())
		for i := range changes {
			changed = append(changed, time.Now())
			if err := web.announcer.SetFacts(inventory.Facts{"role": "web", "ipaddress": "10.0.0.1",
				"port": 8000 + i}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(every)
		}
		c.converged(time.Minute)
		runs := c.ran()[before:]
		var took []time.Duration
		for _, at := range changed {
			next := slices.IndexFunc(runs, func(r ranAction) bool { return r.started.After(at) })
			if next < 0 {
				t.Fatalf("no run after the change at %s", at)
			}
			took = append(took, runs[next].started.Sub(at))
		}
		slices.Sort(took)
		t.Logf("%d runs; a change starts its kick within %s in the middle, %s at most", len(runs), took[len(took)/2],
			took[len(took)-1])
		if p99 := took[len(took)*99/100]; p99 > 6*time.Second {
			t.Errorf("a change started its kick within %s at the 99th percentile, want 6s; at most %s", p99,
				took[len(took)-1])
		}
		if len(runs) > changes {
			t.Errorf("%d changes caused %d runs", changes, len(runs))
		}
		c.wantGone(0)
	})
}

func TestNumberKilledAgentIsRemovedIn2500ms(t *testing.T) {
	for _, nodes := range []int{10, 1000} {
		t.Run(fmt.Sprintf("nodes=%d", nodes), func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				killed := c.ofSize(nodes)
				before, began := len(c.ran()), time.Now()
				c.kill(killed)
				c.actedWithin(2500*time.Millisecond, before, began)
				c.wantGone(1)
			})
		})
	}
}

func TestNumberDeadLinkIsRemovedIn4500ms(t *testing.T) {
	for _, nodes := range []int{10, 1000} {
		t.Run(fmt.Sprintf("nodes=%d", nodes), func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				c.cfg.GoneAfter = 3500 * time.Millisecond
				cutOff := c.ofSize(nodes)
				before, began := len(c.ran()), time.Now()
				cutOff.wire.silence()
				c.actedWithin(4500*time.Millisecond, before, began)
				c.wantGone(1)
			})
		})
	}
}

func TestNumberLeaveTakesEffectIn50ms(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Settle = 0
		leaving := c.ofSize(10)
		before, began := len(c.ran()), time.Now()
		if _, err := inventory.RequestLeave(c.t.Context(), c.visitor(), c.cfg.Cluster, leaving.self.Node, false); err != nil {
			t.Fatal(err)
		}
		c.actedWithin(50*time.Millisecond, before, began)
		c.wantGone(0)
	})
}

// ofSize starts a cluster of so many nodes: webs and one dependent. All is calm when it returns one of the webs.
func (c *cluster) ofSize(nodes int) *node {
	c.t.Helper()
	c.startController()
	web := c.web("web0")
	for i := range nodes - 2 {
		c.web(fmt.Sprintf("web%d", i+1))
	}
	c.lb("lb1", nil)
	c.synced()
	c.until("all members", time.Minute, members("web", nodes-1))
	c.converged(time.Minute)
	time.Sleep(time.Minute) // calm
	return web
}
