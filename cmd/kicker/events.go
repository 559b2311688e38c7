package main

import (
	"encoding/json"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List what happened and was decided, the newest last",
		Long: `List what happened and was decided, the newest last.

With -f it prints new events as they happen, until it is interrupted. With -o json each event is one line.`,
		Args: cobra.NoArgs,
	}
	follow := cmd.Flags().BoolP("follow", "f", false, "print new events as they happen")
	since := cmd.Flags().Uint64("since", 0, "only events with a higher `number` than this")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		printEvent := func(e api.Event) error {
			if output(cmd) == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(e)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), print.Event(e))
			return err
		}
		if *follow {
			return c.Follow(cmd.Context(), int64(*since), func(e api.Event) (bool, error) { return false, printEvent(e) })
		}
		var events []api.Event
		query := url.Values{"since": {strconv.FormatUint(*since, 10)}}
		if _, err := c.Get(cmd.Context(), "/v1/events", query, &events); err != nil {
			return err
		}
		for _, e := range events {
			if err := printEvent(e); err != nil {
				return err
			}
		}
		return nil
	}
	return asks(cmd, "table", "json")
}
