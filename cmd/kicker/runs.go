package main

import (
	"fmt"
	"io"
	"kicker/controller/api"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func runsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "runs [node/N | role/R]",
		Short: "List the runs of actions, the newest last",
		Args:  cobra.MaximumNArgs(1),
	}
	action := cmd.Flags().String("action", "", "only runs of this `action`")
	limit := cmd.Flags().Uint("limit", 20, "the newest `n` only")
	failEmpty := cmd.Flags().Bool("fail-empty", false, "exit with 4 if there is none")
	clientFlags(cmd)
	outputFlag(cmd, "table", "wide", "json")
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
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		var runs []api.Run
		raw, err := c.get(cmd.Context(), "/v1/runs", query, &runs)
		if err != nil {
			return err
		}
		if output(cmd) == "json" {
			_, err = cmd.OutOrStdout().Write(raw)
		} else {
			err = printRuns(cmd.OutOrStdout(), runs, output(cmd) == "wide", c.now)
		}
		if err == nil && *failEmpty && len(runs) == 0 {
			return exitError{exitEmpty, fmt.Errorf("no run is known")}
		}
		return err
	}
	return cmd
}

func printRuns(w io.Writer, runs []api.Run, wide bool, now time.Time) error {
	if len(runs) == 0 {
		return nil
	}
	head := []string{"NODE", "ACTION", "AGE", "OUTCOME", "TOOK", "REASON"}
	if wide {
		head = append(head, "RUN", "ERROR")
	}
	rows := [][]string{head}
	for _, r := range runs {
		row := []string{"node/" + r.Node, r.Action, age(now.Sub(r.Started)), outcomeText(r), "-", orDash(r.Reason)}
		if !r.Ended.IsZero() {
			row[4] = took(r.Duration)
		}
		if wide {
			row = append(row, r.ID, orDash(r.Error))
		}
		rows = append(rows, row)
	}
	return table(w, rows...)
}

func outcomeText(r api.Run) string {
	switch {
	case r.Ended.IsZero():
		return "in progress"
	case r.Exit > 0:
		return fmt.Sprintf("%s, exit %d", r.Outcome, r.Exit)
	}
	return string(r.Outcome)
}
