package controller

import (
	"testing"
	"time"
)

func TestPaceFollowsTheNumberOfNodesWithHysteresis(t *testing.T) {
	for _, step := range []struct {
		nodes int
		now   time.Duration
		want  time.Duration
	}{
		{0, time.Second, time.Second},
		{20_000, time.Second, time.Second},
		{20_001, time.Second, 2 * time.Second},
		{19_999, 2 * time.Second, 2 * time.Second},
		{16_000, 2 * time.Second, time.Second},
		{50_000, time.Second, 5 * time.Second},
		{39_000, 5 * time.Second, 5 * time.Second},
		{30_000, 5 * time.Second, 2 * time.Second},
		{1_000_000, time.Second, 10 * time.Second},
		{10, 10 * time.Second, time.Second},
	} {
		if got := paceFor(step.nodes, step.now); got != step.want {
			t.Errorf("paceFor(%d, %s) = %s, want %s", step.nodes, step.now, got, step.want)
		}
	}
}
