package daemon

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// restless starts a node whose runs change its own port while restless is true.
func (c *cluster) restless(name, role, dependsOn string, restless *atomic.Bool) *node {
	n := c.node(name)
	n.cfg.Agent.Roles = []string{role}
	n.cfg.Agent.Facts = []string{"ipaddress=10.0.0.1", "port=8000"}
	n.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"}, DependsOn: []string{dependsOn}}}
	port := 8000
	n.do = func(ranAction) kick.Ending {
		time.Sleep(time.Second)
		if !restless.Load() {
			return kick.Ending{}
		}
		port++
		if err := n.announcer.SetFacts(inventory.Facts{"role": role, "ipaddress": "10.0.0.1",
			"port": port}); err != nil {
			c.t.Errorf("facts of %s: %v", name, err)
		}
		return kick.Ending{}
	}
	c.startAgent(n)
	return n
}

// runsOf is how many runs of a node began in [from, to).
func (c *cluster) runsOf(node string, from, to time.Time) int {
	n := 0
	for _, r := range c.ran() {
		if r.node == node && !r.started.Before(from) && r.started.Before(to) {
			n++
		}
	}
	return n
}

// damped reports whether an action of a node waits because runs change member facts.
func damped(node string) func(*api.View) bool {
	return func(v *api.View) bool {
		return slices.ContainsFunc(v.Verdicts, func(verdict api.Verdict) bool {
			return verdict.Node == node && slices.ContainsFunc(verdict.Gates, func(g api.Gate) bool {
				return g.Name == api.GateBackoff &&
					strings.Contains(g.Why, "every run changes a member fact that it depends on: port of ")
			})
		})
	}
}

func TestRunsThatChangeMemberFactsAreDampedAndJoinsAreNot(t *testing.T) {
	// Without damping two kicks are 5 to 6 s apart, which makes about 650 an hour. The first one and 5 more come
	// without a wait, then with waits of 1, 2, 4, 8 and 10 minutes. A cycle of several roles is detected within a
	// minute, and not at once.
	for _, test := range []struct {
		name, dependsOn string
		most            int
	}{{"a role that depends on itself", "lb", 18}, {"a cycle", "web", 30}} {
		dependsOn := test.dependsOn
		t.Run(test.name, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				c.startController()
				var restless atomic.Bool
				restless.Store(true)
				c.restless("lb1", "lb", dependsOn, &restless)
				if dependsOn == "web" {
					c.restless("web1", "web", "lb", &restless)
				}
				c.synced()
				began := time.Now()
				time.Sleep(time.Hour)
				if n := c.runsOf("lb1", began, time.Now()); n < 10 || n > test.most {
					t.Errorf("%d runs in an hour that only other runs caused, want 10 to %d", n, test.most)
				}
				if texts := c.events(api.EventDampingBegan); len(texts) != len(c.agents) {
					t.Errorf("damping began: %q, want one event of each action", texts)
				}

				c.until("it waits", 20*time.Minute, damped("lb1"))
				joined := time.Now()
				newcomer := c.node("new1")
				newcomer.cfg.Agent.Roles = []string{dependsOn}
				newcomer.cfg.Agent.Facts = []string{"ipaddress=10.0.0.9", "port=8080"}
				c.startAgent(newcomer)
				took := c.until("kicked for a join", 3*time.Second,
					func(*api.View) bool { return c.runsOf("lb1", joined, time.Now().Add(1)) > 0 })
				if took < c.cfg.Settle {
					t.Errorf("it was kicked %s after a join, want %s, so that others may join", took, c.cfg.Settle)
				}
				if len(c.events(api.EventDampingEnded)) == 0 {
					t.Error("no event says that damping ended")
				}

				restless.Store(false)
				c.converged(20 * time.Minute)
				time.Sleep(21 * time.Minute)
				if began, over := len(c.events(api.EventDampingBegan)),
					len(c.events(api.EventDampingEnded)); began != over {
					t.Errorf("damping began %d times and ended %d times, want as many, long after the last change",
						began, over)
				}
			})
		})
	}
}

func TestRunsAfterAChangeOutsideTheirCycleAreNotDamped(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		var restless atomic.Bool
		restless.Store(true)
		c.restless("web1", "web", "db", &restless)
		c.lb("lb1", nil)
		db := c.node("db1")
		db.cfg.Agent.Roles = []string{"db"}
		c.startAgent(db)
		c.synced()
		c.converged(time.Minute)
		for i := range 12 {
			before := len(c.ran())
			if err := db.announcer.SetFacts(inventory.Facts{"role": "db", "ipaddress": "10.0.0.1", "port": 1 + i}); err != nil {
				t.Fatal(err)
			}
			c.until("both have run", 20*time.Second, func(*api.View) bool { return len(c.ran()) == before+2 })
			c.converged(20 * time.Second)
		}
		if texts := c.events(api.EventDampingBegan); len(texts) != 0 {
			t.Errorf("damping began: %q, want none: each run has its change", texts)
		}
	})
}

func TestCycleIsReportedOnceAndShownWhileItLasts(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		var restless atomic.Bool
		c.restless("lb1", "lb", "web", &restless)
		web := c.restless("web1", "web", "lb", &restless)
		c.restless("peer1", "peer", "peer", &restless)
		c.synced()
		c.until("a cycle", 2*time.Minute, func(v *api.View) bool {
			return len(v.Cycles) == 1 && slices.Equal(v.Cycles[0].Roles, []string{"lb", "web"})
		})
		time.Sleep(10 * time.Minute)
		if texts := c.events(api.EventCycleBegan); len(texts) != 1 ||
			!strings.HasPrefix(texts[0], "roles lb → web → lb depend on each other") {
			t.Errorf("cycle began: %q, want one event", texts)
		}
		c.stopAgent(web)
		web.cfg.Agent.Actions = nil
		c.startAgent(web)
		c.until("no cycle", 2*time.Minute, func(v *api.View) bool { return len(v.Cycles) == 0 })
		if texts := c.events(api.EventCycleEnded); len(texts) != 1 {
			t.Errorf("cycle ended: %q, want one event", texts)
		}
	})
}
