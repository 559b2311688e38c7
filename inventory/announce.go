package inventory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// How a node announces itself.
const (
	DefaultPace = time.Second // between two beats, until a beacon says otherwise
	MinPace     = 100 * time.Millisecond
	MaxPace     = time.Minute
	MaxSplay    = time.Minute // of a roll call

	leavingPace = 250 * time.Millisecond // until the node is released

	reachTimeout = 1500 * time.Millisecond // for another node to take a connection
	lastFlush    = 2 * time.Second         // for the last beat to reach the broker
	maxEpoch     = 7_258_118_400_000       // the year 2200 in Unix milliseconds: a higher one is garbage, and would silence every controller
)

// Announcer says on the bus that a node is alive and what it is. Its methods may be called from any goroutine, before, during and
// after Run; the newest of what they say is announced as soon as there is a connection. Set its fields before Run.
type Announcer struct {
	OnBeacon    func(Beacon)              // hears every sound beacon, in Run's goroutine
	LeaveOnStop func() bool               // asked when Run ends: true says goodbye, false, as no function, "back soon"
	Probe       func(address string) bool // whether HOST:PORT takes a connection; unless set it tries

	nc   *nats.Conn
	self Identity
	log  *slog.Logger
	wake chan struct{} // something was said, or the connection changed

	mu  sync.Mutex
	say statement
}

// statement is what a node has to say, apart from what Run finds out.
type statement struct {
	version  int    // counts what was said
	facts    []byte // a whole FactsMessage
	digest   string
	ready    bool
	checking bool
	why      string
	kick     json.RawMessage
	leaving  bool
}

// NewAnnouncer announces self on nc, ready and without facts until told otherwise. The connection should have no reconnect buffer:
// a beat that comes late is a lie.
func NewAnnouncer(nc *nats.Conn, self Identity, log *slog.Logger) *Announcer {
	a := &Announcer{nc: nc, self: self, log: log, wake: make(chan struct{}, 1), say: statement{ready: true}}
	if err := a.SetFacts(nil); err != nil {
		panic(err) // no facts are not too many
	}
	return a
}

// SetFacts says what the node's facts are: JSON values, as encoding/json decodes them. Too many are refused, and change nothing.
func (a *Announcer) SetFacts(facts Facts) error {
	if facts == nil {
		facts = Facts{}
	}
	digest := facts.Digest()
	message := encode(FactsMessage{V: Version, Node: a.self.Node, Instance: a.self.Instance, Boot: a.self.Boot, Facts: facts})
	if len(message) > MaxFacts {
		return fmt.Errorf("facts of %s: %d bytes, more than %d: leave out those that nobody selects nodes by", a.self.Node, len(message), MaxFacts)
	}
	a.change(func(say *statement) { say.facts, say.digest = message, digest })
	return nil
}

// SetReady says whether the node's service is ready, and why not.
func (a *Announcer) SetReady(ready bool, why string) {
	if ready {
		why = ""
	}
	a.change(func(say *statement) { say.ready, say.checking, say.why = ready, false, why })
}

// SetChecking says that it is not known yet whether the node's service is ready, and why: a node that was ready before its agent was
// started again stays so.
func (a *Announcer) SetChecking(why string) {
	a.change(func(say *statement) { say.ready, say.checking, say.why = false, true, why })
}

// SetKick says how the node's actions stand. status has to be JSON.
func (a *Announcer) SetKick(status json.RawMessage) {
	status = bytes.Clone(status)
	a.change(func(say *statement) { say.kick = status })
}

// Leave says goodbye. There is no way back but a new Announcer.
func (a *Announcer) Leave() {
	a.change(func(say *statement) { say.leaving = true })
}

// Reconnected says that nc has a new connection. Without it the next beat finds out.
func (a *Announcer) Reconnected() { a.change(func(*statement) {}) }

func (a *Announcer) change(set func(*statement)) {
	a.mu.Lock()
	set(&a.say)
	a.say.version++
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // Run will find this change with the one before
	}
}

// Run announces the node until ctx ends, then says goodbye or "back soon". An error means that the connection is of no use any more.
func (a *Announcer) Run(ctx context.Context) error {
	v := voice{Announcer: a, rhythm: newRhythm(time.Now(), DefaultPace), pace: DefaultPace}
	defer v.opinions.Wait()
	v.in = make(chan *nats.Msg, 64) // more at once is a flood, and whatever is asked of a node will be asked again
	defer v.unsubscribe()
	for _, subject := range []string{
		nodeSubject(a.self.Cluster, a.self.Node), leaveSubject(a.self.Cluster, a.self.Node), reportSubject(a.self.Cluster), beaconSubject(a.self.Cluster),
	} {
		if err := v.subscribe(subject); err != nil {
			return fmt.Errorf("announce %s: %w", a.self.Node, err)
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		v.update(now)
		if !now.Before(v.rhythm.due()) {
			v.beat()
			v.rhythm.beaten(now)
		}
		if a.nc.IsClosed() {
			return fmt.Errorf("announce %s: %w", a.self.Node, nats.ErrConnectionClosed)
		}
		timer.Reset(time.Until(v.rhythm.due()))
		select {
		case <-ctx.Done():
			v.finish()
			return nil
		case m := <-v.in:
			if err := v.hear(m); err != nil {
				a.log.Debug("message ignored", "subject", m.Subject, "err", err)
			}
		case <-a.wake:
		case <-timer.C:
		}
	}
}

// voice is an Announcer that runs. It belongs to Run's goroutine.
type voice struct {
	*Announcer
	in chan *nats.Msg // all that is heard, in the order of the wire

	opinions sync.WaitGroup // being formed
	subs     []*nats.Subscription

	rhythm rhythm
	pace   time.Duration // as the controller wants it
	epoch  int64         // the highest heard in a beacon

	said     statement // in encoded, with conn
	conn     Conn
	encoded  []byte // the beat
	told     string // digest of the facts that were sent last
	factsDue bool   // they were asked for

	inbox    string      // where a leaving node's beats are answered
	farewell LeaveStatus // the newest answer
}

// update makes the beat anew if there is something new to say, and sees to it that it is said at once.
func (v *voice) update(now time.Time) {
	v.mu.Lock()
	say := v.say
	v.mu.Unlock()
	conn, connected := connection(v.nc)
	if !connected {
		conn = v.conn
	}
	every := v.pace
	if say.leaving && !v.farewell.Released {
		every = min(every, leavingPace)
	}
	spoken := say.version != v.said.version || conn != v.conn
	if !spoken && every == v.rhythm.every {
		return
	}
	v.said, v.conn = say, conn
	v.rhythm.setEvery(now, every)
	before := v.encoded
	v.encoded = encode(v.compose())
	if spoken && !bytes.Equal(v.encoded, before) {
		v.rhythm.ask(now)
	}
}

func (v *voice) compose() Beat {
	return Beat{
		V: Version, Node: v.self.Node, Instance: v.self.Instance, Boot: v.self.Boot, Conn: v.conn,
		Facts: v.said.digest, Ready: v.said.ready, NotReady: v.said.why, Checking: v.said.checking, Leaving: v.said.leaving,
		NextIn: v.rhythm.every.Milliseconds(), Kick: v.said.kick,
	}
}

// beat sends the beat. What can't be sent now is not kept: the first beat of the next connection says it all.
func (v *voice) beat() {
	if !v.nc.IsConnected() {
		return
	}
	v.tellFacts()
	v.publish(heartbeatSubject(v.self.Cluster, v.self.Node), v.replyTo(), v.encoded)
}

// tellFacts sends the facts if they are new or were asked for: before the beat that announces them, so that nobody need ask.
func (v *voice) tellFacts() {
	if v.factsDue || v.told != v.said.digest {
		v.publish(factsSubject(v.self.Cluster, v.self.Node), "", v.said.facts)
		v.told, v.factsDue = v.said.digest, false
	}
}

// replyTo is where a beat is to be answered: only a leaving node's, to learn how far its goodbye has come.
func (v *voice) replyTo() string {
	if !v.said.leaving || v.farewell.Released {
		return ""
	}
	if v.inbox == "" {
		inbox := v.nc.NewInbox()
		if err := v.subscribe(inbox); err != nil {
			v.log.Warn("the goodbye cannot be answered", "node", v.self.Node, "err", err)
			return ""
		}
		v.inbox = inbox
	}
	return v.inbox
}

// finish sends the last beat.
func (v *voice) finish() {
	goodbye := v.LeaveOnStop != nil && v.LeaveOnStop()
	v.update(time.Now())
	last := v.compose()
	last.Leaving = last.Leaving || goodbye
	if !last.Leaving {
		last.RestartWithin = MaxRestart.Milliseconds()
	}
	if !v.nc.IsConnected() {
		return
	}
	v.tellFacts()
	v.publish(heartbeatSubject(v.self.Cluster, v.self.Node), "", encode(last))
	ctx, cancel := context.WithTimeout(context.Background(), lastFlush)
	defer cancel()
	if err := v.nc.FlushWithContext(ctx); err != nil {
		v.log.Warn("the last heartbeat may not have been sent", "node", v.self.Node, "err", err)
	}
}

func (v *voice) publish(subject, reply string, data []byte) {
	if err := v.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data}); err != nil {
		v.log.Warn("message not sent", "subject", subject, "err", err)
	}
}

func (v *voice) subscribe(subject string) error {
	sub, err := v.nc.ChanSubscribe(subject, v.in)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	v.subs = append(v.subs, sub)
	return nil
}

func (v *voice) unsubscribe() {
	for _, sub := range v.subs {
		_ = sub.Unsubscribe() // fails only when the connection is closed
	}
}

// hear takes in one message. An error is one that was no good and changed nothing.
func (v *voice) hear(m *nats.Msg) error {
	switch m.Subject {
	case beaconSubject(v.self.Cluster):
		return v.hearBeacon(m.Data)
	case reportSubject(v.self.Cluster):
		return v.hearRollcall(m.Data)
	case v.inbox:
		return v.hearFarewell(m)
	}
	return v.hearOrder(m)
}

func (v *voice) hearBeacon(data []byte) error {
	b, err := decodeBeacon(data)
	if err != nil {
		return err
	}
	if b.Epoch == 0 {
		return nil // a question for controllers
	}
	if v.OnBeacon != nil {
		v.OnBeacon(b)
	}
	if b.Epoch < v.epoch {
		return fmt.Errorf("beacon of epoch %d, lower than %d", b.Epoch, v.epoch)
	}
	v.epoch = b.Epoch
	pace := time.Duration(b.Pace) * time.Millisecond
	if b.Pace > MaxPace.Milliseconds() || pace < MinPace {
		return fmt.Errorf("beacon with a pace of %d ms", b.Pace)
	}
	v.pace = pace
	return nil
}

// decodeBeacon reads a beacon. One of epoch 0 asks the controllers that run for theirs.
func decodeBeacon(data []byte) (Beacon, error) {
	var b Beacon
	if err := decode(data, &b, &b.V); err != nil {
		return b, err
	}
	if b.ID == "" || b.Epoch < 0 || b.Epoch > maxEpoch {
		return b, fmt.Errorf("beacon of %.20q with epoch %d", b.ID, b.Epoch)
	}
	return b, nil
}

func (v *voice) hearRollcall(data []byte) error {
	var r ReportRequest
	if err := decode(data, &r, &r.V); err != nil {
		return err
	}
	if r.Splay < 0 || r.Splay > MaxSplay.Milliseconds() {
		return fmt.Errorf("roll call with a splay of %d ms", r.Splay)
	}
	v.rhythm.ask(time.Now().Add(upTo(time.Duration(r.Splay) * time.Millisecond)))
	return nil
}

func (v *voice) hearFarewell(m *nats.Msg) error {
	if len(m.Data) == 0 {
		return errors.New("nobody hears the goodbye") // the broker says so
	}
	var f LeaveStatus
	if err := decode(m.Data, &f, &f.V); err != nil {
		return err
	}
	if !v.farewell.Released { // nothing takes that back
		v.farewell = f
	}
	return nil
}

func (v *voice) hearOrder(m *nats.Msg) error {
	var o Order
	if err := decode(m.Data, &o, &o.V); err != nil {
		return v.answer(m, LeaveStatus{Rejected: err.Error()}, err)
	}
	switch o.Do {
	case DoBeat:
		v.rhythm.ask(time.Now())
	case DoFacts:
		v.factsDue = true
		v.rhythm.ask(time.Now())
	case DoProbe:
		if len(o.Targets) > MaxTargets {
			return fmt.Errorf("asked to reach %d others, more than %d", len(o.Targets), MaxTargets)
		}
		v.opinions.Go(func() { v.publish(m.Reply, "", encode(ProbeReply{V: Version, Reached: v.reach(o.Targets)})) })
	case DoLeave:
		v.Leave()
		return v.answer(m, v.farewell, nil)
	default:
		err := fmt.Errorf("no such order: %q", o.Do)
		return v.answer(m, LeaveStatus{Rejected: err.Error()}, err)
	}
	return nil
}

// answer replies to an order whose sender waits for it, and returns why the order was refused, if it was.
func (v *voice) answer(m *nats.Msg, f LeaveStatus, refused error) error {
	f.V = Version
	if m.Reply != "" {
		v.publish(m.Reply, "", encode(f))
	}
	return refused
}

// connection names nc's present connection; false if it has none.
func connection(nc *nats.Conn) (Conn, bool) {
	server := nc.ConnectedServerId()
	client, err := nc.GetClientID()
	return Conn{Server: server, Client: client}, err == nil && server != "" && server == nc.ConnectedServerId()
}

// SendBeacon says to every node of a cluster which controller speaks, and its pace.
func SendBeacon(nc *nats.Conn, cluster string, b Beacon) error {
	b.V = Version
	if err := nc.Publish(beaconSubject(cluster), encode(b)); err != nil {
		return fmt.Errorf("send beacon: %w", err)
	}
	return nil
}

// CallRoll asks every node of a cluster to beat within splay.
func RequestReports(nc *nats.Conn, cluster string, splay time.Duration) error {
	if err := nc.Publish(reportSubject(cluster), encode(ReportRequest{V: Version, Splay: splay.Milliseconds()})); err != nil {
		return fmt.Errorf("call the roll: %w", err)
	}
	return nil
}

// Ask asks one node for a beat (DoBeat) or its facts (DoFacts).
func Ask(nc *nats.Conn, cluster, node, do string) error {
	if err := nc.Publish(nodeSubject(cluster, node), encode(Order{V: Version, Do: do})); err != nil {
		return fmt.Errorf("ask %s for %s: %w", node, do, err)
	}
	return nil
}

// RequestLeave tells a node to say goodbye, and returns how far that has come. Asked again it says how far by now.
func RequestLeave(ctx context.Context, nc *nats.Conn, cluster, node string) (LeaveStatus, error) {
	m, err := nc.RequestWithContext(ctx, leaveSubject(cluster, node), encode(Order{V: Version, Do: DoLeave}))
	if errors.Is(err, nats.ErrNoResponders) {
		return LeaveStatus{}, fmt.Errorf("leave %s: no agent of that name is on the bus: %w", node, err)
	}
	if err != nil {
		return LeaveStatus{}, fmt.Errorf("leave %s: %w", node, err)
	}
	var f LeaveStatus
	if err := decode(m.Data, &f, &f.V); err != nil {
		return LeaveStatus{}, fmt.Errorf("leave %s: answer: %w", node, err)
	}
	if f.Rejected != "" {
		return f, fmt.Errorf("leave %s: refused: %s", node, f.Rejected)
	}
	return f, nil
}

// AskReach asks a node which of others, HOST:PORT each, it can connect to. It answers within two seconds.
func Probe(ctx context.Context, nc *nats.Conn, cluster, node string, others []string) ([]string, error) {
	m, err := nc.RequestWithContext(ctx, nodeSubject(cluster, node), encode(Order{V: Version, Do: DoProbe, Targets: others}))
	if err != nil {
		return nil, fmt.Errorf("ask %s for a second opinion: %w", node, err)
	}
	var o ProbeReply
	if err := decode(m.Data, &o, &o.V); err != nil {
		return nil, fmt.Errorf("ask %s for a second opinion: answer: %w", node, err)
	}
	return o.Reached, nil
}

// reach is those of others that take a connection.
func (v *voice) reach(others []string) []string {
	try := v.Probe
	if try == nil {
		try = takesConnection
	}
	reached := make([]bool, len(others))
	var tries sync.WaitGroup
	for i, address := range others {
		tries.Go(func() { reached[i] = try(address) })
	}
	tries.Wait()
	found := []string{}
	for i, address := range others {
		if reached[i] {
			found = append(found, address)
		}
	}
	return found
}

func takesConnection(address string) bool {
	conn, err := net.DialTimeout("tcp", address, reachTimeout)
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only to see
	return true
}

func encode(message any) []byte {
	data, err := json.Marshal(message)
	if err != nil {
		panic(fmt.Sprintf("inventory: %T that is no JSON: %v", message, err)) // what goes into messages is built from JSON values
	}
	return data
}

// decode reads a message other than a node's; version is where its version is read to.
func decode(data []byte, message any, version *int) error {
	if len(data) > MaxBeat {
		return fmt.Errorf("%d bytes, more than %d", len(data), MaxBeat)
	}
	if err := json.Unmarshal(data, message); err != nil {
		return err
	}
	if *version != Version {
		return fmt.Errorf("version %d, want %d", *version, Version)
	}
	return nil
}
