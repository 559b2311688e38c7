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

var update = flag.Bool("update", false, "write the golden files anew")

var web1Self = Identity{Cluster: "main", Node: "web1.example.com", Instance: uuid, Boot: bootID}

func TestStartingNodeSendsItsFactsAndThenItsBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := startNode(t, func(a *Announcer) { setFacts(t, a, Facts{"role": "web"}) })
		heard := n.heard(t)
		if len(heard) < 2 || heard[0].kind != "facts" || heard[1].kind != "heartbeat" {
			t.Fatalf("heard %v, want facts, then a heartbeat", heard)
		}
		if at := heard[1].at.Sub(start); at > 0 {
			t.Errorf("the first heartbeat came after %s", at)
		}
		if got, want := heard[1].beat(t).Facts, (Facts{"role": "web"}).Digest(); got != want {
			t.Errorf("the heartbeat announces facts %s, want %s", got, want)
		}
	})
}

func TestUnchangedBeatsAreTheSameBytesAtAnEvenPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		time.Sleep(time.Hour)
		beats := n.beats(t)[1:] // the first is for starting
		if got := len(beats); got < 3599 || got > 3600 {
			t.Fatalf("%d beats in an hour after the first, want 3600", got)
		}
		for i, b := range beats {
			if !bytes.Equal(b.data, beats[0].data) {
				t.Fatalf("beat %d is %s, not %s", i, b.data, beats[0].data)
			}
			if at, want := b.at.Sub(beats[0].at), time.Duration(i)*time.Second; at != want {
				t.Fatalf("beat %d came at %s, want %s", i, at, want)
			}
		}
	})
}

func TestNodesThatStartTogetherDoNotBeatTogether(t *testing.T) {
	now := time.Now()
	phases := map[time.Duration]bool{}
	for range 20 {
		r := newRhythm(now, time.Minute)
		phases[r.next.Sub(now).Truncate(time.Second)] = true
	}
	if len(phases) < 5 {
		t.Errorf("20 nodes beat at only %d different seconds of a minute: %v", len(phases), phases)
	}
}

func TestChangeIsSaidAtOnce(t *testing.T) {
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
				before := n.heard(t)
				change(t, n.Announcer)
				synctest.Wait()
				heard := n.heard(t)[len(before):]
				if len(heard) == 0 || heard[len(heard)-1].kind != "heartbeat" {
					t.Fatalf("heard %v at once after the change, want a heartbeat", heard)
				}
				if got := heard[len(heard)-1]; bytes.Equal(got.data, before[len(before)-1].data) {
					t.Errorf("the heartbeat after the change says nothing new: %s", got.data)
				}
				if facts := heard[0].kind == "facts"; facts != (name == "facts") {
					t.Errorf("heard %v, want facts before the heartbeat only if they changed", heard)
				}
			})
		})
	}
}

func TestChangesInQuickSuccessionMakeFewBeats(t *testing.T) {
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
			t.Errorf("%d beats for changes within 100 ms, want at most one in %s", len(beats), minGap)
		}
		if got := beats[len(beats)-1].beat(t).NotReady; got != "failure 99" {
			t.Errorf("the last heartbeat says %q, want the newest", got)
		}
	})
}

func TestSayingTheSameAgainIsNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) {
			setFacts(t, a, Facts{"role": "web"})
			a.SetKick(json.RawMessage(`{"epoch":7}`))
		})
		n.restAfterBeat(t)
		before := len(n.heard(t))
		setFacts(t, n.Announcer, Facts{"role": "web"})
		n.SetReady(true, "")
		n.SetKick(json.RawMessage(`{ "epoch": 7 }`))
		n.Reconnected()
		time.Sleep(minGap)
		if heard := n.heard(t)[before:]; len(heard) > 0 {
			t.Errorf("heard %v, want nothing", heard)
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
			t.Errorf("%d beats a minute at a pace of 5 s, want 12", got)
		}
		for _, ignored := range [][2]int64{{9, 1000}, {10, 99}, {10, 60_001}, {10, -1}, {10, 1 << 62}, {maxEpoch + 1, 1000}, {0, 1000}} {
			send(ignored[0], ignored[1])
		}
		if got := perMinute(); got != 12 {
			t.Errorf("%d beats a minute after beacons to be ignored, want 12", got)
		}
		send(10, 200)
		if got := perMinute(); got != 300 {
			t.Errorf("%d beats a minute at a pace of 200 ms, want 300", got)
		}
		if got := n.beats(t)[len(n.beats(t))-1].beat(t).NextIn; got != 200 {
			t.Errorf("the heartbeat says the next comes in %d ms, want 200", got)
		}
	})
}

func TestSoundBeaconsArePassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		sound := []Beacon{
			{V: Version, ID: "controller-1", Epoch: 10, Pace: 1000},
			{V: Version, ID: "controller-0", Epoch: 9, Pace: 1000}, // of interest to who obeys the highest
		}
		for _, b := range append(slices.Clone(sound), Beacon{ID: "x", Epoch: maxEpoch + 1, Pace: 1000}, Beacon{Epoch: 11, Pace: 1000}) {
			n.do(t, SendBeacon(n.nc, "main", b))
		}
		synctest.Wait()
		if diff := cmp.Diff(sound, n.beacons); diff != "" {
			t.Errorf("OnBeacon heard (-want +got):\n%s", diff)
		}
	})
}

func TestNewPaceIsToldWithinTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.restAfterBeat(t)
		before := len(n.beats(t))
		n.do(t, SendBeacon(n.nc, "main", Beacon{ID: "controller-1", Epoch: 1, Pace: 60_000}))
		time.Sleep(time.Second)
		beats := n.beats(t)[before:]
		if len(beats) == 0 || beats[0].beat(t).NextIn != 60_000 {
			t.Errorf("heard %v within a second, want a heartbeat that tells the pace of a minute", beats)
		}
	})
}

func TestRollcallIsAnsweredWithinItsSplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.do(t, SendBeacon(n.nc, "main", Beacon{ID: "controller-1", Epoch: 1, Pace: MaxPace.Milliseconds()}))
		time.Sleep(2 * time.Second)
		var spread []time.Duration
		for range 30 {
			n.restAfterBeat(t) // its next is a minute away
			before, called := len(n.beats(t)), time.Now()
			n.do(t, RequestReports(n.nc, "main", 10*time.Second))
			time.Sleep(10*time.Second + minGap)
			beats := n.beats(t)[before:]
			if len(beats) != 1 {
				t.Fatalf("%d beats within the splay, want 1", len(beats))
			}
			spread = append(spread, beats[0].at.Sub(called))
		}
		if low, high := slices.Min(spread), slices.Max(spread); high-low < 3*time.Second {
			t.Errorf("answers came after %s to %s, want them spread over 10 s", low, high)
		}
		n.restAfterBeat(t)
		before := len(n.beats(t))
		n.do(t, RequestReports(n.nc, "main", MaxSplay+time.Millisecond))
		n.do(t, RequestReports(n.nc, "main", -time.Millisecond))
		time.Sleep(30 * time.Second)
		if beats := n.beats(t)[before:]; len(beats) > 0 {
			t.Errorf("a roll call with an absurd splay is answered: %v", beats)
		}
	})
}

func TestOrdersAreObeyedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) { setFacts(t, a, Facts{"role": "web"}) })
		for do, want := range map[string][]string{DoBeat: {"heartbeat"}, DoFacts: {"facts", "heartbeat"}} {
			n.restAfterBeat(t)
			before := len(n.heard(t))
			n.do(t, Ask(n.nc, "main", n.self.Node, do))
			synctest.Wait()
			var got []string
			for _, h := range n.heard(t)[before:] {
				got = append(got, h.kind)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("order %s is answered by (-want +got):\n%s", do, diff)
			}
		}
	})
}

func TestGarbageChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.restAfterBeat(t)
		before := len(n.heard(t))
		for _, subject := range []string{reportSubject("main"), beaconSubject("main"), nodeSubject("main", n.self.Node)} {
			for _, garbage := range []string{"", "null", "{", "[1]", `{"v":1,"do":"beat"}`, `{"v":2,"do":"dance"}`, strings.Repeat(" ", MaxBeat) + "{}"} {
				if subject == reportSubject("main") && strings.Contains(garbage, "dance") {
					continue // a sound roll call: unknown keys are ignored
				}
				n.do(t, n.nc.Publish(subject, []byte(garbage)))
			}
		}
		synctest.Wait()
		if heard := n.heard(t)[before:]; len(heard) > 0 {
			t.Errorf("heard %v, want nothing", heard)
		}
		time.Sleep(2 * time.Second)
		if heard := n.heard(t)[before:]; len(heard) < 1 || len(heard) > 2 {
			t.Errorf("heard %v in 2 s, want the usual beats", heard)
		}
	})
}

func TestNewConnectionIsAnnouncedAtOnceAndNothingOfTheTimeWithoutOne(t *testing.T) {
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
		heard := spy.heard(t)
		if len(heard) == 0 || slices.ContainsFunc(heard, func(h heardMessage) bool { return !bytes.Equal(h.data, heard[0].data) }) {
			t.Fatalf("heard %v when the connection was back, want a heartbeat and nothing else", heard)
		}
		client, err := n.nc.GetClientID()
		if err != nil {
			t.Fatal(err)
		}
		b := heard[0].beat(t)
		if want := (Conn{n.nc.ConnectedServerId(), client}); b.Conn != want || b.Conn == old {
			t.Errorf("the heartbeat names connection %v, want %v", b.Conn, want)
		}
		if b.NotReady != "second" {
			t.Errorf("the heartbeat says %q, want what was said last", b.NotReady)
		}
	})
}

func TestNewConnectionIsFoundOutWithoutBeingTold(t *testing.T) {
	reconnecting(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.nc.SetReconnectHandler(nil)
		n.bus.stop()
		time.Sleep(time.Second)
		n.bus.start(t)
		spy := spyOn(t, n.bus)
		time.Sleep(reconnectWait + DefaultPace)
		heard := spy.heard(t)
		if len(heard) == 0 || heard[0].beat(t).Conn.Server != n.nc.ConnectedServerId() {
			t.Errorf("heard %v within a beat, want one that names broker %s", heard, n.nc.ConnectedServerId())
		}
	})
}

func TestLastBeatSaysBackSoonUnlessGoodbye(t *testing.T) {
	for name, tt := range map[string]struct {
		goodbye bool
		leave   bool
		want    Beat
	}{
		"back soon":     {want: Beat{RestartWithin: 60_000}},
		"goodbye":       {goodbye: true, want: Beat{Leaving: true}},
		"after leaving": {leave: true, want: Beat{Leaving: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNode(t, func(a *Announcer) {
					a.LeaveOnStop = func() bool {
						a.SetReady(false, "shutting down") // at the last moment
						return tt.goodbye
					}
				})
				time.Sleep(3 * time.Second)
				if tt.leave {
					n.Leave()
					synctest.Wait()
				}
				before := len(n.beats(t))
				n.stop(t)
				beats := n.beats(t)[before:]
				if len(beats) == 0 {
					t.Fatal("no last beat")
				}
				b := beats[len(beats)-1].beat(t)
				if b.Leaving != tt.want.Leaving || b.RestartWithin != tt.want.RestartWithin || b.NotReady != "shutting down" {
					t.Errorf("the last beat is %+v, want leaving %v, back within %d ms", b, tt.want.Leaving, tt.want.RestartWithin)
				}
			})
		})
	}
}

func TestRunEndsWithoutConnectionToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		time.Sleep(time.Second)
		n.bus.stop()
		time.Sleep(time.Second)
		start := time.Now()
		n.stop(t)
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %s to end without a connection", took)
		}
		n.SetReady(true, "") // nobody takes it any more: it must not block
		n.SetReady(false, "")
	})
}

func TestRunFailsWhenTheConnectionIsClosedForGood(t *testing.T) {
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

// TestLeavingNodeAsksUntilItIsReleased has the spy play the controller.
func TestLeavingNodeAsksUntilItIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		n.restAfterBeat(t)
		ask := func() LeaveStatus {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			f, err := RequestLeave(ctx, n.spy.nc, "main", n.self.Node)
			n.do(t, err)
			return f
		}
		if got := ask(); got.Received || got.Released {
			t.Errorf("first answer = %+v, want that nobody has heard yet", got)
		}
		synctest.Wait()
		leaving := n.beats(t)[len(n.beats(t))-1]
		if b := leaving.beat(t); !b.Leaving || b.NextIn != leavingPace.Milliseconds() || leaving.reply == "" {
			t.Fatalf("the heartbeat is %s, reply to %q, want one that leaves and can be answered", leaving.data, leaving.reply)
		}
		waiting := LeaveStatus{V: Version, Received: true, Waiting: []string{"lb1/reload"}}
		n.do(t, n.spy.nc.Publish(leaving.reply, encode(waiting)))
		n.do(t, n.spy.nc.Publish(leaving.reply, []byte("garbage")))
		synctest.Wait()
		if diff := cmp.Diff(waiting, ask()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		before := len(n.beats(t))
		time.Sleep(10 * time.Second)
		if got := len(n.beats(t)) - before; got != 40 {
			t.Errorf("%d beats in 10 s of leaving, want 40", got)
		}
		released := LeaveStatus{V: Version, Received: true, Released: true}
		n.do(t, n.spy.nc.Publish(leaving.reply, encode(released)))
		n.do(t, n.spy.nc.Publish(leaving.reply, encode(waiting))) // late
		time.Sleep(2 * time.Second)
		if diff := cmp.Diff(released, ask()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		before = len(n.beats(t))
		time.Sleep(10 * time.Second)
		beats := n.beats(t)[before:]
		if len(beats) != 10 {
			t.Errorf("%d beats in 10 s after the release, want 10", len(beats))
		}
		if b := beats[0]; b.reply != "" || !b.beat(t).Leaving {
			t.Errorf("the heartbeat after the release is %s, reply to %q, want one that still leaves, and asks nobody", b.data, b.reply)
		}
	})
}

func TestRequestLeaveSaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := RequestLeave(ctx, n.spy.nc, "main", "web9"); !errors.Is(err, nats.ErrNoResponders) ||
			!strings.Contains(err.Error(), "leave web9: no agent of that name is on the bus") {
			t.Errorf("RequestLeave of nobody = %v", err)
		}
		reply, err := n.spy.nc.RequestWithContext(ctx, nodeSubject("main", n.self.Node), []byte(`{"v":1,"do":"leave"}`))
		n.do(t, err)
		if got, want := string(reply.Data), `{"v":2,"received":false,"released":false,"rejected":"version 1, want 2"}`; got != want {
			t.Errorf("an order of another version is answered by %s, want %s", got, want)
		}
	})
}

func TestTooManyFactsAreRefusedAndChangeNothing(t *testing.T) {
	a := NewAnnouncer(nil, web1Self, slog.New(slog.DiscardHandler))
	setFacts(t, a, Facts{"role": "web"})
	before := a.say
	err := a.SetFacts(Facts{"motd": strings.Repeat("x", MaxFacts)})
	if err == nil || !strings.Contains(err.Error(), "leave out those") {
		t.Errorf("SetFacts = %v, want what to do", err)
	}
	if a.say.digest != before.digest || !bytes.Equal(a.say.facts, before.facts) {
		t.Error("facts that were refused are announced")
	}
}

func TestMessagesAreAsDocumented(t *testing.T) {
	v := voice{Announcer: NewAnnouncer(nil, web1Self, slog.New(slog.DiscardHandler)), conn: Conn{"NSERVER", 42}}
	v.rhythm.every = DefaultPace
	facts := Facts{"role": "web", "ipaddress": "10.0.0.1", "os": map[string]any{"family": "Debian"}, "boot_time": 1.7e9}
	setFacts(t, v.Announcer, facts)
	v.SetKick(json.RawMessage(`{"epoch":1700000000000}`))
	v.said = v.say
	beat := v.compose()
	notReady := beat
	notReady.Ready, notReady.NotReady = false, "tcp:8080: connection refused"
	checking := notReady
	checking.NotReady, checking.Checking = "tcp:8080: not checked yet", true
	leaving := beat
	leaving.Leaving, leaving.NextIn = true, leavingPace.Milliseconds()
	restarting := beat
	restarting.RestartWithin = MaxRestart.Milliseconds()
	for name, message := range map[string]any{
		"heartbeat":             beat,
		"heartbeat-not-ready":   notReady,
		"heartbeat-checking":    checking,
		"heartbeat-leaving":     leaving,
		"heartbeat-restarting":  restarting,
		"facts":                 json.RawMessage(v.said.facts),
		"beacon":                Beacon{V: Version, ID: "c0ffee", Epoch: 1_700_000_000_000, Pace: 1000, API: "http://127.0.0.1:7423"},
		"report-request":        ReportRequest{V: Version, Splay: 2000},
		"order":                 Order{V: Version, Do: DoLeave},
		"leave-status":          LeaveStatus{V: Version, Received: true, Waiting: []string{"lb1/reload"}},
		"leave-status-rejected": LeaveStatus{V: Version, Rejected: "version 1, want 2"},
	} {
		golden(t, name+".json", append(encode(message), '\n'))
	}
}

func FuzzHear(f *testing.F) {
	for _, text := range []string{
		"", "{", `{"v":2,"do":"leave"}`, `{"v":2,"splay_ms":9e18}`, `{"v":2,"id":"c","epoch":1,"pace_ms":9223372036854775807}`, `{"v":2,"released":true}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v := voice{Announcer: NewAnnouncer(nil, web1Self, slog.New(slog.DiscardHandler)), inbox: "_INBOX.web1"}
		v.rhythm, v.pace = newRhythm(time.Now(), DefaultPace), DefaultPace
		for _, subject := range []string{beaconSubject("main"), reportSubject("main"), nodeSubject("main", v.self.Node), v.inbox} {
			_ = v.hear(&nats.Msg{Subject: subject, Data: data}) // whether it is refused is not the point
		}
		if v.pace < MinPace || v.pace > MaxPace || v.epoch > maxEpoch {
			t.Errorf("%q sets the pace to %s, the epoch to %d", data, v.pace, v.epoch)
		}
		if due := v.rhythm.due(); time.Until(due) > MaxSplay {
			t.Errorf("%q puts the next beat off to %s", data, due)
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
	back    chan bool // the connection was
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
	n.Announcer = NewAnnouncer(n.nc, web1Self, slog.New(slog.DiscardHandler))
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
	synctest.Wait() // it listens
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

// restAfterBeat waits until shortly after a beat, when the next is far.
func (n *node) restAfterBeat(t *testing.T) {
	t.Helper()
	for before := len(n.beats(t)); len(n.beats(t)) <= before+1; { // the first may come right after another
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * minGap)
}

// spy hears all that is said on a bus.
type spy struct {
	nc  *nats.Conn
	mu  sync.Mutex
	all []heardMessage
}

type heardMessage struct {
	at    time.Time
	kind  string
	reply string
	data  []byte
}

func (h heardMessage) String() string { return h.at.Format("05.000 ") + h.kind + " " + string(h.data) }

func (h heardMessage) beat(t *testing.T) Beat {
	t.Helper()
	b, err := decodeBeat(web1Self.Node, h.data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func spyOn(t *testing.T, b *bus) *spy {
	t.Helper()
	s := &spy{nc: b.connect(t)}
	// One subscription for all: between two, the order of the wire is lost.
	_, err := s.nc.Subscribe("kicker.main.*."+web1Self.Node, func(m *nats.Msg) {
		kind := strings.Split(m.Subject, ".")[2]
		if kind != "heartbeat" && kind != "facts" {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, heardMessage{time.Now(), kind, m.Reply, m.Data})
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

func (s *spy) heard(t *testing.T) []heardMessage {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func (s *spy) beats(t *testing.T) []heardMessage {
	t.Helper()
	return slices.DeleteFunc(s.heard(t), func(h heardMessage) bool { return h.kind != "heartbeat" })
}

// reconnecting is a bubble in which nats.go reconnects. It then takes a timer from a pool that bubbles would share, which they
// must not: two collections empty it.
func reconnecting(t *testing.T, test func(*testing.T)) {
	t.Helper()
	empty := func() { runtime.GC(); runtime.GC() }
	empty()
	defer empty()
	synctest.Test(t, test)
}

const reconnectWait = 500 * time.Millisecond

// bus is an embedded broker that can be restarted; connections find the one that runs.
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
		t.Fatal("the broker does not start")
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
		return nil, errors.New("the broker is down")
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
