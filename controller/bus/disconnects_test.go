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

func TestOnlyAClosingFromTheClientsEndCounts(t *testing.T) {
	want := map[string]bool{"Client Closed": true, "Read Error": true, "Write Error": true}
	for reason := server.ClientClosed; reason.String() != "Unknown State"; reason++ {
		data, err := json.Marshal(server.DisconnectEventMsg{Reason: reason.String()})
		if err != nil {
			t.Fatal(err)
		}
		if _, got := decodeClosing(&nats.Msg{Data: data}); got != want[reason.String()] {
			t.Errorf("%q counts as the client's end: %t", reason, got)
		}
		delete(want, reason.String())
	}
	for reason := range want {
		t.Errorf("no server says %q", reason)
	}
	if _, got := decodeClosing(&nats.Msg{Data: []byte("x")}); got {
		t.Error("what can't be read counts")
	}
}

// elsewhere starts a NATS with a system account and one for kicker. peers are its cluster.
func elsewhere(t *testing.T, name string, peers ...*server.Server) *server.Server {
	t.Helper()
	return elsewhereAt(t, name, server.RANDOM_PORT, peers...)
}

func elsewhereAt(t *testing.T, name string, port int, peers ...*server.Server) *server.Server {
	t.Helper()
	nodes, system := server.NewAccount("KICKER"), server.NewAccount("SYS")
	only := func(subjects ...string) *server.Permissions {
		return &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{">"}}, Subscribe: &server.SubjectPermission{Allow: subjects}}
	}
	opts := &server.Options{
		ServerName: name, Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, Accounts: []*server.Account{nodes, system}, SystemAccount: system.Name,
		Users: []*server.User{
			{Username: "node", Password: "pw", Account: nodes},
			{Username: "sys", Password: "secret", Account: system},
			{Username: "ear", Password: "secret", Account: system, Permissions: only(disconnects)},
			{Username: "deaf", Password: "secret", Account: system, Permissions: only("elsewhere")},
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
	go s.Start() // ends with Shutdown, which the cleanup waits for
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS did not start")
	}
	return s
}

// as is the URL of a server for a user of it.
func as(user string, s *server.Server) string {
	return "nats://" + user + "@" + s.Addr().String()
}

func node(t *testing.T, s *server.Server, options ...nats.Option) (nc *nats.Conn, id closing) {
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
	return nc, closing{server: nc.ConnectedServerId(), client: client}
}

// closingsOf is what is reported of the connections of nodes.
func closingsOf(t *testing.T, log *slog.Logger, urls ...string) <-chan closing {
	t.Helper()
	told := make(chan closing, 100)
	stop, err := Disconnects(urls, log, func(server string, client uint64, why string) { told <- closing{server, client, why} }, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return told
}

func TestClosedConnectionOfANATSElsewhereIsReportedByItsIdentity(t *testing.T) {
	for _, user := range []string{"sys:secret", "ear:secret"} {
		s := elsewhere(t, "a")
		told := closingsOf(t, silent, as(user, s))
		for claim, end := range map[string]func(*nats.Conn, net.Conn){
			"closed by the client": func(nc *nats.Conn, _ net.Conn) { nc.Close() },
			"reset":                func(_ *nats.Conn, tcp net.Conn) { _ = tcp.(*net.TCPConn).SetLinger(0); _ = tcp.Close() },
		} {
			t.Run(user+" "+claim, func(t *testing.T) {
				dial := &dialer{}
				nc, id := node(t, s, nats.SetCustomDialer(dial))
				end(nc, dial.conn)
				hears(t, told, id)
			})
		}
	}
}

// hears waits until that connection is reported, and nothing but the closings of Closings' own before it.
func hears(t *testing.T, told <-chan closing, want closing) {
	t.Helper()
	for {
		got := next(t, told)
		if got.server == want.server && got.client == want.client && got.why != "" {
			return
		}
		if got.client >= want.client || got.server != want.server {
			t.Fatalf("%+v was reported, want %+v", got, want)
		}
	}
}

func TestClosingInAClusterNamesTheServer(t *testing.T) {
	a := elsewhere(t, "a")
	b := elsewhere(t, "b", a)
	told := closingsOf(t, silent, as("sys:secret", a))
	started := time.Now()
	for reported := false; !reported; { // the servers have yet to find each other
		if time.Since(started) > patience {
			t.Fatal("no connection of the other server is reported by its name")
		}
		nc, id := node(t, b)
		nc.Close()
		select {
		case got := <-told:
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
	for got := next(t, told); got.server != idB.server || got.client != idB.client; got = next(t, told) {
		if got.client == idA.client {
			t.Fatalf("%+v was reported, want the connection of that number on the other server, %s", got, idB.server)
		}
	}
	_, last := node(t, b)
	b.Shutdown()
	b.WaitForShutdown()
	onA.Close()
	for got := next(t, told); got.server != idA.server || got.client != idA.client; got = next(t, told) {
		if got.server == last.server && got.client == last.client {
			t.Errorf("a server that stopped reported %+v", got)
		}
	}
}

func TestRejectedSystemUserIsReportedWithTheRemedy(t *testing.T) {
	s := elsewhere(t, "a")
	for _, user := range []string{"sys:wrong", "nobody:x", "deaf:secret"} {
		t.Run(user, func(t *testing.T) {
			var log lines
			lost := make(chan string, 100)
			stop, err := Disconnects([]string{as(user, s)}, slog.New(slog.NewTextHandler(&log, nil)), func(string, uint64, string) {}, func(why string) { lost <- why })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			select {
			case why := <-lost:
				if why != systemRefused || !strings.HasPrefix(why, "bus.system_url: ") || !strings.Contains(why, "system_account") {
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

func TestClosingsAreHeardWhenTheServerIsBackAndSaidNotToBeMeanwhile(t *testing.T) {
	first := elsewhere(t, "a")
	where := first.Addr().(*net.TCPAddr)
	stopServer := func(s *server.Server) { s.Shutdown(); s.WaitForShutdown() }
	stopServer(first)
	var log lines
	told, changes := make(chan closing, 100), make(chan string, 100)
	stop, err := Disconnects([]string{fmt.Sprintf("nats://sys:secret@%s", where)}, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		func(server string, client uint64, why string) { told <- closing{server, client, why} }, func(why string) { changes <- why })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	const deaf, heard = systemUnreached, "disconnects are received"
	for round := range 3 {
		log.wait(t, deaf)
		log.wait(t, "level=DEBUG") // another try, in vain
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%q is said %d times, want once:\n%s", deaf, n, &log)
		}
		s := elsewhereAt(t, "a", where.Port)
		log.wait(t, heard)
		if begins, ends := <-changes, <-changes; !strings.HasPrefix(begins, deaf) || ends != "" || len(changes) > 0 {
			t.Errorf("it is called with %q and %q and %d more, want with why, and when it is over", begins, ends, len(changes))
		}
		nc, id := node(t, s)
		nc.Close()
		hears(t, told, id)
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
	stop, err := Disconnects([]string{fmt.Sprintf("nats://deaf:secret@%s", where)}, silent, func(string, uint64, string) {}, func(why string) { changes <- why })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	expect := func(want string) {
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
	expect(systemUnreached)
	for range 2 {
		s := elsewhereAt(t, "a", where.Port)
		expect(systemRefused)
		stopServer(s)
		expect(systemUnreached)
	}
}

// lines is a log that can be waited for.
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
