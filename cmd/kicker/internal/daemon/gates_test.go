package daemon

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

// gauge counts runs in progress, and the most at once.
type gauge struct {
	mu        sync.Mutex
	now, most int
}

func (g *gauge) while(run func()) {
	g.mu.Lock()
	g.now++
	g.most = max(g.most, g.now)
	g.mu.Unlock()
	run()
	g.mu.Lock()
	g.now--
	g.mu.Unlock()
}

// peak is the most at once since the last call.
func (g *gauge) peak() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	most := g.most
	g.most = g.now
	return most
}

func TestBudgetHoldsAlsoAcrossAControllersRestart(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		var inProgress gauge
		run := func(ranAction) kick.Ending {
			inProgress.while(func() { time.Sleep(7 * time.Second) })
			return kick.Ending{}
		}
		c.web("web1")
		for i := range 20 {
			c.lb(fmt.Sprintf("lb%02d", i), run)
		}
		c.synced()
		time.Sleep(10 * time.Second)
		c.stopController()
		c.startController()
		c.synced()
		if took := c.converged(10 * time.Minute); took < 30*time.Second {
			t.Errorf("20 nodes converged in %s, so no node waited for the budget", took)
		}
		if most := inProgress.peak(); most != 2 {
			t.Errorf("%d of 20 nodes ran at once, want 2: a tenth", most)
		}
		if _, err := c.control.Kick(c.t.Context(), api.KickOrder{Object: "role/haproxy"}); err != nil {
			t.Fatal(err)
		}
		c.until("all run again", 10*time.Minute, func(*api.View) bool { return len(c.ran()) == 40 })
		if most := inProgress.peak(); most > 2 {
			t.Errorf("after an ordered kick %d of 20 nodes ran at once, want 2", most)
		}
	})
}

func TestRunWithoutItsAgentCountsInTheBudget(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		const takes = 3 * time.Minute
		var inProgress gauge
		run := func(ranAction) kick.Ending {
			inProgress.while(func() { time.Sleep(takes) })
			return kick.Ending{}
		}
		c.web("web1")
		for i := range 20 {
			c.lb(fmt.Sprintf("lb%02d", i), run)
		}
		c.synced()
		c.until("two runs", time.Minute, func(*api.View) bool { return len(c.ran()) == 2 })
		killed, reconfigured := c.agents[c.ran()[0].node], c.agents[c.ran()[1].node]
		c.kill(killed)
		c.stopAgent(reconfigured)
		reconfigured.cfg.Agent.Actions = nil
		c.startAgent(reconfigured)
		time.Sleep(50 * time.Second)
		if n := len(c.ran()); n != 2 {
			t.Errorf("%d nodes run at once, want 2: a tenth", n)
		}
		c.until("a third run, a minute after a node went", 20*time.Second, func(*api.View) bool { return len(c.ran()) == 3 })
		time.Sleep(time.Minute)
		if n := len(c.ran()); n != 3 {
			t.Errorf("%d runs began, want 3: the other node is there, and runs", n)
		}
		c.startAgent(killed)
		c.until("a fourth run, after the report of the other one", 2*time.Minute, func(*api.View) bool { return len(c.ran()) == 4 })
		if most := inProgress.peak(); most != 3 {
			t.Errorf("%d of 20 nodes ran at once, want 3: two, and one on a node that was gone for a minute", most)
		}
	})
}

func TestRunOfARemovedActionCountsForTheNextController(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		for i := range 5 {
			c.lb(fmt.Sprintf("lb%d", i), succeedsIn(3*time.Minute))
		}
		c.synced()
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) == 1 })
		n := c.agents[c.ran()[0].node]
		c.stopAgent(n)
		n.cfg.Agent.Actions = nil
		c.startAgent(n)
		c.stopController()
		c.startController()
		c.synced()
		time.Sleep(2 * time.Minute)
		if runs := len(c.ran()); runs != 1 {
			t.Errorf("%d nodes run at once, want 1: a tenth", runs)
		}
		c.until("another run after its end", 2*time.Minute, func(*api.View) bool { return len(c.ran()) == 2 })
	})
}

func TestFailingRevisionIsTriedOnOneNodeAtATime(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "haproxy", Budget: "100%"}}
		c.startController()
		var inProgress gauge
		var mu sync.Mutex
		broken := false // whatever the members are: no quarantine helps
		run := func(r ranAction) (e kick.Ending) {
			inProgress.while(func() { time.Sleep(time.Second) })
			mu.Lock()
			defer mu.Unlock()
			if broken {
				e.Exit = 1
			}
			return e
		}
		c.web("web1")
		for i := range 12 {
			c.lb(fmt.Sprintf("lb%02d", i), run)
		}
		c.synced()
		c.converged(time.Minute)
		if most := inProgress.peak(); most != 12 {
			t.Errorf("%d of 12 nodes ran at once, want all: the budget is 100%%", most)
		}
		mu.Lock()
		broken = true
		mu.Unlock()
		c.web("web2")
		c.until("failures", time.Minute, func(v *api.View) bool { return v.Counts.Runs[kick.Failed] >= 12 })
		time.Sleep(3 * time.Second)
		inProgress.peak()
		before := len(c.ran())
		time.Sleep(10 * time.Minute)
		tries := c.ran()[before:]
		if most := inProgress.peak(); most != 1 || len(tries) == 0 {
			t.Errorf("%d nodes at once, in %d runs, tried the revision that had failed on 12, want one at a time", most,
				len(tries))
		}
		var tried []string
		for _, r := range tries[:min(12, len(tries))] {
			tried = append(tried, r.node)
		}
		slices.Sort(tried)
		if len(slices.Compact(tried)) < 10 {
			t.Errorf("the first 12 tries were on %v, want the least recently tried node each time", tried)
		}
		mu.Lock()
		broken = false
		mu.Unlock()
		c.until("a success", 20*time.Minute, func(v *api.View) bool { return v.Counts.Runs[kick.Succeeded] > 12 })
		c.converged(11 * time.Minute) // the longest backoff, and a run
	})
}

func TestMinMembersKeepsDependentsFromAShortList(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", MinMembers: 2}}
		web1 := c.begin(2)[0]
		before := len(c.ran())
		web1.announcer.Leave()
		c.until("one member", time.Minute, members("web", 1))
		time.Sleep(20 * time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("%d runs with one member of a role whose min_members is 2", n)
		}
		if gates := c.control.View().Verdicts[0].Gates; len(gates) != 1 || gates[0].Name != api.GateMinMembers {
			t.Errorf("the gates are %+v, want min_members", gates)
		}
		c.web("web3")
		c.converged(time.Minute)
		if got := c.members(); got != "web2 web3" {
			t.Errorf("with two members again the run got %q, want web2 web3", got)
		}
	})
}

func TestMembersThatJoinBehindAGateCauseOneRun(t *testing.T) {
	for claim, roles := range map[string][]membership.RoleConfig{
		"unknown role": nil,
		"min_members":  {{Name: "web", MinMembers: 2}},
	} {
		t.Run(claim, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				c.cfg.Roles = roles
				c.startController()
				c.lb("lb1", nil)
				c.synced()
				time.Sleep(time.Minute)
				if v := c.control.View().Verdicts[0]; len(v.Gates) != 1 || v.Gates[0].Name != claim {
					t.Fatalf("the gates are %+v, want %s", v.Gates, claim)
				}
				began := time.Now()
				for i := range 5 {
					c.web(fmt.Sprintf("web%d", i+1))
					time.Sleep(100 * time.Millisecond)
				}
				c.until("5 members", time.Minute, members("web", 5))
				c.converged(time.Minute)
				time.Sleep(time.Minute)
				runs := c.ran()
				if len(runs) != 1 || c.members() != "web1 web2 web3 web4 web5" {
					t.Fatalf("%d runs, the last with %q; want one with all", len(runs), c.members())
				}
				if took := runs[0].started.Sub(began); took < c.cfg.Settle || took > c.cfg.Settle+time.Second {
					t.Errorf("the run started %s after the first member joined, want %s and little more", took,
						c.cfg.Settle)
				}
			})
		})
	}
}

func TestSameNarrowsADependencyToMembersWithTheSameFact(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		start := func(name, role, env string, actions ...kick.Action) *node {
			n := c.node(name)
			n.cfg.Agent.Roles, n.cfg.Agent.Facts = []string{role}, append(n.cfg.Agent.Facts, "environment="+env)
			n.cfg.Agent.Actions = actions
			c.startAgent(n)
			return n
		}
		reload := kick.Action{Name: "reload", Command: []string{"reload"}, DependsOn: []string{"web same=environment"}}
		for _, env := range []string{"production", "staging"} {
			start("web1-"+env, "web", env)
			start("lb-"+env, "haproxy", env, reload)
		}
		c.synced()
		c.converged(time.Minute)
		start("web2-staging", "web", "staging")
		c.until("web2", time.Minute, func(v *api.View) bool { return v.Nodes.Node("web2-staging") != nil })
		c.converged(time.Minute)
		got := map[string][]string{}
		for _, r := range c.ran() {
			got[r.node] = append(got[r.node], strings.Join(r.members, " "))
		}
		if want := []string{"web1-production"}; !slices.Equal(got["lb-production"], want) {
			t.Errorf("the balancer of production got %q, want %q, without staging", got["lb-production"], want)
		}
		if want := []string{"web1-staging", "web1-staging web2-staging"}; !slices.Equal(got["lb-staging"], want) {
			t.Errorf("the balancer of staging got %q, want %q", got["lb-staging"], want)
		}
	})
}

func TestDependencyOnAMissingFactKicksNothing(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		lb := c.node("lb1")
		lb.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"},
			DependsOn: []string{"web same=environment"}}}
		c.startAgent(lb)
		c.synced()
		time.Sleep(time.Minute)
		if n := len(c.ran()); n != 0 {
			t.Errorf("%d runs of an action whose dependency is not known, want none", n)
		}
		v := c.control.View().Verdicts[0]
		if v.State != api.Pending || len(v.Gates) != 1 || !strings.Contains(v.Gates[0].Why, "no fact environment") {
			t.Errorf("the verdict is %+v, want one gate that names the fact", v)
		}
		const why = `node lb1: action reload: depends_on "web same=environment": the node itself has no fact environment`
		if texts := c.events(api.EventInvalidMessage); !slices.Contains(texts, "invalid message: "+why) {
			t.Errorf("the events are %q, want %q among them", texts, why)
		}
		web2 := c.node("web2") // more nodes may get this fact within the settle time
		web2.cfg.Agent.Roles, web2.cfg.Agent.Facts = []string{"web"}, append(web2.cfg.Agent.Facts, "environment=prod")
		c.startAgent(web2)
		time.Sleep(time.Minute)
		changed := time.Now()
		if err := lb.announcer.SetFacts(inventory.Facts{"environment": "prod"}); err != nil {
			t.Fatal(err)
		}
		c.converged(10 * time.Second)
		if runs := c.ran(); len(runs) != 1 || runs[0].started.Sub(changed) < c.cfg.Settle {
			t.Errorf("the runs are %+v, want one, after the fact and its settle time", runs)
		}
	})
}

func TestObservedActionIsShownAndKickedAfterwards(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Mode = plan.ModeObserve
		c.startController()
		c.web("web1")
		c.lb("lb1", nil)
		c.synced()
		observes := func() {
			t.Helper()
			time.Sleep(20 * time.Minute)
			v := c.control.View().Verdicts[0]
			if len(c.ran()) != 0 || v.State != api.Pending || len(v.Gates) != 1 || v.Gates[0].Name != api.GateObserve {
				t.Fatalf("%d runs, %+v: want none, and an action that only waits for its mode", len(c.ran()), v)
			}
		}
		observes()
		c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "web", Mode: plan.ModeAct},
				{Name: "haproxy", Mode: plan.ModeObserve}}
		})
		observes()
		c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "haproxy", Mode: plan.ModeAct}}
		})
		c.converged(10 * time.Second)
		c.reload(func(cfg *controller.Config) { cfg.Mode, cfg.Roles = plan.ModeAct, nil })
		time.Sleep(time.Minute)
		if n := len(c.ran()); n != 1 {
			t.Errorf("%d runs, want one", n)
		}
	})
}
