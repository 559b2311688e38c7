package main

import (
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/daemon"
	"kicker/config"
)

func agentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Announce this node, and run its actions when it is kicked",
		Example: `  kicker agent --server kicker.example.com --role web --ready tcp:8080
  kicker agent --server kicker.example.com --role haproxy --depends-on web --action 'reload=/usr/local/bin/reload-lb'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := configOptions(cmd)
			o.Daemon = true
			cfg, err := config.Load(o)
			if err != nil {
				return err
			}
			return daemon.RunAgent(cmd.Context(), cfg, daemon.NewLogger(cfg.Log, cmd.ErrOrStderr()))
		},
	}
	agentFlags(cmd)
	return cmd
}

func agentFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSlice("server", nil, "`HOST[:PORT]` of the controller, or URL of the bus; several are tried in turn")
	f.String("cluster", "main", "`name` of the cluster")
	f.String("name", "", "`name` of this node (default: its lower-cased FQDN)")
	f.String("instance", "", "`id` of this machine (default: its product UUID, else its machine id)")
	f.StringArray("role", nil, "`role` that this node has; repeatable")
	f.StringArray("depends-on", nil, "`role`, or selector, that the actions of this node depend on; repeatable")
	f.StringArray("fact", nil, "`NAME=VALUE`, a fact of this node; repeatable")
	f.String("ready", "", "`CHECK` of this node's service: tcp:PORT, which also gives the fact port, http:URL or exec:COMMAND")
	f.Duration("ready-interval", time.Second, "time between two checks")
	f.Int("ready-rise", 1, "successes in a row that make it ready")
	f.Int("ready-fall", 3, "failures in a row that make it not ready")
	f.StringArray("action", nil, "`NAME=COMMAND` to run when kicked; repeatable")
	f.String("leave-on-stop", config.LeaveAuto, "leave when stopped: `auto|always|never`")
	f.String("state-dir", "", "`directory` for what must outlive the agent")
	f.String("token-file", "", "`file` with the token that the bus asks for")
	bindFlags(cmd, map[string]string{
		"server": "agent.server", "cluster": "cluster", "name": "agent.name", "instance": "agent.instance",
		"role": "agent.roles", "depends-on": "agent.depends_on", "fact": "agent.facts", "action": "agent.actions",
		"ready": "agent.ready.check", "ready-interval": "agent.ready.interval", "ready-rise": "agent.ready.rise",
		"ready-fall": "agent.ready.fall", "leave-on-stop": "agent.leave_on_stop", "state-dir": "state_dir",
		"token-file": "token_file",
	})
}

// shimCommand is what the agent starts for each run of an action.
func shimCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "shim DIRECTORY",
		Short:  "Run one action for an agent",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if code := daemon.RunShim(args[0]); code != 0 {
				return exitError{code: code}
			}
			return nil
		},
	}
}
