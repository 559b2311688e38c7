package main

import (
	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
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
	clientFlags(cmd)
	outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var st api.Status
		raw, now, err := get(cmd, "/v1/status", nil, &st)
		if err != nil {
			return err
		}
		if err := show(cmd, raw, print.Status(st, now)); err != nil {
			return err
		}
		switch {
		case *check && !st.Sync.Open && !st.Well:
			return exitError{code: exitUnreachable}
		case *check && !st.Well:
			return exitError{code: exitFailed}
		}
		return nil
	}
	return cmd
}
