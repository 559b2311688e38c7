package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kicker/controller/api"
	"kicker/controller/web"
	"kicker/inventory"
	"kicker/kick"
)

// TestQuestions plays testdata/ask, one file a user story. Beside testscript's own commands there are `exits`, see
// TestScripts, and `lab [socket] WORLD`. It starts a controller's API over one of newLab's worlds, at noon; with socket
// on api.sock in the state directory. UPDATE_SCRIPTS=1 writes the expected outputs anew.
func TestQuestions(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/ask",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			// else each command that is built with -race takes a second to exit
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("KICKER_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			return os.Mkdir(filepath.Join(env.WorkDir, "state"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "lab": startLab},
	})
}

func startLab(ts *testscript.TestScript, neg bool, args []string) {
	onSocket := len(args) == 2 && args[0] == "socket"
	if neg || len(args) != 1 && !onSocket {
		ts.Fatalf("usage: lab [socket] WORLD")
	}
	l := newLab(args[len(args)-1])
	dir := ts.Getenv("KICKER_STATE_DIR")
	if onSocket {
		ln, err := web.ListenUnix(filepath.Join(dir, "api.sock"))
		ts.Check(err)
		srv := httptest.NewUnstartedServer(l.handler(web.Config{Trusted: true}))
		srv.Listener.Close()
		srv.Listener = ln
		srv.Start()
		ts.Defer(srv.Close)
		return
	}
	srv := httptest.NewServer(l.handler(web.Config{Token: "secret", OpenReads: true}))
	ts.Defer(srv.Close)
	ts.Setenv("KICKER_API", srv.URL)
	ts.Check(os.WriteFile(filepath.Join(dir, "token"), []byte("secret\n"), 0o600))
}

// lab is a controller that shows a world at noon. When its nodes are kicked, lb1 succeeds, lb2 fails, lb3 hangs and lb4
// is gone.
type lab struct {
	mu   sync.Mutex
	view *api.View
	next chan struct{}
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

func newLab(world string) *lab {
	l := &lab{next: make(chan struct{})}
	v := &api.View{
		At: noon, Next: l.next, Nodes: inventory.New().Snapshot(), Sync: api.Sync{Open: true},
		Identity: api.Identity{Cluster: "main", ID: "c1", Epoch: 1790000000000, Started: ago(3 * time.Hour)},
		Events: []api.Event{{Seq: 1, Time: ago(3 * time.Hour), Kind: api.EventStarted,
			Text: "controller c1 started"}},
	}
	switch world {
	case "unsynced":
		v.Sync = api.Sync{Why: "waiting for nodes to report", Until: noon.Add(3 * time.Second)}
	case "calm":
		fill(v, "lb1", "web1", "web2")
	case "troubled":
		fill(v, "lb1", "lb2", "lb3", "lb4", "web1", "web2", "web3")
		trouble(v)
	case "conflict":
		fill(v, "lb1", "web1", "web2")
		v.Conflicts = []api.Conflict{{Node: "web1", Accepted: "i-web1", Rejected: "i-clone", Since: ago(time.Hour)}}
	case "cycle":
		fill(v, "lb1", "web1")
		v.Cycles = []api.Cycle{{Roles: []string{"lb", "web"}, Since: ago(time.Hour)}}
	case "held", "shadow":
		fill(v, "lb1", "lb2", "web1", "web2", "web3")
		hold(v, world == "shadow")
	case "standby":
		fill(v, "lb1", "web1")
		v.Leader = "c2"
		v.Verdicts[0].State, v.Verdicts[0].Since, v.Verdicts[0].Reason = api.Pending, ago(time.Second), "web: +web1"
		v.Verdicts[0].Gates = []api.Gate{{Name: api.GateLeader, Why: "controller c2 leads"}}
	case "departed":
		fill(v, "lb1", "lb2", "web1", "web2")
		v.Departed = map[string]api.Departed{"web9": {
			Node: "web9", Life: api.Gone, At: ago(4 * time.Second), Why: "its connection closed",
			Roles: map[string]api.RoleDeparture{"web": {
				Why: kick.DepartedGone, At: ago(3 * time.Second), Dropped: map[string]time.Time{"lb1/reload": ago(time.Second)},
			}},
		}}
		lb2 := &v.Verdicts[1]
		lb2.State, lb2.Since, lb2.Reason = api.Pending, ago(3*time.Second), "web: -web9"
		lb2.Needs = []api.Need{{Role: "web", Current: lb2.Needs[0].Current, Applied: &kick.Revision{Hash: "1-1"}, Removed: []string{"web9"}}}
	case "blocked":
		fill(v, "lb1", "web1", "web2", "web3")
		lb1 := &v.Verdicts[0]
		lb1.State, lb1.Disabled = api.Pending, "disabled: new disks"
		lb1.Gates = []api.Gate{api.NewGate(api.GateDisabled, lb1.Disabled, time.Time{})}
	case "empty":
	default:
		panic("unknown world " + world)
	}
	l.view = v
	return l
}

// fill puts nodes into a view, all of them alive, ready and converged.
func fill(v *api.View, names ...string) {
	inv := inventory.New()
	current := kick.Revision{Epoch: 1790000000000, N: 2, Hash: "1-2222222222222222"}
	web := api.Role{Name: "web", Selector: "role=web", MemberFacts: []string{"ipaddress", "port"}, Revision: current,
		Sync: v.Sync}
	lb := api.Role{Name: "lb", Selector: "role=lb", MemberFacts: []string{"ipaddress", "port"}, Sync: v.Sync}
	for i, name := range names {
		role := strings.TrimRight(name, "0123456789")
		facts := inventory.Facts{"role": role, "ipaddress": fmt.Sprintf("10.0.0.%d", i+1),
			"os": map[string]any{"name": "Debian"}}
		beat := inventory.Beat{V: inventory.Version, Node: name, Instance: "i-" + name, Boot: "b1",
			Conn:  inventory.Conn{Server: "s", Client: uint64(i)},
			Facts: facts.Digest(), Ready: name != "web3", NextIn: 1000}
		if name == "web3" {
			beat.NotReady = "tcp:8080: connection refused"
		}
		hear(inv, inventory.Received{At: ago(2 * time.Hour),
			Facts: &inventory.FactsMessage{V: inventory.Version, Node: name, Instance: beat.Instance, Boot: "b1",
				Facts: facts}})
		hear(inv, inventory.Received{At: ago(2 * time.Hour), Beat: &beat})
		if role == "lb" {
			lb.Nodes = append(lb.Nodes, name)
			web.Dependents = append(web.Dependents, name+"/reload")
			v.Verdicts = append(v.Verdicts, api.Verdict{Node: name, Action: "reload", State: api.Converged,
				Needs: []api.Need{{Role: "web", Current: current, Applied: &current}},
				Last:  &kick.LastRun{Run: "r-" + name, Outcome: kick.Succeeded, Duration: 800}})
			v.Runs = append(v.Runs,
				api.Run{ID: "r-" + name, Node: name, Action: "reload", Reason: "web: +web2", Started: ago(time.Hour),
					Ended: ago(time.Hour - time.Second), Outcome: kick.Succeeded, Duration: 800 * time.Millisecond})
			continue
		}
		web.Nodes = append(web.Nodes, name)
		if beat.Ready {
			web.Members = append(web.Members,
				kick.Member{Node: name, Facts: map[string]any{"ipaddress": facts["ipaddress"], "port": 8080}})
		}
	}
	for _, name := range lb.Nodes {
		lb.Members = append(lb.Members, kick.Member{Node: name})
	}
	v.Nodes, v.Roles = inv.Snapshot(), []api.Role{lb, web}
}

func hear(inv *inventory.Inventory, h inventory.Received) {
	if _, err := inv.Apply(h); err != nil {
		panic(err)
	}
}

// hold makes the guard of role web hold web3, which is not ready, and web4 and web5, which are gone. lb2 depends on a
// part of role web of which not all members have reported.
func hold(v *api.View, shadow bool) {
	web := &v.Roles[1]
	web.Held = &api.Held{Nodes: []string{"web3", "web4", "web5"}, Since: ago(30 * time.Second),
		Why:    "3 of 5 are gone or suspect within 1m, all rack=7",
		Probe:  "lb1 reaches 10.0.0.9:8080, so the network between the controller and the nodes is broken",
		Shadow: shadow}
	if !shadow {
		for i, name := range web.Held.Nodes {
			web.Members = append(web.Members,
				kick.Member{Node: name,
					Facts: map[string]any{"ipaddress": fmt.Sprintf("10.0.0.%d", 7+i), "port": 8080}})
		}
	}
	web.Dependents = web.Dependents[:1]
	why := "1 of 2 last known members have not reported yet: web8"
	v.Roles = append(v.Roles,
		api.Role{Name: `web where site="b 2"`, Selector: `role=web,site="b 2"`, Dependents: []string{"lb2/reload"},
			Sync:    api.Sync{Why: why, Until: noon.Add(4 * time.Second)},
			Refused: &api.Refusal{Code: api.RefusedNotSynced, Why: why, Until: noon.Add(4 * time.Second)}})
	lb2 := &v.Verdicts[1]
	lb2.State, lb2.Since, lb2.Reason = api.Pending, ago(2*time.Second), "web: not known yet"
	lb2.Needs = []api.Need{{Role: "web", Shared: `site="b 2"`, Applied: lb2.Needs[0].Applied}}
	lb2.Gates = []api.Gate{{Name: api.GateSynced, Why: "role web: " + why, Until: noon.Add(4 * time.Second)},
		{Name: api.GateMinMembers, Why: "role web has 0 members, fewer than its min_members 2", Person: true}}
}

// trouble makes lb2 fail, lb3 wait for its run and lb4 settle.
func trouble(v *api.View) {
	applied := kick.Revision{Epoch: 1790000000000, N: 1, Hash: "1-1111111111111111"}
	for i := range v.Verdicts {
		verdict := &v.Verdicts[i]
		if verdict.Node == "lb1" {
			continue
		}
		verdict.State, verdict.Since, verdict.Reason = api.Pending, ago(90*time.Second), "web: +web2 -web3"
		verdict.Needs[0].Applied, verdict.Needs[0].Added, verdict.Needs[0].Removed = &applied, []string{"web2"},
			[]string{"web3"}
		switch verdict.Node {
		case "lb2":
			verdict.State = api.Failing
			verdict.Gates = []api.Gate{{Name: api.GateBackoff, Why: "the last run failed with exit code 3",
				Until: noon.Add(20 * time.Second)}}
			verdict.Last = &kick.LastRun{Run: "r5", Outcome: kick.Failed, Exit: 3, Duration: 1200, Failures: 4}
		case "lb3":
			verdict.Gates = []api.Gate{{Name: api.GateRunning, Why: "run r6 is in progress"}}
			verdict.Running = &kick.Running{Run: "r6", Action: "reload"}
		case "lb4":
			verdict.Needs[0].Applied = nil
			verdict.Gates = []api.Gate{{Name: api.GateSettle, Why: "the last kick was 2s ago",
				Until: noon.Add(3 * time.Second)}}
			verdict.Last = nil
		}
	}
	v.Runs = append(v.Runs,
		api.Run{ID: "r5", Node: "lb2", Action: "reload", Reason: "web: +web2 -web3", Started: ago(40 * time.Second),
			Ended:   ago(38 * time.Second),
			Outcome: kick.Failed, Exit: 3, Duration: 1200 * time.Millisecond, Error: "haproxy.cfg is wrong",
			LeftBehind: []string{"sleep (pid 4711)"},
			Output:     "[ALERT] line 3\nno such \x1b[31mbackend\n"},
		api.Run{ID: "r6", Node: "lb3", Action: "reload", Reason: "web: +web2 -web3", Started: ago(5 * time.Second)})
	v.Events = append(v.Events,
		api.Event{Seq: 2, Time: ago(90 * time.Second), Kind: api.EventNotReady, Node: "web3",
			Text: "web3 is not ready: tcp:8080: connection refused"},
		api.Event{Seq: 3, Time: ago(5 * time.Second), Kind: api.EventKicked, Node: "lb3", Action: "reload", Run: "r6",
			Text: "kicked lb3/reload (web: +web2 -web3)"})
	v.Counts.InvalidMessages = 7
}

func (l *lab) handler(cfg web.Config) http.Handler {
	cfg.Leave = func(_ context.Context, o api.LeaveOrder) (api.Leaving, error) {
		return l.leaving(strings.TrimPrefix(o.Object, "node/"), false)
	}
	cfg.Leaving = func(_ context.Context, node string) (api.Leaving, error) { return l.leaving(node, true) }
	cfg.View, cfg.Kick, cfg.Lose, cfg.Plan, cfg.Log = l.show, l.kick, l.lose, l.plan, slog.New(slog.DiscardHandler)
	h := web.Handler(cfg)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", noon.Format(http.TimeFormat)) // ages are by the controller's clock
		h.ServeHTTP(w, r)
	})
}

func (l *lab) show() *api.View {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view
}

// tell publishes a view with more runs and events.
func (l *lab) tell(runs []api.Run, events ...api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := *l.view
	v.Runs = slices.Concat(v.Runs, runs)
	for _, e := range events {
		e.Seq, e.Time = int64(len(v.Events)+1), noon
		v.Events = append(v.Events[:len(v.Events):len(v.Events)], e)
	}
	told := l.next
	l.next = make(chan struct{})
	v.Next = l.next
	l.view = &v
	close(told)
}

func (l *lab) lose(_ context.Context, o api.LossOrder) error {
	name := strings.TrimPrefix(o.Object, "role/")
	for _, r := range l.show().Roles {
		if r.Name == name && (r.Held != nil || o.Expect > 0) {
			if r.Held != nil && o.Accept > 0 && o.Accept != len(r.Held.Nodes) {
				return fmt.Errorf("loss of %s: %w: %s", o.Object, api.ErrOtherLoss, strings.Join(r.Held.Nodes, ", "))
			}
			o.By = ""
			l.tell(nil, api.Event{Kind: api.EventLossExpected, Role: name, Text: fmt.Sprintf("%+v", o)})
			return nil
		}
	}
	return fmt.Errorf("loss of %s: %w", o.Object, api.ErrNotFound)
}

// leaving is how far a node's leaving is: web1 waits for a person, web2 only at first, web3 without end, web9 is gone.
func (l *lab) leaving(node string, again bool) (api.Leaving, error) {
	wait := inventory.Wait{Name: api.GateSettle, Why: "more changes may follow", Left: 3000}
	is := api.Leaving{Node: node, LeaveStatus: inventory.LeaveStatus{V: inventory.Version, Received: true}}
	switch node {
	case "web1":
		wait = inventory.Wait{Name: api.GateMinMembers, Why: "role web has 0 members", Person: true}
		is.Person = true
	case "web2":
		is.Released = again
	case "web3":
		wait = inventory.Wait{Name: api.GateBackoff, Why: "it failed", Left: 60_000}
	case "web9":
		is.Gone, is.Released = true, true
	default:
		return is, fmt.Errorf("no node is called %s: %w", node, api.ErrNotFound)
	}
	if !is.Released {
		is.Waiting = []inventory.Blocker{{Node: "lb1", Action: "reload", Gates: []inventory.Wait{wait}}}
	}
	return is, nil
}

func (l *lab) kick(_ context.Context, o api.KickOrder) (api.Kicked, error) {
	v := l.show()
	if !v.Sync.Open {
		return api.Kicked{}, fmt.Errorf("kick %s: %w", o.Object, api.ErrNotSynced)
	}
	kicked := api.Kicked{After: int64(len(v.Events))}
	for _, verdict := range v.Verdicts {
		if (o.Object == "node/"+verdict.Node || o.Object == "role/lb") &&
			(o.Action == "" || o.Action == verdict.Action) {
			kicked.Actions = append(kicked.Actions, verdict)
		}
	}
	if len(kicked.Actions) == 0 {
		return kicked, fmt.Errorf("kick %s: %w", o.Object, api.ErrNotFound)
	}
	if o.DryRun {
		return kicked, nil
	}
	for _, verdict := range kicked.Actions {
		if verdict.Disabled != "" {
			continue
		}
		event := func(kind, run, text string) api.Event {
			return api.Event{Kind: kind, Node: verdict.Node, Action: verdict.Action, Run: run,
				Text: verdict.Node + "/reload " + text}
		}
		if o.Force {
			l.tell(nil, event(api.EventKicked, "r0", "was kicked with force"))
		}
		run := api.Run{Node: verdict.Node, Action: verdict.Action, Started: noon, Ended: noon,
			Duration: 800 * time.Millisecond}
		switch verdict.Node {
		case "lb1":
			run.ID, run.Outcome = "r11", kick.Succeeded
			l.tell([]api.Run{run}, event(api.EventKicked, "r11", "was kicked"),
				event(api.EventSucceeded, "r11", "succeeded in 800ms"))
		case "lb2":
			run.ID, run.Outcome, run.Exit = "r12", kick.Failed, 3
			l.tell([]api.Run{run}, event(api.EventKicked, "r12", "was kicked"),
				event(api.EventFailed, "r12", "failed with exit code 3"))
		case "lb3": // this run was in progress before the order
			l.tell(nil, event(api.EventSucceeded, "r6", "succeeded in 5s"))
		case "lb4":
			l.tell(nil, api.Event{Kind: api.EventGone, Node: "lb4", Text: "lb4 is gone: silent for 10s"})
		}
	}
	return kicked, nil
}
