package controller

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

func failed(k kick.Kick) kick.Result {
	return kick.Result{Node: k.Node, Action: k.Action, Run: k.ID, Outcome: kick.Failed, Exit: 1, Duration: 1000, Dirty: true}
}

func TestAnotherMembershipMakesAnotherKick(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.answers(func(context.Context, kick.Kick) (kick.Reply, error) { return kick.Reply{}, context.DeadlineExceeded })
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		first := l.kicked()
		l.says("web2", "web", kick.Status{})
		time.Sleep(10 * time.Second)
		kicks := l.kicked()
		last := kicks[len(kicks)-1]
		if len(last.Needs[0].Members) != 2 || last.ID == first[0].ID {
			t.Errorf("the last kick is %+v, want one with two members and an id of its own: the first may have run", last)
		}
	})
}

func TestRunMayEndShortlyAfterItsDeadline(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		k := l.kicked()[0]
		started := l.View().Runs[0].Started
		time.Sleep(time.Until(started.Add(time.Minute + replyTimeout))) // its bound is a minute
		synctest.Wait()
		if r := l.View().Runs[0]; !r.Ended.IsZero() {
			t.Errorf("it expires before its end could be received: %+v", r)
		}
		l.ends(success(k))
		if v := l.View(); v.Counts.Runs[kick.Lost] != 0 || v.Counts.Runs[kick.Succeeded] != 1 {
			t.Errorf("the runs are %+v, want one that succeeded", v.Runs)
		}
	})
}

func TestHeartbeatReportsAFailedRunWithoutReply(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.answers(func(context.Context, kick.Kick) (kick.Reply, error) {
			l.answers(nil)
			return kick.Reply{}, context.DeadlineExceeded
		})
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		time.Sleep(4 * time.Second)
		k := l.kicked()[0]
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
			a.Dirty, a.Last = true, &kick.LastRun{Run: k.ID, Outcome: kick.Failed, Exit: 7, Failures: 1}
		}))
		time.Sleep(3 * time.Second)
		if kicks := l.kicked(); len(kicks) != 1 {
			t.Fatalf("the kicks are %+v, want one: it is not known to be lost", kicks)
		}
		if r := l.View().Runs[0]; r.Outcome != kick.Failed || r.Exit != 7 {
			t.Errorf("the run is %+v, want what the node's heartbeat says", r)
		}
	})
}

func TestKickAfterALostReplySettles(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		l.ends(success(l.kicked()[0]))
		time.Sleep(time.Minute)
		l.answers(func(context.Context, kick.Kick) (kick.Reply, error) {
			time.Sleep(replyTimeout)
			return kick.Reply{}, context.DeadlineExceeded
		})
		sent := time.Now()
		l.says("web2", "web", kick.Status{})
		time.Sleep(time.Second)
		k := l.kicked()[1]
		status := reload()
		status.Running = &kick.Running{Run: k.ID, Action: "reload"}
		l.says("lb1", "lb", status)
		l.says("web3", "web", kick.Status{})
		time.Sleep(replyTimeout)
		l.ends(success(k)) // 3 s after it was sent
		time.Sleep(time.Until(sent.Add(5 * time.Second)))
		if n := len(l.kicked()); n != 2 {
			t.Errorf("%d kicks, want no third one within the settle time of the second", n)
		}
		time.Sleep(time.Minute)
		if kicks := l.kicked(); len(kicks) < 3 || len(kicks[2].Needs[0].Members) != 3 {
			t.Errorf("the kicks are %+v, want one with three members after it", kicks)
		}
	})
}

func TestFormerControllersRunEndsByHeartbeat(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		status := reload()
		status.Running = &kick.Running{Run: "former-1", Action: "reload"}
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", status)
		l.sync(t)
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
			a.Dirty, a.Last = true, &kick.LastRun{Run: "former-1", Outcome: kick.Failed, Exit: 1, Failures: 1}
		}))
		synctest.Wait()
		if v := l.View(); v.Counts.Runs[kick.Failed] != 1 || v.Runs[0].ID != "former-1" || v.Runs[0].Outcome != kick.Failed {
			t.Errorf("the runs are %+v, want that it failed", v.Runs)
		}
	})
}

func TestBrokenRevisionIsTriedOnOneNodeAtATime(t *testing.T) {
	inLoop(t, unbudgeted(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		for i := range 10 {
			l.says(fmt.Sprint("lb", i), "lb", reload())
		}
		l.sync(t)
		first := l.kicked()
		for _, k := range first {
			l.ends(failed(k))
		}
		time.Sleep(30 * time.Second) // their backoff is over, the run that tries it is not
		if n := len(l.kicked()) - len(first); len(first) != 10 || n != 1 {
			t.Errorf("%d runs failed, and %d more are in progress; want ten, and one", len(first), n)
		}
	})
}

func TestRunBeyondItsDeadlineIsOverdueWhileReported(t *testing.T) {
	oneAtATime(t, reload(), func(l *loop) {
		k := l.kicked()[0]
		status := reload()
		status.Running = &kick.Running{Run: k.ID, Action: "reload"}
		l.says("lb1", "lb", status)
		time.Sleep(2 * time.Minute)
		if v := l.View(); len(l.kicked()) != 2 || v.Counts.Runs[kick.Lost] != 1 || len(v.Overdue) != 1 {
			t.Fatalf("%d kicks, and overdue is %+v; want lb1 to be lost and overdue, and lb2 kicked", len(l.kicked()), v.Overdue)
		}
		l.goes("lb1")
		if v := l.View(); len(v.Overdue) != 0 {
			t.Errorf("overdue is %+v, want none: the run had its time", v.Overdue)
		}
	})
}

func TestOrderIsCarriedOutOnce(t *testing.T) {
	for _, answer := range []kick.Answer{kick.Accepted, kick.AlreadyApplied} {
		t.Run(string(answer), func(t *testing.T) {
			inLoop(t, patient(), func(l *loop) {
				l.says("web1", "web", kick.Status{})
				l.says("lb1", "lb", reload())
				l.sync(t)
				k := l.kicked()[0]
				l.ends(success(k))
				l.answers(func(_ context.Context, k kick.Kick) (kick.Reply, error) {
					reply := accept(k)
					reply.Answer = answer
					return reply, nil
				})
				if _, err := l.Kick(context.Background(), api.KickOrder{Object: "node/lb1"}); err != nil {
					t.Fatal(err)
				}
				kicks := l.kicked()
				if len(kicks) == 2 && answer == kick.Accepted {
					l.ends(success(kicks[1]))
				}
				time.Sleep(10 * time.Minute)
				if n := len(l.kicked()); n != 2 {
					t.Errorf("%d kicks, want the first one and the one that was ordered", n)
				}
			})
		})
	}
}

func TestKicksOfAnActionAreApart(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{3 * time.Second: 12 * time.Second, 10 * time.Second: 40 * time.Second, time.Hour: time.Minute} {
		t.Run(took.String(), func(t *testing.T) {
			inLoop(t, patient(), func(l *loop) {
				l.says("web1", "web", kick.Status{})
				l.says("lb1", "lb", reload())
				l.sync(t)
				res := success(l.kicked()[0])
				res.Duration = took.Milliseconds()
				l.ends(res)
				sent := l.View().Runs[0].Started
				l.says("web2", "web", kick.Status{})
				time.Sleep(time.Until(sent.Add(want - time.Millisecond)))
				if n := len(l.kicked()); n != 1 {
					t.Errorf("%d kicks before %s have passed", n, want)
				}
				time.Sleep(time.Until(sent.Add(want + 2*time.Second)))
				if n := len(l.kicked()); n != 2 {
					t.Errorf("%d kicks when %s have passed, want 2", n, want)
				}
			})
		})
	}
}

func TestResultGivesTheLastRunOfTheNextHeartbeat(t *testing.T) {
	twice := &kick.LastRun{Run: "r1", Outcome: kick.Failed, Failures: 2}
	for _, c := range []struct {
		before  *kick.LastRun
		outcome kick.Outcome
		want    int
	}{{nil, kick.Succeeded, 0}, {twice, kick.Succeeded, 0}, {nil, kick.Failed, 1}, {twice, kick.TimedOut, 3}} {
		got := lastRun(c.before, kick.Result{Run: "r2", Outcome: c.outcome, Exit: 7, Duration: 1200})
		if want := (kick.LastRun{Run: "r2", Outcome: c.outcome, Exit: 7, Duration: 1200, Failures: c.want}); *got != want {
			t.Errorf("after %+v: %+v, want %+v", c.before, *got, want)
		}
	}
}

// The facts of a node, or its silence, say nothing about its runs.
func TestResultIsNotForgottenBeforeTheNextHeartbeat(t *testing.T) {
	cfg := patient()
	cfg.Settle = 0
	inLoop(t, cfg, func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		l.ends(success(l.kicked()[0]))
		for _, happens := range []func(){
			func() { l.tells("lb1", usualFacts("lb")) },
			func() { l.beats("lb1", usualFacts("lb"), reload()) }, // sent before the run ended
			func() { l.closes("lb1") },
		} {
			happens()
			synctest.Wait()
			if n := len(l.kicked()); n != 1 || l.View().Verdicts[0].State != api.Converged {
				t.Fatalf("%d kicks, lb1/reload is %s; want the one that succeeded", n, l.View().Verdicts[0].State)
			}
		}
	})
}
