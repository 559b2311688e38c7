package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }
func in(d time.Duration) time.Time  { return noon.Add(d) }

var silent = slog.New(slog.DiscardHandler)

// loop is a controller whose nodes are the test: it reports for them, and answers the kicks.
type loop struct {
	*Controller
	received chan inventory.Received
	results  chan kick.Result
	mute     atomic.Bool   // no canary comes back
	sending  atomic.Int64  // kicks under way
	conns    uint64        // a node that was gone is back over another connection
	pace     time.Duration // between two heartbeats of a node

	mu      sync.Mutex
	kicks   []kick.Kick
	rolls   int
	leavers []inventory.LeaveStatus                              // answers to nodes that leave
	asked   []string                                             // "beat web1"
	beacons []int64                                              // their epochs
	rosters map[string][]kick.Member                             // by holder; none: the holder does not answer
	reaches func(node string, others []string) ([]string, error) // nil: none answers
	answer  func(context.Context, kick.Kick) (kick.Reply, error) // nil: accepted
}

// inLoop runs a story on virtual time.
func inLoop(t *testing.T, cfg Config, story func(*loop)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &loop{received: make(chan inventory.Received, 1024), results: make(chan kick.Result), pace: time.Second}
		c, err := New(cfg, "me", inventory.New(), Bus{
			Send: l.send, Roster: l.roster, Probe: l.reach, Ask: func(node, do string) { l.note(do + " " + node) },
			Beacon:         func(_ string, epoch int64, _ time.Duration) { l.beacons = append(l.beacons, epoch) },
			RequestReports: func(time.Duration) { l.rolls++ },
			TellLeaving: func(_, _ string, f inventory.LeaveStatus) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.leavers = append(l.leavers, f)
			},
			OrderLeave: func(node, agent string, last bool) {
				l.note(fmt.Sprintf("leave %s %s %t", node, agent, last))
			},
		}, silent)
		if err != nil {
			t.Fatal(err)
		}
		l.Controller = c
		ctx, stop := context.WithCancel(context.Background())
		var daemon sync.WaitGroup
		daemon.Go(func() {
			if err := c.Run(ctx, l.received, l.results); err != nil {
				t.Errorf("run: %v", err)
			}
			if n := l.sending.Load(); n != 0 {
				t.Errorf("it ended while %d kicks were under way", n)
			}
		})
		defer daemon.Wait()
		defer stop()
		daemon.Go(func() { l.canaries(ctx) })
		story(l)
	})
}

// canaries come back unless the bus is mute.
func (l *loop) canaries(ctx context.Context) {
	for tick := time.Tick(inventory.CanaryEvery); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			if !l.mute.Load() {
				l.received <- inventory.Received{At: time.Now(), Canary: true}
			}
		}
	}
}

// patient is the default configuration, but that nodes which say nothing are not gone for a day.
func patient() Config {
	cfg := DefaultConfig()
	cfg.GoneAfter = 24 * time.Hour
	return cfg
}

func (l *loop) send(ctx context.Context, k kick.Kick) (kick.Reply, error) {
	l.mu.Lock()
	l.kicks = append(l.kicks, k)
	answer := l.answer
	l.mu.Unlock()
	l.sending.Add(1)
	defer l.sending.Add(-1)
	if answer != nil {
		return answer(ctx, k)
	}
	return accept(k), nil
}

func (l *loop) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, what)
}

// orders is what nodes were asked for so far.
func (l *loop) orders() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked)
}

// answered is what leaving nodes were told so far.
func (l *loop) answered() []inventory.LeaveStatus {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.leavers)
}

// leavingNodes is how many nodes leave.
func (l *loop) leavingNodes() (n int) {
	_ = l.inLoop(context.Background(), func(context.Context, time.Time) bool {
		n = len(l.leaving)
		return false
	}) // fails only when the context ends
	return n
}

// answers sets how nodes answer from now on, while kicks are sent.
func (l *loop) answers(how func(context.Context, kick.Kick) (kick.Reply, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = how
}

func accept(k kick.Kick) kick.Reply {
	return kick.Reply{V: kick.Version, Answer: kick.Accepted, Run: k.ID, Deadline: time.Minute.Milliseconds()}
}

func (l *loop) roster(_ context.Context, node, action, _ string) ([]kick.Member, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	members, ok := l.rosters[node+"/"+action]
	if !ok {
		return nil, "", kick.ErrNoAgent
	}
	return members, kick.Hash(members), nil
}

func (l *loop) reach(_ context.Context, node string, others []string) ([]string, error) {
	if l.reaches == nil {
		return nil, inventory.ErrNoAgent
	}
	return l.reaches(node, others)
}

func (l *loop) kicked() []kick.Kick {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kicks
}

// ends is the message that says how a run ended, after all that was received.
func (l *loop) ends(res kick.Result) {
	synctest.Wait()
	l.results <- res
	synctest.Wait()
}

// passes lets time go by, in which only web1 beats.
func (l *loop) passes(d time.Duration) {
	time.Sleep(d)
	l.says("web1", "web", kick.Status{})
	l.received <- inventory.Received{At: time.Now(), Canary: true}
}

func (l *loop) closes(node string) {
	l.received <- inventory.Received{At: time.Now(), Disconnect: &inventory.Disconnect{Conn: inventory.Conn{Server: node, Client: 1 + l.conns}}}
}

// says is a beat, and the facts that it announces, of a node with a status.
func (l *loop) says(name, role string, status kick.Status) {
	l.reports(name, usualFacts(role), status)
}

// usualFacts is the facts of a node that can be a member of its role.
func usualFacts(role string) inventory.Facts {
	return inventory.Facts{"role": role, "ipaddress": "10.0.0.1", "port": "80"}
}

// reports is a beat of a node with facts.
func (l *loop) reports(name string, facts inventory.Facts, status kick.Status) {
	l.reportsFrom(name, "m", "b", facts, status)
}

// reportsFrom is such a beat of one boot of one machine.
func (l *loop) reportsFrom(name, instance, boot string, facts inventory.Facts, status kick.Status) {
	l.tellsFrom(name, instance, boot, facts)
	l.beatsFrom(name, instance, boot, facts, status)
}

// tells is the facts of a node.
func (l *loop) tells(name string, facts inventory.Facts) { l.tellsFrom(name, "m", "b", facts) }

func (l *loop) tellsFrom(name, instance, boot string, facts inventory.Facts) {
	l.received <- inventory.Received{At: time.Now(), Facts: &inventory.FactsMessage{Node: name, Instance: instance, Boot: boot, Facts: facts}}
}

// beats is a beat of a node that announces facts.
func (l *loop) beats(name string, facts inventory.Facts, status kick.Status) {
	l.beatsFrom(name, "m", "b", facts, status)
}

func (l *loop) beatsFrom(name, instance, boot string, facts inventory.Facts, status kick.Status) {
	data, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	l.received <- inventory.Received{At: time.Now(), Beat: &inventory.Beat{
		Node: name, Instance: instance, Boot: boot, Conn: inventory.Conn{Server: name, Client: 1 + l.conns}, Facts: facts.Digest(), Ready: true,
		NextIn: l.pace.Milliseconds(), Kick: data,
	}}
}

func (l *loop) sync(t *testing.T) {
	t.Helper()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	if s := l.View().Sync; !s.Open {
		t.Fatalf("not synced: %s", s.Why)
	}
}

func reload(changes ...func(*kick.ActionStatus)) kick.Status {
	a := kick.ActionStatus{Name: "reload", DependsOn: []string{"web"}}
	for _, change := range changes {
		change(&a)
	}
	return kick.Status{Actions: []kick.ActionStatus{a}}
}

func TestRejectedKickIsRetriedAtABoundedRate(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		for claim, c := range map[string]struct {
			answer func(context.Context, kick.Kick) (kick.Reply, error)
			most   int // in ten minutes
		}{
			"busy":       {replying(kick.Busy), 10*60 + 1},
			"disabled":   {replying(kick.Disabled), 10},
			"made up":    {replying("made up"), 10},
			"unanswered": {func(context.Context, kick.Kick) (kick.Reply, error) { return kick.Reply{}, kick.ErrNoAgent }, 10*60 + 1},
		} {
			t.Run(fmt.Sprintf("%s, ordered %t", claim, ordered), func(t *testing.T) {
				inLoop(t, patient(), func(l *loop) {
					l.answers(c.answer)
					l.says("web1", "web", kick.Status{})
					l.says("lb1", "lb", reload())
					l.sync(t)
					if ordered {
						if _, err := l.Kick(context.Background(), api.KickOrder{Object: "node/lb1"}); err != nil {
							t.Fatal(err)
						}
					}
					before := len(l.kicked())
					time.Sleep(10 * time.Minute)
					if n := len(l.kicked()) - before; n < 3 || n > c.most {
						t.Errorf("%d kicks in ten minutes, want 3 to %d", n, c.most)
					}
				})
			})
		}
	}
}

func replying(a kick.Answer) func(context.Context, kick.Kick) (kick.Reply, error) {
	return func(_ context.Context, k kick.Kick) (kick.Reply, error) {
		return kick.Reply{V: kick.Version, Answer: a, Run: "other"}, nil
	}
}

func TestRunWaitsForTheKicksThatItSent(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.answers(func(ctx context.Context, k kick.Kick) (kick.Reply, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			return kick.Reply{}, ctx.Err()
		})
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		if n := l.sending.Load(); n != 1 {
			t.Errorf("%d kicks are under way: the test shows nothing", n)
		}
	})
}

func TestRetryKeepsItsBackoffWhenOthersIntervene(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		fails := func() {
			kicks := l.kicked()
			l.ends(kick.Result{Node: "lb1", Action: "reload", Run: kicks[len(kicks)-1].ID, Outcome: kick.Failed, Exit: 1, Dirty: true})
		}
		for range 6 { // from now on it waits for more than two minutes
			before := len(l.kicked())
			fails()
			for len(l.kicked()) == before {
				l.passes(time.Second)
			}
		}
		fails()
		before := len(l.kicked())
		web2 := func(ready bool) {
			facts := usualFacts("web")
			l.received <- inventory.Received{At: time.Now(), Facts: &inventory.FactsMessage{Node: "web2", Instance: "m", Boot: "b", Facts: facts}}
			l.received <- inventory.Received{At: time.Now(), Beat: &inventory.Beat{
				Node: "web2", Instance: "m", Boot: "b", Conn: inventory.Conn{Server: "web2", Client: 1}, Facts: facts.Digest(), Ready: ready, Leaving: !ready, NextIn: 1000,
			}}
		}
		web2(true)
		l.passes(time.Second / 2)
		web2(false)
		for range 60 {
			l.passes(time.Second)
		}
		if n := len(l.kicked()) - before; n != 0 {
			t.Errorf("%d kicks within a minute, with what has failed 7 times", n)
		}
		web2(true)
		for range 10 {
			l.passes(time.Second)
		}
		if n := len(l.kicked()) - before; n != 1 {
			t.Errorf("%d kicks with what is needed now and did not fail, want 1", n)
		}
	})
}

func TestDryRunOfAnOrderChangesNothing(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.answers(replying(kick.Disabled))
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		synctest.Wait()
		before := l.View().Verdicts[0].Gates
		kicked, err := l.Kick(context.Background(), api.KickOrder{Object: "role/lb", DryRun: true})
		if err != nil || len(kicked.Actions) != 1 || len(kicked.Actions[0].Gates) != 0 {
			t.Fatalf("%+v, %v: want lb1/reload, at once", kicked, err)
		}
		if after := l.View().Verdicts[0].Gates; len(before) == 0 || len(after) != len(before) || after[0] != before[0] {
			t.Errorf("the gates were %+v and are %+v", before, after)
		}
	})
}

func TestImpossibleOrderIsRejected(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		if _, err := l.Kick(context.Background(), api.KickOrder{Object: "node/lb1"}); !errors.Is(err, api.ErrNotSynced) {
			t.Errorf("before it is synced: %v", err)
		}
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		for _, o := range []api.KickOrder{
			{Object: "node/none"}, {Object: "role/none"}, {Object: "lb1"}, {Object: "node/web1"}, {Object: "node/lb1", Action: "other"},
		} {
			if _, err := l.Kick(context.Background(), o); !errors.Is(err, api.ErrNotFound) {
				t.Errorf("%+v: %v, want not found", o, err)
			}
		}
		l.goes("lb1")
		_, err := l.Kick(context.Background(), api.KickOrder{Object: "node/lb1"})
		if !errors.Is(err, api.ErrNotFound) || !strings.Contains(err.Error(), "it is gone") {
			t.Errorf("kick of a node that is gone: %v", err)
		}
	})
}

func TestPartlyInvalidHeartbeatKeepsWhatWasKnown(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		applied := map[string]kick.Revision{"web": {Epoch: 1, N: 1, Hash: "1-old"}}
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) { a.Applied = applied }))
		l.sync(t)
		before := len(l.kicked())
		l.received <- inventory.Received{At: time.Now(), Beat: &inventory.Beat{
			Node: "lb1", Instance: "m", Boot: "b", Conn: inventory.Conn{Server: "lb1", Client: 1 + l.conns},
			Facts: usualFacts("lb").Digest(), Ready: true, NextIn: 1000, Kick: json.RawMessage(`{"actions": 7}`),
		}}
		synctest.Wait()
		v := l.View()
		if n := v.Nodes.Node("lb1"); n == nil || !n.Eligible() || len(v.Verdicts) != 1 || *v.Verdicts[0].Needs[0].Applied != applied["web"] || len(l.kicked()) != before {
			t.Errorf("lb1 is %+v and the verdicts are %+v: want all as it was", n, v.Verdicts)
		}
		last := v.Events[len(v.Events)-1]
		if v.Counts.InvalidMessages != 1 || last.Kind != api.EventInvalidMessage || !strings.Contains(last.Text, "heartbeat of lb1: status: ") {
			t.Errorf("%d refused, and the last event is %+v", v.Counts.InvalidMessages, last)
		}
	})
}

func TestResultOfAnUnknownRunIsIgnored(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		now := l.View().Roles[0].Revision
		applied := map[string]kick.Revision{"web": now}
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) { a.Applied = applied }))
		l.ends(kick.Result{Node: "lb1", Action: "reload", Run: "late", Outcome: kick.Failed, Applied: map[string]kick.Revision{"web": {Hash: "1-old"}}, Dirty: true})
		time.Sleep(time.Minute)
		synctest.Wait()
		if v := l.View(); v.Verdicts[0].State != api.Converged || len(l.kicked()) != 0 || len(v.Runs) != 0 {
			t.Errorf("a late result made it %+v, %d kicks, and the runs %+v", v.Verdicts[0], len(l.kicked()), v.Runs)
		}
	})
}

func success(k kick.Kick) kick.Result {
	return kick.Result{
		Node: k.Node, Action: k.Action, Run: k.ID, Outcome: kick.Succeeded, Duration: 1000,
		Applied: map[string]kick.Revision{"web": k.Needs[0].Revision},
	}
}

func TestFirstReportOfAnEndEndsTheRun(t *testing.T) {
	heartbeat := func(l *loop, k kick.Kick) {
		l.says("lb1", "lb", reload(func(a *kick.ActionStatus) {
			a.Applied = map[string]kick.Revision{"web": k.Needs[0].Revision}
			a.Last = &kick.LastRun{Run: k.ID, Outcome: kick.Succeeded, Duration: 1000}
		}))
	}
	for claim, tell := range map[string]func(*loop, kick.Kick){
		"the message alone":   func(l *loop, k kick.Kick) { l.ends(success(k)) },
		"the heartbeat alone": heartbeat,
		"message, heartbeat":  func(l *loop, k kick.Kick) { l.ends(success(k)); heartbeat(l, k) },
		"heartbeat, message":  func(l *loop, k kick.Kick) { heartbeat(l, k); l.ends(success(k)) },
		"message, message":    func(l *loop, k kick.Kick) { l.ends(success(k)); l.ends(success(k)) },
	} {
		t.Run(claim, func(t *testing.T) {
			inLoop(t, patient(), func(l *loop) {
				l.says("web1", "web", kick.Status{})
				l.says("lb1", "lb", reload())
				l.sync(t)
				kicks := l.kicked()
				if len(kicks) != 1 {
					t.Fatalf("%d kicks, want 1", len(kicks))
				}
				tell(l, kicks[0])
				synctest.Wait()
				v := l.View()
				if v.Verdicts[0].State != api.Converged || v.Counts.Runs[kick.Succeeded] != 1 || len(v.Runs) != 1 || v.Runs[0].Outcome != kick.Succeeded {
					t.Errorf("the verdict is %+v, the runs %+v", v.Verdicts[0], v.Runs)
				}
			})
		})
	}
}

func TestReplyAfterTheEndIsNoSecondRun(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.answers(func(_ context.Context, k kick.Kick) (kick.Reply, error) {
			l.results <- success(k)
			time.Sleep(time.Second)
			return accept(k), nil
		})
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		v := l.View()
		if v.Counts.Runs[kick.Succeeded] != 1 || len(v.Runs) != 1 || v.Verdicts[0].State != api.Converged {
			t.Errorf("%+v, %+v: want one run, and converged", v.Runs, v.Verdicts[0])
		}
	})
}

func TestRunWithoutAReportByItsDeadlineIsLost(t *testing.T) {
	for claim, vanished := range map[string]bool{"its action is still there": false, "its action is not": true} {
		t.Run(claim, func(t *testing.T) {
			inLoop(t, patient(), func(l *loop) {
				l.says("web1", "web", kick.Status{})
				l.says("lb1", "lb", reload())
				l.sync(t)
				if vanished {
					l.says("lb1", "lb", kick.Status{})
				}
				time.Sleep(61*time.Second + 2*replyTimeout)
				synctest.Wait()
				if r := l.View().Runs[0]; r.Outcome != kick.Lost || l.View().Counts.Runs[kick.Lost] != 1 {
					t.Errorf("the run is %+v, want lost", r)
				}
			})
		})
	}
}

func TestUnansweredKickIsSentAgainWithItsID(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		lost := 2
		l.answers(func(_ context.Context, k kick.Kick) (kick.Reply, error) {
			if lost--; lost >= 0 {
				return kick.Reply{}, context.DeadlineExceeded
			}
			return accept(k), nil
		})
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", reload())
		l.sync(t)
		time.Sleep(10 * time.Second)
		kicks := l.kicked()
		if len(kicks) != 3 || kicks[0].ID != kicks[1].ID || kicks[1].ID != kicks[2].ID {
			t.Errorf("the kicks are %+v, want the same one three times", kicks)
		}
	})
}

func TestMissedMessagesStopKicksUntilNodesReport(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		rolls := l.rolls
		l.received <- inventory.Received{At: time.Now(), Missed: "the bus was away"}
		l.says("lb1", "lb", reload())
		synctest.Wait()
		if s := l.View().Sync; s.Open {
			t.Error("it is synced right after messages were missed")
		}
		time.Sleep(3 * time.Second)
		if n := len(l.kicked()); n != 0 {
			t.Errorf("%d kicks of a controller that has not listened long enough", n)
		}
		time.Sleep(3 * time.Second)
		if n := len(l.kicked()); n != 1 || l.rolls-rolls != 2 {
			t.Errorf("%d kicks and %d roll calls after it had listened, want 1 and 2", n, l.rolls-rolls)
		}
	})
}

// The listener reports a gap with the canary that ends it. A loop that was late gets a plain one.
func TestLateLoopWaitsForReportsAtOnce(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		l.mute.Store(true)
		time.Sleep(2600 * time.Millisecond)
		synctest.Wait()
		if !l.View().Sync.BusLost {
			t.Fatalf("without a canary for 2.6 s sync is %+v, want the bus to be lost", l.View().Sync)
		}
		l.mute.Store(false)
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if s := l.View().Sync; s.BusLost || s.Open {
			t.Errorf("right after a canary sync is %+v, want it to wait for reports", s)
		}
		time.Sleep(3700 * time.Millisecond)
		synctest.Wait()
		if s := l.View().Sync; !s.Open {
			t.Errorf("4 s after a canary sync is %+v, want it open", s)
		}
	})
}

func TestHigherEpochIsOutdone(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		other := l.View().Identity.Epoch + 1000
		status := reload()
		status.Epoch, status.Controller = other, "another"
		l.says("lb1", "lb", status)
		time.Sleep(10 * time.Second)
		kicks := l.kicked()
		if len(kicks) == 0 || kicks[0].Epoch != other+1 || kicks[0].Needs[0].Revision.Epoch != other+1 {
			t.Fatalf("the kicks are %+v, want epoch %d", kicks, other+1)
		}
		status.Epoch, status.Controller = other+1, "me"
		l.says("lb1", "lb", status)
		synctest.Wait()
		if got := l.View().Identity.Epoch; got != other+1 {
			t.Errorf("its own epoch, received back, made it %d", got)
		}
	})
}

func TestLateLeaveIsNeitherAnsweredNorKept(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		conn := inventory.Conn{Server: "s", Client: 9}
		l.received <- inventory.Received{At: time.Now(), Disconnect: &inventory.Disconnect{Conn: conn}}
		l.received <- inventory.Received{At: time.Now(), Reply: "inbox", Beat: &inventory.Beat{
			Node: "late", Instance: "m", Boot: "b", Conn: conn, NextIn: 1000, Leaving: true,
		}}
		l.says("web1", "web", kick.Status{})
		l.closes("web1")
		l.received <- inventory.Received{At: time.Now(), Reply: "inbox", Beat: &inventory.Beat{
			Node: "web1", Instance: "m", Boot: "b", Conn: inventory.Conn{Server: "web1", Client: 1}, NextIn: 1000, Leaving: true,
		}}
		synctest.Wait()
		if l.leavingNodes() != 0 || len(l.answered()) != 0 {
			t.Errorf("%d nodes are leaving, %d were answered", l.leavingNodes(), len(l.answered()))
		}
	})
}

// unbudgeted is a configuration in which only in_flight bounds the runs of lb.
func unbudgeted() Config {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "100%"}}
	return cfg
}

var atOnce = DefaultConfig().InFlight

func TestBudgetIsUsedFully(t *testing.T) {
	inLoop(t, unbudgeted(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		for i := range 3 * atOnce {
			l.says(fmt.Sprint("lb", i), "lb", reload())
		}
		l.sync(t)
		kicks := l.kicked()
		if len(kicks) != atOnce {
			t.Fatalf("%d runs are in progress, want %d", len(kicks), atOnce)
		}
		for _, k := range kicks[:10] {
			l.ends(success(k))
		}
		if n := len(l.kicked()) - len(kicks); n != 10 {
			t.Errorf("%d more are kicked when 10 are over", n)
		}
	})
}

func TestControllerStopsInAnySituation(t *testing.T) {
	inLoop(t, unbudgeted(), func(l *loop) {
		l.answers(func(ctx context.Context, _ kick.Kick) (kick.Reply, error) {
			<-ctx.Done()
			return kick.Reply{}, ctx.Err()
		})
		l.says("web1", "web", kick.Status{})
		for i := range 3 * atOnce {
			l.says(fmt.Sprint("lb", i), "lb", reload())
		}
		for len(l.kicked()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		for _, k := range l.kicked() {
			l.closes(k.Node)
		}
		l.passes(inventory.DisconnectGrace)
		if n := len(l.kicked()); n != atOnce {
			t.Fatalf("%d kicks are on their way, want %d: those to nodes that are gone may have been accepted", n, atOnce)
		}
		l.passes(replyTimeout)
		if n := len(l.kicked()); n != atOnce {
			t.Fatalf("%d kicks were sent, want %d: the first were not answered, and may run", n, atOnce)
		}
		l.passes(plan.GonePlace)
		if n := len(l.kicked()); n != 2*atOnce {
			t.Fatalf("%d kicks were sent, want %d: the nodes of the first are gone for a minute", n, 2*atOnce)
		}
	})
}

// oneAtATime is two balancers that may run one at a time, and what the first of them says of itself.
func oneAtATime(t *testing.T, lb1 kick.Status, story func(l *loop)) {
	cfg := patient()
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "1"}}
	inLoop(t, cfg, func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", lb1)
		l.says("lb2", "lb", reload())
		l.sync(t)
		story(l)
	})
}

// oneGone is two balancers that may run one at a time, of which the one that runs is gone.
func oneGone(t *testing.T, story func(l *loop, k kick.Kick)) {
	oneAtATime(t, reload(), func(l *loop) {
		k := l.kicked()[0]
		if k.Node != "lb1" {
			t.Fatalf("%s is kicked, want lb1", k.Node)
		}
		l.goes("lb1")
		if n := len(l.kicked()); n != 1 {
			t.Fatalf("%d kicks when the node that runs is gone, want 1", n)
		}
		story(l, k)
	})
}

// goes is a node that closes its connection and is not back in time.
func (l *loop) goes(node string) {
	l.closes(node)
	l.passes(inventory.DisconnectGrace)
	l.passes(inventory.CanaryEvery)
}

// returns is a node that was gone, over another connection.
func (l *loop) returns(name, role string, status kick.Status) {
	l.conns++
	l.says(name, role, status)
	synctest.Wait()
}

func TestRunOfAGoneNodeKeepsItsPlaceForAMinute(t *testing.T) {
	oneGone(t, func(l *loop, k kick.Kick) {
		want := api.Gate{Name: api.GateBudget, Why: "runs on 1 of 2 nodes of role lb, as many as its budget 1 allows: " +
			"lb1/reload (since 00:00:03, its node is gone, until 00:01:09 at the latest)"}
		if v := l.View(); len(v.Verdicts) != 1 || len(v.Verdicts[0].Gates) != 1 || v.Verdicts[0].Gates[0] != want {
			t.Errorf("the verdicts are %+v, want lb2 to wait for %+v", v.Verdicts, want)
		}
		time.Sleep(50 * time.Second)
		if v := l.View(); len(l.kicked()) != 1 || !v.Runs[0].Ended.IsZero() {
			t.Errorf("before the deadline there are %d kicks, and the run is %+v; want it in progress", len(l.kicked()), v.Runs[0])
		}
		time.Sleep(20 * time.Second)
		if v := l.View(); len(l.kicked()) != 2 || v.Runs[0].Outcome != kick.Lost {
			t.Errorf("after the deadline there are %d kicks, and the run is %+v; want it lost, and lb2 kicked", len(l.kicked()), v.Runs[0])
		}
	})
}

// An agent sends its facts once. Back after a partition it reports its actions and its run, and the controller has to
// request the facts that it has forgotten.
func TestNodeIsNotKickedBeforeItsFactsAreReceived(t *testing.T) {
	lb := inventory.Facts{"role": "lb"}
	t.Run("for its role may have no place", func(t *testing.T) {
		oneAtATime(t, reload(), func(l *loop) {
			l.beats("lb3", lb, reload())
			synctest.Wait()
			if v := l.View().Verdicts[2]; v.Node != "lb3" || gateNames(v) != api.GateSynced || !strings.Contains(v.Gates[0].Why, "facts of node lb3") {
				t.Errorf("%d kicks, and the verdict is %+v; want it to wait for the facts", len(l.kicked()), v)
			}
			l.tells("lb3", lb)
			if kicks := l.kicked(); len(kicks) != 1 {
				t.Errorf("the kicks are %+v, want that of lb1: its run is in progress", kicks)
			}
			synctest.Wait()
			if v := l.View().Verdicts[2]; gateNames(v) != api.GateBudget {
				t.Errorf("the verdict is %+v, want it to wait for a place", v)
			}
		})
	})
	t.Run("for its role may be observed", func(t *testing.T) {
		cfg := patient()
		cfg.Roles = []membership.RoleConfig{{Name: "lb", Mode: plan.ModeObserve}}
		inLoop(t, cfg, func(l *loop) {
			l.says("web1", "web", kick.Status{})
			l.sync(t)
			l.beats("lb1", lb, reload())
			if n := len(l.kicked()); n != 0 {
				t.Errorf("%d kicks of a node whose role is observed", n)
			}
			l.tells("lb1", lb)
			synctest.Wait()
			if v := l.View().Verdicts[0]; gateNames(v) != api.GateObserve {
				t.Errorf("the verdict is %+v, want it to be observed", v)
			}
		})
	})
}

func TestRunKeepsItsPlaceWhenItsNodeIsBackWithoutFacts(t *testing.T) {
	lb := inventory.Facts{"role": "lb"}
	for claim, status := range map[string]kick.Status{"with its action": reload(), "without an action": {}} {
		t.Run(claim, func(t *testing.T) {
			oneGone(t, func(l *loop, k kick.Kick) {
				status.Running = &kick.Running{Run: k.ID, Action: "reload"}
				l.conns++
				l.beats("lb1", lb, status)
				if kicks := l.kicked(); len(kicks) != 1 {
					t.Errorf("the kicks are %+v, want lb2 to wait: the run on lb1 goes on", kicks)
				}
				l.tells("lb1", lb)
				if kicks := l.kicked(); len(kicks) != 1 {
					t.Errorf("the kicks are %+v, want lb2 to wait: the run on lb1 goes on", kicks)
				}
			})
		})
	}
}

func TestReturningNodeReportsItsRun(t *testing.T) {
	applied := func(k kick.Kick) kick.Status {
		return reload(func(a *kick.ActionStatus) {
			a.Applied = map[string]kick.Revision{"web": k.Needs[0].Revision}
			a.Last = &kick.LastRun{Run: k.ID, Outcome: kick.Succeeded, Duration: 1000}
		})
	}
	t.Run("it goes on", func(t *testing.T) {
		oneGone(t, func(l *loop, k kick.Kick) {
			status := reload()
			status.Running = &kick.Running{Run: k.ID, Action: "reload"}
			l.returns("lb1", "lb", status)
			time.Sleep(10 * time.Second)
			if n := len(l.kicked()); n != 1 {
				t.Fatalf("%d kicks while the run goes on, want 1", n)
			}
			if r := l.View().Runs[0]; !r.Ended.IsZero() {
				t.Errorf("the run goes on, and is given up: %+v", r)
			}
			l.ends(success(k))
			if kicks := l.kicked(); len(kicks) != 2 || kicks[1].Node != "lb2" {
				t.Errorf("the kicks are %+v, want lb2 when lb1 is done", kicks)
			}
			if v := l.View(); v.Counts.Runs[kick.Succeeded] != 1 || v.Counts.Runs[kick.Lost] != 0 {
				t.Errorf("the runs are %+v, want that it succeeded", v.Runs)
			}
		})
	})
	t.Run("it has ended", func(t *testing.T) {
		oneGone(t, func(l *loop, k kick.Kick) {
			l.returns("lb1", "lb", applied(k))
			if v := l.View(); len(l.kicked()) != 2 || v.Counts.Runs[kick.Succeeded] != 1 || v.Counts.Runs[kick.Lost] != 0 {
				t.Errorf("%d kicks, and the runs are %+v; want the run to have succeeded, and lb2 kicked", len(l.kicked()), v.Runs)
			}
		})
	})
	t.Run("it knows nothing of it", func(t *testing.T) {
		oneGone(t, func(l *loop, k kick.Kick) {
			l.returns("lb1", "lb", reload())
			if v := l.View(); v.Runs[0].Outcome != kick.Lost || len(l.kicked()) != 2 {
				t.Errorf("%d kicks, and the run is %+v; want it lost, and a node kicked", len(l.kicked()), v.Runs[0])
			}
		})
	})
	t.Run("its message comes before it does", func(t *testing.T) {
		oneGone(t, func(l *loop, k kick.Kick) {
			l.ends(success(k))
			if v := l.View(); len(l.kicked()) != 2 || v.Runs[0].Outcome != kick.Succeeded {
				t.Errorf("%d kicks, and the run is %+v; want the run to have succeeded, and lb2 kicked", len(l.kicked()), v.Runs[0])
			}
		})
	})
}

func TestFormerControllersRunKeepsItsPlace(t *testing.T) {
	runs := reload()
	runs.Running = &kick.Running{Run: "former-1", Action: "reload"}
	oneAtATime(t, runs, func(l *loop) {
		l.goes("lb1")
		time.Sleep(plan.GonePlace - 5*time.Second)
		if n := len(l.kicked()); n != 0 {
			t.Fatalf("%d kicks while a run of a former controller may go on", n)
		}
		l.returns("lb1", "lb", runs)
		time.Sleep(time.Minute)
		if v := l.View(); len(l.kicked()) != 0 || v.Counts.Runs[kick.Lost] != 0 {
			t.Fatalf("%d kicks, and the runs are %+v, when its node is back and it goes on", len(l.kicked()), v.Runs)
		}
		l.goes("lb1")
		time.Sleep(plan.GonePlace)
		if kicks := l.kicked(); len(kicks) != 1 || kicks[0].Node != "lb2" {
			t.Errorf("the kicks are %+v, want lb2 when the node was gone for a minute", kicks)
		}
	})
}

func TestRunOnANodeWithoutActionsTakesAPlace(t *testing.T) {
	oneAtATime(t, kick.Status{Running: &kick.Running{Run: "former-1", Action: "dropped"}}, func(l *loop) {
		if gates := l.View().Verdicts[0].Gates; len(l.kicked()) != 0 || len(gates) != 1 || gates[0].Name != api.GateBudget {
			t.Fatalf("%d kicks, and the gates are %+v, while lb1 runs something; want budget", len(l.kicked()), gates)
		}
		l.says("lb1", "lb", kick.Status{})
		if kicks := l.kicked(); len(kicks) != 1 || kicks[0].Node != "lb2" {
			t.Errorf("the kicks are %+v, want lb2 when lb1 is done", kicks)
		}
	})
}

func TestFlappingNodeKeepsItsBackoff(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.answers(replying(kick.Disabled))
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		for range 500 {
			l.says("lb1", "lb", reload())
			l.passes(time.Second)
			l.closes("lb1")
			l.passes(2 * time.Second)
			l.passes(time.Minute) // then a beat over that connection is no late one
			l.passes(time.Second)
		}
		if n := len(l.kicked()); n < 10 || n > 100 {
			t.Errorf("%d kicks of a node that refuses them, in nine hours", n)
		}
	})
}

func TestEndlessChurnLeavesNothing(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		for i := range 2_000 {
			name := fmt.Sprint("n", i)
			l.says(name, fmt.Sprint("role", i), kick.Status{Actions: []kick.ActionStatus{
				{Name: fmt.Sprint("a", i), DependsOn: []string{fmt.Sprint("needed", i)}, Last: &kick.LastRun{Run: "r", Outcome: kick.Failed, Failures: 3}},
			}})
			if i%20 == 0 {
				l.passes(time.Second)
			}
		}
		for range 10 {
			l.passes(time.Minute)
		}
		synctest.Wait()
		for what, n := range map[string]int{
			"actions": len(l.fleet.actions), "retries": len(l.fleet.retries), "flights": len(l.fleet.flights), "leaving": len(l.leaving),
		} {
			if n != 0 {
				t.Errorf("%s: %d are left", what, n)
			}
		}
		if len(l.fleet.status) != 1 || len(l.table.Roles()) > 2_000 || len(l.journal.events) > 2*keepEvents {
			t.Errorf("%d statuses, %d roles, %d events are kept", len(l.fleet.status), len(l.table.Roles()), len(l.journal.events))
		}
	})
}

func TestOneNodeCannotFillTheMemory(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		l.says("web1", "web", kick.Status{})
		l.sync(t)
		for i := range 1000 {
			l.says("mad", "mad", kick.Status{Actions: []kick.ActionStatus{
				{Name: fmt.Sprint("a", i), Last: &kick.LastRun{Run: "r", Outcome: kick.Outcome(fmt.Sprint("outcome ", i)), Failures: 1}},
			}})
		}
		time.Sleep(2 * tidyEvery)
		l.says("mad", "mad", kick.Status{})
		synctest.Wait()
		if n := len(l.fleet.retries); n > 1 {
			t.Errorf("%d actions are remembered of one node that has one", n)
		}
	})
}

func TestJoinEventSaysWhetherTheNodeIsReady(t *testing.T) {
	for want, n := range map[string]inventory.Node{
		"":                               {Life: inventory.Alive, Ready: true},
		", leaving":                      {Life: inventory.Left, Ready: true},
		", not ready":                    {Life: inventory.Alive},
		", not ready: tcp:8080: refused": {Life: inventory.Alive, NotReady: "tcp:8080: refused"},
	} {
		if got := readiness(&n); got != want {
			t.Errorf("%+v joined%s, want %q", n, got, want)
		}
	}
}

func TestEachChangeOfANodeIsOneEvent(t *testing.T) {
	is := func(life inventory.Life, changes ...func(*inventory.Node)) *inventory.Node {
		n := &inventory.Node{Name: "web1", Instance: "m", Boot: "b", Life: life, Ready: true}
		for _, change := range changes {
			change(n)
		}
		return n
	}
	refuses := func(n *inventory.Node) { n.Ready, n.NotReady = false, "tcp:8080: refused" }
	boots := func(n *inventory.Node) { n.Boot = "b2" }
	another := func(n *inventory.Node) { n.Instance = "m2" }
	for _, c := range []struct {
		before, after *inventory.Node
		kind, text    string
	}{
		{nil, is(inventory.Alive), api.EventJoined, "node web1 joined"},
		{nil, is(inventory.Alive, refuses), api.EventJoined, "node web1 joined, not ready: tcp:8080: refused"},
		{is(inventory.Alive), is(inventory.Alive), "", ""},
		{is(inventory.Alive), is(inventory.Alive, refuses), api.EventNotReady, "node web1 is not ready: tcp:8080: refused"},
		{is(inventory.Alive, refuses), is(inventory.Alive), api.EventReady, "node web1 is ready"},
		{is(inventory.Alive), is(inventory.Suspect), api.EventSuspect, "node web1 is suspect: for a reason"},
		{is(inventory.Suspect), is(inventory.Suspect), "", ""},
		{is(inventory.Suspect), is(inventory.Alive), api.EventBack, "node web1 is back"},
		{is(inventory.Alive), is(inventory.Restarting), api.EventRestarting, "node web1 is restarting: its agent stopped"},
		{is(inventory.Restarting), is(inventory.Alive), api.EventBack, "node web1 is back"},
		{is(inventory.Alive), is(inventory.Left), api.EventLeft, "node web1 left"},
		{is(inventory.Left), is(inventory.Alive), api.EventBack, "node web1 is back"},
		{is(inventory.Suspect), is(inventory.Alive, boots), api.EventReplaced, "node web1 was replaced: for a reason"},
		{is(inventory.Alive), is(inventory.Alive, another), api.EventReplaced, "node web1 was replaced: for a reason"},
		{is(inventory.Suspect), nil, api.EventGone, "node web1 is gone: for a reason"},
		{is(inventory.Left), nil, "", ""},
	} {
		c2 := &Controller{journal: newJournal(), log: silent}
		c2.recordChange(inventory.Change{Before: c.before, After: c.after, Why: "for a reason"}, noon)
		want := []api.Event{{Seq: 1, Time: noon, Kind: c.kind, Node: "web1", Text: c.text}}
		if c.kind == "" {
			want = nil
		}
		if diff := cmp.Diff(want, c2.journal.events); diff != "" {
			t.Errorf("from %+v to %+v (-want +got):\n%s", c.before, c.after, diff)
		}
	}
}
