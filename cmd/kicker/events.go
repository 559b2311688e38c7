package main

import (
	"encoding/json"
	"fmt"
	"io"
	"kicker/controller/api"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List what happened and was decided, the newest last",
		Long: `List what happened and was decided, the newest last.

With -f it goes on as things happen, until it is interrupted. With -o json an event is a line.`,
		Args: cobra.NoArgs,
	}
	follow := cmd.Flags().BoolP("follow", "f", false, "go on as things happen")
	since := cmd.Flags().Uint64("since", 0, "only events with a higher `number` than this")
	clientFlags(cmd)
	outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		if *follow {
			return c.follow(cmd.Context(), int64(*since), func(line []byte, e api.Event) (bool, error) {
				if output(cmd) == "json" {
					_, err := fmt.Fprintf(w, "%s\n", line)
					return false, err
				}
				return false, printEvent(w, e)
			})
		}
		var events []api.Event
		if _, err := c.get(cmd.Context(), "/v1/events", url.Values{"since": {strconv.FormatUint(*since, 10)}}, &events); err != nil {
			return err
		}
		for _, e := range events {
			if output(cmd) == "json" {
				err = json.NewEncoder(w).Encode(e)
			} else {
				err = printEvent(w, e)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func printEvent(w io.Writer, e api.Event) error {
	_, err := fmt.Fprintf(w, "%s  %-9s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Kind, printable(e.Text))
	return err
}
