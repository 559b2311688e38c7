package web

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

// cluster is a view as of noon: three web servers, of which one is not ready and one left, and two load balancers, of
// which one fails.
func cluster(t *testing.T) *api.View {
	t.Helper()
	one, two := revision(1, "1-0ne"), revision(2, "1-tw0")
	web := []kick.Member{{Node: "web1.example.org", Facts: map[string]any{"ipaddress": "10.0.0.1", "port": "8080"}}}
	last := &kick.LastRun{Run: "r2", Outcome: kick.Failed, Exit: 3, Duration: 1200, Failures: 2}
	return &api.View{
		At:       noon,
		Identity: api.Identity{Cluster: "main", ID: "c1", Epoch: 1790000000000, Started: ago(time.Hour)},
		Sync:     api.Sync{Open: true},
		Loaded:   api.Loaded{At: ago(time.Hour)},
		Roles: []api.Role{
			{
				Name: "lb", Selector: "role=lb", Sync: api.Sync{Open: true}, Revision: revision(3, "1-lb"),
				Members: []kick.Member{
					{Node: "lb1.example.org", Facts: map[string]any{}},
					{Node: "lb2.example.org", Facts: map[string]any{}},
				},
				Nodes: []string{"lb1.example.org", "lb2.example.org"},
			},
			{
				Name: "web", Selector: "role=web", Sync: api.Sync{Open: true}, Revision: two, Members: web,
				MemberFacts: []string{"ipaddress", "port"},
				Nodes:       []string{"web1.example.org", "web2.example.org", "web3.example.org"},
				Dependents:  []string{"lb1.example.org/reload", "lb2.example.org/reload"},
			},
		},
		Verdicts: []api.Verdict{
			{
				Node: "lb1.example.org", Action: "reload", State: api.Converged,
				Needs: []api.Need{{Role: "web", Current: two, Applied: &two}},
				Last:  &kick.LastRun{Run: "r1", Outcome: kick.Succeeded, Duration: 800},
			},
			{
				Node: "lb2.example.org", Action: "reload", State: api.Failing,
				Since: ago(90 * time.Second), Reason: "web: -web3.example.org",
				Needs: []api.Need{{Role: "web", Current: two, Applied: &one, Removed: []string{"web3.example.org"}}},
				Gates: []api.Gate{
					{Name: api.GateBackoff, Why: "failed 2 times in a row", Until: noon.Add(20 * time.Second)},
				},
				Last: last,
			},
		},
		Runs: []api.Run{
			{ID: "r1", Node: "lb1.example.org", Action: "reload", Reason: "web: -web3.example.org",
				Started: ago(89 * time.Second), Ended: ago(88 * time.Second),
				Outcome: kick.Succeeded, Duration: 800 * time.Millisecond},
			{ID: "r2", Node: "lb2.example.org", Action: "reload", Reason: "web: -web3.example.org",
				Started: ago(40 * time.Second), Ended: ago(38 * time.Second),
				Outcome: kick.Failed, Exit: 3, Duration: 1200 * time.Millisecond,
				Error: "haproxy.cfg is invalid", Output: "haproxy: no such backend\n"},
			{ID: "r3", Node: "lb2.example.org", Action: "reload", Reason: "web: -web3.example.org",
				Started: ago(time.Second)},
		},
		Events: []api.Event{
			{Seq: 1, Time: ago(time.Hour), Kind: api.EventStarted, Text: "controller c1 started"},
			{Seq: 2, Time: ago(90 * time.Second), Kind: api.EventLeft, Node: "web3.example.org",
				Text: "node web3.example.org left"},
			{Seq: 3, Time: ago(38 * time.Second), Kind: api.EventFailed, Node: "lb2.example.org",
				Action: "reload", Run: "r2", Text: "lb2.example.org/reload failed with exit code 3"},
		},
		Nodes: nodes(t,
			node{name: "lb1.example.org", ready: true, facts: inventory.Facts{"role": "lb", "ipaddress": "10.0.0.11"}},
			node{name: "lb2.example.org", ready: true, facts: inventory.Facts{"role": "lb", "ipaddress": "10.0.0.12"}},
			node{name: "web1.example.org", ready: true, facts: webFacts("10.0.0.1")},
			node{name: "web2.example.org", notReady: "tcp:8080: connection refused", facts: webFacts("10.0.0.2")},
			node{name: "web3.example.org", ready: true, leaving: true, facts: webFacts("10.0.0.3")},
		),
		Counts: api.Counts{
			Events:          map[string]int64{api.EventStarted: 1, api.EventLeft: 1, api.EventFailed: 1},
			Kicks:           map[kick.Answer]int64{kick.Accepted: 3, kick.Busy: 1},
			Runs:            map[kick.Outcome]int64{kick.Succeeded: 1, kick.Failed: 1},
			InvalidMessages: 7,
		},
	}
}

// holding is cluster with a guard that holds web2, which is not ready, and web4, which is gone; and with a role that is
// not synced.
func holding(t *testing.T) *api.View {
	t.Helper()
	v := cluster(t)
	why := "1 of 3 last known members have not reported yet: lb3.example.org"
	v.Roles[0].Sync = api.Sync{Why: why, Until: noon.Add(4 * time.Second)}
	web := &v.Roles[1]
	for _, name := range []string{"web2.example.org", "web4.example.org"} {
		web.Members = append(web.Members, kick.Member{Node: name, Facts: map[string]any{"port": "8080"}})
	}
	web.Held = &api.Held{
		Nodes: []string{"web2.example.org", "web4.example.org"}, Since: ago(30 * time.Second),
		Why:   "3 of 4 are gone or suspect within 60s",
		Probe: "lb1.example.org reaches 10.0.0.4:8080 and the controller does not",
	}
	return v
}

// calm is cluster when all is well: every node is a member of its roles, and every action is converged.
func calm(t *testing.T) *api.View {
	t.Helper()
	v := cluster(t)
	v.Nodes = nodes(t,
		node{name: "lb1.example.org", ready: true, facts: inventory.Facts{"role": "lb", "ipaddress": "10.0.0.11"}},
		node{name: "web1.example.org", ready: true, facts: webFacts("10.0.0.1")},
	)
	v.Verdicts = v.Verdicts[:1]
	return v
}

func revision(n int64, hash string) kick.Revision {
	return kick.Revision{Epoch: 1790000000000, N: n, Hash: hash}
}

func webFacts(ip string) inventory.Facts {
	return inventory.Facts{"role": "web", "ipaddress": ip, "port": "8080", "os": map[string]any{"family": "Debian"}}
}

type node struct {
	name           string
	ready, leaving bool
	notReady       string
	facts          inventory.Facts
}

// nodes is an inventory that received these an hour before noon.
func nodes(t *testing.T, received ...node) *inventory.Snapshot {
	t.Helper()
	inv := inventory.New()
	for i, n := range received {
		beat := inventory.Beat{
			V: inventory.Version, Node: n.name, Instance: "i-" + n.name, Boot: "b1",
			Conn:  inventory.Conn{Server: "s", Client: uint64(i)},
			Facts: n.facts.Digest(), Ready: n.ready, NotReady: n.notReady, Leaving: n.leaving, NextIn: 1000,
			Kick: json.RawMessage(`{"epoch":1790000000000}`),
		}
		facts := inventory.FactsMessage{V: beat.V, Node: n.name, Instance: beat.Instance, Boot: "b1", Facts: n.facts}
		for _, r := range []inventory.Received{{Facts: &facts}, {Beat: &beat}} {
			r.At = ago(time.Hour)
			if _, err := inv.Apply(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	return inv.Snapshot()
}

// showing configures a handler that always shows one view and allows every request everything.
func showing(v *api.View) Config {
	log := slog.New(slog.DiscardHandler)
	return Config{View: func() *api.View { return v }, Trusted: true, Version: "1.2.3", Log: log}
}

func TestLostDisconnectsAreAProblem(t *testing.T) {
	v := cluster(t)
	before := len(problems(v))
	w := ask(Handler(showing(v)), "GET", "/metrics", "")
	if !strings.Contains(w.Body.String(), "\nkicker_disconnects_received 1\n") {
		t.Error("kicker_disconnects_received is not 1 while disconnects are received")
	}
	v.DisconnectsLost = "no permission to subscribe"
	answer, _ := (&server{}).status(v, nil)
	st := answer.(api.Status)
	isOurs := func(p api.Problem) bool {
		namesKey := strings.Contains(p.Text, "bus.system_url")
		return p.Code == api.ProblemDisconnectsLost && namesKey && p.Why == v.DisconnectsLost
	}
	if len(st.Problems) != before+1 || !slices.ContainsFunc(st.Problems, isOurs) || st.Well {
		t.Errorf("the problems are %+v, want one that names the key and says why", st.Problems)
	}
	w = ask(Handler(showing(v)), "GET", "/metrics", "")
	if !strings.Contains(w.Body.String(), "\nkicker_disconnects_received 0\n") {
		t.Error("kicker_disconnects_received is not 0 while none are received")
	}
}
