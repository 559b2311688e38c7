package plan_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"kicker/controller/api"
	"kicker/controller/plan"
	"kicker/inventory"
)

// rollout is a cluster in which lb1 and lb2 are to be kicked with role web.
type rollout struct {
	*plan.Cluster
	plan.Situation
}

func newRollout(t interface {
	Helper()
	Fatal(...any)
}) *rollout {
	c, s, a := plan.HourOld(t)
	second := *a
	second.Node, second.Retry = "lb2", &plan.Retry{}
	s.Actions = append(s.Actions, &second)
	return &rollout{c, s}
}

// broken reports whether only one of both nodes may try the current revision of web.
func (r *rollout) broken() bool {
	gates := plan.Make(r.Situation, noon)[1].Gates
	return len(gates) == 1 && gates[0].Name == api.GateRollout
}

// flight is a run on a node with the current revision of web.
func (r *rollout) flight(node string) *plan.Flight {
	f := r.Actions[0].NewFlight("r", "", nil, noon, noon)
	f.Node = node
	return f
}

func (r *rollout) end(f *plan.Flight, succeeded bool) { r.Rollout.Ended(f, succeeded, r.Cluster.Table) }

func (r *rollout) fail(nodes ...string) {
	for _, node := range nodes {
		r.end(r.flight(node), false)
	}
}

// port gives web another revision, one for each port.
func (r *rollout) port(n int) {
	r.Member("web1", inventory.Facts{"role": "web", "port": float64(n + 1)}, noon)
	r.Publish()
}

func TestRevisionIsBrokenAfterItFailedOnThreeNodes(t *testing.T) {
	for _, test := range []struct {
		claim string
		given func(*rollout)
		want  bool
	}{
		{"it was not tried", func(*rollout) {}, false},
		{"it failed on two nodes", func(r *rollout) { r.fail("n1", "n2") }, false},
		{"it failed on three nodes", func(r *rollout) { r.fail("n1", "n2", "n3") }, true},
		{"it failed three times on two nodes", func(r *rollout) { r.fail("n1", "n2", "n1") }, false},
		{"one success clears it", func(r *rollout) {
			r.fail("n1", "n2", "n3")
			r.end(r.flight("n4"), true)
		}, false},
		{"and it may break again", func(r *rollout) {
			r.fail("n1", "n2", "n3")
			r.end(r.flight("n4"), true)
			r.fail("n1", "n2", "n3")
		}, true},
		{"a newer revision starts anew", func(r *rollout) {
			r.fail("n1", "n2", "n3")
			r.port(1)
		}, false},
		{"and breaks by itself", func(r *rollout) {
			r.fail("n1", "n2")
			r.port(1)
			r.fail("n3", "n4", "n5")
		}, true},
		{"the same members again start anew", func(r *rollout) {
			r.port(1)
			r.fail("n1", "n2", "n3")
			r.port(2)
			r.port(1)
		}, false},
		{"but a run with them counts", func(r *rollout) {
			r.port(1)
			late := r.flight("n1")
			r.port(2)
			r.port(1)
			r.fail("n2", "n3")
			r.end(late, false)
		}, true},
		{"a run with an older revision does not count", func(r *rollout) {
			late := r.flight("n1")
			r.port(1)
			r.fail("n2", "n3")
			r.end(late, false)
		}, false},
		{"nor does its success", func(r *rollout) {
			late := r.flight("n1")
			r.port(1)
			r.fail("n2", "n3", "n4")
			r.end(late, true)
		}, true},
		{"a run with a role that is forgotten does not count", func(r *rollout) {
			f := r.flight("n1")
			f.Handed = map[string]string{"db": f.Handed["web"]}
			r.fail("n2", "n3")
			r.end(f, false)
		}, false},
		{"another role's success does not clear it", func(r *rollout) {
			r.fail("n1", "n2", "n3")
			f := r.flight("n4")
			f.Handed = map[string]string{"db": f.Handed["web"]}
			r.end(f, true)
		}, true},
	} {
		t.Run(test.claim, func(t *testing.T) {
			r := newRollout(t)
			test.given(r)
			if got := r.broken(); got != test.want {
				t.Errorf("the revision is broken: %t, want %t", got, test.want)
			}
		})
	}
}

func TestCloneOfARolloutSharesNothing(t *testing.T) {
	r := newRollout(t)
	r.fail("n1", "n2")
	first := r.Rollout
	r.Rollout = first.Clone()
	r.fail("n3")
	if !r.broken() {
		t.Error("the copy lacks what failed before")
	}
	if r.Rollout = first; r.broken() {
		t.Error("what failed in the copy failed in the first one")
	}
	r.Rollout = first.Clone()
	r.end(r.flight("n4"), true)
	r.Rollout = first
	if r.fail("n3"); !r.broken() {
		t.Error("what succeeded in the copy succeeded in the first one")
	}
}

// The model is the set of nodes on which the current revision failed. Each publication and each success empties it.
func TestRolloutFollowsTheCurrentRevision(t *testing.T) {
	seen := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		r := newRollout(t)
		failed := map[string]bool{}
		port := -1 // none yet
		for range 30 {
			switch node := fmt.Sprint("n", rapid.IntRange(0, 4).Draw(t, "node")); rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				if next := rapid.IntRange(0, 2).Draw(t, "port"); next != port {
					port = next
					clear(failed)
				}
				r.port(port)
			case 1:
				r.end(r.flight(node), true)
				clear(failed)
			case 2:
				r.Situation.Rollout = r.Situation.Rollout.Clone()
			default:
				r.fail(node)
				failed[node] = true
			}
			if got, want := r.broken(), len(failed) >= 3; got != want {
				t.Fatalf("the revision is broken: %t, and it failed on %v", got, failed)
			}
			seen[r.broken()]++
		}
	})
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("the test shows too little: %v", seen)
	}
}
