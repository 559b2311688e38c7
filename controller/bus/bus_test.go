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

var silent = slog.New(slog.DiscardHandler)

// patience is how long what must happen may take; nothing waits for it when it happens.
const patience = 10 * time.Second

func start(t *testing.T, cfg Config) *Bus {
	t.Helper()
	b, err := Start(cfg, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func visit(t *testing.T, b *Bus, token string) *nats.Conn {
	t.Helper()
	nc, err := Connect([]string{b.Addr().String()}, token, "a node")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// flushed waits until the server has taken in all that was said.
func flushed(t *testing.T, nc *nats.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestWhoMayJoin(t *testing.T) {
	for _, c := range []struct {
		claim, guard, shown string
		want                bool
	}{
		{"everybody where nothing guards it", "", "", true},
		{"who shows the token", "secret", "secret", true},
		{"not who shows another", "secret", "other", false},
		{"not who shows none", "secret", "", false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			b := start(t, Config{Listen: "127.0.0.1:0", Token: c.guard})
			nc, err := Connect([]string{b.Addr().String()}, c.shown, "a node")
			if err == nil {
				nc.Close()
			}
			if (err == nil) != c.want || err != nil && !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("joined: %v, want it let in: %t", err, c.want)
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
				t.Errorf("somebody joined as %s with the password %q", user, password)
			}
		}
	}
}

func TestNodeCannotSayWhatIsTheControllersOwn(t *testing.T) {
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
	own := []string{"kicker.main.kick.lb1.example.com", "kicker.main.node.lb1", "kicker.main.controller", "kicker.main.report", "kicker.main.heartbeat._canary.me"}
	allowed := []string{"kicker.main.heartbeat.lb1.example.com", "kicker.main.facts.lb1", "kicker.main.result.lb1", "kicker.main.leave.lb1"}
	heard := func(n int) (subjects []string) {
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
	say := func(nc *nats.Conn, subjects []string) {
		t.Helper()
		for _, subject := range subjects {
			if err := nc.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
		}
		flushed(t, nc)
	}
	say(visit(t, b, ""), append(own, allowed...))
	if got := heard(len(allowed)); strings.Join(got, " ") != strings.Join(allowed, " ") {
		t.Errorf("a node was heard on %q, want %q", got, allowed)
	}
	say(controller, own)
	if got := heard(len(own)); strings.Join(got, " ") != strings.Join(own, " ") {
		t.Errorf("the controller was heard on %q, want %q", got, own)
	}
}

func TestNodesDoNotHearWhatTheServerSaysOfItself(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	listener := visit(t, b, "")
	everything, err := listener.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	flushed(t, listener)
	told := closings(t, b)
	visit(t, b, "").Close()
	next(t, told)
	flushed(t, listener)
	if n, _, err := everything.Pending(); err != nil || n != 0 {
		t.Errorf("a node heard %d messages when another closed its connection, %v", n, err)
	}
}

type closing struct {
	server string
	client uint64
	why    string
}

func closings(t *testing.T, b *Bus) <-chan closing {
	t.Helper()
	told := make(chan closing, 100)
	stop, err := b.Disconnects(func(server string, client uint64, why string) { told <- closing{server, client, why} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return told
}

func next(t *testing.T, told <-chan closing) closing {
	t.Helper()
	select {
	case c := <-told:
		return c
	case <-time.After(patience):
		t.Fatal("no closed connection was reported")
		return closing{}
	}
}

func TestClosedConnectionIsReportedByItsIdentity(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	told := closings(t, b)
	visit(t, b, "") // which stays
	for claim, end := range map[string]func(*nats.Conn, net.Conn){
		"closed by the client": func(nc *nats.Conn, _ net.Conn) { nc.Close() },
		"reset":                func(_ *nats.Conn, tcp net.Conn) { _ = tcp.(*net.TCPConn).SetLinger(0); _ = tcp.Close() },
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
			if got := next(t, told); got.server != server || got.client != id || got.why == "" {
				t.Errorf("%+v was reported, want connection %d of %s", got, id, server)
			}
		})
	}
}

type dialer struct{ conn net.Conn }

func (d *dialer) Dial(network, address string) (c net.Conn, err error) {
	d.conn, err = net.Dial(network, address)
	return d.conn, err
}

func TestServerThatGivesUpItsClientsSaysNothingOfThem(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	told := closings(t, b)
	kicked := visit(t, b, "")
	id, err := kicked.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.server.DisconnectClientByID(id); err != nil {
		t.Fatal(err)
	}
	last := visit(t, b, "")
	lastID, err := last.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	last.Close()
	if got := next(t, told); got.client != lastID {
		t.Errorf("connection %d was reported (%s), want only %d, whose client closed it", got.client, got.why, lastID)
	}
	for range 5 {
		visit(t, b, "")
	}
	b.Close()
	select {
	case got := <-told:
		t.Errorf("a server that stopped reported %+v", got)
	default:
	}
}

func TestListenErrorsNameThePlace(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	taken := b.Addr().String()
	for listen, want := range map[string]string{
		taken:            "address already in use",
		"127.0.0.1":      "want HOST:PORT",
		"127.0.0.1:http": `port "http" is no number`,
	} {
		other, err := Start(Config{Listen: listen}, silent)
		if err == nil {
			other.Close()
			t.Errorf("a server listens on %s", listen)
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), listen) {
			t.Errorf("listen %s: %v, want %q and the place", listen, err, want)
		}
	}
}

func TestServerWithoutAPortIsForThisProcessAlone(t *testing.T) {
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

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:7422": true, "127.8.8.8:0": true, "[::1]:7422": true, "localhost:7422": true,
		"0.0.0.0:7422": false, ":7422": false, "[::]:7422": false, "10.0.0.1:7422": false, "web1:7422": false,
		"localhost.example.com:7422": false, "127.0.0.1": false, "": false,
	} {
		if got := Loopback(listen); got != want {
			t.Errorf("Loopback(%q) = %t", listen, got)
		}
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	for urls, want := range map[string]string{
		"nats://user:secret@a:1,tls://token@[::1]": "nats://a:1,tls://[::1]",
		"nats://user:p@ss@a":                       "nats://a",
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
		t.Errorf("%v: want no password, and what to do", err)
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
		t.Errorf("2000 clients come back at %d different moments", len(seen))
	}
}

func TestJoinWaitsForTheServerAndKeepsNothingToBeSentLater(t *testing.T) {
	first := start(t, Config{Listen: "127.0.0.1:0"})
	where := first.Addr().String()
	first.Close()

	joined := make(chan struct{}, 100)
	nc, err := Join([]string{where}, "", "a node", silent, func() { joined <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Publish("kicker.main.heartbeat.a", []byte("early")); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("what can't be said now: %v, want it refused", err)
	}
	hears := func(b *Bus, say string) {
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
		if err := nc.Publish("kicker.main.heartbeat.a", []byte(say)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if m, err := sub.NextMsgWithContext(ctx); err != nil || string(m.Data) != say {
			t.Errorf("heard %v, %v; want %q", m, err, say)
		}
	}
	second := start(t, Config{Listen: where})
	hears(second, "first")
	second.Close()
	for nc.IsConnected() {
		<-joined
	}
	if err := nc.Publish("kicker.main.heartbeat.a", []byte("between")); err == nil {
		t.Error("what was said to no server was kept")
	}
	hears(start(t, Config{Listen: where}), "again")
}

func TestJoinWithAWrongTokenGoesOnTrying(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0", Token: "secret"})
	rounds := make(chan int)
	done := make(chan struct{})
	defer close(done)
	nc, err := Join([]string{b.Addr().String()}, "old", "a node", silent, func() {}, nats.CustomReconnectDelay(func(n int) time.Duration {
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
			t.Fatalf("it gave up after %d tries: the token may yet be put right at the controller", n)
		}
	}
}

func TestBusyServerIsGivenTimeToLetANodeJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, Config{Token: "secret"})
		busy := &busyServer{Bus: b}
		joined := make(chan struct{}, 1)
		nc, err := Join([]string{""}, "secret", "a node", silent, func() { joined <- struct{}{} }, nats.InProcessServer(busy))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		<-joined
		if busy.tries != 1 {
			t.Errorf("it began %d times", busy.tries)
		}
	})
}

// busyServer hears only after 4 s what its first client says.
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

func TestConnectionOverWhichANodeDidNotJoinIsClosed(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which closes what was forgotten
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	nc, err := Join([]string{mute.Addr().String()}, "", "a node", silent, func() {},
		nats.Timeout(10*time.Millisecond), nats.CustomReconnectDelay(func(int) time.Duration { return time.Millisecond }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var tries []net.Conn
	for range 3 { // the first is of another part of nats.go
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
		t.Errorf("the node tried again, and its connection before that is open: %v", err)
	}
}
