package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/inventory/query"
)

func inventoryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inventory [SELECTOR]...",
		Short: "List the nodes that are heard, by their facts",
		Long: `List the nodes that are heard, by their facts.

A selector compares facts with values: role=web, os.family=Debian,role!=db. A node is listed if all selectors match it.`,
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
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		var nodes []api.Node
		raw, err := c.get(cmd.Context(), "/v1/nodes", url.Values{"selector": selectors}, &nodes)
		if err != nil {
			return err
		}
		if output(cmd) == "json" {
			_, err = cmd.OutOrStdout().Write(raw)
		} else {
			err = printNodes(cmd.OutOrStdout(), nodes, output(cmd), c.now)
		}
		if err == nil && *failEmpty && len(nodes) == 0 {
			return exitError{exitEmpty, fmt.Errorf("no node matches %s", strings.Join(selectors, " "))}
		}
		return err
	}
	return cmd
}

func printNodes(w io.Writer, nodes []api.Node, format string, now time.Time) error {
	if format == "name" {
		for _, n := range nodes {
			if _, err := fmt.Fprintf(w, "node/%s\n", n.Name); err != nil {
				return err
			}
		}
		return nil
	}
	if len(nodes) == 0 {
		return nil
	}
	head := []string{"NODE", "LIFE", "READY", "ROLES", "ADDRESS", "AGE"}
	if format == "wide" {
		head = append(head, "OS", "INSTANCE", "BOOT", "NOT READY BECAUSE")
	}
	rows := [][]string{head}
	for _, n := range nodes {
		row := []string{"node/" + n.Name, string(n.Life), yesNo(n.Ready), orDash(strings.Join(n.Roles, ",")), fact(n.Facts, "ipaddress"), age(now.Sub(n.Joined))}
		if format == "wide" {
			row = append(row, fact(n.Facts, "os.name"), n.Instance, n.Boot, orDash(n.NotReady))
		}
		rows = append(rows, row)
	}
	return table(w, rows...)
}

func fact(facts inventory.Facts, path string) string {
	if value, ok := query.Lookup(facts, path); ok {
		return fmt.Sprint(value)
	}
	return "-"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
