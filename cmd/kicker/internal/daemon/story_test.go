package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

// Stories on virtual time, with the real bus, controller and agents. See cluster.

// begin starts a controller, nodes web1, web2 and so on, and lb1, which depends on them. All is converged when it
// returns.
func (c *cluster) begin(webs int) []*node {
	c.t.Helper()
	c.startController()
	nodes := make([]*node, webs)
	for i := range nodes {
		nodes[i] = c.web(fmt.Sprintf("web%d", i+1))
	}
	c.lb("lb1", nil)
	c.synced()
	c.converged(time.Minute)
	return nodes
}

func TestNodeJoiningKicksItsDependents(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.begin(1)
		if got := c.members(); got != "web1" {
			t.Errorf("the first run got %q, want web1", got)
		}
		c.web("web2")
		time.Sleep(15 * time.Second)
		if got := c.members(); got != "web1 web2" {
			t.Errorf("after web2 joined the run got %q, want web1 web2", got)
		}
		if n := len(c.ran()); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}
		if got := c.ran()[1].env["KICKER_ADDED"]; got != "web2" {
			t.Errorf("KICKER_ADDED is %q, want web2", got)
		}
	})
}

func TestFiftyJoinsMakeFewKicks(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web0")
		c.lb("lb1", nil)
		c.synced()
		c.converged(10 * time.Second)
		before := len(c.ran())
		for i := range 50 {
			c.web(fmt.Sprintf("web%d", i+1))
			time.Sleep(40 * time.Millisecond)
		}
		c.until("51 members", 5*time.Second, members("web", 51))
		c.converged(30 * time.Second)
		if n := len(c.ran()) - before; n < 1 || n > 3 {
			t.Errorf("50 joins in 2 s caused %d runs, want 1 to 3", n)
		}
		if n := len(strings.Fields(c.members())); n != 51 {
			t.Errorf("the last run got %d members, want 51", n)
		}
	})
}

func TestSilentDeathIsSeenAfterGoneAfter(t *testing.T) {
	inCluster(t, func(c *cluster) {
		dead := c.begin(2)[0]
		time.Sleep(time.Minute) // calm
		dead.wire.silence()
		took := c.until("web1 gone", time.Minute, func(v *api.View) bool { return v.Nodes.Node("web1") == nil })
		if most := c.cfg.GoneAfter + inventory.CanaryEvery; took < c.cfg.GoneAfter-time.Second || took > most {
			t.Errorf("a silent node was gone after %s, want %s or at most a heartbeat less", took, c.cfg.GoneAfter)
		}
		c.converged(10 * time.Second)
		if got := c.members(); got != "web2" {
			t.Errorf("the last run got %q, want web2", got)
		}
	})
}

func TestClosedConnectionIsSeenWithinItsGrace(t *testing.T) {
	inCluster(t, func(c *cluster) {
		dead := c.begin(2)[0]
		time.Sleep(time.Minute) // calm
		killed := time.Now()
		c.kill(dead)
		before := len(c.ran())
		c.until("a run", 10*time.Second, func(*api.View) bool { return len(c.ran()) > before })
		if took := c.ran()[before].started.Sub(killed); took > 2*time.Second {
			t.Errorf("the dependent's action started %s after the kill, want 1.5 s of grace and no settling after it",
				took)
		}
		if got := c.members(); got != "web2" {
			t.Errorf("the run got %q, want web2", got)
		}
	})
}

func TestNodeThatComesBackWithinItsGraceIsNotRemoved(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web := c.begin(2)[0] // with one alone the guard would hold it
		before := len(c.ran())
		c.kill(web)
		time.Sleep(time.Second)
		c.startAgent(web)
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("an agent that was killed and back in a second caused %d runs, want none", n)
		}
		if len(c.events(api.EventSuspect)) == 0 {
			t.Error("no node was suspect, so this test proves nothing")
		}
	})
}

func TestRestartingAgentIsNotRemoved(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web := c.begin(2)[0]
		before := len(c.ran())
		c.stopAgent(web)
		time.Sleep(50 * time.Second)
		if got := c.control.View().Nodes.Node("web1"); got == nil || got.Life != inventory.Restarting {
			t.Fatalf("50 s after SIGTERM web1 is %+v, want it restarting", got)
		}
		c.startAgent(web)
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("the upgrade of an agent caused %d runs, want none", n)
		}
		c.stopAgent(web)
		c.until("web1 gone", 70*time.Second, func(v *api.View) bool { return v.Nodes.Node("web1") == nil })
	})
}

func TestLeaveTakesEffectAtOnce(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Settle = 0
		c.begin(2)
		left, before := time.Now(), len(c.ran())
		if _, err := inventory.RequestLeave(c.t.Context(), c.visitor(), "main", "web1", false); err != nil {
			t.Fatal(err)
		}
		c.until("a run", 10*time.Second, func(*api.View) bool { return len(c.ran()) > before })
		if took := c.ran()[before].started.Sub(left); took > 50*time.Millisecond {
			t.Errorf("the dependent's action started %s after the node left, want 50ms", took)
		}
		if got := c.members(); got != "web2" {
			t.Errorf("the run got %q, want web2", got)
		}
	})
}

func TestLeavingNodeIsReleasedWhenNoDependentUsesIt(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		c.web("web2")
		c.lb("lb1", succeedsIn(20*time.Second))
		c.lb("lb2", nil)
		c.synced()
		c.converged(time.Minute)
		nc := c.visitor()
		if status, err := askLeave(c.t.Context(), nc, "main", "web1", LeaveOptions{}, nil); err != nil || status.Released {
			t.Fatalf("%+v, %v: want it not released at once", status, err)
		}
		time.Sleep(12 * time.Second) // both were kicked, and lb2 has finished
		status, err := askLeave(c.t.Context(), nc, "main", "web1", LeaveOptions{}, nil)
		if len(status.Waiting) != 1 || err != nil || !status.Received || status.Waiting[0].Node != "lb1" {
			t.Errorf("%+v, %v: want it waiting for lb1/reload", status, err)
		}
		if _, err := askLeave(c.t.Context(), nc, "main", "web1", LeaveOptions{Wait: true}, nil); err != nil {
			t.Fatal(err)
		}
		if got := c.members(); got != "web2" || c.control.View().Counts.Runs[kick.Succeeded] != 4 {
			t.Errorf("released when the last run got %q and %v ended, want both lbs with web2 alone", got,
				c.control.View().Counts.Runs)
		}
	})
}

func TestRestartedControllerKicksNothing(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		for i := range 5 {
			c.web(fmt.Sprintf("web%d", i))
			c.lb(fmt.Sprintf("lb%d", i), nil)
		}
		c.synced()
		c.converged(30 * time.Second)
		before := len(c.ran())
		c.stopController()
		time.Sleep(time.Minute)
		c.startController()
		c.synced()
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("a restarted controller caused %d runs, want none", n)
		}
		if n := c.control.View().Counts.Kicks; len(n) != 0 {
			t.Errorf("a restarted controller kicked: %v", n)
		}
	})
}

func TestRestartedControllerSeesChangesItMissed(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.begin(2)
		c.stopController()
		c.kill(c.agents["web1"])
		c.web("web3")
		c.startController()
		c.synced()
		c.converged(30 * time.Second)
		if got := c.members(); got != "web2 web3" {
			t.Errorf("after the restart the run got %q, want web2 web3", got)
		}
	})
}

func TestChangeDuringARunCausesExactlyOneMore(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		c.lb("lb1", succeedsIn(10*time.Second))
		c.synced()
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) == 1 })
		time.Sleep(2 * time.Second)
		c.web("web2")
		time.Sleep(2 * time.Second)
		c.web("web3")
		time.Sleep(5 * time.Minute)
		if n := len(c.ran()); n != 2 {
			t.Fatalf("%d runs, want the one that was in progress and one more", n)
		}
		if got := c.members(); got != "web1 web2 web3" {
			t.Errorf("the second run got %q, want all three", got)
		}
	})
}

func TestChangeUndoneDuringARunCausesExactlyOneMore(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		c.lb("lb1", succeedsIn(10*time.Second))
		c.synced()
		c.converged(time.Minute)
		time.Sleep(time.Minute)
		before := len(c.ran())
		web2 := c.web("web2")
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) > before })
		web2.announcer.Leave()
		time.Sleep(5 * time.Minute)
		if n := len(c.ran()) - before; n != 2 {
			t.Errorf("%d runs, want the one with web2 and one without", n)
		}
		if got := c.members(); got != "web1" {
			t.Errorf("the last run got %q, want web1", got)
		}
	})
}

func TestFailedRunIsRetriedThoughItsChangeIsUndone(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.begin(1)
		lb := c.agents["lb1"]
		time.Sleep(time.Minute)
		before := len(c.ran())
		lb.do = failsFirst(1) // it has changed its file before it fails
		web2 := c.web("web2")
		c.until("a failed run", time.Minute, func(v *api.View) bool { return v.Counts.Runs[kick.Failed] == 1 })
		web2.announcer.Leave()
		c.converged(2 * time.Minute)
		time.Sleep(5 * time.Minute)
		if n := len(c.ran()) - before; n != 2 {
			t.Errorf("%d runs, want the failed one and one that corrects it", n)
		}
		if got := c.members(); got != "web1" {
			t.Errorf("the last run got %q, want web1", got)
		}
	})
}

func TestFailingActionIsRetriedForeverWithBackoff(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		c.lb("lb1", failsFirst(1<<30))
		c.synced()
		time.Sleep(3 * time.Hour)
		runs := c.ran()
		if least, most := 3*6*10/12-2, 3*6*10/8+8; len(runs) < least || len(runs) > most {
			t.Errorf("%d runs in 3 hours, want about one in 10 minutes: %d to %d", len(runs), least, most)
		}
		for i, run := range runs[1:] {
			if gap := run.started.Sub(runs[i].started); gap < 4*time.Second ||
				gap > 10*time.Minute+time.Second+time.Minute {
				t.Errorf("run %d started %s after the previous one", i+1, gap)
			}
		}
		v := c.control.View().Verdicts[0]
		if v.State != api.Failing || v.Last == nil || v.Last.Failures != len(runs) {
			t.Errorf("the verdict is %+v, want failing with %d failures", v, len(runs))
		}
	})
}

func TestLostMessagesDoNotChangeTheResult(t *testing.T) {
	for _, kind := range []string{"heartbeat", "facts", "kick", "result", "report", "leave", "node", "controller",
		"_INBOX"} {
		t.Run(kind, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				var mu sync.Mutex
				lost, seen := 0, map[string]int{}
				c.drop = func(from, subject string) bool {
					mu.Lock()
					defer mu.Unlock()
					words := strings.Split(subject, ".")
					if kind == "node" && len(words) > 2 && words[2] == "facts" && lost < 2 {
						return true // else the controller would not request them
					}
					if words[0] != kind && (len(words) < 3 || words[2] != kind) ||
						strings.Contains(subject, "_canary") {
						return false
					}
					about := from + " to " + subject
					if kind == "_INBOX" {
						about = from // each inbox has its own subject
					}
					seen[about]++
					if seen[about]%2 == 1 { // the first, the third, …
						lost++
						return true
					}
					return false
				}
				c.begin(1)
				c.web("web2")
				c.until("2 members", time.Minute, members("web", 2))
				c.converged(2 * time.Minute)
				ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
				defer cancel()
				if _, err := askLeave(ctx, c.visitor(), "main", "web1", LeaveOptions{Wait: true}, nil); err != nil {
					t.Fatal(err)
				}
				c.converged(2 * time.Minute)
				if got := c.members(); got != "web2" {
					t.Errorf("in the end lb1 got %q, want web2", got)
				}
				time.Sleep(time.Minute)
				mu.Lock()
				defer mu.Unlock()
				if lost == 0 {
					t.Errorf("no %s message was lost, so this test proves nothing", kind)
				}
				if v := c.control.View().Verdicts[0]; v.State != api.Converged {
					t.Errorf("in the end lb1 is %+v, want it converged", v)
				}
			})
		})
	}
}

func TestRunOutlivesItsAgentAndItsOutcomeArrives(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		lb := c.lb("lb1", succeedsIn(20*time.Second))
		c.synced()
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) == 1 })
		time.Sleep(5 * time.Second)
		c.kill(lb)
		c.until("lb1 gone", time.Minute, func(v *api.View) bool { return v.Nodes.Node("lb1") == nil })
		c.startAgent(lb)
		c.converged(time.Minute)
		if n := len(c.ran()); n != 1 {
			t.Errorf("%d runs, want the one that outlived its agent", n)
		}
		if n := c.control.View().Counts.Runs[kick.Succeeded]; n != 1 {
			t.Errorf("the controller knows %d successful runs, want 1", n)
		}
	})
}

func TestNodeThatIsNotReadyIsNotAMember(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		c.lb("lb1", nil)
		web2 := c.node("web2")
		web2.cfg.Agent.Roles = []string{"web"}
		web2.notReady = "warming up"
		c.startAgent(web2)
		c.synced()
		c.converged(10 * time.Second)
		time.Sleep(time.Minute)
		if got := c.members(); got != "web1" {
			t.Errorf("the run got %q, want web1 alone", got)
		}
		web2.announcer.SetReady(true, "")
		c.until("2 members", time.Minute, members("web", 2))
		c.converged(time.Minute)
		web2.announcer.SetReady(false, "tcp:8080: refused")
		c.until("1 member", time.Minute, members("web", 1))
		c.converged(time.Minute)
		if got := c.members(); got != "web1" {
			t.Errorf("in the end the run got %q, want web1 alone", got)
		}
	})
}

func TestUnknownRoleKicksNothing(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		lb := c.node("lb1")
		lb.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"}, DependsOn: []string{"wbe"}}}
		c.startAgent(lb)
		c.synced()
		time.Sleep(20 * time.Minute)
		if n := len(c.ran()); n != 0 {
			t.Errorf("%d runs with the empty list of a role that may be a typo", n)
		}
		v := c.control.View().Verdicts[0]
		if len(v.Gates) != 1 || v.Gates[0].Name != api.GateUnknown {
			t.Errorf("the gates are %+v, want unknown role", v.Gates)
		}
	})
}

func TestEmptiedRoleIsAnEmptyMembership(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", MinMembers: 0}}
		web := c.begin(1)[0]
		web.announcer.Leave()
		c.until("no members", time.Minute, members("web", 0))
		c.converged(time.Minute)
		if got := c.members(); got != "" {
			t.Errorf("the run got %q, want no members", got)
		}
	})
}

func TestNewerBootReplacesTheOldAtOnce(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web := c.begin(1)[0]
		before := len(c.ran())
		web.wire.silence() // a reset machine sends nothing and closes nothing
		web.self.Boot = "boot 2"
		web.cfg.Agent.Facts = []string{"ipaddress=10.0.0.2", "port=8080"}
		old := *web
		web.cfg.StateDir += " of boot 2" // both boots exist at once in this test
		c.startAgent(web)
		took := c.until("the new address", time.Minute, func(v *api.View) bool {
			n := v.Nodes.Node("web1")
			return n != nil && n.Facts["ipaddress"] == "10.0.0.2"
		})
		if took > 100*time.Millisecond {
			t.Errorf("the newer boot was accepted after %s, want at once", took)
		}
		c.converged(time.Minute)
		if n := len(c.ran()) - before; n != 1 {
			t.Errorf("the reset of a machine caused %d runs, want one", n)
		}
		old.wire.cut()
		c.stopAgent(&old)
	})
}

func TestSelectorsAndConfiguredRolesAreDependenciesToo(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{
			{Name: "frontend", Selector: "app=shop,tier=front", MemberFacts: []string{"ipaddress"}},
			{Name: "monitoring", DependsOn: []string{"frontend"}},
		}
		c.startController()
		for i := range 3 {
			shop := c.node(fmt.Sprintf("shop%d", i))
			env := []string{"prod", "test", "prod"}[i]
			shop.cfg.Agent.Facts = append(shop.cfg.Agent.Facts, "app=shop", "tier=front", "env="+env)
			c.startAgent(shop)
		}
		by := c.node("bysel")
		by.cfg.Agent.Actions = []kick.Action{{Name: "render", Command: []string{"x"},
			DependsOn: []string{"env=prod,app=shop"}}}
		c.startAgent(by)
		mon := c.node("mon")
		mon.cfg.Agent.Roles = []string{"monitoring"}
		mon.cfg.Agent.Actions = []kick.Action{{Name: "render", Command: []string{"x"}}}
		c.startAgent(mon)
		c.synced()
		c.converged(time.Minute)
		got := map[string]string{}
		for _, run := range c.ran() {
			got[run.node] = strings.Join(run.members, " ")
		}
		if got["bysel"] != "shop0 shop2" || got["mon"] != "shop0 shop1 shop2" {
			t.Errorf("the runs got %q, want shop0 shop2 by selector and all three by the configured role", got)
		}
	})
}

func TestOrderedKickRunsAConvergedAction(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.begin(1)
		order := api.KickOrder{Object: "role/haproxy", DryRun: true}
		kicked, err := c.control.Kick(c.t.Context(), order)
		if err != nil || len(kicked.Actions) != 1 || len(kicked.Actions[0].Gates) != 0 {
			t.Fatalf("dry run: %+v, %v; want lb1/reload without gates", kicked, err)
		}
		time.Sleep(time.Minute)
		if n := len(c.ran()); n != 1 {
			t.Fatalf("%d runs after a dry run, want only the first", n)
		}
		order.DryRun = false
		if _, err := c.control.Kick(c.t.Context(), order); err != nil {
			t.Fatal(err)
		}
		c.until("a second run", time.Minute, func(v *api.View) bool { return v.Counts.Runs[kick.Succeeded] == 2 })
		time.Sleep(time.Minute)
		if n := len(c.ran()); n != 2 {
			t.Errorf("%d runs, want 2: an order is carried out once", n)
		}
		if _, err := c.control.Kick(c.t.Context(), api.KickOrder{Object: "node/unknown"}); err == nil {
			t.Error("a kick of an unknown node was accepted")
		}
	})
}

// members reports whether a role has n members.
func members(role string, n int) func(*api.View) bool {
	return func(v *api.View) bool {
		return slices.ContainsFunc(v.Roles, func(r api.Role) bool { return r.Name == role && len(r.Members) == n })
	}
}
