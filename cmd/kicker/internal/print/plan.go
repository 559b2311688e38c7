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
	roles := rows([]string{"ROLE", "MEMBERS", "WHAT CHANGES"}, p.Roles, func(r api.PlannedRole) []string {
		return []string{"role/" + r.Name, plannedMembers(r), plannedChange(r)}
	})
	head := []string{"NODE", "ACTION", "NOW", "THEN", "BECAUSE OF"}
	actions := rows(head, p.Actions, func(a api.PlannedAction) []string {
		return []string{
			"node/" + a.Node, a.Action, dash(string(a.Now.State)), string(a.Then.State), dash(a.Then.Reason),
		}
	})
	var b strings.Builder
	for _, t := range []string{table(roles), table(actions)} {
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
	count := func(r *api.Role) string {
		if r == nil {
			return "none"
		}
		return fmt.Sprint(len(r.Members))
	}
	now, then := count(r.Now), count(r.Then)
	if now == then {
		return now
	}
	return now + " → " + then
}

func plannedChange(r api.PlannedRole) string {
	var parts []string
	for i, nodes := range [][]string{r.Added, r.Removed, r.Changed} {
		if len(nodes) > 0 {
			parts = append(parts, signs[i]+" "+api.List(nodes, few))
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
	join := func(list []string) string { return strings.Join(list, ", ") }
	var parts []string
	for _, s := range []struct{ name, now, then string }{
		{"selector", now.Selector, then.Selector},
		{"member facts", join(now.MemberFacts), join(then.MemberFacts)},
		{"depends on", join(now.DependsOn), join(then.DependsOn)},
	} {
		if s.now != s.then {
			parts = append(parts, s.name+" "+dash(s.then))
		}
	}
	return parts
}
