package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether all is well, and if not, what",
		Long: `Say whether all is well, and if not, what.

Exits with 0 when the controller answers, whatever it says. With --check it exits with 1 if something is not well, and with 3
if the controller is not synced.`,
		Args: cobra.NoArgs,
	}
	check := cmd.Flags().Bool("check", false, "exit with 1 unless all is well")
	clientFlags(cmd)
	outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		var st api.Status
		raw, err := c.get(cmd.Context(), "/v1/status", nil, &st)
		if err != nil {
			return err
		}
		if output(cmd) == "json" {
			_, err = cmd.OutOrStdout().Write(raw)
		} else {
			err = printStatus(cmd.OutOrStdout(), st, c.now)
		}
		if err == nil && *check && !st.Well {
			return exitError{code: exitOf(st)}
		}
		return err
	}
	return cmd
}

func exitOf(st api.Status) int {
	if !st.Sync.Open {
		return exitUnreachable
	}
	return exitFailed
}

func printStatus(w io.Writer, st api.Status, now time.Time) error {
	var b strings.Builder
	if st.Well {
		fmt.Fprintf(&b, "cluster %s: all is well\n", st.Identity.Cluster)
	} else {
		fmt.Fprintf(&b, "cluster %s: %s\n", st.Identity.Cluster, count(len(st.Problems), "problem"))
		for _, p := range st.Problems {
			fmt.Fprintf(&b, "  %s\n", printable(p.Text))
		}
	}
	fmt.Fprintf(&b, "controller %s: up %s, %s\n", st.Identity.ID, age(now.Sub(st.Identity.Started)), syncText(st.Sync))
	if st.Leader != "" {
		fmt.Fprintf(&b, "it is a standby, and kicks nobody: controller %s leads\n", printable(st.Leader))
	}
	if late := now.Sub(st.At); late > 15*time.Second {
		fmt.Fprintf(&b, "its loop has not turned for %s: it hangs\n", age(late))
	}
	fmt.Fprintf(&b, "nodes: %s\n", livesText(st.Nodes))
	fmt.Fprintf(&b, "actions: %s\n", statesText(st.Actions))
	for _, circle := range st.Cycles {
		fmt.Fprintf(&b, "note: %s\n", printable(circle.String()))
	}
	if st.InvalidMessages > 0 {
		fmt.Fprintf(&b, "refused messages: %d (kicker events says which)\n", st.InvalidMessages)
	}
	if len(st.Roles) > 0 {
		fmt.Fprintln(&b)
		rows := [][]string{{"ROLE", "MEMBERS", "DEPENDENTS", "NOT SERVING"}}
		for _, r := range st.Roles {
			members, absent := fmt.Sprintf("%d/%d", r.Members, r.Nodes), orDash(firstFew(r.NotMembers))
			switch {
			case r.Unknown:
				absent = "nobody has ever borne it"
			case st.Sync.Open && !r.Sync.Open:
				members, absent = fmt.Sprintf("?/%d", r.Nodes), "not synced"
			case r.Held != nil && !r.Held.Shadow:
				members += fmt.Sprintf(", %d held", len(r.Held.Nodes))
			}
			rows = append(rows, []string{"role/" + r.Name, members, fmt.Sprint(r.Dependents), absent})
		}
		_ = table(&b, rows...) // a Builder takes everything
	}
	if len(st.Stale) > 0 {
		fmt.Fprintln(&b)
		rows := [][]string{{"NODE", "ACTION", "STATE", "SINCE", "LAST RUN", "WAITS FOR"}}
		for _, v := range st.Stale {
			rows = append(rows, []string{"node/" + v.Node, v.Action, string(v.State), age(now.Sub(v.Since)), lastText(v.Last), waitsText(v, now)})
		}
		_ = table(&b, rows...)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func syncText(s api.Sync) string {
	if s.Open {
		return "synced"
	}
	return "not synced (nobody is kicked): " + s.Why
}

func livesText(lives map[inventory.Life]int) string {
	var parts []string
	for _, life := range []inventory.Life{inventory.Alive, inventory.Suspect, inventory.Restarting, inventory.Left} {
		if n := lives[life]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, life))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none is heard")
}

func statesText(states map[api.State]int) string {
	var parts []string
	for _, state := range []api.State{api.Converged, api.Pending, api.Failing} {
		if n := states[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none depends on a role")
}

func lastText(last *kick.LastRun) string {
	if last == nil {
		return "-"
	}
	text := string(last.Outcome)
	if last.Outcome == kick.Failed {
		text = fmt.Sprintf("exit %d", last.Exit)
	}
	if last.Failures > 1 {
		text += fmt.Sprintf(" (%d in a row)", last.Failures)
	}
	return text
}

// waitsText says what a verdict waits for.
func waitsText(v api.Verdict, now time.Time) string {
	if len(v.Gates) == 0 {
		if v.Running != nil {
			return "its run in progress"
		}
		return "nothing: it is being kicked"
	}
	var parts []string
	for _, g := range v.Gates {
		parts = append(parts, gateText(g, now))
	}
	return strings.Join(parts, "; ")
}

func gateText(g api.Gate, now time.Time) string {
	text := g.Name
	if g.Why != "" {
		text += ": " + g.Why
	}
	if !g.Until.IsZero() {
		text += fmt.Sprintf(", %s more", age(g.Until.Sub(now)))
	}
	return text
}

func firstFew(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}
