package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"kicker/controller"
)

func TestPlanIsOfTheTextThatCame(t *testing.T) {
	cfg := showing(cluster(t))
	var got string
	cfg.Plan = func(_ context.Context, text []byte) (controller.Plan, error) {
		got = string(text)
		v := cluster(t)
		then := v.Roles[1]
		then.Held = &controller.Held{Nodes: []string{"web1.example.org"}, Since: noon, Why: "it would be empty, and nobody said goodbye"}
		return controller.Plan{
			Actions: []controller.PlannedAction{{Node: "lb1.example.org", Action: "reload", BecomesStale: true, Now: v.Verdicts[0], Then: v.Verdicts[1]}},
			Roles:   []controller.PlannedRole{{Name: "web", Now: &v.Roles[1], Then: &then}, {Name: "db", Then: &controller.Role{Name: "db"}, Added: []string{"db1"}}},
		}, nil
	}
	w := ask(Handler(cfg), "POST", "/v1/plan", "settle: 2s\n")
	if got != "settle: 2s\n" {
		t.Errorf("the controller was asked for %q", got)
	}
	golden(t, "plan.golden", fmt.Sprintf("POST /v1/plan\n%d\n%s", w.Code, w.Body))
}

func TestPlanErrorsHaveTheirCode(t *testing.T) {
	for _, test := range []struct {
		body string
		err  error
		want int
	}{
		{"roles: 7", errors.New("roles: want a list"), http.StatusBadRequest},
		{"", fmt.Errorf("plan: %w", controller.ErrNotSynced), http.StatusServiceUnavailable},
		{strings.Repeat("#", maxConfig+1), nil, http.StatusRequestEntityTooLarge},
	} {
		cfg := showing(cluster(t))
		cfg.Plan = func(context.Context, []byte) (controller.Plan, error) { return controller.Plan{}, test.err }
		if w := ask(Handler(cfg), "POST", "/v1/plan", test.body); w.Code != test.want {
			t.Errorf("%.20q, %v: %d %s, want %d", test.body, test.err, w.Code, w.Body, test.want)
		}
	}
}

func TestFailedReloadIsAProblem(t *testing.T) {
	v := cluster(t)
	before := len(newStatus(v).Problems)
	v.Loaded.Failed = "kicker.yaml:3: settle: 7 has no unit"
	st := newStatus(v)
	if len(st.Problems) != before+1 || !strings.Contains(st.Problems[0], v.Loaded.Failed) {
		t.Errorf("the problems are %q, want one that says why the configuration was not reloaded", st.Problems)
	}
	if w := ask(Handler(showing(v)), "GET", "/metrics", ""); !strings.Contains(w.Body.String(), "\nkicker_config_last_reload_successful 0\n") {
		t.Error("the metrics say that the configuration was reloaded")
	}
}
