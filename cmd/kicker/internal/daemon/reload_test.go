package daemon

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/config"
	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

// reload changes the configuration, and wants the result to be as the plan before it said.
func (c *cluster) reload(change func(*controller.Config)) api.Plan {
	c.t.Helper()
	change(&c.cfg)
	before := c.control.View()
	p, err := c.control.Plan(c.t.Context(), c.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	if now := c.control.View(); !reflect.DeepEqual(before.Roles, now.Roles) ||
		!reflect.DeepEqual(before.Verdicts, now.Verdicts) {
		c.t.Error("the plan changed the roles or the verdicts")
	}
	if err := c.control.Reload(c.t.Context(), c.cfg); err != nil {
		c.t.Fatal(err)
	}
	now := c.control.View()
	for _, role := range p.Roles {
		i := slices.IndexFunc(now.Roles, func(r api.Role) bool { return r.Name == role.Name })
		switch {
		case i < 0 && role.Then != nil, i >= 0 && role.Then == nil:
			c.t.Errorf("role %s: planned %+v, exists: %t", role.Name, role.Then, i >= 0)
		case i >= 0 && !cmp.Equal(now.Roles[i].Members, role.Then.Members):
			c.t.Errorf("role %s (-planned +is):\n%s", role.Name, cmp.Diff(role.Then.Members, now.Roles[i].Members))
		}
	}
	planned := map[string]api.State{}
	for _, v := range before.Verdicts {
		planned[v.Node+"/"+v.Action] = v.State
	}
	for _, a := range p.Actions {
		planned[a.Node+"/"+a.Action] = a.Then.State
	}
	for _, v := range now.Verdicts {
		if want := planned[v.Node+"/"+v.Action]; v.State != want {
			c.t.Errorf("%s/%s: planned %q, is %q", v.Node, v.Action, want, v.State)
		}
	}
	return p
}

// runsAfter is how many runs there are beyond the first so many, 20 minutes later.
func (c *cluster) runsAfter(before int) int {
	time.Sleep(20 * time.Minute)
	return len(c.ran()) - before
}

func TestMistypedSelectorIsHeldAndKicksNothing(t *testing.T) {
	for name, selector := range map[string]string{"that matches no node": "role=wbe",
		"that matches few": "role=web,rack=1"} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(c *cluster) {
				c.cfg.Roles = []membership.RoleConfig{{Name: "web"}}
				c.reaches = func(string, string) bool { return true } // all are alive
				c.fleet(10)
				before, revision := len(c.ran()), revisionOf(c, "web")
				p := c.reload(func(cfg *controller.Config) {
					cfg.Roles = []membership.RoleConfig{{Name: "web",
						Selector: selector}}
				})
				if p.Stale() != 0 || len(p.Roles) != 1 || p.Roles[0].Then.Held == nil || len(p.Roles[0].Removed) != 0 {
					t.Errorf("the plan is %+v, want one role whose removals are held", p)
				}
				if held(c.control.View()) == nil {
					t.Fatal("nothing is held")
				}
				if n := c.runsAfter(before); n != 0 || !members("web", 10)(c.control.View()) {
					t.Errorf("%d runs after a mistyped selector, want none: %q", n, c.events(api.EventRoleChanged))
				}
				if h := held(c.control.View()); h == nil {
					t.Error("the hold ended by itself")
				}
				c.reload(func(cfg *controller.Config) { cfg.Roles = []membership.RoleConfig{{Name: "web"}} })
				if n := c.runsAfter(before); n != 0 || held(c.control.View()) != nil ||
					revisionOf(c, "web") != revision {
					t.Errorf("after the correction: %d runs, held %+v, revision %+v; want none, nothing and %+v as before", n, held(c.control.View()), revisionOf(c, "web"), revision)
				}
			})
		})
	}
}

func revisionOf(c *cluster, role string) kick.Revision {
	for _, r := range c.control.View().Roles {
		if r.Name == role {
			return r.Revision
		}
	}
	return kick.Revision{}
}

func TestSelectorThatDropsFewIsNotHeld(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		p := c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "web", Selector: "role=web,spare!=yes"}}
		})
		if p.Roles[0].Then.Held == nil {
			t.Error("a selector that matches no node is not held")
		}
		for i, n := range webs {
			n.cfg.Agent.Facts = append(n.cfg.Agent.Facts, fmt.Sprintf("spare=%t", i == 0))
			c.stopAgent(n)
			c.startAgent(n)
		}
		c.until("no hold", time.Minute, func(v *api.View) bool { return held(v) == nil })
		time.Sleep(65 * time.Minute) // longer than the guard remembers
		p = c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "web", Selector: "role=web,spare=false"}}
		})
		if !slices.Equal(p.Roles[0].Removed, []string{"web00"}) || p.Stale() != 1 {
			t.Errorf("the plan is %+v, want web00 removed and lb1 stale", p)
		}
		c.converged(time.Minute)
		if n := len(strings.Fields(c.members())); n != 9 {
			t.Errorf("the run got %d members, want 9", n)
		}
	})
}

func TestOtherMemberFactsKickDependents(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.fleet(3)
		before := len(c.ran())
		p := c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "web", MemberFacts: []string{"ipaddress", "port", "rack"}}}
		})
		if p.Stale() != 1 || len(p.Roles) != 1 || len(p.Roles[0].Changed) != 3 {
			t.Errorf("the plan is %+v, want three members changed and one action stale", p)
		}
		c.converged(time.Minute)
		if n := len(c.ran()) - before; n != 1 {
			t.Errorf("%d runs, want 1", n)
		}
		if m := c.control.View().Roles[1].Members[0]; m.Facts["rack"] != "0" {
			t.Errorf("the first member is %+v, want its rack", m)
		}
	})
}

func TestNewDependencyKicksOnlyItsDependents(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.fleet(2)
		db := c.node("db1")
		db.cfg.Agent.Roles = []string{"db"}
		c.startAgent(db)
		other := c.node("other")
		other.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"},
			DependsOn: []string{"web"}}}
		c.startAgent(other)
		c.until("all are there", time.Minute, func(v *api.View) bool {
			return members("db", 1)(v) && len(v.Verdicts) == 2
		})
		c.converged(time.Minute)
		before := len(c.ran())
		c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "haproxy", DependsOn: []string{"db"}}}
		})
		c.converged(time.Minute)
		if runs := c.ran()[before:]; len(runs) != 1 || runs[0].node != "lb1" ||
			!slices.Contains(runs[0].members, "db1") {
			t.Errorf("the runs are %+v, want one of lb1 with member db1", runs)
		}
		before = len(c.ran())
		c.reload(func(cfg *controller.Config) { cfg.Roles = nil })
		if n := c.runsAfter(before); n != 0 {
			t.Errorf("%d runs after the dependency was removed, want none", n)
		}
	})
}

func TestRoleWithoutConfigurationHasAllItsNodes(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", Selector: "rack=0"}}
		c.fleet(4) // three of them in rack 0
		c.reload(func(cfg *controller.Config) { cfg.Roles = nil })
		c.until("4 members", time.Second, members("web", 4))
		c.converged(time.Minute)
		if n := len(strings.Fields(c.members())); n != 4 {
			t.Errorf("the run got %d members, want 4", n)
		}
	})
}

// The key of a dependency is its whole text, so a narrowed one is another, with nothing applied.
func TestNarrowedDependencyIsOneOfItsOwn(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "haproxy", DependsOn: []string{"web"}}}
		c.startController()
		for i := range 10 {
			n := c.node(fmt.Sprintf("web%d", i))
			n.cfg.Agent.Roles, n.cfg.Agent.Facts = []string{"web"}, append(n.cfg.Agent.Facts, fmt.Sprintf("rack=%d", i%2))
			c.startAgent(n)
		}
		lb := c.node("lb1")
		lb.cfg.Agent.Roles, lb.cfg.Agent.Facts = []string{"haproxy"}, append(lb.cfg.Agent.Facts, "rack=0")
		lb.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"}}}
		c.startAgent(lb)
		c.synced()
		c.converged(time.Minute)
		before := len(c.ran())
		p := c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "haproxy", DependsOn: []string{"web same=rack"}}}
		})
		if len(p.Roles) < 2 || len(p.Roles[len(p.Roles)-1].Added) != 5 || p.Stale() != 1 {
			t.Errorf("the plan is %+v, want a new role with 5 members, and 1 kick", p)
		}
		if n := c.runsAfter(before); n != 1 || len(strings.Fields(c.members())) != 5 {
			t.Errorf("%d runs, the last with %s, want 1 with the 5 members that have the same rack", n, c.members())
		}
		c.converged(time.Minute)
	})
}

func TestRunInProgressSurvivesAReload(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		c.lb("lb1", succeedsIn(time.Minute))
		c.synced()
		c.until("kicked", time.Minute, func(v *api.View) bool { return len(v.Runs) == 1 })
		time.Sleep(10 * time.Second)
		c.reload(func(cfg *controller.Config) {
			cfg.Settle, cfg.Roles = 5*time.Second,
				[]membership.RoleConfig{{Name: "web", MinMembers: 1}, {Name: "haproxy", Budget: "1"}}
		})
		time.Sleep(20 * time.Minute)
		v := c.control.View()
		if len(c.ran()) != 1 || v.Counts.Runs[kick.Succeeded] != 1 || v.Verdicts[0].State != api.Converged {
			t.Errorf("%d runs, %+v, %+v: want one, succeeded", len(c.ran()), v.Counts.Runs, v.Verdicts[0])
		}
	})
}

func TestBackoffSurvivesAReload(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.web("web1")
		c.lb("lb1", failsFirst(1000))
		c.synced()
		time.Sleep(30 * time.Minute)
		before := len(c.ran())
		for range 60 { // none of them may cause a retry
			c.reload(func(cfg *controller.Config) { cfg.Settle += time.Millisecond })
			time.Sleep(time.Minute)
		}
		if n := len(c.ran()) - before; n < 5 || n > 9 {
			t.Errorf("%d runs in an hour of a node that fails, want one in 10 minutes", n)
		}
		before = len(c.ran())
		c.reload(func(cfg *controller.Config) { cfg.Backoff.Max = 10 * time.Second })
		time.Sleep(time.Minute)
		if n := len(c.ran()) - before; n < 4 {
			t.Errorf("%d runs in a minute with a backoff of 10 s at most, want 4 at least", n)
		}
		before = len(c.ran())
		c.reload(func(cfg *controller.Config) { cfg.Backoff.Max = time.Hour })
		time.Sleep(4 * time.Hour)
		if n := len(c.ran()) - before; n < 8 || n > 24 {
			t.Errorf("%d runs in 4 hours, want a backoff that grows to an hour", n)
		}
	})
}

func TestHoldSurvivesReloadsAndEnds(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.loseSix()
		since := held(c.control.View()).Since
		for i := range 16 {
			c.reload(func(cfg *controller.Config) { cfg.Settle += time.Millisecond })
			if h := held(c.control.View()); h == nil || !h.Since.Equal(since) {
				t.Fatalf("after reload %d the hold is %+v", i, h)
			}
			time.Sleep(10 * time.Second)
		}
		c.reload(func(cfg *controller.Config) {
			cfg.Roles = []membership.RoleConfig{{Name: "web", MemberFacts: []string{"rack"}}}
		})
		for _, m := range c.control.View().Roles[1].Members {
			if m.Facts["rack"] == nil || m.Facts["port"] != nil {
				t.Errorf("member %+v, want only its rack, also of held members", m)
			}
		}
		c.until("4 members", time.Minute, members("web", 4))
		c.converged(time.Minute)
	})
}

func TestRunThatFailsAfterAReloadCountsForItsRevision(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.cfg.Roles = []membership.RoleConfig{{Name: "haproxy", Budget: "100%"}}
		c.startController()
		c.web("web1")
		var inProgress gauge
		for i := range 3 {
			c.lb(fmt.Sprintf("lb%d", i), func(ranAction) kick.Ending {
				inProgress.while(func() { time.Sleep(time.Minute) })
				return kick.Ending{Exit: 1}
			})
		}
		c.synced()
		c.until("all run", time.Minute, func(v *api.View) bool { return len(v.Runs) == 3 })
		time.Sleep(10 * time.Second)
		c.reload(func(cfg *controller.Config) { cfg.SettleMin += time.Second })
		time.Sleep(time.Minute)
		inProgress.peak()
		time.Sleep(time.Hour)
		if most := inProgress.peak(); most != 1 {
			t.Errorf("%d nodes at once try a revision that failed on three, want 1", most)
		}
	})
}

func TestReloadTurnsTheShadowGuardOnAndOff(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.reaches = func(string, string) bool { return true }
		c.loseSix()
		p := c.reload(func(cfg *controller.Config) { cfg.Guard = controller.GuardShadow })
		if len(p.Roles) != 1 || len(p.Roles[0].Removed) != 6 || !members("web", 4)(c.control.View()) {
			t.Errorf("the plan is %+v, want the held members removed", p)
		}
		c.converged(time.Minute)
		before := len(c.ran())
		c.reload(func(cfg *controller.Config) { cfg.Guard = controller.GuardOn })
		if n := c.runsAfter(before); n != 0 || !members("web", 4)(c.control.View()) || held(c.control.View()) != nil {
			t.Errorf("%d runs and %+v held, want none: a past removal is not held", n, held(c.control.View()))
		}
	})
}

func TestUnsyncedControllerReloadsAndPlansNothing(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.startController()
		c.cfg.Roles = []membership.RoleConfig{{Name: "web", MemberFacts: []string{"port"}}}
		if _, err := c.control.Plan(c.t.Context(), c.cfg); err == nil {
			t.Error("a controller that is not synced plans")
		}
		if err := c.control.Reload(c.t.Context(), c.cfg); err != nil {
			t.Fatal(err)
		}
		c.web("web1")
		c.lb("lb1", nil)
		c.synced()
		c.converged(time.Minute)
		if want := map[string]any{"port": "8080"}; !cmp.Equal(c.control.View().Roles[1].Members[0].Facts, want) {
			t.Errorf("the member's facts are %v, want %v", c.control.View().Roles[1].Members[0].Facts, want)
		}
	})
}

// inWatched plays a story in which the controller watches kicker.yaml.
func inWatched(t *testing.T, text string, story func(c *cluster, hangups chan<- os.Signal)) {
	t.Helper()
	inCluster(t, func(c *cluster) {
		rewrite(t, text)
		r := newReloader(config.Options{File: "kicker.yaml"})
		cfg, err := config.Load(r.options)
		if err != nil {
			t.Fatal(err)
		}
		c.cfg = cfg.Config
		c.startController()
		r.running, r.control, r.log = cfg, c.control.Controller, c.log
		hangups := make(chan os.Signal, 1)
		ctx, stop := context.WithCancel(context.Background())
		var watching sync.WaitGroup
		defer watching.Wait()
		defer stop()
		watching.Go(func() {
			if err := r.run(ctx, hangups); err != nil {
				t.Error(err)
			}
		})
		story(c, hangups)
	})
}

func rewrite(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile("kicker.yaml.new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename("kicker.yaml.new", "kicker.yaml"); err != nil {
		t.Fatal(err)
	}
}

func TestChangedFileIsLoadedOnce(t *testing.T) {
	inWatched(t, "settle: 2s\n", func(c *cluster, _ chan<- os.Signal) {
		time.Sleep(time.Minute)
		if got := c.events(api.EventReloaded); len(got) != 0 {
			t.Fatalf("without a change the events are %q", got)
		}
		rewrite(t, "settle: 3s\nroles: [{name: web, min_members: 2}]\n")
		c.until("reloaded", 5*time.Second, func(*api.View) bool { return len(c.events(api.EventReloaded)) > 0 })
		time.Sleep(20 * time.Minute)
		if got := c.events(api.EventReloaded); len(got) != 1 || !strings.Contains(got[0], "settle, role web changed") {
			t.Errorf("the events are %q, want one that names the changes", got)
		}
	})
}

func TestSIGHUPReloadsAtOnceButNotAnUnchangedFile(t *testing.T) {
	inWatched(t, "settle: 2s\n", func(c *cluster, hangups chan<- os.Signal) {
		c.web("web1")
		c.lb("lb1", nil)
		c.synced()
		c.converged(time.Minute)
		before, runs := len(c.control.View().Events), len(c.ran())
		for range 3 {
			hangups <- syscall.SIGHUP
			time.Sleep(time.Minute)
		}
		if n := len(c.control.View().Events); n != before || c.runsAfter(runs) != 0 {
			t.Errorf("an unchanged file was reloaded: %+v", c.control.View().Events[before:])
		}
		rewrite(t, "settle: 3s\n")
		hangups <- syscall.SIGHUP
		c.until("reloaded", time.Second, func(*api.View) bool { return len(c.events(api.EventReloaded)) == 1 })
	})
}

func TestWrongFileIsReportedAndTheOldOneStays(t *testing.T) {
	for name, broken := range map[string]struct{ text, want string }{
		"a mistake":     {"settle: 7\ncluster: main\n", "kicker.yaml:1: settle: 7 has no unit"},
		"not YAML":      {"settle: [", "kicker.yaml"},
		"a broken role": {"roles: [{name: web, selector: role}]\n", "roles[0].selector"},
		"what needs a restart": {"settle: 3s\ncluster: other\nbus: {listen: '127.0.0.1:1'}\n",
			"cluster, bus.listen can't change"},
		"an empty file": {"", "kicker.yaml is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			const good = "settle: 2s\nroles: [{name: web, min_members: 3}]\n"
			inWatched(t, good, func(c *cluster, hangups chan<- os.Signal) {
				since := c.control.View().Loaded.At
				time.Sleep(time.Minute)
				rewrite(t, broken.text)
				c.until("rejected", 5*time.Second, func(v *api.View) bool { return v.Loaded.Failed != "" })
				time.Sleep(10 * time.Minute)
				failed := c.events(api.EventReloadRejected)
				if len(failed) != 1 || !strings.Contains(failed[0], broken.want) {
					t.Errorf("the events are %q, want one with %q", failed, broken.want)
				}
				hangups <- syscall.SIGHUP
				c.until("reported again after SIGHUP", time.Second, func(*api.View) bool {
					return len(c.events(api.EventReloadRejected)) == 2
				})
				v := c.control.View()
				if !v.Loaded.At.Equal(since) || len(c.events(api.EventReloaded)) != 0 {
					t.Errorf("loaded %+v, events %q: want the old configuration and no event", v.Loaded,
						c.events(api.EventReloaded))
				}
				rewrite(t, good)
				c.until("not rejected", 5*time.Second, func(v *api.View) bool { return v.Loaded.Failed == "" })
			})
		})
	}
}

func TestRemovedFileChangesNothing(t *testing.T) {
	inWatched(t, "settle: 2s\n", func(c *cluster, hangups chan<- os.Signal) {
		if err := os.Remove("kicker.yaml"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			hangups <- syscall.SIGHUP
			time.Sleep(time.Minute)
		}
		if got := c.events(api.EventReloaded); len(got) != 0 || c.control.View().Loaded.Failed == "" {
			t.Errorf("a removed file was loaded: %q", got)
		}
	})
}

func TestMissingAndEmptyFilesAreRejected(t *testing.T) {
	r := &reloader{inForce: look{file: "kicker.yaml", text: "settle: 2s"}}
	for _, l := range []look{{}, {file: "kicker.yaml"}, {file: "kicker.yaml", text: " \n"},
		{file: "kicker.yaml", wrong: "it can't be read"}} {
		if cfg, err := r.configured(l); err == nil {
			t.Errorf("%+v was accepted as %+v", l, cfg)
		}
	}
}

func TestFileThatIsBeingWrittenIsNotLoaded(t *testing.T) {
	inWatched(t, "settle: 2s\n", func(c *cluster, hangups chan<- os.Signal) {
		text := "settle: 3s\n"
		for i := range 30 {
			text += fmt.Sprintf("# line %d\n", i)
			if err := os.WriteFile("kicker.yaml", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if got := c.events(api.EventReloaded); len(got) != 0 {
			t.Fatalf("a growing file was loaded: %q", got)
		}
		c.until("reloaded", 5*time.Second, func(*api.View) bool { return len(c.events(api.EventReloaded)) == 1 })
	})
}
