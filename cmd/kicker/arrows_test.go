package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// arrows is the picture in docs/explanation/design.md: every package, and what it may import of kicker.
var arrows = map[string][]string{
	"cmd/kicker": {
		"cmd/kicker/internal/client", "cmd/kicker/internal/daemon", "cmd/kicker/internal/demo",
		"cmd/kicker/internal/print", "cmd/kicker/internal/render", "config", "controller/api", "inventory/query",
	},
	"cmd/kicker/internal/daemon": {
		"config", "controller", "controller/api", "controller/bus", "controller/web", "inventory", "kick",
	},
	"cmd/kicker/internal/demo": {
		"cmd/kicker/internal/client", "cmd/kicker/internal/print", "controller/api", "kick",
	},
	"cmd/kicker/internal/client": {"controller/api"},
	"cmd/kicker/internal/print":  {"controller/api", "inventory", "inventory/query", "kick"},
	"cmd/kicker/internal/render": {"inventory/query", "kick"},
	"config": {
		"controller", "controller/api", "controller/bus", "controller/membership", "controller/plan",
		"inventory", "inventory/query", "kick",
	},
	"controller": {
		"controller/api", "controller/membership", "controller/plan", "inventory", "inventory/query", "kick",
	},
	"controller/membership": {"controller/api", "inventory", "inventory/query", "kick"},
	"controller/plan":       {"controller/api", "controller/membership", "inventory", "kick"},
	"controller/web":        {"controller/api", "inventory", "inventory/query", "kick"},
	"controller/bus":        {},
	"controller/api":        {"inventory", "kick"},
	"inventory":             {"inventory/query"},
	"kick":                  {},
	"inventory/query":       {},
}

// owners are the only packages that may import a library. Tests may import any.
var owners = []struct {
	library  string
	packages []string
	why      string
}{
	{"github.com/spf13/viper", []string{"config"}, "the others get a Config"},
	{"github.com/spf13/cobra", []string{"cmd/kicker"}, "what a command does can be used without the command"},
	{"github.com/hashicorp/go-memdb", []string{"inventory"}, "no transaction leaves the inventory"},
	{"github.com/nats-io/nats-server/v2", []string{"controller/bus"},
		"only the bus knows whether the broker is embedded"},
	{"github.com/nats-io/nats.go", []string{"controller/bus", "inventory", "kick", "cmd/kicker/internal/daemon"},
		"the controller gets functions to send with"},
	{"github.com/prometheus/client_golang", []string{"controller/web"}, "metrics are computed from a view when they are requested"},
	{"github.com/google/renameio/v2", []string{"cmd/kicker/internal/render", "kick"}, "the others replace no files"},
	{"github.com/cenkalti/backoff/v4", []string{"controller/plan"}, "only the controller retries"},
}

// top is what the top level holds, beside names that start with a dot and names in .gitignore.
var top = []string{
	"cmd", "controller", "inventory", "kick", "config", "docs",
	"go.mod", "go.sum", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "Makefile",
}

var (
	ignored  = []string{"bin", "kicker", "*.test", "*.out"}
	nameless = []string{"util", "utils", "common", "types", "manager", "helper", "helpers"}
	locks    = []string{"Mutex", "RWMutex", "Locker", "Cond", "Map"}
)

func TestPackagesKeepTheirArrows(t *testing.T) {
	broken, err := brokenRules(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range broken {
		t.Error(rule)
	}
}

func TestEveryBrokenRuleIsReported(t *testing.T) {
	tests := []struct {
		name, file, content string
		want                string // of the only complaint
	}{
		{"an arrow backwards", "kick/a.go", `import "kicker/controller"`, `kick must not import kicker/controller: `},
		{"the two verbs know each other", "inventory/a.go", `import "kicker/kick"`,
			`inventory must not import kicker/kick: `},
		{"a command imports the controller", "cmd/kicker/a.go", `import "kicker/controller"`,
			`cmd/kicker must not import kicker/controller: `},
		{"cobra behind a command", "cmd/kicker/internal/print/a.go", `import "github.com/spf13/cobra"`,
			`only cmd/kicker may: `},
		{"a package imports cmd", "config/a.go", `import "kicker/cmd/kicker"`,
			`config must not import kicker/cmd/kicker: `},
		{"web starts a bus", "controller/web/a.go", `import "kicker/controller/bus"`,
			`controller/web must not import kicker/controller/bus: `},
		{"a package that is not in the picture", "kick/shim/a.go", ``, `kick/shim is not in the picture: `},
		{"a library in the wrong package", "inventory/a.go", `import "github.com/spf13/viper"`,
			`inventory must not import github.com/spf13/viper: only config may: `},
		{"a library's subpackage", "controller/a.go", `import "github.com/prometheus/client_golang/prometheus"`,
			`only controller/web may: `},
		{"the controller on NATS", "controller/a.go", `import "github.com/nats-io/nats.go"`,
			`controller must not import github.com/nats-io/nats.go: `},
		{"the embedded server elsewhere", "cmd/kicker/a.go", `import "github.com/nats-io/nats-server/v2/server"`,
			`only controller/bus may: `},
		{"query on a library", "inventory/query/a.go", `import "golang.org/x/exp/maps"`, `only the standard library`},
		{"a lock in the controller", "controller/a.go", "import s \"sync\"\nvar mu s.RWMutex",
			`controller must not use sync.RWMutex: `},
		{"a new top level", "pkg/README", ``, `top level: pkg: `},
		{"a package called helper", "kick/helper/a.go", ``, `kick/helper: the name says nothing`},
		{"a file called util", "kick/util_linux.go", ``, `kick/util_linux.go: the name says nothing`},
		{"a type called Manager", "kick/a.go", `type RunManager struct{}`,
			`kick/a.go: type RunManager: the name says nothing`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := soundTree()
			content := tt.content
			if strings.HasSuffix(tt.file, ".go") {
				content = "package p\n" + content
			}
			tree[tt.file] = &fstest.MapFile{Data: []byte(content)}
			broken, err := brokenRules(tree)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(broken, func(rule string) bool { return strings.Contains(rule, tt.want) }) {
				t.Errorf("with %s, %q: %q, want one with %q", tt.file, content, broken, tt.want)
			}
		})
	}

	t.Run("something is missing at the top", func(t *testing.T) {
		tree := soundTree()
		delete(tree, "NOTICE")
		broken, err := brokenRules(tree)
		if err != nil || len(broken) != 1 || !strings.Contains(broken[0], "NOTICE is missing") {
			t.Errorf("without NOTICE: %q, %v", broken, err)
		}
	})
}

func TestWhatTheRulesAllowIsNotReported(t *testing.T) {
	tree := soundTree()
	for file, content := range map[string]string{
		"cmd/kicker/a.go":      `import ("kicker/config"; "github.com/spf13/cobra")`,
		"controller/a.go":      "import (\"sync\"; \"sync/atomic\"; \"kicker/kick\")\nvar wg sync.WaitGroup\nvar n atomic.Int64",
		"controller/a_test.go": "import (\"sync\"; \"github.com/nats-io/nats-server/v2/server\")\nvar mu sync.Mutex",
		"kick/testdata/a.go":   `import "github.com/spf13/viper"`,
		"kick/a.go":            `type Kickermanagers struct{}`,
		".github/a.go":         `import "github.com/spf13/viper"`,
	} {
		tree[file] = &fstest.MapFile{Data: []byte("package p\n" + content)}
	}
	tree["bin/kicker"] = &fstest.MapFile{}
	tree["kick.test"] = &fstest.MapFile{}
	broken, err := brokenRules(tree)
	if err != nil || len(broken) != 0 {
		t.Errorf("a sound tree: %q, %v", broken, err)
	}
}

// soundTree is a checkout that breaks no rule.
func soundTree() fstest.MapFS {
	tree := fstest.MapFS{}
	for _, name := range top {
		if strings.Contains(name, ".") || name == strings.ToUpper(name) || name == "Makefile" {
			tree[name] = &fstest.MapFile{}
		} else {
			tree[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		}
	}
	return tree
}

// brokenRules lists what breaks the rules of the design in a checkout, with the reason for each rule.
func brokenRules(checkout fs.FS) ([]string, error) {
	broken, err := topLevel(checkout)
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(checkout, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if base == "testdata" || name == "bin" || len(base) > 1 && base[0] == '.' {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(base) != ".go" {
			return nil
		}
		src, err := fs.ReadFile(checkout, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		broken = append(broken, names(name, file)...)
		if !strings.HasSuffix(base, "_test.go") {
			broken = append(broken, imports(path.Dir(name), file)...)
			broken = append(broken, lockUses(path.Dir(name), file)...)
		}
		return nil
	})
	slices.Sort(broken)
	return slices.Compact(broken), err
}

func topLevel(checkout fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(checkout, ".")
	if err != nil {
		return nil, err
	}
	var broken []string
	missing := slices.Clone(top)
	for _, e := range entries {
		name := e.Name()
		if i := slices.Index(missing, name); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
			continue
		}
		isIgnored := slices.ContainsFunc(ignored, func(pattern string) bool {
			ok, _ := path.Match(pattern, name)
			return ok
		})
		if name[0] != '.' && !isIgnored {
			broken = append(broken,
				fmt.Sprintf("top level: %s: put it below one of %v, so that everything has one place", name, top))
		}
	}
	for _, name := range missing {
		broken = append(broken, fmt.Sprintf("top level: %s is missing", name))
	}
	return broken, nil
}

func imports(pkg string, file *ast.File) []string {
	allowed, known := arrows[pkg]
	if !known {
		return []string{fmt.Sprintf("%s is not in the picture: a new package is a decision: draw it in docs/explanation/design.md and in arrows", pkg)}
	}
	var broken []string
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
		ours, isOurs := strings.CutPrefix(imported, "kicker/")
		if isOurs && !slices.Contains(allowed, ours) {
			broken = append(broken,
				fmt.Sprintf("%s must not import %s: the arrows in docs/explanation/design.md allow it %v", pkg,
					imported, allowed))
		}
		first, _, _ := strings.Cut(imported, "/")
		if pkg == "inventory/query" && !isOurs && strings.Contains(first, ".") {
			broken = append(broken, fmt.Sprintf("%s must not import %s: a language needs only the standard library",
				pkg, imported))
		}
		for _, o := range owners {
			isIt := imported == o.library || strings.HasPrefix(imported, o.library+"/")
			if isIt && !slices.Contains(o.packages, pkg) {
				broken = append(broken,
					fmt.Sprintf("%s must not import %s: only %s may: %s", pkg, imported, strings.Join(o.packages, ", "),
						o.why))
			}
		}
	}
	return broken
}

// lockUses finds locks in package controller. Its state has one owner, the goroutine of Run.
func lockUses(pkg string, file *ast.File) []string {
	if pkg != "controller" {
		return nil
	}
	local := "sync"
	for _, spec := range file.Imports {
		if spec.Path.Value == `"sync"` && spec.Name != nil {
			local = spec.Name.Name
		}
	}
	var broken []string
	for n := range ast.Preorder(file) {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !slices.Contains(locks, sel.Sel.Name) {
			continue
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
			broken = append(broken,
				fmt.Sprintf("%s must not use sync.%s: its state has one owner, others get a view or a channel", pkg,
					sel.Sel.Name))
		}
	}
	return broken
}

// names finds packages, files and types whose names say nothing.
func names(name string, file *ast.File) []string {
	const rule = "the name says nothing: say what it is or does"
	var broken []string
	if slices.Contains(nameless, path.Base(path.Dir(name))) {
		broken = append(broken, fmt.Sprintf("%s: %s", path.Dir(name), rule))
	}
	stem, _, _ := strings.Cut(strings.TrimSuffix(path.Base(name), ".go"), "_")
	if slices.Contains(nameless, stem) {
		broken = append(broken, fmt.Sprintf("%s: %s", name, rule))
	}
	for n := range ast.Preorder(file) {
		spec, ok := n.(*ast.TypeSpec)
		if ok && slices.Contains(nameless, lastWord(spec.Name.Name)) {
			broken = append(broken, fmt.Sprintf("%s: type %s: %s", name, spec.Name.Name, rule))
		}
	}
	return broken
}

// lastWord is the last word of a name in camel case, in lower case.
func lastWord(name string) string {
	start := strings.LastIndexFunc(name, func(r rune) bool { return 'A' <= r && r <= 'Z' })
	return strings.ToLower(name[max(start, 0):])
}
