package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/kick"
)

// succeededIn is a status whose last run took so long.
func succeededIn(d time.Duration) kick.Status {
	return reload(func(a *kick.ActionStatus) {
		a.Last = &kick.LastRun{Run: "before", Outcome: kick.Succeeded, Duration: d.Milliseconds()}
	})
}

// accepting answers every kick with this deadline.
func accepting(deadline time.Duration) func(context.Context, kick.Kick) (kick.Reply, error) {
	return func(_ context.Context, k kick.Kick) (kick.Reply, error) {
		r := accept(k)
		r.Deadline = deadline.Milliseconds()
		return r, nil
	}
}

// hangs is balancers of which one may run at a time, and usually does for 20 s. Their runs hang for half an hour.
func hangs(t *testing.T, balancers int, story func(l *loop)) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "1"}}
	inLoop(t, cfg, func(l *loop) {
		l.answers(accepting(30 * time.Minute))
		l.says("web1", "web", kick.Status{})
		for i := range balancers {
			l.says(fmt.Sprint("lb", i+1), "lb", succeededIn(20*time.Second))
		}
		l.sync(t)
		story(l)
	})
}

func (l *loop) verdict(node string) api.Verdict {
	synctest.Wait()
	all := l.View().Verdicts
	return all[slices.IndexFunc(all, func(v api.Verdict) bool { return v.Node == node })]
}

func (l *loop) events(kind string) (found []api.Event) {
	for _, e := range l.View().Events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// at waits for so long after the first kick was sent.
func (l *loop) at(d time.Duration) {
	time.Sleep(time.Until(l.View().Runs[0].Started.Add(d)))
	synctest.Wait()
}

func TestHungRunDelaysTheNextForFiveTimesItsUsual(t *testing.T) {
	hangs(t, 2, func(l *loop) {
		first := l.kicked()[0]
		l.at(99 * time.Second)
		if n := len(l.kicked()); n != 1 || len(l.View().Overdue) != 0 {
			t.Fatalf("after 99s there are %d kicks, and overdue is %+v", n, l.View().Overdue)
		}
		other := "lb1"
		if first.Node == other {
			other = "lb2"
		}
		why := l.verdict(other).Gates[0].Why
		if !strings.Contains(why, first.Node+"/reload (since 00:00:03, until 00:30:09 at the latest)") {
			t.Errorf("%s waits for %q, want who has the place, since when and until when", other, why)
		}
		l.at(100 * time.Second)
		if kicks := l.kicked(); len(kicks) != 2 || kicks[1].Node != other {
			t.Fatalf("after 100s the kicks are %+v, want %s", kicks, other)
		}
		events := l.events(api.EventOverdue)
		if len(events) != 1 || events[0].Node != first.Node || events[0].Run != first.ID ||
			!strings.Contains(events[0].Text, "is overdue after 100s: it usually takes 20s") {
			t.Errorf("the events are %+v, want one that says that it is overdue", events)
		}
		v := l.View()
		if len(v.Overdue) != 1 || v.Overdue[0].Run != first.ID || v.Overdue[0].Usual != 20*time.Second || v.Overdue[0].Blocks != nil {
			t.Errorf("overdue is %+v, want the run that hangs, tolerated", v.Overdue)
		}
	})
}

func TestTooManyOverdueRunsStopTheRole(t *testing.T) {
	hangs(t, 4, func(l *loop) {
		l.at(29 * time.Minute)
		if n := len(l.kicked()); n != 2 {
			t.Fatalf("%d kicks, want that two hang, and no more", n)
		}
		for _, run := range l.View().Overdue {
			if !slices.Equal(run.Blocks, []string{"role lb"}) {
				t.Errorf("%+v, want that it blocks the role", run)
			}
		}
		why := l.verdict("lb4").Gates[0].Why
		if !strings.HasPrefix(why, "2 runs are overdue on nodes of role lb, more than its budget 1 tolerates: lb1/reload (since ") {
			t.Errorf("lb4 waits for %q", why)
		}
		l.ends(success(l.kicked()[0]))
		if n := len(l.kicked()); n != 3 {
			t.Errorf("%d kicks when one of them has ended, want another one", n)
		}
	})
}

func TestUsualDurationIsTheMedianOfLiveNodes(t *testing.T) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "1"}}
	inLoop(t, cfg, func(l *loop) {
		l.answers(accepting(30 * time.Minute))
		l.says("web1", "web", kick.Status{})
		for i, d := range []time.Duration{time.Second, 30 * time.Second, time.Hour} {
			l.says(fmt.Sprint("lb", i+1), "lb", succeededIn(d))
		}
		l.says("lb4", "lb", reload(func(a *kick.ActionStatus) {
			a.Last = &kick.LastRun{Run: "before", Outcome: kick.Failed, Duration: 1, Failures: 1}
		}))
		l.sync(t)
		l.at(149 * time.Second)
		n := len(l.kicked())
		l.at(150 * time.Second)
		if n != 1 || len(l.kicked()) != 2 {
			t.Errorf("%d kicks before 150s, %d after them; want that it is overdue then", n, len(l.kicked()))
		}
	})
}

func TestOverdueRunCountsAsAFailureUntilASuccess(t *testing.T) {
	cfg := unbudgeted()
	inLoop(t, cfg, func(l *loop) {
		l.answers(accepting(30 * time.Minute))
		l.says("web1", "web", kick.Status{})
		for i := range 3 {
			l.says(fmt.Sprint("lb", i+1), "lb", succeededIn(time.Second))
		}
		l.sync(t)
		l.at(2 * time.Minute)
		l.says("lb4", "lb", succeededIn(time.Second))
		l.says("lb5", "lb", succeededIn(time.Second))
		time.Sleep(2 * time.Second)
		if n := len(l.kicked()); n != 4 {
			t.Fatalf("%d kicks, want one more while three are overdue", n)
		}
		if g := l.verdict("lb5").Gates; len(g) != 1 || g[0].Name != api.GateRollout || !strings.Contains(g[0].Why, "now lb4/reload (since ") {
			t.Errorf("lb5 waits for %+v, want the rollout, and who tries it", g)
		}
		l.ends(success(l.kicked()[0]))
		if n := len(l.kicked()); n != 5 {
			t.Errorf("%d kicks after one succeeded, want lb5 too", n)
		}
	})
}

func TestReportedDeadlineIsBelievedUpToRunAtMost(t *testing.T) {
	cfg := patient()
	cfg.Roles, cfg.RunAtMost = []membership.RoleConfig{{Name: "lb", Budget: "1"}}, 10*time.Minute
	inLoop(t, cfg, func(l *loop) {
		l.answers(accepting(25 * time.Hour))
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.says("lb2", "lb", reload())
		l.sync(t)
		l.at(10 * time.Minute)
		n := len(l.kicked())
		l.at(10*time.Minute + 2*replyTimeout)
		if n != 1 || len(l.kicked()) != 2 {
			t.Errorf("%d kicks before run_at_most, %d after it", n, len(l.kicked()))
		}
	})
}

func TestRunThatAHeartbeatReportsIsBelievedUpToItsLimit(t *testing.T) {
	for limit, want := range map[time.Duration]time.Duration{
		time.Minute: time.Minute, 25 * time.Hour: time.Hour, 0: time.Hour,
	} {
		inLoop(t, patient(), func(l *loop) {
			l.says("web1", "web", kick.Status{})
			status := reload()
			status.Running = &kick.Running{Run: "r1", Action: "reload", Limit: limit.Milliseconds()}
			began := time.Now()
			l.says("lb1", "lb", status)
			l.sync(t)
			text := "until " + began.Add(want+2*replyTimeout).Format("15:04:05") + " at the latest"
			if gates := l.verdict("lb1").Gates; !slices.ContainsFunc(gates, func(g api.Gate) bool {
				return strings.Contains(g.Why, text)
			}) {
				t.Errorf("limit %s: gates %+v, want %q", limit, gates, text)
			}
		})
	}
}

func TestGoneNodesReportedDeadlineDoesNotCount(t *testing.T) {
	oneAtATime(t, reload(), func(l *loop) {
		l.ends(failed(l.kicked()[0]))
		l.answers(accepting(25 * time.Hour))
		second := l.kicked()[1]
		time.Sleep(time.Second)
		l.ends(failed(second))
		time.Sleep(10 * time.Second)
		running := l.kicked()[2]
		l.goes(running.Node)
		time.Sleep(plan.GonePlace - 5*time.Second)
		n := len(l.kicked())
		time.Sleep(5 * time.Second)
		if n != 3 || len(l.kicked()) != 4 {
			t.Errorf("%d kicks before its node was gone for a minute, %d after it", n, len(l.kicked()))
		}
	})
}

func TestLimitCountsAcrossTheCluster(t *testing.T) {
	cfg := unbudgeted()
	cfg.Limits = []plan.Limit{{Action: "reload", InFlight: 2}}
	inLoop(t, cfg, func(l *loop) {
		l.says("web1", "web", kick.Status{})
		for i := range 4 {
			l.says(fmt.Sprint("lb", i), []string{"lb", "edge"}[i%2], reload())
		}
		l.says("other", "lb", reload(func(a *kick.ActionStatus) { a.Name = "other" }))
		l.sync(t)
		kicks := l.kicked()
		if len(kicks) != 3 {
			t.Fatalf("%d kicks, want two of reload, and one of another action", len(kicks))
		}
		reloads := slices.IndexFunc(kicks, func(k kick.Kick) bool { return k.Action == "reload" })
		l.ends(success(kicks[reloads]))
		if n := len(l.kicked()); n != 4 {
			t.Errorf("%d kicks when one has ended, want another one", n)
		}
	})
}

// Of 20 balancers two may run at once, and every run hangs until its node stops it after ten minutes.
func TestListOnWhichEveryRunHangsHangsFourAtMost(t *testing.T) {
	for claim, status := range map[string]kick.Status{
		"they usually take a second": succeededIn(time.Second),
		"nothing is known of them":   reload(),
	} {
		t.Run(claim, func(t *testing.T) {
			const deadline = 10 * time.Minute
			inLoop(t, patient(), func(l *loop) {
				hanging := map[string]time.Time{}
				l.answers(func(_ context.Context, k kick.Kick) (kick.Reply, error) {
					l.mu.Lock()
					defer l.mu.Unlock()
					hanging[k.ID] = time.Now()
					r := accept(k)
					r.Deadline = (deadline + 15*time.Second).Milliseconds()
					return r, nil
				})
				l.says("web1", "web", kick.Status{})
				for i := range 20 {
					l.says(fmt.Sprint("lb", i), "lb", status)
				}
				l.sync(t)
				most, tried, ended := 0, map[string]bool{}, map[string]bool{}
				for range 3600 {
					time.Sleep(time.Second)
					kicks := l.kicked()
					var over []kick.Kick
					l.mu.Lock()
					for _, k := range kicks {
						tried[k.Node] = true
						if !ended[k.ID] && time.Since(hanging[k.ID]) >= deadline {
							ended[k.ID] = true
							delete(hanging, k.ID)
							over = append(over, k)
						}
					}
					l.mu.Unlock()
					for _, k := range over {
						res := failed(k)
						res.Outcome, res.Duration = kick.TimedOut, deadline.Milliseconds()
						l.ends(res)
					}
					l.mu.Lock()
					most = max(most, len(hanging))
					l.mu.Unlock()
				}
				if most > 4 || most < 2 || len(tried) < 6 {
					t.Errorf("%d hung at once, on %d nodes in all; want 2 to 4 at once, and that it goes on", most, len(tried))
				}
			})
		})
	}
}
