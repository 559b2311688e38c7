package controller

import (
	"time"

	"kicker/controller/membership"
	"kicker/controller/plan"
)

// Config is the controller's settings. DefaultConfig says what each is unless set.
type Config struct {
	Cluster     string                  `mapstructure:"cluster"`
	Roles       []membership.RoleConfig `mapstructure:"roles"`
	GoneAfter   time.Duration           `mapstructure:"gone_after"` // silence that ends a node; at least 3.5 heartbeats
	plan.Config `mapstructure:",squash"`
	Standby     bool   `mapstructure:"standby"` // wait until no other controller leads, instead of ending
	Guard       string `mapstructure:"guard"`   // one of the Guard constants
}

// What happens to removals that the guard holds.
const (
	GuardOn     = "on"     // the members stay
	GuardShadow = "shadow" // the hold is shown and not enforced
)

// DefaultConfig is the settings that a controller has unless they are configured.
func DefaultConfig() Config {
	return Config{
		Cluster:   "main",
		GoneAfter: 10 * time.Second,
		Config: plan.Config{
			Settle:    time.Second,
			SettleMin: 5 * time.Second,
			SettleMax: time.Minute,
			Backoff:   plan.BackoffConfig{Initial: 5 * time.Second, Max: 10 * time.Minute},
			InFlight:  256,
			RunAtMost: time.Hour,
			Mode:      plan.ModeAct,
		},
		Guard: GuardOn,
	}
}

func (c Config) membership() membership.Config {
	return membership.Config{Roles: c.Roles, GoneAfter: c.GoneAfter, Shadow: c.Guard == GuardShadow}
}
