package kick

import "time"

// Action is what a node does when it is kicked: named and defined in the node's own configuration.
type Action struct {
	Name      string        `mapstructure:"name"`
	Command   []string      `mapstructure:"command"`    // argv; no shell
	DependsOn []string      `mapstructure:"depends_on"` // roles, or selectors; the node's unless set
	Timeout   time.Duration `mapstructure:"timeout"`    // then TERM to its process group, and KILL after Grace
	Grace     time.Duration `mapstructure:"grace"`
	Success   []int         `mapstructure:"success"` // the exit codes that mean success
	Env       []string      `mapstructure:"env"`     // NAME=VALUE, beside the agent's own environment
}

// Defaults of an Action.
const (
	DefaultTimeout = 10 * time.Minute
	DefaultGrace   = 10 * time.Second
)
