package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kicker/controller/api"
	"kicker/kick"
)

func rolesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "roles [role/R]",
		Short:   "List the roles, or the members and dependents of one",
		Example: "  kicker roles\n  kicker roles role/web",
		Args:    cobra.MaximumNArgs(1),
	}
	clientFlags(cmd)
	outputFlag(cmd, "table", "json", "name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return showRole(cmd, args[0])
		}
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		var roles []api.Role
		raw, err := c.get(cmd.Context(), "/v1/roles", nil, &roles)
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		switch output(cmd) {
		case "json":
			_, err = w.Write(raw)
		case "name":
			for _, r := range roles {
				if _, err := fmt.Fprintf(w, "role/%s\n", r.Name); err != nil {
					return err
				}
			}
		default:
			err = printRoles(w, roles)
		}
		return err
	}
	return cmd
}

func printRoles(w io.Writer, roles []api.Role) error {
	if len(roles) == 0 {
		return nil
	}
	rows := [][]string{{"ROLE", "MEMBERS", "SELECTOR", "REVISION", "DEPENDENTS"}}
	for _, r := range roles {
		members := fmt.Sprintf("%d/%d", len(r.Members), len(r.Nodes))
		switch {
		case !r.Sync.Open:
			members = fmt.Sprintf("?/%d", len(r.Nodes))
		case r.Held != nil && !r.Held.Shadow:
			members += fmt.Sprintf(", %d held", len(r.Held.Nodes))
		}
		rows = append(rows, []string{"role/" + r.Name, members, orDash(r.Selector), orDash(r.Revision.Hash), orDash(firstFew(r.Dependents))})
	}
	return table(w, rows...)
}

func showRole(cmd *cobra.Command, arg string) error {
	_, name, err := object(arg, "role")
	if err != nil {
		return err
	}
	c, err := newClient(cmd)
	if err != nil {
		return err
	}
	var role api.Role
	raw, err := c.get(cmd.Context(), "/v1/roles/"+url.PathEscape(name), nil, &role)
	if err != nil {
		return err
	}
	switch w := cmd.OutOrStdout(); output(cmd) {
	case "json":
		_, err = w.Write(raw)
	case "name":
		_, err = fmt.Fprintf(w, "role/%s\n", role.Name)
	default:
		err = printRole(w, role, c.now)
	}
	return err
}

func printRole(w io.Writer, r api.Role, now time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "role/%s: %s\n", r.Name, count(len(r.Members), "member"))
	if r.Unknown {
		fmt.Fprintln(&b, "unknown: nothing declares it and nobody has ever borne it")
	}
	fmt.Fprintf(&b, "selector: %s\nrevision: %s\n", orDash(r.Selector), orDash(r.Revision.Hash))
	if len(r.DependsOn) > 0 {
		fmt.Fprintf(&b, "depends on: %s\n", strings.Join(r.DependsOn, ", "))
	}
	fmt.Fprintf(&b, "dependents: %s\n", orDash(strings.Join(r.Dependents, ", ")))
	var held []string
	if r.Held != nil {
		held = r.Held.Nodes
		explainHeld(func(format string, args ...any) { b.WriteString(printable(fmt.Sprintf(format, args...)) + "\n") }, r.Name, *r.Held, now)
	}
	nodes := slices.Concat(r.Nodes, held) // of those that are held some are not heard any more
	slices.Sort(nodes)
	if nodes = slices.Compact(nodes); len(nodes) > 0 {
		fmt.Fprintln(&b)
		head := []string{"NODE", "MEMBER"}
		for _, f := range r.MemberFacts {
			head = append(head, strings.ToUpper(f))
		}
		rows := [][]string{head}
		for _, node := range nodes {
			i := slices.IndexFunc(r.Members, func(m kick.Member) bool { return m.Node == node })
			row := []string{"node/" + node, yesNo(i >= 0)}
			if i >= 0 && slices.Contains(held, node) {
				row[1] = "held"
			}
			for _, f := range r.MemberFacts {
				cell := "-"
				if i >= 0 {
					cell = cellOf(r.Members[i].Facts[f])
				}
				row = append(row, cell)
			}
			rows = append(rows, row)
		}
		_ = table(&b, rows...) // a Builder takes everything
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cellOf shows text as it is, and any other value of a fact as JSON.
func cellOf(value any) string {
	if s, ok := value.(string); ok {
		return orDash(s)
	}
	if value == nil {
		return "-"
	}
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(b)
}
