package daemon

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

func TestOnlyMemberFactsThatChangeKick(t *testing.T) {
	inCluster(t, func(c *cluster) {
		web := c.begin(1)[0]
		before := len(c.ran())
		say := func(facts inventory.Facts) {
			t.Helper()
			if err := web.announcer.SetFacts(facts); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		facts := inventory.Facts{"role": "web", "ipaddress": "10.0.0.9", "port": "8080", "uptime": 1}
		say(facts)
		if n := len(c.ran()) - before; n != 1 {
			t.Errorf("a new address caused %d runs, want 1", n)
		}
		for uptime := range 10 {
			facts["uptime"] = uptime + 2
			say(facts)
		}
		if n := len(c.ran()) - before; n != 1 {
			t.Errorf("changing uptimes caused %d more runs, want none", n-1)
		}
	})
}

func TestNodeThatChangesItsRoleMoves(t *testing.T) {
	inCluster(t, func(c *cluster) {
		mover := c.begin(2)[1]
		if err := mover.announcer.SetFacts(inventory.Facts{"role": "db"}); err != nil {
			t.Fatal(err)
		}
		c.until("1 web", 10*time.Second, members("web", 1))
		c.until("1 db", 10*time.Second, members("db", 1))
		c.converged(time.Minute)
		if got := c.members(); got != "web1" {
			t.Errorf("the run got %q, want web1", got)
		}
	})
}

func TestTwoActionsOfANodeNeverRunAtOnce(t *testing.T) {
	inCluster(t, func(c *cluster) {
		var mu sync.Mutex
		running, most := 0, 0
		c.startController()
		c.web("web1")
		lb := c.node("lb1")
		for _, name := range []string{"one", "two", "three"} {
			lb.cfg.Agent.Actions = append(lb.cfg.Agent.Actions,
				kick.Action{Name: name, Command: []string{"x"}, DependsOn: []string{"web"}})
		}
		lb.do = func(ranAction) kick.Ending {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(3 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			running--
			return kick.Ending{}
		}
		c.startAgent(lb)
		c.synced()
		c.converged(time.Minute)
		for i := range 5 {
			c.web(fmt.Sprintf("more%d", i))
			time.Sleep(2 * time.Second)
		}
		c.converged(5 * time.Minute)
		if most != 1 || len(c.ran()) < 6 {
			t.Errorf("%d runs, up to %d at once; want one at a time", len(c.ran()), most)
		}
	})
}

func TestTwoMachinesWithOneNameAreOneConflict(t *testing.T) {
	inCluster(t, func(c *cluster) {
		first := c.begin(1)[0]
		before := len(c.ran())
		second := *first
		second.self.Instance, second.self.Boot = "another machine", "another boot"
		second.cfg.StateDir += "-second"
		second.cfg.Agent.Facts = []string{"ipaddress=10.9.9.9", "port=8080"}
		c.agents["the other web1"] = &second
		c.startAgent(&second)
		time.Sleep(10 * time.Minute)
		if n := len(c.ran()) - before; n != 0 {
			t.Errorf("a conflict caused %d runs, want none", n)
		}
		if got := c.control.View().Nodes.Node("web1").Instance; got != first.self.Instance {
			t.Errorf("instance %s is accepted, want the first machine", got)
		}
		if told := c.events(api.EventConflictBegan); len(told) != 1 || !strings.Contains(told[0], "another machine") ||
			!strings.Contains(told[0], first.self.Instance) {
			t.Errorf("the events of the conflict are %.200q, want one with both machines", told)
		}
		if shown := c.control.View().Conflicts; len(shown) != 1 || shown[0].Accepted != first.self.Instance ||
			shown[0].Rejected != second.self.Instance {
			t.Errorf("the conflicts are %+v, want both machines", shown)
		}
		c.kill(first)
		c.until("the other machine", 10*time.Second, func(v *api.View) bool {
			n := v.Nodes.Node("web1")
			return n != nil && n.Instance == second.self.Instance && n.Facts["ipaddress"] == "10.9.9.9"
		})
		if over := c.events(api.EventConflictEnded); len(over) != 1 || len(c.control.View().Conflicts) != 0 {
			t.Errorf("the events of its end are %q, and the conflicts %+v, want one event and none", over,
				c.control.View().Conflicts)
		}
	})
}

func TestNothingIsRemovedWhileTheBusStalls(t *testing.T) {
	inCluster(t, func(c *cluster) {
		var mu sync.Mutex
		away := false
		c.drop = func(from, subject string) bool { // nothing reaches the bus, not even canaries
			mu.Lock()
			defer mu.Unlock()
			return away && strings.HasPrefix(subject, "kicker.")
		}
		c.begin(2)
		before := len(c.ran())
		still := func(is bool) { mu.Lock(); defer mu.Unlock(); away = is }
		still(true)
		time.Sleep(30 * time.Second)
		still(false)
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n != 0 || len(c.events(api.EventGone)) != 0 {
			t.Errorf("%d runs, gone: %q, want none", n, c.events(api.EventGone))
		}
		if len(c.events(api.EventBusLost)) == 0 || !c.control.View().Sync.Open {
			t.Errorf("events of the lost bus: %q, sync %+v, want one at least, and synced again",
				c.events(api.EventBusLost), c.control.View().Sync)
		}
	})
}

func TestMembershipTooLargeForOneMessageArrives(t *testing.T) {
	inCluster(t, func(c *cluster) {
		facts := append([]string{"n0", "n1", "n2", "n3"}, membership.DefaultMemberFacts...)
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", MemberFacts: facts}}
		c.startController()
		big := strings.Repeat("x", inventory.MaxMemberText)
		const nodes = 150 // 600 KiB of member facts
		for i := range nodes {
			n := c.node(fmt.Sprintf("web%03d", i))
			n.cfg.Agent.Roles = []string{"web"}
			n.cfg.Agent.Facts = []string{fmt.Sprintf("ipaddress=10.0.0.%d", i), "port=80",
				"n0=" + big, "n1=" + big, "n2=" + big, "n3=" + big}
			c.startAgent(n)
		}
		c.lb("lb1", nil)
		c.synced()
		c.until("all members", time.Minute, members("web", nodes))
		c.converged(time.Minute)
		if n := len(strings.Fields(c.members())); n != nodes {
			t.Errorf("the last run got %d members, want %d", n, nodes)
		}
	})
}

func TestUnansweredKickIsSentAgain(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.begin(1)
		lb := c.agents["lb1"]
		time.Sleep(time.Second) // so that its last heartbeat does not report a run in progress
		c.stopAgent(lb)         // it is restarting, and no agent answers
		time.Sleep(time.Second)
		before := len(c.events(api.EventKickUnanswered))
		if _, err := c.control.Kick(c.t.Context(), api.KickOrder{Object: "node/lb1"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(8 * time.Second)
		if n := len(c.events(api.EventKickUnanswered)) - before; n < 2 || n > 10 {
			t.Errorf("a kick of a node without an agent was sent %d times in 8 s, want 2 to 10", n)
		}
	})
}
