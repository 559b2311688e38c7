package print

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
)

// Status says whether all is well, and if not, what the problems are and what to do.
func Status(st api.Status, now time.Time) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(Line(fmt.Sprintf(format, args...)) + "\n") }
	if st.Well {
		line("cluster %s: all is well", st.Identity.Cluster)
	} else {
		line("cluster %s: %s", st.Identity.Cluster, api.Count(len(st.Problems), "problem"))
	}
	problems(line, st.Problems, now)
	sync := "synced"
	if !st.Sync.Open {
		sync = "not synced, so it sends no kicks: " + st.Sync.Why
	}
	line("controller %s: up %s, %s", st.Identity.ID, age(st.Identity.Started, now), sync)
	if st.Leader != "" {
		line("standby: controller %s leads, this one sends no kicks", st.Leader)
	}
	if now.Sub(st.At) > 15*time.Second { // its loop publishes what it knows every 5 s at least
		line("the controller hangs: nothing new for %s. Restart it", age(st.At, now))
	}
	line("nodes: %s", tally(st.Nodes, inventory.Alive, inventory.Suspect, inventory.Restarting, inventory.Left))
	line("actions: %s", tally(st.Actions, api.Converged, api.Pending, api.Failing))
	for _, c := range st.Cycles {
		line("note: %s", c)
	}
	if st.InvalidMessages > 0 {
		line("invalid messages: %d (kicker events lists them)", st.InvalidMessages)
	}
	for _, t := range []string{statusRoles(st), stale(st.Stale, now)} {
		if t != "" {
			b.WriteString("\n" + t)
		}
	}
	return b.String()
}

// problems prints the worst first, as they come. A consequence is indented below the problem that it follows from.
func problems(line func(string, ...any), list []api.Problem, now time.Time) {
	depth := map[string]int{} // by code
	for _, p := range list {
		depth[p.Code] = depth[p.CausedBy] + 1
		indent := strings.Repeat("  ", depth[p.Code])
		head := []string{string(p.Severity), p.Object, p.Text}
		head = slices.DeleteFunc(head, func(s string) bool { return s == "" })
		began := ""
		if !p.Since.IsZero() {
			began = fmt.Sprintf(" (began %s ago)", age(p.Since, now))
		}
		line("%s%s%s", indent, strings.Join(head, ": "), began)
		for _, more := range [][2]string{{"why", p.Why}, {"next", p.Next}, {"do", p.Do}} {
			if more[1] != "" {
				line("%s    %-5s %s", indent, more[0]+":", more[1])
			}
		}
	}
}

// tally counts by kind, in the order of kinds.
func tally[K ~string](counts map[K]int, kinds ...K) string {
	var parts []string
	for _, k := range kinds {
		if n := counts[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

func statusRoles(st api.Status) string {
	head := []string{"ROLE", "MEMBERS", "DEPENDENTS", "NOT MEMBERS"}
	return table(rows(head, st.Roles, func(r api.RoleStatus) []string {
		members, not := memberCount(r.Members, r.Nodes, r.Sync, r.Held), dash(api.List(r.NotMembers, few))
		switch {
		case r.Unknown:
			not = "unknown role"
		case st.Sync.Open && !r.Sync.Open:
			not = "not synced"
		}
		return []string{"role/" + r.Name, members, fmt.Sprint(r.Dependents), not}
	}))
}

// memberCount is how many of a role's nodes are members, and how many of the members are held.
func memberCount(members, nodes int, sync api.Sync, held *api.Held) string {
	switch {
	case !sync.Open:
		return fmt.Sprintf("?/%d", nodes)
	case held != nil && !held.Shadow:
		return fmt.Sprintf("%d/%d, %d held", members, nodes, len(held.Nodes))
	}
	return fmt.Sprintf("%d/%d", members, nodes)
}

func stale(verdicts []api.Verdict, now time.Time) string {
	head := []string{"NODE", "ACTION", "STATE", "AGE", "LAST RUN", "WAITS FOR"}
	return table(rows(head, verdicts, func(v api.Verdict) []string {
		last, gates := lastRun(v.Last), waitsFor(v, now)
		return []string{"node/" + v.Node, v.Action, string(v.State), age(v.Since, now), last, gates}
	}))
}
