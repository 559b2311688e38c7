package controller

import (
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
)

func TestSyncOpensWhenTheNodesHaveReported(t *testing.T) {
	const second = time.Second // also the pace
	reported := membership.ReconnectTime + reportSplay + second
	for _, c := range []struct {
		claim        string
		now, joined  time.Duration // since it listens; joined: the last new node
		nodes        int
		withoutFacts int
		open         bool
		until        time.Duration
	}{
		{"closed until every agent had time to reconnect, report and beat", reported - 1, 0, 5, 0, false, reported},
		{"open after that", reported, 0, 5, 0, true, 0},
		{"closed while new nodes report", reported, reported - second/2, 5, 0, false, reported + second/2},
		{"open when none did for a moment", reported + second/2, reported - second/2, 5, 0, true, 0},
		{"slow nodes make longer pauses", reported + 9*second, reported + 8*second, 5, 0, false, reported + 10*second},
		{"it does not wait for ever for a cluster that is never quiet", quietAtMost, quietAtMost, 5, 0, true, 0},
		{"closed while facts are missing", reported, 0, 5, 1, false, reported + factsWait},
		{"but not for ever", reported + factsWait, 0, 5, 1, true, 0},
		{"never open without a node", time.Hour, 0, 0, 0, false, 0},
	} {
		t.Run(c.claim, func(t *testing.T) {
			l := newListening(noon)
			if c.joined > 0 {
				l.joined = in(c.joined)
			}
			effects := l.synchronise(c.nodes, c.withoutFacts, in(c.now))
			got := l.sync
			if got.Open != c.open || got.Open != (got.Why == "") || got.Open != (len(effects) == 1) {
				t.Errorf("%+v, want open: %t, and a reason if it is not", got, c.open)
			}
			if until := in(c.until); c.until > 0 && got.Until != until || c.until == 0 && !got.Until.IsZero() {
				t.Errorf("until %s, want %s", got.Until, until)
			}
		})
	}
}

func TestFactsAreWaitedForAsLongAsTheyCome(t *testing.T) {
	l := newListening(noon)
	reported := membership.ReconnectTime + reportSplay + time.Second
	for i, missing := range []int{10, 8, 9, 7, 9} { // a node that joins has not sent its facts either
		l.synchronise(10, missing, in(reported+time.Duration(i)*time.Second))
	}
	last := reported + 3*time.Second + factsWait
	if l.synchronise(10, 9, in(last-1)); l.sync.Open || l.sync.Until != in(last) {
		t.Errorf("%+v, want it closed until %s", l.sync, in(last))
	}
	if l.synchronise(10, 9, in(last)); !l.sync.Open {
		t.Errorf("%+v, though no facts have come for %s", l.sync, factsWait)
	}
}

func TestLostBusClosesSyncUntilNodesReportAnew(t *testing.T) {
	l := newListening(noon)
	l.tick(noon)
	l.tick(in(membership.ReconnectTime))
	for at := noon; !l.sync.Open; at = at.Add(inventory.CanaryEvery) {
		l.received(at)
		l.synchronise(3, 0, at)
	}
	last := l.canary
	if effects := l.tick(last.Add(busLostFrom - 1)); len(effects) != 0 || !l.sync.Open {
		t.Fatalf("%v before a canary is overdue, sync %+v", effects, l.sync)
	}
	effects := l.tick(last.Add(busLostFrom))
	if e, ok := effects[0].(api.Event); !ok || e.Kind != api.EventBusLost || l.sync.Open || !l.sync.BusLost {
		t.Fatalf("%v, sync %+v; want the bus to be lost", effects, l.sync)
	}
	if l.synchronise(3, 0, last.Add(time.Hour)); l.sync.Open {
		t.Fatal("sync opens though the bus is lost")
	}
	back := last.Add(2 * time.Hour)
	l.received(back)
	if l.sync.Open || l.sync.BusLost || !l.since.Equal(back) {
		t.Errorf("when the bus is back sync is %+v since %s, want it to wait for reports from then on", l.sync, l.since)
	}
	if effects := l.tick(back); len(effects) != 1 || effects[0] != (effect(requestReports{})) {
		t.Errorf("%v, want nodes to be asked to report", effects)
	}
}

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
