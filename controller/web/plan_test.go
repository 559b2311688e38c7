package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"kicker/controller/api"
)

func TestPlanIsMadeOfTheRequestsBody(t *testing.T) {
	cfg := showing(cluster(t))
	var got string
	cfg.Plan = func(_ context.Context, text []byte) (api.Plan, error) {
		got = string(text)
		v := cluster(t)
		then := v.Roles[1]
		why := "it would be empty, and no member left on purpose"
		then.Held = &api.Held{Nodes: []string{"web1.example.org"}, Since: noon, Why: why}
		return api.Plan{
			Actions: []api.PlannedAction{
				{Node: "lb1.example.org", Action: "reload", BecomesStale: true,
					Now: v.Verdicts[0], Then: v.Verdicts[1]},
			},
			Roles: []api.PlannedRole{
				{Name: "web", Now: &v.Roles[1], Then: &then},
				{Name: "db", Then: &api.Role{Name: "db"}, Added: []string{"db1"}},
			},
		}, nil
	}
	w := ask(Handler(cfg), "POST", "/v1/plan", "settle: 2s\n")
	if got != "settle: 2s\n" {
		t.Errorf("the controller got %q, want the request's body", got)
	}
	golden(t, "plan.golden", fmt.Sprintf("POST /v1/plan\n%d\n%s", w.Code, w.Body))
}

func TestPlanErrorsHaveTheirStatus(t *testing.T) {
	for _, test := range []struct {
		body string
		err  error
		want int
	}{
		{"roles: 7", errors.New("roles: want a list"), http.StatusBadRequest},
		{"", fmt.Errorf("plan: %w", api.ErrNotSynced), http.StatusServiceUnavailable},
		{strings.Repeat("#", maxConfig+1), nil, http.StatusRequestEntityTooLarge},
	} {
		cfg := showing(cluster(t))
		cfg.Plan = func(context.Context, []byte) (api.Plan, error) { return api.Plan{}, test.err }
		if w := ask(Handler(cfg), "POST", "/v1/plan", test.body); w.Code != test.want {
			t.Errorf("%.20q, %v: %d %s, want %d", test.body, test.err, w.Code, w.Body, test.want)
		}
	}
}

func TestRejectedReloadIsAProblem(t *testing.T) {
	v := cluster(t)
	before := len(problems(v))
	v.Loaded.Failed = "kicker.yaml:3: settle: 7 has no unit"
	found := problems(v)
	isOurs := func(p api.Problem) bool { return p.Code == api.ProblemReloadRejected && p.Why == v.Loaded.Failed }
	if len(found) != before+1 || !slices.ContainsFunc(found, isOurs) {
		t.Errorf("the problems are %+v, want one that says why the configuration is not in force", found)
	}
	w := ask(Handler(showing(v)), "GET", "/metrics", "")
	if !strings.Contains(w.Body.String(), "\nkicker_config_last_reload_successful 0\n") {
		t.Error("the metrics say that the configuration was reloaded")
	}
}
