package print

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

// Roles is a table of roles in a format: table or name.
func Roles(roles []api.Role, format string) string {
	head := []string{"ROLE", "MEMBERS", "SELECTOR", "REVISION", "DEPENDENTS"}
	return list(rows(head, roles, func(r api.Role) []string {
		return []string{
			"role/" + r.Name, memberCount(len(r.Members), len(r.Nodes), r.Sync, r.Held),
			dash(r.Selector), dash(r.Revision.Hash), dash(api.List(r.Dependents, few)),
		}
	}), len(head), format)
}

// Role is one role with its members and dependents.
func Role(r api.Role, now time.Time) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(Line(fmt.Sprintf(format, args...)) + "\n") }
	line("role/%s: %s", r.Name, api.Count(len(r.Members), "member"))
	if r.Unknown {
		line("unknown: no node has it and no configuration names it. Is it a typo?")
	}
	line("selector: %s", dash(r.Selector))
	line("revision: %s", dash(r.Revision.Hash))
	if len(r.DependsOn) > 0 {
		line("depends on: %s", strings.Join(r.DependsOn, ", "))
	}
	line("dependents: %s", dash(strings.Join(r.Dependents, ", ")))
	if r.Held != nil {
		held(line, r.Name, *r.Held, now)
	}
	if t := members(r); t != "" {
		b.WriteString("\n" + t)
	}
	return b.String()
}

// members is a table of a role's nodes, and of nodes that are gone and held.
func members(r api.Role) string {
	var heldNodes []string
	if r.Held != nil {
		heldNodes = r.Held.Nodes
	}
	nodes := slices.Concat(r.Nodes, heldNodes)
	slices.Sort(nodes)
	head := []string{"NODE", "MEMBER"}
	for _, f := range r.MemberFacts {
		head = append(head, strings.ToUpper(f))
	}
	return table(rows(head, slices.Compact(nodes), func(node string) []string {
		i := slices.IndexFunc(r.Members, func(m kick.Member) bool { return m.Node == node })
		row, facts := []string{"node/" + node, yesNo(i >= 0)}, map[string]any{}
		if i >= 0 {
			facts = r.Members[i].Facts
		}
		if i >= 0 && slices.Contains(heldNodes, node) {
			row[1] = "held"
		}
		for _, f := range r.MemberFacts {
			row = append(row, cell(facts[f]))
		}
		return row
	}))
}
