package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kicker/controller/membership"
	"kicker/kick"
)

const examplePath = "../docs/reference/kicker.yaml"

func TestExampleFileHasEveryKeyAndNoOther(t *testing.T) {
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	r := reader{lines: map[string]int{}}
	if _, err := r.readFile(data); err != nil || len(r.problems) > 0 {
		t.Error(err, r.problems)
	}
	there := map[string]bool{}
	for path := range r.lines {
		there[indexes.ReplaceAllString(path, "[]")] = true
	}
	for _, s := range settings {
		if !there[s.key] {
			t.Errorf("%s does not explain %s", examplePath, s.key)
		}
	}
}

func TestExampleFileHasTheDefaults(t *testing.T) {
	got := mustLoad(t, Options{File: examplePath, Listens: true})
	want := Default()
	want.StateDir = defaultStateDir(true)
	want.API.URL = "http://" + want.API.Listen
	examples := cmpopts.IgnoreFields(Config{},
		"Config.Roles", "Config.Config.Limits", "Agent.Roles", "Agent.DependsOn", "Agent.Facts", "Agent.Actions")
	if diff := cmp.Diff(want, got, examples); diff != "" {
		t.Errorf("%s (-default +got):\n%s", examplePath, diff)
	}
	a := got.Agent
	if len(got.Roles) == 0 || len(got.Limits) == 0 || len(a.Roles) == 0 || len(a.DependsOn) == 0 || len(a.Facts) == 0 || len(a.Actions) == 0 {
		t.Errorf("%s: an example is empty", examplePath)
	}
}

// The table has rows of | `key` | `default` |.
func TestTableHasEveryKeyWithItsDefault(t *testing.T) {
	page, err := os.ReadFile("../docs/reference/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	stated := map[string]string{}
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (?:`([^`]*)`)? *\\|")
	for _, row := range rows.FindAllStringSubmatch(string(page), -1) {
		stated[row[1]] = row[2]
	}
	defaults := defaultsByKey()
	for i, s := range settings {
		if next, _ := split(settings[min(i+1, len(settings)-1)].key); strings.TrimSuffix(next, "[]") == s.key {
			continue // it has keys below it
		}
		got, ok := stated[s.key]
		if !ok {
			t.Errorf("configuration.md has no row for %s", s.key)
		} else if got != defaults[s.key] {
			t.Errorf("configuration.md states %q as the default of %s, want %q", got, s.key, defaults[s.key])
		}
		delete(stated, s.key)
	}
	for key := range stated {
		t.Errorf("configuration.md has a row for the unknown key %s", key)
	}
}

// defaultsByKey returns the defaults as the reference writes them. Entries of lists have theirs in other packages.
func defaultsByKey() map[string]string {
	text := map[string]string{
		"roles[].member_facts":    "[" + strings.Join(membership.DefaultMemberFacts, ", ") + "]",
		"roles[].min_members":     strconv.Itoa(membership.DefaultMinMembers),
		"roles[].budget":          string(membership.DefaultBudget),
		"agent.actions[].timeout": short(kick.DefaultTimeout),
		"agent.actions[].grace":   short(kick.DefaultGrace),
		"agent.actions[].success": "[0]",
		"state_dir":               defaultStateDir(true),
	}
	var add func(prefix string, v reflect.Value)
	add = func(prefix string, v reflect.Value) {
		for _, f := range fields(v.Type()) {
			key, value := join(prefix, keyOf(f)), v.FieldByIndex(f.Index)
			if _, known := text[key]; known {
				continue
			}
			switch d, isDuration := value.Interface().(time.Duration); {
			case isDuration:
				text[key] = short(d)
			case value.Kind() == reflect.Struct:
				add(key, value)
			case value.Kind() == reflect.Slice && value.Len() == 0:
				text[key] = ""
			default:
				text[key] = fmt.Sprint(value.Interface())
			}
		}
	}
	add("", reflect.ValueOf(Default()))
	return text
}
