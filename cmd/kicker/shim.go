package main

import (
	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/daemon"
)

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
