package controller

import "time"

// Config is the controller's settings. DefaultConfig says what each is unless set.
type Config struct {
	Cluster   string        `mapstructure:"cluster"`
	Roles     []RoleConfig  `mapstructure:"roles"`
	GoneAfter time.Duration `mapstructure:"gone_after"` // silence after which a node is gone; not below 3.5 beats
	Settle    time.Duration `mapstructure:"settle"`     // wait after the first change after calm; 0 turns settling off altogether
	SettleMin time.Duration `mapstructure:"settle_min"` // least time between two kicks of an action
	SettleMax time.Duration `mapstructure:"settle_max"` // most time that settling keeps an action waiting between two kicks
	Backoff   BackoffConfig `mapstructure:"backoff"`
	Standby   bool          `mapstructure:"standby"`   // wait until no other controller leads, instead of giving up
	InFlight  int           `mapstructure:"in_flight"` // runs in progress in the cluster, at most
	Guard     string        `mapstructure:"guard"`     // one of the Guard constants
	Mode      string        `mapstructure:"mode"`      // one of the Mode constants
}

// RoleConfig adds a role, or overrides what the nodes say of it.
type RoleConfig struct {
	Name        string        `mapstructure:"name"`
	Selector    string        `mapstructure:"selector"`     // which nodes are in it; role=NAME unless set
	MemberFacts []string      `mapstructure:"member_facts"` // what dependents are told of each member
	DependsOn   []string      `mapstructure:"depends_on"`   // roles, or selectors, that the nodes of this role are configured from
	Action      string        `mapstructure:"action"`       // the action that DependsOn is for; all of a node's unless set
	GoneAfter   time.Duration `mapstructure:"gone_after"`   // of this role's nodes; the cluster's unless set
	MinMembers  int           `mapstructure:"min_members"`  // with fewer its dependents are not kicked
	Budget      Budget        `mapstructure:"budget"`       // runs in progress on its nodes, at most: a number, or a percentage of them; 10% unless set
	Mode        string        `mapstructure:"mode"`         // one of the Mode constants, for the actions of this role's nodes; the cluster's unless set
}

// What becomes of removals that the guard does not believe.
const (
	GuardOn     = "on"     // they are held
	GuardShadow = "shadow" // they are told of, and let pass
)

// What becomes of a verdict that waits for nothing else.
const (
	ModeAct     = "act"     // it is carried out
	ModeObserve = "observe" // it is shown
)

// DefaultMemberFacts is what dependents are told of a member unless its role says otherwise.
var DefaultMemberFacts = []string{"ipaddress", "port"}

// BackoffConfig spaces the tries of a failing action: exponential, with jitter.
type BackoffConfig struct {
	Initial time.Duration `mapstructure:"initial"`
	Max     time.Duration `mapstructure:"max"`
}

// DefaultConfig is the settings that a controller has unless told otherwise.
func DefaultConfig() Config {
	return Config{
		Cluster:   "main",
		GoneAfter: 10 * time.Second,
		Settle:    time.Second,
		SettleMin: 5 * time.Second,
		SettleMax: time.Minute,
		Backoff:   BackoffConfig{Initial: 5 * time.Second, Max: 10 * time.Minute},
		InFlight:  256,
		Guard:     GuardOn,
		Mode:      ModeAct,
	}
}
