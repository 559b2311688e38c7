package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kicker/controller/membership"
	"kicker/inventory"
)

func TestShortestCycleOfEachGroupIsFound(t *testing.T) {
	for _, test := range []struct {
		claim string
		graph map[string][]string
		want  string
	}{
		{"a chain is no cycle", map[string][]string{"lb": {"web"}, "web": {"db"}}, ""},
		{"two ways to the same role are none", map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}, ""},
		{"two roles", map[string][]string{"web": {"lb"}, "lb": {"web"}}, "lb web"},
		{"three roles, without the one that only leads there",
			map[string][]string{"a": {"c"}, "c": {"b"}, "b": {"d"}, "d": {"c"}}, "b d c"},
		{"the shortest one from the first role",
			map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"c"}}, "a b c"},
		{"one of each group", map[string][]string{"x": {"y"}, "y": {"x", "a"}, "a": {"b"}, "b": {"a"}}, "a b, x y"},
	} {
		var found []string
		for _, c := range cyclesIn(test.graph).Found {
			found = append(found, strings.Join(c.Roles, " "))
		}
		if got := strings.Join(found, ", "); got != test.want {
			t.Errorf("%s: %v has %q, want %q", test.claim, test.graph, got, test.want)
		}
	}
}

// Roles have the same number if each can be reached from the other. The model is a plain search.
func TestRolesThatReachEachOtherAreOneGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		graph := map[string][]string{}
		var names []string
		for i := range rapid.IntRange(1, 7).Draw(t, "roles") {
			names = append(names, fmt.Sprint("r", i))
		}
		for _, from := range names {
			if to := rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID[string]).Draw(t, from); len(to) > 0 {
				graph[from] = slices.DeleteFunc(slices.Sorted(slices.Values(to)), func(to string) bool { return to == from })
			}
		}
		reach := func(from, to string) bool {
			met := map[string]bool{from: true}
			for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
				for _, next := range graph[queue[0]] {
					if !met[next] {
						met[next] = true
						queue = append(queue, next)
					}
				}
			}
			return met[to]
		}
		cs := cyclesIn(graph)
		groups := map[int]bool{}
		for _, a := range names {
			for _, b := range names {
				groupA, known := cs.of[a]
				groupB, also := cs.of[b]
				together := a != b && reach(a, b) && reach(b, a)
				if got := a != b && known && also && groupA == groupB; got != together {
					t.Fatalf("%s and %s are together: %v, want %v, of %v", a, b, got, together, graph)
				}
				if together {
					groups[groupA] = true
				}
			}
		}
		if len(cs.Found) != len(groups) {
			t.Fatalf("%d cycles of %v, want %d", len(cs.Found), graph, len(groups))
		}
		for _, c := range cs.Found {
			for i, from := range c.Roles {
				if to := c.Roles[(i+1)%len(c.Roles)]; !slices.Contains(graph[from], to) {
					t.Fatalf("%v is no cycle of %v", c.Roles, graph)
				}
			}
		}
	})
}

func TestRolesDependOnWhatTheActionsOfTheirNodesDependOn(t *testing.T) {
	c := NewCluster(t, membership.RoleConfig{Name: "big", Selector: "cpus=16"})
	c.Needs("site=a")
	for _, n := range []struct{ name, role, site string }{{"web1", "web", "a"}, {"lb1", "lb", "b"}, {"db1", "db", "b"}} {
		c.Member(n.name, inventory.Facts{"role": n.role, "site": n.site, "cpus": 16.0}, noon)
	}
	actions := []*Action{
		{Key: Key{"web1", "a"}, Needs: c.Needs("lb", "web")},
		{Key: Key{"lb1", "a"}, Needs: c.Needs("site=a")},
		{Key: Key{"gone1", "a"}, Needs: c.Needs("db")},
	}
	want := map[string][]string{
		"web": {"lb"}, "site=a": {"lb", "web"}, // web1 is in both
		"lb": {"site=a"}, "big": {"lb", "site=a", "web"}, // all nodes are in big
	}
	if diff := cmp.Diff(want, dependencies(c.Table, actions)); diff != "" {
		t.Errorf("dependencies (-want +got):\n%s", diff)
	}
	found := FindCycles(c.Table, actions).Found
	if len(found) != 1 || strings.Join(found[0].Roles, " ") != "lb site=a" {
		t.Errorf("the cycles are %v, want the one of lb and site=a", found)
	}
}
