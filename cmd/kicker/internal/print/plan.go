package print

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"kicker/controller/api"
)

// Plan says what another configuration would change.
func Plan(p api.Plan) string {
	rows := [][]string{{"ROLE", "MEMBERS", "WHAT CHANGES"}}
	for _, r := range p.Roles {
		rows = append(rows, []string{"role/" + r.Name, plannedMembers(r), plannedChange(r)})
	}
	actions := [][]string{{"NODE", "ACTION", "NOW", "THEN", "BECAUSE OF"}}
	for _, a := range p.Actions {
		now, then := dash(string(a.Now.State)), string(a.Then.State)
		actions = append(actions, []string{"node/" + a.Node, a.Action, now, then, dash(a.Then.Reason)})
	}
	var b strings.Builder
	for _, t := range []string{table(rows), table(actions)} {
		if t != "" {
			b.WriteString(t + "\n")
		}
	}
	switch stale := p.Stale(); {
	case len(p.Roles)+len(p.Actions) == 0:
		b.WriteString("no role and no action would change\n")
	case stale == 0:
		b.WriteString("no action would become stale\n")
	default:
		b.WriteString(api.Count(stale, "action") + " would become stale\n")
	}
	return b.String()
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
	for _, c := range changes(r.Added, r.Removed, r.Changed) {
		if len(c.nodes) > 0 {
			parts = append(parts, c.sign+" "+api.List(c.nodes, few))
		}
	}
	switch {
	case r.Now == nil:
		parts = append(parts, "new")
	case r.Then == nil:
		parts = append(parts, "removed: no node has it and nothing depends on it")
	default:
		parts = append(parts, changedSettings(*r.Now, *r.Then)...)
	}
	if r.HoldsMore() {
		h, shadow := r.Then.Held, ""
		if h.Shadow {
			shadow = " (guard: shadow, not enforced)"
		}
		parts = append(parts, fmt.Sprintf("removal of %s would be held%s: %s", api.List(h.Nodes, few), shadow, h.Why))
	}
	if r.Now != nil && r.Then != nil && !slices.Equal(r.Now.Dependents, r.Then.Dependents) {
		parts = append(parts, "dependents "+dash(api.List(r.Then.Dependents, few)))
	}
	return cmp.Or(strings.Join(parts, "; "), "settings only")
}

func changedSettings(now, then api.Role) []string {
	var parts []string
	if now.Selector != then.Selector {
		parts = append(parts, "selector "+then.Selector)
	}
	if !slices.Equal(now.MemberFacts, then.MemberFacts) {
		parts = append(parts, "member facts "+dash(strings.Join(then.MemberFacts, ", ")))
	}
	if !slices.Equal(now.DependsOn, then.DependsOn) {
		parts = append(parts, "depends on "+dash(strings.Join(then.DependsOn, ", ")))
	}
	return parts
}
