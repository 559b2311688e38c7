package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
	"kicker/inventory/query"
)

func inventoryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inventory [SELECTOR]...",
		Short: "List the nodes, selected by their facts",
		Long: `List the nodes, selected by their facts.

A selector compares facts with values: role=web, os.family=Debian,role!=db. A node is listed if all selectors match.`,
		Example: "  kicker inventory role=web os.family=Debian\n  kicker inventory -o name role=web --fail-empty",
		Args:    cobra.ArbitraryArgs,
	}
	failEmpty := cmd.Flags().Bool("fail-empty", false, "exit with 4 if no node matches")
	clientFlags(cmd)
	outputFlag(cmd, "table", "wide", "json", "name")
	cmd.RunE = func(cmd *cobra.Command, selectors []string) error {
		for _, s := range selectors {
			if _, err := query.Parse(s); err != nil {
				return usageError("%w", err)
			}
		}
		var nodes []api.Node
		raw, now, err := get(cmd, "/v1/nodes", url.Values{"selector": selectors}, &nodes)
		if err != nil {
			return err
		}
		text := print.Nodes(nodes, output(cmd) == "wide", now)
		if output(cmd) == "name" {
			text = ""
			for _, n := range nodes {
				text += "node/" + n.Name + "\n"
			}
		}
		if err := show(cmd, raw, text); err != nil {
			return err
		}
		if *failEmpty && len(nodes) == 0 {
			return exitError{exitEmpty, fmt.Errorf("no node matches %s", strings.Join(selectors, " "))}
		}
		return nil
	}
	return cmd
}
