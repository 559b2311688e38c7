package main

import (
	"context"
	"fmt"
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
		web, err := demo.ListenWeb(args[0], *warmUp)
		if err != nil {
			return err
		}
		defer web.Close()
		for flag, value := range map[string]string{
			"name": web.Name, "role": "web", "leave-on-stop": config.LeaveAlways,
			"ready": fmt.Sprintf("http://%s/healthz", web.Addr()),
		} {
			if err := cmd.Flags().Set(flag, value); err != nil {
				return fmt.Errorf("--%s: %w", flag, err)
			}
		}
		for _, fact := range []string{"ipaddress=127.0.0.1", fmt.Sprintf("port=%d", web.Addr().Port)} {
			if err := cmd.Flags().Set("fact", fact); err != nil {
				return fmt.Errorf("--fact: %w", err)
			}
		}
		o := configOptions(cmd)
		o.Daemon = true
		cfg, err := config.Load(o)
		if err != nil {
			return err
		}
		log := daemon.NewLogger(cfg.Log, cmd.ErrOrStderr())
		return web.Run(cmd.Context(), cfg.StateDir, log, func(ctx context.Context) error {
			return daemon.RunAgent(ctx, cfg, log)
		})
	}
	return cmd
}
