// Package bus starts the NATS server that a controller carries with it, and joins a bus wherever it is.
package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"
)

// How a client comes back to a bus that went away: at once, then in steps with a jitter that spreads a fleet.
const (
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 2 * time.Second
	startTimeout   = 10 * time.Second
	connectTimeout = 2 * time.Second // for a server to take a connection

	// For one that took it to say all that belongs to joining. A fleet that comes back at once keeps it busy, and whoever gives up
	// has it begin again: with TLS and 10 000 nodes 2 s were not always enough.
	handshakeTimeout = 5 * time.Second

	errorEvery = time.Second // at most, of the server's errors in the log

	maxConn = 1 << 20 // the server's own default is 64 Ki
)

// The users of the embedded server. Nodes may only use their own account; what the server says of itself is in another.
const (
	nodeUser       = "kicker"
	controllerUser = "controller"
	systemUser     = "system"
)

// controllersOwn is what no node may say: only the controller's process kicks, calls the roll and is heard as a controller. So nobody
// who merely reaches the bus starts a run.
var controllersOwn = []string{"kicker.*.kick.>", "kicker.*.node.>", "kicker.*.controller", "kicker.*.report", "kicker.*.heartbeat._canary.>"}

// Config is where the embedded server listens.
type Config struct {
	Listen string // HOST:PORT; "" for none: only this process can join
	Token  string // what nodes must show; "" for nothing
}

// Bus is an embedded NATS server.
type Bus struct {
	server *server.Server
	secret string // of the users that only this process may be
	log    *slog.Logger
}

// Start starts an embedded server. It is up when Start returns.
func Start(cfg Config, log *slog.Logger) (*Bus, error) {
	b := &Bus{secret: rand.Text(), log: log}
	nodes, system := server.NewAccount("KICKER"), server.NewAccount("SYS")
	opts := &server.Options{
		ServerName: "kicker", NoSigs: true, NoLog: true, MaxConn: maxConn, MaxPayload: 1 << 20, PingInterval: 20 * time.Second,
		AuthTimeout: 2 * handshakeTimeout.Seconds(), // the client gives up first
		Accounts:    []*server.Account{nodes, system}, SystemAccount: system.Name,
		Users: []*server.User{
			{Username: nodeUser, Password: cfg.Token, Account: nodes, Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: controllersOwn},
			}},
			{Username: controllerUser, Password: b.secret, Account: nodes},
			{Username: systemUser, Password: b.secret, Account: system},
		},
		DontListen: cfg.Listen == "",
	}
	if cfg.Token == "" {
		opts.NoAuthUser = nodeUser
	}
	if cfg.Listen != "" {
		host, port, err := net.SplitHostPort(cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("bus: listen %s: want HOST:PORT: %w", cfg.Listen, err)
		}
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("bus: listen %s: port %q is no number", cfg.Listen, port)
		}
		opts.Host = host
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
		// The server reports a taken port only in its log and then never comes up: ask first.
		probe, err := net.Listen("tcp", cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("bus: %w", err)
		}
		_ = probe.Close()
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	srv.SetLoggerV2(natsLog{log, &rate.Sometimes{Interval: errorEvery}}, false, false, false)
	go srv.Start() // ends with Shutdown, which Close waits for
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		return nil, fmt.Errorf("bus: the embedded server was not up within %s", startTimeout)
	}
	b.server = srv
	return b, nil
}

// Addr is where the server listens, nil where it doesn't.
func (b *Bus) Addr() net.Addr { return b.server.Addr() }

// InProcessConn is a connection to the server that needs no port: what nats.InProcessServer asks for.
func (b *Bus) InProcessConn() (net.Conn, error) { return b.server.InProcessConn() }

// Join is a connection of the controller to its own server. options come last.
func (b *Bus) Join(name string, options ...nats.Option) (*nats.Conn, error) {
	nc, err := b.join(name, controllerUser, options...)
	if err != nil {
		return nil, fmt.Errorf("bus: join as %s: %w", name, err)
	}
	return nc, nil
}

func (b *Bus) join(name, user string, more ...nats.Option) (*nats.Conn, error) {
	options := []nats.Option{nats.InProcessServer(b), nats.Name(name), nats.UserInfo(user, b.secret), nats.MaxReconnects(-1), logErrors(b.log)}
	return nats.Connect("", append(options, more...)...)
}

// Close stops the server and waits until it has stopped.
func (b *Bus) Close() {
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

// Join connects to a bus, and goes on trying for ever: a node that starts before its controller waits for it. servers are HOST:PORT
// or URLs. Nothing is kept to be sent later: a heartbeat that comes late is a lie. changed is called, from any goroutine, when the
// connection was lost or is back. options come last.
func Join(servers []string, token, name string, log *slog.Logger, changed func(), more ...nats.Option) (*nats.Conn, error) {
	f := &failures{log: log, refused: "the bus refuses this node: " + remedy(servers), unreached: "the bus can't be reached"}
	options := []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) {
			log.Info("joined the bus", "server", nc.ConnectedUrlRedacted())
			f.over()
			changed()
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("joined the bus again", "server", nc.ConnectedUrlRedacted())
			f.over()
			changed()
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("lost the bus", "err", err)
			}
			changed()
		}),
		logErrors(log),
	}
	return persist(servers, token, name, f, append(options, more...)...)
}

// persist connects, and goes on trying for ever.
func persist(servers []string, token, name string, f *failures, more ...nats.Option) (*nats.Conn, error) {
	var joining atomic.Pointer[nats.Conn]
	options := []nats.Option{
		nats.Name(name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1),
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(handshakeTimeout), nats.IgnoreAuthErrorAbort(),
		nats.SetCustomDialer(&onlyDialer{}),
		nats.CustomReconnectDelay(func(n int) time.Duration {
			if nc := joining.Load(); nc != nil { // no handler is told of a server that refuses
				f.tell(nc.LastError())
			}
			return reconnectDelay(n)
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { f.tell(err) }),
	}
	nc, err := connect(servers, token, append(options, more...)...)
	joining.Store(nc)
	return nc, err
}

// onlyDialer closes its connection before it makes another. nats.go forgets one over which it failed to join; the server would keep it,
// and a fleet that fails to join would use up everybody's open files.
type onlyDialer struct{ conn net.Conn }

func (d *onlyDialer) Dial(network, address string) (net.Conn, error) {
	if d.conn != nil {
		_ = d.conn.Close() // it mostly is
	}
	var err error
	d.conn, err = net.DialTimeout(network, address, connectTimeout)
	return d.conn, err
}

func logErrors(log *slog.Logger) nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("bus", "err", err) })
}

// remedy is what to do about servers that refuse.
func remedy(servers []string) string {
	if strings.Contains(strings.Join(servers, ","), "@") {
		return "the user and password in its URL must be known there"
	}
	return "token_file must be a copy of the controller's"
}

// failures is why a bus can't be joined. It is tried again for ever, so only another reason is news.
type failures struct {
	log                *slog.Logger
	refused, unreached string               // what to say of it
	once               bool                 // that alone is news, whatever the reason
	changed            func(message string) // unless nil: what is said now, "" when it is over

	mu   sync.Mutex
	told string
}

func (f *failures) tell(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	message := f.unreached
	if refusal(err) {
		message = f.refused
	}
	news := err.Error()
	if f.once {
		news = message
	}
	level := slog.LevelWarn
	if f.told == news {
		level = slog.LevelDebug
	} else if f.changed != nil {
		f.changed(message)
	}
	f.told = news
	f.log.Log(context.Background(), level, message, "err", err)
}

func (f *failures) over() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.told != "" && f.changed != nil {
		f.changed("")
	}
	f.told = ""
}

// Visit connects to a bus for the moment: it fails if that can't be had now.
func Connect(servers []string, token, name string) (*nats.Conn, error) {
	return connect(servers, token, nats.Name(name), nats.Timeout(connectTimeout))
}

func connect(servers []string, token string, options ...nats.Option) (*nats.Conn, error) {
	if token != "" {
		options = append(options, nats.UserInfo(nodeUser, token))
	}
	nc, err := nats.Connect(strings.Join(servers, ","), options...)
	if errors.Is(err, nats.ErrAuthorization) {
		err = fmt.Errorf("%w: %s", err, remedy(servers))
	}
	if err != nil {
		return nil, fmt.Errorf("bus: join %s: %w", Redacted(strings.Join(servers, ",")), err)
	}
	return nc, nil
}

// userInfo matches what stands in a URL before its host. It reaches to the last @, because a password may contain @ and /.
var userInfo = regexp.MustCompile(`://[^\s,]*@`)

// Redacted is a text with xxxxx in place of the users and passwords in its URLs. Spaces or commas separate URLs.
func Redacted(text string) string { return userInfo.ReplaceAllString(text, "://xxxxx@") }

// reconnectDelay is the wait before the n-th round through the servers.
func reconnectDelay(n int) time.Duration {
	most := min(reconnectFirst<<min(n, 10), reconnectMost)
	return reconnectFirst/2 + mathrand.N(most)
}

// Loopback reports whether a listener at HOST:PORT can be reached only from this machine.
func Loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// natsLog is the embedded server's log in ours: what it tells of its clients is for debugging, what it can't do is not.
type natsLog struct {
	log  *slog.Logger
	warn *rate.Sometimes // anybody who reaches the bus can make errors without end
}

func (l natsLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l natsLog) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l natsLog) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l natsLog) Warnf(format string, v ...any)   { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l natsLog) Errorf(format string, v ...any) {
	l.warn.Do(func() { l.log.Warn(fmt.Sprintf(format, v...)) })
}
func (l natsLog) Fatalf(format string, v ...any) { l.log.Error(fmt.Sprintf(format, v...)) }
