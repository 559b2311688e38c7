package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kicker/controller/api"
)

func acceptLossCommand() *cobra.Command {
	return asks(&cobra.Command{
		Use:   "accept-loss role/R",
		Short: "Accept a held loss: remove these members now and kick their dependents",
		Long: `Accept a held loss: remove these members now and kick their dependents.

` + "`kicker roles role/R`" + ` lists the members whose removal is held. Use this when they are lost for good.`,
		Example: "  kicker accept-loss role/web",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			done := fmt.Sprintf("%s: the loss is accepted\n", args[0])
			return orderLoss(cmd, api.LossOrder{Object: args[0]}, done)
		},
	})
}
