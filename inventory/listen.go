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
	CanaryEvery = 250 * time.Millisecond // from one canary to the next
	MissedAfter = 2 * time.Second        // without a canary: messages may have been missed

	maxSuspension = time.Second // of the machine; the monotonic clock does not count it
	canaryPrefix  = "_canary."
	queueSize     = 1 << 17 // messages waiting for the listener; more are dropped, and the client reports it
)

// Received is one thing that the listener received. Beside At and Reply exactly one field is set.
type Received struct {
	At              time.Time
	Beat            *Beat  // a heartbeat that says something new
	Reply           string // of Beat: where a leaving node expects a LeaveStatus
	Facts           *FactsMessage
	Disconnect      *Disconnect
	Beacon          *Beacon // of a controller, perhaps this one
	Rival           string  // the id of another listener, whose canary was received
	Canary          bool    // the listener's canary came back: every message sent before it has been received
	Missed          string  // why messages may have been missed
	DisconnectsLost *string // why disconnects are not received from now on, "" if they are again
	Invalid         error   // why a message is invalid

	raw []byte // Beat as it was sent
}

// Disconnect is a connection that was closed from its client's end, as the server reports it.
type Disconnect struct {
	Conn Conn
	Why  string
}

// Listen receives the messages of a cluster's nodes until ctx ends, and sends what is new to out. A heartbeat that
// repeats the node's last one only renews its lease in inv. id names this listener's canary and is unique.
func Listen(ctx context.Context, nc *nats.Conn, cluster, id string, inv *Inventory, out chan<- Received) error {
	l := &listener{
		nc: nc, leases: inv.leases, beats: heartbeatSubject(cluster, ""), facts: factsSubject(cluster, ""),
		beacon: beaconSubject(cluster), canary: canaryPrefix + id, canaryAt: time.Now(), suspended: suspended(),
	}
	handler := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			l.dropped.Store(true)
		} else if handler != nil {
			handler(nc, sub, err)
		}
	})
	in := make(chan *nats.Msg, queueSize) // one for all subjects, to keep the order of the wire
	for _, subject := range []string{l.beats + ">", l.facts + ">", l.beacon} {
		sub, err := nc.ChanSubscribe(subject, in)
		if err != nil {
			return fmt.Errorf("listen: subscribe to %s: %w", subject, err)
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
			r, ok := l.receive(m, time.Now())
			if !ok {
				continue
			}
			select {
			case out <- r:
			case <-ctx.Done():
				return nil
			}
		case <-tick.C:
			if err := nc.Publish(l.beats+l.canary, nil); err != nil && !errors.Is(err, nats.ErrReconnectBufExceeded) {
				return fmt.Errorf("listen: send the canary: %w", err)
			}
		}
	}
}

// listener is the state of one Listen. It belongs to that goroutine.
type listener struct {
	nc                           *nats.Conn
	leases                       *leases
	beats, facts, beacon, canary string // subjects and their beginnings

	canaryAt  time.Time     // when the last canary came back
	conn      Conn          // over which it came back
	suspended time.Duration // the machine's suspensions until then
	dropped   atomic.Bool   // the client dropped messages
}

// receive turns a message into what the owner of the inventory must know, if anything.
func (l *listener) receive(m *nats.Msg, now time.Time) (Received, bool) {
	r := Received{At: now}
	node, isBeat := strings.CutPrefix(m.Subject, l.beats)
	switch {
	case isBeat && m.Reply == "" && l.leases.renewSame(node, m.Data, now):
		return r, false
	case isBeat && strings.HasPrefix(node, "_"):
		return l.receiveCanary(node, now)
	case isBeat:
		r.Beat, r.Invalid = decodeBeat(node, m.Data)
		r.Reply, r.raw = m.Reply, m.Data
		if r.Beat != nil {
			l.leases.forgetBeat(node) // until this one is applied, one like the last says something new too
		}
	case m.Subject == l.beacon:
		r.Beacon, r.Invalid = decodeBeacon(m.Data)
	default:
		r.Facts, r.Invalid = decodeFacts(strings.TrimPrefix(m.Subject, l.facts), m.Data)
	}
	return r, true
}

// receiveCanary receives a canary: the listener's own, or that of another listener.
func (l *listener) receiveCanary(name string, now time.Time) (Received, bool) {
	if name != l.canary {
		rival, isCanary := strings.CutPrefix(name, canaryPrefix)
		return Received{At: now, Rival: rival}, isCanary && rival != ""
	}
	gap, suspension, conn := now.Sub(l.canaryAt), suspended()-l.suspended, l.conn
	l.canaryAt = now
	l.suspended += suspension
	if current, connected := connection(l.nc); connected {
		l.conn = current
	}
	missed := ""
	switch {
	case conn == (Conn{}) && gap > 2*CanaryEvery:
		missed = fmt.Sprintf("the controller joined the bus %.1fs after its start", gap.Seconds())
	case conn != (Conn{}) && conn != l.conn:
		missed = "the connection to the bus was lost and is restored"
	case suspension > maxSuspension:
		missed = fmt.Sprintf("the machine was suspended for %.1fs", suspension.Seconds())
	case l.dropped.Swap(false):
		missed = "messages arrived faster than the controller reads them, and some were dropped"
	case gap > MissedAfter:
		missed = fmt.Sprintf("no message came back from the bus for %.1fs", gap.Seconds())
	}
	return Received{At: now, Canary: missed == "", Missed: missed}, true
}
