package kick

import (
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
	DependsOn []string      `mapstructure:"depends_on"` // roles, or selectors; the node's unless set
	Timeout   time.Duration `mapstructure:"timeout"`    // then TERM to the process group; 0: DefaultTimeout
	Grace     time.Duration `mapstructure:"grace"`      // after TERM, then KILL to every process; 0: DefaultGrace
	Success   []int         `mapstructure:"success"`    // the exit codes that mean success; none: 0 alone
	Env       []string      `mapstructure:"env"`        // NAME=VALUE, beside the agent's own environment
}

// Defaults of an Action.
const (
	DefaultTimeout = 10 * time.Minute
	DefaultGrace   = 10 * time.Second
)

// Limits of a node's actions.
const (
	maxActions = 64
	maxTimeout = 24 * time.Hour
	maxGrace   = time.Hour
)

// slack is the time that a run may need beyond timeout and grace, to start, to be killed and to be written down.
const slack = 5 * time.Second

func (a Action) withDefaults() Action {
	if a.Timeout == 0 {
		a.Timeout = DefaultTimeout
	}
	if a.Grace == 0 {
		a.Grace = DefaultGrace
	}
	if len(a.Success) == 0 {
		a.Success = []int{0}
	}
	return a
}

// limit is how long a run takes at most.
func (a Action) limit() time.Duration { return a.Timeout + a.Grace + slack }

// ValidateActions returns everything that is wrong with a node's actions, each by its key in the configuration.
func ValidateActions(actions []Action) []error {
	var errs []error
	if len(actions) > maxActions {
		errs = append(errs, fmt.Errorf("actions: %d of them, the limit is %d", len(actions), maxActions))
	}
	seen := map[string]int{}
	for i, a := range actions {
		wrong := func(key, format string, args ...any) {
			errs = append(errs, fmt.Errorf("actions[%d].%s: %w", i, key, fmt.Errorf(format, args...)))
		}
		if err := checkWord("action", a.Name); err != nil {
			wrong("name", "%w", err)
		} else if first, taken := seen[a.Name]; taken {
			wrong("name", "%q is the name of actions[%d] already, choose another", a.Name, first)
		} else {
			seen[a.Name] = i
		}
		if len(a.Command) == 0 || a.Command[0] == "" {
			wrong("command", "empty, want a program and its arguments as a list")
		}
		for _, word := range a.Command {
			if strings.ContainsRune(word, 0) {
				wrong("command", "%q contains a NUL byte", word)
			}
		}
		if a.Timeout < 0 || a.Timeout > maxTimeout {
			wrong("timeout", "%s, want more than 0 and at most %s", short(a.Timeout), short(maxTimeout))
		}
		if a.Grace < 0 || a.Grace > maxGrace {
			wrong("grace", "%s, want more than 0 and at most %s", short(a.Grace), short(maxGrace))
		}
		for _, code := range a.Success {
			if code < 0 || code > 255 {
				wrong("success", "%d is not an exit code, want 0 to 255", code)
			}
		}
		if len(a.DependsOn) > maxNeeds {
			wrong("depends_on", "%d roles, the limit is %d", len(a.DependsOn), maxNeeds)
		}
		for j, role := range a.DependsOn {
			if err := checkRole(role); err != nil {
				wrong(fmt.Sprintf("depends_on[%d]", j), "%w", err)
			} else if slices.Contains(a.DependsOn[:j], role) {
				wrong(fmt.Sprintf("depends_on[%d]", j), "%q is there twice: remove one", role)
			}
		}
		for j, pair := range a.Env {
			name, _, ok := strings.Cut(pair, "=")
			switch {
			case !ok || name == "" || strings.ContainsRune(pair, 0):
				wrong(fmt.Sprintf("env[%d]", j), "%q, want NAME=VALUE", pair)
			case slices.Contains(runEnv, name):
				wrong(fmt.Sprintf("env[%d]", j), "%s is set by kicker for each run, choose another name", name)
			}
		}
	}
	return errs
}

// ParseAction reads NAME=COMMAND LINE, as in reload=/usr/local/bin/reload-lb --wait '10 s'. It splits the command line
// into words as a shell does, with quotes and backslashes, and expands nothing.
func ParseAction(s string) (Action, error) {
	name, line, ok := strings.Cut(s, "=")
	if !ok {
		return Action{}, fmt.Errorf("action %q: want NAME=COMMAND", s)
	}
	if err := checkWord("action", name); err != nil {
		return Action{}, fmt.Errorf("action %q: %w", s, err)
	}
	words, err := shellquote.Split(line)
	if err != nil {
		return Action{}, fmt.Errorf("action %q: a quote is not closed, or a backslash is the last character", s)
	}
	a := Action{Name: name, Command: words}
	if errs := ValidateActions([]Action{a}); len(errs) > 0 {
		return Action{}, fmt.Errorf("action %q: %w", s, errs[0])
	}
	return a, nil
}

// short formats a duration as people write it: "10m", not "10m0s".
func short(d time.Duration) string { return shorter.Replace(d.String()) }

var shorter = strings.NewReplacer("h0m0s", "h", "m0s", "m")
