package controller

import "time"

// paces is the time between two beats of a node by the number of nodes: so many beats a second are as many as one controller should have
// to hear. gone_after follows where it would be less than 3.5 beats.
var paces = []struct {
	nodes int // at most
	pace  time.Duration
}{
	{20_000, time.Second},
	{40_000, 2 * time.Second},
	{100_000, 5 * time.Second},
	{1 << 62, 10 * time.Second},
}

// paceFor is the pace for so many nodes. It is lowered as soon as there are too many, and raised again when there are a fifth fewer:
// every change changes every heartbeat.
func paceFor(nodes int, now time.Duration) time.Duration {
	for _, step := range paces {
		if step.pace >= now && nodes <= step.nodes || step.pace < now && nodes <= step.nodes-step.nodes/5 {
			return step.pace
		}
	}
	return now
}
