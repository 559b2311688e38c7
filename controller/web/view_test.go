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

// cluster is a view as of noon: two web servers, one of them not ready, one that leaves, and two load balancers, one of which fails.
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
				Members: []kick.Member{{Node: "lb1.example.org", Facts: map[string]any{}}, {Node: "lb2.example.org", Facts: map[string]any{}}},
				Nodes:   []string{"lb1.example.org", "lb2.example.org"},
			},
			{
				Name: "web", Selector: "role=web", Sync: api.Sync{Open: true}, MemberFacts: []string{"ipaddress", "port"}, Revision: two, Members: web,
				Nodes:      []string{"web1.example.org", "web2.example.org", "web3.example.org"},
				Dependents: []string{"lb1.example.org/reload", "lb2.example.org/reload"},
			},
		},
		Verdicts: []api.Verdict{
			{
				Node: "lb1.example.org", Action: "reload", State: api.Converged,
				Needs: []api.Need{{Role: "web", Current: two, Applied: &two}},
				Last:  &kick.LastRun{Run: "r1", Outcome: kick.Succeeded, Duration: 800},
			},
			{
				Node: "lb2.example.org", Action: "reload", State: api.Failing, Since: ago(90 * time.Second), Reason: "web: -web3.example.org",
				Needs: []api.Need{{Role: "web", Current: two, Applied: &one, Removed: []string{"web3.example.org"}}},
				Gates: []api.Gate{{Name: api.GateBackoff, Why: "failed 2 times in a row", Until: noon.Add(20 * time.Second)}},
				Last:  last,
			},
		},
		Runs: []api.Run{
			{ID: "r1", Node: "lb1.example.org", Action: "reload", Reason: "web: -web3.example.org", Started: ago(89 * time.Second), Ended: ago(88 * time.Second),
				Outcome: kick.Succeeded, Duration: 800 * time.Millisecond},
			{ID: "r2", Node: "lb2.example.org", Action: "reload", Reason: "web: -web3.example.org", Started: ago(40 * time.Second), Ended: ago(38 * time.Second),
				Outcome: kick.Failed, Exit: 3, Duration: 1200 * time.Millisecond, Error: "exit status 3", Output: "haproxy: no such backend\n"},
			{ID: "r3", Node: "lb2.example.org", Action: "reload", Reason: "web: -web3.example.org", Started: ago(time.Second)},
		},
		Events: []api.Event{
			{Seq: 1, Time: ago(time.Hour), Kind: api.EventStarted, Text: "controller c1 started"},
			{Seq: 2, Time: ago(90 * time.Second), Kind: api.EventLeft, Node: "web3.example.org", Text: "web3.example.org said goodbye"},
			{Seq: 3, Time: ago(38 * time.Second), Kind: api.EventFailed, Node: "lb2.example.org", Action: "reload", Run: "r2", Text: "lb2.example.org: reload failed, exit 3"},
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

// holding is cluster with a guard that holds web2, which is not ready, and web4, which is gone; and with a role that is not synced.
func holding(t *testing.T) *api.View {
	t.Helper()
	v := cluster(t)
	v.Roles[0].Sync = api.Sync{Why: "1 of 3 members that dependents know of were not heard yet: lb3.example.org", Until: noon.Add(4 * time.Second)}
	web := &v.Roles[1]
	for _, name := range []string{"web2.example.org", "web4.example.org"} {
		web.Members = append(web.Members, kick.Member{Node: name, Facts: map[string]any{"port": "8080"}})
	}
	web.Held = &api.Held{
		Nodes: []string{"web2.example.org", "web4.example.org"}, Since: ago(30 * time.Second),
		Why: "3 of 4 are gone or suspect within 1m0s", Probe: "lb1.example.org reaches 10.0.0.4:8080: it is our link that died",
	}
	return v
}

// calm is cluster when all is well: everybody serves, and every action is converged.
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

// nodes is what an inventory knows that heard these an hour before noon.
func nodes(t *testing.T, heard ...node) *inventory.Snapshot {
	t.Helper()
	inv := inventory.New()
	for i, n := range heard {
		beat := inventory.Beat{
			V: inventory.Version, Node: n.name, Instance: "i-" + n.name, Boot: "b1", Conn: inventory.Conn{Server: "s", Client: uint64(i)},
			Facts: n.facts.Digest(), Ready: n.ready, NotReady: n.notReady, Leaving: n.leaving, NextIn: 1000,
			Kick: json.RawMessage(`{"epoch":1790000000000}`),
		}
		facts := inventory.FactsMessage{V: inventory.Version, Node: beat.Node, Instance: beat.Instance, Boot: beat.Boot, Facts: n.facts}
		for _, h := range []inventory.Received{{Facts: &facts}, {Beat: &beat}} {
			h.At = ago(time.Hour)
			if _, err := inv.Apply(h); err != nil {
				t.Fatal(err)
			}
		}
	}
	return inv.Snapshot()
}

// showing is a configuration of a handler that shows one view for ever, and lets everybody in.
func showing(v *api.View) Config {
	return Config{View: func() *api.View { return v }, Trusted: true, Version: "1.2.3", Log: slog.New(slog.DiscardHandler)}
}

func TestClosingsThatAreNotHeardAreAProblem(t *testing.T) {
	v := cluster(t)
	before := len(newStatus(v).Problems)
	if w := ask(Handler(showing(v)), "GET", "/metrics", ""); !strings.Contains(w.Body.String(), "\nkicker_closings_heard 1\n") {
		t.Error("the metrics do not say that closed connections are heard")
	}
	v.DisconnectsLost = "closed connections are not heard"
	st := newStatus(v)
	if len(st.Problems) != before+1 || !slices.Contains(st.Problems, "bus.system_url: "+v.DisconnectsLost) || st.Well {
		t.Errorf("the problems are %q, want one that names the key and says why", st.Problems)
	}
	if w := ask(Handler(showing(v)), "GET", "/metrics", ""); !strings.Contains(w.Body.String(), "\nkicker_closings_heard 0\n") {
		t.Error("the metrics say that closed connections are heard")
	}
}
