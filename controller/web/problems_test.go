package web

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// everything is a view with every problem but bus_lost and unknown_role.
func everything(t *testing.T) *api.View {
	t.Helper()
	v := holding(t)
	v.Sync = api.Sync{Why: "waiting for nodes to report", Until: noon.Add(5 * time.Second)}
	v.DisconnectsLost = "no permission to subscribe"
	v.Loaded.Failed = "kicker.yaml:3: settle: 7 has no unit"
	v.Conflicts = []api.Conflict{{Node: "web1.example.org", Accepted: "i-1", Rejected: "i-2", Since: ago(time.Minute)}}
	v.Overdue = []api.Overdue{{
		Node: "lb1.example.org", Action: "reload", Run: "r9", Started: ago(5 * time.Minute), Since: ago(4 * time.Minute),
		Until: noon.Add(5 * time.Minute), Usual: time.Second,
	}}
	v.WrongVersion = []api.VersionMismatch{{Node: "old1.example.org", Version: 1, Since: ago(time.Minute)}}
	return v
}

func with(change func(*api.View)) func(*testing.T) *api.View {
	return func(t *testing.T) *api.View {
		v := everything(t)
		change(v)
		return v
	}
}

func busLost(v *api.View) { v.Sync = api.Sync{Why: "the bus does not answer", BusLost: true} }

func summary(ps []api.Problem) (lines []string) {
	for _, p := range ps {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", p.Severity, p.Code, p.Object, p.CausedBy))
	}
	return lines
}

func TestProblemsAreSortedWithConsequencesUnderTheirCause(t *testing.T) {
	for _, test := range []struct {
		name string
		view func(*testing.T) *api.View
		want []string
	}{
		{"not synced", everything, []string{
			"critical action_failing node/lb2.example.org/reload ",
			"critical wrong_version node/old1.example.org ",
			"critical removal_held role/web ",
			"warning not_synced  ",
			"warning role_not_synced role/lb not_synced",
			"warning disconnects_lost  ",
			"warning reload_rejected  ",
			"warning overdue_run node/lb1.example.org/reload ",
			"warning name_conflict node/web1.example.org ",
			"warning node_not_ready node/web2.example.org ",
		}},
		{"bus lost", with(busLost), []string{
			"critical bus_lost  ",
			"warning disconnects_lost  bus_lost",
			"warning role_not_synced role/lb bus_lost",
			"critical action_failing node/lb2.example.org/reload ",
			"critical wrong_version node/old1.example.org ",
			"critical removal_held role/web ",
			"warning reload_rejected  ",
			"warning overdue_run node/lb1.example.org/reload ",
			"warning name_conflict node/web1.example.org ",
			"warning node_not_ready node/web2.example.org ",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := summary(problems(test.view(t))); !slices.Equal(got, test.want) {
				t.Errorf("the problems are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestEveryCodeOccursWithAllItsTexts(t *testing.T) {
	seen := map[string]bool{}
	for _, view := range []func(*testing.T) *api.View{
		everything,
		with(busLost),
		with(func(v *api.View) {
			v.Sync = api.Sync{Open: true}
			v.Roles[0].Unknown = true
			v.Roles[1].Held.Shadow = true
			v.Verdicts[0].Disabled = "new disks"
			v.Roles[1].Refused = &api.Refusal{Code: api.RefusedTooFew, Why: "1 member"}
			v.Roles[1].Incomplete = []api.Incomplete{{Node: "web3", Why: "has no fact port"}}
			v.Roles[1].Quarantined = []api.Quarantined{{Node: "web4", Why: "runs failed"}}
		}),
	} {
		for _, p := range problems(view(t)) {
			if p.Text == "" || p.Why == "" || p.Next == "" || p.Do == "" {
				t.Errorf("%+v: a text is missing", p)
			}
			seen[p.Code] = true
		}
	}
	for _, c := range api.ProblemCodes {
		if !seen[c] {
			t.Errorf("no problem has the code %s", c)
		}
		delete(seen, c)
	}
	if len(seen) > 0 {
		t.Errorf("api.ProblemCodes does not have %v", seen)
	}
}

func TestControllerWithoutNodesAsksForAgents(t *testing.T) {
	v := cluster(t)
	v.Sync = api.Sync{Why: "no node has reported"}
	if p := only(t, v, api.ProblemNotSynced); !strings.HasPrefix(p.Do, "check that agents run") {
		t.Errorf("the remedy is %s", p.Do)
	}
}

// only is the problem with that code in a view that has one.
func only(t *testing.T, v *api.View, code string) api.Problem {
	t.Helper()
	found := slices.DeleteFunc(problems(v), func(p api.Problem) bool { return p.Code != code })
	if len(found) != 1 {
		t.Fatalf("%d problems %s, want 1: %+v", len(found), code, found)
	}
	return found[0]
}

func TestUnknownRoleNamesDependentsAndTheLikelyRole(t *testing.T) {
	v := cluster(t)
	v.Roles = append(v.Roles, api.Role{Name: "wbe", Dependents: []string{"lb1.example.org/reload"}, Unknown: true})
	p := only(t, v, api.ProblemUnknownRole)
	if p.Object != "role/wbe" || !strings.Contains(p.Why, "lb1.example.org/reload") ||
		!strings.Contains(p.Do, "did you mean web?") {
		t.Errorf("%+v", p)
	}
	v.Sync.Open = false
	for _, p := range problems(v) {
		if p.Code == api.ProblemUnknownRole {
			t.Errorf("not synced, so a node with the role may not have reported yet: %+v", p)
		}
	}
}

func TestAcceptLossCommandIsQuotedForAShell(t *testing.T) {
	v := holding(t)
	v.Roles[1].Name = `web where site="b 2"`
	p := only(t, v, api.ProblemRemovalHeld)
	if !strings.HasSuffix(p.Do, `: kicker accept-loss 'role/web where site="b 2"=2'`) {
		t.Errorf("the remedy is %s", p.Do)
	}
}

func TestHoldAfterAReloadSaysToUndoIt(t *testing.T) {
	v := holding(t)
	v.Roles[1].Held.Undo = "undo the change of the selector, which is now role=wbe"
	if p := only(t, v, api.ProblemRemovalHeld); !strings.HasSuffix(p.Do, v.Roles[1].Held.Undo) || strings.Contains(p.Do, "accept-loss") {
		t.Errorf("the remedy is %s", p.Do)
	}
}

func TestRoleWithoutDependentsMayBeEmpty(t *testing.T) {
	v := calm(t)
	v.Roles = slices.Clone(v.Roles)
	v.Roles[1].Refused, v.Roles[1].Dependents = &api.Refusal{Code: api.RefusedTooFew}, nil
	for _, p := range problems(v) {
		if p.Code == api.ProblemTooFewMembers {
			t.Errorf("no action depends on it: %+v", p)
		}
	}
}

func TestFailingActionSaysHowAndWhenItRunsAgain(t *testing.T) {
	const failed, in20s = "the last run failed with exit code 3 (2 failures in a row)", "kicker runs it again in 20s"
	backoff := api.Gate{Name: api.GateBackoff, Why: "kick rejected: disabled", Until: noon.Add(20 * time.Second)}
	for _, test := range []struct {
		name            string
		change          func(v *api.View, a *api.Verdict)
		severity        api.Severity
		text, why, next string
	}{
		{"the command failed",
			func(v *api.View, a *api.Verdict) {},
			api.Critical, failed, "haproxy.cfg is invalid", in20s},
		{"without an error the output has the cause",
			func(v *api.View, a *api.Verdict) { v.Runs[1].Error = "" },
			api.Critical, failed, "haproxy: no such backend", in20s},
		{"the newest run is another one",
			func(v *api.View, a *api.Verdict) { a.Last.Run = "r9" },
			api.Critical, failed, "", in20s},
		{"it timed out",
			func(v *api.View, a *api.Verdict) {
				a.Last = &kick.LastRun{Run: "r9", Outcome: kick.TimedOut, Failures: 1}
			},
			api.Critical, "the last run timed out", "", in20s},
		{"the kick was rejected after a success",
			func(v *api.View, a *api.Verdict) {
				a.Last, a.Gates = &kick.LastRun{Run: "r1", Outcome: kick.Succeeded}, []api.Gate{backoff}
			},
			api.Critical, "the last try failed", "kick rejected: disabled", in20s},
		{"no run is known",
			func(v *api.View, a *api.Verdict) { a.Last, a.Gates = nil, nil },
			api.Critical, "the last try failed", "", "kicker runs it again now"},
		{"a run is in progress",
			func(v *api.View, a *api.Verdict) {
				a.Running, a.Gates = &kick.Running{Run: "r3", Action: "reload"}, nil
			},
			api.Critical, failed, "haproxy.cfg is invalid", "it runs now"},
		{"it waits for more than time",
			func(v *api.View, a *api.Verdict) {
				a.Gates = append(a.Gates, api.Gate{Name: api.GateBudget}, api.Gate{Name: api.GateRollout})
			},
			api.Critical, failed, "haproxy.cfg is invalid",
			"kicker runs it again when it no longer waits for: budget, rollout"},
		{"all that it depends on is applied",
			func(v *api.View, a *api.Verdict) { a.Needs[0].Applied = &a.Needs[0].Current },
			api.Note, failed, "haproxy.cfg is invalid", in20s},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := cluster(t)
			test.change(v, &v.Verdicts[1])
			p := only(t, v, api.ProblemActionFailing)
			if p.Severity != test.severity || p.Text != test.text || p.Why != test.why || p.Next != test.next {
				t.Errorf("%s: %s: %s: %s\nwant %s: %s: %s: %s",
					p.Severity, p.Text, p.Why, p.Next, test.severity, test.text, test.why, test.next)
			}
			if !strings.HasSuffix(p.Do, "kicker kick node/lb2.example.org --action reload") {
				t.Errorf("the remedy is %s", p.Do)
			}
		})
	}
}

func TestNodesThatAreStillCheckedOrUnknownAreNotes(t *testing.T) {
	v := cluster(t)
	v.Sync = api.Sync{Why: "waiting for nodes to report"}
	inv := inventory.New()
	for _, beat := range []inventory.Beat{
		{Node: "checking1", Checking: true, NotReady: "not checked yet", Facts: inventory.Facts{}.Digest()},
		{Node: "factless1", Ready: true, Facts: webFacts("10.0.0.9").Digest()},
	} {
		beat.V, beat.Instance, beat.Boot, beat.NextIn = inventory.Version, "i-"+beat.Node, "b1", 1000
		if beat.Checking {
			facts := inventory.FactsMessage{V: beat.V, Node: beat.Node, Instance: beat.Instance, Boot: "b1"}
			facts.Facts = inventory.Facts{}
			if _, err := inv.Apply(inventory.Received{At: noon, Facts: &facts}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := inv.Apply(inventory.Received{At: noon, Beat: &beat}); err != nil {
			t.Fatal(err)
		}
	}
	v.Nodes = inv.Snapshot()
	want := []string{"note node_not_ready node/factless1 not_synced", "note node_not_ready node/checking1 "}
	isOther := func(line string) bool { return !strings.Contains(line, "node_not_ready") }
	got := slices.DeleteFunc(summary(problems(v)), isOther)
	if !slices.Equal(got, want) {
		t.Errorf("the problems are %q, want %q", got, want)
	}
}

func TestProblemsAreCountedByCodeAndSeverity(t *testing.T) {
	w := ask(Handler(showing(everything(t))), "GET", "/metrics", "")
	for _, want := range []string{
		`kicker_problems{code="removal_held",severity="critical"} 1`,
		`kicker_problems{code="removal_held",severity="note"} 0`,
		`kicker_problems{code="bus_lost",severity="critical"} 0`,
		`kicker_problems{code="role_not_synced",severity="warning"} 1`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			t.Errorf("the metrics do not have %s", want)
		}
	}
}

func TestOverdueRunSaysWhatItBlocksAndWhenItEnds(t *testing.T) {
	run := api.Overdue{
		Node: "lb2", Action: "reload", Run: "r9", Started: ago(5 * time.Minute), Since: ago(4 * time.Minute),
		Until: noon.Add(5 * time.Minute), Usual: 12 * time.Second,
	}
	for _, test := range []struct {
		name            string
		change          func(*api.Overdue)
		severity        api.Severity
		text, why, next string
	}{
		{"tolerated", func(*api.Overdue) {}, api.Warning, "run r9 is overdue, started 5m ago", "it usually takes 12s",
			"its node stops it within 5m; the node runs nothing else until it ends, and other nodes go on"},
		{"too many", func(r *api.Overdue) { r.Blocks = []string{"action reload", "role lb"} }, api.Critical,
			"run r9 is overdue, started 5m ago",
			"it usually takes 12s; more runs are overdue than the budget tolerates",
			"its node stops it within 5m; nothing new starts in action reload, role lb while too many are overdue"},
		{"beyond its deadline", func(r *api.Overdue) { r.Until, r.Usual = ago(time.Minute), 0 }, api.Warning,
			"run r9 is overdue, started 5m ago", "no usual duration is known",
			"its deadline is over, and its node still reports it; the node runs nothing else until it ends, and other nodes go on"},
		{"without a reply", func(r *api.Overdue) { r.NoReply = true }, api.Warning,
			"run r9 may be in progress: its kick was sent 5m ago and has no reply", "it usually takes 12s",
			"kicker sends the kick again; the place of the run is free within 5m"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, r := cluster(t), run
			test.change(&r)
			v.Overdue = []api.Overdue{r}
			p := only(t, v, api.ProblemOverdueRun)
			if p.Severity != test.severity || p.Text != test.text || p.Why != test.why || p.Next != test.next {
				t.Errorf("%s: %s: %s: %s\nwant %s: %s: %s: %s",
					p.Severity, p.Text, p.Why, p.Next, test.severity, test.text, test.why, test.next)
			}
			if p.Object != "node/lb2/reload" || !p.Since.Equal(r.Since) || !strings.Contains(p.Do, "lb2") {
				t.Errorf("%+v", p)
			}
		})
	}
}
