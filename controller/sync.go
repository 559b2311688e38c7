package controller

import (
	"fmt"
	"time"

	"kicker/inventory"
)

// What the sync gate waits for before a controller that has just started, or was blind, acts on what it heard.
const (
	rollcallSplay = 500 * time.Millisecond
	reconnectTime = 2200 * time.Millisecond // by then every agent has reconnected to a bus that was restarted
	quiet         = time.Second             // without a node that was not heard before
	quietAtMost   = 30 * time.Second        // a cluster where nodes join all the time is never quiet
	factsAtMost   = 10 * time.Second        // for facts that were asked for and don't come
)

// syncGate keeps what Sync is judged from.
type syncGate struct {
	since  time.Time // listening, and not blind, since
	joined time.Time // the last node that was not heard before
}

// judge says whether the gate is open. Once open it stays open until the controller was blind.
func (g syncGate) judge(now time.Time, pace time.Duration, nodes, withoutFacts int) Sync {
	heardAll := g.since.Add(reconnectTime + rollcallSplay + pace)
	calm := g.joined.Add(quiet)
	if calm.Before(heardAll) {
		calm = heardAll
	}
	if last := g.since.Add(quietAtMost); calm.After(last) {
		calm = last
	}
	switch {
	case now.Before(heardAll):
		return Sync{Why: "calling the roll", Until: heardAll}
	case nodes == 0:
		return Sync{Why: "no node is heard: nothing is known, so nothing is done"}
	case now.Before(calm):
		return Sync{Why: "nodes are still being heard for the first time", Until: calm}
	case withoutFacts > 0 && now.Before(heardAll.Add(factsAtMost)):
		return Sync{Why: fmt.Sprintf("%d nodes were asked for their facts", withoutFacts), Until: heardAll.Add(factsAtMost)}
	}
	return Sync{Open: true}
}

// heard takes in that a node joined.
func (g *syncGate) heard(c inventory.Change, now time.Time) {
	if c.Before == nil {
		g.joined = now
	}
}
