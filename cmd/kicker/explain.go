package main

import (
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

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain node/N",
		Short:   "Say why a node and its actions are as they are, and what comes next",
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
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		var e api.Explanation
		raw, err := c.get(cmd.Context(), "/v1/nodes/"+url.PathEscape(name)+"/explain", nil, &e)
		if err != nil {
			return err
		}
		if output(cmd) == "json" {
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		}
		_, err = io.WriteString(cmd.OutOrStdout(), explanation(e, c.now))
		return err
	}
	return cmd
}

func explanation(e api.Explanation, now time.Time) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString(printable(fmt.Sprintf(format, args...)) + "\n")
	}
	line("node/%s is %s for %s, and known for %s.", e.Name, e.Life, age(now.Sub(e.Since)), age(now.Sub(e.Joined)))
	line("It is instance %s, boot %s.", e.Instance, e.Boot)
	switch {
	case len(e.Roles) == 0:
		line("It bears no role.")
	case e.Member:
		line("It is a member of %s.", objects("role/", e.Roles))
	default:
		line("It bears %s, but is %s: %s.", objects("role/", e.Roles), noMember(e), e.Why)
	}
	if len(e.Actions) == 0 {
		line("None of its actions depends on a role.")
	}
	for _, h := range e.Held {
		b.WriteString("\n")
		explainHeld(line, h.Role, h.Held, now)
	}
	for _, a := range e.Actions {
		b.WriteString("\n")
		explainAction(line, a, now)
	}
	return b.String()
}

// noMember says what a node that is not serving is to its roles.
func noMember(e api.Explanation) string {
	var held []string
	for _, h := range e.Held {
		if !h.Shadow && slices.Contains(h.Nodes, e.Name) {
			held = append(held, h.Role)
		}
	}
	if len(held) == 0 {
		return "no member"
	}
	return "a member only of " + objects("role/", held) + ", where its removal is held"
}

// explainHeld says which removals the guard of a role holds, and what an operator can do about it.
func explainHeld(line func(string, ...any), role string, h api.Held, now time.Time) {
	verb := "is held for"
	if h.Shadow {
		verb = "would be held, were the guard no shadow, for"
	}
	line("role/%s: the removal of %s %s %s: %s.", role, firstFew(h.Nodes), verb, age(now.Sub(h.Since)), h.Why)
	if h.Probe != "" {
		line("  second opinions: %s.", h.Probe)
	}
	if !h.Shadow {
		line("  if they are lost: %s", api.AcceptLoss(role))
	}
}

func explainAction(line func(string, ...any), a api.Action, now time.Time) {
	if a.State == api.Converged {
		line("Action %s is converged.", a.Action)
	} else {
		line("Action %s is %s for %s%s.", a.Action, a.State, age(now.Sub(a.Since)), because(a.Reason))
	}
	for _, n := range a.Needs {
		line("  needs %s: %s", neededText(n), needText(n))
	}
	for _, g := range a.Gates {
		line("  waits for %s", gateText(g, now))
	}
	lastRun := "none is known"
	if a.LastRun != nil {
		lastRun = runText(*a.LastRun, now)
	} else if a.Last != nil {
		lastRun = fmt.Sprintf("%s, took %s", lastText(a.Last), took(time.Duration(a.Last.Duration)*time.Millisecond))
	}
	line("  last run: %s", lastRun)
	if a.LastRun != nil && a.LastRun.Outcome != kick.Succeeded {
		for output := range strings.Lines(a.LastRun.Output) {
			line("    | %s", strings.TrimRight(output, "\n"))
		}
	}
	line("  next: %s", nextText(a.Verdict, now))
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// neededText is the role that is needed, and what it is narrowed to.
func neededText(n api.Need) string {
	if n.Shared == "" {
		return "role/" + n.Role
	}
	return fmt.Sprintf("role/%s where %s", n.Role, n.Shared)
}

func needText(n api.Need) string {
	switch {
	case n.Applied == nil:
		return fmt.Sprintf("applied is unknown, current is %s", revisionText(n.Current))
	case n.Applied.Hash == n.Current.Hash:
		return fmt.Sprintf("applied is current, %s", revisionText(n.Current))
	}
	text := fmt.Sprintf("applied is %s, current is %s", revisionText(*n.Applied), revisionText(n.Current))
	if difference := differenceText(n); difference != "" {
		text += ": " + difference
	}
	return text
}

func differenceText(n api.Need) string {
	var parts []string
	for _, d := range []struct {
		sign  string
		nodes []string
	}{{"+", n.Added}, {"-", n.Removed}, {"~", n.Changed}} {
		for _, node := range d.nodes {
			parts = append(parts, d.sign+node)
		}
	}
	return strings.Join(parts, " ")
}

// revisionText is as much of a revision as one compares by eye.
func revisionText(r kick.Revision) string {
	if r.Hash == "" {
		return "none"
	}
	return r.Hash[:min(10, len(r.Hash))]
}

func runText(r api.Run, now time.Time) string {
	text := fmt.Sprintf("%s, %s ago, took %s", outcomeText(r), age(now.Sub(r.Ended)), took(r.Duration))
	if r.Error != "" {
		text += ": " + r.Error
	}
	return text
}

func nextText(v api.Verdict, now time.Time) string {
	switch {
	case v.State == api.Converged && v.Running == nil:
		return "nothing, until a role that it needs changes"
	case v.Running != nil:
		return "its run " + v.Running.Run + " is in progress"
	case len(v.Gates) == 0:
		return "it is being kicked"
	}
	var until time.Time
	for _, g := range v.Gates {
		if g.Name == api.GateLeader {
			return "the controller that leads decides it"
		}
	}
	for _, g := range v.Gates {
		if g.Until.IsZero() {
			return "it is kicked as soon as nothing is waited for"
		}
		if g.Until.After(until) {
			until = g.Until
		}
	}
	return fmt.Sprintf("it is kicked in %s", age(until.Sub(now)))
}

func objects(prefix string, names []string) string {
	return prefix + strings.Join(names, ", "+prefix)
}
