package kick

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kballard/go-shellquote"
)

// Action is what a node runs when it is kicked. Only the node's own configuration defines it.
type Action struct {
	Name      string        `mapstructure:"name"`
	Command   []string      `mapstructure:"command"`    // a program and its arguments; no shell
	DependsOn []string      `mapstructure:"depends_on"` // needs by their canonical text; the node's unless set
	Timeout   time.Duration `mapstructure:"timeout"`    // then TERM to every process; 0: DefaultTimeout
	Grace     time.Duration `mapstructure:"grace"`      // after TERM, then KILL to every process; 0: DefaultGrace
	Success   []int         `mapstructure:"success"`    // the exit codes that mean success; none: 0 alone
	Env       []string      `mapstructure:"env"`        // NAME=VALUE, beside the agent's own environment
}

// Defaults of an Action.
const (
	DefaultTimeout = 5 * time.Minute
	DefaultGrace   = 10 * time.Second
)

// Limits of a node's actions.
const (
	MaxActions = 24 // of a node
	maxTimeout = 24 * time.Hour
	maxGrace   = time.Hour
	slack      = 5 * time.Second // beyond timeout and grace, to start, to be killed and to be written down

	maxLimit = int64((maxTimeout + maxGrace + slack) / time.Millisecond) // of a run
)

func (a Action) withDefaults() Action {
	a.Timeout = cmp.Or(a.Timeout, DefaultTimeout)
	a.Grace = cmp.Or(a.Grace, DefaultGrace)
	if len(a.Success) == 0 {
		a.Success = []int{0}
	}
	return a
}

// ValidateActions returns everything that is wrong with a node's actions, each by its key in the configuration.
func ValidateActions(actions []Action) []error {
	var errs []error
	if len(actions) > MaxActions {
		errs = append(errs, fmt.Errorf("actions: %d of them, the limit is %d", len(actions), MaxActions))
	}
	all := 0
	for _, a := range actions {
		all += len(a.DependsOn)
	}
	if all > MaxDependsAll {
		errs = append(errs, fmt.Errorf("actions: %d entries of depends_on in all, the limit is %d: "+
			"let a selector name several roles", all, MaxDependsAll))
	}
	for i, a := range actions {
		check := func(key string, err error) {
			if err != nil {
				errs = append(errs, fmt.Errorf("actions[%d].%s: %w", i, key, err))
			}
		}
		checkTime := func(key string, d, most time.Duration) {
			check(key, ensure(d >= 0 && d <= most, "%s, want more than 0 and at most %s", short(d), short(most)))
		}
		first := actionIndex(actions, a.Name)
		check("name", cmp.Or(
			checkWord("action", a.Name),
			ensure(first == i, "%q is the name of actions[%d] already, choose another", a.Name, first),
		))
		isCommand := len(a.Command) > 0 && a.Command[0] != ""
		check("command", ensure(isCommand, "empty, want a program and its arguments as a list"))
		for _, word := range a.Command {
			check("command", ensure(!strings.ContainsRune(word, 0), "%q contains a NUL byte", word))
		}
		checkTime("timeout", a.Timeout, maxTimeout)
		checkTime("grace", a.Grace, maxGrace)
		for _, code := range a.Success {
			check("success", ensure(code >= 0 && code <= 255, "%d is not an exit code, want 0 to 255", code))
		}
		check("depends_on", ensure(len(a.DependsOn) <= MaxDepends,
			"%d needs, the limit is %d", len(a.DependsOn), MaxDepends))
		for j, role := range a.DependsOn {
			twice := slices.Contains(a.DependsOn[:j], role)
			check(fmt.Sprintf("depends_on[%d]", j), cmp.Or(
				CheckNeed(role),
				ensure(!twice, "%q is there twice: remove one", role),
			))
		}
		for j, pair := range a.Env {
			name, _, ok := strings.Cut(pair, "=")
			check(fmt.Sprintf("env[%d]", j), cmp.Or(
				ensure(ok && name != "" && !strings.ContainsRune(pair, 0), "%q, want NAME=VALUE", pair),
				ensure(!slices.Contains(runEnv, name), "%s is set by kicker for each run, choose another name", name),
			))
		}
	}
	return errs
}

// ParseAction reads NAME=COMMAND LINE, as in reload=/usr/local/bin/reload-lb --wait '10 s'. It splits the command line
// into words as a shell does, with quotes and backslashes, and expands nothing.
func ParseAction(s string) (Action, error) {
	name, line, ok := strings.Cut(s, "=")
	words, err := shellquote.Split(line)
	a := Action{Name: name, Command: words}
	err = cmp.Or(
		ensure(ok, "want NAME=COMMAND"),
		checkWord("action", name),
		ensure(err == nil, "a quote is not closed, or a backslash is the last character"),
		errors.Join(ValidateActions([]Action{a})...),
	)
	if err != nil {
		return Action{}, fmt.Errorf("action %q: %w", s, err)
	}
	return a, nil
}

// short formats a duration as people write it: "10m", not "10m0s".
func short(d time.Duration) string { return shorter.Replace(d.String()) }

var shorter = strings.NewReplacer("h0m0s", "h", "m0s", "m")
