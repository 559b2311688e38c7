package web

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/controller/api"
	"kicker/inventory"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", file, diff)
	}
}

func ask(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w
}

func TestAnswersAreTheGoldenOnes(t *testing.T) {
	unsynced := *cluster(t)
	unsynced.Sync = api.Sync{Why: "waiting for nodes to report", Until: noon.Add(5 * time.Second)}
	standby := *holding(t)
	standby.Leader = "c2"
	conflict := *cluster(t)
	conflict.Conflicts = []api.Conflict{
		{Node: "web1.example.org", Accepted: "i-web1.example.org", Rejected: "i-clone", Since: ago(time.Minute)},
	}
	cycle := *cluster(t)
	cycle.Cycles = []api.Cycle{{Roles: []string{"lb", "web"}, Since: ago(time.Minute)}}
	shadow := *holding(t)
	shadow.Roles[1].Held.Shadow = true
	odd := *cluster(t)
	odd.Nodes = nodes(t, node{name: "odd1.example.org", ready: true, facts: inventory.Facts{"ipaddress": "10.0.0.99"}})
	odd.Roles = []api.Role{{Name: "db", Selector: "role=db", Sync: api.Sync{Open: true}}}
	few := *calm(t)
	few.Roles = slices.Clone(few.Roles)
	few.Roles[1].Members, few.Roles[1].MinMembers = nil, 1
	few.Roles[1].Refused = &api.Refusal{Code: api.RefusedTooFew, Why: "role web has 0 members, fewer than its min_members 1"}
	few.Roles[1].Incomplete = []api.Incomplete{{Node: "web1.example.org", Why: "has no fact port"}}
	few.Roles[1].Quarantined = []api.Quarantined{{
		Node: "web2.example.org", Since: few.At.Add(-time.Minute), Retry: few.At.Add(time.Minute),
		Why: "with web2.example.org runs failed on lb1/reload; without it one succeeded on lb2/reload",
	}}
	few.Roles = append(few.Roles, api.Role{
		Name: "wbe", Unknown: true, Dependents: []string{"lb1/reload"}, Refused: &api.Refusal{Code: api.RefusedUnknown},
	})
	for _, test := range []struct {
		name   string
		view   *api.View
		target string
	}{
		{"status-cycle", &cycle, "/v1/status"},
		{"status-standby", &standby, "/v1/status"},
		{"status-held", holding(t), "/v1/status"},
		{"status-conflict", &conflict, "/v1/status"},
		{"explain-needs-held", holding(t), "/v1/nodes/lb1.example.org/explain"},
		{"explain-held", holding(t), "/v1/nodes/web2.example.org/explain"},
		{"node-gone-and-held", holding(t), "/v1/nodes/web4.example.org"},
		{"role-held", holding(t), "/v1/roles/web"},
		{"role-unsynced", holding(t), "/v1/roles/lb"},
		{"status", cluster(t), "/v1/status"},
		{"status-unsynced", &unsynced, "/v1/status"},
		{"nodes", cluster(t), "/v1/nodes"},
		{"nodes-selected", cluster(t), "/v1/nodes?selector=role%3Dweb&selector=ipaddress%3D10.0.0.2"},
		{"nodes-none", cluster(t), "/v1/nodes?selector=role%3Ddb"},
		{"nodes-unsynced", &unsynced, "/v1/nodes"},
		{"nodes-bad-selector", cluster(t), "/v1/nodes?selector=role"},
		{"nodes-bad-query", cluster(t), "/v1/nodes?selctor=role%3Dweb"},
		{"node", cluster(t), "/v1/nodes/web1.example.org"},
		{"node-unknown", cluster(t), "/v1/nodes/web1"},
		{"explain", cluster(t), "/v1/nodes/lb2.example.org/explain"},
		{"explain-not-member", cluster(t), "/v1/nodes/web2.example.org/explain"},
		{"roles", cluster(t), "/v1/roles"},
		{"roles-unsynced", &unsynced, "/v1/roles"},
		{"role", cluster(t), "/v1/roles/web"},
		{"role-unknown", cluster(t), "/v1/roles/wbe"},
		{"runs", cluster(t), "/v1/runs"},
		{"runs-unsynced", &unsynced, "/v1/runs?limit=1"},
		{"runs-of-node", cluster(t), "/v1/runs?node=lb2.example.org&action=reload&limit=1"},
		{"runs-of-role", cluster(t), "/v1/runs?role=web"},
		{"runs-of-unknown-role", cluster(t), "/v1/runs?role=db"},
		{"runs-bad-limit", cluster(t), "/v1/runs?limit=-1"},
		{"events", cluster(t), "/v1/events?since=1"},
		{"events-of-earlier-run", cluster(t), "/v1/events?since=900"},
		{"no-such-path", cluster(t), "/v2/nodes"},
		{"status-well", calm(t), "/v1/status"},
		{"status-shadow", &shadow, "/v1/status"},
		{"node-of-no-role", &odd, "/v1/nodes/odd1.example.org"},
		{"role-empty", &odd, "/v1/roles/db"},
		{"role-too-few", &few, "/v1/roles/web"},
		{"role-too-few-allowed", &few, "/v1/roles/web?min=0"},
		{"role-min-1", &few, "/v1/roles/web?min=1"},
		{"role-needed-and-unknown", &few, "/v1/roles/wbe"},
		{"status-members", &few, "/v1/status"},
		{"explain-incomplete", &few, "/v1/nodes/web1.example.org/explain"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := ask(Handler(showing(test.view)), "GET", test.target, "")
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("GET %s: no JSON: %s", test.target, w.Body)
			}
			golden(t, test.name+".golden", fmt.Sprintf("GET %s\n%d\n%s", test.target, w.Code, w.Body))
		})
	}
}

func TestWrongMethodIsAnsweredWithTheRightOne(t *testing.T) {
	for _, test := range []struct{ method, target, want string }{
		{"POST", "/v1/status", "GET"},
		{"DELETE", "/v1/nodes/web1.example.org", "GET"},
		{"GET", "/v1/kicks", "POST"},
		{"GET", "/v1/losses", "POST"},
	} {
		w := ask(Handler(showing(cluster(t))), test.method, test.target, "")
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != test.want {
			t.Errorf("%s %s: %d, Allow %q, want %d, %q", test.method, test.target,
				w.Code, w.Header().Get("Allow"), http.StatusMethodNotAllowed, test.want)
		}
	}
}

func TestHealthyWhileTheLoopTurns(t *testing.T) {
	for _, test := range []struct {
		age  time.Duration
		want int
	}{
		{0, http.StatusOK},
		{14 * time.Second, http.StatusOK},
		{16 * time.Second, http.StatusServiceUnavailable},
	} {
		v := cluster(t)
		v.At = time.Now().Add(-test.age)
		if w := ask(Handler(showing(v)), "GET", "/healthz", ""); w.Code != test.want {
			t.Errorf("a view of %s ago: healthz says %d, want %d", test.age, w.Code, test.want)
		}
	}
}

func TestReadyWhenSynced(t *testing.T) {
	v := cluster(t)
	if w := ask(Handler(showing(v)), "GET", "/readyz", ""); w.Code != http.StatusOK {
		t.Errorf("synced: readyz says %d", w.Code)
	}
	v.Sync = api.Sync{Why: "waiting for nodes to report"}
	w := ask(Handler(showing(v)), "GET", "/readyz", "")
	if w.Code != http.StatusServiceUnavailable || !json.Valid(w.Body.Bytes()) {
		t.Errorf("not synced: readyz says %d %s", w.Code, w.Body)
	}
}

func TestKickOrderReachesTheController(t *testing.T) {
	cfg := showing(cluster(t))
	var got api.KickOrder
	cfg.Kick = func(_ context.Context, o api.KickOrder) (api.Kicked, error) {
		got = o
		return api.Kicked{Actions: cluster(t).Verdicts[:1], After: 3}, nil
	}
	order := `{"object":"node/lb1.example.org","action":"reload","dry_run":true,"by":"me"}`
	w := ask(Handler(cfg), "POST", "/v1/kicks", order)
	want := api.KickOrder{Object: "node/lb1.example.org", Action: "reload", DryRun: true, By: "me"}
	if got != want {
		t.Errorf("the controller got %+v, want %+v", got, want)
	}
	golden(t, "kick.golden", fmt.Sprintf("POST /v1/kicks\n%d\n%s", w.Code, w.Body))
}

func TestKickAnswersWhenItCanBeFollowed(t *testing.T) {
	l := newLoop()
	cfg := showing(nil)
	cfg.View = l.view.Load
	published := make(chan struct{})
	cfg.Kick = func(context.Context, api.KickOrder) (api.Kicked, error) {
		go func() { l.publish(4, "published after the controller answered"); close(published) }()
		return api.Kicked{After: 4}, nil
	}
	h := Handler(cfg)
	if w := ask(h, "POST", "/v1/kicks", `{"object":"role/lb"}`); w.Code != http.StatusOK {
		t.Fatalf("kick: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "GET", "/v1/events?since=4", ""); w.Code != http.StatusOK {
		t.Errorf("events after the kick's: %d %s", w.Code, w.Body)
	}
	<-published
}

func TestKickErrorsHaveTheirStatus(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
	}{
		{fmt.Errorf("kick node/lb: %w", api.ErrNotFound), http.StatusNotFound},
		{fmt.Errorf("kick node/lb: %w", api.ErrNotSynced), http.StatusServiceUnavailable},
		{errors.New("kick node/lb: broken"), http.StatusInternalServerError},
	} {
		cfg := showing(cluster(t))
		cfg.Kick = func(context.Context, api.KickOrder) (api.Kicked, error) {
			return api.Kicked{}, test.err
		}
		if w := ask(Handler(cfg), "POST", "/v1/kicks", `{"object":"node/lb"}`); w.Code != test.code {
			t.Errorf("%v: %d, want %d", test.err, w.Code, test.code)
		}
	}
}

// A misspelled order must not do more than was meant.
func TestOrdersTakeNoQuery(t *testing.T) {
	h := Handler(showing(cluster(t))) // a panic if the controller is asked
	for _, path := range []string{"/v1/kicks", "/v1/losses", "/v1/leaves"} {
		w := ask(h, "POST", path+"?dry_run=true", `{"object":"role/web"}`)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "dry_run") {
			t.Errorf("%s with a query: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestLossOrderReachesTheController(t *testing.T) {
	cfg := showing(cluster(t))
	var got api.LossOrder
	cfg.Lose = func(_ context.Context, o api.LossOrder) error {
		got = o
		return nil
	}
	for _, test := range []struct {
		body string
		want api.LossOrder
	}{
		{`{"object":"role/web","accept":3,"by":"me"}`, api.LossOrder{Object: "role/web", Accept: 3, By: "me"}},
		{`{"object":"role/web","expect_percent":50,"for_ns":900000000000}`,
			api.LossOrder{Object: "role/web", Expect: 50, For: 15 * time.Minute}},
	} {
		w := ask(Handler(cfg), "POST", "/v1/losses", test.body)
		if w.Code != http.StatusOK || w.Body.String() != "{}\n" || got != test.want {
			t.Errorf("%s: %d %q, the controller got %+v, want %+v", test.body, w.Code, w.Body, got, test.want)
		}
	}
	cfg.Lose = func(context.Context, api.LossOrder) error {
		return fmt.Errorf("loss of role/wbe: %w", api.ErrNotFound)
	}
	w := ask(Handler(cfg), "POST", "/v1/losses", `{"object":"role/wbe","accept":1}`)
	if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), `"web"`) {
		t.Errorf("loss of an unknown role: %d %s, want %d and a similar name", w.Code, w.Body, http.StatusNotFound)
	}
	cfg.Lose = func(context.Context, api.LossOrder) error {
		return fmt.Errorf("loss of role/web: %w: 2 removals held now: web1, web2", api.ErrOtherLoss)
	}
	w = ask(Handler(cfg), "POST", "/v1/losses", `{"object":"role/web","accept":3}`)
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "held now: web1, web2") {
		t.Errorf("another loss by now: %d %s, want %d and the list", w.Code, w.Body, http.StatusConflict)
	}
}

func TestLossOrderIsReadStrictly(t *testing.T) {
	cfg := showing(cluster(t))
	cfg.Lose = func(context.Context, api.LossOrder) error {
		t.Error("the controller was asked")
		return nil
	}
	for _, test := range []struct {
		body string
		code int
		want string
	}{
		{``, 400, "the body is empty"},
		{`{"object":"role/web","expect":50}`, 400, `unknown key \"expect\"`},
		{`{"object":"role/web"}`, 400, "want accept"},
		{`{"object":"role/web","accept":-1}`, 400, "want accept"},
		{`{"object":"role/web","accept":1,"expect_percent":50,"for_ns":1}`, 400, "want accept"},
		{`{"object":"role/web","accept":1,"by":"ci\n"}`, 400, "printable"},
		{`{"object":"role/web"}{}`, 400, "more than one JSON value"},
		{`{"object":"node/web1"}`, 400, "want role/R"},
		{`{"object":"role/"}`, 400, "want role/R"},
		{`{"object":"role/web","expect_percent":101,"for_ns":1}`, 400, "want 1 to 100"},
		{`{"object":"role/web","expect_percent":-1,"for_ns":1}`, 400, "want 1 to 100"},
		{`{"object":"role/web","expect_percent":50}`, 400, "go together"},
		{`{"object":"role/web","for_ns":1}`, 400, "go together"},
		{`{"object":"role/web","expect_percent":50,"for_ns":-1}`, 400, "go together"},
		{`{"object":"` + strings.Repeat("x", maxOrder) + `"}`, 413, "too large"},
	} {
		w := ask(Handler(cfg), "POST", "/v1/losses", test.body)
		if w.Code != test.code || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%.60s: %d %s\nwant %d and %q", test.body, w.Code, w.Body, test.code, test.want)
		}
	}
}

func TestStandbyNamesTheControllerThatLeads(t *testing.T) {
	v := cluster(t)
	v.Leader, v.At = "c2", time.Now()
	h := Handler(showing(v)) // a panic if the controller is asked
	for _, request := range []string{"GET /readyz", "POST /v1/kicks", "POST /v1/losses"} {
		method, path, _ := strings.Cut(request, " ")
		w := ask(h, method, path, `{"object":"role/web"}`)
		const want = http.StatusServiceUnavailable
		if w.Code != want || !strings.Contains(w.Body.String(), "standby: controller c2 leads") {
			t.Errorf("%s: %d %s, want %d and the controller that leads", request, w.Code, w.Body, want)
		}
	}
	if w := ask(h, "GET", "/healthz", ""); w.Code != http.StatusOK {
		t.Errorf("healthz of a standby: %d, want 200: it must not be restarted", w.Code)
	}
	if w := ask(h, "GET", "/metrics", ""); !strings.Contains(w.Body.String(), "\nkicker_leading 0\n") {
		t.Error("kicker_leading is not 0")
	}
}

func TestHeldMembersAreCounted(t *testing.T) {
	w := ask(Handler(showing(holding(t))), "GET", "/metrics", "")
	for _, want := range []string{"kicker_held_members{role=\"web\"} 2\n", "kicker_held_members{role=\"lb\"} 0\n"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestKickOrderIsReadStrictly(t *testing.T) {
	cfg := showing(cluster(t))
	cfg.Kick = func(context.Context, api.KickOrder) (api.Kicked, error) {
		t.Error("the controller was asked")
		return api.Kicked{}, nil
	}
	for _, test := range []struct {
		body string
		code int
		want string
	}{
		{``, 400, "the body is empty"},
		{`[]`, 400, "want an object"},
		{`{"object":"node/lb1","acton":"reload"}`, 400, `unknown key \"acton\"`},
		{`{"object":"node/lb1","dry_run":"yes"}`, 400, "dry_run: want bool, have string"},
		{`{"object":"node/lb1"}{}`, 400, "more than one JSON value"},
		{`{"object":"lb1"}`, 400, "want node/N or role/R"},
		{`{"object":"role/"}`, 400, "want node/N or role/R"},
		{`{"object":"` + strings.Repeat("x", maxOrder) + `"}`, 413, "too large"},
		{`{"object":"role/lb"}` + strings.Repeat(" ", maxOrder), 413, "too large"},
	} {
		w := ask(Handler(cfg), "POST", "/v1/kicks", test.body)
		if w.Code != test.code || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%.60s: %d %s\nwant %d and %q", test.body, w.Code, w.Body, test.code, test.want)
		}
	}
}

func FuzzKickOrder(f *testing.F) {
	f.Add(`{"object":"node/lb1","action":"reload","dry_run":true,"by":"me"}`)
	f.Add(`{"object":"role/lb"} {}`)
	f.Fuzz(func(t *testing.T, body string) {
		o, err := decodeKick([]byte(body))
		if err != nil {
			return
		}
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeKick(b); err != nil || again != o {
			t.Errorf("%s is read as %+v, that as %+v, %v", body, o, again, err)
		}
	})
}

func FuzzSelectorAnswersOrSaysWhy(f *testing.F) {
	one := nodes(&testing.T{}, node{name: "web1", facts: webFacts("10.0.0.1")})
	h := Handler(showing(&api.View{Sync: api.Sync{Open: true}, Nodes: one}))
	f.Add("role=web", "ipaddress!='10.0.0.2'")
	f.Fuzz(func(t *testing.T, a, b string) {
		w := ask(h, "GET", "/v1/nodes?"+url.Values{"selector": {a, b}}.Encode(), "")
		var list []api.Node
		var e api.Error
		switch w.Code {
		case http.StatusOK:
			if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
				t.Errorf("%q, %q: %v", a, b, err)
			}
		case http.StatusBadRequest:
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error == "" {
				t.Errorf("%q, %q: %v: %s", a, b, err, w.Body)
			}
		default:
			t.Errorf("%q, %q: %d", a, b, w.Code)
		}
	})
}

func TestMetricsAreTheGoldenOnes(t *testing.T) {
	w := ask(Handler(showing(cluster(t))), "GET", "/metrics", "")
	var ours []string
	for line := range strings.Lines(w.Body.String()) {
		changing := strings.HasPrefix(line, "kicker_view_age_seconds ") || strings.HasPrefix(line, "kicker_build_info{")
		if strings.Contains(line, "kicker_") && !changing {
			ours = append(ours, line)
		}
	}
	golden(t, "metrics.golden", strings.Join(ours, ""))
	wanted := []string{"kicker_view_age_seconds ", `version="1.2.3"`, "go_goroutines ", "process_open_fds "}
	for _, want := range wanted {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), "example.org") {
		t.Error("a label is a node's name")
	}
}
