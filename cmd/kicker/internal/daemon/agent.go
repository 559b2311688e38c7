package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"kicker/config"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// RunAgent is the daemon of a node: it announces the node until ctx ends, and obeys kicks.
func RunAgent(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("agent: its own program: %w", err)
	}
	self, err := self(cfg)
	if err != nil {
		return err
	}
	token, err := nodeToken(cfg)
	if err != nil {
		return err
	}
	poke := make(chan struct{}, 1) // the connection may change before there is an announcer
	nc, err := bus.Join(cfg.Agent.Servers(), token, "kicker agent "+self.Node, log, func() {
		select {
		case poke <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer nc.Close()
	announcer, err := newAnnouncer(cfg, self, nc, log)
	if err != nil {
		return err
	}
	log.Info("agent started", "node", self.Node, "cluster", self.Cluster, "servers", bus.Redacted(strings.Join(cfg.Agent.Servers(), ",")))
	return attend(ctx, cfg, self, nc, announcer, poke, shim(exe), log)
}

// self is who this node is, as configured and as its machine says.
func self(cfg config.Config) (inventory.Identity, error) {
	return inventory.Detect(inventory.Identity{Cluster: cfg.Cluster, Node: cfg.Agent.Name, Instance: cfg.Agent.Instance})
}

func nodeToken(cfg config.Config) (string, error) {
	if cfg.TokenFile == "" {
		return "", nil
	}
	return readToken(cfg.TokenFile)
}

// newAnnouncer knows the node's facts: its machine's first, then what it was told.
func newAnnouncer(cfg config.Config, self inventory.Identity, nc *nats.Conn, log *slog.Logger) (*inventory.Announcer, error) {
	facts := inventory.HostFacts(towards(cfg.Agent.Servers()))
	facts.SetRoles(cfg.Agent.Roles)
	for _, text := range cfg.Agent.Facts {
		path, value, err := inventory.ParseFact(text)
		if err != nil {
			return nil, err
		}
		if err := facts.Set(path, value); err != nil {
			return nil, err
		}
	}
	a := inventory.NewAnnouncer(nc, self, log)
	a.LeaveOnStop = goodbye(cfg.Agent.LeaveOnStop)
	if err := a.SetFacts(facts); err != nil {
		return nil, err
	}
	if cfg.Agent.Ready.Check != "" {
		a.SetChecking("not checked yet")
	}
	return a, nil
}

// towards is HOST:PORT of the first server, where the node's address is reached from.
func towards(servers []string) string {
	if len(servers) == 0 {
		return ""
	}
	u, err := url.Parse(servers[0])
	if err != nil {
		return ""
	}
	return u.Host
}

// attend wires a node's two ends to its bus, and runs them until ctx ends.
func attend(ctx context.Context, cfg config.Config, self inventory.Identity, nc *nats.Conn, announcer *inventory.Announcer, poke <-chan struct{}, execute kick.Execute, log *slog.Logger) error {
	runner, err := kick.NewRunner(kick.RunnerConfig{
		Cluster: self.Cluster, Node: self.Node, Instance: self.Instance, Boot: self.Boot,
		Dir: filepath.Join(cfg.StateDir, "node", self.Node), Actions: cfg.Agent.Actions, Execute: execute, Log: log,
	})
	if err != nil {
		return err
	}
	announcer.OnBeacon = func(b inventory.Beacon) { runner.Seen(b.Epoch, b.ID) }
	group, ctx := errgroup.WithContext(ctx)
	known := make(chan struct{}) // what is applied: no beat before it
	group.Go(func() error {
		first := true
		return runner.Run(ctx, nc, func(s kick.Status) {
			announcer.SetKick(encodeStatus(s))
			if first {
				first = false
				close(known)
			}
		})
	})
	group.Go(func() error {
		select {
		case <-known:
			return announcer.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error {
		for {
			select {
			case <-poke:
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

// encodeStatus is kick's part of a heartbeat. A node without actions says nothing, unless one that it had runs still.
func encodeStatus(s kick.Status) json.RawMessage {
	if len(s.Actions) == 0 && s.Running == nil {
		return nil
	}
	data, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("status that is no JSON: %v", err)) // it is built from texts and numbers
	}
	return data
}

// goodbye says whether an agent that is stopped now will not be back.
func goodbye(mode string) func() bool {
	switch mode {
	case config.LeaveAlways:
		return func() bool { return true }
	case config.LeaveNever:
		return func() bool { return false }
	}
	return machineGoesDown
}

// machineGoesDown asks the init system. One that can't be asked says that the machine stays: the node then is expected back.
func machineGoesDown() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "systemctl", "is-system-running").Output(); len(out) > 0 || err == nil {
		return strings.TrimSpace(string(out)) == "stopping" // its exit code is 0 only while the system is running
	}
	out, err := exec.CommandContext(ctx, "runlevel").Output()
	if err != nil {
		return false
	}
	fields := strings.Fields(string(out)) // previous and present
	return len(fields) == 2 && (fields[1] == "0" || fields[1] == "6")
}
