package membership_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"kicker/controller/membership"
	"kicker/inventory"
)

func TestDependencyCanBeNarrowedToSharedFacts(t *testing.T) {
	tab := newTable(t)
	for name, facts := range map[string]inventory.Facts{
		"a": {"role": "web", "env": "prod", "site": map[string]any{"name": "x"}},
		"b": {"role": "web", "env": "prod", "site": map[string]any{"name": "y"}},
		"c": {"role": "web", "env": "test", "site": map[string]any{"name": "x"}},
	} {
		tab.apply(nil, eligible(name, facts), noon)
	}
	lb := inventory.Facts{"role": "lb", "env": "prod", "site": map[string]any{"name": "x"}}
	need, err := tab.Resolve("web same=env, site.name", lb, tab.nodes, noon)
	if err != nil {
		t.Fatal(err)
	}
	if need.As != "web same=env,site.name" || need.Shared != "env=prod,site.name=x" || need.Role.Name != "web where env=prod,site.name=x" {
		t.Errorf("%+v of role %s", need, need.Role.Name)
	}
	again, err := tab.Resolve("web same=site.name,env", lb, tab.nodes, noon)
	if err != nil || again.Role != need.Role || !need.Role.Implicit() {
		t.Errorf("the same facts in another order are role %s (%v)", again.Role.Name, err)
	}
	tab.apply(nil, eligible("d", inventory.Facts{"role": "web", "env": "prod", "site": map[string]any{"name": "x"}}), noon)
	if tab.publish(); members(need.Role) != "d" { // the others are not in the empty inventory that Resolve was given
		t.Errorf("the members are %q, want d", members(need.Role))
	}
}

func TestWrongDependencyIsRejected(t *testing.T) {
	for text, want := range map[string]string{
		"d b":               `role "d b": ' ' is not allowed`,
		"a=":                `selector "a=", at its end`,
		"web same=":         `write names of facts after same=`,
		"web same=env,":     `write names of facts after same=`,
		"web same=env=prod": `write names of facts after same=`,
		"web same=env":      `depends_on "web same=env": the node itself has no fact env`,
	} {
		tab := newTable(t)
		need, err := tab.Resolve(text, inventory.Facts{}, tab.nodes, noon)
		if err == nil || !strings.Contains(err.Error(), want) || need.Role != nil {
			t.Errorf("%q: %+v, %v; want an error with %q", text, need, err, want)
		}
	}
}

func TestConfigurationOfARoleIsForTheNodesThatHaveIt(t *testing.T) {
	tab := newTable(t,
		membership.RoleConfig{Name: "web", GoneAfter: time.Minute, DependsOn: []string{"db"}},
		membership.RoleConfig{
			Name: "front", Selector: "tier=front", GoneAfter: 5 * time.Second, DependsOn: []string{"x"}, Action: "reload",
		},
		membership.RoleConfig{Name: "slow", GoneAfter: time.Hour},
	)
	tab.apply(nil, eligible("a", inventory.Facts{"role": []any{"web", "slow"}, "tier": "front"}), noon)
	tab.apply(nil, eligible("b", inventory.Facts{"role": []any{"web", "slow"}}), noon)
	tab.apply(nil, eligible("c", inventory.Facts{"role": "other"}), noon)
	for node, want := range map[string]struct {
		gone            time.Duration
		reload, restart string
	}{
		"a": {5 * time.Second, "db x", "db"},
		"b": {time.Minute, "db", "db"},
		"c": {inventory.DefaultGoneAfter, "", ""},
	} {
		if got := tab.GoneAfter(node); got != want.gone {
			t.Errorf("%s is gone after %s, want %s", node, got, want.gone)
		}
		for action, want := range map[string]string{"reload": want.reload, "restart": want.restart} {
			if got := tab.DependsOn(node, action); !slices.Equal(got, strings.Fields(want)) {
				t.Errorf("%s/%s depends on %q, want %q", node, action, got, want)
			}
		}
	}
}

func TestBudgetIsANumberOrAPercentageOfNodes(t *testing.T) {
	for _, c := range []struct {
		budget     membership.Budget
		size, want int
	}{
		{"1", 100, 1}, {"7", 3, 7}, {"10%", 1, 1}, {"10%", 10, 1}, {"10%", 11, 2}, {"100%", 5, 5}, {"50%", 0, 1},
		{"", 5, 0}, {"0", 5, 0}, {"0%", 5, 0}, {"101%", 5, 0}, {"x", 5, 0}, {"5 %", 5, 0},
	} {
		if got, err := c.budget.Of(c.size); got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("budget %q of %d nodes: %d, %v; want %d", c.budget, c.size, got, err, c.want)
		}
	}
}
