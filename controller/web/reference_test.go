package web

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
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
			t.Errorf("api.md does not have the heading %q", pattern)
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(text, -1) {
		if routes[heading[1]] == nil {
			t.Errorf("api.md has the heading %q, the API does not have that path", heading[1])
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
	series := regexp.MustCompile(`(?m)^# TYPE (kicker_[a-z_]+) `)
	for _, line := range series.FindAllStringSubmatch(w.Body.String(), -1) {
		if !documented[line[1]] {
			t.Errorf("api.md does not have the metric %s", line[1])
		}
		delete(documented, line[1])
	}
	for name := range documented {
		t.Errorf("api.md has the metric %s, /metrics does not", name)
	}
}

func TestReferenceNamesEveryKey(t *testing.T) {
	text := reference(t)
	seen := map[reflect.Type]bool{}
	var check func(reflect.Type)
	check = func(of reflect.Type) {
		switch kind := of.Kind(); {
		case kind == reflect.Pointer || kind == reflect.Slice || kind == reflect.Map:
			check(of.Elem())
		case kind == reflect.Struct && !seen[of]:
			seen[of] = true
			for _, f := range reflect.VisibleFields(of) {
				key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if key != "" && !strings.Contains(text, "`"+key+"`") {
					t.Errorf("api.md does not have the key %q of %s", key, of)
				}
				if f.IsExported() && key != "-" {
					check(f.Type)
				}
			}
		}
	}
	for _, body := range []any{api.Error{}, api.Status{}, api.Explanation{}, api.Role{}, api.Run{}, api.Event{},
		api.Plan{}, api.KickOrder{}, api.Kicked{}, api.LossOrder{},
		api.LeaveOrder{}, api.Leaving{}} {
		check(reflect.TypeOf(body))
	}
	for _, of := range []any{api.Problem{}, kick.LastRun{}, api.Gate{}, api.Conflict{}} {
		if !seen[reflect.TypeOf(of)] {
			t.Errorf("%T was not reached", of)
		}
	}
}

func TestReferenceNamesEveryValue(t *testing.T) {
	var values []string
	for life := range lives(inventory.New().Snapshot()) {
		values = append(values, string(life))
	}
	for state := range states(nil) {
		values = append(values, string(state))
	}
	for _, severity := range api.Severities {
		values = append(values, string(severity))
	}
	for _, outcome := range []kick.Outcome{kick.Succeeded, kick.Failed, kick.TimedOut, kick.Killed, kick.Lost} {
		values = append(values, string(outcome))
	}
	text := reference(t)
	for _, value := range append(values, api.Gates...) {
		if !strings.Contains(text, "`"+value+"`") {
			t.Errorf("api.md does not have the value %q", value)
		}
	}
}

func TestReferenceHasTheTableOfProblems(t *testing.T) {
	var got []string
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (?:critical|warning|note)[^|]* \\| .+ \\|$")
	for _, cells := range row.FindAllStringSubmatch(reference(t), -1) {
		got = append(got, cells[1])
	}
	if !slices.Equal(got, api.ProblemCodes) {
		t.Errorf("api.md has the codes %v\npackage api has %v", got, api.ProblemCodes)
	}
}

func TestTroubleshootHasASectionForEveryProblem(t *testing.T) {
	b, err := os.ReadFile("../../docs/howto/troubleshoot.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, heading := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(string(b), -1) {
		got = append(got, heading[1])
	}
	if !slices.Equal(got, api.ProblemCodes) {
		t.Errorf("troubleshoot.md has the sections %v\npackage api has %v", got, api.ProblemCodes)
	}
}
