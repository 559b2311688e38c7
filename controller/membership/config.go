package membership

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Config says which roles there are and when a removal is held.
type Config struct {
	Roles     []RoleConfig
	GoneAfter time.Duration // silence after which a node is gone, for roles that name no time of their own
	Shadow    bool          // holds are shown and not enforced
}

// RoleConfig adds a role, or overrides what the nodes report of it.
type RoleConfig struct {
	Name        string        `mapstructure:"name"`
	Selector    string        `mapstructure:"selector"`     // which nodes have it; role=NAME unless set
	MemberFacts []string      `mapstructure:"member_facts"` // facts that its dependents get; one that ends in ? is optional
	DependsOn   []string      `mapstructure:"depends_on"`   // roles, or selectors, that the nodes of this role depend on
	Action      string        `mapstructure:"action"`       // the action that DependsOn is for; all of a node's unless set
	GoneAfter   time.Duration `mapstructure:"gone_after"`   // silence after which a node is gone; the cluster's unless set
	MinMembers  int           `mapstructure:"min_members"`  // with fewer members its dependents are not kicked
	Budget      Budget        `mapstructure:"budget"`       // most runs at once on its nodes; 10% unless set
	Mode        string        `mapstructure:"mode"`         // act or observe, for its nodes; the cluster's unless set
}

// DefaultMemberFacts is which facts of a member its dependents get, unless its role or they say otherwise.
var DefaultMemberFacts = []string{"ipaddress", "port"}

// DefaultMinMembers is the least members of a role that its dependents are kicked with, unless its configuration says
// otherwise: an empty list is never handed out by mistake.
const DefaultMinMembers = 1

// Budget is a number of runs, or a percentage of a role's nodes.
type Budget string

// DefaultBudget is how many of a role's nodes may have a run at once, unless its configuration says otherwise.
const DefaultBudget Budget = "10%"

// Of is how many runs a budget allows for a role of that size: at least 1.
func (b Budget) Of(size int) (int, error) {
	number, percent := strings.CutSuffix(string(b), "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || percent && n > 100 {
		return 0, fmt.Errorf("budget %q: want a number of runs from 1, or a percentage such as %s", b, DefaultBudget)
	}
	if percent {
		n = max(1, (size*n+99)/100)
	}
	return n, nil
}

// CheckRole reports why name is no role's name: it has 1 to 128 characters of [A-Za-z0-9_.:-].
func CheckRole(name string) error {
	if name == "" || len(name) > 128 {
		return fmt.Errorf("role %.20q: must have 1 to 128 characters", name)
	}
	for _, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && !('0' <= c && c <= '9') && strings.IndexByte("_.:-", c) < 0 {
			return fmt.Errorf("role %q: %q is not allowed, only letters, digits and _ . : -", name, c)
		}
	}
	return nil
}
