package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/client"
	"kicker/cmd/kicker/internal/daemon"
	"kicker/config"
	"kicker/controller/api"
)

func leaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave [node/N]",
		Short: "Make this node leave: it stops being a member of its roles",
		Long: `Make this node leave: it stops being a member of its roles at once, and their dependents are kicked. Its agent
keeps running, and the node stays away until the agent is restarted. If no agent runs here, the command leaves as the
node, if an agent of that name and state_dir ever ran here.

With node/N the command asks the controller's API that this node leaves, whatever state its agent is in: dead, hung or
restarting. The node stays away until its agent is restarted.

The command returns when the controller has received that the node leaves. With --wait it returns when every dependent
has applied a membership without the node: then it is safe to stop the services there. Until then it prints who blocks
and for what. It exits with 6 as soon as all of them wait only for a person, and with 5 after --timeout. What the node
has begun stays: the command can be run again.`,
		Example: "  kicker leave --wait && systemctl stop nginx\n  kicker leave node/web4.example.org --wait",
		Args:    cobra.MaximumNArgs(1),
	}
	f := cmd.Flags()
	wait := f.Bool("wait", false, "wait until no dependent uses the node")
	last := f.Bool("last", false, "allow once that its roles become empty, or have fewer members than their min_members")
	timeout := f.Duration("timeout", 5*time.Minute, "give up after this long")
	f.StringSlice("server", nil, "`HOST[:PORT]` of the controller, or URL of the bus")
	f.String("cluster", "main", "`name` of the cluster")
	f.String("name", "", "`name` of this node (default: its lower-cased FQDN)")
	f.String("state-dir", "", "`directory` of this node's agent, if that does not run")
	asks(cmd)
	bindFlags(cmd, map[string]string{
		"server": "agent.server", "cluster": "cluster", "name": "agent.name", "state-dir": "state_dir",
		"api": "api.url", "token-file": "token_file",
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		notes := &leaveNotes{notes: newNotes(cmd.ErrOrStderr()), last: *last, began: time.Now()}
		if len(args) == 1 {
			for _, name := range []string{"server", "cluster", "name"} {
				if f.Changed(name) {
					return usageError("--%s is about this node: leave it out with node/N", name)
				}
			}
			return leaveNode(ctx, cmd, args[0], *wait, notes)
		}
		cfg, err := config.Load(configOptions(cmd))
		if err != nil {
			return err
		}
		notes.node = cmp.Or(cfg.Agent.Name, "this node")
		options := daemon.LeaveOptions{Wait: *wait, Last: *last, Progress: notes.follow}
		err = daemon.Leave(ctx, cfg, options)
		_, decided := errors.AsType[exitError](err)
		switch {
		case decided:
		case daemon.Unreachable(err):
			return exitError{exitUnreachable, err}
		case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return exitError{exitTimeout, err}
		}
		return err
	}
	return cmd
}

// leaveNode orders another node to leave, and with wait follows it until it is released.
func leaveNode(ctx context.Context, cmd *cobra.Command, arg string, wait bool, notes *leaveNotes) error {
	_, node, err := object(arg, "node")
	if err != nil {
		return err
	}
	c, err := newClient(cmd)
	if err != nil {
		return err
	}
	notes.node = node
	var status api.Leaving
	order := api.LeaveOrder{Object: "node/" + node, Last: notes.last, By: caller()}
	if _, err := c.Post(ctx, "/v1/leaves", order, &status); err != nil {
		return err
	}
	if status.Gone {
		text := fmt.Sprintf("node/%s is gone already, and no dependent uses it\n", node)
		if !status.Released {
			text = fmt.Sprintf("node/%s is gone already, but dependents may still use it\n", node)
		}
		if _, err := fmt.Fprint(cmd.OutOrStdout(), text); err != nil {
			return err
		}
	}
	for wait && !status.Released {
		if !status.Received {
			return fmt.Errorf("leave %s: %s: its agent was restarted. Run this again", node, status.Why)
		}
		if err := notes.follow(status.LeaveStatus); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return leaveEnded(ctx, node)
		case <-time.After(leaveAsk):
		}
		status = api.Leaving{}
		_, err := c.Get(ctx, "/v1/leaves/"+url.PathEscape(node), nil, &status)
		answer, isAnswer := errors.AsType[*client.Error](err)
		switch {
		case ctx.Err() != nil:
			return leaveEnded(ctx, node)
		case isAnswer && (answer.Status == 0 || answer.Status == http.StatusServiceUnavailable):
			status.Received, status.Why = true, answer.Error() // it restarts, or another one takes over
		case err != nil:
			return err
		}
	}
	return nil
}

// leaveAsk is the time between two questions how far leaving is.
const leaveAsk = 500 * time.Millisecond

func leaveEnded(ctx context.Context, node string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return exitError{exitTimeout, fmt.Errorf("leave %s: timed out. The order stands: run this again to wait", node)}
	}
	return fmt.Errorf("leave %s: interrupted. The order stands", node)
}
