package print

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// Explanation says why a node and its actions are as they are, and what comes next.
func Explanation(e api.Explanation, now time.Time) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(Line(fmt.Sprintf(format, args...)) + "\n") }
	if e.Life == api.Gone {
		line("node/%s is gone, it departed %s ago%s.", e.Name, age(e.Since, now), because(e.Departed.Why))
		departed(line, e, now)
		for _, h := range e.Held {
			b.WriteString("\n")
			held(line, h.Role, h.Held, now)
		}
		return b.String()
	}
	line("node/%s %s, first seen %s ago.", e.Name, life(e, now), age(e.Joined, now))
	line("It is instance %s, boot %s.", e.Instance, e.Boot)
	switch {
	case len(e.Roles) == 0 && len(heldIn(e)) > 0:
		line("It has no role that is selected now. It is %s.", notMember(e))
	case len(e.Roles) == 0:
		line("It has no role.")
	case e.Member:
		line("It is a member of %s.", roles(e.Roles))
	case len(e.NotMember) > 0:
		incomplete(line, e.Node)
	default:
		line("It has %s and is %s: %s.", roles(e.Roles), notMember(e), e.Why)
	}
	departed(line, e, now)
	if len(e.Actions) == 0 {
		line("None of its actions depends on a role.")
	}
	for _, h := range e.Held {
		b.WriteString("\n")
		held(line, h.Role, h.Held, now)
	}
	for _, a := range e.Actions {
		b.WriteString("\n")
		action(line, a, now)
	}
	return b.String()
}

// departed says from which roles a node departed, why, and which dependents follow.
func departed(line func(string, ...any), e api.Explanation, now time.Time) {
	if e.Departed == nil {
		return
	}
	for _, role := range slices.Sorted(maps.Keys(e.Departed.Roles)) {
		d := e.Departed.Roles[role]
		line("It stopped being a member of role/%s %s ago: %s.", role, age(d.At, now), cmp.Or(string(d.Why), "reason unknown"))
		for _, action := range slices.Sorted(maps.Keys(d.Dropped)) {
			line("  %s applied members without it %s ago.", action, age(d.Dropped[action], now))
		}
	}
	if len(e.UsedBy) > 0 {
		line("It may still be used by %s.", api.List(e.UsedBy, 10))
	}
}

// because is a reason after a statement; empty if there is none.
func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// incomplete says of which of its roles a ready node is a member, and why not of the others.
func incomplete(line func(string, ...any), n api.Node) {
	isNot := func(role string) bool {
		return slices.ContainsFunc(n.NotMember, func(not api.NotMember) bool { return not.Role == role })
	}
	if of := slices.DeleteFunc(slices.Clone(n.Roles), isNot); len(of) > 0 {
		line("It is a member of %s.", roles(of))
	}
	for _, not := range n.NotMember {
		line("It is not a member of role/%s: %s.", not.Role, not.Why)
	}
}

// heldIn is the roles from which the removal of a node is held.
func heldIn(e api.Explanation) (names []string) {
	for _, h := range e.Held {
		if !h.Shadow && slices.Contains(h.Nodes, e.Name) {
			names = append(names, h.Role)
		}
	}
	return names
}

// life is the life of a node, and since when.
func life(e api.Explanation, now time.Time) string {
	began, ok := map[inventory.Life]string{
		inventory.Suspect: "became suspect", inventory.Restarting: "is restarting, stopped", inventory.Left: "left",
	}[e.Life]
	if !ok {
		return "is " + string(e.Life)
	}
	return fmt.Sprintf("%s %s ago", began, age(e.Since, now))
}

// notMember is what a node that is not counted is to its roles: where its removal is held it is a member still.
func notMember(e api.Explanation) string {
	names := heldIn(e)
	if len(names) == 0 {
		return "not a member"
	}
	return "still a member of " + roles(names) + ", because its removal is held"
}

// held says which removals the guard of a role holds, why, and what a person can do about it.
func held(line func(string, ...any), role string, h api.Held, now time.Time) {
	is := "is held"
	if h.Shadow {
		is = "would be held (guard: shadow, not enforced)"
	}
	line("role/%s: removal of %s %s, began %s ago", role, api.List(h.Nodes, few), is, age(h.Since, now))
	line("  why: %s", h.Why)
	if h.Probe != "" {
		line("  probes: %s", h.Probe)
	}
	switch {
	case h.Shadow:
	case h.Undo != "":
		line("  do: %s", h.Undo)
	default:
		line("  do: if they are lost for good, %s", api.AcceptLoss(role, len(h.Nodes)))
	}
}

func action(line func(string, ...any), a api.Action, now time.Time) {
	if a.State == api.Converged {
		line("Action %s is converged.", a.Action)
	} else {
		reason := ""
		if a.Reason != "" {
			reason = " (" + a.Reason + ")"
		}
		line("Action %s is %s, began %s ago%s.", a.Action, a.State, age(a.Since, now), reason)
	}
	for _, n := range a.Needs {
		role := "role/" + n.Role
		if n.Shared != "" {
			role += " where " + n.Shared
		}
		line("  depends on %s: %s", role, difference(n))
	}
	for _, g := range a.Gates {
		line("  waits for: %s", gate(g, now))
	}
	last := "none"
	if a.LastRun != nil {
		last = Run(*a.LastRun, now)
	} else if a.Last != nil {
		took := time.Duration(a.Last.Duration) * time.Millisecond
		last = fmt.Sprintf("%s, took %s", lastRun(a.Last), api.Duration(took))
	}
	line("  last run: %s", last)
	if a.LastRun != nil && len(a.LastRun.LeftBehind) > 0 {
		line("    its command left behind: %s", strings.Join(a.LastRun.LeftBehind, ", "))
	}
	if a.LastRun != nil && a.LastRun.Outcome != kick.Succeeded {
		for output := range strings.Lines(a.LastRun.Output) {
			line("    | %s", strings.TrimRight(output, "\n"))
		}
	}
	line("  next: %s", next(a.Verdict, now))
}

// difference compares what an action has applied with what is current.
func difference(n api.Need) string {
	switch {
	case n.Applied == nil:
		return fmt.Sprintf("nothing is applied yet, current is %s", revision(n.Current))
	case n.Applied.Hash == n.Current.Hash:
		return fmt.Sprintf("applied is current, %s", revision(n.Current))
	}
	text := fmt.Sprintf("applied is %s, current is %s", revision(*n.Applied), revision(n.Current))
	sep := ": "
	for i, nodes := range [][]string{n.Added, n.Removed, n.Changed} {
		for _, node := range nodes {
			text += sep + signs[i] + node
			sep = " "
		}
	}
	return text
}

// signs mark the nodes that a membership gains, loses, and has with other member facts.
var signs = []string{"+", "-", "~"}

// revision is as much of a revision as one compares by eye.
func revision(r kick.Revision) string {
	return cmp.Or(r.Hash[:min(10, len(r.Hash))], "none")
}

func next(v api.Verdict, now time.Time) string {
	switch {
	case v.State == api.Converged && v.Running == nil:
		return "nothing until a role that it depends on changes"
	case v.Running != nil:
		return "run " + v.Running.Run + " is in progress"
	case len(v.Gates) == 0:
		return "it is kicked now"
	case slices.ContainsFunc(v.Gates, func(g api.Gate) bool { return g.Name == api.GateLeader }):
		return "the controller that leads decides"
	case slices.ContainsFunc(v.Gates, func(g api.Gate) bool { return g.Until.IsZero() }):
		return "it is kicked when it waits for nothing"
	}
	last := slices.MaxFunc(v.Gates, func(a, b api.Gate) int { return a.Until.Compare(b.Until) })
	return fmt.Sprintf("it is kicked in %s", age(now, last.Until))
}

func roles(names []string) string { return "role/" + strings.Join(names, ", role/") }
