package inventory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

var update = flag.Bool("update", false, "write the golden files")

var web1Identity = Identity{Cluster: "main", Node: "web1.example.com", Instance: uuid, Boot: bootID}

func TestNodeSendsItsFactsAndThenItsHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := startNode(t, func(a *Announcer) { setFacts(t, a, Facts{"role": "web"}) })
		received := n.received(t)
		if len(received) < 2 || received[0].kind != "facts" || received[1].kind != "heartbeat" {
			t.Fatalf("received %v, want facts, then a heartbeat", received)
		}
		if at := received[1].at.Sub(start); at > 0 {
			t.Errorf("the first heartbeat came after %s", at)
		}
		if got, want := received[1].beat(t).Facts, (Facts{"role": "web"}).Digest(); got != want {
			t.Errorf("the heartbeat announces facts %s, want %s", got, want)
		}
	})
}

func TestUnchangedHeartbeatsAreTheSameBytesAtAnEvenPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		time.Sleep(time.Hour)
		beats := n.beats(t)[1:] // without the one at the start
		if got := len(beats); got < 3599 || got > 3600 {
			t.Fatalf("%d heartbeats in an hour after the first, want 3600", got)
		}
		for i, b := range beats {
			if !bytes.Equal(b.data, beats[0].data) {
				t.Fatalf("heartbeat %d is %s, not %s", i, b.data, beats[0].data)
			}
			if at, want := b.at.Sub(beats[0].at), time.Duration(i)*time.Second; at != want {
				t.Fatalf("heartbeat %d came after %s, want %s", i, at, want)
			}
		}
	})
}

func TestNodesThatStartTogetherDoNotSendTogether(t *testing.T) {
	now := time.Now()
	phases := map[time.Duration]bool{}
	for range 20 {
		s := newSchedule(now, time.Minute)
		phases[s.next.Sub(now).Truncate(time.Second)] = true
	}
	if len(phases) < 5 {
		t.Errorf("20 nodes send at only %d different seconds of a minute: %v", len(phases), phases)
	}
}

func TestChangeIsAnnouncedAtOnce(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *Announcer){
		"facts":     func(t *testing.T, a *Announcer) { setFacts(t, a, Facts{"role": "db"}) },
		"readiness": func(_ *testing.T, a *Announcer) { a.SetReady(false, "connection refused") },
		"kick":      func(_ *testing.T, a *Announcer) { a.SetKick(json.RawMessage(`{"epoch": 7}`)) },
		"leaving":   func(_ *testing.T, a *Announcer) { a.Leave() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNode(t, nil)
				n.restAfterBeat(t)
				before := n.received(t)
				change(t, n.Announcer)
				synctest.Wait()
				received := n.received(t)[len(before):]
				if len(received) == 0 || received[len(received)-1].kind != "heartbeat" {
					t.Fatalf("received %v at once after the change, want a heartbeat", received)
				}
				if got := received[len(received)-1]; bytes.Equal(got.data, before[len(before)-1].data) {
					t.Errorf("the heartbeat after the change is unchanged: %s", got.data)
				}
				if facts := received[0].kind == "facts"; facts != (name == "facts") {
					t.Errorf("received %v, want facts before the heartbeat only if they changed", received)
				}
			})
		})
	}
}

func TestChangesInQuickSuccessionMakeFewHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.restAfterBeat(t)
		before := len(n.beats(t))
		for i := range 100 {
			n.SetReady(false, fmt.Sprint("failure ", i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(minGap)
		beats := n.beats(t)[before:]
		if len(beats) > 7 {
			t.Errorf("%d heartbeats for changes within 100 ms, want at most one in %s", len(beats), minGap)
		}
		if got := beats[len(beats)-1].beat(t).NotReady; got != "failure 99" {
			t.Errorf("the last heartbeat says %q, want the newest", got)
		}
	})
}

func TestSettingTheSameAgainChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) {
			setFacts(t, a, Facts{"role": "web"})
			a.SetKick(json.RawMessage(`{"epoch":7}`))
		})
		n.restAfterBeat(t)
		before := len(n.received(t))
		setFacts(t, n.Announcer, Facts{"role": "web"})
		n.SetReady(true, "")
		n.SetKick(json.RawMessage(`{ "epoch": 7 }`))
		n.Reconnected()
		time.Sleep(minGap)
		if received := n.received(t)[before:]; len(received) > 0 {
			t.Errorf("received %v, want nothing", received)
		}
	})
}

func TestBeaconSetsThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		send := func(epoch, pace int64) {
			t.Helper()
			n.do(t, SendBeacon(n.nc, "main", Beacon{ID: "controller-1", Epoch: epoch, Pace: pace}))
		}
		perMinute := func() int {
			time.Sleep(5 * time.Second)
			before := len(n.beats(t))
			time.Sleep(time.Minute)
			return len(n.beats(t)) - before
		}
		send(10, 5000)
		if got := perMinute(); got != 12 {
			t.Errorf("%d heartbeats a minute at a pace of 5 s, want 12", got)
		}
		for _, ignored := range [][2]int64{{9, 1000}, {10, 99}, {10, 60_001}, {10, -1}, {10, 1 << 62},
			{maxEpoch + 1, 1000}, {0, 1000}} {
			send(ignored[0], ignored[1])
		}
		if got := perMinute(); got != 12 {
			t.Errorf("%d heartbeats a minute after invalid beacons, want 12", got)
		}
		send(10, 200)
		if got := perMinute(); got != 300 {
			t.Errorf("%d heartbeats a minute at a pace of 200 ms, want 300", got)
		}
		if got := n.beats(t)[len(n.beats(t))-1].beat(t).NextIn; got != 200 {
			t.Errorf("the heartbeat announces the next in %d ms, want 200", got)
		}
	})
}

func TestOnBeaconReceivesValidBeacons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		valid := []Beacon{
			{V: Version, ID: "controller-1", Epoch: 10, Pace: 1000},
			{V: Version, ID: "controller-0", Epoch: 9, Pace: 1000}, // the receiver obeys the highest
		}
		for _, b := range append(slices.Clone(valid), Beacon{ID: "x", Epoch: maxEpoch + 1, Pace: 1000},
			Beacon{Epoch: 11, Pace: 1000}) {
			n.do(t, SendBeacon(n.nc, "main", b))
		}
		synctest.Wait()
		if diff := cmp.Diff(valid, n.beacons); diff != "" {
			t.Errorf("OnBeacon received (-want +got):\n%s", diff)
		}
	})
}

func TestNewPaceIsAnnouncedWithinTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.restAfterBeat(t)
		before := len(n.beats(t))
		n.do(t, SendBeacon(n.nc, "main", Beacon{ID: "controller-1", Epoch: 1, Pace: 60_000}))
		time.Sleep(time.Second)
		beats := n.beats(t)[before:]
		if len(beats) == 0 || beats[0].beat(t).NextIn != 60_000 {
			t.Errorf("received %v within a second, want a heartbeat with a pace of a minute", beats)
		}
	})
}

func TestReportRequestIsAnsweredWithinItsSplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.do(t, SendBeacon(n.nc, "main", Beacon{ID: "controller-1", Epoch: 1, Pace: maxPace.Milliseconds()}))
		time.Sleep(2 * time.Second)
		var spread []time.Duration
		for range 30 {
			n.restAfterBeat(t) // its next is a minute away
			before, requested := len(n.beats(t)), time.Now()
			n.do(t, RequestReports(n.nc, "main", 10*time.Second))
			time.Sleep(10*time.Second + minGap)
			beats := n.beats(t)[before:]
			if len(beats) != 1 {
				t.Fatalf("%d heartbeats within the splay, want 1", len(beats))
			}
			spread = append(spread, beats[0].at.Sub(requested))
		}
		if low, high := slices.Min(spread), slices.Max(spread); high-low < 3*time.Second {
			t.Errorf("answers came after %s to %s, want them spread over 10 s", low, high)
		}
		n.restAfterBeat(t)
		before := len(n.beats(t))
		n.do(t, RequestReports(n.nc, "main", maxSplay+time.Millisecond))
		n.do(t, RequestReports(n.nc, "main", -time.Millisecond))
		time.Sleep(30 * time.Second)
		if beats := n.beats(t)[before:]; len(beats) > 0 {
			t.Errorf("a report request with an invalid splay is answered: %v", beats)
		}
	})
}

func TestOrdersAreObeyedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) { setFacts(t, a, Facts{"role": "web"}) })
		for do, want := range map[string][]string{DoBeat: {"heartbeat"}, DoFacts: {"facts", "heartbeat"}} {
			n.restAfterBeat(t)
			before := len(n.received(t))
			n.do(t, Ask(n.nc, "main", n.identity.Node, do))
			synctest.Wait()
			var got []string
			for _, m := range n.received(t)[before:] {
				got = append(got, m.kind)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("order %s is answered with (-want +got):\n%s", do, diff)
			}
		}
	})
}

func TestInvalidMessagesChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.restAfterBeat(t)
		before := len(n.received(t))
		for _, subject := range []string{reportSubject("main"), beaconSubject("main"),
			nodeSubject("main", n.identity.Node)} {
			for _, invalid := range []string{"", "null", "{", "[1]", `{"v":1,"do":"beat"}`, `{"v":2,"do":"dance"}`,
				strings.Repeat(" ", maxMessage) + "{}"} {
				if subject == reportSubject("main") && strings.Contains(invalid, "dance") {
					continue // a valid report request: unknown keys are ignored
				}
				n.do(t, n.nc.Publish(subject, []byte(invalid)))
			}
		}
		synctest.Wait()
		if received := n.received(t)[before:]; len(received) > 0 {
			t.Errorf("received %v, want nothing", received)
		}
		time.Sleep(2 * time.Second)
		if received := n.received(t)[before:]; len(received) < 1 || len(received) > 2 {
			t.Errorf("received %v in 2 s, want the usual heartbeats", received)
		}
	})
}

func TestOnlyTheNewestIsAnnouncedOnANewConnection(t *testing.T) {
	reconnecting(t, func(t *testing.T) {
		n := startNode(t, nil)
		time.Sleep(3 * time.Second)
		old := n.beats(t)[0].beat(t).Conn
		if client, err := n.nc.GetClientID(); err != nil || old != (Conn{n.nc.ConnectedServerId(), client}) {
			t.Errorf("the heartbeat names connection %v, want %s/%d", old, n.nc.ConnectedServerId(), client)
		}
		n.bus.stop()
		time.Sleep(5 * time.Second)
		n.SetReady(false, "first")
		time.Sleep(5 * time.Second)
		n.SetReady(false, "second")
		n.bus.start(t)
		spy := spyOn(t, n.bus)
		<-n.back
		time.Sleep(minGap)
		received := spy.received(t)
		if len(received) == 0 || slices.ContainsFunc(received,
			func(m message) bool { return !bytes.Equal(m.data, received[0].data) }) {
			t.Fatalf("received %v on the new connection, want a heartbeat and nothing else", received)
		}
		client, err := n.nc.GetClientID()
		if err != nil {
			t.Fatal(err)
		}
		b := received[0].beat(t)
		if want := (Conn{n.nc.ConnectedServerId(), client}); b.Conn != want || b.Conn == old {
			t.Errorf("the heartbeat names connection %v, want %v", b.Conn, want)
		}
		if b.NotReady != "second" {
			t.Errorf("the heartbeat says %q, want the newest", b.NotReady)
		}
	})
}

func TestNewConnectionIsFoundWithoutReconnected(t *testing.T) {
	reconnecting(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.nc.SetReconnectHandler(nil)
		n.bus.stop()
		time.Sleep(time.Second)
		n.bus.start(t)
		spy := spyOn(t, n.bus)
		time.Sleep(reconnectWait + defaultPace)
		received := spy.received(t)
		if len(received) == 0 || received[0].beat(t).Conn.Server != n.nc.ConnectedServerId() {
			t.Errorf("received %v within the pace, want a heartbeat that names server %s", received,
				n.nc.ConnectedServerId())
		}
	})
}

func TestLastHeartbeatAnnouncesARestartOrLeaving(t *testing.T) {
	for name, tt := range map[string]struct {
		onStop bool
		before bool
		want   Beat
	}{
		"restart":       {want: Beat{RestartWithin: 60_000}},
		"leave on stop": {onStop: true, want: Beat{Leaving: true}},
		"left before":   {before: true, want: Beat{Leaving: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNode(t, func(a *Announcer) {
					a.LeaveOnStop = func() bool {
						a.SetReady(false, "shutting down") // at the last moment
						return tt.onStop
					}
				})
				time.Sleep(3 * time.Second)
				if tt.before {
					n.Leave()
					synctest.Wait()
				}
				before := len(n.beats(t))
				n.stop(t)
				beats := n.beats(t)[before:]
				if len(beats) == 0 {
					t.Fatal("no last heartbeat")
				}
				b := beats[len(beats)-1].beat(t)
				if b.Leaving != tt.want.Leaving || b.RestartWithin != tt.want.RestartWithin ||
					b.NotReady != "shutting down" {
					t.Errorf("the last heartbeat is %+v, want leaving %v, restart within %d ms", b, tt.want.Leaving,
						tt.want.RestartWithin)
				}
			})
		})
	}
}

func TestRunEndsWithoutAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		time.Sleep(time.Second)
		n.bus.stop()
		time.Sleep(time.Second)
		start := time.Now()
		n.stop(t)
		if took := time.Since(start); took > time.Second {
			t.Errorf("Run took %s to end without a connection", took)
		}
		n.SetReady(true, "") // must not block after Run
		n.SetReady(false, "")
	})
}

func TestRunFailsWhenItsConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		time.Sleep(time.Second)
		n.nc.Close()
		if err := <-n.done; !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("Run = %v, want %v", err, nats.ErrConnectionClosed)
		}
		n.done <- nil // for the end of the test
	})
}

// In TestLeavingNodeAsksUntilItIsReleased the spy is the controller.
func TestLeavingNodeAsksUntilItIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.restAfterBeat(t)
		ask := func() LeaveStatus {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			f, err := RequestLeave(ctx, n.spy.nc, "main", n.identity.Node, false)
			n.do(t, err)
			return f
		}
		if got := ask(); got.Received || got.Released {
			t.Errorf("first answer = %+v, want neither received nor released", got)
		}
		synctest.Wait()
		leaving := n.beats(t)[len(n.beats(t))-1]
		if b := leaving.beat(t); !b.Leaving || b.NextIn != leavingPace.Milliseconds() || leaving.reply == "" {
			t.Fatalf("the heartbeat is %s, reply to %q, want leaving and a reply", leaving.data, leaving.reply)
		}
		node, agent := n.identity.Node, leaving.beat(t).Agent
		tell := func(agent string, status LeaveStatus) { n.do(t, TellLeaving(n.spy.nc, "main", node, agent, status)) }
		waiting := LeaveStatus{V: Version, Received: true, Waiting: []Blocker{{Node: "lb1", Action: "reload", Gates: []Wait{}}}}
		tell(agent, waiting)
		tell("another run", LeaveStatus{Received: true, Released: true})
		forged := encode(Order{V: Version, Do: DoStatus, Status: &LeaveStatus{V: Version, Received: true, Released: true}})
		n.do(t, n.spy.nc.Publish(leaveSubject("main", node), forged)) // where every node may publish
		n.do(t, n.spy.nc.Publish(leaving.reply, []byte("garbage")))
		synctest.Wait()
		waiting.Waiting[0].Gates = nil // an empty list is left out
		if diff := cmp.Diff(waiting, ask()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		before := len(n.beats(t))
		time.Sleep(10 * time.Second)
		if got := len(n.beats(t)) - before; got != 40 {
			t.Errorf("%d heartbeats in 10 s of leaving, want 40", got)
		}
		released := LeaveStatus{V: Version, Received: true, Released: true}
		tell(agent, released)
		tell(agent, waiting) // late
		time.Sleep(2 * time.Second)
		if diff := cmp.Diff(released, ask()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		before = len(n.beats(t))
		time.Sleep(10 * time.Second)
		beats := n.beats(t)[before:]
		if len(beats) != 10 {
			t.Errorf("%d heartbeats in 10 s after the release, want 10", len(beats))
		}
		if b := beats[0]; b.reply != "" || !b.beat(t).Leaving {
			t.Errorf("the heartbeat after the release is %s, reply to %q, want leaving and no reply", b.data, b.reply)
		}
	})
}

func TestRequestLeaveErrorsSayWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := RequestLeave(ctx, n.spy.nc, "main", "web9", false); !errors.Is(err, ErrNoAgent) ||
			err.Error() != "leave web9: no agent of that name is on the bus" {
			t.Errorf("RequestLeave of an unknown node = %v", err)
		}
		reply, err := n.spy.nc.RequestWithContext(ctx, nodeSubject("main", n.identity.Node),
			[]byte(`{"v":1,"do":"leave"}`))
		n.do(t, err)
		want := LeaveStatus{V: Version, Rejected: "message version 1, this program speaks version 2"}
		if got := string(reply.Data); got != string(encode(want)) {
			t.Errorf("an order of another version is answered with %s, want %+v", got, want)
		}
	})
}

func TestTooManyFactsAreRejectedAndChangeNothing(t *testing.T) {
	a := NewAnnouncer(nil, web1Identity, slog.New(slog.DiscardHandler))
	setFacts(t, a, Facts{"role": "web"})
	before := a.next
	err := a.SetFacts(Facts{"motd": strings.Repeat("x", maxFacts)})
	if err == nil || !strings.Contains(err.Error(), "leave out facts") {
		t.Errorf("SetFacts = %v, want an error with the remedy", err)
	}
	if a.next.Facts != before.Facts || !bytes.Equal(a.next.facts, before.facts) {
		t.Error("rejected facts are announced")
	}
}

func TestMessagesAreAsDocumented(t *testing.T) {
	a := NewAnnouncer(nil, web1Identity, slog.New(slog.DiscardHandler))
	facts := Facts{"role": "web", "ipaddress": "10.0.0.1", "os": map[string]any{"family": "Debian"}, "boot_time": 1.7e9}
	setFacts(t, a, facts)
	a.SetKick(json.RawMessage(`{"epoch":1700000000000}`))
	beat := a.next.Beat
	beat.Agent = "6KQ2M7X4T7RA"
	beat.Conn, beat.NextIn = Conn{"NSERVER", 42}, defaultPace.Milliseconds()
	notReady := beat
	notReady.Ready, notReady.NotReady = false, "tcp:8080: connection refused"
	checking := notReady
	checking.NotReady, checking.Checking = "tcp:8080: not checked yet", true
	leaving := beat
	leaving.Leaving, leaving.NextIn = true, leavingPace.Milliseconds()
	restarting := beat
	restarting.RestartWithin = MaxRestart.Milliseconds()
	beacon := Beacon{V: Version, ID: "c0ffee", Epoch: 1_700_000_000_000, Pace: 1000, API: "http://127.0.0.1:7423"}
	for name, message := range map[string]any{
		"heartbeat":            beat,
		"heartbeat-not-ready":  notReady,
		"heartbeat-checking":   checking,
		"heartbeat-leaving":    leaving,
		"heartbeat-restarting": restarting,
		"facts":                json.RawMessage(a.next.facts),
		"beacon":               beacon,
		"report-request":       ReportRequest{V: Version, Splay: 2000},
		"order":                Order{V: Version, Do: DoLeave},
		"leave-status": LeaveStatus{V: Version, Received: true, More: 1, Waiting: []Blocker{{
			Node: "lb1", Action: "reload", Gates: []Wait{{Name: "min_members", Why: "role web has 0 members", Person: true}},
		}}},
		"leave-status-rejected": LeaveStatus{V: Version, Rejected: "message version 1, this program speaks version 2"},
	} {
		golden(t, name+".json", append(encode(message), '\n'))
	}
}

func FuzzReceive(f *testing.F) {
	for _, text := range []string{
		"", "{", `{"v":2,"do":"leave"}`, `{"v":2,"splay_ms":9e18}`, `{"v":2,"do":"leave status","status":{"v":2,"released":true}}`,
		`{"v":2,"id":"c","epoch":1,"pace_ms":9223372036854775807}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := session{Announcer: NewAnnouncer(nil, web1Identity, slog.New(slog.DiscardHandler))}
		s.schedule, s.pace = newSchedule(time.Now(), defaultPace), defaultPace
		for _, subject := range []string{beaconSubject("main"), reportSubject("main"),
			nodeSubject("main", s.identity.Node), leaveSubject("main", s.identity.Node)} {
			_ = s.receive(&nats.Msg{Subject: subject, Data: data}) // may be rejected
		}
		if s.pace < minPace || s.pace > maxPace || s.epoch > maxEpoch {
			t.Errorf("%q sets the pace to %s, the epoch to %d", data, s.pace, s.epoch)
		}
		if due := s.schedule.due(); time.Until(due) > maxSplay {
			t.Errorf("%q delays the next heartbeat to %s", data, due)
		}
	})
}

// node is an Announcer that runs on a bus, with a spy beside it.
type node struct {
	*Announcer
	*spy
	nc      *nats.Conn
	bus     *bus
	beacons []Beacon
	back    chan bool // the connection is back
	cancel  context.CancelFunc
	done    chan error
}

func startNode(t *testing.T, prepare func(*Announcer)) *node {
	t.Helper()
	n := &node{bus: &bus{}, back: make(chan bool, 1), done: make(chan error, 1)}
	n.bus.start(t)
	t.Cleanup(n.bus.stop)
	n.spy = spyOn(t, n.bus)
	n.nc = n.bus.connect(t)
	n.Announcer = NewAnnouncer(n.nc, web1Identity, slog.New(slog.DiscardHandler))
	n.OnBeacon = func(b Beacon) { n.beacons = append(n.beacons, b) }
	n.nc.SetReconnectHandler(func(*nats.Conn) {
		n.back <- true
		n.Reconnected()
	})
	if prepare != nil {
		prepare(n.Announcer)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.done <- n.Run(ctx) }()
	t.Cleanup(func() { n.stop(t) })
	synctest.Wait() // until Run has subscribed
	return n
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	n.cancel()
	if err := <-n.done; err != nil {
		t.Errorf("Run = %v", err)
	}
	n.done <- nil
	synctest.Wait()
}

func (n *node) do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// restAfterBeat waits until shortly after a heartbeat, when the next one is far.
func (n *node) restAfterBeat(t *testing.T) {
	t.Helper()
	for before := len(n.beats(t)); len(n.beats(t)) <= before+1; { // the first may come right after another
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * minGap)
}

// spy receives what web1 sends on a bus.
type spy struct {
	nc  *nats.Conn
	mu  sync.Mutex
	all []message
}

type message struct {
	at    time.Time
	kind  string
	reply string
	data  []byte
}

func (m message) String() string { return m.at.Format("05.000 ") + m.kind + " " + string(m.data) }

func (m message) beat(t *testing.T) Beat {
	t.Helper()
	b, err := decodeBeat(web1Identity.Node, m.data)
	if err != nil {
		t.Fatal(err)
	}
	return *b
}

func spyOn(t *testing.T, b *bus) *spy {
	t.Helper()
	s := &spy{nc: b.connect(t)}
	// One subscription keeps the order of the wire.
	_, err := s.nc.Subscribe("kicker.main.*."+web1Identity.Node, func(m *nats.Msg) {
		kind := strings.Split(m.Subject, ".")[2]
		if kind != "heartbeat" && kind != "facts" {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, message{time.Now(), kind, m.Reply, m.Data})
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *spy) received(t *testing.T) []message {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func (s *spy) beats(t *testing.T) []message {
	t.Helper()
	return slices.DeleteFunc(s.received(t), func(m message) bool { return m.kind != "heartbeat" })
}

// reconnecting is a bubble in which nats.go reconnects. For that it takes timers from a pool, which bubbles must not
// share: two garbage collections empty it.
func reconnecting(t *testing.T, test func(*testing.T)) {
	t.Helper()
	empty := func() { runtime.GC(); runtime.GC() }
	empty()
	defer empty()
	synctest.Test(t, test)
}

const reconnectWait = 500 * time.Millisecond

// bus is an embedded server that can be restarted. Connections find the one that runs.
type bus struct {
	mu      sync.Mutex
	running *server.Server
}

func (b *bus) start(t *testing.T) {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server did not start")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running = s
}

func (b *bus) stop() {
	b.mu.Lock()
	s := b.running
	b.running = nil
	b.mu.Unlock()
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

func (b *bus) InProcessConn() (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running == nil {
		return nil, errors.New("the server is down")
	}
	return b.running.InProcessConn()
}

func (b *bus) connect(t *testing.T) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(b), nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func setFacts(t *testing.T, a *Announcer, facts Facts) {
	t.Helper()
	if err := a.SetFacts(facts); err != nil {
		t.Fatal(err)
	}
}

// golden compares with testdata/name, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %s, want %s", path, got, want)
	}
}
