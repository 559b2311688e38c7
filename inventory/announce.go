package inventory

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// How a node announces itself.
const (
	defaultPace  = time.Second // from one heartbeat to the next, until a beacon says otherwise
	minPace      = 100 * time.Millisecond
	maxPace      = time.Minute
	leavingPace  = 250 * time.Millisecond  // until the node is released
	maxSplay     = time.Minute             // of a report request
	probeTimeout = 1500 * time.Millisecond // for a target to accept a connection
	lastFlush    = 2 * time.Second         // for the last heartbeat to reach the server
	maxEpoch     = 7_258_118_400_000       // the year 2200 in Unix milliseconds: nodes obey the highest
)

// Announcer announces on the bus that a node is alive, and what it is. Any goroutine may call its methods before,
// during and after Run: the newest content is sent as soon as there is a connection. Set its fields before Run.
type Announcer struct {
	OnBeacon    func(Beacon)              // receives every valid beacon, on Run's goroutine
	LeaveOnStop func() bool               // called when Run ends: whether to leave; nil: restart
	Probe       func(address string) bool // whether HOST:PORT accepts a connection

	nc       *nats.Conn
	identity Identity
	log      *slog.Logger
	wake     chan struct{} // the content or the connection changed

	mu   sync.Mutex
	next content
}

// content is what a node announces about itself.
type content struct {
	Beat
	facts   []byte // an encoded FactsMessage
	changes int    // counts calls that may have changed it
}

// NewAnnouncer returns an Announcer of a node that is ready and has no facts. nc should have no reconnect buffer: a
// heartbeat must not arrive late.
func NewAnnouncer(nc *nats.Conn, identity Identity, log *slog.Logger) *Announcer {
	a := &Announcer{Probe: accepts, nc: nc, identity: identity, log: log, wake: make(chan struct{}, 1)}
	a.next.Beat = Beat{
		V: Version, Node: identity.Node, Instance: identity.Instance, Boot: identity.Boot, Agent: rand.Text()[:12], Ready: true,
	}
	if err := a.SetFacts(nil); err != nil {
		panic(err) // no facts are not too many
	}
	return a
}

// SetFacts sets the node's facts: JSON values, as encoding/json decodes them. Too many, or one that another node would
// decode as something else, are an error and change nothing.
func (a *Announcer) SetFacts(facts Facts) error {
	if facts == nil {
		facts = Facts{}
	}
	id := a.identity
	if err := facts.checkSendable(); err != nil {
		return fmt.Errorf("facts of %s: %w", id.Node, err)
	}
	message := encode(FactsMessage{V: Version, Node: id.Node, Instance: id.Instance, Boot: id.Boot, Facts: facts})
	if len(message) > maxFacts {
		return fmt.Errorf("facts of %s: %d bytes, at most %d are allowed: leave out facts that no selector uses",
			id.Node, len(message), maxFacts)
	}
	digest := facts.Digest()
	a.change(func(c *content) { c.facts, c.Facts = message, digest })
	return nil
}

// SetReady sets whether the node's service is ready, or why not: a line of at most 1 KiB, a longer one is cut.
func (a *Announcer) SetReady(ready bool, why string) {
	why = plain(why, maxReason)
	a.change(func(c *content) { c.Ready, c.Checking, c.NotReady = ready, false, why })
}

// SetChecking says why it is not known yet whether the service is ready. A node stays ready while its agent restarts.
// why is cut as in SetReady.
func (a *Announcer) SetChecking(why string) {
	why = plain(why, maxReason)
	a.change(func(c *content) { c.Ready, c.Checking, c.NotReady = false, true, why })
}

// SetKick sets the status of the node's actions, which must be JSON. It is not copied.
func (a *Announcer) SetKick(status json.RawMessage) { a.change(func(c *content) { c.Kick = status }) }

// Leave makes the node leave. Only a new Announcer joins again.
func (a *Announcer) Leave() { a.leave(false) }

// leave makes the node leave. last says that its roles may become empty.
func (a *Announcer) leave(last bool) {
	a.change(func(c *content) { c.Leaving, c.LeavingLast = true, c.LeavingLast || last })
}

// StandIn makes the Announcer one that only leaves, in place of an agent that does not run. It says nothing of the
// node's facts: the controller keeps those that it knows.
func (a *Announcer) StandIn(last bool) {
	a.change(func(c *content) { c.facts, c.Facts, c.Leaving, c.LeavingLast = nil, "", true, last })
}

// Reconnected tells the Announcer that nc has a new connection. Otherwise it finds out at the next heartbeat.
func (a *Announcer) Reconnected() { a.change(func(*content) {}) }

func (a *Announcer) change(set func(*content)) {
	a.mu.Lock()
	set(&a.next)
	a.next.changes++
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // Run has yet to see the change before
	}
}

// Run announces the node until ctx ends, and then that it leaves or its agent restarts. It fails if nc closes before.
func (a *Announcer) Run(ctx context.Context) error {
	s := session{
		Announcer: a, schedule: newSchedule(time.Now(), defaultPace), pace: defaultPace,
	}
	defer s.probes.Wait()
	in := make(chan *nats.Msg, 64) // in the order of the wire; more are dropped, and are sent again
	cluster, node := a.identity.Cluster, a.identity.Node
	own := []string{nodeSubject(cluster, node), leaveSubject(cluster, node)}
	for _, subject := range append(own, reportSubject(cluster), beaconSubject(cluster)) {
		sub, err := a.nc.ChanSubscribe(subject, in)
		if err != nil {
			return fmt.Errorf("announce %s: subscribe to %s: %w", node, subject, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		s.refresh(now)
		if !now.Before(s.schedule.due()) {
			reply := ""
			if s.current.Leaving && !s.leaveStatus.Released {
				reply = nodeSubject(cluster, node)
			}
			if a.nc.IsConnected() {
				s.send(s.beat, reply)
			}
			s.schedule.sent(now)
		}
		if a.nc.IsClosed() {
			return fmt.Errorf("announce %s: %w", node, nats.ErrConnectionClosed)
		}
		timer.Reset(time.Until(s.schedule.due()))
		select {
		case <-ctx.Done():
			s.stop()
			return nil
		case m := <-in:
			if err := s.receive(m); err != nil {
				a.log.Debug("invalid message ignored", "subject", m.Subject, "err", err)
			}
		case <-a.wake:
		case <-timer.C:
		}
	}
}

// session is one Run of an Announcer. It belongs to Run's goroutine.
type session struct {
	*Announcer
	probes   sync.WaitGroup // in progress
	schedule schedule
	pace     time.Duration // that the controller asks for
	epoch    int64         // the highest one of a beacon

	current        content
	beat           []byte // current.Beat encoded
	sentFacts      string // digest of the facts that were sent last
	factsRequested bool

	leaveStatus LeaveStatus // the controller's newest one
}

// refresh encodes the heartbeat again if it changed, and requests that it be sent at once.
func (s *session) refresh(now time.Time) {
	s.mu.Lock()
	next := s.next
	s.mu.Unlock()
	next.Conn = s.current.Conn
	if conn, connected := connection(s.nc); connected {
		next.Conn = conn
	}
	every := s.pace
	if next.Leaving && !s.leaveStatus.Released {
		every = min(every, leavingPace)
	}
	next.NextIn = every.Milliseconds()
	changed := next.changes != s.current.changes || next.Conn != s.current.Conn
	if !changed && every == s.schedule.every {
		return
	}
	s.current = next
	s.schedule.setEvery(now, every)
	before := s.beat
	s.beat = encode(next.Beat)
	if changed && !bytes.Equal(s.beat, before) {
		s.schedule.request(now)
	}
}

// send sends a heartbeat, and before it the facts if they changed or were requested.
func (s *session) send(beat []byte, reply string) {
	if s.current.facts != nil && (s.factsRequested || s.sentFacts != s.current.Facts) {
		s.publish(factsSubject(s.identity.Cluster, s.identity.Node), "", s.current.facts)
		s.sentFacts, s.factsRequested = s.current.Facts, false
	}
	s.publish(heartbeatSubject(s.identity.Cluster, s.identity.Node), reply, beat)
}

// stop sends the last heartbeat.
func (s *session) stop() {
	if s.LeaveOnStop != nil && s.LeaveOnStop() {
		s.Leave()
	}
	s.refresh(time.Now())
	last := s.current.Beat
	if !last.Leaving {
		last.RestartWithin = MaxRestart.Milliseconds()
	}
	if !s.nc.IsConnected() {
		return
	}
	s.send(encode(last), "")
	ctx, cancel := context.WithTimeout(context.Background(), lastFlush)
	defer cancel()
	if err := s.nc.FlushWithContext(ctx); err != nil {
		s.log.Warn("last heartbeat may be lost", "node", s.identity.Node, "err", err)
	}
}

func (s *session) publish(subject, reply string, data []byte) {
	if err := s.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data}); err != nil {
		s.log.Warn("message not sent", "subject", subject, "err", err)
	}
}

// receive obeys a message. An invalid one is an error and changes nothing.
func (s *session) receive(m *nats.Msg) error {
	switch m.Subject {
	case beaconSubject(s.identity.Cluster):
		return s.receiveBeacon(m.Data)
	case reportSubject(s.identity.Cluster):
		return s.receiveReportRequest(m.Data)
	}
	return s.receiveOrder(m)
}

func (s *session) receiveBeacon(data []byte) error {
	b, err := decodeBeacon(data)
	if err != nil {
		return err
	}
	if b.Epoch == 0 {
		return nil // a question to controllers
	}
	if s.OnBeacon != nil {
		s.OnBeacon(*b)
	}
	if b.Epoch < s.epoch {
		return fmt.Errorf("beacon: epoch %d is lower than %d", b.Epoch, s.epoch)
	}
	s.epoch = b.Epoch
	if b.Pace < minPace.Milliseconds() || b.Pace > maxPace.Milliseconds() {
		return fmt.Errorf("beacon: pace_ms %d: out of range", b.Pace)
	}
	s.pace = time.Duration(b.Pace) * time.Millisecond
	return nil
}

func (s *session) receiveReportRequest(data []byte) error {
	var r ReportRequest
	if err := decode("", data, maxMessage, &r, &r.V); err != nil {
		return err
	}
	if r.Splay < 0 || r.Splay > maxSplay.Milliseconds() {
		return fmt.Errorf("report request: splay_ms %d: out of range", r.Splay)
	}
	s.schedule.request(time.Now().Add(randomPart(time.Duration(r.Splay) * time.Millisecond)))
	return nil
}

// receiveLeaveStatus notes how far leaving is. A release is final.
func (s *session) receiveLeaveStatus(status *LeaveStatus) error {
	switch {
	case status == nil || status.V != Version:
		return errors.New("leave status: it is missing, or has another version")
	case !s.current.Leaving:
		return errors.New("leave status: the node does not leave")
	case !s.leaveStatus.Released:
		s.leaveStatus = *status
	}
	return nil
}

func (s *session) receiveOrder(m *nats.Msg) error {
	var o Order
	err := decode("", m.Data, maxMessage, &o, &o.V)
	switch {
	case err != nil:
	case o.Agent != "" && o.Agent != s.current.Agent:
		return fmt.Errorf("order %q: it is for another run of the agent", o.Do)
	case o.Do == DoStatus && m.Subject == nodeSubject(s.identity.Cluster, s.identity.Node):
		return s.receiveLeaveStatus(o.Status) // only controllers may publish there
	case o.Do == DoBeat:
		s.schedule.request(time.Now())
	case o.Do == DoFacts:
		s.factsRequested = true
		s.schedule.request(time.Now())
	case o.Do == DoProbe && len(o.Targets) > MaxTargets:
		return fmt.Errorf("probe of %d targets, at most %d are allowed", len(o.Targets), MaxTargets)
	case o.Do == DoProbe:
		s.probes.Go(func() { s.reply(m, ProbeReply{V: Version, Reached: s.probe(o.Targets)}) })
	case o.Do == DoLeave:
		if o.Last && !s.current.LeavingLast && !s.leaveStatus.Released {
			s.leaveStatus = LeaveStatus{} // it was about another wish
		}
		s.leave(o.Last)
		status := s.leaveStatus
		status.V = Version
		s.reply(m, status)
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	if err != nil {
		s.reply(m, LeaveStatus{V: Version, Rejected: err.Error()})
	}
	return err
}

// reply answers an order whose sender waits for an answer.
func (s *session) reply(m *nats.Msg, answer any) {
	if m.Reply != "" {
		s.publish(m.Reply, "", encode(answer))
	}
}

// probe returns the targets that accept a connection. It connects to all at once.
func (s *session) probe(targets []string) []string {
	reached := append([]string{}, targets...) // never null in JSON
	var tries sync.WaitGroup
	for i, target := range targets {
		tries.Go(func() {
			if !s.Probe(target) {
				reached[i] = ""
			}
		})
	}
	tries.Wait()
	return slices.DeleteFunc(reached, func(target string) bool { return target == "" })
}

func accepts(address string) bool {
	conn, err := net.DialTimeout("tcp", address, probeTimeout)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// connection returns the present connection of nc; false if it has none.
func connection(nc *nats.Conn) (Conn, bool) {
	server := nc.ConnectedServerId()
	client, err := nc.GetClientID()
	return Conn{Server: server, Client: client}, err == nil && server != "" && server == nc.ConnectedServerId()
}
