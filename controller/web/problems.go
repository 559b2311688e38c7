package web

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kballard/go-shellquote"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

const safe = "doing nothing is safe: dependents keep the members that they have"

// problems is what is not as it should be, worst first, then by object. A consequence stands right after its cause.
func problems(v *api.View) []api.Problem {
	found := clusterProblems(v)
	for _, role := range v.Roles {
		found = append(found, roleProblems(v, role)...)
	}
	for _, c := range v.Conflicts {
		found = append(found, nameConflict(c))
	}
	for _, w := range v.WrongVersion {
		found = append(found, wrongVersion(w))
	}
	for n := range v.Nodes.All() {
		if !n.Eligible() && n.Life != inventory.Left {
			found = append(found, nodeNotReady(v, n))
		}
	}
	for _, verdict := range v.Verdicts {
		if verdict.State == api.Failing {
			found = append(found, actionFailing(v, verdict))
		}
	}
	return inOrder(found)
}

func inOrder(found []api.Problem) []api.Problem {
	slices.SortStableFunc(found, func(a, b api.Problem) int {
		return cmp.Or(
			cmp.Compare(slices.Index(api.Severities, a.Severity), slices.Index(api.Severities, b.Severity)),
			strings.Compare(a.Object, b.Object))
	})
	causedBy := map[string][]api.Problem{}
	for _, p := range found {
		causedBy[p.CausedBy] = append(causedBy[p.CausedBy], p)
	}
	ordered := []api.Problem{}
	for _, p := range causedBy[""] {
		ordered = append(append(ordered, p), causedBy[p.Code]...)
	}
	return ordered
}

// notSyncedCode is the code of the problem that the sync gate is closed, "" if it is open.
func notSyncedCode(v *api.View) string {
	switch {
	case v.Sync.Open:
		return ""
	case v.Sync.BusLost:
		return api.ProblemBusLost
	}
	return api.ProblemNotSynced
}

func clusterProblems(v *api.View) (found []api.Problem) {
	code := notSyncedCode(v)
	switch code {
	case api.ProblemBusLost:
		found = append(found, api.Problem{
			Code: code, Severity: api.Critical, Text: "the bus is lost", Why: v.Sync.Why,
			Next: "kicker kicks and removes no node; when the bus answers, it waits for nodes to report",
			Do:   "check the bus and the network to it; until then dependents keep the members that they have",
		})
	case api.ProblemNotSynced:
		p := api.Problem{
			Code: code, Severity: api.Warning, Text: "the controller does not know all nodes yet", Why: v.Sync.Why,
			Next: "kicker kicks and removes no node until it does" + left(v.Sync, v.At), Do: safe,
		}
		if v.Sync.Until.IsZero() { // no node has reported
			p.Do = "check that agents run and reach the bus; until then dependents keep the members that they have"
		}
		found = append(found, p)
	}
	if v.DisconnectsLost != "" {
		p := api.Problem{
			Code: api.ProblemDisconnectsLost, Severity: api.Warning,
			Text: "the controller receives no disconnects through bus.system_url", Why: v.DisconnectsLost,
			Next: "kicker notices a dead node by its silence, after gone_after",
			Do:   "check bus.system_url, and that its user may subscribe to the events of the broker",
		}
		if code == api.ProblemBusLost {
			p.CausedBy = code
		}
		found = append(found, p)
	}
	if v.Loaded.Failed != "" {
		found = append(found, api.Problem{
			Code: api.ProblemReloadRejected, Severity: api.Warning,
			Text: "the changed configuration is not in force", Why: v.Loaded.Failed,
			Next: "kicker keeps the old configuration, and reads the file again when it changes",
			Do:   "correct the file; `kicker config validate` checks it",
		})
	}
	return found
}

func roleProblems(v *api.View, role api.Role) (found []api.Problem) {
	if !role.Sync.Open && role.Sync.Why != "" {
		found = append(found, api.Problem{
			Code: api.ProblemRoleNotSynced, Severity: api.Warning, Object: "role/" + role.Name,
			CausedBy: notSyncedCode(v), Text: "not all members are known yet", Why: role.Sync.Why,
			Next: "kicker kicks its dependents when they are known" + left(role.Sync, v.At), Do: safe,
		})
	}
	if role.Held != nil && v.Leader == "" { // the controller that leads may have ended the hold
		found = append(found, removalHeld(role))
	}
	if role.Unknown && v.Sync.Open { // until then a node that has it may not have reported
		found = append(found, unknownRole(v, role))
	}
	return found
}

func removalHeld(role api.Role) api.Problem {
	h := role.Held
	p := api.Problem{
		Code: api.ProblemRemovalHeld, Severity: api.Critical, Object: "role/" + role.Name, Since: h.Since,
		Text: "the removal of " + api.List(h.Nodes, 3) + " is held", Why: h.Why,
		Next: "they stay members until they are back, enough members are ready, or dependents cannot reach them",
		Do:   "doing nothing is safe: dependents keep them; if they are lost: " + api.AcceptLoss(role.Name),
	}
	if h.Probe != "" {
		p.Why += "; " + h.Probe
	}
	if h.Shadow {
		p.Severity = api.Note
		p.Text = "the removal of " + api.List(h.Nodes, 3) + " would be held"
		p.Next = "guard: shadow, not enforced: kicker removes them"
		p.Do = "check whether they are lost; with guard: on they would stay members"
	}
	return p
}

func unknownRole(v *api.View, role api.Role) api.Problem {
	p := api.Problem{
		Code: api.ProblemUnknownRole, Severity: api.Warning, Object: "role/" + role.Name,
		Text: "no node has this role and no configuration names it",
		Why:  "dependents name it: " + api.List(role.Dependents, 3),
		Next: "kicker does not kick them until a node has the role or the configuration names it",
		Do:   "correct depends_on, or name the role in the controller's configuration",
	}
	var names []string
	for _, r := range v.Roles {
		if !r.Unknown {
			names = append(names, r.Name)
		}
	}
	if meant := api.LikelyMeant(role.Name, names); meant != "" {
		p.Do += " (did you mean " + meant + "?)"
	}
	return p
}

func nameConflict(c api.Conflict) api.Problem {
	return api.Problem{
		Code: api.ProblemNameConflict, Severity: api.Warning, Object: "node/" + c.Node, Since: c.Since,
		Text: "two machines claim this name",
		Why:  fmt.Sprintf("instance %s is accepted, instance %s is rejected", c.Accepted, c.Rejected),
		Next: "kicker ignores the rejected machine while the accepted one reports",
		Do:   "stop one of them, or give it another agent.name",
	}
}

func wrongVersion(w api.VersionMismatch) api.Problem {
	return api.Problem{
		Code: api.ProblemWrongVersion, Severity: api.Critical, Object: "node/" + w.Node, Since: w.Since,
		Text: "its messages have another version",
		Why:  fmt.Sprintf("its agent sends version %d, the controller knows version %d", w.Version, inventory.Version),
		Next: "kicker ignores the node: it is no member, and its actions are not kicked",
		Do:   "install the controller's release of kicker on the node (`kicker version`)",
	}
}

func nodeNotReady(v *api.View, n *inventory.Node) api.Problem {
	p := api.Problem{
		Code: api.ProblemNodeNotReady, Severity: api.Warning, Object: "node/" + n.Name,
		Next: "it is a member of its roles as soon as it is ready", Do: "check its service",
	}
	p.Text, p.Why = notMember(n)
	switch {
	case n.Facts == nil:
		p.Severity, p.CausedBy = api.Note, notSyncedCode(v)
		p.Next, p.Do = "the controller requests them", "doing nothing is safe: it becomes a member when they arrive"
	case n.Checking:
		p.Severity, p.Do = api.Note, "doing nothing is safe: its agent checks the service"
	}
	return p
}

// notMember is why a node is not a member of its roles: what is the case, and the cause that the node reported. For a
// member both are "".
func notMember(n *inventory.Node) (what, why string) {
	switch {
	case n.Eligible():
		return "", ""
	case n.Life == inventory.Left:
		return "it left", ""
	case n.Facts == nil:
		return "its facts have not arrived", ""
	}
	return "not ready", n.NotReady
}

func actionFailing(v *api.View, verdict api.Verdict) api.Problem {
	node := shellquote.Join("node/" + verdict.Node)
	p := api.Problem{
		Code: api.ProblemActionFailing, Severity: api.Note, Object: "node/" + verdict.Node + "/" + verdict.Action,
		Since: verdict.Since, Next: nextTry(verdict, v.At),
		Do: fmt.Sprintf("kicker explain %s shows its output; when the cause is gone: kicker kick %s --action %s",
			node, node, shellquote.Join(verdict.Action)),
	}
	for _, need := range verdict.Needs {
		if need.Applied == nil || need.Applied.Hash != need.Current.Hash {
			p.Severity = api.Critical
		}
	}
	last := verdict.Last
	if last == nil || last.Outcome == kick.Succeeded { // the node rejected the kick, or does not know the run
		p.Text = "the last try failed"
		for _, g := range verdict.Gates {
			if g.Name == api.GateBackoff {
				p.Why = g.Why
			}
		}
		return p
	}
	p.Text = "the last run " + api.Outcome(last.Outcome, last.Exit)
	if last.Failures > 1 {
		p.Text += fmt.Sprintf(" (%d failures in a row)", last.Failures)
	}
	if run := lastRun(v, verdict); run != nil && run.ID == last.Run {
		output := strings.TrimSpace(run.Output)
		p.Why = cmp.Or(run.Error, output[strings.LastIndex(output, "\n")+1:])
	}
	return p
}

// nextTry says when a failing action runs again.
func nextTry(verdict api.Verdict, at time.Time) string {
	var until time.Time
	var waits []string // for something other than time
	for _, g := range verdict.Gates {
		if g.Until.IsZero() || g.Name == api.GateRunning {
			waits = append(waits, g.Name)
		} else if g.Until.After(until) {
			until = g.Until
		}
	}
	switch {
	case len(waits) > 0:
		return "kicker runs it again when it no longer waits for: " + strings.Join(waits, ", ")
	case verdict.Running != nil:
		return "it runs now"
	case until.IsZero():
		return "kicker runs it again now"
	}
	return "kicker runs it again in " + api.Duration(until.Sub(at))
}

// left says how long a wait lasts at most: " (2.1s left)". It is empty if that is not known.
func left(s api.Sync, at time.Time) string {
	if s.Until.IsZero() {
		return ""
	}
	return " (" + api.Duration(s.Until.Sub(at)) + " left)"
}
