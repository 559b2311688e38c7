package inventory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// How the listener watches itself.
const (
	CanaryEvery = 250 * time.Millisecond // between two beats of its own
	MissedAfter  = 2 * time.Second        // without one of them coming back: it may have missed anybody's

	maxSlept = time.Second // of suspension, which the monotonic clock leaves out

	canaryPrefix = "_canary."

	inbox = 1 << 17 // messages that wait for the listener; beyond it the client drops and says so
)

// Heard is one thing that the listener heard; exactly one of its fields says what.
type Received struct {
	At      time.Time
	Beat    *Beat  // one that says something new
	Reply   string // where the answer to a leaving node's beat goes
	Facts   *FactsMessage
	Disconnect  *Disconnect
	Beacon  *Beacon // of a controller, perhaps this one
	Rival   string  // another listener's own beat came by: its id
	Canary  bool    // the listener's own beat came back: whatever was sent before it was heard before it
	DisconnectsLost    *string // why closed connections are not heard from now on, "" if they are again
	Missed   string  // why somebody may have spoken without being heard; "" otherwise
	Invalid error   // a message that was no good, for whatever reason

	raw []byte
}

// Closed is a connection that its client's end closed, as the broker tells.
type Disconnect struct {
	Conn Conn
	Why  string
}

// Listen hears what the nodes of a cluster say, until ctx ends, and sends what is new to out. A beat that is byte for byte the
// node's last one renews its lease in inv and goes no further. id, unique to this listener, names its canary.
func Listen(ctx context.Context, nc *nats.Conn, cluster, id string, inv *Inventory, out chan<- Received) error {
	l := &listener{
		nc: nc, leases: inv.leases, out: out, heard: time.Now(), asleep: suspended(),
		beats: heartbeatSubject(cluster, ""), facts: factsSubject(cluster, ""), beacon: beaconSubject(cluster), canary: canaryPrefix + id,
	}
	others := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			l.dropped.Store(true)
		} else if others != nil {
			others(nc, sub, err)
		}
	})
	in := make(chan *nats.Msg, inbox) // one for all, so that the order of the wire is kept
	for _, subject := range []string{l.beats + ">", l.facts + ">", l.beacon} {
		sub, err := nc.ChanSubscribe(subject, in)
		if err != nil {
			return fmt.Errorf("listen to %s: %w", subject, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	}
	tick := time.NewTicker(CanaryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-in:
			if h, ok := l.take(m); ok {
				if err := l.send(ctx, h); err != nil {
					return nil
				}
			}
		case <-tick.C:
			if err := nc.Publish(l.beats+l.canary, nil); err != nil && !errors.Is(err, nats.ErrReconnectBufExceeded) {
				return fmt.Errorf("listen: canary: %w", err)
			}
		}
	}
}

type listener struct {
	asleep                       time.Duration // the machine, since it was booted
	leases                       *leases
	out                          chan<- Received
	beats, facts, beacon, canary string
	nc                           *nats.Conn
	conn                         Conn        // over which the last canary came back
	heard                        time.Time   // the last canary
	dropped                      atomic.Bool // messages, by the client: they came faster than they were taken
}

// take makes of a message what the inventory's owner needs to hear, if anything.
func (l *listener) take(m *nats.Msg) (Received, bool) {
	now := time.Now()
	if node, ok := strings.CutPrefix(m.Subject, l.beats); ok {
		if m.Reply == "" && l.leases.same(node, m.Data, now) {
			return Received{}, false
		}
		if strings.HasPrefix(node, "_") {
			return l.ownBeat(node, now)
		}
		b, err := decodeBeat(node, m.Data)
		if err != nil {
			return Received{At: now, Invalid: err}, true
		}
		l.leases.forgetBeat(node) // should it return to its last one before this is taken in, that is new too
		return Received{At: now, Beat: &b, Reply: m.Reply, raw: m.Data}, true
	}
	if m.Subject == l.beacon {
		b, err := decodeBeacon(m.Data)
		if err != nil {
			return Received{At: now, Invalid: err}, true
		}
		return Received{At: now, Beacon: &b}, true
	}
	f, err := decodeFacts(strings.TrimPrefix(m.Subject, l.facts), m.Data)
	if err != nil {
		return Received{At: now, Invalid: err}, true
	}
	return Received{At: now, Facts: &f}, true
}

func (l *listener) ownBeat(name string, now time.Time) (Received, bool) {
	if name != l.canary {
		rival, isCanary := strings.CutPrefix(name, canaryPrefix)
		return Received{At: now, Rival: rival}, isCanary && rival != ""
	}
	gap := now.Sub(l.heard)
	l.heard = now
	asleep := suspended()
	slept := asleep - l.asleep
	l.asleep = asleep
	before := l.conn
	if conn, connected := connection(l.nc); connected {
		l.conn = conn
	}
	switch {
	case before == (Conn{}) && gap > 2*CanaryEvery:
		return Received{At: now, Missed: fmt.Sprintf("the bus was joined %.1f s after the start", gap.Seconds())}, true
	case before != (Conn{}) && before != l.conn:
		return Received{At: now, Missed: "the connection to the bus was lost and made anew"}, true
	case slept > maxSlept:
		return Received{At: now, Missed: fmt.Sprintf("the machine was suspended for %.1f s", slept.Seconds())}, true
	case l.dropped.Swap(false):
		return Received{At: now, Missed: "messages came faster than they could be taken, and some were dropped"}, true
	case gap > MissedAfter:
		return Received{At: now, Missed: fmt.Sprintf("nothing came back from the bus for %.1f s", gap.Seconds())}, true
	}
	return Received{At: now, Canary: true}, true
}

func (l *listener) send(ctx context.Context, h Received) error {
	select {
	case l.out <- h:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Answer tells a leaving node how far it is; reply is Heard.Reply.
func AnswerLeave(nc *nats.Conn, reply string, f LeaveStatus) error {
	if err := nc.Publish(reply, encode(f)); err != nil {
		return fmt.Errorf("answer a leaving node: %w", err)
	}
	return nil
}
