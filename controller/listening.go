package controller

import (
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
)

// What a controller waits for that has just started, or may have missed messages, before it acts on what it received.
const (
	reportSplay = 500 * time.Millisecond // over which nodes spread their reports
	quiet       = time.Second            // without a node that is new
	quietAtMost = 30 * time.Second       // in a cluster where nodes join all the time
	factsWait   = 10 * time.Second       // for facts that were asked for and do not come

	// Without a canary for so long the bus counts as lost. The listener reports a gap only when it is over.
	busLostFrom = inventory.MissedAfter + 2*inventory.CanaryEvery
)

// listening decides whether the controller has received enough to act on it. It is a value: what was received and the
// time go in, effects come out.
type listening struct {
	// sync is the decision. Once open it stays so until messages may have been missed.
	sync api.Sync
	// since is when messages began to be received without a gap. synced is when sync opened after that.
	since, synced time.Time
	// canary is when the listener's own message came back last. lost is true while the next one is overdue.
	canary time.Time
	lost   bool
	// reports is when nodes are still to be asked to report.
	reports []time.Time
	// joined is when a node was received last that was not known before.
	joined time.Time
	// missing is how many nodes have not sent their facts. shrank is when they last became fewer.
	missing int
	shrank  time.Time
	// pace is the time between two heartbeats of a node.
	pace time.Duration
	// disconnects is why the broker's disconnect events are not received; empty if they are.
	disconnects string
}

func newListening(now time.Time) listening {
	l := listening{pace: time.Second}
	l.restart(now)
	return l
}

// restart begins anew: only what is received from now on counts.
func (l *listening) restart(now time.Time) {
	*l = listening{
		since: now, canary: now, reports: []time.Time{now, now.Add(membership.ReconnectTime)},
		pace: l.pace, disconnects: l.disconnects,
	}
	l.sync = l.judge(now, 0)
}

// missed begins anew because messages may have been missed, and says why.
func (l *listening) missed(why string, now time.Time) []effect {
	l.restart(now)
	return []effect{event(now, api.EventBusRestored,
		"%s: waiting for nodes to report; silence until now does not count", why)}
}

// received notes that the listener's own message came back.
// It reports whether listening began anew, because the loop was late, not the bus.
func (l *listening) received(now time.Time) (restarted bool) {
	if restarted = l.lost; restarted {
		l.restart(now)
	}
	l.canary = now
	return restarted
}

// setDisconnects notes whether the broker's disconnect events are received. While they are not, a death is noticed by
// silence.
func (l *listening) setDisconnects(why string, now time.Time) []effect {
	if why == l.disconnects {
		return nil
	}
	l.disconnects = why
	if why == "" {
		return []effect{event(now, api.EventDisconnectsRestored, "disconnect events are received again")}
	}
	return []effect{event(now, api.EventDisconnectsLost, "%s", why)}
}

// tick asks nodes to report when that is due, and notices that the bus is lost. Only when a message comes back is it
// known how long it was lost, and until then nothing must be decided.
func (l *listening) tick(now time.Time) []effect {
	var effects []effect
	for len(l.reports) > 0 && !now.Before(l.reports[0]) {
		l.reports = l.reports[1:]
		effects = append(effects, requestReports{})
	}
	if l.lost || now.Before(l.canary.Add(busLostFrom)) {
		return effects
	}
	if l.sync.Open {
		effects = append(effects, event(now, api.EventBusLost,
			"the bus does not answer: no node is removed or kicked until it does"))
	}
	l.lost = true
	l.sync = api.Sync{Why: "the bus does not answer", BusLost: true}
	return append(effects, restated{})
}

// synchronise opens sync when enough was received. nodes is how many there are, missing how many of them have not sent
// their facts.
func (l *listening) synchronise(nodes, missing int, now time.Time) []effect {
	if l.sync.Open || l.lost {
		return nil
	}
	if missing < l.missing {
		l.shrank = now
	}
	l.missing = missing
	if l.sync = l.judge(now, nodes); !l.sync.Open {
		return nil
	}
	l.synced = now
	return []effect{event(now, api.EventSynced, "synced after %s with %s",
		api.Duration(now.Sub(l.since)), api.Count(nodes, "node"))}
}

func (l *listening) judge(now time.Time, nodes int) api.Sync {
	reported := l.since.Add(membership.ReconnectTime + reportSplay + l.pace)
	calm := l.joined.Add(max(quiet, l.joined.Sub(reported)/4)) // nodes that come slowly come with longer pauses
	if calm.Before(reported) {
		calm = reported
	}
	if last := l.since.Add(quietAtMost); calm.After(last) {
		calm = last
	}
	facts := reported.Add(factsWait)
	if later := l.shrank.Add(factsWait); later.After(facts) {
		facts = later
	}
	switch {
	case now.Before(reported):
		return api.Sync{Why: "waiting for nodes to report", Until: reported}
	case nodes == 0:
		return api.Sync{Why: "no node has reported: nothing is known, so nothing is done"}
	case now.Before(calm):
		return api.Sync{Why: "nodes are still reporting for the first time", Until: calm}
	case l.missing > 0 && now.Before(facts):
		return api.Sync{Why: fmt.Sprintf("waiting for the facts of %s", api.Count(l.missing, "node")), Until: facts}
	}
	return api.Sync{Open: true}
}

// setPace follows the number of nodes. It reports whether the pace changed.
func (l *listening) setPace(nodes int) bool {
	was := l.pace
	l.pace = paceFor(nodes, was)
	return l.pace != was
}

// next is when tick has something to do.
func (l *listening) next() time.Time {
	next := api.Soonest(l.reports...)
	if l.lost {
		return next
	}
	return api.Soonest(next, l.canary.Add(busLostFrom))
}

// paces is the time between two heartbeats of a node by the number of nodes, so that the controller receives no more
// than it can read.
var paces = []struct {
	nodes int // at most
	pace  time.Duration
}{
	{20_000, time.Second},
	{40_000, 2 * time.Second},
	{100_000, 5 * time.Second},
	{1 << 62, 10 * time.Second},
}

// paceFor is the pace for so many nodes. It slows down as soon as there are too many, and speeds up when there are a
// fifth fewer, for every change of pace changes every heartbeat.
func paceFor(nodes int, now time.Duration) time.Duration {
	for _, step := range paces {
		if step.pace >= now && nodes <= step.nodes || step.pace < now && nodes <= step.nodes-step.nodes/5 {
			return step.pace
		}
	}
	return now
}
