package daemon

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

// uses reports whether the last successful run of a node had another one among its members.
func (c *cluster) uses(node, member string) bool {
	used := false
	for _, run := range c.ran() {
		if run.node == node && !run.ended.IsZero() && run.ending.Exit == 0 {
			used = slices.Contains(run.members, member)
		}
	}
	return used
}

// leaveWait is `kicker leave --wait` for a node.
func (c *cluster) leaveWait(n *node, o LeaveOptions) error {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	o.Wait = true
	cfg := n.cfg
	cfg.Cluster, cfg.Agent.Instance = c.cfg.Cluster, n.self.Instance
	return leave(ctx, cfg, n.self.Node, c.visitor(), o)
}

// stopsAtAPerson ends a wait as the command does when only a person can end it.
var errPerson = errors.New("only a person can end it")

func stopsAtAPerson(s inventory.LeaveStatus) error {
	if s.Person {
		return errPerson
	}
	return nil
}

// begun is a cluster with two webs and a balancer that has applied both, and whose controller releases nodes.
func (c *cluster) begun() (web1, lb1 *node) {
	c.t.Helper()
	c.startController()
	real, err := inventory.Detect(inventory.Identity{Cluster: "main", Node: "any", Instance: "any"})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, name := range []string{"web1", "web2", "lb1"} {
		n := c.node(name)
		n.self.Boot = real.Boot // a command that stands in for the agent finds the same one
		if n.cfg.Agent.Roles = []string{"web"}; name == "lb1" {
			n.cfg.Agent.Roles = []string{"haproxy"}
			n.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"}, DependsOn: []string{"web"}}}
			n.do = succeedsIn(5 * time.Second)
		} else {
			n.cfg.Agent.Facts = []string{"ipaddress=10.0.0.1", "port=8080"}
		}
		c.startAgent(n)
	}
	web1, lb1 = c.agents["web1"], c.agents["lb1"]
	c.synced()
	c.converged(time.Minute)
	time.Sleep(membership.ReconnectTime + inventory.DefaultGoneAfter)
	return web1, lb1
}

// E36 (a): a standby takes over while the agent of the balancer is restarting.
func TestTakeoverReleasesNobodyWhileADependentRestarts(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web1, lb1 := c.begun()
		c.stopAgent(lb1)
		c.stopController()
		c.startController()
		var released time.Duration
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			err := c.leaveWait(web1, LeaveOptions{})
			released = time.Since(began)
			done <- err
		}()
		time.Sleep(8 * time.Second)
		c.startAgent(lb1)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if c.uses("lb1", "web1") {
			t.Errorf("web1 was released after %s, and lb1 uses it", released)
		}
	})
}

func TestStandbyThatTakesOverReleasesNobodyWhileADependentRestarts(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web1, lb1 := c.begun()
		first := c.control
		c.cfg.Standby = true
		c.startController()
		standby := c.control
		time.Sleep(30 * time.Second)
		c.stopAgent(lb1)
		c.control = first
		c.stopController()
		c.control = standby
		done := make(chan error, 1)
		go func() { done <- c.leaveWait(web1, LeaveOptions{}) }()
		time.Sleep(25 * time.Second) // the standby leads for 15 s
		select {
		case err := <-done:
			t.Fatalf("web1 was released (%v) before lb1 was back", err)
		default:
		}
		c.startAgent(lb1)
		if err := <-done; err != nil || c.uses("lb1", "web1") {
			t.Errorf("the wait ended with %v, lb1 uses web1: %t", err, c.uses("lb1", "web1"))
		}
	})
}

// E36 (b): the role fact of the node changes right before it leaves.
func TestRoleFactThatChangesBeforeALeaveReleasesNobody(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web1, _ := c.begun()
		if err := web1.announcer.SetFacts(inventory.Facts{"role": "spare", "ipaddress": "10.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		if err := c.leaveWait(web1, LeaveOptions{}); err != nil {
			t.Fatal(err)
		}
		if c.uses("lb1", "web1") {
			t.Error("web1 was released, and lb1 uses it")
		}
	})
}

// E36 (c): a controller that is not synced releases nobody, and a node that is back is told nothing.
func TestControllerThatIsNotSyncedReleasesNobody(t *testing.T) {
	inCluster(t, func(c *cluster) {
		var told atomic.Int64 // how often a node was told how far its leaving is
		c.sent = func(from, _ string, payload []byte) {
			if from == "controller" && strings.Contains(string(payload), inventory.DoStatus) {
				told.Add(1)
			}
		}
		web1, _ := c.begun()
		c.stopController()
		if _, err := askLeave(c.t.Context(), c.visitor(), "main", "web1", LeaveOptions{Wait: true, Progress: func(s inventory.LeaveStatus) error {
			if c.control == nil {
				c.startController()
			}
			if s.Released && c.uses("lb1", "web1") {
				t.Errorf("web1 is told %+v", s)
			}
			return nil
		}}, nil); err != nil {
			t.Fatal(err)
		}
		if c.uses("lb1", "web1") {
			t.Error("web1 was released, and lb1 uses it")
		}
		c.stopAgent(web1)
		c.startAgent(web1)
		c.converged(time.Minute)
		told.Store(0)
		time.Sleep(40 * time.Second)
		if n := told.Load(); n != 0 || !c.uses("lb1", "web1") {
			t.Errorf("web1 is back, was told %d times how far it is, and lb1 uses it: %t", n, c.uses("lb1", "web1"))
		}
	})
}

// B7: agent and service were stopped without leaving.
func TestNodeWithoutAgentLeavesByTheCommand(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web1, _ := c.begun()
		c.stopAgent(web1)
		began := time.Now()
		if err := c.leaveWait(web1, LeaveOptions{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 15*time.Second || c.uses("lb1", "web1") {
			t.Errorf("web1 was released after %s, lb1 uses it: %t; want it within two runs, not after a restart's minute",
				took, c.uses("lb1", "web1"))
		}
		c.wantEvent(api.EventLeft, "web1")
		time.Sleep(5 * time.Second)
		c.startAgent(web1)
		time.Sleep(40 * time.Second)
		if !c.uses("lb1", "web1") {
			t.Error("its agent was started again, and lb1 does not use it")
		}
	})
}

func TestCommandDoesNotStandInWhereNoAgentEverRan(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web1, _ := c.begun()
		c.stopAgent(web1)
		typo := c.node("wbe1")
		delete(c.agents, "wbe1") // it is never started
		err := c.leaveWait(typo, LeaveOptions{})
		if !errors.Is(err, inventory.ErrNoAgent) || !strings.Contains(err.Error(), "check --name and --state-dir") {
			t.Errorf("a node of which nothing is known left: %v", err)
		}
		if got := c.events(api.EventLeft); len(got) != 0 {
			t.Errorf("the controller received that it left: %q", got)
		}
	})
}

func TestStandInKeepsTheActionsOfItsNode(t *testing.T) {
	var during []api.Verdict
	for attempt := 0; attempt < 20 && len(during) == 0; attempt++ { // the stand-in may end before its node is planned
		inCluster(t, func(c *cluster) {
			_, lb1 := c.begun()
			c.stopAgent(lb1)
			lb1.cfg.Agent.Actions = nil // the command does not know them
			err := c.leaveWait(lb1, LeaveOptions{Progress: func(inventory.LeaveStatus) error {
				if v := c.control.View(); v.Nodes.Node("lb1") != nil {
					during = v.Verdicts
				}
				return nil
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	if len(during) != 1 || during[0].State != api.Converged {
		t.Errorf("while lb1 left, its verdicts were %+v, want that it is converged", during)
	}
}

func TestCommandDoesNotStandInForAnAgentThatRuns(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web1, _ := c.begun()
		web1.wire.cut() // it runs, and is not on the bus
		defer c.startAgent(web1)
		unlock, err := kick.LockStored(web1.cfg.StateDir + "/node/web1")
		if !errors.Is(err, kick.ErrLocked) {
			t.Errorf("its directory can be locked: %v", err)
			unlock()
		}
		_, err = standIn(c.t.Context(), web1.cfg, web1.self, c.visitor(), LeaveOptions{})
		if !errors.Is(err, inventory.ErrNoAgent) || !strings.Contains(err.Error(), "its agent runs") {
			t.Errorf("the command says: %v", err)
		}
		c.stopAgent(web1)
	})
}

func TestStoredStateOfAnotherMachineDoesNotCount(t *testing.T) {
	dir := t.TempDir()
	text := `{"v":2,"instance":"m1","actions":{"reload":{"applied":{"web":{"epoch":1,"n":2,"hash":"1-a"}}}}}`
	if err := os.WriteFile(dir+"/state.json", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for wanted, want := range map[string]int{"": 1, "m1": 1, "m2": 0} {
		instance, status, err := kick.Stored(dir, wanted, nil)
		if err != nil || len(status.Actions) != want || wanted != "" && instance != wanted {
			t.Errorf("for instance %q: %q, %+v, %v; want %d actions", wanted, instance, status, err, want)
		}
	}
}

// A hung agent leaves by an order beside the controller, and stays away when it wakes up.
func TestOrderMakesAHungNodeLeaveAndStayAway(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web1, _ := c.begun()
		web1.wire.stall(true)
		time.Sleep(4 * time.Second)
		if _, err := c.control.Leave(c.t.Context(), api.LeaveOrder{Object: "node/web1", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		released := func(*api.View) bool {
			answer, err := c.control.Leaving(c.t.Context(), "web1")
			return err == nil && answer.Released
		}
		c.until("released", time.Minute, released)
		if c.uses("lb1", "web1") {
			t.Error("web1 was released, and lb1 uses it")
		}
		time.Sleep(20 * time.Second) // it is silent for longer than gone_after
		web1.wire.stall(false)
		time.Sleep(20 * time.Second)
		if n := c.control.View().Nodes.Node("web1"); n != nil && n.Life != inventory.Left || c.uses("lb1", "web1") {
			t.Errorf("the agent woke up, web1 is %+v, lb1 uses it: %t", n, c.uses("lb1", "web1"))
		}
		c.stopAgent(web1)
		c.startAgent(web1)
		time.Sleep(20 * time.Second)
		if n := c.control.View().Nodes.Node("web1"); n == nil || n.Life != inventory.Alive || !c.uses("lb1", "web1") {
			t.Errorf("its agent was started again, web1 is %+v, want alive and used", n)
		}
	})
}

// Not in the list of cases: the dependent is only observed.
func TestLeaveWaitEndsIfOnlyAPersonCanEndIt(t *testing.T) {
	for claim, test := range map[string]struct {
		role membership.RoleConfig
		last bool
		want error
	}{
		"observed":    {membership.RoleConfig{Name: "haproxy", Mode: "observe"}, false, errPerson},
		"last member": {membership.RoleConfig{Name: "web", MinMembers: 2}, false, errPerson},
		"--last":      {membership.RoleConfig{Name: "web", MinMembers: 2}, true, nil},
	} {
		t.Run(claim, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				c.cfg.Roles = []membership.RoleConfig{test.role}
				c.startController()
				web1 := c.web("web1")
				c.web("web2")
				c.lb("lb1", nil)
				c.synced()
				time.Sleep(20 * time.Second)
				began := time.Now()
				err := c.leaveWait(web1, LeaveOptions{Last: test.last, Progress: stopsAtAPerson})
				if !errors.Is(err, test.want) || time.Since(began) > 20*time.Second {
					t.Errorf("after %s the wait ended with %v, want %v", time.Since(began), err, test.want)
				}
				if test.last && c.uses("lb1", "web1") {
					t.Error("web1 was released, and lb1 uses it")
				}
			})
		})
	}
}

// Not in the list of cases: a node leaves while the removal of others is held.
func TestLeaveDuringAHeldRemovalReleasesOnlyItsNode(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		for _, name := range []string{"web1", "web2", "web3", "web4", "web5", "web6"} {
			c.web(name)
		}
		c.lb("lb1", nil)
		c.synced()
		c.converged(time.Minute)
		time.Sleep(membership.ReconnectTime + inventory.DefaultGoneAfter)
		for _, name := range []string{"web1", "web2", "web3"} {
			c.kill(c.agents[name])
		}
		c.until("held", time.Minute, func(v *api.View) bool {
			return slices.ContainsFunc(v.Roles, func(r api.Role) bool { return r.Name == "web" && r.Held != nil })
		})
		if err := c.leaveWait(c.agents["web6"], LeaveOptions{}); err != nil {
			t.Fatal(err)
		}
		if c.uses("lb1", "web6") || !c.uses("lb1", "web1") {
			t.Errorf("lb1 uses %s, want web1 to web5", c.members())
		}
	})
}
