package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/demo"
)

const demoHelp = `Starts a controller, a load balancer and three web servers on this machine, each a process of its
own, and prints what happens to them. If HAProxy is installed, a real one follows; otherwise the demo shows the file
that it would read.

Then it runs until it is interrupted, and prints commands that start one more web server, kill one, and list what is
there. With --once it plays a whole story by itself instead, and fails if a step has no effect.

All its files are in one temporary directory and its ports on 127.0.0.1. It removes everything when it ends.`

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Play with a small cluster on this machine",
		Long:  demoHelp,
		Args:  cobra.NoArgs,
	}
	once := cmd.Flags().Bool("once", false, "play a story, check that each step has its effect, and end")
	haproxy := cmd.Flags().String("haproxy", "",
		"HAProxy's program `FILE`, or none (default: the installed one, if any)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// Its terminal or pipe may close first.
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP, syscall.SIGPIPE)
		defer stop()
		program, err := demo.FindHAProxy(*haproxy)
		if err != nil {
			return usageError("%w", err)
		}
		return demo.Run(ctx, program, *once, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// demoReloadCommand is how the load balancer's action reloads HAProxy.
func demoReloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "demo-reload DIRECTORY",
		Short:  "Reload the HAProxy of a demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return demo.Reload(cmd.Context(), args[0], os.Getenv("KICKER_RUN"))
		},
	}
}
