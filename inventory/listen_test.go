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
	listening(t, func(e *ear) {
		var want []string
		for i := range 500 {
			b := web1(ofNode(fmt.Sprint("n", i%7)), func(b *Beat) { b.NotReady = fmt.Sprint(i) })
			if i%3 == 0 {
				e.say(factsSubject("main", b.Node), "", encode(FactsMessage{V: Version, Node: b.Node, Instance: b.Instance, Boot: b.Boot, Facts: Facts{"i": float64(i)}}))
				want = append(want, fmt.Sprint("facts ", i))
			}
			e.say(heartbeatSubject("main", b.Node), "", encode(b))
			want = append(want, fmt.Sprint("beat ", i))
		}
		synctest.Wait()
		var got []string
		for _, h := range e.all() {
			switch {
			case h.Beat != nil:
				got = append(got, "beat "+h.Beat.NotReady)
			case h.Facts != nil:
				got = append(got, fmt.Sprint("facts ", h.Facts.Facts["i"]))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("heard %d in another order than the %d that were said: %.300q, want %.300q", len(got), len(want), got, want)
		}
	})
}

func TestCanaryComesBackFourTimesASecond(t *testing.T) {
	listening(t, func(e *ear) {
		time.Sleep(time.Minute + time.Millisecond)
		heard := e.all()
		if len(heard) != 240 {
			t.Fatalf("heard %d things in a minute, want 240 canaries", len(heard))
		}
		for _, h := range heard {
			if !h.Canary || h.Missed != "" {
				t.Fatalf("heard %+v, want a canary", h)
			}
		}
	})
}

func TestUnchangedBeatRenewsTheLeaseAndGoesNoFurther(t *testing.T) {
	listening(t, func(e *ear) {
		b := web1()
		raw := encode(b)
		e.say(heartbeatSubject("main", "web1"), "", raw)
		e.takeIn()
		for range 60 {
			time.Sleep(time.Second)
			e.say(heartbeatSubject("main", "web1"), "", raw)
		}
		synctest.Wait()
		for _, h := range e.all() {
			if h.Beat != nil {
				t.Fatalf("an unchanged beat was handed on: %+v", h.Beat)
			}
		}
		if since := time.Since(e.inv.leases.byNode["web1"].heard); since != 0 {
			t.Errorf("the lease was renewed %s ago, want now", since)
		}
	})
}

func TestBeatIsComparedWithTheNewestNotWithTheNewestTakenIn(t *testing.T) {
	listening(t, func(e *ear) {
		e.say(heartbeatSubject("main", "web1"), "", encode(web1()))
		e.takeIn()
		e.say(heartbeatSubject("main", "web1"), "", encode(web1(notReady)))
		e.say(heartbeatSubject("main", "web1"), "", encode(web1()))
		e.takeIn()
		if !e.inv.node("web1").Ready {
			t.Error("web1 was not ready for a moment, is ready again, and is taken for not ready")
		}
	})
}

func TestBeatThatWantsAnAnswerIsAlwaysHandedOn(t *testing.T) {
	listening(t, func(e *ear) {
		for range 3 {
			e.say(heartbeatSubject("main", "web1"), "inbox", encode(web1(leaving)))
			synctest.Wait()
			beats := 0
			for _, h := range e.takeIn() {
				if h.Beat != nil && h.Reply == "inbox" {
					beats++
				}
			}
			if beats != 1 {
				t.Fatalf("%d beats with a reply were handed on, want 1", beats)
			}
		}
	})
}

func TestListenerThatHeardNothingForTooLongSaysThatItWasBlind(t *testing.T) {
	for gap, want := range map[time.Duration]int{MissedAfter - time.Second: 0, MissedAfter + time.Second: 1, time.Hour: 1} {
		t.Run(gap.String(), func(t *testing.T) {
			listening(t, func(e *ear) {
				time.Sleep(time.Second)
				e.pause()
				time.Sleep(gap)
				e.resume()
				time.Sleep(time.Second)
				blind := 0
				for _, h := range e.all() {
					if h.Missed != "" {
						blind++
					}
				}
				if blind != want {
					t.Errorf("after %s it was blind %d times, want %d", gap, blind, want)
				}
			})
		})
	}
}

func TestOtherErrorsOfTheConnectionGoToWhoeverHadThemBefore(t *testing.T) {
	var told []error
	b := &bus{}
	synctest.Test(t, func(t *testing.T) {
		b.start(t)
		t.Cleanup(b.stop)
		nc := b.connect(t)
		nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { told = append(told, err) })
		ctx, stop := context.WithCancel(t.Context())
		var daemon sync.WaitGroup
		daemon.Go(func() { _ = Listen(ctx, nc, "main", "me", New(), make(chan Received, 100)) })
		synctest.Wait()
		nc.ErrorHandler()(nc, nil, nats.ErrPermissionViolation)
		nc.ErrorHandler()(nc, nil, nats.ErrSlowConsumer)
		stop()
		daemon.Wait()
	})
	if !slices.Equal(told, []error{nats.ErrPermissionViolation}) {
		t.Errorf("told %v, want that something is not permitted: that messages were dropped is heard as blindness", told)
	}
}

func TestDroppedMessagesAreBlindness(t *testing.T) {
	listening(t, func(e *ear) {
		synctest.Wait()
		e.nc.ErrorHandler()(e.nc, nil, fmt.Errorf("sub: %w", nats.ErrSlowConsumer))
		time.Sleep(time.Second)
		synctest.Wait()
		heard := e.all()
		if len(heard) != 4 || !strings.Contains(heard[0].Missed, "dropped") || !heard[1].Canary {
			t.Errorf("heard %+v, want to be blind once and then canaries", heard)
		}
	})
}

func TestListenerThatIsSlowerThanTheBusIsBlindAndRemovesNobody(t *testing.T) {
	listening(t, func(e *ear) {
		e.say(heartbeatSubject("main", "web1"), "", encode(web1()))
		e.takeIn()
		e.pause()
		time.Sleep(time.Second) // until it waits for somebody to take a canary
		for range inbox + 2000 {
			e.say(heartbeatSubject("main", "_flood"), "", nil)
		}
		synctest.Wait() // all of it arrived
		time.Sleep(DefaultGoneAfter)
		e.resume()
		time.Sleep(time.Second)
		blind := false
		for _, h := range e.takeIn() {
			blind = blind || strings.Contains(h.Missed, "dropped")
		}
		if !blind {
			t.Error("messages were dropped and nobody said so")
		}
		if e.inv.node("web1") == nil {
			t.Error("web1 was removed by a listener that dropped messages")
		}
	})
}

func TestGarbageIsRefusedWithItsReason(t *testing.T) {
	deep := []byte(strings.Repeat("[", 20_000))
	for _, c := range []struct {
		claim, subject string
		data           []byte
		want           string
	}{
		{"no JSON", heartbeatSubject("main", "web1"), []byte("{"), "heartbeat of web1: unexpected end"},
		{"nothing", heartbeatSubject("main", "web1"), nil, "heartbeat of web1: unexpected end"},
		{"too deep", heartbeatSubject("main", "web1"), deep, "exceeded max depth"},
		{"too large", heartbeatSubject("main", "web1"), make([]byte, MaxBeat+1), "65537 bytes"},
		{"another's name", heartbeatSubject("main", "web1"), encode(web1(ofNode("web2"))), `it names node "web2"`},
		{"a name that is none", heartbeatSubject("main", "Web"), encode(web1(ofNode("Web"))), "not allowed"},
		{"another version", heartbeatSubject("main", "web1"), encode(web1(func(b *Beat) { b.V = 1 })), "version 1, want 2"},
		{"no instance", heartbeatSubject("main", "web1"), encode(web1(func(b *Beat) { b.Instance = "" })), "no instance"},
		{"no pace", heartbeatSubject("main", "web1"), encode(web1(every(0))), "next_in_ms 0"},
		{"too slow a pace", heartbeatSubject("main", "web1"), encode(web1(every(MaxPace + time.Millisecond))), "next_in_ms 60001"},
		{"back before it went", heartbeatSubject("main", "web1"), encode(web1(backWithin(-time.Second))), "restart_within_ms -1000"},
		{"facts that are no JSON", factsSubject("main", "web1"), []byte("x"), "facts of web1: invalid character"},
		{"facts of another", factsSubject("main", "web1"), encode(FactsMessage{V: Version, Node: "web2", Instance: "m", Boot: "b"}), `it names node "web2"`},
		{"facts of kicker's own", factsSubject("main", "_canary.x"), encode(FactsMessage{V: Version, Node: "_canary.x", Instance: "m", Boot: "b"}), "reserved"},
		{"a beacon that is no JSON", beaconSubject("main"), []byte("x"), "invalid character"},
		{"a beacon of another version", beaconSubject("main"), encode(Beacon{V: 1, ID: "ctl2", Epoch: 1}), "version 1, want 2"},
		{"a beacon of nobody", beaconSubject("main"), encode(Beacon{V: Version, Epoch: 1}), "epoch 1"},
		{"a beacon before all epochs", beaconSubject("main"), encode(Beacon{V: Version, ID: "ctl2", Epoch: -1}), "epoch -1"},
		{"a beacon after all epochs", beaconSubject("main"), encode(Beacon{V: Version, ID: "ctl2", Epoch: maxEpoch + 1}), "epoch "},
		{"facts without a boot", factsSubject("main", "web1"), encode(FactsMessage{V: Version, Node: "web1", Instance: "m"}), "no boot"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			listening(t, func(e *ear) {
				e.say(c.subject, "", c.data)
				synctest.Wait()
				heard := e.all()
				if len(heard) != 1 || heard[0].Invalid == nil || !strings.Contains(heard[0].Invalid.Error(), c.want) {
					t.Errorf("heard %+v, want it refused with %q", heard, c.want)
				}
			})
		})
	}
}

func TestOtherListenersAndControllersAreHeardOf(t *testing.T) {
	listening(t, func(e *ear) {
		b := Beacon{V: Version, ID: "ctl2", Epoch: 8, Pace: 1000}
		question := Beacon{V: Version, ID: "ctl3", Pace: 1000}
		e.say(heartbeatSubject("main", "_canary.ctl2"), "", nil)
		e.say(beaconSubject("main"), "", encode(b))
		e.say(beaconSubject("main"), "", encode(question))
		e.say(beaconSubject("elsewhere"), "", encode(b))
		heard := e.all()
		if len(heard) != 3 || heard[0].Rival != "ctl2" {
			t.Fatalf("heard %+v, want the canary of ctl2 and two beacons", heard)
		}
		if got := heard[1].Beacon; got == nil || *got != b {
			t.Errorf("heard the beacon %+v, want %+v", got, b)
		}
		if got := heard[2].Beacon; got == nil || *got != question {
			t.Errorf("heard the beacon %+v, want the question %+v", got, question)
		}
		for _, h := range heard {
			if changes, err := e.inv.Apply(h); len(changes) != 0 || err != nil {
				t.Errorf("the inventory made %+v, %v of %+v: controllers are no nodes", changes, err, h)
			}
		}
	})
}

func TestSuspendedMachineWasBlind(t *testing.T) {
	for _, c := range []struct {
		slept time.Duration
		want  string
	}{
		{0, ""},
		{maxSlept / 2, ""},
		{5 * time.Second, "the machine was suspended for 5.0 s"},
	} {
		now := time.Now()
		l := &listener{nc: new(nats.Conn), canary: canaryPrefix + "me", heard: now, asleep: suspended() - c.slept}
		h, ok := l.ownBeat(canaryPrefix+"me", now.Add(CanaryEvery))
		if !ok || h.Missed != c.want || h.Canary != (c.want == "") {
			t.Errorf("after %s of suspension it heard %+v, want blind: %q", c.slept, h, c.want)
		}
		if h, _ := l.ownBeat(canaryPrefix+"me", now.Add(2*CanaryEvery)); !h.Canary {
			t.Errorf("after %s of suspension it is blind for ever: %+v", c.slept, h)
		}
	}
}

func TestListenerThatJoinedTheBusLateWasBlindUntilThen(t *testing.T) {
	for late, want := range map[time.Duration]string{
		CanaryEvery:             "",
		2 * CanaryEvery:         "",
		1800 * time.Millisecond: "the bus was joined 1.8 s after the start",
	} {
		now := time.Now()
		l := &listener{nc: new(nats.Conn), canary: canaryPrefix + "me", heard: now, asleep: suspended()}
		if h, ok := l.ownBeat(canaryPrefix+"me", now.Add(late)); !ok || h.Missed != want || h.Canary != (want == "") {
			t.Errorf("its first canary came after %s, and it heard %+v, want blind: %q", late, h, want)
		}
	}
}

func TestNamesOfKickersOwnAreIgnored(t *testing.T) {
	listening(t, func(e *ear) {
		e.say(heartbeatSubject("main", "_canary."), "", nil)
		e.say(heartbeatSubject("main", "_canary"), "", encode(web1(ofNode("_canary"))))
		e.say(heartbeatSubject("main", "_other"), "", encode(web1(ofNode("_other"))))
		e.say(heartbeatSubject("elsewhere", "web1"), "", encode(web1()))
		synctest.Wait()
		if heard := e.all(); len(heard) != 0 {
			t.Errorf("heard %+v, want nothing", heard)
		}
	})
}

// ear is a listener on a bus of its own, and what it heard so far.
type ear struct {
	nc    *nats.Conn // the listener's
	other *nats.Conn
	inv   *Inventory
	hands chan struct{} // full: nobody takes what is heard

	mu    sync.Mutex
	heard []Received
}

// listening runs a story with a listener, on virtual time.
func listening(t *testing.T, story func(*ear)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bus
		b.start(t)
		t.Cleanup(b.stop)
		e := &ear{nc: b.connect(t), other: b.connect(t), inv: New(), hands: make(chan struct{}, 1)}
		out := make(chan Received)
		ctx, stop := context.WithCancel(context.Background())
		var daemons sync.WaitGroup
		daemons.Go(func() {
			defer close(out)
			if err := Listen(ctx, e.nc, "main", "me", e.inv, out); err != nil {
				t.Errorf("listen: %v", err)
			}
		})
		daemons.Go(func() {
			for h := range out {
				e.hands <- struct{}{}
				e.mu.Lock()
				e.heard = append(e.heard, h)
				e.mu.Unlock()
				<-e.hands
			}
		})
		t.Cleanup(daemons.Wait)
		t.Cleanup(stop)
		synctest.Wait() // it listens
		story(e)
	})
}

func (e *ear) say(subject, reply string, data []byte) {
	if err := e.other.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data}); err != nil {
		panic(err)
	}
}

func (e *ear) pause()  { e.hands <- struct{}{} }
func (e *ear) resume() { <-e.hands }

// all is what was heard since the last time.
func (e *ear) all() []Received {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	heard := e.heard
	e.heard = nil
	return heard
}

// takeIn hands to the inventory what was heard since the last time.
func (e *ear) takeIn() []Received {
	heard := e.all()
	for _, h := range heard {
		if _, err := e.inv.Apply(h); err != nil {
			panic(err)
		}
	}
	return heard
}
