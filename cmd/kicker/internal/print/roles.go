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
	rows := [][]string{{"ROLE", "MEMBERS", "SELECTOR", "REVISION", "DEPENDENTS"}}
	for _, r := range roles {
		rows = append(rows, []string{
			"role/" + r.Name, memberCount(len(r.Members), len(r.Nodes), r.Sync, r.Held),
			dash(r.Selector), dash(r.Revision.Hash), dash(api.List(r.Dependents, few)),
		})
	}
	return list(rows, len(rows[0]), format)
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
	nodes, heldNodes := slices.Clone(r.Nodes), []string(nil)
	if r.Held != nil {
		heldNodes = r.Held.Nodes
	}
	nodes = append(nodes, heldNodes...)
	slices.Sort(nodes)
	head := []string{"NODE", "MEMBER"}
	for _, f := range r.MemberFacts {
		head = append(head, strings.ToUpper(f))
	}
	rows := [][]string{head}
	for _, node := range slices.Compact(nodes) {
		i := slices.IndexFunc(r.Members, func(m kick.Member) bool { return m.Node == node })
		row := []string{"node/" + node, yesNo(i >= 0)}
		if i >= 0 && slices.Contains(heldNodes, node) {
			row[1] = "held"
		}
		for _, f := range r.MemberFacts {
			var value any
			if i >= 0 {
				value = r.Members[i].Facts[f]
			}
			row = append(row, cell(value))
		}
		rows = append(rows, row)
	}
	return table(rows)
}
