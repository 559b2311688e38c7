package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/config"
	"kicker/controller/api"
)

func planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan --config NEW",
		Short: "Show what another configuration of the controller would change, and change nothing",
		Long: `Show what another configuration of the controller would change, and change nothing.

The running controller reads NEW as it would read its own file, with its own flags and environment. It answers what
would happen to each role, which removals the guard would hold, and which actions would become stale and be kicked.
The exit code is 0 in all these cases. With --check it is 1 if an action would become stale or a removal be held.`,
		Example: `  kicker plan --config new.yaml
  kicker plan --config new.yaml --check && mv new.yaml /etc/kicker/kicker.yaml`,
		Args: cobra.NoArgs,
	}
	check := cmd.Flags().Bool("check", false, "exit with 1 if an action would become stale or a removal would be held")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := newClient(cmd) // it checks the file, too
		if err != nil {
			return err
		}
		file, _ := config.Find(configOptions(cmd)) // newClient has found it
		if file == "" {
			return usageError("there is no configuration file: name one with --config NEW")
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		var p api.Plan
		raw, err := c.Post(cmd.Context(), "/v1/plan", text, &p)
		if err != nil {
			return err
		}
		err = show(cmd, raw, print.Plan(p))
		if err == nil && *check && (p.Stale() > 0 || slices.ContainsFunc(p.Roles, api.PlannedRole.HoldsMore)) {
			return exitError{code: exitFailed}
		}
		return err
	}
	return asks(cmd, "table", "json")
}
