package kick

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestActionIsParsedFromAFlag(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string // nil: rejected
	}{
		{`reload=/usr/local/bin/reload-lb`, []string{"/usr/local/bin/reload-lb"}},
		{`reload=/bin/r --x 'a b'`, []string{"/bin/r", "--x", "a b"}},
		{`reload=  r  "a 'b' \"c\" \\ \n"  `, []string{"r", `a 'b' "c" \ \n`}},
		{`reload=r 'a'"b"\ c ''`, []string{"r", "ab c", ""}},
		{`reload=r $HOME *`, []string{"r", "$HOME", "*"}},
		{`reload=env A=b r`, []string{"env", "A=b", "r"}},
		{`reload`, nil},
		{`reload=`, nil},
		{`=r`, nil},
		{`Re load=r`, nil},
		{`reload=r 'a`, nil},
		{`reload=r "a`, nil},
		{`reload=r \`, nil},
	} {
		a, err := ParseAction(c.in)
		if c.want == nil {
			if err == nil || !strings.Contains(err.Error(), c.in[:2]) {
				t.Errorf("ParseAction(%s) = %q, %v, want an error that names it", c.in, a.Command, err)
			}
			continue
		}
		if err != nil || a.Name != "reload" {
			t.Errorf("ParseAction(%s): %q, %v", c.in, a.Name, err)
		}
		if diff := cmp.Diff(c.want, a.Command); diff != "" {
			t.Errorf("ParseAction(%s) (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestInvalidActionIsReportedByItsKey(t *testing.T) {
	valid := Action{
		Name: "reload", Command: []string{"r"}, DependsOn: []string{"web"},
		Timeout: time.Second, Success: []int{0, 2}, Env: []string{"A=b"},
	}
	if errs := ValidateActions([]Action{valid, {Name: "other", Command: []string{"r"}}}); len(errs) > 0 {
		t.Fatal(errs)
	}
	for key, spoil := range map[string]func(*Action){
		"actions[1].name: action":    func(a *Action) { a.Name = "Re load" },
		"actions[1].name: \"first\"": func(a *Action) { a.Name = "first" },
		"actions[1].command:":        func(a *Action) { a.Command = nil },
		"actions[1].timeout:":        func(a *Action) { a.Timeout = -1 },
		"actions[1].timeout: 48h, want more than 0 and at most 24h": func(a *Action) { a.Timeout = 2 * maxTimeout },
		"actions[1].grace: 2h, want more than 0 and at most 1h":     func(a *Action) { a.Grace = 2 * maxGrace },
		"actions[1].success:":           func(a *Action) { a.Success = []int{256} },
		"actions[1].env[0]: \"A\"":      func(a *Action) { a.Env = []string{"A"} },
		"actions[1].env[0]: KICKER_RUN": func(a *Action) { a.Env = []string{"KICKER_RUN=x"} },
		"actions[1].depends_on[0]:":     func(a *Action) { a.DependsOn = []string{""} },
		"actions[1].depends_on[1]:":     func(a *Action) { a.DependsOn = []string{"web", "web"} },
	} {
		invalid := valid
		spoil(&invalid)
		err := errors.Join(ValidateActions([]Action{{Name: "first", Command: []string{"r"}}, invalid})...)
		if err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("got %v, want an error that starts with %s", err, key)
		}
	}
}
