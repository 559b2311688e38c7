package kick

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kballard/go-shellquote"
)

// Action is what a node does when it is kicked: named and defined in the node's own configuration.
type Action struct {
	Name      string        `mapstructure:"name"`
	Command   []string      `mapstructure:"command"`    // argv; no shell
	DependsOn []string      `mapstructure:"depends_on"` // roles, or selectors; the node's unless set
	Timeout   time.Duration `mapstructure:"timeout"`    // then TERM to its process group, and KILL after Grace; 0: DefaultTimeout
	Grace     time.Duration `mapstructure:"grace"`      // 0: DefaultGrace
	Success   []int         `mapstructure:"success"`    // the exit codes that mean success; none: 0 alone
	Env       []string      `mapstructure:"env"`        // NAME=VALUE, beside the agent's own environment
}

// Defaults of an Action.
const (
	DefaultTimeout = 10 * time.Minute
	DefaultGrace   = 10 * time.Second
)

// Limits of what a node can be configured to do.
const (
	MaxActions = 64
	MaxTimeout = 24 * time.Hour
	MaxGrace   = time.Hour
)

// slack is what a run may need beyond timeout and grace to be started, killed and written down.
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

// deadline is how long a run can take at the latest.
func (a Action) deadline() time.Duration { return a.Timeout + a.Grace + slack }

// ValidateActions names everything that is wrong with a node's actions, by their keys in the configuration.
func ValidateActions(actions []Action) []error {
	var errs []error
	if len(actions) > MaxActions {
		errs = append(errs, fmt.Errorf("actions: %d of them, at most %d are allowed", len(actions), MaxActions))
	}
	seen := map[string]int{}
	for i, a := range actions {
		wrong := func(key, format string, args ...any) {
			errs = append(errs, fmt.Errorf("actions[%d].%s: %w", i, key, fmt.Errorf(format, args...)))
		}
		if err := checkActionName(a.Name); err != nil {
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
				wrong("command", "%q has a NUL byte in it", word)
			}
		}
		if a.Timeout < 0 || a.Timeout > MaxTimeout {
			wrong("timeout", "%v, want more than 0 and at most %v", a.Timeout, MaxTimeout)
		}
		if a.Grace < 0 || a.Grace > MaxGrace {
			wrong("grace", "%v, want more than 0 and at most %v", a.Grace, MaxGrace)
		}
		for _, code := range a.Success {
			if code < 0 || code > 255 {
				wrong("success", "%d is no exit code, want 0 to 255", code)
			}
		}
		if len(a.DependsOn) > MaxNeeds {
			wrong("depends_on", "%d roles, at most %d are allowed", len(a.DependsOn), MaxNeeds)
		}
		for j, role := range a.DependsOn {
			if err := checkRole(role); err != nil {
				wrong(fmt.Sprintf("depends_on[%d]", j), "%w", err)
			} else if slices.Contains(a.DependsOn[:j], role) {
				wrong(fmt.Sprintf("depends_on[%d]", j), "%q is there twice", role)
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

// ParseAction reads NAME=COMMAND LINE, as in reload=/usr/local/bin/reload-lb --wait '10 s'. The command line is split into words
// as a shell does, with quotes and backslashes; nothing in it is expanded.
func ParseAction(s string) (Action, error) {
	name, line, ok := strings.Cut(s, "=")
	if !ok {
		return Action{}, fmt.Errorf("action %q: want NAME=COMMAND", s)
	}
	if err := checkActionName(name); err != nil {
		return Action{}, fmt.Errorf("action %q: %w", s, err)
	}
	words, err := shellquote.Split(line)
	if err != nil {
		return Action{}, fmt.Errorf("action %q: %w", s, err)
	}
	a := Action{Name: name, Command: words}
	if errs := ValidateActions([]Action{a}); len(errs) > 0 {
		return Action{}, fmt.Errorf("action %q: %w", s, errs[0])
	}
	return a, nil
}
