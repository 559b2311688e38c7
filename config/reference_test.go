package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kicker/controller"
	"kicker/kick"
)

const examplePath = "../docs/reference/kicker.yaml"

func TestExampleHasEveryKeyAndNoOther(t *testing.T) {
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	src := &sources{file: examplePath}
	if problems, _ := src.scan(data); len(problems) > 0 {
		t.Error(problems)
	}
	there := map[string]bool{}
	for path := range src.lines {
		there[indexes.ReplaceAllString(path, "[]")] = true
	}
	walk(configType, func(key string, _ reflect.Type) {
		if !there[key] {
			t.Errorf("%s does not explain %s", examplePath, key)
		}
	})
}

func TestExampleIsTheDefaultsBesideItsExamples(t *testing.T) {
	got := mustLoad(t, Options{File: examplePath, Listens: true})
	want := Default()
	want.StateDir = defaultStateDir(true)
	want.API.URL = "http://" + want.API.Listen
	examples := cmpopts.IgnoreFields(Config{}, "Config.Roles", "Agent.Roles", "Agent.DependsOn", "Agent.Facts", "Agent.Actions")
	if diff := cmp.Diff(want, got, examples); diff != "" {
		t.Errorf("%s (-default +got):\n%s", examplePath, diff)
	}
	if len(got.Roles) == 0 || len(got.Agent.Roles) == 0 || len(got.Agent.DependsOn) == 0 || len(got.Agent.Facts) == 0 || len(got.Agent.Actions) == 0 {
		t.Errorf("%s: an example is empty", examplePath)
	}
}

// TestTableHasEveryKeyWithItsDefault reads the rows | `key` | `default` | of the reference.
func TestTableHasEveryKeyWithItsDefault(t *testing.T) {
	page, err := os.ReadFile("../docs/reference/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	stated := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (?:`([^`]*)`)? *\\|").FindAllStringSubmatch(string(page), -1) {
		stated[row[1]] = row[2]
	}
	defaults := defaultsByKey()
	walk(configType, func(key string, typ reflect.Type) {
		if typ.Kind() == reflect.Struct || isEntries(typ) {
			return
		}
		got, ok := stated[key]
		if !ok {
			t.Errorf("configuration.md has no row for %s", key)
		} else if got != defaults[key] {
			t.Errorf("configuration.md states %q as the default of %s, want %q", got, key, defaults[key])
		}
		delete(stated, key)
	})
	for key := range stated {
		t.Errorf("configuration.md has a row for %s, which is no key", key)
	}
}

// defaultsByKey are the defaults as the reference writes them; those of what is in lists belong to who uses it.
func defaultsByKey() map[string]string {
	text := map[string]string{
		"roles[].member_facts":    "[" + strings.Join(controller.DefaultMemberFacts, ", ") + "]",
		"roles[].min_members":     "0",
		"roles[].budget":          string(controller.DefaultBudget),
		"agent.actions[].timeout": short(kick.DefaultTimeout),
		"agent.actions[].grace":   short(kick.DefaultGrace),
		"agent.actions[].success": "[0]",
		"state_dir":               defaultStateDir(true),
	}
	var rec func(prefix string, v reflect.Value)
	rec = func(prefix string, v reflect.Value) {
		for _, f := range fields(v.Type()) {
			key, value := join(prefix, f.name), v.FieldByIndex(f.index)
			if _, known := text[key]; known {
				continue
			}
			switch d, isDuration := value.Interface().(time.Duration); {
			case isDuration:
				text[key] = short(d)
			case value.Kind() == reflect.Struct:
				rec(key, value)
			case value.Kind() == reflect.Slice && value.Len() == 0:
				text[key] = ""
			default:
				text[key] = fmt.Sprint(value.Interface())
			}
		}
	}
	rec("", reflect.ValueOf(Default()))
	return text
}
