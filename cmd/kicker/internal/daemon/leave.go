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

// Unreachable reports whether an error of Leave means that the bus or the agent does not answer.
func Unreachable(err error) bool {
	return errors.Is(err, bus.ErrUnreachable) || errors.Is(err, bus.ErrRejected) || errors.Is(err, inventory.ErrNoAgent)
}

// Leave makes a node leave. It returns when a controller knows that, with wait when no dependent uses the node.
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
		return fmt.Errorf("leave %s: timed out: the agent leaves, but no controller confirmed it", self.Node)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("leave %s: timed out: still waiting for %s. Keep the services running and run this again",
			self.Node, api.List(status.Waiting, 10))
	}
	return err
}

// askLeave tells the agent of node to leave, and asks until a controller has received that, with wait until it is done.
func askLeave(ctx context.Context, nc *nats.Conn, cluster, node string, wait bool) (inventory.LeaveStatus, error) {
	var status inventory.LeaveStatus
	for {
		once, cancel := context.WithTimeout(ctx, 2*time.Second) // then the question or the answer was lost
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
		time.Sleep(100 * time.Millisecond) // the next question fails if ctx ends meanwhile
	}
}
