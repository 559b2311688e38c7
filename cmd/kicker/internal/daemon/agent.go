// Package daemon runs what `kicker controller` and `kicker agent` are: it connects the packages that do the work.
package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"kicker/config"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// NewLogger is the log of a daemon, on w.
func NewLogger(c config.LogConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // config has checked it
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// RunAgent announces this node and runs its actions when it is kicked, until ctx ends.
func RunAgent(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("agent: find its own program: %w", err)
	}
	known := inventory.Identity{Cluster: cfg.Cluster, Node: cfg.Agent.Name, Instance: cfg.Agent.Instance}
	self, err := inventory.Detect(known)
	if err != nil {
		return err
	}
	token, err := readToken(cfg.TokenFile)
	if err != nil {
		return err
	}
	reconnected := make(chan struct{}, 1) // the connection may change before there is an announcer
	nc, err := bus.Join(cfg.Agent.Servers(), token, "kicker agent "+self.Node, log, func() { signalTo(reconnected) })
	if err != nil {
		return err
	}
	defer nc.Close()
	announcer, err := newAnnouncer(cfg, self, nc, log)
	if err != nil {
		return err
	}
	servers := bus.Redacted(strings.Join(cfg.Agent.Servers(), ","))
	log.Info("agent started", "node", self.Node, "cluster", self.Cluster, "servers", servers)
	return attend(ctx, cfg, self, nc, announcer, reconnected, shim(exe), log)
}

// signalTo leaves one signal in a channel of one.
func signalTo(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is one already
	}
}

// newAnnouncer makes an announcer with the node's facts: those of its machine, then those of its configuration.
func newAnnouncer(cfg config.Config, self inventory.Identity, nc *nats.Conn,
	log *slog.Logger) (*inventory.Announcer, error) {
	server, err := url.Parse(cmp.Or(cfg.Agent.Servers()...)) // the node's address is the one that it uses towards it
	if err != nil {
		return nil, fmt.Errorf("agent.server: %w", err)
	}
	facts := inventory.HostFacts(server.Host)
	if err := addFacts(facts, cfg.Agent); err != nil {
		return nil, err
	}
	a := inventory.NewAnnouncer(nc, self, log)
	a.LeaveOnStop = func() bool {
		mode := cfg.Agent.LeaveOnStop
		return mode == config.LeaveAlways || mode != config.LeaveNever && machineGoesDown()
	}
	if err := a.SetFacts(facts); err != nil {
		return nil, err
	}
	if cfg.Agent.Ready.Check != "" {
		a.SetChecking("not checked yet")
	}
	return a, nil
}

// addFacts adds the facts of an agent's configuration to those of its machine. The check's port is the fact port unless
// that is set.
func addFacts(facts inventory.Facts, c config.AgentConfig) error {
	facts.SetRoles(c.Roles)
	for _, text := range c.Facts {
		path, value, err := inventory.ParseFact(text)
		if err != nil {
			return err
		}
		canonical, err := inventory.MemberFact(path, value)
		if err != nil {
			return err
		}
		if err := facts.Set(path, canonical); err != nil {
			return err
		}
	}
	if c.Ready.Check == "" || facts["port"] != nil {
		return nil
	}
	check, err := c.Ready.Parse()
	if err == nil && check.Port() != "" {
		facts["port"] = check.Port()
	}
	return err
}

// attend runs the announcer and the runner of a node on its bus, until ctx ends.
func attend(ctx context.Context, cfg config.Config, self inventory.Identity, nc *nats.Conn,
	announcer *inventory.Announcer, reconnected <-chan struct{}, execute kick.Execute, log *slog.Logger) error {
	runner, err := kick.NewRunner(kick.RunnerConfig{
		Cluster: self.Cluster, Node: self.Node, Instance: self.Instance, Boot: self.Boot,
		Dir: filepath.Join(cfg.StateDir, "node", self.Node), Actions: cfg.Agent.Actions, Execute: execute, Log: log,
	})
	if err != nil {
		return err
	}
	announcer.OnBeacon = func(b inventory.Beacon) { runner.Seen(b.Epoch, b.ID) }
	group, ctx := errgroup.WithContext(ctx)
	// No heartbeat before it is known what the node has applied.
	announce := sync.OnceFunc(func() { group.Go(func() error { return announcer.Run(ctx) }) })
	group.Go(func() error {
		return runner.Run(ctx, nc, func(s kick.Status) {
			announcer.SetKick(encodeStatus(s))
			announce()
		})
	})
	group.Go(func() error {
		for {
			select {
			case <-reconnected:
				announcer.Reconnected()
			case <-ctx.Done():
				return nil
			}
		}
	})
	if cfg.Agent.Ready.Check != "" {
		check, err := cfg.Agent.Ready.Parse()
		if err != nil {
			return err
		}
		group.Go(func() error { return check.Watch(ctx, announcer.SetReady, announcer.SetChecking) })
	}
	return group.Wait()
}

// encodeStatus is kick's part of a heartbeat, empty if the node has no actions and runs none that was removed.
func encodeStatus(s kick.Status) json.RawMessage {
	if len(s.Actions) == 0 && s.Running == nil {
		return nil
	}
	data, _ := json.Marshal(s) // it has only texts and numbers
	return data
}

// machineGoesDown asks the init system. Without an answer the machine stays up, and the node is expected back.
func machineGoesDown() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	state, err := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // it fails in most states
	if len(state) > 0 || err == nil {
		return strings.TrimSpace(string(state)) == "stopping"
	}
	levels, _ := exec.CommandContext(ctx, "runlevel").Output() // "PREVIOUS PRESENT"
	_, present, _ := strings.Cut(strings.TrimSpace(string(levels)), " ")
	return present == "0" || present == "6"
}
