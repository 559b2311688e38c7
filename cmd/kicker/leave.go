package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/daemon"
	"kicker/config"
)

func leaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Make this node leave: it stops being a member of its roles",
		Long: `Make this node leave: it stops being a member of its roles at once, and their dependents are kicked. Its agent
keeps running, and the node stays away until the agent is restarted.

The command returns when the controller has received that the node leaves. With --wait it returns when every dependent
has applied a membership without this node: then it is safe to stop the services here.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	wait := f.Bool("wait", false, "wait until no dependent uses this node")
	timeout := f.Duration("timeout", 5*time.Minute, "give up after this long")
	f.StringSlice("server", nil, "`HOST[:PORT]` of the controller, or URL of the bus")
	f.String("cluster", "main", "`name` of the cluster")
	f.String("name", "", "`name` of this node (default: its lower-cased FQDN)")
	f.String("token-file", "", "`file` with the token that the bus asks for")
	bindFlags(cmd, map[string]string{
		"server": "agent.server", "cluster": "cluster", "name": "agent.name", "token-file": "token_file",
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(configOptions(cmd))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		err = daemon.Leave(ctx, cfg, *wait)
		switch {
		case daemon.Unreachable(err):
			return exitError{exitUnreachable, err}
		case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return exitError{exitTimeout, err}
		}
		return err
	}
	return cmd
}
