package print

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/controller/api"
	"kicker/inventory"
)

func TestStatusPrintsConsequencesBelowTheirCause(t *testing.T) {
	st := api.Status{
		Identity: api.Identity{Cluster: "main", ID: "c1", Started: noon.Add(-3 * time.Hour)},
		At:       noon, Sync: api.Sync{Open: true}, Nodes: map[inventory.Life]int{inventory.Alive: 2, inventory.Left: 1},
		Problems: []api.Problem{
			{Code: "held", Severity: api.Critical, Object: "role/web", Since: noon.Add(-30 * time.Second),
				Text: "removal of 3 members is held", Why: "3 of 5 are gone", Next: "dependents keep using them",
				Do: "if they are lost for good: kicker accept-loss role/web=3"},
			{Code: "not-ready", Severity: api.Note, Object: "node/web3", Text: "not ready", CausedBy: "held"},
			{Code: "failing", Severity: api.Note, Object: "node/lb2/reload", Text: "waits", CausedBy: "not-ready"},
			{Code: "cycle", Severity: api.Warning, Text: "the configuration was not reloaded"},
		},
	}
	want := `cluster main: 4 problems
  critical: role/web: removal of 3 members is held (began 30s ago)
      why:  3 of 5 are gone
      next: dependents keep using them
      do:   if they are lost for good: kicker accept-loss role/web=3
    note: node/web3: not ready
      note: node/lb2/reload: waits
  warning: the configuration was not reloaded
controller c1: up 3h, synced
nodes: 2 alive, 1 left
actions: none
`
	if diff := cmp.Diff(want, Status(st, noon)); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestStatusSaysThatTheControllerHangs(t *testing.T) {
	st := api.Status{Well: true, Sync: api.Sync{Open: true}, At: noon.Add(-20 * time.Second)}
	st.Identity = api.Identity{Cluster: "main", ID: "c1", Started: noon.Add(-time.Minute)}
	want := `cluster main: all is well
controller c1: up 1m, synced
the controller hangs: nothing new for 20s. Restart it
nodes: none
actions: none
`
	if diff := cmp.Diff(want, Status(st, noon)); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestExplanationSaysSinceWhenANodeIsInItsLife(t *testing.T) {
	for life, want := range map[inventory.Life]string{
		inventory.Alive:      "node/web1 is alive, first seen 2h ago.",
		inventory.Suspect:    "node/web1 became suspect 4s ago, first seen 2h ago.",
		inventory.Restarting: "node/web1 is restarting, stopped 4s ago, first seen 2h ago.",
		inventory.Left:       "node/web1 left 4s ago, first seen 2h ago.",
	} {
		n := &inventory.Node{Name: "web1", Instance: "i", Boot: "b", Life: life,
			Since: noon.Add(-4 * time.Second), Joined: noon.Add(-2 * time.Hour)}
		want += "\nIt is instance i, boot b.\nIt has no role.\nNone of its actions depends on a role.\n"
		if diff := cmp.Diff(want, Explanation(api.Explanation{Node: api.Node{Node: n}}, noon)); diff != "" {
			t.Errorf("a node that is %s (-want +got):\n%s", life, diff)
		}
	}
}
