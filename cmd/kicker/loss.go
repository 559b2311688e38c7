package main

import (
	"fmt"
	"kicker/controller/api"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func acceptLossCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept-loss role/R",
		Short: "Say that the loss which the guard holds is real",
		Long: `Say that the loss which the guard holds is real: those that are missing stop being members of the role now, and its
dependents are kicked. ` + "`kicker roles role/R`" + ` says who is missing.`,
		Example: "  kicker accept-loss role/web",
		Args:    cobra.ExactArgs(1),
	}
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := declareLoss(cmd, api.LossOrder{Object: args[0]}); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: the loss is accepted\n", args[0])
		return err
	}
	return cmd
}

func expectLossCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "expect-loss role/R=PERCENT",
		Short: "Say that members of a role are about to go",
		Long: `Say that up to so many percent of a role's members are about to go, which the guard then lets pass.

It holds for a while, from now on. The last member is held all the same. Nodes that say goodbye (kicker leave) need no announcement.`,
		Example: "  kicker expect-loss role/web=50 --for 15m",
		Args:    cobra.ExactArgs(1),
	}
	within := cmd.Flags().Duration("for", 15*time.Minute, "how long it holds")
	clientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		role, percent, err := parseExpected(args[0])
		if err != nil {
			return err
		}
		if *within <= 0 {
			return usageError("--for %s: want more than 0, as in --for 15m", *within)
		}
		if err := declareLoss(cmd, api.LossOrder{Object: role, Expect: percent, For: *within}); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: up to %d %% may go within %s\n", role, percent, *within)
		return err
	}
	return cmd
}

// parseExpected reads role/R=PERCENT. A role that is a selector has a = of its own.
func parseExpected(arg string) (role string, percent int, err error) {
	i := strings.LastIndexByte(arg, '=')
	percent, err = strconv.Atoi(strings.TrimSuffix(arg[i+1:], "%"))
	if i < 0 || err != nil || percent < 1 || percent > 100 {
		return "", 0, usageError("%q: write role/R=PERCENT, from 1 to 100, as in role/web=50", arg)
	}
	return arg[:i], percent, nil
}

func declareLoss(cmd *cobra.Command, order api.LossOrder) error {
	if _, _, err := object(order.Object, "role"); err != nil {
		return err
	}
	c, err := newClient(cmd)
	if err != nil {
		return err
	}
	order.By = whoAsks()
	_, err = c.ask(cmd.Context(), http.MethodPost, "/v1/losses", order, &struct{}{})
	return err
}
