package controller

import (
	"context"
	"errors"
	"fmt"
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

// leaveBeat is a heartbeat of a node of role web that leaves, from one run of its agent.
func (l *loop) leaveBeat(name, agent string, change func(*inventory.Beat)) {
	b := &inventory.Beat{
		Node: name, Instance: "m", Boot: "b", Agent: agent, Conn: inventory.Conn{Server: name, Client: 1 + l.conns},
		Facts: usualFacts("web").Digest(), Ready: true, NextIn: 1000, Leaving: true,
	}
	if change != nil {
		change(b)
	}
	l.received <- inventory.Received{At: time.Now(), Reply: "inbox", Beat: b}
	synctest.Wait()
}

// told is what a leaving node was told last.
func (l *loop) told(t *testing.T) inventory.LeaveStatus {
	t.Helper()
	all := l.answered()
	if len(all) == 0 {
		t.Fatal("no leaving node was told anything")
	}
	return all[len(all)-1]
}

// waits is the actions and gates that a status names: "lb1/reload: settle".
func waits(s inventory.LeaveStatus) string {
	var texts []string
	for _, b := range s.Waiting {
		var gates []string
		for _, g := range b.Gates {
			gates = append(gates, g.Name)
		}
		texts = append(texts, b.Node+"/"+b.Action+": "+strings.Join(gates, ", "))
	}
	return strings.Join(texts, "; ")
}

// twoWebs is a controller that may release nodes, with web1, web2 and lb1, which has applied both.
func twoWebs(t *testing.T, cfg Config, story func(l *loop)) {
	inLoop(t, cfg, func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.says("web2", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		l.ends(success(l.kicked()[0]))
		l.passes(inventory.MaxRestart + membership.ReconnectTime)
		l.says("lb1", "lb", reload(applied(l.hashOf("web"))))
		story(l)
	})
}

func (l *loop) hashOf(role string) kick.Revision {
	i := slices.IndexFunc(l.View().Roles, func(r api.Role) bool { return r.Name == role })
	return l.View().Roles[i].Revision
}

func applied(web kick.Revision) func(*kick.ActionStatus) {
	return func(a *kick.ActionStatus) { a.Applied = map[string]kick.Revision{"web": web} }
}

func TestLeavingNodeIsAnsweredWhenItsStateChanges(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		l.leaveBeat("web2", "a1", nil)
		first := l.told(t)
		if got := waits(first); first.Released || got != "lb1/reload: settle" && got != "lb1/reload: " {
			t.Errorf("web2 is told %+v, want that it waits for lb1/reload", first)
		}
		for range 10 {
			l.passes(time.Second)
		}
		l.ends(success(l.kicked()[len(l.kicked())-1]))
		for range 10 {
			l.passes(time.Second)
		}
		last := l.told(t)
		if !last.Released || len(last.Waiting) != 0 || len(l.answered()) > 8 {
			t.Errorf("web2 is told %+v, want few answers, and at the end that it is released", l.answered())
		}
	})
}

func TestNodeThatIsBackIsAnsweredNoMore(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		l.leaveBeat("web2", "a1", nil)
		l.says("web2", "web", kick.Status{})
		synctest.Wait()
		before := len(l.answered())
		l.passes(time.Minute)
		if l.leavingNodes() != 0 || len(l.answered()) != before {
			t.Errorf("web2 is back, and was told %+v", l.answered()[before:])
		}
	})
}

func TestStandbyAnswersNoLeavingNode(t *testing.T) {
	cfg := patient()
	cfg.Standby = true
	twoWebs(t, cfg, func(l *loop) {
		stop := make(chan struct{})
		defer close(stop)
		l.received <- inventory.Received{At: time.Now(), Beacon: &inventory.Beacon{
			ID: "other", Epoch: time.Now().Add(time.Hour).UnixMilli(),
		}}
		l.leaveBeat("web2", "a1", nil)
		l.passes(5 * time.Second)
		if len(l.answered()) != 0 {
			t.Errorf("a standby told web2 %+v, want nothing", l.answered())
		}
	})
}

func TestControllerThatHasJustBegunReleasesNobody(t *testing.T) {
	cfg := DefaultConfig()
	inLoop(t, cfg, func(l *loop) {
		began := time.Now()
		l.says("web2", "web", kick.Status{})
		from := began.Add(membership.ReconnectTime + cfg.GoneAfter)
		for time.Now().Before(from.Add(2 * time.Second)) {
			l.says("web1", "web", kick.Status{})
			l.says("lb1", "lb", kick.Status{})
			l.leaveBeat("web2", "a1", nil)
			if s := l.told(t); s.Released != !time.Now().Before(from) || s.Released == (s.Why != "") {
				t.Errorf("after %s web2 is told %+v, want it released from %s on", time.Since(began), s, from.Sub(began))
			}
			time.Sleep(500 * time.Millisecond)
		}
	})
}

func TestDependentIsAskedForMembersThatAreNotKnown(t *testing.T) {
	for claim, test := range map[string]struct {
		applied  []kick.Member
		answers  bool
		role     string
		released bool
	}{
		"it has the node":     {[]kick.Member{{Node: "web2"}, {Node: "web9"}}, true, "web", false},
		"it has others":       {[]kick.Member{{Node: "web8"}, {Node: "web9"}}, true, "web", true},
		"it does not answer":  {[]kick.Member{{Node: "web8"}, {Node: "web9"}}, false, "web", false},
		"never the same role": {[]kick.Member{{Node: "db8"}, {Node: "db9"}}, false, "db", true},
	} {
		t.Run(claim, func(t *testing.T) {
			twoWebs(t, patient(), func(l *loop) {
				l.answers(func(context.Context, kick.Kick) (kick.Reply, error) { // it stays as it is
					return kick.Reply{V: kick.Version, Answer: kick.CannotRun}, nil
				})
				if test.answers {
					l.rosters = map[string][]kick.Member{"lb2/reload": test.applied}
				}
				l.says("lb2", "lb", reload(func(a *kick.ActionStatus) { a.DependsOn = []string{test.role} }))
				l.passes(time.Second)
				old := kick.Revision{Epoch: l.leadership.epoch, N: 1, Hash: kick.Hash(test.applied)}
				l.says("lb2", "lb", reload(func(a *kick.ActionStatus) {
					a.DependsOn = []string{test.role}
					a.Applied = map[string]kick.Revision{test.role: old}
				}))
				l.says("lb1", "lb", kick.Status{}) // it has no action any more
				l.leaveBeat("web2", "a1", nil)
				if s := l.told(t); s.Released && !test.answers {
					t.Errorf("web2 is told %+v before lb2 could answer", s)
				}
				for range 20 {
					l.passes(time.Second)
				}
				if s := l.told(t); s.Released != test.released {
					t.Errorf("web2 is told %+v, want released: %t", s, test.released)
				}
			})
		})
	}
}

func TestRoleThatTheNodeHadBeforeStillCounts(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		l.answers(func(context.Context, kick.Kick) (kick.Reply, error) {
			return kick.Reply{V: kick.Version, Answer: kick.Busy, Run: "other"}, nil
		})
		l.says("web2", "spare", kick.Status{})
		l.leaveBeat("web2", "a1", func(b *inventory.Beat) { b.Facts = usualFacts("spare").Digest() })
		l.passes(5 * time.Second)
		if s := l.told(t); s.Released || !strings.HasPrefix(waits(s), "lb1/reload") {
			t.Errorf("web2 is told %+v, want that it waits for lb1/reload, which has applied it as a web", s)
		}
	})
}

func TestWaitForAPersonIsSaidSo(t *testing.T) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "web", MinMembers: 2}}
	for _, last := range []bool{false, true} {
		t.Run(fmt.Sprintf("last %t", last), func(t *testing.T) {
			twoWebs(t, cfg, func(l *loop) {
				l.leaveBeat("web2", "a1", func(b *inventory.Beat) { b.LeavingLast = last })
				l.passes(5 * time.Second)
				if s := l.told(t); s.Person == last || s.Released {
					t.Errorf("web2 is told %+v, want that only a person can end it: %t", s, !last)
				}
				if !last {
					return
				}
				k := l.kicked()[len(l.kicked())-1]
				l.ends(success(k))
				if s := l.told(t); !s.Released || len(k.Needs[0].Members) != 1 {
					t.Errorf("web2 is told %+v after a run with %v, want it released", s, k.Needs[0].Members)
				}
				l.says("web3", "web", kick.Status{}) // enough again: the next loss is not allowed
				l.passes(10 * time.Second)
				l.ends(success(l.kicked()[len(l.kicked())-1]))
				l.leaveBeat("web3", "a3", nil)
				l.passes(10 * time.Second)
				if s := l.told(t); !s.Person {
					t.Errorf("web3 is told %+v, want that only a person can end it", s)
				}
			})
		})
	}
}

func TestDisabledActionWaitsForAPerson(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		status := reload(applied(l.hashOf("web")))
		status.Disabled = "disabled: being repaired"
		l.says("lb1", "lb", status)
		before := len(l.kicked())
		l.leaveBeat("web2", "a1", nil)
		l.passes(10 * time.Second)
		if s := l.told(t); !s.Person || waits(s) != "lb1/reload: disabled" {
			t.Errorf("web2 is told %+v, want that it waits for a person to enable lb1/reload", s)
		}
		if n := len(l.kicked()) - before; n != 0 {
			t.Errorf("a disabled action was kicked %d times", n)
		}
		status.Disabled = ""
		l.says("lb1", "lb", status)
		l.passes(10 * time.Second)
		if n := len(l.kicked()) - before; n != 1 || l.View().Verdicts[0].State == api.Failing {
			t.Errorf("%d kicks after it is enabled, state %s, want one and no failure", n, l.View().Verdicts[0].State)
		}
	})
}

func TestOrderedNodeLeavesWhateverItsLife(t *testing.T) {
	for life, given := range map[inventory.Life]func(*loop){
		inventory.Alive:   func(l *loop) { l.says("web2", "web", kick.Status{}) },
		inventory.Suspect: func(l *loop) { l.closes("web2") },
		inventory.Restarting: func(l *loop) {
			l.leaveBeat("web2", "", func(b *inventory.Beat) { b.Leaving, b.RestartWithin = false, 60_000 })
		},
	} {
		t.Run(string(life), func(t *testing.T) {
			twoWebs(t, patient(), func(l *loop) {
				given(l)
				synctest.Wait()
				if got := l.View().Nodes.Node("web2").Life; got != life {
					t.Fatalf("web2 is %s, want %s", got, life)
				}
				answer, err := l.Leave(context.Background(), api.LeaveOrder{Object: "node/web2", By: "ann"})
				if err != nil || answer.Gone || answer.Released || !answer.Received {
					t.Fatalf("the answer is %+v, %v", answer, err)
				}
				if n := l.View().Nodes.Node("web2"); n.Life != inventory.Left || len(l.web().Members) != 1 {
					t.Errorf("web2 is %s and the members are %v, want it left at once", n.Life, l.web().Members)
				}
				events := l.View().Events
				if !slices.ContainsFunc(events, func(e api.Event) bool {
					return e.Kind == api.EventLeaveOrdered && e.Text == "ann orders node web2 to leave"
				}) {
					t.Error("no event says who ordered it")
				}
				l.passes(2 * time.Second)
				l.ends(success(l.kicked()[len(l.kicked())-1]))
				if answer, err := l.Leaving(context.Background(), "web2"); err != nil || !answer.Released {
					t.Errorf("when lb1 does not use it the answer is %+v, %v", answer, err)
				}
			})
		})
	}
}

func TestHungAgentThatWakesUpStaysAway(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		wakes := func(agent string, leaving bool) {
			l.leaveBeat("web2", agent, func(b *inventory.Beat) { b.Leaving = leaving })
		}
		wakes("a1", false)
		if _, err := l.Leave(context.Background(), api.LeaveOrder{Object: "node/web2"}); err != nil {
			t.Fatal(err)
		}
		orders := func() (n int) {
			synctest.Wait()
			for _, text := range l.orders() {
				if text == "leave web2 a1 false" {
					n++
				}
			}
			return n
		}
		for range 5 {
			l.passes(time.Second)
		}
		if n := orders(); n < 3 {
			t.Errorf("its agent was told %d times in 5 s, want again until it knows", n)
		}
		wakes("a1", false)
		if n := l.View().Nodes.Node("web2"); n == nil || n.Life != inventory.Left {
			t.Errorf("the agent that woke up made it %+v", n)
		}
		wakes("a1", true)
		before := orders()
		l.passes(10 * time.Second)
		if n := orders(); n != before {
			t.Errorf("it was told %d times more after it knew", n-before)
		}
		wakes("a2", false) // it was started again
		if n := l.View().Nodes.Node("web2"); n.Life != inventory.Alive || l.leavingNodes() != 0 {
			t.Errorf("after a restart of its agent it is %s, want alive", n.Life)
		}
	})
}

func TestOrderForANodeThatIsGoneWaitsForItsDependents(t *testing.T) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "web", MinMembers: 1}}
	twoWebs(t, cfg, func(l *loop) {
		l.closes("web1")
		l.closes("web2") // the last two: the guard holds them
		l.passes(10 * time.Second)
		if l.web().Held == nil || l.View().Nodes.Node("web2") != nil {
			t.Fatalf("the removal is not held: %+v", l.web())
		}
		answer, err := l.Leave(context.Background(), api.LeaveOrder{Object: "node/web2"})
		if err != nil || !answer.Gone || answer.Released {
			t.Errorf("the answer is %+v, %v, want that it is gone and may be used", answer, err)
		}
		l.passes(10 * time.Second)
		if members := l.web().Members; len(members) != 1 || members[0].Node != "web1" {
			t.Errorf("the members are %v, want web1 alone: it is still held", members)
		}
		l.ends(success(l.kicked()[len(l.kicked())-1]))
		if answer, err := l.Leaving(context.Background(), "web2"); err != nil || !answer.Released {
			t.Errorf("at the end the answer is %+v, %v, want it released", answer, err)
		}
		if _, err := l.Leave(context.Background(), api.LeaveOrder{Object: "node/web3"}); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("the order for an unknown node: %v", err)
		}
	})
}

func TestStandInOfAnotherMachineIsRejected(t *testing.T) {
	twoWebs(t, patient(), func(l *loop) {
		l.leaveBeat("web2", "a1", func(b *inventory.Beat) { b.Instance, b.Facts = "other", "" })
		if s := l.told(t); !strings.Contains(s.Rejected, "two machines claim the name web2") {
			t.Errorf("another machine that stands in for web2 is told %+v", s)
		}
		l.leaveBeat("web2", "a1", func(b *inventory.Beat) { b.Facts = "" })
		n := l.View().Nodes.Node("web2")
		if n.Life != inventory.Left || n.Facts.Digest() != usualFacts("web").Digest() || l.told(t).Rejected != "" {
			t.Errorf("its own machine made it %+v, want it left with the facts that it had", n)
		}
		l.passes(5 * time.Second)
		if slices.Contains(l.orders(), "facts web2") {
			t.Error("it was asked for facts, which a command does not have")
		}
	})
}
