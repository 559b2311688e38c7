package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kicker/controller/api"
)

func acceptLossCommand() *cobra.Command {
	return asks(&cobra.Command{
		Use:   "accept-loss role/R=N",
		Short: "Accept a held loss: remove these members now and kick their dependents",
		Long: `Accept a held loss: remove these members now and kick their dependents.

N is how many they are. ` + "`kicker roles role/R`" + ` lists them. If it is another number by now, nothing is accepted, and the command
exits with 1 and the list. Use this when they are lost for good. Doing nothing is safe: dependents keep them.`,
		Example: "  kicker accept-loss role/web=3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			role, n, err := roleAndNumber(args[0])
			if err != nil || n < 1 {
				return usageError("%q: write role/R=N, with the number of removals that are held, as in role/web=3", args[0])
			}
			done := fmt.Sprintf("%s: the loss of %s is accepted\n", role, api.Count(n, "member"))
			return orderLoss(cmd, api.LossOrder{Object: role, Accept: n}, done)
		},
	})
}

func expectLossCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "expect-loss role/R=PERCENT",
		Short: "Announce that members of a role will go, so that the guard does not hold them",
		Long: `Announce that up to PERCENT of a role's members will go, so that the guard does not hold their removal.

It is valid from now on, for the time of --for. The last member is held all the same. Nodes that leave with kicker
leave need no announcement.`,
		Example: "  kicker expect-loss role/web=50 --for 15m",
		Args:    cobra.ExactArgs(1),
	}
	within := cmd.Flags().Duration("for", 15*time.Minute, "how long the announcement is valid")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		role, percent, err := roleAndNumber(strings.TrimSuffix(args[0], "%"))
		if err != nil || percent < 1 || percent > 100 {
			return usageError("%q: write role/R=PERCENT, from 1 to 100, as in role/web=50", args[0])
		}
		if *within <= 0 {
			return usageError("--for %s: want more than 0, as in --for 15m", *within)
		}
		done := fmt.Sprintf("%s: up to %d %% may go within %s\n", role, percent, api.Duration(*within))
		return orderLoss(cmd, api.LossOrder{Object: role, Expect: percent, For: *within}, done)
	}
	return asks(cmd)
}

// roleAndNumber splits role/R=N. A role that is a selector has an equals sign of its own.
func roleAndNumber(arg string) (role string, n int, err error) {
	i := strings.LastIndexByte(arg, '=')
	n, err = strconv.Atoi(arg[i+1:])
	return arg[:max(i, 0)], n, err
}

// orderLoss sends what a person says of a loss, and prints done.
func orderLoss(cmd *cobra.Command, order api.LossOrder, done string) error {
	if _, _, err := object(order.Object, "role"); err != nil {
		return err
	}
	c, err := newClient(cmd)
	if err != nil {
		return err
	}
	order.By = caller()
	if _, err := c.Post(cmd.Context(), "/v1/losses", order, &struct{}{}); err != nil {
		return err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), done)
	return err
}
