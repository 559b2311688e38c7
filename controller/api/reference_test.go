package api

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/reference/events.md")

const eventsHead = `# Events

What ` + "`kicker events`" + ` and [GET /v1/events](api.md#get-v1events) list, and what the controller logs.

The log line of an event has its level. ERROR: a person must act. WARN: something is wrong that kicker handles, or that
may end by itself. INFO: the rest.

This page is made from the program itself (` + "`go test ./controller/api -update`" + `).

| kind | level | meaning |
|---|---|---|
`

func TestReferenceOfEventsIsMadeFromTheTable(t *testing.T) {
	const file = "../../docs/reference/events.md"
	got := eventsHead
	for _, k := range EventKinds {
		got += fmt.Sprintf("| %s | %s | %s |\n", k.Kind, k.Level, k.Meaning)
	}
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
		t.Errorf("%s differs from the table (-file +table; -update writes it):\n%s", file, diff)
	}
}

func TestTablesHaveEveryConstantOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range EventKinds {
		if seen[k.Kind] {
			t.Errorf("two events have the kind %q", k.Kind)
		}
		seen[k.Kind] = true
	}
	for _, table := range []struct {
		file, prefix string
		has          []string
	}{
		{"problem.go", "Problem", ProblemCodes},
		{"view.go", "Gate", Gates},
	} {
		if want := constants(t, table.file, table.prefix); !slices.Equal(table.has, want) {
			t.Errorf("%s: the table has %q, the constants are %q", table.file, table.has, want)
		}
	}
}

// constants is the values of the constants of a file whose names begin with prefix, in their order.
func constants(t *testing.T, file, prefix string) (values []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, prefix) || len(spec.Values) != 1 {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	return values
}
