package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
)

func explainCommand() *cobra.Command {
	return asks(&cobra.Command{
		Use:   "explain node/N",
		Short: "Explain the state of a node and its actions, and what comes next",
		Long: `Explain the state of a node and its actions, and what comes next.

It also says why the node is not a member of a role. A node that is gone is remembered for 24 hours: then the command
says when and why it departed, and which dependents still use it.`,
		Example: "  kicker explain node/lb1.example.org",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, name, err := object(args[0], "node")
			if err != nil {
				return err
			}
			_, err = get(cmd, "/v1/nodes/"+url.PathEscape(name)+"/explain", nil, print.Explanation)
			return err
		},
	}, "text", "json")
}
