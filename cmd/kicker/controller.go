package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/daemon"
	"kicker/config"
)

func controllerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Keep the inventory of live nodes, and kick the dependents of what changed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.RunController(cmd.Context(), configOptions(cmd), version, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.String("cluster", "main", "`name` of the cluster")
	f.String("listen", "127.0.0.1:"+config.BusPort, "`HOST:PORT` where the embedded NATS server listens for agents")
	f.String("bus-url", "", "`URL` of an existing NATS to use instead of the embedded one")
	f.String("api-listen", "127.0.0.1:"+config.APIPort, "`HOST:PORT` of the HTTP API")
	f.String("state-dir", "", "`directory` of the token and the API's socket")
	f.String("token-file", "", "`file` with the token that bus and API ask for beyond loopback; made if it is missing")
	f.Bool("insecure", false, "listen beyond loopback without a token")
	f.Duration("settle", time.Second, "wait this long after the first change after calm; 0 turns settling off")
	f.Duration("gone-after", config.Default().GoneAfter, "silence after which a node is gone")
	f.Bool("standby", false, "wait beside the controller that leads, and take over when it is silent; needs --bus-url")
	f.Var(new(shadowFlag), "shadow", "only report removals that the guard would hold (guard: shadow, not enforced)")
	f.Lookup("shadow").NoOptDefVal = "true"
	bindFlags(cmd, map[string]string{
		"cluster": "cluster", "listen": "bus.listen", "bus-url": "bus.url", "api-listen": "api.listen",
		"state-dir": "state_dir", "token-file": "token_file", "insecure": "insecure", "settle": "settle",
		"gone-after": "gone_after", "standby": "standby", "shadow": "guard",
	})
	return cmd
}

// shadowFlag is the key guard as a switch.
type shadowFlag string

func (s *shadowFlag) Set(text string) error {
	shadow, err := strconv.ParseBool(text)
	*s = "on"
	if shadow {
		*s = "shadow"
	}
	return err
}

func (s *shadowFlag) String() string { return string(*s) }

// Type is the one that pflag shows without a value.
func (s *shadowFlag) Type() string { return "boolfunc" }
