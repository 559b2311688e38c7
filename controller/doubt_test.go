package controller

import (
	"context"
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

// oneUnanswered is two balancers that may run one at a time. The kick of lb1 is sent, and no reply comes within 3 s.
func oneUnanswered(t *testing.T, story func(l *loop, k kick.Kick)) {
	t.Helper()
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "1"}}
	inLoop(t, cfg, func(l *loop) {
		l.answers(noReply)
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.says("lb2", "lb", reload())
		l.sync(t)
		k := l.kicked()[0]
		if k.Node != "lb1" {
			t.Fatalf("%s is kicked, want lb1", k.Node)
		}
		story(l, k)
	})
}

func noReply(ctx context.Context, _ kick.Kick) (kick.Reply, error) {
	<-ctx.Done()
	return kick.Reply{}, ctx.Err()
}

// others is the nodes beside lb1 that were kicked.
func (l *loop) others() []string {
	var nodes []string
	for _, k := range l.kicked() {
		if k.Node != "lb1" {
			nodes = append(nodes, k.Node)
		}
	}
	return slices.Compact(nodes)
}

// runs is what lb1 reports while a run is in progress.
func runs(k kick.Kick) kick.Status {
	status := reload(func(a *kick.ActionStatus) { a.Dirty = true })
	status.Running = &kick.Running{Run: k.ID, Action: k.Action}
	return status
}

// boots is a heartbeat of a node from another boot, or another machine.
func (l *loop) boots(name, role, instance, boot string, status kick.Status) {
	l.conns++
	l.reportsFrom(name, instance, boot, usualFacts(role), status)
	synctest.Wait()
}

func TestRunInDoubtKeepsItsPlace(t *testing.T) {
	answers := func(a kick.Answer) func(*loop, kick.Kick) {
		return func(l *loop, _ kick.Kick) { l.answers(replying(a)) }
	}
	for claim, then := range map[string]func(*loop, kick.Kick){
		"while the kick is sent again":        func(*loop, kick.Kick) {},
		"when its node is suspect, and back":  func(l *loop, _ kick.Kick) { l.closes("lb1"); time.Sleep(time.Second); l.returns("lb1", "lb", reload()) },
		"when its node goes":                  func(l *loop, _ kick.Kick) { l.goes("lb1") },
		"when its node was rebooted":          func(l *loop, _ kick.Kick) { l.boots("lb1", "lb", "m", "b2", reload()) },
		"when its node no longer has actions": func(l *loop, _ kick.Kick) { l.says("lb1", "lb", kick.Status{}) },
		"when its node has another action": func(l *loop, _ kick.Kick) {
			l.says("lb1", "lb", reload(func(a *kick.ActionStatus) { a.Name = "other" }))
		},
		"when its node has another role": func(l *loop, _ kick.Kick) { l.says("lb1", "edge", reload()) },
		"when other members are needed":  func(l *loop, _ kick.Kick) { l.says("web2", "web", kick.Status{}) },
		"when its agent no longer listens": func(l *loop, _ kick.Kick) {
			l.answers(func(context.Context, kick.Kick) (kick.Reply, error) { return kick.Reply{}, kick.ErrNoAgent })
		},
		"when its action is no longer known": answers(kick.NoSuchAction),
		"when its node obeys another one":    answers(kick.Stale),
		"when its reply is unknown":          answers("made up"),
		"when its heartbeat shows the run":   func(l *loop, k kick.Kick) { l.says("lb1", "lb", runs(k)) },
		"when it shows the run and the node goes": func(l *loop, k kick.Kick) {
			l.says("lb1", "lb", runs(k))
			synctest.Wait()
			l.goes("lb1")
		},
		"when its reply is late and its node goes": func(l *loop, k kick.Kick) {
			l.answers(func(_ context.Context, k kick.Kick) (kick.Reply, error) { return accept(k), nil })
			time.Sleep(5 * time.Second)
			l.goes("lb1")
		},
		"when another machine has the name and runs nothing": func(l *loop, k kick.Kick) {
			l.goes("lb1")
			l.boots("lb1", "lb", "m2", "b2", reload())
			l.answers(replying(kick.Disabled))
		},
		"when another machine has the name": func(l *loop, k kick.Kick) {
			l.goes("lb1")
			l.boots("lb1", "lb", "m2", "b2", reload())
		},
	} {
		t.Run(claim, func(t *testing.T) {
			oneUnanswered(t, func(l *loop, k kick.Kick) {
				then(l, k)
				for range 45 {
					time.Sleep(time.Second)
					if nodes := l.others(); len(nodes) > 0 {
						t.Fatalf("%s is kicked while lb1 may run: %+v", nodes, l.View().Verdicts)
					}
				}
			})
		})
	}
}

func TestKickInDoubtIsSentAgain(t *testing.T) {
	oneUnanswered(t, func(l *loop, k kick.Kick) {
		time.Sleep(20 * time.Second)
		kicks := l.kicked()
		if len(kicks) < 5 {
			t.Fatalf("%d kicks, want one each 4 s", len(kicks))
		}
		for _, again := range kicks {
			if again.ID != k.ID || again.Node != "lb1" {
				t.Errorf("%+v was sent, want the first kick again", again)
			}
		}
		for _, v := range l.View().Verdicts {
			if v.Node == "lb2" && (len(v.Gates) != 1 || v.Gates[0].Name != api.GateBudget) {
				t.Errorf("lb2 waits for %+v, want the place of lb1", v.Gates)
			}
		}
	})
}

func TestRunInDoubtIsOverdueAMinuteAfterItsFirstKick(t *testing.T) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "1"}}
	inLoop(t, cfg, func(l *loop) {
		l.answers(noReply)
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", succeededIn(time.Second))
		l.says("lb2", "lb", succeededIn(time.Second))
		l.sync(t)
		time.Sleep(53 * time.Second) // the first kick was sent 6.3 s before
		if nodes := l.others(); len(nodes) > 0 {
			t.Fatalf("%s is kicked within a minute", nodes)
		}
		time.Sleep(2 * time.Second)
		v := l.View()
		if nodes := l.others(); len(nodes) != 1 || len(v.Overdue) != 1 || !v.Overdue[0].NoReply || v.Overdue[0].Node != "lb1" {
			t.Fatalf("%s is kicked, and overdue is %+v; want lb2, and that lb1 has not replied", nodes, v.Overdue)
		}
		before := len(l.kicked())
		time.Sleep(10 * time.Second)
		again := slices.DeleteFunc(slices.Clone(l.kicked()[before:]), func(k kick.Kick) bool { return k.Node != "lb1" })
		if len(again) == 0 || again[0].ID != l.kicked()[0].ID {
			t.Errorf("%+v is sent to lb1, want its first kick again", again)
		}
	})
}

func TestDoubtEnds(t *testing.T) {
	for claim, test := range map[string]struct {
		then   func(*loop, kick.Kick)
		within time.Duration
	}{
		"by an answer that it runs, and its end": {func(l *loop, k kick.Kick) {
			l.answers(nil)
			time.Sleep(5 * time.Second)
			l.ends(success(k))
		}, time.Second},
		"by its end alone": {func(l *loop, k kick.Kick) { l.ends(success(k)) }, time.Second},
		"by a heartbeat that shows its end": {func(l *loop, k kick.Kick) {
			l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
				a.Applied = map[string]kick.Revision{"web": k.Needs[0].Revision}
				a.Last = &kick.LastRun{Run: k.ID, Outcome: kick.Succeeded, Duration: 1000}
			}))
		}, time.Second},
		"by an answer that all is applied":   {func(l *loop, k kick.Kick) { l.answers(replying(kick.AlreadyApplied)) }, 6 * time.Second},
		"by an answer that no run may start": {func(l *loop, k kick.Kick) { l.answers(replying(kick.Disabled)) }, 6 * time.Second},
		"a minute after its node went": {func(l *loop, k kick.Kick) {
			l.goes("lb1")
			time.Sleep(plan.GonePlace - 2*time.Second)
		}, 3 * time.Second},
		"a minute after another machine took the name": {func(l *loop, k kick.Kick) {
			l.boots("lb1", "lb", "m2", "b2", kick.Status{})
			time.Sleep(plan.GonePlace - 2*time.Second)
		}, 5 * time.Second},
		"when a run of unknown length must be over": {func(l *loop, k kick.Kick) {
			l.says("lb1", "lb", kick.Status{})
			time.Sleep(kick.DefaultTimeout)
		}, kick.DefaultGrace},
	} {
		t.Run(claim, func(t *testing.T) {
			oneUnanswered(t, func(l *loop, k kick.Kick) {
				test.then(l, k)
				if n := len(l.others()); n > 0 && test.within > time.Second {
					t.Fatal("lb2 is kicked too early")
				}
				time.Sleep(test.within)
				if n := len(l.others()); n != 1 {
					t.Errorf("lb2 is not kicked: %+v", l.View().Verdicts)
				}
			})
		})
	}
}

func TestBusyNodeKeepsThePlaceOfItsOtherRun(t *testing.T) {
	oneUnanswered(t, func(l *loop, k kick.Kick) {
		l.answers(func(_ context.Context, k kick.Kick) (kick.Reply, error) {
			if k.Node == "lb1" {
				return kick.Reply{V: kick.Version, Answer: kick.Busy, Run: "other", Deadline: time.Hour.Milliseconds()}, nil
			}
			return accept(k), nil
		})
		time.Sleep(time.Minute)
		if nodes := l.others(); len(nodes) > 0 {
			t.Fatal("lb2 is kicked while lb1 is busy")
		}
		status := reload()
		status.Running = &kick.Running{Run: "other", Action: "reload"}
		l.says("lb1", "lb", status)
		time.Sleep(time.Minute)
		if nodes := l.others(); len(nodes) > 0 {
			t.Fatal("lb2 is kicked while lb1 reports that run")
		}
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
			a.Last = &kick.LastRun{Run: "other", Outcome: kick.Failed, Exit: 1, Failures: 1}
		}))
		synctest.Wait()
		if nodes := l.others(); len(nodes) != 1 {
			t.Errorf("lb2 is not kicked when it is over: %+v", l.View().Verdicts)
		}
	})
}

func TestBusyReplyAfterTheEndKeepsNoPlace(t *testing.T) {
	oneUnanswered(t, func(l *loop, k kick.Kick) {
		l.answers(func(_ context.Context, k kick.Kick) (kick.Reply, error) {
			if k.Node == "lb2" {
				return accept(k), nil
			}
			l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
				a.Last = &kick.LastRun{Run: "other", Outcome: kick.Failed, Exit: 1, Failures: 1}
			}))
			time.Sleep(time.Second)
			return kick.Reply{V: kick.Version, Answer: kick.Busy, Run: "other", Deadline: time.Hour.Milliseconds()}, nil
		})
		time.Sleep(3500 * time.Millisecond) // lb1 is not suspect yet: that would show its status again
		if nodes := l.others(); len(nodes) != 1 {
			t.Errorf("lb2 is not kicked: %+v", l.View().Verdicts)
		}
	})
}

func TestRunThatIsReportedDuringAKickTakesThePlace(t *testing.T) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "1"}}
	inLoop(t, cfg, func(l *loop) {
		l.answers(func(ctx context.Context, k kick.Kick) (kick.Reply, error) {
			if k.Node == "lb2" {
				return accept(k), nil
			}
			status := reload()
			status.Running = &kick.Running{Run: "other", Action: "reload"}
			l.says("lb1", "lb", status)
			time.Sleep(time.Second)
			return kick.Reply{}, kick.ErrNoAgent
		})
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.says("lb2", "lb", reload())
		l.sync(t)
		time.Sleep(50 * time.Second)
		if kicks := l.kicked(); len(kicks) != 1 {
			t.Errorf("the kicks are %+v, want one: lb1 reports a run", kicks)
		}
	})
}

func TestLostResultKeepsThePlaceUntilTheHeartbeat(t *testing.T) {
	oneAtATime(t, reload(), func(l *loop) {
		k := l.kicked()[0]
		l.says("lb1", "lb", runs(k))
		time.Sleep(40 * time.Second) // its result is lost
		if n := len(l.kicked()); n != 1 {
			t.Fatalf("%d kicks, want 1", n)
		}
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
			a.Applied = map[string]kick.Revision{"web": k.Needs[0].Revision}
			a.Last = &kick.LastRun{Run: k.ID, Outcome: kick.Succeeded, Duration: 1000}
		}))
		if kicks := l.kicked(); len(kicks) != 2 || kicks[1].Node != "lb2" {
			t.Errorf("the kicks are %+v, want lb2 after the heartbeat", kicks)
		}
	})
}

func TestRunOfADroppedActionKeepsItsPlace(t *testing.T) {
	for claim, status := range map[string]kick.Status{
		"the node has no action":      {},
		"the node has another action": reload(func(a *kick.ActionStatus) { a.Name = "other" }),
	} {
		t.Run(claim, func(t *testing.T) {
			oneAtATime(t, reload(), func(l *loop) {
				k := l.kicked()[0]
				status.Running = &kick.Running{Run: k.ID, Action: "reload"}
				l.says("lb1", "lb", status)
				time.Sleep(50 * time.Second)
				if n := len(l.kicked()); n != 1 {
					t.Fatalf("%d kicks, want 1 while the run goes on", n)
				}
				l.ends(success(k))
				if kicks := l.kicked(); len(kicks) != 2 {
					t.Errorf("%d kicks, want another one when the run is over", len(kicks))
				}
			})
		})
	}
}

func TestReportedRunOfAFormerControllerEnds(t *testing.T) {
	status := reload()
	status.Running = &kick.Running{Run: "former-1", Action: "reload"}
	oneAtATime(t, status, func(l *loop) {
		time.Sleep(10 * time.Minute)
		want := "lb1/reload (since 00:00:00"
		v := l.View().Verdicts[1]
		if len(l.kicked()) != 0 || len(v.Gates) != 1 || !strings.Contains(v.Gates[0].Why, want) {
			t.Fatalf("%d kicks, and lb2 waits for %+v; want the place of %s", len(l.kicked()), v.Gates, want)
		}
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
			a.Last = &kick.LastRun{Run: "former-1", Outcome: kick.Failed, Exit: 1, Failures: 1}
		}))
		if n := len(l.kicked()); n != 1 {
			t.Errorf("%d kicks when it is over, want 1", n)
		}
	})
}

func TestKickAfterARunThatOnlyAHeartbeatShowedIsANewOne(t *testing.T) {
	oneUnanswered(t, func(l *loop, k kick.Kick) {
		time.Sleep(time.Second) // between two kicks
		l.says("lb1", "lb", runs(k))
		synctest.Wait()
		l.answers(func(context.Context, kick.Kick) (kick.Reply, error) { return kick.Reply{}, kick.ErrNoAgent })
		l.ends(failed(k))
		before := len(l.kicked())
		time.Sleep(5 * time.Minute)
		again := slices.DeleteFunc(slices.Clone(l.kicked()[before:]), func(k kick.Kick) bool { return k.Node != "lb1" })
		if len(again) == 0 || again[0].ID == k.ID {
			t.Errorf("%+v is sent to lb1, want a kick with another id: that run has ended: %+v", again, l.verdict("lb1").Gates)
		}
	})
}

func TestRunOnAnotherMachineKeepsItsPlaceToItsEnd(t *testing.T) {
	oneUnanswered(t, func(l *loop, _ kick.Kick) {
		l.goes("lb1")
		l.boots("lb1", "lb", "m2", "b2", reload())
		l.answers(accepting(30 * time.Minute))
		time.Sleep(10 * time.Minute)
		kicks := l.kicked()
		if nodes := l.others(); len(nodes) > 0 || len(l.View().Runs) != 1 {
			t.Fatalf("%s is kicked, want that the run on the new machine keeps its place: %+v", nodes, l.View().Runs)
		}
		l.ends(success(kicks[len(kicks)-1]))
		if nodes := l.others(); len(nodes) != 1 {
			t.Errorf("lb2 is not kicked: %+v", l.View().Verdicts)
		}
	})
}

func TestReplyAtTheEndOfADoubtIsNotLost(t *testing.T) {
	oneUnanswered(t, func(l *loop, _ kick.Kick) {
		started := l.View().Identity.Started
		l.answers(func(ctx context.Context, k kick.Kick) (kick.Reply, error) {
			if time.Since(started) < kick.DefaultTimeout+kick.DefaultGrace {
				return noReply(ctx, k)
			}
			time.Sleep(2900 * time.Millisecond) // the place in doubt is free meanwhile
			r := accept(k)
			r.Deadline = time.Hour.Milliseconds()
			return r, nil
		})
		time.Sleep(20 * time.Minute)
		if nodes := l.others(); len(nodes) > 0 || len(l.View().Runs) != 1 {
			t.Errorf("%s is kicked, want that lb1 keeps its place: %+v", nodes, l.View().Runs)
		}
	})
}

func TestRunThatIsReportedAgainCountsFromItsStart(t *testing.T) {
	oneGone(t, func(l *loop, k kick.Kick) {
		time.Sleep(plan.GonePlace + 10*time.Second)
		l.returns("lb1", "lb", runs(k))
		why := l.verdict("lb1").Gates[0].Why
		if !strings.HasPrefix(why, "run "+k.ID+" of lb1/reload (since 00:00:03, ") {
			t.Errorf("lb1 waits for %q, want the run, since its kick", why)
		}
	})
}

func TestReplyAfterTheHeartbeatIsNoSecondRun(t *testing.T) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "1"}}
	inLoop(t, cfg, func(l *loop) {
		l.answers(func(ctx context.Context, k kick.Kick) (kick.Reply, error) {
			if k.Node == "lb1" {
				l.says("lb1", "lb", runs(k))
				time.Sleep(time.Second)
			}
			return accept(k), nil // its deadline is a minute
		})
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		if v := l.View(); len(v.Runs) != 1 || len(l.events(api.EventKicked)) != 1 {
			t.Errorf("the runs are %+v, want one", v.Runs)
		}
		g := l.verdict("lb1").Gates
		if len(g) != 1 || !g[0].Until.Equal(l.View().Runs[0].Started.Add(61*time.Second+2*replyTimeout)) {
			t.Errorf("lb1 waits for %+v, want the deadline of the reply", g)
		}
	})
}
