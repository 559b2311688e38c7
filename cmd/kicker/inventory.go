package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

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
	cmd.RunE = func(cmd *cobra.Command, selectors []string) error {
		for _, s := range selectors {
			if _, err := query.Parse(s); err != nil {
				return usageError("%w", err)
			}
		}
		query := url.Values{"selector": selectors}
		nodes, err := get(cmd, "/v1/nodes", query, func(nodes []api.Node, now time.Time) string {
			return print.Nodes(nodes, output(cmd), now)
		})
		if err == nil && *failEmpty && len(nodes) == 0 {
			return exitError{exitEmpty, fmt.Errorf("no node matches %s", strings.Join(selectors, " "))}
		}
		return err
	}
	return asks(cmd, "table", "wide", "json", "name")
}
