package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"kicker/config"
	"kicker/controller/bus"
	"kicker/inventory"
)

// How a node that leaves is asked how far it is.
const (
	askLeaveEvery   = 100 * time.Millisecond
	askLeaveTimeout = 2 * time.Second // then the question or the answer was lost
)

func leaveCommand() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Say this node's goodbye: it is a member of nothing any more",
		Long: `Say this node's goodbye. It stops being a member of its roles at once; its agent runs on, and its dependents are kicked.
It returns when the controller has heard it; with --wait, when every dependent has applied a membership without this node: from then on the services may stop.
The goodbye holds until the agent is restarted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(configOptions(cmd))
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			farewell, err := leave(ctx, cfg, wait)
			if errors.Is(err, context.DeadlineExceeded) && len(farewell.Waiting) > 0 {
				err = fmt.Errorf("%w; still waiting for %s", err, strings.Join(farewell.Waiting, ", "))
			}
			if errors.Is(err, context.DeadlineExceeded) && !farewell.Received {
				err = fmt.Errorf("%w: the agent said it, and no controller answered", err)
			}
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				return exitError{exitTimeout, err}
			case errors.Is(err, inventory.ErrNoAgent), errors.Is(err, bus.ErrUnreachable), errors.Is(err, bus.ErrRejected):
				return exitError{exitUnreachable, err}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&wait, "wait", false, "return when no dependent is configured with this node any more")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this long")
	f.StringSlice("server", nil, "`HOST[:PORT]` of the controller, or URL of the bus")
	f.String("cluster", "main", "`name` of the cluster")
	f.String("name", "", "`name` of this node (default: its lower-cased FQDN)")
	f.String("token-file", "", "`file` with the token that the bus asks for")
	for flag, key := range map[string]string{"server": "agent.server", "cluster": "cluster", "name": "agent.name", "token-file": "token_file"} {
		bindFlag(cmd, flag, key)
	}
	return cmd
}

// leave tells the agent of this node to say goodbye, and with wait asks it until the node is released. It returns how far it came.
func leave(ctx context.Context, cfg config.Config, wait bool) (inventory.LeaveStatus, error) {
	var farewell inventory.LeaveStatus
	self, err := self(cfg)
	if err != nil {
		return farewell, err
	}
	token, err := nodeToken(cfg)
	if err != nil {
		return farewell, err
	}
	nc, err := bus.Connect(cfg.Agent.Servers(), token, "kicker leave "+self.Node)
	if err != nil {
		return farewell, fmt.Errorf("leave %s: %w", self.Node, err)
	}
	defer nc.Close()
	return askLeave(ctx, nc, self.Cluster, self.Node, wait)
}

// askLeave tells the agent of node to say goodbye, and goes on asking until the node is released, or at least heard of.
func askLeave(ctx context.Context, nc *nats.Conn, cluster, node string, wait bool) (inventory.LeaveStatus, error) {
	var farewell inventory.LeaveStatus
	ask := time.NewTicker(askLeaveEvery)
	defer ask.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, askLeaveTimeout)
		answer, err := inventory.RequestLeave(once, nc, cluster, node)
		cancel()
		lost := errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
		if err != nil && !lost {
			return farewell, err
		}
		if !lost {
			farewell = answer
		}
		if farewell.Released || farewell.Received && !wait {
			return farewell, nil
		}
		select {
		case <-ask.C:
		case <-ctx.Done():
			return farewell, fmt.Errorf("leave %s: %w", node, ctx.Err())
		}
	}
}
