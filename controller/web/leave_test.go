package web

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

func TestLeaveOrderReachesTheController(t *testing.T) {
	cfg := showing(cluster(t))
	var got api.LeaveOrder
	answer := api.Leaving{Node: "web1.example.org", Gone: true, LeaveStatus: inventory.LeaveStatus{V: 2, Received: true}}
	cfg.Leave = func(_ context.Context, o api.LeaveOrder) (api.Leaving, error) { got = o; return answer, nil }
	cfg.Leaving = func(_ context.Context, node string) (api.Leaving, error) {
		if node != "web1.example.org" {
			return api.Leaving{}, fmt.Errorf("no node is called %s: %w", node, api.ErrNotFound)
		}
		return answer, nil
	}
	h := Handler(cfg)
	w := ask(h, "POST", "/v1/leaves", `{"object":"node/web1.example.org","last":true,"by":"me"}`)
	if want := (api.LeaveOrder{Object: "node/web1.example.org", Last: true, By: "me"}); w.Code != http.StatusOK || got != want {
		t.Errorf("%d %s, the controller got %+v, want %+v", w.Code, w.Body, got, want)
	}
	w = ask(h, "GET", "/v1/leaves/web1.example.org", "")
	for _, want := range []string{`"node": "web1.example.org"`, `"gone": true`, `"received": true`, `"released": false`} {
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%d %s, want %s", w.Code, w.Body, want)
		}
	}
	w = ask(h, "GET", "/v1/leaves/web1.example.or", "")
	if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), `"web1.example.org"`) {
		t.Errorf("an unknown node: %d %s, want %d and a similar name", w.Code, w.Body, http.StatusNotFound)
	}
}

func TestLeaveOrderIsReadStrictly(t *testing.T) {
	cfg := showing(cluster(t)) // a panic if the controller is asked
	for body, want := range map[string]string{
		`{"object":"role/web"}`:              "want node/N",
		`{"object":"node/"}`:                 "want node/N",
		`{"object":"node/web1","by":"a\n"}`:  "printable",
		`{"object":"node/web1","lsat":true}`: `unknown key \"lsat\"`,
	} {
		w := ask(Handler(cfg), "POST", "/v1/leaves", body)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %q", body, w.Code, w.Body, want)
		}
	}
	if w := ask(Handler(cfg), "POST", "/v1/leaves?last=true", `{"object":"node/web1"}`); w.Code != http.StatusBadRequest {
		t.Errorf("with a query: %d", w.Code)
	}
}

func TestDisabledActionIsANoteWhileItIsCurrent(t *testing.T) {
	for state, want := range map[api.State]api.Severity{api.Converged: api.Note, api.Pending: api.Warning} {
		v := cluster(t)
		v.Verdicts[0].State, v.Verdicts[0].Disabled = state, "/var/lib/kicker/node/lb1/disabled: new disks"
		p := only(t, v, api.ProblemActionDisabled)
		if p.Severity != want || !strings.Contains(p.Why, "new disks") || p.Do == "" || p.Next == "" {
			t.Errorf("%s: %+v, want %s", state, p, want)
		}
	}
}

func TestActionWhoseLastRunFailedMayUseADepartedNode(t *testing.T) {
	v := cluster(t)
	v.Verdicts[1].Needs[0].Removed = nil // it never applied members with web9, but its failed run may have written it
	was := api.Departed{Node: "web9", Roles: map[string]api.RoleDeparture{"web": {Why: kick.DepartedLeft}}}
	if got := usedBy(v, was); !slices.Equal(got, []string{"lb2.example.org/reload"}) {
		t.Errorf("used by %v, want the action whose last run failed", got)
	}
	was.Roles["web"] = was.Roles["web"].DroppedBy("lb2.example.org/reload", noon)
	if got := usedBy(v, was); got != nil {
		t.Errorf("used by %v, want none: it applied members without web9 since", got)
	}
}

func TestADisabledActionKeepsWhatItApplied(t *testing.T) {
	v := cluster(t)
	v.Verdicts[0].State, v.Verdicts[0].Disabled = api.Pending, "new disks" // an order waits; its members are current
	if p := only(t, v, api.ProblemActionDisabled); strings.Contains(p.Next, "old members") {
		t.Errorf("%q, but its members are current", p.Next)
	}
}

func TestNameOfANodeThatIsGoneIsNoTypo(t *testing.T) {
	v := cluster(t)
	suggested := func() []string {
		is, _ := notFound(v, "node/web4.example.org", "it is gone").(failure)
		return is.body.Suggestions
	}
	if len(suggested()) == 0 {
		t.Error("no name is suggested for one that nobody had")
	}
	v.Departed = map[string]api.Departed{"web4.example.org": {Node: "web4.example.org", Life: api.Gone}}
	if got := suggested(); len(got) != 0 {
		t.Errorf("%v is suggested for a node that is gone", got)
	}
}
