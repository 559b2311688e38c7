package web

import (
	"kicker/controller/api"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func reference(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/reference/api.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReferenceNamesEveryPath(t *testing.T) {
	routes := (&server{showing(nil)}).routes()
	text := reference(t)
	for pattern := range routes {
		if !strings.Contains(text, "\n### "+pattern+"\n") {
			t.Errorf("api.md has no heading %q", pattern)
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(text, -1) {
		if routes[heading[1]] == nil {
			t.Errorf("api.md has a heading %q, the API no such path", heading[1])
		}
	}
}

func TestReferenceNamesEveryMetric(t *testing.T) {
	text := reference(t)
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(kicker_[a-z_]+)` \\|").FindAllStringSubmatch(text, -1) {
		documented[row[1]] = true
	}
	w := ask(Handler(showing(cluster(t))), "GET", "/metrics", "")
	for _, line := range regexp.MustCompile(`(?m)^# TYPE (kicker_[a-z_]+) `).FindAllStringSubmatch(w.Body.String(), -1) {
		if !documented[line[1]] {
			t.Errorf("api.md does not have the metric %s", line[1])
		}
		delete(documented, line[1])
	}
	for name := range documented {
		t.Errorf("api.md has %s, /metrics has not", name)
	}
}

func TestReferenceNamesEveryKey(t *testing.T) {
	text := reference(t)
	for _, of := range []any{api.Error{}, api.Status{}, api.Conflict{}, api.Cycle{}, api.RoleStatus{}, api.Explanation{}, api.HeldRole{}, api.Held{}, api.Action{}, api.Identity{}, api.Sync{}, api.Role{}, api.Verdict{},
		api.Need{}, api.Gate{}, api.Run{}, api.Event{}, api.KickOrder{}, api.Kicked{}, api.LossOrder{},
		api.Plan{}, api.PlannedAction{}, api.PlannedRole{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if key != "" && !strings.Contains(text, "`"+key+"`") {
				t.Errorf("api.md does not have the key %q of %T", key, of)
			}
		}
	}
}
