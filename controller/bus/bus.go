// Package bus starts the NATS server that is embedded in a controller, and connects to a bus anywhere.
//
// A Bus is the embedded server. The controller joins it inside the process, as users whose password never leaves it.
// Nodes join over TCP with the token. Disconnects reports connections that are closed from their client's end, which
// the server knows before any silence shows it.
package bus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"
)

// How clients connect. They reconnect after a delay that grows and has a jitter, so that a fleet spreads.
const (
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 2 * time.Second
	startTimeout   = 10 * time.Second
	connectTimeout = 2 * time.Second // for a server to accept a connection
	errorEvery     = time.Second     // at most one of the server's errors is logged in this time
	maxConn        = 1 << 20         // the server's own default is 64 Ki

	// For the handshake after that. A client that gives up adds to the load of a busy server: with TLS and 10 000 nodes
	// 2 s were not always enough.
	handshakeTimeout = 5 * time.Second
)

// The users of the embedded server. Nodes can't see the system account, which has the server's own events.
const (
	nodeUser       = "kicker"
	controllerUser = "controller"
	systemUser     = "system"
)

// controllerSubjects are those on which nodes may not publish: to reach the bus is not enough to start a run.
var controllerSubjects = []string{
	"kicker.*.kick.>", "kicker.*.node.>", "kicker.*.controller", "kicker.*.report", "kicker.*.heartbeat._canary.>",
}

// Errors of Connect.
var (
	ErrRejected    = errors.New("the bus rejects this node")
	ErrUnreachable = errors.New("no bus answers")
)

// Config is where the embedded server listens.
type Config struct {
	Listen string // HOST:PORT; "": only this process can join
	Token  string // that nodes need; "": none
}

// Bus is an embedded NATS server.
type Bus struct {
	server *server.Server
	secret string // password of the controller and system users
	log    *slog.Logger
}

// Start starts an embedded server, which is ready when Start returns.
func Start(cfg Config, log *slog.Logger) (*Bus, error) {
	b := &Bus{secret: rand.Text(), log: log}
	nodes, system := server.NewAccount("KICKER"), server.NewAccount("SYS")
	opts := &server.Options{
		ServerName: "kicker", NoSigs: true, NoLog: true, MaxConn: maxConn, MaxPayload: 1 << 20,
		PingInterval: 20 * time.Second, AuthTimeout: 2 * handshakeTimeout.Seconds(), // the client gives up first
		Accounts: []*server.Account{nodes, system}, SystemAccount: system.Name,
		Users: []*server.User{
			{Username: nodeUser, Password: cfg.Token, Account: nodes, Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: controllerSubjects},
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
		number, notNumber := strconv.Atoi(port)
		if err != nil || notNumber != nil {
			return nil, fmt.Errorf("bus: listen %q: want HOST:PORT with a number as port", cfg.Listen)
		}
		opts.Host, opts.Port = host, cmp.Or(number, server.RANDOM_PORT)
		// The server would report a port that is in use only in its log, and never be ready.
		try, err := net.Listen("tcp", cfg.Listen)
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			err = errno
		}
		if err != nil {
			return nil, fmt.Errorf("bus: listen on %s: %w", cfg.Listen, err)
		}
		_ = try.Close()
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	srv.SetLoggerV2(natsLog{log, &rate.Sometimes{Interval: errorEvery}}, false, false, false)
	go srv.Start() // ends with Shutdown, which Close waits for
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		return nil, fmt.Errorf("bus: the embedded server was not ready within %s", startTimeout)
	}
	b.server = srv
	return b, nil
}

// Addr is where the server listens, nil if it doesn't.
func (b *Bus) Addr() net.Addr { return b.server.Addr() }

// InProcessConn connects to the server without a port, as nats.InProcessServer requires.
func (b *Bus) InProcessConn() (net.Conn, error) { return b.server.InProcessConn() }

// Join connects the controller to its own server. options override the defaults.
func (b *Bus) Join(name string, options ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect("", append([]nats.Option{
		nats.InProcessServer(b), nats.Name(name), nats.UserInfo(controllerUser, b.secret), nats.MaxReconnects(-1),
		logErrors(b.log),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("bus: join as %s: %w", name, err)
	}
	return nc, nil
}

// Close stops the server and waits until it has stopped.
func (b *Bus) Close() {
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

// Join connects to a bus, HOST:PORTs or URLs, and retries forever. Without a connection no message is buffered, because
// a heartbeat must not arrive late. changed is called, on any goroutine, when the bus is lost or restored.
func Join(
	servers []string, token, name string, log *slog.Logger, changed func(), options ...nats.Option,
) (*nats.Conn, error) {
	o := &outage{
		log: log, unreachable: "cannot reach the bus", rejected: ErrRejected.Error() + ": " + remedy(servers),
		everyCause: true, lost: func(string) {},
	}
	joined := func(message string) nats.ConnHandler {
		return func(nc *nats.Conn) {
			log.Info(message, "server", nc.ConnectedUrlRedacted())
			o.end()
			changed()
		}
	}
	return retry(servers, token, name, o, append([]nats.Option{
		nats.ConnectHandler(joined("bus joined")),
		nats.ReconnectHandler(joined("bus restored")),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("bus lost", "err", err)
			}
			changed()
		}),
		logErrors(log),
	}, options...)...)
}

// retry connects to a bus and retries forever. It reports to o why it can't.
func retry(servers []string, token, name string, o *outage, more ...nats.Option) (*nats.Conn, error) {
	var joining atomic.Pointer[nats.Conn]
	nc, err := connect(servers, token, append([]nats.Option{
		nats.Name(name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1),
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(handshakeTimeout),
		nats.IgnoreAuthErrorAbort(), nats.SetCustomDialer(&onlyDialer{}),
		nats.CustomReconnectDelay(func(n int) time.Duration {
			if nc := joining.Load(); nc != nil { // no handler is called when a server rejects
				o.report(nc.LastError())
			}
			return reconnectDelay(n)
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { o.report(err) }),
	}, more...)...)
	joining.Store(nc)
	return nc, err
}

// onlyDialer closes its former connection before it dials: nats.go leaves a connection open whose handshake failed, and
// a fleet that fails to join would use up the server's open files.
type onlyDialer struct{ conn net.Conn }

func (d *onlyDialer) Dial(network, address string) (net.Conn, error) {
	if d.conn != nil {
		_ = d.conn.Close() // mostly it is closed
	}
	var err error
	d.conn, err = net.DialTimeout(network, address, connectTimeout)
	return d.conn, err
}

func logErrors(log *slog.Logger) nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("bus error", "err", err) })
}

// remedy is what to do when servers reject a node.
func remedy(servers []string) string {
	if strings.Contains(strings.Join(servers, ","), "@") {
		return "the user and password in its URL must be known to the bus"
	}
	return "token_file must be a copy of the controller's"
}

// outage reports why a bus can't be joined. Clients retry forever, so only a new reason is a warning.
type outage struct {
	log                   *slog.Logger
	unreachable, rejected string           // the reasons
	everyCause            bool             // a new cause is a new reason
	lost                  func(why string) // called with each new reason, and with "" at the end

	mu   sync.Mutex
	last string // reason or cause; "": joined
}

func (o *outage) report(err error) {
	if err == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	why := o.unreachable
	if isRejection(err) {
		why = o.rejected
	}
	reason := why
	if o.everyCause {
		reason = err.Error()
	}
	level := slog.LevelDebug
	if reason != o.last {
		level = slog.LevelWarn
		o.lost(why)
	}
	o.last = reason
	o.log.Log(context.Background(), level, why, "err", err)
}

func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last != "" {
		o.lost("")
	}
	o.last = ""
}

// isRejection reports whether the server rejects the user. Other errors may pass.
func isRejection(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrPermissionViolation)
}

// Connect connects to a bus. It is an error if it can't do so now: ErrRejected, ErrUnreachable or another.
func Connect(servers []string, token, name string) (*nats.Conn, error) {
	return connect(servers, token, nats.Name(name), nats.Timeout(connectTimeout))
}

func connect(servers []string, token string, options ...nats.Option) (*nats.Conn, error) {
	if token != "" {
		options = append(options, nats.UserInfo(nodeUser, token))
	}
	nc, err := nats.Connect(strings.Join(servers, ","), options...)
	where := Redacted(strings.Join(servers, ","))
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return nil, fmt.Errorf("%w at %s: %s", ErrRejected, where, remedy(servers))
	case errors.Is(err, nats.ErrNoServers):
		return nil, fmt.Errorf("%w at %s", ErrUnreachable, where)
	case err != nil:
		return nil, fmt.Errorf("join the bus at %s: %w", where, err)
	}
	return nc, nil
}

// userInfo matches what stands in a URL before its host. It reaches to the last @: a password may contain @ and /.
var userInfo = regexp.MustCompile(`://[^\s,]*@`)

// Redacted is a text with xxxxx in place of the users and passwords in its URLs. Spaces or commas separate URLs.
func Redacted(text string) string { return userInfo.ReplaceAllString(text, "://xxxxx@") }

// reconnectDelay is the delay before the n-th round of all servers.
func reconnectDelay(n int) time.Duration {
	return reconnectFirst/2 + mathrand.N(min(reconnectFirst<<min(n, 10), reconnectMost))
}

// natsLog writes the embedded server's log into ours. What it says about its clients is for debugging.
type natsLog struct {
	log  *slog.Logger
	warn *rate.Sometimes // any client can cause errors without end
}

func (l natsLog) Noticef(format string, v ...any) { l.Debugf(format, v...) }
func (l natsLog) Tracef(format string, v ...any)  { l.Debugf(format, v...) }
func (l natsLog) Warnf(format string, v ...any)   { l.Debugf(format, v...) }
func (l natsLog) Debugf(format string, v ...any) {
	l.log.Debug("nats-server", "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Fatalf(format string, v ...any) {
	l.log.Error("nats-server", "err", fmt.Sprintf(format, v...))
}
func (l natsLog) Errorf(format string, v ...any) {
	l.warn.Do(func() { l.log.Warn("nats-server", "err", fmt.Sprintf(format, v...)) })
}
