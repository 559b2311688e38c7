package bus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func TestOnlyDisconnectsFromTheClientsEndCount(t *testing.T) {
	want := map[string]bool{"Client Closed": true, "Read Error": true, "Write Error": true}
	for reason := server.ClientClosed; reason.String() != "Unknown State"; reason++ {
		data, err := json.Marshal(server.DisconnectEventMsg{Reason: reason.String()})
		if err != nil {
			t.Fatal(err)
		}
		if _, got := decodeDisconnect(data); got != want[reason.String()] {
			t.Errorf("%q counts as a disconnect from the client's end: %t", reason, got)
		}
		delete(want, reason.String())
	}
	for reason := range want {
		t.Errorf("no server has the reason %q", reason)
	}
	if _, got := decodeDisconnect([]byte("x")); got {
		t.Error("an invalid report counts")
	}
}

// elsewhere starts another NATS with a system account and one for kicker. peers are its cluster.
func elsewhere(t *testing.T, name string, peers ...*server.Server) *server.Server {
	t.Helper()
	return elsewhereAt(t, name, server.RANDOM_PORT, peers...)
}

func elsewhereAt(t *testing.T, name string, port int, peers ...*server.Server) *server.Server {
	t.Helper()
	nodes, system := server.NewAccount("KICKER"), server.NewAccount("SYS")
	only := func(subjects ...string) *server.Permissions {
		return &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{">"}},
			Subscribe: &server.SubjectPermission{Allow: subjects}}
	}
	opts := &server.Options{
		ServerName: name, Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true,
		Accounts: []*server.Account{nodes, system}, SystemAccount: system.Name,
		Users: []*server.User{
			{Username: "node", Password: "pw", Account: nodes},
			{Username: "sys", Password: "secret", Account: system},
			{Username: "listener", Password: "secret", Account: system, Permissions: only(disconnectSubject)},
			{Username: "denied", Password: "secret", Account: system, Permissions: only("elsewhere")},
		},
		Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: server.RANDOM_PORT},
	}
	for _, peer := range peers {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: peer.ClusterAddr().String()})
	}
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start() // until Shutdown
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server did not start")
	}
	return s
}

// as is a server's URL with a user.
func as(user string, s *server.Server) string {
	return "nats://" + user + "@" + s.Addr().String()
}

func node(t *testing.T, s *server.Server, options ...nats.Option) (nc *nats.Conn, id disconnect) {
	t.Helper()
	nc, err := nats.Connect(as("node:pw", s), append(options, nats.NoReconnect())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client, err := nc.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	return nc, disconnect{server: nc.ConnectedServerId(), client: client}
}

// disconnectsAt are the disconnects that another NATS reports.
func disconnectsAt(t *testing.T, log *slog.Logger, urls ...string) <-chan disconnect {
	t.Helper()
	disconnected := make(chan disconnect, 100)
	stop, err := Disconnects(urls, log, sendTo(disconnected), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return disconnected
}

func TestDisconnectOfAnotherNATSNamesTheConnection(t *testing.T) {
	for _, user := range []string{"sys:secret", "listener:secret"} {
		s := elsewhere(t, "a")
		disconnected := disconnectsAt(t, noLog, as(user, s))
		for claim, end := range map[string]func(*nats.Conn, net.Conn){
			"closed by the client": func(nc *nats.Conn, _ net.Conn) { nc.Close() },
			"reset":                func(_ *nats.Conn, tcp net.Conn) { reset(tcp) },
		} {
			t.Run(user+" "+claim, func(t *testing.T) {
				dial := &dialer{}
				nc, id := node(t, s, nats.SetCustomDialer(dial))
				end(nc, dial.conn)
				expect(t, disconnected, id)
			})
		}
	}
}

// expect waits until that connection is reported, and no newer one before it.
func expect(t *testing.T, disconnected <-chan disconnect, want disconnect) {
	t.Helper()
	for {
		got := next(t, disconnected)
		if got.of(want) && got.why != "" {
			return
		}
		if got.client >= want.client || got.server != want.server {
			t.Fatalf("%+v was reported, want %+v", got, want)
		}
	}
}

func TestDisconnectInAClusterNamesTheServer(t *testing.T) {
	a := elsewhere(t, "a")
	b := elsewhere(t, "b", a)
	disconnected := disconnectsAt(t, noLog, as("sys:secret", a))
	started := time.Now()
	for reported := false; !reported; { // until the servers have found each other
		if time.Since(started) > patience {
			t.Fatal("no disconnect at the other server is reported")
		}
		nc, id := node(t, b)
		nc.Close()
		select {
		case got := <-disconnected:
			reported = got.server == id.server
		case <-time.After(50 * time.Millisecond):
		}
	}
	onA, idA := node(t, a)
	onB, idB := node(t, b)
	for idA.client != idB.client {
		if idA.client < idB.client {
			onA, idA = node(t, a)
		} else {
			onB, idB = node(t, b)
		}
	}
	onB.Close()
	for got := next(t, disconnected); !got.of(idB); got = next(t, disconnected) {
		if got.client == idA.client {
			t.Fatalf("%+v was reported, want the connection of that number on the other server, %s", got, idB.server)
		}
	}
	_, last := node(t, b)
	b.Shutdown()
	b.WaitForShutdown()
	onA.Close()
	for got := next(t, disconnected); !got.of(idA); got = next(t, disconnected) {
		if got.of(last) {
			t.Errorf("a server that stopped reported %+v", got)
		}
	}
}

func TestRejectedSystemUserIsReportedWithTheRemedy(t *testing.T) {
	s := elsewhere(t, "a")
	for _, user := range []string{"sys:wrong", "nobody:x", "denied:secret"} {
		t.Run(user, func(t *testing.T) {
			var log lines
			lost := make(chan string, 100)
			stop, err := Disconnects([]string{as(user, s)}, slog.New(slog.NewTextHandler(&log, nil)),
				func(string, uint64, string) {}, func(why string) { lost <- why })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			select {
			case why := <-lost:
				if why != systemRejected || !strings.HasPrefix(why, "bus.system_url: ") ||
					!strings.Contains(why, "system_account") {
					t.Errorf("lost because %q, want the key and the remedy", why)
				}
			case <-time.After(patience):
				t.Fatal("the rejected user is not reported")
			}
			log.wait(t, "level=WARN")
			if _, password, _ := strings.Cut(user, ":"); strings.Contains(log.String(), ":"+password) {
				t.Errorf("the log has the password:\n%s", &log)
			}
		})
	}
}

func TestDisconnectsAreLostWhileTheServerIsDown(t *testing.T) {
	first := elsewhere(t, "a")
	where := first.Addr().(*net.TCPAddr)
	stopServer := func(s *server.Server) { s.Shutdown(); s.WaitForShutdown() }
	stopServer(first)
	var log lines
	disconnected, changes := make(chan disconnect, 100), make(chan string, 100)
	stop, err := Disconnects([]string{fmt.Sprintf("nats://sys:secret@%s", where)},
		slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		sendTo(disconnected), func(why string) { changes <- why })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	const restored = "disconnects are received"
	for round := range 3 {
		log.wait(t, systemUnreachable)
		log.wait(t, "level=DEBUG") // another try
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("it warns %d times, want once:\n%s", n, &log)
		}
		s := elsewhereAt(t, "a", where.Port)
		log.wait(t, restored)
		if begins, ends := <-changes, <-changes; begins != systemUnreachable || ends != "" || len(changes) > 0 {
			t.Errorf("lost is called with %q, %q and %d more, want with why and at the end", begins, ends, len(changes))
		}
		nc, id := node(t, s)
		nc.Close()
		expect(t, disconnected, id)
		log.forget()
		if round == 2 {
			break
		}
		stopServer(s)
	}
}

func TestUserThatMayNotSubscribeIsNotReportedAsRestored(t *testing.T) {
	first := elsewhere(t, "a")
	where := first.Addr().(*net.TCPAddr)
	stopServer := func(s *server.Server) { s.Shutdown(); s.WaitForShutdown() }
	stopServer(first)
	changes := make(chan string, 100)
	stop, err := Disconnects([]string{fmt.Sprintf("nats://denied:secret@%s", where)}, noLog,
		func(string, uint64, string) {}, func(why string) { changes <- why })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	reports := func(want string) {
		t.Helper()
		select {
		case got := <-changes:
			if got != want {
				t.Fatalf("lost because %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("it is not reported that %q", want)
		}
	}
	reports(systemUnreachable)
	for range 2 {
		s := elsewhereAt(t, "a", where.Port)
		reports(systemRejected)
		stopServer(s)
		reports(systemUnreachable)
	}
}

// lines is a log in which a test can wait for a text.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

func (l *lines) wait(t *testing.T, want string) {
	t.Helper()
	for until := time.Now().Add(patience); !strings.Contains(l.String(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%q is not in the log:\n%s", want, l)
		}
	}
}
