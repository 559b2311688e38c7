package daemon

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

// Invariants of docs/explanation/invariants.md that need a special situation, each in a few random variants.

// often plays a story several times, each time with other dice.
func often(t *testing.T, times uint64, story func(*cluster, *rand.Rand)) {
	t.Helper()
	for seed := range times {
		t.Run(fmt.Sprintf("dice=%d", seed), func(t *testing.T) {
			inCluster(t, func(c *cluster) { story(c, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

// within is a random duration.
func within(dice *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(dice.Int64N(int64(most-least)))
}

func TestInvariant02NoKickBeforeItsRolesAreSynced(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.closeBroker()
		c.openBroker()
		record := newRecord(c.log)
		c.sent = record.keepKicks
		webs := c.fleet(4)
		before := len(record.copy().kicks)
		c.closeBroker()
		webs[0].announcer.Leave()
		c.openBroker() // so soon that no canary is late: only the new connection shows it
		broken := time.Now()
		c.until("3 members", time.Minute, members("web", 3))
		c.converged(time.Minute)
		kicks := record.copy().kicks[before:]
		if len(kicks) != 1 {
			t.Fatalf("%d kicks after one node left, want 1", len(kicks))
		}
		if early := listened - kicks[0].at.Sub(broken); early > 0 {
			t.Errorf("kicked %s before all nodes could report over the new connection", early)
		}
	})
}

func TestInvariant03RestartWhenConvergedKicksNothing(t *testing.T) {
	often(t, 4, func(c *cluster, dice *rand.Rand) {
		record := newRecord(c.log)
		c.sent = record.keepKicks
		c.cfg.Roles = []membership.RoleConfig{{Name: "haproxy", Budget: "100%"}}
		webs := c.fleet(2 + dice.IntN(6))
		for i := range dice.IntN(4) {
			c.lb(fmt.Sprintf("more%d", i), nil)
		}
		time.Sleep(time.Minute)
		c.converged(time.Minute)
		before := len(record.copy().kicks)
		for range 3 {
			slow := pick(dice, webs...)
			slow.wire.stall(true) // this one reports late
			late := within(dice, time.Second, stunned)
			time.AfterFunc(late, func() { slow.wire.stall(false) })
			c.stopController()
			time.Sleep(within(dice, 0, late))
			c.startController()
			c.synced()
			time.Sleep(30 * time.Second)
			if n := len(record.copy().kicks) - before; n != 0 {
				t.Fatalf("%d kicks after a restart, the first %+v", n, record.copy().kicks[before])
			}
			for _, v := range c.control.View().Verdicts {
				if v.State != api.Converged {
					t.Errorf("%s/%s is %s: %+v", v.Node, v.Action, v.State, v.Gates)
				}
			}
		}
	})
}

func TestInvariant05ChangeUndoneInTimeKicksNothing(t *testing.T) {
	type change struct{ do, undo func(*cluster, *node) }
	ready := change{func(_ *cluster, n *node) { n.announcer.SetReady(false, "refused") },
		func(_ *cluster, n *node) { n.announcer.SetReady(true, "") }}
	move := func(address string) func(*cluster, *node) {
		return func(_ *cluster, n *node) {
			_ = n.announcer.SetFacts(inventory.Facts{"role": "web", "ipaddress": address, "port": "8080"})
		}
	}
	for name, how := range map[string]change{"readiness": ready, "address": {move("10.0.0.2"), move("10.0.0.1")}} {
		t.Run(name, func(t *testing.T) {
			often(t, 3, func(c *cluster, dice *rand.Rand) {
				webs := c.fleet(5)
				move("10.0.0.1")(c, webs[0])
				c.converged(time.Minute)
				time.Sleep(2 * time.Minute)
				lb := c.agents["lb1"]
				took := within(dice, 6*time.Second, 15*time.Second)
				for want, when := range []time.Duration{
					within(dice, 0, 900*time.Millisecond), // before dispatch: none
					0,                                     // after a failed run: one that corrects it
					took - within(dice, time.Second, 4*time.Second), // during a run: one more
				} {
					failing := want == 1
					lb.do = succeedsIn(took)
					if failing {
						lb.do = failsFirst(1)
					}
					before := len(c.ran())
					how.do(c, webs[0])
					switch {
					case failing:
						c.until("a failure", time.Minute, func(*api.View) bool {
							return len(c.ran()) > before && !c.ran()[before].ended.IsZero()
						})
					case want == 2:
						c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) > before })
						fallthrough
					default:
						time.Sleep(when)
					}
					how.undo(c, webs[0])
					time.Sleep(3 * time.Minute)
					most := []int{0, 2, 2}[want]
					if n := len(c.ran()) - before; n != most {
						c.t.Errorf("case %d: %d runs, want %d", want, n, most)
					}
					c.converged(time.Minute)
				}
			})
		})
	}
}

func TestInvariant07MassLossIsHeldAndAdditionsAreNot(t *testing.T) {
	often(t, 10, func(c *cluster, dice *rand.Rand) {
		c.reaches = func(string, string) bool { return true }
		webs := c.fleet(4 + dice.IntN(9))
		lose := pick(dice,
			func(n *node) { n.wire.cut() },
			func(n *node) { n.wire.silence() },
			func(n *node) { n.announcer.SetReady(false, "refused") },
			func(n *node) { _ = n.announcer.SetFacts(nil) },
		)
		least := max(3, (len(webs)*3+9)/10)
		n := least + dice.IntN(len(webs)-least+1)
		before := len(c.ran())
		dice.Shuffle(len(webs), func(i, j int) { webs[i], webs[j] = webs[j], webs[i] })
		spread := within(dice, 0, 900*time.Millisecond)
		for _, w := range webs[:n] {
			lose(w)
			time.Sleep(spread / time.Duration(n))
		}
		for range 200 {
			time.Sleep(150 * time.Millisecond)
			if !members("web", len(webs))(c.control.View()) {
				c.t.Fatalf("%d of %d were lost within %s and removed: %q", n, len(webs), spread,
					c.events(api.EventRoleChanged))
			}
		}
		if held(c.control.View()) == nil {
			c.t.Fatalf("%d of %d were lost, and nothing is held", n, len(webs))
		}
		if 100*(len(webs)-n+1) > 70*len(webs) {
			return // one more member would end the hold
		}
		c.web("fresh")
		c.until("the addition", time.Minute, members("web", len(webs)+1))
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) > before })
		if got := c.ran()[before].members; len(got) != len(webs)+1 {
			c.t.Errorf("the run got %d members, want %d and one more", len(got), len(webs))
		}
	})
}

func TestInvariant08CutOffControllerRemovesAndKicksNothing(t *testing.T) {
	often(t, 6, func(c *cluster, dice *rand.Rand) {
		record := newRecord(c.log)
		c.sent = record.keepKicks
		webs := c.fleet(5)
		c.agents["lb1"].do = failsFirst(2) // so that a kick is due during the cut
		if dice.IntN(2) == 0 {
			webs[0].announcer.SetReady(false, "refused")
		} else {
			c.kill(webs[0])
		}
		time.Sleep(within(dice, 0, 5*time.Second))
		began := time.Now()
		for _, w := range c.wiresOf("controller") {
			w.stall(true)
		}
		c.kill(webs[1])
		time.Sleep(within(dice, 5*time.Second, 2*time.Minute))
		for _, k := range record.copy().kicks {
			if k.at.After(began.Add(cutNoticed)) {
				c.t.Errorf("kicked %s after its bus was lost", k.at.Sub(began))
			}
		}
		for _, r := range c.control.View().Roles {
			if names := fmt.Sprint(r.Members); r.Name == "web" && !strings.Contains(names, "web02") {
				c.t.Errorf("a disconnected controller removed web02: %s", names)
			}
		}
		if v := c.control.View(); v.Sync.Open {
			c.t.Error("a disconnected controller says that it is synced")
		}
		for _, w := range c.wiresOf("controller") {
			w.stall(false)
		}
		time.Sleep(time.Second)
		c.until("3 members", time.Minute, members("web", 3))
		c.converged(2 * time.Minute)
	})
}

func TestInvariant09HoldEndsUnlessDisputedOrRoleEmpty(t *testing.T) {
	often(t, 6, func(c *cluster, dice *rand.Rand) {
		disputed := dice.IntN(3) == 0
		c.reaches = func(string, string) bool { return disputed }
		webs := c.fleet(4 + dice.IntN(6))
		n := 3 + dice.IntN(len(webs)-2)
		for _, w := range webs[:n] {
			c.kill(w)
		}
		c.until("held", 15*time.Second, func(v *api.View) bool { return held(v) != nil })
		time.Sleep(5 * time.Minute)
		h := held(c.control.View())
		switch stays := disputed || n == len(webs); {
		case stays && h == nil:
			c.t.Errorf("%d of %d were lost, disputed %v: the hold ended by itself", n, len(webs), disputed)
		case stays && h.Probe == "":
			c.t.Error("a hold that stays does not say why")
		case !stays && h != nil:
			c.t.Errorf("%d of %d were lost, and no node reaches them: still held: %+v", n, len(webs), h)
		}
	})
}

func TestInvariant11BrokenNodeDoesNotBlockTheOthers(t *testing.T) {
	for name, ill := range map[string]func(*cluster, *node){
		"dead":      func(_ *cluster, n *node) { n.wire.silence() },
		"suspended": func(_ *cluster, n *node) { n.wire.stall(true) },
		"failing":   func(_ *cluster, n *node) { n.do = failsFirst(1 << 30) },
		"forgetful": func(c *cluster, n *node) { // it loses its disk during a run, and with it the outcome
			n.do = func(ranAction) kick.Ending {
				c.processes.Go(func() {
					c.stopAgent(n) // it restarts, so that its node is never gone
					c.mu.Lock()
					n.process = nil
					c.mu.Unlock()
					if err := os.RemoveAll(n.cfg.StateDir); err != nil {
						t.Error(err)
					}
					n.do = failsFirst(1 << 30)
					c.startAgent(n)
				})
				time.Sleep(time.Hour)
				return kick.Ending{}
			}
		},
		"hung": func(_ *cluster, n *node) {
			n.do = func(ranAction) kick.Ending {
				time.Sleep(runTimeout + runGrace)
				return kick.Ending{Exit: -1, TimedOut: true}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				c.startController()
				c.web("web1")
				c.web("web2")
				for i := range 5 {
					n := c.node(fmt.Sprintf("lb%d", i))
					n.cfg.Agent.Roles = []string{"haproxy"}
					n.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"},
						DependsOn: []string{"web"}, Timeout: runTimeout, Grace: runGrace}}
					c.startAgent(n)
				}
				c.synced()
				c.converged(time.Minute)
				time.Sleep(time.Minute)
				ill(c, c.agents["lb0"])
				before := len(c.ran())
				c.web("web3")
				done := func(*api.View) bool {
					up := map[string]bool{}
					for _, r := range c.ran()[before:] {
						up[r.node] = up[r.node] || len(r.members) == 3 && !r.ended.IsZero() && r.ending.Exit == 0
					}
					return up["lb1"] && up["lb2"] && up["lb3"] && up["lb4"]
				}
				took := c.until("the others have three members", 5*time.Minute, done)
				most := runTimeout + runGrace + 5*time.Second + 20*time.Second
				if name == "dead" || name == "suspended" { // its kick has no reply, so it may run for a minute after it went
					most = 10*time.Second + time.Minute + 20*time.Second
				}
				if took > most {
					t.Errorf("a node that is %s delayed the others by %s, want its run and their own at most: %s", name, took, most)
				}
			})
		})
	}
}

func TestInvariant12NodeRunsOneActionAtATime(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		lb := c.lb("lb1", succeedsIn(time.Minute))
		c.synced()
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) == 1 })
		nc, err := c.bus.Join("another controller")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		for _, when := range []string{"during a run", "after the agent was killed and started again"} {
			epoch := c.control.View().Identity.Epoch + 10
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			reply, err := kick.Send(ctx, nc, "main", kick.Kick{
				ID: "other-1", Controller: "other", Epoch: epoch, Node: "lb1", Action: "reload", Ordered: true,
				Needs: []kick.Membership{{Role: "web",
					Revision: kick.Revision{Epoch: epoch, N: 1, Hash: kick.Hash(nil)}}},
			})
			cancel()
			if err != nil || reply.Answer != kick.Busy || len(c.ran()) != 1 {
				t.Errorf("%s a kick was answered %+v, %v, with %d runs; want busy and one", when, reply, err,
					len(c.ran()))
			}
			lb.wire.cut()
			c.stopAgent(lb)
			c.startAgent(lb)
			time.Sleep(2 * time.Second) // until it has accepted the new epoch
		}
		c.converged(5 * time.Minute)
	})
}

func TestInvariant13FailingNodeIsRetriedWithJitter(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "haproxy", Budget: "100%"}}
		c.startController()
		c.web("web1")
		c.lb("lb1", failsFirst(1<<30))
		c.lb("lb2", failsFirst(1<<30))
		c.synced()
		time.Sleep(2 * time.Hour)
		c.stopController()
		c.startController()
		time.Sleep(2 * time.Hour)
		runs := map[string][]time.Time{}
		for _, r := range c.ran() {
			runs[r.node] = append(runs[r.node], r.started)
		}
		for node, at := range runs {
			if n := len(at); n < 20 || n > 60 {
				t.Errorf("%s ran %d times in 4 hours, want about one in 10 minutes", node, n)
			}
			gaps := map[time.Duration]bool{}
			for i := range at[1:] {
				gap := at[i+1].Sub(at[i])
				gaps[gap.Round(time.Millisecond)] = true
				if gap < 4*time.Second || gap > 11*time.Minute {
					t.Errorf("%s ran again after %s", node, gap)
				}
			}
			if len(gaps) < len(at)/3 {
				t.Errorf("%s ran %d times with only %d different pauses, want jitter", node, len(at), len(gaps))
			}
		}
	})
}

func TestInvariant14LeaveTakesEffectAtOnceAndIsNotHeld(t *testing.T) {
	often(t, 6, func(c *cluster, dice *rand.Rand) {
		webs := c.fleet(3 + dice.IntN(8))
		left := len(webs)
		for _, w := range webs[:1+dice.IntN(len(webs))] {
			w.announcer.Leave()
			left--
			if took := c.until("one less", 10*time.Second, members("web", left)); took > 50*time.Millisecond {
				c.t.Errorf("a node that left was removed after %s, want at once", took)
			}
			time.Sleep(within(dice, 0, 2*time.Second))
		}
		c.converged(2 * time.Minute)
		if got := c.events(api.EventHoldBegan); len(got) > 0 {
			c.t.Errorf("nodes that left are held: %q", got)
		}
	})
}

// Virtual time has one clock, so no story can step the wall clock. Instead: no decision uses a time without its
// monotonic part. The only exception is the first guess of an epoch, which may be wrong: see the next test.
func TestInvariant16NoDecisionReadsAWallClock(t *testing.T) {
	allowed := map[string]int{
		"leadership.go UnixMilli": 1, // the guess
		"decode.go UnixMilli":     1, // a bound of what is accepted
		"metrics.go UnixMilli":    2, // for people
		"web.go Round":            1, // of a duration, for people
		"text.go Round":           1, // of a duration, for people
		"decode.go Date":          1,
	}
	forbidden := []string{"Unix", "UnixMilli", "UnixMicro", "UnixNano", "Round", "UTC", "Local", "In", "AddDate",
		"Date", "Parse", "ParseInLocation"}
	for _, dir := range []string{"controller", "inventory", "kick"} {
		err := filepath.WalkDir(filepath.Join("..", "..", "..", "..", dir),
			func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
					return err
				}
				file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
				if err != nil {
					return err
				}
				ast.Inspect(file, func(n ast.Node) bool {
					call, ok := n.(*ast.CallExpr)
					if !ok {
						return true
					}
					s, ok := call.Fun.(*ast.SelectorExpr)
					if !ok || !slices.Contains(forbidden, s.Sel.Name) {
						return true
					}
					if x, ok := s.X.(*ast.Ident); ok && (x.Name == "query" || x.Name == "url") { // Parse of something else
						return true
					}
					key := filepath.Base(path) + " " + s.Sel.Name
					if allowed[key]--; allowed[key] < 0 {
						t.Errorf("%s calls %s: no decision may use the wall clock", path, s.Sel.Name)
					}
					return true
				})
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestInvariant16ControllerWithAClockSetBackLeads(t *testing.T) {
	often(t, 3, func(c *cluster, dice *rand.Rand) {
		c.fleet(3)
		c.stopController()
		nc, err := c.bus.Join("a controller whose clock was ahead")
		if err != nil {
			c.t.Fatal(err)
		}
		ahead := time.Now().Add(within(dice, time.Second, 1000*time.Hour)).UnixMilli()
		if err := inventory.SendBeacon(nc, "main",
			inventory.Beacon{ID: "ahead", Epoch: ahead, Pace: 1000}); err != nil {
			c.t.Fatal(err)
		}
		nc.Close()
		synctest.Wait() // so that the next controller does not receive it
		c.startController()
		c.synced()
		time.Sleep(time.Minute)
		before := len(c.ran())
		c.web("web50")
		c.until("a run", time.Minute, func(*api.View) bool { return len(c.ran()) > before })
		if e := c.control.View().Identity.Epoch; e <= ahead {
			c.t.Errorf("the epoch is %d, want one above %d that the nodes have seen", e, ahead)
		}
	})
}

func TestInvariant17MemoryStaysBoundedUnderChurn(t *testing.T) {
	inCluster(t, func(c *cluster) {
		dice := rand.New(rand.NewPCG(17, 0))
		c.fleet(3)
		nc := c.visitor()
		born := 0
		churn := func(rounds int) {
			for range rounds {
				born++
				n := c.node(fmt.Sprintf("churn%d", born))
				n.cfg.Agent.Roles = []string{"web", fmt.Sprintf("role%d", born)}
				c.startAgent(n)
				for range 100 {
					junk := make([]byte, dice.IntN(300))
					for i := range junk {
						junk[i] = byte(dice.IntN(256))
					}
					what := pick(dice, "heartbeat", "facts", "result")
					if dice.IntN(2) == 0 {
						junk = fmt.Appendf(nil,
							`{"v":2,"node":"junk%d","instance":"i","boot":"b%d","facts":{"role":"r%d"},"next_in_ms":1000}`, born, dice.IntN(1000), born)
					}
					_ = nc.Publish(fmt.Sprintf("kicker.main.%s.junk%d", what, born), junk)
				}
				time.Sleep(15 * time.Second)
				n.announcer.Leave() // else its removal would be held, see invariant 9
				time.Sleep(time.Second)
				c.kill(n)
				delete(c.agents, n.self.Node)
				time.Sleep(15 * time.Second)
			}
		}
		size := func() (heap uint64, goroutines int) {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc, runtime.NumGoroutine()
		}
		churn(60)
		heap, goroutines := size()
		churn(60)
		heapLater, goroutinesLater := size()
		if goroutinesLater > goroutines+5 {
			t.Errorf("%d goroutines, then %d", goroutines, goroutinesLater)
		}
		if grown := int64(heapLater) - int64(heap); grown > 4<<20 {
			t.Errorf("the heap grew by %d KiB", grown>>10)
		}
		v := c.control.View()
		if n := len(slices.Collect(v.Nodes.All())); n > 10 {
			t.Errorf("%d nodes are known, want the 4 that are alive and the last ones", n)
		}
		if n := len(v.Roles); n > 20 {
			t.Errorf("%d roles are known, want those that a node has or depends on", n)
		}
	})
}

func TestInvariant18NeverAFalseRemoval(t *testing.T) {
	t.Run("the controller's broker", func(t *testing.T) { harmless(t, false) })
	t.Run("an external broker", func(t *testing.T) { harmless(t, true) })
}

// harmless plays faults that must remove no node.
func harmless(t *testing.T, external bool) {
	often(t, 2, func(c *cluster, dice *rand.Rand) {
		if external {
			c.closeBroker()
			c.openBroker()
		}
		storm := &weather{dice: rand.New(rand.NewPCG(dice.Uint64(), 0))}
		c.weather = storm.strike
		webs := c.fleet(4 + dice.IntN(5))
		for _, n := range webs {
			n.checks = pick(dice, 0, 0, 5*time.Second, 9*time.Second)
		}
		before := len(c.ran())
		check := func(what string) {
			time.Sleep(time.Minute)
			v := c.control.View()
			if !v.Sync.Open || !members("web", len(webs))(v) || held(v) != nil {
				c.t.Fatalf("after %s: synced %v, %q", what, v.Sync, c.events(api.EventRoleChanged))
			}
			if n := len(c.ran()) - before; n != 0 {
				c.t.Fatalf("after %s: %d runs, want none", what, n)
			}
		}
		for _, kind := range append(dice.Perm(7), dice.Perm(7)...) {
			switch n := pick(dice, webs...); kind {
			case 0:
				c.stopAgent(n)
				time.Sleep(within(dice, 0, 55*time.Second))
				c.startAgent(n)
				check("the upgrade of an agent")
			case 1:
				for _, n := range webs {
					c.stopAgent(n)
				}
				time.Sleep(within(dice, 0, 50*time.Second))
				for _, n := range webs {
					c.startAgent(n)
				}
				check("the upgrade of every agent")
			case 2:
				for _, n := range webs {
					if dice.IntN(2) == 0 {
						n.wire.stall(true)
					}
				}
				time.Sleep(stunned)
				for _, n := range webs {
					n.wire.stall(false)
				}
				check("machines that were stunned for 8 s")
			case 3:
				c.stopController()
				time.Sleep(within(dice, 0, time.Minute))
				c.startController()
				check("a controller's restart")
			case 4:
				if !c.external {
					c.stopController()
				}
				c.closeBroker()
				time.Sleep(within(dice, 0, 20*time.Second))
				if c.external {
					c.openBroker()
				} else {
					c.startBus()
					c.startController()
				}
				check("a broker's restart")
			case 5:
				for _, n := range webs {
					n.wire.reset()
				}
				check("connections that were reset")
				n.wire.cut()
				time.Sleep(1200 * time.Millisecond)
				c.stopAgent(n)
				c.startAgent(n)
				check("an agent that was killed and back within its grace")
			case 6:
				storm.set(2, 0, 0)
				time.Sleep(5 * time.Minute)
				storm.set(0, 0, 0)
				check("2 % loss")
			}
		}
	})
}
