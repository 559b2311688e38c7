package bus

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

var noLog = slog.New(slog.DiscardHandler)

// patience is how long an event may take before a test fails.
const patience = 10 * time.Second

func start(t *testing.T, cfg Config) *Bus {
	t.Helper()
	b, err := Start(cfg, noLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func connected(t *testing.T, b *Bus, token string) *nats.Conn {
	t.Helper()
	nc, err := Connect([]string{b.Addr().String()}, token, "a node")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// flushed waits until the server has processed all that was sent.
func flushed(t *testing.T, nc *nats.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestTokenDecidesWhoCanJoin(t *testing.T) {
	for _, c := range []struct {
		claim, token, used string
		want               bool
	}{
		{"any node without a token", "", "", true},
		{"a node with the token", "secret", "secret", true},
		{"no node with another token", "secret", "other", false},
		{"no node without it", "secret", "", false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			b := start(t, Config{Listen: "127.0.0.1:0", Token: c.token})
			nc, err := Connect([]string{b.Addr().String()}, c.used, "a node")
			if err == nil {
				nc.Close()
			}
			if (err == nil) != c.want || err != nil && !errors.Is(err, ErrRejected) {
				t.Errorf("Connect = %v, want success: %t", err, c.want)
			}
		})
	}
}

func TestNodeCannotBeTheControllerOrTheServer(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	for _, user := range []string{controllerUser, systemUser} {
		for _, password := range []string{"", "secret", nodeUser} {
			nc, err := nats.Connect(b.Addr().String(), nats.UserInfo(user, password))
			if err == nil {
				nc.Close()
				t.Errorf("a node joined as %s with the password %q", user, password)
			}
		}
	}
}

func TestNodeCannotPublishOnControllerSubjects(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	controller, err := b.Join("controller")
	if err != nil {
		t.Fatal(err)
	}
	defer controller.Close()
	all, err := controller.SubscribeSync("kicker.>")
	if err != nil {
		t.Fatal(err)
	}
	flushed(t, controller)
	own := []string{"kicker.main.kick.lb1.example.com", "kicker.main.node.lb1", "kicker.main.controller",
		"kicker.main.report", "kicker.main.heartbeat._canary.me"}
	allowed := []string{"kicker.main.heartbeat.lb1.example.com", "kicker.main.facts.lb1", "kicker.main.result.lb1",
		"kicker.main.leave.lb1"}
	received := func(n int) (subjects []string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for range n {
			m, err := all.NextMsgWithContext(ctx)
			if err != nil {
				t.Fatalf("after %q: %v", subjects, err)
			}
			subjects = append(subjects, m.Subject)
		}
		return subjects
	}
	publish := func(nc *nats.Conn, subjects []string) {
		t.Helper()
		for _, subject := range subjects {
			if err := nc.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
		}
		flushed(t, nc)
	}
	publish(connected(t, b, ""), append(own, allowed...))
	if got := received(len(allowed)); strings.Join(got, " ") != strings.Join(allowed, " ") {
		t.Errorf("messages of a node on %q, want %q", got, allowed)
	}
	publish(controller, own)
	if got := received(len(own)); strings.Join(got, " ") != strings.Join(own, " ") {
		t.Errorf("messages of the controller on %q, want %q", got, own)
	}
}

func TestNodesDoNotReceiveTheServersEvents(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	listener := connected(t, b, "")
	everything, err := listener.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	flushed(t, listener)
	disconnected := disconnects(t, b)
	connected(t, b, "").Close()
	next(t, disconnected)
	flushed(t, listener)
	if n, _, err := everything.Pending(); err != nil || n != 0 {
		t.Errorf("a node received %d messages when another one closed its connection, %v", n, err)
	}
}

type disconnect struct {
	server string
	client uint64
	why    string
}

// of reports whether both are of the same connection.
func (d disconnect) of(other disconnect) bool {
	return d.server == other.server && d.client == other.client
}

func disconnects(t *testing.T, b *Bus) <-chan disconnect {
	t.Helper()
	disconnected := make(chan disconnect, 100)
	stop, err := b.Disconnects(sendTo(disconnected))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return disconnected
}

func sendTo(c chan<- disconnect) func(server string, client uint64, why string) {
	return func(server string, client uint64, why string) { c <- disconnect{server, client, why} }
}

func next(t *testing.T, disconnected <-chan disconnect) disconnect {
	t.Helper()
	select {
	case d := <-disconnected:
		return d
	case <-time.After(patience):
		t.Fatal("no disconnect was reported")
		return disconnect{}
	}
}

func TestDisconnectNamesTheConnection(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	disconnected := disconnects(t, b)
	connected(t, b, "") // which stays open
	for claim, end := range map[string]func(*nats.Conn, net.Conn){
		"closed by the client": func(nc *nats.Conn, _ net.Conn) { nc.Close() },
		"reset":                func(_ *nats.Conn, tcp net.Conn) { reset(tcp) },
	} {
		t.Run(claim, func(t *testing.T) {
			dial := &dialer{}
			nc, err := nats.Connect(b.Addr().String(), nats.SetCustomDialer(dial), nats.NoReconnect())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			id, err := nc.GetClientID()
			if err != nil {
				t.Fatal(err)
			}
			server := nc.ConnectedServerId()
			end(nc, dial.conn)
			if got := next(t, disconnected); got.server != server || got.client != id || got.why == "" {
				t.Errorf("%+v was reported, want connection %d of %s", got, id, server)
			}
		})
	}
}

func reset(tcp net.Conn) {
	_ = tcp.(*net.TCPConn).SetLinger(0)
	_ = tcp.Close()
}

type dialer struct{ conn net.Conn }

func (d *dialer) Dial(network, address string) (c net.Conn, err error) {
	d.conn, err = net.Dial(network, address)
	return d.conn, err
}

func TestDisconnectsFromTheServersEndAreNotReported(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	disconnected := disconnects(t, b)
	kicked := connected(t, b, "")
	id, err := kicked.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.server.DisconnectClientByID(id); err != nil {
		t.Fatal(err)
	}
	last := connected(t, b, "")
	lastID, err := last.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	last.Close()
	if got := next(t, disconnected); got.client != lastID {
		t.Errorf("connection %d was reported (%s), want only %d, which its client closed", got.client, got.why, lastID)
	}
	for range 5 {
		connected(t, b, "")
	}
	b.Close()
	select {
	case got := <-disconnected:
		t.Errorf("a server that stopped reported %+v", got)
	default:
	}
}

func TestListenErrorsNameTheAddress(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	used := b.Addr().String()
	for listen, want := range map[string]string{
		used:             "address already in use",
		"127.0.0.1":      "want HOST:PORT",
		"127.0.0.1:http": "a number as port",
	} {
		other, err := Start(Config{Listen: listen}, noLog)
		if err == nil {
			other.Close()
			t.Errorf("a server listens on %s", listen)
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), listen) {
			t.Errorf("listen %s: %v, want %q and the address", listen, err, want)
		}
	}
}

func TestServerWithoutAPortServesThisProcess(t *testing.T) {
	b := start(t, Config{})
	if b.Addr() != nil {
		t.Errorf("it listens on %s", b.Addr())
	}
	nc, err := b.Join("controller")
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestRedactedHidesUsersAndPasswords(t *testing.T) {
	for urls, want := range map[string]string{
		"nats://user:secret@a:1,tls://token@[::1]": "nats://xxxxx@a:1,tls://xxxxx@[::1]",
		"nats://user:p@ss@a":                       "nats://xxxxx@a",
		"nats://user:p/ss@a nats://b":              "nats://xxxxx@a nats://b",
		"nats://a:1":                               "nats://a:1",
		"127.0.0.1:7422":                           "127.0.0.1:7422",
		"":                                         "",
	} {
		if got := Redacted(urls); got != want {
			t.Errorf("Redacted(%q) = %q, want %q", urls, got, want)
		}
	}
	b := start(t, Config{Listen: "127.0.0.1:0", Token: "right"})
	nc, err := Connect([]string{"nats://kicker:secret@" + b.Addr().String()}, "", "a node")
	if err == nil {
		nc.Close()
		t.Fatal("joined with another password")
	}
	if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "the user and password in its URL") {
		t.Errorf("%v: want no password, and the remedy", err)
	}
}

func TestReconnectDelayIsBoundedAndSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for n := range 200 {
		for range 10 {
			d := reconnectDelay(n)
			if d < reconnectFirst/2 || d > reconnectFirst/2+reconnectMost {
				t.Fatalf("round %d waits %s", n, d)
			}
			if n <= 1 && d > 3*reconnectFirst {
				t.Errorf("the first round waits %s", d)
			}
			seen[d.Truncate(100*time.Millisecond)] = true
		}
	}
	if len(seen) < 15 {
		t.Errorf("2000 clients reconnect at %d different moments", len(seen))
	}
}

func TestJoinWaitsForTheServerAndBuffersNothing(t *testing.T) {
	first := start(t, Config{Listen: "127.0.0.1:0"})
	where := first.Addr().String()
	first.Close()

	joined := make(chan struct{}, 100)
	nc, err := Join([]string{where}, "", "a node", noLog, func() { joined <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Publish("kicker.main.heartbeat.a", []byte("early")); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("a message without a connection: %v, want an error", err)
	}
	receives := func(b *Bus, text string) {
		t.Helper()
		controller, err := b.Join("controller")
		if err != nil {
			t.Fatal(err)
		}
		defer controller.Close()
		sub, err := controller.SubscribeSync("kicker.>")
		if err != nil {
			t.Fatal(err)
		}
		flushed(t, controller)
		for !nc.IsConnected() {
			select {
			case <-joined:
			case <-time.After(patience):
				t.Fatal("the node has not joined")
			}
		}
		if err := nc.Publish("kicker.main.heartbeat.a", []byte(text)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if m, err := sub.NextMsgWithContext(ctx); err != nil || string(m.Data) != text {
			t.Errorf("received %v, %v; want %q", m, err, text)
		}
	}
	second := start(t, Config{Listen: where})
	receives(second, "first")
	second.Close()
	for nc.IsConnected() {
		<-joined
	}
	if err := nc.Publish("kicker.main.heartbeat.a", []byte("between")); err == nil {
		t.Error("a message without a connection was buffered")
	}
	receives(start(t, Config{Listen: where}), "again")
}

func TestJoinRetriesWithAWrongToken(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0", Token: "secret"})
	rounds := make(chan int)
	done := make(chan struct{})
	defer close(done)
	nc, err := Join([]string{b.Addr().String()}, "old", "a node", noLog, func() {},
		nats.CustomReconnectDelay(func(n int) time.Duration {
			select {
			case rounds <- n:
			case <-done:
			}
			return time.Millisecond
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for n := range 5 {
		select {
		case <-rounds:
		case <-time.After(patience):
			t.Fatalf("it gave up after %d tries, though the token may still be corrected", n)
		}
	}
}

func TestBusyServerHasTimeForTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, Config{Token: "secret"})
		busy := &busyServer{Bus: b}
		joined := make(chan struct{}, 1)
		nc, err := Join([]string{""}, "secret", "a node", noLog, func() { joined <- struct{}{} },
			nats.InProcessServer(busy))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		<-joined
		if busy.tries != 1 {
			t.Errorf("the handshake began %d times, want 1", busy.tries)
		}
	})
}

// busyServer receives only after 4 s what its first client sends.
type busyServer struct {
	*Bus
	tries int
}

func (b *busyServer) InProcessConn() (net.Conn, error) {
	b.tries++
	conn, err := b.Bus.InProcessConn()
	return &busyConn{Conn: conn, busy: b.tries == 1}, err
}

type busyConn struct {
	net.Conn
	busy bool
}

func (c *busyConn) Write(data []byte) (int, error) {
	if c.busy {
		c.busy = false
		time.Sleep(4 * time.Second)
	}
	return c.Conn.Write(data)
}

func TestConnectionOfAFailedHandshakeIsClosed(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would close forgotten connections
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	nc, err := Join([]string{mute.Addr().String()}, "", "a node", noLog, func() {},
		nats.Timeout(10*time.Millisecond),
		nats.CustomReconnectDelay(func(int) time.Duration { return time.Millisecond }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var tries []net.Conn
	for range 3 { // the first one comes from another part of nats.go
		conn, err := mute.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		tries = append(tries, conn)
	}
	before := tries[1]
	if err := before.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, before); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the node connected again and left its former connection open: %v", err)
	}
}
