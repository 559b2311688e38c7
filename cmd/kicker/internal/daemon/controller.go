package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"kicker/config"
	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/bus"
	"kicker/controller/web"
	"kicker/inventory"
	"kicker/kick"
)

// RunController runs a controller with its bus and its API, until ctx ends. It logs to stderr.
func RunController(ctx context.Context, o config.Options, version string, stderr io.Writer) error {
	o.Daemon, o.Listens = true, true
	r := newReloader(o)
	cfg, err := config.Load(o)
	if err != nil {
		return err
	}
	log := NewLogger(cfg.Log, stderr)
	r.running, r.log = cfg, log
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	token, err := ensureToken(cfg.TokenPath())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.API.Listen)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	defer listener.Close()
	socket, err := web.ListenUnix(filepath.Join(cfg.StateDir, "api.sock"))
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	defer socket.Close()
	b, err := openBus(cfg, token, log)
	if err != nil {
		return err
	}
	defer b.close()
	log.Info("listening", "bus", b.where, "api", listener.Addr(), "socket", socket.Addr())

	return control(ctx, cfg.Config, b, log, func(ctx context.Context, c *controller.Controller) error {
		r.control = c
		trusted := web.Config{
			Trusted: true, Version: version, Log: log, View: c.View, Kick: c.Kick, Lose: c.Lose, Plan: r.plan,
			Leave: c.Leave, Leaving: c.Leaving,
		}
		open := trusted
		open.Trusted, open.Token, open.OpenReads = false, token, api.IsLoopback(cfg.API.Listen) || cfg.Insecure
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return r.run(ctx, hangups) })
		group.Go(func() error { return web.Serve(ctx, socket, web.Handler(trusted)) })
		group.Go(func() error { return web.Serve(ctx, listener, web.Handler(open)) })
		return group.Wait()
	})
}

// controllerBus is a bus as a controller needs it.
type controllerBus struct {
	where       string
	join        func(name string) (*nats.Conn, error)
	disconnects func(closed func(server string, client uint64, why string), lost func(why string)) (func(), error)
	close       func()
}

// openBus starts the embedded server, or uses the bus of the configuration.
func openBus(cfg config.Config, token string, log *slog.Logger) (controllerBus, error) {
	if cfg.Bus.URL != "" {
		return controllerBus{
			where: bus.Redacted(cfg.Bus.URL),
			join: func(name string) (*nats.Conn, error) {
				return bus.Join([]string{cfg.Bus.URL}, "", name, log, func() {})
			},
			disconnects: func(closed func(string, uint64, string), lost func(string)) (func(), error) {
				if cfg.Bus.SystemURL == "" {
					log.Info("no disconnect events: only silence shows a death", "remedy", "set bus.system_url")
					return func() {}, nil
				}
				stop, err := bus.Disconnects([]string{cfg.Bus.SystemURL}, log, closed, lost)
				if err != nil {
					err = fmt.Errorf("bus.system_url: %w", err)
				}
				return stop, err
			},
			close: func() {},
		}, nil
	}
	if cfg.TokenFile == "" {
		token = "" // it protects the API only
	}
	embedded, err := bus.Start(bus.Config{Listen: cfg.Bus.Listen, Token: token}, log)
	if err != nil {
		return controllerBus{}, err
	}
	return controllerBus{
		where: embedded.Addr().String(),
		join:  func(name string) (*nats.Conn, error) { return embedded.Join(name) },
		disconnects: func(closed func(string, uint64, string), _ func(string)) (func(), error) {
			return embedded.Disconnects(closed) // in this process none is lost
		},
		close: embedded.Close,
	}, nil
}

// control connects a controller to its bus and runs both, and serve beside them, until ctx ends.
func control(ctx context.Context, cfg controller.Config, b controllerBus, log *slog.Logger,
	serve func(context.Context, *controller.Controller) error) error {
	id := rand.Text()[:12]
	listener, err := b.join("kicker listener") // of its own, so that a flood of heartbeats does not delay a kick
	if err != nil {
		return err
	}
	defer listener.Close()
	sender, err := b.join("kicker controller")
	if err != nil {
		return err
	}
	defer sender.Close()

	inv := inventory.New()
	c, err := controller.New(cfg, id, inv, controllerSends(sender, cfg.Cluster, log), log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	received := make(chan inventory.Received, 1024)
	results := make(chan kick.Result, 1024)
	receive := func(r inventory.Received) {
		r.At = time.Now()
		put(ctx, received, r)
	}
	_, err = kick.ListenResults(sender, cfg.Cluster, func(r kick.Result) { put(ctx, results, r) },
		func(err error) { receive(inventory.Received{Invalid: err}) })
	if err != nil {
		return err
	}
	stop, err := b.disconnects(func(server string, client uint64, why string) {
		conn := inventory.Conn{Server: server, Client: client}
		receive(inventory.Received{Disconnect: &inventory.Disconnect{Conn: conn, Why: why}})
	}, func(why string) { receive(inventory.Received{DisconnectsLost: &why}) })
	if err != nil {
		return err
	}
	defer stop()

	group.Go(func() error { return inventory.Listen(ctx, listener, cfg.Cluster, id, inv, received) })
	group.Go(func() error { return c.Run(ctx, received, results) })
	group.Go(func() error { return serve(ctx, c) })
	return group.Wait()
}

func put[T any](ctx context.Context, c chan<- T, v T) {
	select {
	case c <- v:
	case <-ctx.Done():
	}
}

// controllerSends is the messages that a controller sends, over a connection to the bus.
func controllerSends(nc *nats.Conn, cluster string, log *slog.Logger) controller.Bus {
	warn := func(message string, err error) {
		if err != nil {
			log.Warn("message not sent", "message", message, "err", err)
		}
	}
	return controller.Bus{
		Send: func(ctx context.Context, k kick.Kick) (kick.Reply, error) { return kick.Send(ctx, nc, cluster, k) },
		Roster: func(ctx context.Context, node, action, role string) ([]kick.Member, string, error) {
			return kick.Roster(ctx, nc, cluster, node, action, role)
		},
		Probe: func(ctx context.Context, node string, others []string) ([]string, error) {
			return inventory.Probe(ctx, nc, cluster, node, others)
		},
		Ask:            func(node, do string) { warn("order", inventory.Ask(nc, cluster, node, do)) },
		RequestReports: func(d time.Duration) { warn("report request", inventory.RequestReports(nc, cluster, d)) },
		Beacon: func(id string, epoch int64, pace time.Duration) {
			beacon := inventory.Beacon{V: inventory.Version, ID: id, Epoch: epoch, Pace: pace.Milliseconds()}
			warn("beacon", inventory.SendBeacon(nc, cluster, beacon))
		},
		TellLeaving: func(node, agent string, status inventory.LeaveStatus) {
			warn("leave status", inventory.TellLeaving(nc, cluster, node, agent, status))
		},
		OrderLeave: func(node, agent string, last bool) {
			warn("order to leave", inventory.OrderLeave(nc, cluster, node, agent, last))
		},
	}
}

// ensureToken reads the token. A missing one is made first.
func ensureToken(path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := rand.Text()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return readToken(path)
	}
	if err == nil {
		_, err = f.WriteString(token + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return token, nil
}

// readToken is the token in a file, empty if there is no path.
func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty: remove it, and the controller makes a new one", path)
	}
	return token, nil
}
