package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain node/N",
		Short:   "Explain the state of a node and its actions, and what comes next",
		Example: "  kicker explain node/lb1.example.org",
		Args:    cobra.ExactArgs(1),
	}
	clientFlags(cmd)
	outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		_, name, err := object(args[0], "node")
		if err != nil {
			return err
		}
		var e api.Explanation
		raw, now, err := get(cmd, "/v1/nodes/"+url.PathEscape(name)+"/explain", nil, &e)
		if err != nil {
			return err
		}
		return show(cmd, raw, print.Explanation(e, now))
	}
	return cmd
}
