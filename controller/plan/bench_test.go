package plan_test

import (
	"fmt"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

// The verdicts on 10 000 actions that depend on 50 roles, of which 100 are stale.
func BenchmarkMake(b *testing.B) {
	const nodes, roles = 10_000, 50
	c := plan.NewCluster(b)
	role := func(i int) string { return fmt.Sprint("role", i%roles) }
	s := plan.Situation{Config: plan.DefaultConfig, Sync: api.Sync{Open: true}, Table: c.Table, Rollout: plan.Rollout{}}
	for i := range nodes {
		node := fmt.Sprint("node", i)
		c.Member(node, inventory.Facts{"role": role(i), "ipaddress": "192.0.2.1", "port": float64(i)}, ago(time.Hour))
		s.Actions = append(s.Actions, &plan.Action{
			Key: plan.Key{Node: node, Action: "reload"}, Needs: c.Needs(role(i + 1)), Retry: &plan.Retry{},
		})
	}
	c.Publish()
	for i, a := range s.Actions {
		need := a.Needs[0]
		a.Status.Applied = revisions{need.As: need.Role.Current().Revision}
		if i%100 == 0 {
			a.Status.Applied = revisions{need.As: kick.Revision{Hash: "1-old"}}
		}
		a.Track(true, nil, plan.Cycles{}, c.Table, ago(time.Hour))
	}
	pending := 0
	for _, v := range plan.Make(s, noon) {
		if v.State == api.Pending {
			pending++
		}
	}
	if pending != nodes/100 {
		b.Fatalf("%d actions are pending, want %d", pending, nodes/100)
	}
	b.ReportAllocs()
	for b.Loop() {
		plan.Make(s, noon)
	}
}
