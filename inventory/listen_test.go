package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

func TestListenerKeepsTheOrderOfTheWire(t *testing.T) {
	inBubble(t, func(l *listening) {
		var want []string
		for i := range 500 {
			b := web1(ofNode(fmt.Sprint("n", i%7)), func(b *Beat) { b.NotReady = fmt.Sprint(i) })
			if i%3 == 0 {
				facts := FactsMessage{V: Version, Node: b.Node, Instance: b.Instance, Boot: b.Boot}
				facts.Facts = Facts{"i": float64(i)}
				l.send(factsSubject("main", b.Node), "", encode(facts))
				want = append(want, fmt.Sprint("facts ", i))
			}
			l.send(heartbeatSubject("main", b.Node), "", encode(b))
			want = append(want, fmt.Sprint("beat ", i))
		}
		synctest.Wait()
		var got []string
		for _, r := range l.all() {
			switch {
			case r.Beat != nil:
				got = append(got, "beat "+r.Beat.NotReady)
			case r.Facts != nil:
				got = append(got, fmt.Sprint("facts ", r.Facts.Facts["i"]))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("received %d in another order than the %d that were sent: %.300q, want %.300q", len(got),
				len(want), got, want)
		}
	})
}

func TestCanaryComesBackFourTimesASecond(t *testing.T) {
	inBubble(t, func(l *listening) {
		time.Sleep(time.Minute + time.Millisecond)
		received := l.all()
		if len(received) != 240 {
			t.Fatalf("received %d things in a minute, want 240 canaries", len(received))
		}
		for _, r := range received {
			if !r.Canary || r.Missed != "" {
				t.Fatalf("received %+v, want a canary", r)
			}
		}
	})
}

func TestUnchangedHeartbeatOnlyRenewsTheLease(t *testing.T) {
	inBubble(t, func(l *listening) {
		b := web1()
		raw := encode(b)
		l.send(heartbeatSubject("main", "web1"), "", raw)
		l.apply()
		for range 60 {
			time.Sleep(time.Second)
			l.send(heartbeatSubject("main", "web1"), "", raw)
		}
		synctest.Wait()
		for _, r := range l.all() {
			if r.Beat != nil {
				t.Fatalf("an unchanged heartbeat was passed on: %+v", r.Beat)
			}
		}
		if since := time.Since(l.inv.leases.byNode["web1"].received); since != 0 {
			t.Errorf("the lease was renewed %s ago, want now", since)
		}
	})
}

func TestHeartbeatIsComparedWithTheNewestReceived(t *testing.T) {
	inBubble(t, func(l *listening) {
		l.send(heartbeatSubject("main", "web1"), "", encode(web1()))
		l.apply()
		l.send(heartbeatSubject("main", "web1"), "", encode(web1(notReady)))
		l.send(heartbeatSubject("main", "web1"), "", encode(web1()))
		l.apply()
		if !l.inv.node("web1").Ready {
			t.Error("web1 was not ready for a moment and is ready again, but the inventory says not ready")
		}
	})
}

func TestHeartbeatThatExpectsAnAnswerIsPassedOn(t *testing.T) {
	inBubble(t, func(l *listening) {
		for range 3 {
			l.send(heartbeatSubject("main", "web1"), "inbox", encode(web1(leaving)))
			synctest.Wait()
			beats := 0
			for _, r := range l.apply() {
				if r.Beat != nil && r.Reply == "inbox" {
					beats++
				}
			}
			if beats != 1 {
				t.Fatalf("%d heartbeats with a reply subject were passed on, want 1", beats)
			}
		}
	})
}

func TestLateCanaryMeansMissedMessages(t *testing.T) {
	for gap, want := range map[time.Duration]int{
		MissedAfter - time.Second: 0, MissedAfter + time.Second: 1, time.Hour: 1,
	} {
		t.Run(gap.String(), func(t *testing.T) {
			inBubble(t, func(l *listening) {
				time.Sleep(time.Second)
				l.pause()
				time.Sleep(gap)
				l.resume()
				time.Sleep(time.Second)
				missed := 0
				for _, r := range l.all() {
					if r.Missed != "" {
						missed++
					}
				}
				if missed != want {
					t.Errorf("after %s messages were missed %d times, want %d", gap, missed, want)
				}
			})
		})
	}
}

func TestOtherErrorsGoToTheFormerErrorHandler(t *testing.T) {
	var errs []error
	b := &bus{}
	synctest.Test(t, func(t *testing.T) {
		b.start(t)
		t.Cleanup(b.stop)
		nc := b.connect(t)
		nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs = append(errs, err) })
		ctx, stop := context.WithCancel(t.Context())
		var daemon sync.WaitGroup
		daemon.Go(func() { _ = Listen(ctx, nc, "main", "me", New(), make(chan Received, 100)) })
		synctest.Wait()
		nc.ErrorHandler()(nc, nil, nats.ErrPermissionViolation)
		nc.ErrorHandler()(nc, nil, nats.ErrSlowConsumer)
		stop()
		daemon.Wait()
	})
	if !slices.Equal(errs, []error{nats.ErrPermissionViolation}) {
		t.Errorf("errors %v, want the permissions error alone", errs)
	}
}

func TestDroppedMessagesAreMissedMessages(t *testing.T) {
	inBubble(t, func(l *listening) {
		synctest.Wait()
		l.nc.ErrorHandler()(l.nc, nil, fmt.Errorf("sub: %w", nats.ErrSlowConsumer))
		time.Sleep(time.Second)
		synctest.Wait()
		received := l.all()
		if len(received) != 4 || !strings.Contains(received[0].Missed, "dropped") || !received[1].Canary {
			t.Errorf("received %+v, want missed messages once and then canaries", received)
		}
	})
}

func TestSlowListenerMissesMessagesAndRemovesNoNode(t *testing.T) {
	inBubble(t, func(l *listening) {
		l.send(heartbeatSubject("main", "web1"), "", encode(web1()))
		l.apply()
		l.pause()
		time.Sleep(time.Second) // until it waits to send a canary to out
		for range queueSize + 2000 {
			l.send(heartbeatSubject("main", "_flood"), "", nil)
		}
		synctest.Wait() // until all arrived
		time.Sleep(DefaultGoneAfter)
		l.resume()
		time.Sleep(time.Second)
		missed := false
		for _, r := range l.apply() {
			missed = missed || strings.Contains(r.Missed, "dropped")
		}
		if !missed {
			t.Error("messages were dropped without a report")
		}
		if l.inv.node("web1") == nil {
			t.Error("web1 was removed by a listener that dropped messages")
		}
	})
}

func TestInvalidMessagesHaveAReason(t *testing.T) {
	deep := []byte(strings.Repeat("[", 20_000))
	for _, c := range []struct {
		claim, subject string
		data           []byte
		want           string
	}{
		{"no JSON", heartbeatSubject("main", "web1"), []byte("{"), "heartbeat of web1: not valid JSON: unexpected end"},
		{"nothing", heartbeatSubject("main", "web1"), nil, "heartbeat of web1: not valid JSON: unexpected end"},
		{"too deep", heartbeatSubject("main", "web1"), deep, "exceeded max depth"},
		{"too large", heartbeatSubject("main", "web1"), make([]byte, maxBeat+1), fmt.Sprint(maxBeat+1, " bytes")},
		{"another's name", heartbeatSubject("main", "web1"), encode(web1(ofNode("web2"))), `it names node "web2"`},
		{"an invalid name", heartbeatSubject("main", "Web"), encode(web1(ofNode("Web"))), "not allowed"},
		{"another version", heartbeatSubject("main", "web1"), encode(web1(func(b *Beat) { b.V = 1 })),
			"heartbeat of web1: message version 1, this program speaks version 2: upgrade kicker on web1"},
		{"no instance", heartbeatSubject("main", "web1"), encode(web1(func(b *Beat) { b.Instance = "" })),
			"no instance"},
		{"no pace", heartbeatSubject("main", "web1"), encode(web1(every(0))), "next_in_ms 0"},
		{"too slow a pace", heartbeatSubject("main", "web1"), encode(web1(every(maxPace + time.Millisecond))),
			"next_in_ms 60001"},
		{"a restart in the past", heartbeatSubject("main", "web1"), encode(web1(restartWithin(-time.Second))),
			"restart_within_ms -1000"},
		{"facts that are no JSON", factsSubject("main", "web1"), []byte("x"),
			"facts of web1: not valid JSON: invalid character"},
		{"facts of another", factsSubject("main", "web1"),
			encode(FactsMessage{V: Version, Node: "web2", Instance: "m", Boot: "b"}), `it names node "web2"`},
		{"facts of kicker's own", factsSubject("main", "_canary.x"),
			encode(FactsMessage{V: Version, Node: "_canary.x", Instance: "m", Boot: "b"}), "reserved"},
		{"a beacon that is no JSON", beaconSubject("main"), []byte("x"), "invalid character"},
		{"a beacon of another version", beaconSubject("main"), encode(Beacon{V: 1, ID: "ctl2", Epoch: 1}),
			"beacon: message version 1, this program speaks version 2"},
		{"a beacon without an id", beaconSubject("main"), encode(Beacon{V: Version, Epoch: 1}), "epoch 1"},
		{"a beacon before all epochs", beaconSubject("main"), encode(Beacon{V: Version, ID: "ctl2", Epoch: -1}),
			"epoch -1"},
		{"a beacon after all epochs", beaconSubject("main"),
			encode(Beacon{V: Version, ID: "ctl2", Epoch: maxEpoch + 1}), "epoch "},
		{"facts without a boot", factsSubject("main", "web1"),
			encode(FactsMessage{V: Version, Node: "web1", Instance: "m"}), "no boot"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			inBubble(t, func(l *listening) {
				l.send(c.subject, "", c.data)
				synctest.Wait()
				received := l.all()
				if len(received) != 1 || received[0].Invalid == nil ||
					!strings.Contains(received[0].Invalid.Error(), c.want) {
					t.Errorf("received %+v, want an invalid message with %q", received, c.want)
				}
			})
		})
	}
}

func TestOtherControllersAreReceived(t *testing.T) {
	inBubble(t, func(l *listening) {
		b := Beacon{V: Version, ID: "ctl2", Epoch: 8, Pace: 1000}
		question := Beacon{V: Version, ID: "ctl3", Pace: 1000}
		l.send(heartbeatSubject("main", "_canary.ctl2"), "", nil)
		l.send(beaconSubject("main"), "", encode(b))
		l.send(beaconSubject("main"), "", encode(question))
		l.send(beaconSubject("elsewhere"), "", encode(b))
		received := l.all()
		if len(received) != 3 || received[0].Rival != "ctl2" {
			t.Fatalf("received %+v, want the canary of ctl2 and two beacons", received)
		}
		if got := received[1].Beacon; got == nil || *got != b {
			t.Errorf("received the beacon %+v, want %+v", got, b)
		}
		if got := received[2].Beacon; got == nil || *got != question {
			t.Errorf("received the beacon %+v, want the question %+v", got, question)
		}
		for _, r := range received {
			if changes, err := l.inv.Apply(r); len(changes) != 0 || err != nil {
				t.Errorf("the inventory applied %+v, %v for %+v: controllers are no nodes", changes, err, r)
			}
		}
	})
}

func TestSuspendedMachineMissedMessages(t *testing.T) {
	for _, c := range []struct {
		suspension time.Duration
		want       string
	}{
		{0, ""},
		{maxSuspension / 2, ""},
		{5 * time.Second, "the machine was suspended for 5.0s"},
	} {
		now := time.Now()
		l := &listener{nc: new(nats.Conn), canary: canaryPrefix + "me", canaryAt: now,
			suspended: suspended() - c.suspension}
		r, ok := l.receiveCanary(canaryPrefix+"me", now.Add(CanaryEvery))
		if !ok || r.Missed != c.want || r.Canary != (c.want == "") {
			t.Errorf("after a suspension of %s it received %+v, want missed messages: %q", c.suspension, r, c.want)
		}
		if r, _ := l.receiveCanary(canaryPrefix+"me", now.Add(2*CanaryEvery)); !r.Canary {
			t.Errorf("after a suspension of %s it misses messages forever: %+v", c.suspension, r)
		}
	}
}

func TestLateJoinMeansMissedMessages(t *testing.T) {
	for late, want := range map[time.Duration]string{
		CanaryEvery:             "",
		2 * CanaryEvery:         "",
		1800 * time.Millisecond: "the controller joined the bus 1.8s after its start",
	} {
		now := time.Now()
		l := &listener{nc: new(nats.Conn), canary: canaryPrefix + "me", canaryAt: now, suspended: suspended()}
		if r, ok := l.receiveCanary(canaryPrefix+"me", now.Add(late)); !ok || r.Missed != want ||
			r.Canary != (want == "") {
			t.Errorf("its first canary came after %s, and it received %+v, want missed messages: %q", late, r, want)
		}
	}
}

func TestReservedNamesAreIgnored(t *testing.T) {
	inBubble(t, func(l *listening) {
		l.send(heartbeatSubject("main", "_canary."), "", nil)
		l.send(heartbeatSubject("main", "_canary"), "", encode(web1(ofNode("_canary"))))
		l.send(heartbeatSubject("main", "_other"), "", encode(web1(ofNode("_other"))))
		l.send(heartbeatSubject("elsewhere", "web1"), "", encode(web1()))
		synctest.Wait()
		if received := l.all(); len(received) != 0 {
			t.Errorf("received %+v, want nothing", received)
		}
	})
}

// listening is a listener on a bus of its own, and what it received.
type listening struct {
	nc    *nats.Conn // the listener's
	other *nats.Conn
	inv   *Inventory
	busy  chan struct{} // full: out is not read

	mu       sync.Mutex
	received []Received
}

// inBubble runs a story with a listener, in virtual time.
func inBubble(t *testing.T, story func(*listening)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bus
		b.start(t)
		t.Cleanup(b.stop)
		l := &listening{nc: b.connect(t), other: b.connect(t), inv: New(), busy: make(chan struct{}, 1)}
		out := make(chan Received)
		ctx, stop := context.WithCancel(context.Background())
		var daemons sync.WaitGroup
		daemons.Go(func() {
			defer close(out)
			if err := Listen(ctx, l.nc, "main", "me", l.inv, out); err != nil {
				t.Errorf("listen: %v", err)
			}
		})
		daemons.Go(func() {
			for r := range out {
				l.busy <- struct{}{}
				l.mu.Lock()
				l.received = append(l.received, r)
				l.mu.Unlock()
				<-l.busy
			}
		})
		t.Cleanup(daemons.Wait)
		t.Cleanup(stop)
		synctest.Wait() // until Listen has subscribed
		story(l)
	})
}

func (l *listening) send(subject, reply string, data []byte) {
	if err := l.other.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data}); err != nil {
		panic(err)
	}
}

func (l *listening) pause()  { l.busy <- struct{}{} }
func (l *listening) resume() { <-l.busy }

// all returns what was received since the last call.
func (l *listening) all() []Received {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	received := l.received
	l.received = nil
	return received
}

// apply applies what was received since the last call.
func (l *listening) apply() []Received {
	received := l.all()
	for _, r := range received {
		if _, err := l.inv.Apply(r); err != nil {
			panic(err)
		}
	}
	return received
}
