package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"kicker/config"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

const (
	leaveAnswer = 1500 * time.Millisecond // for an agent to answer; then the question or the answer was lost
	leavePause  = 100 * time.Millisecond  // between two questions
)

// Unreachable reports whether an error of Leave means that the bus or the agent does not answer.
func Unreachable(err error) bool {
	return errors.Is(err, bus.ErrUnreachable) || errors.Is(err, bus.ErrRejected) || errors.Is(err, inventory.ErrNoAgent)
}

// LeaveOptions is how a node leaves.
type LeaveOptions struct {
	Wait bool // until no dependent uses the node; otherwise until a controller knows that it leaves
	Last bool // the node's roles may become empty

	// Progress is called with every answer. Its error ends the wait. It may be nil.
	Progress func(inventory.LeaveStatus) error
}

// Leave makes this node leave. It stands in for the node's agent if that does not run.
func Leave(ctx context.Context, cfg config.Config, o LeaveOptions) error {
	// Only the name is needed here.
	known := inventory.Identity{Cluster: cfg.Cluster, Node: cfg.Agent.Name, Instance: "any", Boot: "any"}
	self, err := inventory.Detect(known)
	if err != nil {
		return err
	}
	token, err := readToken(cfg.TokenFile)
	if err != nil {
		return err
	}
	nc, err := bus.Connect(cfg.Agent.Servers(), token, "kicker leave "+self.Node)
	if err != nil {
		return fmt.Errorf("leave %s: %w", self.Node, err)
	}
	defer nc.Close()
	return leave(ctx, cfg, self.Node, nc, o)
}

func leave(ctx context.Context, cfg config.Config, node string, nc *nats.Conn, o LeaveOptions) error {
	status, err := askLeave(ctx, nc, cfg.Cluster, node, o, nil)
	if errors.Is(err, inventory.ErrNoAgent) {
		known := inventory.Identity{Cluster: cfg.Cluster, Node: node, Instance: cfg.Agent.Instance}
		status, err = standIn(ctx, cfg, known, nc, o)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("leave %s: interrupted", node)
	case errors.Is(err, context.DeadlineExceeded) && status.V == 0:
		return fmt.Errorf("leave %s: timed out: its agent does not answer: run kicker leave node/%s beside the controller",
			node, node)
	case errors.Is(err, context.DeadlineExceeded) && !status.Received:
		return fmt.Errorf("leave %s: timed out: the agent leaves, but no controller confirmed it", node)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("leave %s: timed out. Keep the services running and run this again", node)
	}
	return err
}

// standIn leaves as the node, because its agent does not run. The node's directory is locked meanwhile.
func standIn(
	ctx context.Context, cfg config.Config, self inventory.Identity, nc *nats.Conn, o LeaveOptions,
) (status inventory.LeaveStatus, err error) {
	dir := filepath.Join(cfg.StateDir, "node", self.Node)
	unlock, err := kick.LockStored(dir)
	if errors.Is(err, kick.ErrLocked) {
		return status, fmt.Errorf("leave %s: its agent runs, but is not on the bus (%w): see the agent's log, "+
			"or run kicker leave node/%s beside the controller", self.Node, inventory.ErrNoAgent, self.Node)
	}
	if errors.Is(err, fs.ErrNotExist) { // each agent makes its directory: the name may be a typo
		return status, fmt.Errorf("leave %s: %w, and none ever ran here: %s does not exist: check --name and --state-dir, "+
			"or run kicker leave node/%s beside the controller", self.Node, inventory.ErrNoAgent, dir, self.Node)
	}
	if err != nil {
		return status, fmt.Errorf("leave %s: no agent answers, and this command cannot stand in for it: %w: "+
			"run it as the agent's user", self.Node, err)
	}
	defer unlock()
	var actions kick.Status
	if self.Instance, actions, err = kick.Stored(dir, self.Instance, cfg.Agent.Actions); err != nil {
		return status, fmt.Errorf("leave %s: %w: run kicker leave node/%s beside the controller", self.Node, err, self.Node)
	}
	if self, err = inventory.Detect(self); err != nil {
		return status, err
	}
	return standInAs(ctx, self, actions, nc, o)
}

// standInAs announces that a node leaves, and asks itself how far that is.
func standInAs(
	ctx context.Context, self inventory.Identity, actions kick.Status, nc *nats.Conn, o LeaveOptions,
) (inventory.LeaveStatus, error) {
	announcer := inventory.NewAnnouncer(nc, self, slog.New(slog.DiscardHandler))
	announcer.SetKick(encodeStatus(actions))
	announcer.StandIn(o.Last)
	announcing, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- announcer.Run(announcing) }()
	status, err := askLeave(ctx, nc, self.Cluster, self.Node, o, ended)
	stop()
	<-ended // it has sent its last heartbeat
	return status, err
}

// askLeave tells the agent of node to leave, and asks until a controller has received that, with o.Wait until the node
// is released. If standIn is not nil it ends with the stand-in, which may not listen yet.
func askLeave(
	ctx context.Context, nc *nats.Conn, cluster, node string, o LeaveOptions, standIn chan error,
) (inventory.LeaveStatus, error) {
	var status inventory.LeaveStatus
	for {
		once, cancel := context.WithTimeout(ctx, leaveAnswer)
		answer, err := inventory.RequestLeave(once, nc, cluster, node, o.Last)
		cancel()
		switch {
		case err == nil:
			status = answer
		case ctx.Err() != nil:
			return status, ctx.Err()
		case standIn != nil && errors.Is(err, inventory.ErrNoAgent):
		case !errors.Is(err, context.DeadlineExceeded):
			return status, err
		}
		if status.Released || status.Received && !o.Wait {
			return status, nil
		}
		if o.Progress != nil {
			if err := o.Progress(status); err != nil {
				return status, err
			}
		}
		select {
		case err := <-standIn:
			standIn <- nil // for the caller, who waits for it
			return status, fmt.Errorf("leave %s: %w", node, err)
		case <-time.After(leavePause): // the next question fails if ctx ends meanwhile
		}
	}
}
