package main

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/nats-io/nats.go"

	"kicker/config"
	"kicker/controller"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// cluster is a bus, a controller and agents, wired as the commands wire them, on virtual time. Only the actions' processes are not
// real: each is a function.
type cluster struct {
	t       *testing.T
	bus     *bus.Bus
	cfg     controller.Config
	log     *slog.Logger
	control *controlled
	agents  map[string]*node
	drop    func(from, subject string) bool // messages lost on their way from a connection to the broker; nil: none

	reaches func(from, address string) bool // whether a node can connect to another; nil: none can

	processes sync.WaitGroup
	visitors  []*nats.Conn

	mu   sync.Mutex
	runs []ranAction
}

type controlled struct {
	*controller.Controller
	stop context.CancelFunc
	done chan error
}

// node is a machine: its disk outlives its agents and its boots.
type node struct {
	cfg       config.Config
	self      inventory.Self
	do        func(ranAction) kick.Ending
	process   *process // the run in progress, or the last one; guarded by cluster.mu
	announcer *inventory.Announcer
	notReady  string // from the start on
	wire      *wire
	stop      context.CancelFunc
	done      chan error
}

// ranAction is a run that an action's function saw.
type ranAction struct {
	node, action string
	env          map[string]string
	members      []string // of all roles
	started      time.Time
}

// inCluster runs a story on virtual time, and then ends everybody in it.
func inCluster(t *testing.T, story func(*cluster)) {
	t.Helper()
	dir := t.TempDir()
	// A client that reconnects takes a timer from a pool that bubbles would share, which they must not: two collections empty it.
	emptyPools := func() { runtime.GC(); runtime.GC() }
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
		b, err := bus.Start(bus.Config{}, log)
		if err != nil {
			t.Fatal(err)
		}
		c := &cluster{t: t, bus: b, cfg: controller.DefaultConfig(), log: log, agents: map[string]*node{}}
		defer func() {
			for _, n := range c.agents {
				n.wire.cut()
				c.stopAgent(n)
			}
			for _, nc := range c.visitors {
				nc.Close()
			}
			c.stopController()
			c.processes.Wait()
			b.Close()
		}()
		t.Chdir(dir)
		story(c)
	})
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (c *cluster) startController() {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	running := make(chan *controller.Controller)
	done := make(chan error, 1)
	c.control = &controlled{stop: stop, done: done}
	b := controllerBus{join: func(name string) (*nats.Conn, error) {
		return c.bus.Join(name, nats.InProcessServer(&wire{cluster: c, from: "controller"}))
	}, closings: c.bus.Closings, close: func() {}}
	go func() {
		done <- control(ctx, c.cfg, b, c.log.With("daemon", "controller"), func(ctx context.Context, ctl *controller.Controller) error {
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
	w := &wire{cluster: c, from: from}
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

// synced waits until the controller acts on what it hears.
func (c *cluster) synced() {
	c.t.Helper()
	c.until("synced", time.Minute, func(v *controller.View) bool { return v.Sync.Open })
}

// until waits, in virtual time, until the controller's view is as wanted. It returns how long that took.
func (c *cluster) until(what string, most time.Duration, wanted func(*controller.View) bool) time.Duration {
	c.t.Helper()
	began := time.Now()
	for {
		v := c.control.View()
		if wanted(v) {
			return time.Since(began)
		}
		select {
		case <-v.Next:
		case <-time.After(most - time.Since(began)):
			c.t.Fatalf("not %s within %s: verdicts %+v", what, most, v.Verdicts)
		}
	}
}

// converged waits until every action has applied what is current.
func (c *cluster) converged(most time.Duration) time.Duration {
	c.t.Helper()
	return c.until("converged", most, func(v *controller.View) bool {
		return v.Sync.Open && len(v.Verdicts) > 0 && !slices.ContainsFunc(v.Verdicts, func(v controller.Verdict) bool { return v.State != controller.Converged })
	})
}

// web starts a node that others depend on.
func (c *cluster) web(name string) *node {
	n := c.node(name)
	n.cfg.Agent.Roles = []string{"web"}
	n.cfg.Agent.Facts = []string{"ipaddress=10.0.0.1", "port=8080"}
	c.startAgent(n)
	return n
}

// lb starts a node that depends on role web. do is what its action does; nil succeeds in a second.
func (c *cluster) lb(name string, do func(ranAction) kick.Ending) *node {
	n := c.node(name)
	n.cfg.Agent.Roles = []string{"haproxy"}
	n.cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"reload"}, DependsOn: []string{"web"}}}
	n.do = do
	c.startAgent(n)
	return n
}

func (c *cluster) node(name string) *node {
	n := &node{cfg: config.Default(), self: inventory.Self{Cluster: c.cfg.Cluster, Node: name, Instance: "machine of " + name, Boot: "boot 1"}}
	dir, err := filepath.Abs(name)
	if err != nil {
		c.t.Fatal(err)
	}
	n.cfg.StateDir = dir
	n.cfg.Agent.Goodbye = config.GoodbyeNever
	c.agents[name] = n
	return n
}

func (c *cluster) startAgent(n *node) {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	n.stop, n.done, n.wire = stop, make(chan error, 1), &wire{cluster: c, from: n.self.Node}
	log := c.log.With("daemon", n.self.Node)
	poke := make(chan struct{}, 1)
	nc, err := bus.Join([]string{""}, "", n.self.Node, log, func() {
		select {
		case poke <- struct{}{}:
		default:
		}
	}, nats.InProcessServer(n.wire))
	if err != nil {
		c.t.Fatal(err)
	}
	announcer, err := newAnnouncer(n.cfg, n.self, nc, log)
	if err != nil {
		c.t.Fatal(err)
	}
	n.announcer = announcer
	announcer.Reach = func(address string) bool { return c.reaches != nil && c.reaches(n.self.Node, address) }
	if n.notReady != "" {
		announcer.SetReady(false, n.notReady)
	}
	done := n.done // the next agent of this node has another
	go func() {
		defer nc.Close()
		done <- attend(ctx, n.cfg, n.self, nc, announcer, poke, c.execute(n), log)
	}()
}

// stopAgent stops an agent as SIGTERM does.
func (c *cluster) stopAgent(n *node) {
	n.stop()
	if err := <-n.done; err != nil {
		c.t.Errorf("agent %s: %v", n.self.Node, err)
	}
	n.done <- nil // it may be stopped again
}

// kill ends an agent as SIGKILL does: without a word, and its connection closes.
func (c *cluster) kill(n *node) {
	n.wire.cut()
	c.stopAgent(n)
}

// execute is the node's actions. A run that its agent leaves goes on, and the next agent adopts it.
func (c *cluster) execute(n *node) kick.Execute {
	return func(ctx context.Context, l kick.Launch) (kick.Ending, error) {
		c.mu.Lock()
		p := n.process
		if !l.Adopt {
			p = &process{run: l.Run, done: make(chan struct{})}
			n.process = p
			c.runs = append(c.runs, ranAction{})
			run := &c.runs[len(c.runs)-1]
			*run = n.observe(l)
			c.processes.Go(func() { p.be(n, *run) })
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

// observe is what a process sees of its run.
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
	done   chan struct{}
	ending kick.Ending
}

func (p *process) be(n *node, run ranAction) {
	do := n.do
	if do == nil {
		do = succeedsIn(time.Second)
	}
	p.ending = do(run)
	p.ending.Duration = time.Since(run.started).Milliseconds()
	close(p.done)
}

func succeedsIn(d time.Duration) func(ranAction) kick.Ending {
	return func(ranAction) kick.Ending {
		time.Sleep(d)
		return kick.Ending{}
	}
}

// failsFirst fails so many times, each after a second, and then succeeds.
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

// members is what the action that ran last was told.
func (c *cluster) members() string {
	runs := c.ran()
	if len(runs) == 0 {
		return "nothing ran"
	}
	return strings.Join(runs[len(runs)-1].members, " ")
}

// visitor is a connection of somebody else, until the story ends.
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

// wire is a node's network: a connection to the broker that can be cut, silenced or made to lose messages.
type wire struct {
	cluster *cluster
	from    string

	mu     sync.Mutex
	conns  []net.Conn
	silent bool
	down   bool
}

// InProcessConn is what nats.InProcessServer asks for.
func (w *wire) InProcessConn() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down || w.silent { // a handshake without an answer would hold the client's lock, and virtual time with it
		return nil, &net.OpError{Op: "dial", Net: "wire", Err: fmt.Errorf("cut")}
	}
	conn, err := w.cluster.bus.InProcessConn()
	if err != nil {
		return nil, err
	}
	w.conns = append(w.conns, conn)
	return &lossy{Conn: conn, wire: w}, nil
}

// cut closes the connection from the node's end, and lets no other be made.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for _, conn := range w.conns {
		_ = conn.Close() // it may be closed already
	}
}

// silence loses everything that the node sends from now on, and closes nothing: its host is dead.
func (w *wire) silence() { w.hush(true) }

// hush loses everything that the node sends, or no more.
func (w *wire) hush(silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = silent
}

type lossy struct {
	net.Conn
	wire *wire
}

// Write passes on what is not lost. The client hands over whole protocol messages.
func (l *lossy) Write(p []byte) (int, error) {
	l.wire.mu.Lock()
	silent := l.wire.silent
	l.wire.mu.Unlock()
	if silent {
		return len(p), nil
	}
	kept := p
	if drop := l.wire.cluster.drop; drop != nil {
		kept = without(p, func(subject string) bool { return drop(l.wire.from, subject) })
	}
	if _, err := io.Copy(l.Conn, bytes.NewReader(kept)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// without is NATS client protocol less the messages that are dropped.
func without(p []byte, drop func(subject string) bool) []byte {
	var kept []byte
	for len(p) > 0 {
		end := bytes.Index(p, []byte("\r\n"))
		if end < 0 {
			return append(kept, p...)
		}
		line, size := string(p[:end]), end+2
		words := strings.Fields(line)
		published := len(words) > 2 && (words[0] == "PUB" || words[0] == "HPUB")
		if published {
			payload := 0
			fmt.Sscan(words[len(words)-1], &payload) //nolint:errcheck // the client writes a number
			size += payload + 2
		}
		if size > len(p) {
			return append(kept, p...)
		}
		if !published || !drop(words[1]) {
			kept = append(kept, p[:size]...)
		}
		p = p[size:]
	}
	return kept
}
