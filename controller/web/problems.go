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
	notSynced := "" // the code of the problem that the controller is not synced
	if !v.Sync.Open {
		notSynced = found[0].Code
	}
	found = slices.Concat(found, roleProblems(v, notSynced), nodeProblems(v, notSynced))
	for _, verdict := range v.Verdicts {
		if verdict.State == api.Failing {
			found = append(found, actionFailing(v, verdict))
		}
		if verdict.Disabled != "" {
			found = append(found, actionDisabled(verdict))
		}
	}
	for _, run := range v.Overdue {
		found = append(found, overdueRun(run, v.At))
	}
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

func clusterProblems(v *api.View) (found []api.Problem) {
	if !v.Sync.Open {
		p := api.Problem{
			Code: api.ProblemNotSynced, Severity: api.Warning, Why: v.Sync.Why,
			Text: "the controller does not know all nodes yet",
			Next: "kicker kicks and removes no node until it does" + left(v.Sync, v.At), Do: safe,
		}
		if v.Sync.Until.IsZero() { // no node has reported
			p.Do = "check that agents run and reach the bus; until then dependents keep the members that they have"
		}
		if v.Sync.BusLost {
			p.Code, p.Severity, p.Text = api.ProblemBusLost, api.Critical, "the bus is lost"
			p.Next = "kicker kicks and removes no node; when the bus answers, it waits for nodes to report"
			p.Do = "check the bus and the network to it; until then dependents keep the members that they have"
		}
		found = append(found, p)
	}
	if v.DisconnectsLost != "" {
		p := api.Problem{
			Code: api.ProblemDisconnectsLost, Severity: api.Warning, Why: v.DisconnectsLost,
			Text: "the controller receives no disconnects through bus.system_url",
			Next: "kicker notices a dead node by its silence, after gone_after",
			Do:   "check bus.system_url, and that its user may subscribe to the events of the broker",
		}
		if v.Sync.BusLost {
			p.CausedBy = api.ProblemBusLost
		}
		found = append(found, p)
	}
	if v.Loaded.Failed != "" {
		found = append(found, api.Problem{
			Code: api.ProblemReloadRejected, Severity: api.Warning, Why: v.Loaded.Failed,
			Text: "the changed configuration is not in force",
			Next: "kicker keeps the old configuration, and reads the file again when it changes",
			Do:   "correct the file; `kicker config validate` checks it",
		})
	}
	return found
}

func roleProblems(v *api.View, notSynced string) (found []api.Problem) {
	var known []string
	for _, role := range v.Roles {
		if !role.Unknown {
			known = append(known, role.Name)
		}
	}
	for _, role := range v.Roles {
		object := "role/" + role.Name
		if !role.Sync.Open && role.Sync.Why != "" {
			found = append(found, api.Problem{
				Code: api.ProblemRoleNotSynced, Severity: api.Warning, Object: object, CausedBy: notSynced,
				Text: "not all members are known yet", Why: role.Sync.Why,
				Next: "kicker kicks its dependents when they are known" + left(role.Sync, v.At), Do: safe,
			})
		}
		if role.Held != nil && v.Leader == "" { // the controller that leads may have ended the hold
			found = append(found, removalHeld(role))
		}
		found = append(found, memberProblems(role)...)
		if role.Unknown && v.Sync.Open { // until then a node that has it may not have reported
			p := api.Problem{
				Code: api.ProblemUnknownRole, Severity: api.Warning, Object: object,
				Text: "no node has this role and no configuration names it",
				Why:  "dependents name it: " + api.List(role.Dependents, 3),
				Next: "kicker does not kick them until a node has the role or the configuration names it",
				Do:   "correct depends_on, or name the role in the controller's configuration",
			}
			if meant := api.LikelyMeant(role.Name, known); meant != "" {
				p.Do += " (did you mean " + meant + "?)"
			}
			found = append(found, p)
		}
	}
	return found
}

// memberProblems is what is wrong with the members that dependents of a role need.
func memberProblems(role api.Role) (found []api.Problem) {
	object := "role/" + role.Name
	dependents := api.List(role.Dependents, 3)
	if role.Refused != nil && role.Refused.Code == api.RefusedTooFew && len(role.Dependents) > 0 {
		found = append(found, api.Problem{
			Code: api.ProblemTooFewMembers, Severity: api.Critical, Object: object,
			Text: "it has too few members for its dependents",
			Why:  role.Refused.Why,
			Next: "kicker does not kick " + dependents + " until the role has enough members",
			Do:   "dependents keep the members that they have: check the nodes of the role, or lower its min_members",
		})
	}
	for _, i := range role.Incomplete {
		found = append(found, api.Problem{
			Code: api.ProblemMemberIncomplete, Severity: api.Warning, Object: "node/" + i.Node,
			Text: "it is not a member of role " + role.Name, Why: i.Why,
			Next: "it is a member as soon as its facts are right",
			Do: "give its agent a valid fact; if it is missing and " + dependents +
				" can do without it, mark it as optional (FACT?)",
		})
	}
	for _, q := range role.Quarantined {
		found = append(found, api.Problem{
			Code: api.ProblemMemberQuarantined, Severity: api.Warning, Object: "node/" + q.Node, Since: q.Since,
			Text: "it is quarantined: not a member of role " + role.Name, Why: q.Why,
			Next: "one dependent tries it again at " + q.Retry.Format("15:04:05 MST") + "; at once if its facts change, but not twice within 10 min",
			Do:   "compare its facts with those of the other members, and look at the output of the runs that failed",
		})
	}
	return found
}

func removalHeld(role api.Role) api.Problem {
	h, nodes := role.Held, api.List(role.Held.Nodes, 3)
	p := api.Problem{
		Code: api.ProblemRemovalHeld, Severity: api.Critical, Object: "role/" + role.Name, Since: h.Since,
		Text: "the removal of " + nodes + " is held", Why: strings.TrimSuffix(h.Why+"; "+h.Probe, "; "),
		Next: "they stay members until they are back, enough members are ready, or dependents cannot reach them",
		Do:   "doing nothing is safe: dependents keep them; if they are lost: " + api.AcceptLoss(role.Name, len(h.Nodes)),
	}
	if h.Undo != "" {
		p.Do = "doing nothing is safe: dependents keep them; " + h.Undo
	}
	if h.Shadow {
		p.Severity, p.Text = api.Note, "the removal of "+nodes+" would be held"
		p.Next = "guard: shadow, not enforced: kicker removes them"
		p.Do = "check whether they are lost; with guard: on they would stay members"
	}
	return p
}

func nodeProblems(v *api.View, notSynced string) (found []api.Problem) {
	for _, c := range v.Conflicts {
		found = append(found, api.Problem{
			Code: api.ProblemNameConflict, Severity: api.Warning, Object: "node/" + c.Node, Since: c.Since,
			Text: "two machines claim this name",
			Why:  fmt.Sprintf("instance %s is accepted, instance %s is rejected", c.Accepted, c.Rejected),
			Next: "kicker ignores the rejected machine while the accepted one reports",
			Do:   "stop one of them, or give it another agent.name",
		})
	}
	for _, w := range v.WrongVersion {
		found = append(found, api.Problem{
			Code: api.ProblemWrongVersion, Severity: api.Critical, Object: "node/" + w.Node, Since: w.Since,
			Text: "its messages have another version",
			Why:  fmt.Sprintf("its agent sends version %d, the controller knows version %d", w.Version, inventory.Version),
			Next: "kicker ignores the node: it is no member, and its actions are not kicked",
			Do:   "install the controller's release of kicker on the node (`kicker version`)",
		})
	}
	for n := range v.Nodes.All() {
		if n.Eligible() || n.Life == inventory.Left {
			continue
		}
		p := api.Problem{
			Code: api.ProblemNodeNotReady, Severity: api.Warning, Object: "node/" + n.Name,
			Next: "it is a member of its roles as soon as it is ready", Do: "check its service",
		}
		p.Text, p.Why = notMember(n)
		switch {
		case n.Facts == nil:
			p.Severity, p.CausedBy = api.Note, notSynced
			p.Next, p.Do = "the controller requests them", "doing nothing is safe: it becomes a member when they arrive"
		case n.Checking:
			p.Severity, p.Do = api.Note, "doing nothing is safe: its agent checks the service"
		}
		found = append(found, p)
	}
	return found
}

// notMember is why a node is not a member of its roles: what is the case, and the cause that the node reported.
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

func actionDisabled(verdict api.Verdict) api.Problem {
	p := api.Problem{
		Code: api.ProblemActionDisabled, Severity: api.Note, Object: "node/" + verdict.Node + "/" + verdict.Action,
		Text: "it is disabled on its node", Why: verdict.Disabled,
		Next: "kicker does not run it while the file disabled is there; it uses the current members",
		Do:   "when the work on the node is done, remove the file",
	}
	if verdict.State != api.Converged {
		p.Severity, p.Since = api.Warning, verdict.Since
		p.Next = "kicker does not run it while the file disabled is there; it keeps the members that it applied last"
	}
	return p
}

func actionFailing(v *api.View, verdict api.Verdict) api.Problem {
	node := shellquote.Join("node/" + verdict.Node)
	p := api.Problem{
		Code: api.ProblemActionFailing, Severity: api.Note, Object: "node/" + verdict.Node + "/" + verdict.Action,
		Since: verdict.Since, Next: nextTry(verdict, v.At),
		Do: fmt.Sprintf("kicker explain %s shows its output; when the cause is gone: kicker kick %s --action %s",
			node, node, shellquote.Join(verdict.Action)),
	}
	isBehind := func(n api.Need) bool { return n.Applied == nil || n.Applied.Hash != n.Current.Hash }
	if slices.ContainsFunc(verdict.Needs, isBehind) {
		p.Severity = api.Critical
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

func overdueRun(run api.Overdue, at time.Time) api.Problem {
	node := shellquote.Join("node/" + run.Node)
	usual := "no usual duration is known"
	if run.Usual > 0 {
		usual = "it usually takes " + api.Duration(run.Usual)
	}
	end := "its node stops it within " + api.Duration(run.Until.Sub(at))
	if !run.Until.After(at) {
		end = "its deadline is over, and its node still reports it"
	}
	p := api.Problem{
		Code: api.ProblemOverdueRun, Severity: api.Warning, Since: run.Since,
		Object: strings.TrimSuffix("node/"+run.Node+"/"+run.Action, "/"), // a node that is busy does not say with what
		Text:   fmt.Sprintf("run %s is overdue, started %s ago", run.Run, api.Duration(at.Sub(run.Started))),
		Why:    usual,
		Next:   end + "; the node runs nothing else until it ends, and other nodes go on",
		Do: fmt.Sprintf("find out on %s what the command waits for, or stop it there; kicker explain %s shows what waits",
			run.Node, node),
	}
	if run.NoReply {
		p.Text = fmt.Sprintf("run %s may be in progress: its kick was sent %s ago and has no reply",
			run.Run, api.Duration(at.Sub(run.Started)))
		p.Next = "kicker sends the kick again; the place of the run is free within " + api.Duration(run.Until.Sub(at))
		p.Do = fmt.Sprintf("check the agent on %s, and its connection to the bus", run.Node)
	}
	if len(run.Blocks) > 0 {
		p.Severity = api.Critical
		p.Why += "; more runs are overdue than the budget tolerates"
		p.Next = end + "; nothing new starts in " + api.List(run.Blocks, 3) + " while too many are overdue"
	}
	return p
}

// nextTry says when a failing action runs again.
func nextTry(verdict api.Verdict, at time.Time) string {
	var wait time.Duration
	var others []string // gates that wait for something other than time
	for _, g := range verdict.Gates {
		if g.Until.IsZero() || g.Name == api.GateRunning {
			others = append(others, g.Name)
		} else {
			wait = max(wait, g.Until.Sub(at))
		}
	}
	switch {
	case len(others) > 0:
		return "kicker runs it again when it no longer waits for: " + strings.Join(others, ", ")
	case verdict.Running != nil:
		return "it runs now"
	case wait == 0:
		return "kicker runs it again now"
	}
	return "kicker runs it again in " + api.Duration(wait)
}

// left says how long a wait lasts at most: " (2.1s left)". It is empty if that is not known.
func left(s api.Sync, at time.Time) string {
	if s.Until.IsZero() {
		return ""
	}
	return " (" + api.Duration(s.Until.Sub(at)) + " left)"
}
