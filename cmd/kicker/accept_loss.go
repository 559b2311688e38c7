package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kicker/controller/api"
)

func acceptLossCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept-loss role/R",
		Short: "Accept a held loss: remove these members now and kick their dependents",
		Long: `Accept a held loss: remove these members now and kick their dependents.

` + "`kicker roles role/R`" + ` lists the members whose removal is held. Use this when they are lost for good.`,
		Example: "  kicker accept-loss role/web",
		Args:    cobra.ExactArgs(1),
	}
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := orderLoss(cmd, api.LossOrder{Object: args[0]}); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: the loss is accepted\n", args[0])
		return err
	}
	return cmd
}
