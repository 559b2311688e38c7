package main

import (
	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether all is well, and if not, what is wrong and what to do",
		Long: `Say whether all is well, and if not, what is wrong and what to do.

The exit code is 0 if the controller answers. With --check it is 1 if there is a problem, and 3 if the controller is not
synced.`,
		Args: cobra.NoArgs,
	}
	check := cmd.Flags().Bool("check", false, "exit with 1 unless all is well")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		st, err := get(cmd, "/v1/status", nil, print.Status)
		switch {
		case err != nil || !*check || st.Well:
			return err
		case !st.Sync.Open:
			return exitError{code: exitUnreachable}
		}
		return exitError{code: exitFailed}
	}
	return asks(cmd, "table", "json")
}
