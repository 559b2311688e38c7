package main

import (
	"errors"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

func runsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "runs [node/N | role/R]",
		Short: "List the runs of actions, the newest last",
		Args:  cobra.MaximumNArgs(1),
	}
	action := cmd.Flags().String("action", "", "only runs of this `action`")
	limit := cmd.Flags().Uint("limit", 20, "only the newest `n`")
	failEmpty := cmd.Flags().Bool("fail-empty", false, "exit with 4 if there is none")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{"limit": {strconv.FormatUint(uint64(*limit), 10)}}
		if *action != "" {
			query.Set("action", *action)
		}
		if len(args) == 1 {
			kind, name, err := object(args[0], "node", "role")
			if err != nil {
				return err
			}
			query.Set(kind, name)
		}
		runs, err := get(cmd, "/v1/runs", query, func(runs []api.Run, now time.Time) string {
			return print.Runs(runs, output(cmd), now)
		})
		if err == nil && *failEmpty && len(runs) == 0 {
			return exitError{exitEmpty, errors.New("the controller knows no such run")}
		}
		return err
	}
	return asks(cmd, "table", "wide", "json")
}
