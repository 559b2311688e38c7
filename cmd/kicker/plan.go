package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kicker/config"
	"kicker/controller/api"
)

func planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan --config NEW",
		Short: "Say what another configuration of the controller would change, and change nothing",
		Long: `Say what another configuration of the controller would change, and change nothing.

It asks the running controller, which reads NEW as it would read its own file, with its own flags and environment: what would
happen to each role, whom the guard would hold, and which actions would become stale and so be kicked. Exits with 0 whatever it
says. With --check it exits with 1 if an action would become stale, or a removal be held.`,
		Example: "  kicker plan --config new.yaml\n  kicker plan --config new.yaml --check && mv new.yaml /etc/kicker/kicker.yaml",
		Args:    cobra.NoArgs,
	}
	check := cmd.Flags().Bool("check", false, "exit with 1 if an action would become stale, or a removal be held")
	clientFlags(cmd)
	outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := config.Find(configOptions(cmd))
		if err != nil {
			return err
		}
		if file == "" {
			return usageError("there is no configuration file: say which with --config NEW")
		}
		c, err := newClient(cmd) // it checks the file, too
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		var p api.Plan
		raw, err := c.ask(cmd.Context(), http.MethodPost, "/v1/plan", text, &p)
		if err != nil {
			return err
		}
		if output(cmd) == "json" {
			_, err = cmd.OutOrStdout().Write(raw)
		} else {
			err = printPlan(cmd.OutOrStdout(), p)
		}
		if err == nil && *check && (p.Stale() > 0 || slices.ContainsFunc(p.Roles, holdsMore)) {
			return exitError{code: exitFailed}
		}
		return err
	}
	return cmd
}

func printPlan(w io.Writer, p api.Plan) error {
	var b strings.Builder
	if len(p.Roles) > 0 {
		rows := [][]string{{"ROLE", "MEMBERS", "WHAT CHANGES"}}
		for _, r := range p.Roles {
			rows = append(rows, []string{"role/" + r.Name, plannedMembers(r), plannedChange(r)})
		}
		_ = table(&b, rows...) // a Builder takes everything
		fmt.Fprintln(&b)
	}
	if len(p.Actions) > 0 {
		rows := [][]string{{"NODE", "ACTION", "NOW", "THEN", "BECAUSE OF"}}
		for _, a := range p.Actions {
			rows = append(rows, []string{"node/" + a.Node, a.Action, orDash(string(a.Now.State)), string(a.Then.State), orDash(a.Then.Reason)})
		}
		_ = table(&b, rows...)
		fmt.Fprintln(&b)
	}
	switch stale := p.Stale(); {
	case len(p.Roles)+len(p.Actions) == 0:
		fmt.Fprintln(&b, "no role and no action would change")
	case stale == 0:
		fmt.Fprintln(&b, "no action would become stale")
	default:
		fmt.Fprintf(&b, "%s would become stale\n", count(stale, "action"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func plannedMembers(r api.PlannedRole) string {
	switch {
	case r.Now == nil:
		return fmt.Sprintf("none → %d", len(r.Then.Members))
	case r.Then == nil:
		return fmt.Sprintf("%d → none", len(r.Now.Members))
	case len(r.Now.Members) == len(r.Then.Members):
		return fmt.Sprint(len(r.Now.Members))
	}
	return fmt.Sprintf("%d → %d", len(r.Now.Members), len(r.Then.Members))
}

func plannedChange(r api.PlannedRole) string {
	var parts []string
	for _, list := range []struct {
		sign  string
		nodes []string
	}{{"+", r.Added}, {"-", r.Removed}, {"~", r.Changed}} {
		if len(list.nodes) > 0 {
			parts = append(parts, list.sign+" "+firstFew(list.nodes))
		}
	}
	switch {
	case r.Now == nil:
		parts = append(parts, "new")
	case r.Then == nil:
		parts = append(parts, "nobody needs or bears it any more")
	default:
		parts = append(parts, changedSettings(*r.Now, *r.Then)...)
	}
	if holdsMore(r) {
		h := r.Then.Held
		verb := "would be held"
		if h.Shadow {
			verb = "would be held, were the guard no shadow"
		}
		parts = append(parts, fmt.Sprintf("the removal of %s %s: %s", firstFew(h.Nodes), verb, h.Why))
	}
	if r.Now != nil && r.Then != nil && !slices.Equal(r.Now.Dependents, r.Then.Dependents) {
		parts = append(parts, "dependents "+orDash(firstFew(r.Then.Dependents)))
	}
	return cmp.Or(strings.Join(parts, "; "), "its settings")
}

func changedSettings(now, then api.Role) []string {
	var parts []string
	if now.Selector != then.Selector {
		parts = append(parts, "selector "+then.Selector)
	}
	if !slices.Equal(now.MemberFacts, then.MemberFacts) {
		parts = append(parts, "member facts "+orDash(strings.Join(then.MemberFacts, ", ")))
	}
	if !slices.Equal(now.DependsOn, then.DependsOn) {
		parts = append(parts, "depends on "+orDash(strings.Join(then.DependsOn, ", ")))
	}
	return parts
}

// holdsMore reports whether the guard of a role would hold removals that it does not hold now.
func holdsMore(r api.PlannedRole) bool {
	if r.Then == nil || r.Then.Held == nil {
		return false
	}
	return r.Now == nil || r.Now.Held == nil || !slices.Equal(r.Now.Held.Nodes, r.Then.Held.Nodes)
}
