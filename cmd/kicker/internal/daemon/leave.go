package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"kicker/config"
	"kicker/controller/api"
	"kicker/controller/bus"
	"kicker/inventory"
)

// How the agent of a node that leaves is asked for the progress.
const (
	leaveInterval = 100 * time.Millisecond
	leaveTimeout  = 2 * time.Second // then the question or the answer was lost
)

// ErrTimeout is that a node did not leave in time.
var ErrTimeout = errors.New("timed out")

// Unreachable reports whether an error of Leave means that the bus or the agent does not answer.
func Unreachable(err error) bool {
	return errors.Is(err, bus.ErrUnreachable) || errors.Is(err, bus.ErrRejected) || errors.Is(err, inventory.ErrNoAgent)
}

// Leave tells the agent of a node to leave. It returns when a controller has received that, with wait when every
// dependent has applied a membership without the node.
func Leave(ctx context.Context, cfg config.Config, wait bool) error {
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
	status, err := askLeave(ctx, nc, self.Cluster, self.Node, wait)
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("leave %s: interrupted", self.Node)
	case errors.Is(err, context.DeadlineExceeded) && !status.Received:
		return fmt.Errorf("leave %s: %w: the agent leaves, but no controller confirmed it", self.Node, ErrTimeout)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("leave %s: %w: still waiting for %s. Keep the services running and run this again",
			self.Node, ErrTimeout, api.List(status.Waiting, 10))
	}
	return err
}

// askLeave tells the agent of node to leave, and asks again until a controller has received that, with wait until the
// node is released. It returns how far that has come.
func askLeave(ctx context.Context, nc *nats.Conn, cluster, node string, wait bool) (inventory.LeaveStatus, error) {
	var status inventory.LeaveStatus
	tick := time.NewTicker(leaveInterval)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, leaveTimeout)
		answer, err := inventory.RequestLeave(once, nc, cluster, node)
		cancel()
		if err == nil {
			status = answer
		} else if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return status, err
		}
		if status.Released || status.Received && !wait {
			return status, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return status, ctx.Err()
		}
	}
}
