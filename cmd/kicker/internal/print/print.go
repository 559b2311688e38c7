// Package print is everything that a person reads of a controller's answers, as text.
package print

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// few is how many names a line has room for.
const few = 3

// Nodes is a table of nodes in a format: table, wide or name.
func Nodes(nodes []api.Node, format string, now time.Time) string {
	head := []string{"NODE", "LIFE", "READY", "ROLES", "ADDRESS", "AGE", "OS", "INSTANCE", "BOOT", "NOT READY BECAUSE"}
	return list(rows(head, nodes, func(n api.Node) []string {
		return []string{
			"node/" + n.Name, string(n.Life), yesNo[n.Ready], dash(strings.Join(n.Roles, ",")),
			fact(n.Facts, "ipaddress"), age(n.Joined, now),
			fact(n.Facts, "os.name"), n.Instance, n.Boot, dash(n.NotReady),
		}
	}), 6, format)
}

func fact(facts inventory.Facts, path string) string {
	value, _ := query.Lookup(facts, path)
	return cell(value)
}

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
	if r.Refused != nil && r.Refused.Code == api.RefusedTooFew {
		line("too few members: %s", r.Refused.Why)
	}
	for _, i := range r.Incomplete {
		line("node/%s is not a member: %s", i.Node, i.Why)
	}
	for _, q := range r.Quarantined {
		line("node/%s is quarantined: %s; tried again in %s", q.Node, q.Why, age(now, q.Retry))
	}
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
		head = append(head, strings.ToUpper(strings.TrimSuffix(f, "?")))
	}
	return table(rows(head, slices.Compact(nodes), func(node string) []string {
		i := slices.IndexFunc(r.Members, func(m kick.Member) bool { return m.Node == node })
		row, facts := []string{"node/" + node, yesNo[i >= 0]}, map[string]any{}
		if i >= 0 {
			facts = r.Members[i].Facts
		}
		if i >= 0 && slices.Contains(heldNodes, node) {
			row[1] = "held"
		}
		for _, f := range r.MemberFacts {
			row = append(row, cell(facts[strings.TrimSuffix(f, "?")]))
		}
		return row
	}))
}

// Runs is a table of runs in a format: table or wide.
func Runs(runs []api.Run, format string, now time.Time) string {
	head := []string{"NODE", "ACTION", "AGE", "OUTCOME", "TOOK", "REASON", "RUN", "LEFT BEHIND", "ERROR"}
	return list(rows(head, runs, func(r api.Run) []string {
		took := "-"
		if !r.Ended.IsZero() {
			took = api.Duration(r.Duration)
		}
		return []string{
			"node/" + r.Node, r.Action, age(r.Started, now), outcome(r), took, dash(r.Reason), r.ID,
			dash(strings.Join(r.LeftBehind, ", ")), dash(r.Error),
		}
	}), 6, format)
}

// Run is a run in one line: how it ended, when, and in what time.
func Run(r api.Run, now time.Time) string {
	text := outcome(r)
	if !r.Ended.IsZero() {
		text += fmt.Sprintf(", %s ago, took %s", age(r.Ended, now), api.Duration(r.Duration))
	}
	if r.Error != "" {
		text += ": " + r.Error
	}
	return text
}

func outcome(r api.Run) string {
	if r.Ended.IsZero() {
		return "in progress"
	}
	return api.Outcome(r.Outcome, r.Exit)
}

func lastRun(last *kick.LastRun) string {
	if last == nil {
		return "-"
	}
	text := api.Outcome(last.Outcome, last.Exit)
	if last.Failures > 1 {
		text += fmt.Sprintf(" (%d in a row)", last.Failures)
	}
	return text
}

// Event is an event in one line.
func Event(e api.Event) string {
	return fmt.Sprintf("%s  %-16s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Kind, Line(e.Text))
}

// Kicked says when the actions of an order are kicked, or would be.
func Kicked(kicked api.Kicked, dryRun bool, now time.Time) string {
	head := []string{"NODE", "ACTION", "STATE", "KICKED"}
	if dryRun {
		head[3] = "WOULD BE KICKED"
	}
	return table(rows(head, kicked.Actions, func(v api.Verdict) []string {
		when := "now"
		if len(v.Gates) > 0 || v.Running != nil {
			when = "after " + waitsFor(v, now)
		}
		return []string{"node/" + v.Node, v.Action, string(v.State), when}
	}))
}

// waitsFor is what a verdict waits for, in one line.
func waitsFor(v api.Verdict, now time.Time) string {
	if len(v.Gates) == 0 && v.Running != nil {
		return "the run in progress"
	}
	if len(v.Gates) == 0 {
		return "nothing: it is kicked now"
	}
	var gates []string
	for _, g := range v.Gates {
		gates = append(gates, gate(g, now))
	}
	return strings.Join(gates, "; ")
}

// gate is a gate and why it is closed, as in "backoff, 20s: the last run failed".
func gate(g api.Gate, now time.Time) string {
	text := g.Name
	if !g.Until.IsZero() {
		text += ", " + age(now, g.Until)
	}
	if g.Why != "" {
		text += ": " + g.Why
	}
	return text
}

// rows are a head and a row for each item.
func rows[T any](head []string, items []T, row func(T) []string) [][]string {
	all := [][]string{head}
	for _, item := range items {
		all = append(all, row(item))
	}
	return all
}

// list is rows in a format. wide has all columns, table the first narrow ones, and name the first one without its head.
func list(rows [][]string, narrow int, format string) string {
	switch format {
	case "name":
		names := ""
		for _, row := range rows[1:] {
			names += row[0] + "\n"
		}
		return names
	case "table":
		for i := range rows {
			rows[i] = rows[i][:narrow]
		}
	}
	return table(rows)
}

var blanks = regexp.MustCompile(`(?m) +$`)

// table puts the cells of rows in columns, without spaces at the ends of lines. A head without rows is no table.
func table(rows [][]string) string {
	if len(rows) < 2 {
		return ""
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = Line(cell)
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush() // a Buffer takes everything
	return blanks.ReplaceAllString(b.String(), "")
}

// Line keeps what nodes say from moving the cursor, or the columns.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// cell shows text as it is, and any other value of a fact as JSON.
func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return "-"
	case string:
		return dash(v)
	}
	b, _ := json.Marshal(value) // it came as JSON
	return string(b)
}

// age is the time from one moment to another as a person glances at it: in whole seconds.
func age(from, to time.Time) string {
	if d := to.Sub(from).Truncate(time.Second); d > 0 {
		return api.Duration(d)
	}
	return "0s"
}

var yesNo = map[bool]string{true: "yes", false: "no"}

func dash(s string) string { return cmp.Or(s, "-") }
