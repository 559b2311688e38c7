package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kicker/config"
	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// cluster is a bus, a controller and agents on virtual time, connected as the commands connect them. Only the processes
// of actions are not real: each is a function.
type cluster struct {
	t        *testing.T
	bus      *bus.Bus       // nil: broker is used, or none is up
	broker   *server.Server // an external NATS
	external bool           // the external broker is used, even if it is down
	system   bool           // the controller has its system account
	cfg      controller.Config
	log      *slog.Logger
	control  *controlled
	agents   map[string]*node
	drop     func(from, subject string) bool            // messages that are lost on their way to the broker; nil: none
	weather  func(from, subject string) fate            // what else happens to messages on that way; nil: nothing
	sent     func(from, subject string, payload []byte) // sees every message, also the lost ones

	reaches func(from, address string) bool // whether a node can connect to another; nil: none can

	processes sync.WaitGroup
	visitors  []*nats.Conn

	mu    sync.Mutex
	runs  []ranAction
	wires []*wire
}

type controlled struct {
	*controller.Controller
	stop context.CancelFunc
	done chan error
	over chan struct{} // closed when it has ended
}

// node is a machine: its disk outlives its agents and its boots.
type node struct {
	cfg       config.Config
	self      inventory.Identity
	do        func(ranAction) kick.Ending
	process   *process // the run in progress, or the last one; guarded by cluster.mu
	announcer *inventory.Announcer
	notReady  string        // why it is not ready at its start
	checks    time.Duration // how long after a start its service is being checked
	wire      *wire
	stop      context.CancelFunc
	done      chan error
}

// ranAction is a run as the function of its action saw it.
type ranAction struct {
	node, action string
	env          map[string]string
	members      []string // of all roles
	file         kick.MembersFile
	started      time.Time
	ended        time.Time // zero: in progress
	ending       kick.Ending
}

// inCluster plays a story on virtual time, and ends all daemons after it.
func inCluster(t *testing.T, story func(*cluster)) {
	t.Helper()
	dir := t.TempDir()
	// A client that reconnects takes a timer from a pool. Bubbles must not share it, and two collections empty it.
	emptyPools := func() { runtime.GC(); runtime.GC() }
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		lines := &testLog{t: t}
		defer lines.end()
		began := time.Now()
		log := slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelInfo,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey { // in seconds, as violations of invariants are reported
					a.Value = slog.StringValue(fmt.Sprintf("%.3f", a.Value.Time().Sub(began).Seconds()))
				}
				return a
			}}))
		c := &cluster{t: t, cfg: controller.DefaultConfig(), log: log, agents: map[string]*node{}}
		c.startBus()
		defer func() {
			for _, w := range c.wires {
				w.stall(false)
			}
			for _, n := range c.agents {
				n.wire.cut()
				c.stopAgent(n)
			}
			for _, nc := range c.visitors {
				nc.Close()
			}
			c.stopController()
			c.processes.Wait()
			for _, w := range c.wires {
				w.cut()
			}
			c.closeBroker()
		}()
		t.Chdir(dir)
		story(c)
	})
}

// testLog is a test's log until the test ends. A goroutine of a NATS client may log after that.
type testLog struct {
	mu sync.Mutex
	t  *testing.T
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t = nil
}

func (c *cluster) startController() {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	running := make(chan *controller.Controller)
	done := make(chan error, 1)
	c.control = &controlled{stop: stop, done: done, over: make(chan struct{})}
	over := c.control.over
	b := controllerBus{join: func(name string) (*nats.Conn, error) {
		return c.bus.Join(name, nats.InProcessServer(c.newWire("controller")))
	}, disconnects: func(closed func(string, uint64, string), _ func(string)) (func(), error) {
		return c.bus.Disconnects(closed)
	}, close: func() {}}
	if c.external {
		b.join = func(name string) (*nats.Conn, error) { return c.join("controller", name) }
		b.disconnects = func(closed func(string, uint64, string), lost func(string)) (func(), error) {
			if !c.system {
				return func() {}, nil
			}
			return bus.Disconnects([]string{"nats://system:secret@broker"}, c.log, closed, lost,
				nats.InProcessServer(c.newWire("controller")))
		}
	}
	go func() {
		defer close(over)
		done <- control(ctx, c.cfg, b, c.log.With("daemon", "controller"),
			func(ctx context.Context, ctl *controller.Controller) error {
				running <- ctl
				<-ctx.Done()
				return nil
			})
	}()
	select {
	case c.control.Controller = <-running:
	case err := <-done:
		c.control = nil
		c.t.Fatal(err)
	}
}

func (c *cluster) join(from, name string) (*nats.Conn, error) {
	w := c.newWire(from)
	return bus.Join([]string{""}, "", name, c.log, func() {}, nats.InProcessServer(w))
}

func (c *cluster) stopController() {
	if c.control == nil {
		return
	}
	c.control.stop()
	if err := <-c.control.done; err != nil {
		c.t.Errorf("controller: %v", err)
	}
	c.control = nil
}

// synced waits until the controller is synced.
func (c *cluster) synced() {
	c.t.Helper()
	c.until("synced", time.Minute, func(v *api.View) bool { return v.Sync.Open })
}

// until waits until the controller's view is so. It returns how long that took.
func (c *cluster) until(what string, most time.Duration, so func(*api.View) bool) time.Duration {
	c.t.Helper()
	began := time.Now()
	for {
		v := c.control.View()
		if so(v) {
			return time.Since(began)
		}
		select {
		case <-v.Next:
		case <-time.After(most - time.Since(began)):
			c.t.Fatalf("not within %s: %s: verdicts %+v", most, what, v.Verdicts)
		}
	}
}

// converged waits until every action is converged.
func (c *cluster) converged(most time.Duration) time.Duration {
	c.t.Helper()
	return c.until("converged", most, func(v *api.View) bool {
		return v.Sync.Open && len(v.Verdicts) > 0 &&
			!slices.ContainsFunc(v.Verdicts, func(v api.Verdict) bool { return v.State != api.Converged })
	})
}

// web starts a node of role web.
func (c *cluster) web(name string) *node {
	n := c.node(name)
	n.cfg.Agent.Roles = []string{"web"}
	c.startAgent(n)
	return n
}

// lb starts a node of role haproxy, which depends on web. do is its action; nil succeeds in a second.
func (c *cluster) lb(name string, do func(ranAction) kick.Ending) *node {
	n := c.node(name)
	n.cfg.Agent.Roles = []string{"haproxy"}
	n.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"}, DependsOn: []string{"web"}}}
	n.do = do
	c.startAgent(n)
	return n
}

func (c *cluster) node(name string) *node {
	n := &node{cfg: config.Default(),
		self: inventory.Identity{Cluster: c.cfg.Cluster, Node: name, Instance: "machine of " + name, Boot: "boot 1"}}
	dir, err := filepath.Abs(name)
	if err != nil {
		c.t.Fatal(err)
	}
	n.cfg.StateDir = dir
	n.cfg.Agent.Facts = []string{"ipaddress=10.0.0.1", "port=8080"} // what a member must have
	n.cfg.Agent.LeaveOnStop = config.LeaveNever
	c.agents[name] = n
	return n
}

func (c *cluster) startAgent(n *node) {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	n.stop, n.done, n.wire = stop, make(chan error, 1), c.newWire(n.self.Node)
	log := c.log.With("daemon", n.self.Node)
	reconnected := make(chan struct{}, 1)
	nc, err := bus.Join([]string{""}, "", n.self.Node, log, func() { signalTo(reconnected) },
		nats.InProcessServer(n.wire))
	if err != nil {
		c.t.Fatal(err)
	}
	announcer, err := newAnnouncer(n.cfg, n.self, nc, log)
	if err != nil {
		c.t.Fatal(err)
	}
	n.announcer = announcer
	announcer.Probe = func(address string) bool { return c.reaches != nil && c.reaches(n.self.Node, address) }
	if n.notReady != "" {
		announcer.SetReady(false, n.notReady)
	}
	if n.checks > 0 {
		announcer.SetChecking("tcp:8080: not checked yet")
		time.AfterFunc(n.checks, func() { announcer.SetReady(true, "") })
	}
	done, cfg := n.done, n.cfg // the next agent of this node has other ones
	go func() {
		defer nc.Close()
		done <- attend(ctx, cfg, n.self, nc, announcer, reconnected, c.execute(n), log)
	}()
}

// stopAgent stops an agent as SIGTERM does.
func (c *cluster) stopAgent(n *node) {
	n.stop()
	if err := <-n.done; err != nil {
		c.t.Errorf("agent %s: %v", n.self.Node, err)
	}
	n.done <- nil // so that it can be stopped twice
}

// kill ends an agent as SIGKILL does: its connection closes, and it sends nothing more.
func (c *cluster) kill(n *node) {
	n.wire.cut()
	synctest.Wait() // it has noticed that, and sends no last heartbeat
	c.stopAgent(n)
}

// execute runs the node's actions. A run outlives its agent, and the next agent adopts it.
func (c *cluster) execute(n *node) kick.Execute {
	return func(ctx context.Context, l kick.Launch) (kick.Ending, error) {
		c.mu.Lock()
		p := n.process
		if !l.Adopt {
			p = &process{run: l.Run, at: len(c.runs), done: make(chan struct{})}
			n.process = p
			run := n.observe(l)
			c.runs = append(c.runs, run)
			c.processes.Go(func() { c.play(p, n, run) })
		}
		c.mu.Unlock()
		if p == nil || p.run != l.Run {
			return kick.Ending{Lost: true, Exit: -1}, nil
		}
		select {
		case <-p.done:
			return p.ending, nil
		case <-ctx.Done():
			return kick.Ending{}, ctx.Err()
		}
	}
}

// observe is what the process of a run sees.
func (n *node) observe(l kick.Launch) ranAction {
	run := ranAction{node: n.self.Node, action: l.Action, env: map[string]string{}, started: time.Now()}
	for _, pair := range l.Env {
		key, value, _ := strings.Cut(pair, "=")
		run.env[key] = value
	}
	var file kick.MembersFile
	if data, err := os.ReadFile(run.env["KICKER_MEMBERS_FILE"]); err != nil {
		panic(err)
	} else if err := json.Unmarshal(data, &file); err != nil {
		panic(err)
	}
	run.file = file
	for _, members := range file.Roles {
		for _, m := range members {
			run.members = append(run.members, m.Node)
		}
	}
	return run
}

// process is a run in progress.
type process struct {
	run    string
	at     int // in cluster.runs
	done   chan struct{}
	ending kick.Ending
}

// play runs the function of an action.
func (c *cluster) play(p *process, n *node, run ranAction) {
	do := n.do
	if do == nil {
		do = succeedsIn(time.Second)
	}
	ending := do(run)
	ending.Duration = time.Since(run.started).Milliseconds()
	c.finish(p, ending)
}

// finish ends a run, unless a reboot has ended it already.
func (c *cluster) finish(p *process, ending kick.Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if run := &c.runs[p.at]; run.ended.IsZero() {
		run.ended, run.ending, p.ending = time.Now(), ending, ending
		close(p.done)
	}
}

// crash resets a machine: it sends nothing, closes nothing, and its run ends. The next agent has another boot.
func (c *cluster) crash(n *node, boot string) {
	n.wire.silence()
	c.mu.Lock()
	p := n.process
	n.process = nil
	c.mu.Unlock()
	if p != nil {
		c.finish(p, kick.Ending{Lost: true, Exit: -1})
	}
	c.stopAgent(n)
	n.self.Boot = boot
}

// succeedsIn is an action that succeeds after d.
func succeedsIn(d time.Duration) func(ranAction) kick.Ending {
	return func(ranAction) kick.Ending {
		time.Sleep(d)
		return kick.Ending{}
	}
}

// failsFirst is an action that fails so many times, each after a second, and then succeeds.
func failsFirst(times int) func(ranAction) kick.Ending {
	return func(ranAction) kick.Ending {
		time.Sleep(time.Second)
		if times--; times >= 0 {
			return kick.Ending{Exit: 1}
		}
		return kick.Ending{}
	}
}

// ran is the runs so far.
func (c *cluster) ran() []ranAction {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.runs)
}

// members is the members that the last run got.
func (c *cluster) members() string {
	runs := c.ran()
	if len(runs) == 0 {
		return "nothing ran"
	}
	return strings.Join(runs[len(runs)-1].members, " ")
}

// visitor is another connection to the bus, until the story ends.
func (c *cluster) visitor() *nats.Conn {
	nc, err := c.join("visitor", "visitor")
	if err != nil {
		c.t.Fatal(err)
	}
	c.visitors = append(c.visitors, nc)
	return nc
}

// events is the texts of the controller's events of a kind.
func (c *cluster) events(kind string) []string {
	var texts []string
	for _, e := range c.control.View().Events {
		if e.Kind == kind {
			texts = append(texts, e.Text)
		}
	}
	return texts
}

// wantEvent wants one event of a kind, with these words in it.
func (c *cluster) wantEvent(kind string, words ...string) {
	c.t.Helper()
	texts := c.events(kind)
	missing := slices.ContainsFunc(words, func(w string) bool {
		return len(texts) == 1 && !strings.Contains(texts[0], w)
	})
	if len(texts) != 1 || missing {
		c.t.Errorf("events %s are %q, want one with %q", kind, texts, words)
	}
}

// eventAfter is how long after a moment the first event of a node came.
func (c *cluster) eventAfter(kind, node string, since time.Time) time.Duration {
	c.t.Helper()
	for _, e := range c.control.View().Events {
		if e.Kind == kind && e.Node == node && !e.Time.Before(since) {
			return e.Time.Sub(since)
		}
	}
	c.t.Fatalf("no event %s of node %s", kind, node)
	return 0
}

// closeBroker stops the broker.
func (c *cluster) closeBroker() {
	c.mu.Lock()
	embedded, own := c.bus, c.broker
	c.bus, c.broker = nil, nil
	c.mu.Unlock()
	if embedded != nil {
		embedded.Close()
	}
	if own != nil {
		own.Shutdown()
		own.WaitForShutdown()
	}
}

// startBus starts the broker that is embedded in a controller.
func (c *cluster) startBus() {
	c.t.Helper()
	b, err := bus.Start(bus.Config{}, c.log)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bus = b
}

// openBroker starts an external broker, as bus.url names one.
func (c *cluster) openBroker() {
	c.t.Helper()
	nodes, system := server.NewAccount("NODES"), server.NewAccount("SYS")
	s, err := server.NewServer(&server.Options{
		ServerName: "broker", DontListen: true, NoSigs: true, NoLog: true, PingInterval: 20 * time.Second,
		Accounts: []*server.Account{nodes, system}, SystemAccount: system.Name, NoAuthUser: "node",
		Users: []*server.User{{Username: "node", Account: nodes},
			{Username: "system", Password: "secret", Account: system}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	go s.Start() // ends with Shutdown, which closeBroker waits for
	if !s.ReadyForConnections(time.Second) {
		c.t.Fatal("the broker did not start")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broker, c.external = s, true
}

func (c *cluster) dial() (net.Conn, error) {
	c.mu.Lock()
	embedded, own := c.bus, c.broker
	c.mu.Unlock()
	switch {
	case own != nil:
		return own.InProcessConn()
	case embedded != nil:
		return embedded.InProcessConn()
	}
	return nil, &net.OpError{Op: "dial", Net: "wire", Err: errors.New("no broker is up")}
}

func (c *cluster) newWire(from string) *wire {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &wire{cluster: c, from: from, open: make(chan struct{})}
	close(w.open)
	c.wires = append(c.wires, w)
	return w
}

// wiresOf is the wires of a node, or of "controller".
func (c *cluster) wiresOf(from string) []*wire {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.wires), func(w *wire) bool { return w.from != from })
}

// wire is the network of a node or the controller. Its connections to the broker can be cut, silenced, stalled, or made
// to lose messages. As with TCP, the bytes of an open connection arrive in order.
type wire struct {
	cluster *cluster
	from    string

	mu     sync.Mutex
	lines  []*line
	silent bool
	down   bool
	stalls bool
	open   chan struct{} // closed: bytes flow
	lag    time.Duration // of sent bytes
}

// InProcessConn is a connection for nats.InProcessServer.
func (w *wire) InProcessConn() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// a handshake without an answer would hold the client's lock, and so virtual time
	if w.down || w.silent || w.stalls {
		return nil, &net.OpError{Op: "dial", Net: "wire", Err: errors.New("cut")}
	}
	conn, err := w.cluster.dial()
	if err != nil {
		return nil, err
	}
	l := &line{Conn: conn, wire: w, closed: make(chan struct{})}
	w.lines = append(slices.DeleteFunc(w.lines, (*line).over), l)
	return l, nil
}

// cut closes the connections from the node's end, and allows no new ones.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for _, l := range w.lines {
		l.shut()
	}
}

// reset closes the connections from the node's end, and allows new ones.
func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lines {
		l.shut()
	}
}

// silence loses everything that the node sends from now on, and closes nothing, as a dead host does.
func (w *wire) silence() { w.hush(true) }

// hush starts or stops losing everything that the node sends.
func (w *wire) hush(silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = silent
}

// stall keeps everything back in both directions, or lets it flow again.
func (w *wire) stall(stalls bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stalls == stalls {
		return
	}
	if w.stalls = stalls; stalls {
		w.open = make(chan struct{})
	} else {
		close(w.open)
	}
}

// delay makes everything that the node sends arrive later by lag.
func (w *wire) delay(lag time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lag = lag
}

func (w *wire) state() (silent, stalls bool, open chan struct{}, lag time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.silent, w.stalls, w.open, w.lag
}

// line is one connection.
type line struct {
	net.Conn
	wire   *wire
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	talks   bool // the handshake is over
	kept    []kept
	pumping bool
}

// kept is bytes on their way.
type kept struct {
	due   time.Time
	bytes []byte
}

func (l *line) over() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// shut closes the connection, and the broker sees that.
func (l *line) shut() {
	l.once.Do(func() { close(l.closed) })
	_ = l.Conn.Close() // it may be closed already
}

// Close closes the connection. While the wire is stalled the broker does not see that.
func (l *line) Close() error {
	if _, stalls, open, _ := l.wire.state(); stalls && !l.over() {
		l.once.Do(func() { close(l.closed) })
		go func() { // ends with the stall, or with the cluster
			<-open
			_ = l.Conn.Close()
		}()
		return nil
	}
	l.shut()
	return nil
}

// Read waits while the wire is stalled.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	for err == nil && l.talking() {
		_, stalls, open, _ := l.wire.state()
		if !stalls {
			break
		}
		select {
		case <-open:
		case <-l.closed:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (l *line) talking() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.talks
}

// Write passes on what is not lost. The client writes whole protocol messages and holds its lock: Write must not wait.
func (l *line) Write(p []byte) (int, error) {
	silent, stalls, _, lag := l.wire.state()
	passed := l.pass(p, silent)
	l.mu.Lock()
	if l.talks && (stalls || lag > 0 || len(l.kept) > 0 || l.pumping) {
		defer l.mu.Unlock()
		l.kept = append(l.kept, kept{time.Now().Add(lag), passed})
		if !l.pumping {
			l.pumping = true
			go l.pump() // ends when nothing is kept, or with the connection
		}
		return len(p), nil
	}
	l.mu.Unlock()
	if _, err := io.Copy(l.Conn, bytes.NewReader(passed)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// pump sends kept bytes when they are due.
func (l *line) pump() {
	for {
		l.mu.Lock()
		if len(l.kept) == 0 {
			l.pumping = false
			l.mu.Unlock()
			return
		}
		next := l.kept[0]
		l.kept = l.kept[1:]
		l.mu.Unlock()
		select {
		case <-after(time.Until(next.due)):
		case <-l.closed:
			return
		}
		_, _, open, _ := l.wire.state()
		select {
		case <-open:
		case <-l.closed:
			return
		}
		if _, err := l.Conn.Write(next.bytes); err != nil {
			return
		}
	}
}

func after(d time.Duration) <-chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(d, func() { close(done) })
	return done
}

// fate is what happens to a message.
type fate int

const (
	arrives fate = iota
	lost
	doubled
	overtaken // by the next one, if that has another subject
)

func (f fate) String() string { return [...]string{"arrives", "lost", "doubled", "overtaken"}[f] }

// pass is client protocol after what happens to it on the wire.
func (l *line) pass(p []byte, silent bool) []byte {
	var passed, late []byte
	lateSubject := ""
	c := l.wire.cluster
	for _, f := range frames(p) {
		if f.subject != "" {
			l.mu.Lock()
			l.talks = true
			l.mu.Unlock()
			if c.sent != nil {
				c.sent(l.wire.from, f.subject, f.payload)
			}
			what := arrives
			switch {
			case silent || c.drop != nil && c.drop(l.wire.from, f.subject):
				what = lost
			case c.weather != nil:
				what = c.weather(l.wire.from, f.subject)
			}
			if what == lost {
				continue
			}
			if late != nil && lateSubject == f.subject {
				passed, late = append(passed, late...), nil
			}
			if what == overtaken && late == nil {
				late, lateSubject = f.bytes, f.subject
				continue
			}
			if what == doubled {
				passed = append(passed, f.bytes...)
			}
		} else if silent {
			continue
		}
		passed = append(append(passed, f.bytes...), late...)
		late = nil
	}
	return append(passed, late...)
}

// frame is one operation of the NATS client protocol. It has a subject if it publishes a message.
type frame struct {
	subject        string
	payload, bytes []byte
}

func frames(p []byte) []frame {
	var all []frame
	for len(p) > 0 {
		end := bytes.Index(p, []byte("\r\n"))
		if end < 0 {
			return append(all, frame{bytes: p})
		}
		f, size := frame{}, end+2
		if words := strings.Fields(string(p[:end])); len(words) > 2 && (words[0] == "PUB" || words[0] == "HPUB") {
			payload := 0
			fmt.Sscan(words[len(words)-1], &payload) //nolint:errcheck // the client writes a number
			f.subject = words[1]
			size = min(size+payload+2, len(p))
			f.payload = p[end+2 : max(end+2, size-2)]
		}
		f.bytes = p[:size:size]
		all, p = append(all, f), p[size:]
	}
	return all
}
