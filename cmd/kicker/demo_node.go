package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/daemon"
	"kicker/cmd/kicker/internal/demo"
	"kicker/config"
)

// demoNodeCommand is a web server of the demo and its node's agent in one process.
func demoNodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "demo-node NAME",
		Short:  "Run a web server of a demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
	}
	agentFlags(cmd)
	warmUp := cmd.Flags().Duration("warm-up", 2*time.Second, "time until it is ready")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		web := demo.Web{Name: args[0], WarmUp: *warmUp, Listener: ln}
		addr := ln.Addr().(*net.TCPAddr)
		if err := cmd.ParseFlags([]string{
			"--name=" + web.Name, "--role=web", "--leave-on-stop=" + config.LeaveAlways,
			fmt.Sprintf("--ready=http://%s/healthz", addr),
			"--fact=ipaddress=127.0.0.1", fmt.Sprintf("--fact=port=%d", addr.Port),
		}); err != nil {
			return err
		}
		o := configOptions(cmd)
		o.Daemon = true
		cfg, err := config.Load(o)
		if err != nil {
			return err
		}
		log := daemon.NewLogger(cfg.Log, cmd.ErrOrStderr())
		return web.Run(cmd.Context(), cfg.StateDir, func(ctx context.Context) error {
			return daemon.RunAgent(ctx, cfg, log)
		})
	}
	return cmd
}
