package controller

import (
	"testing"
	"time"

	"kicker/inventory"
)

func TestSyncGate(t *testing.T) {
	const second = time.Second // also the pace
	heardAll := reconnectTime + rollcallSplay + second
	for _, c := range []struct {
		claim        string
		now, joined  time.Duration // since it listens; joined: the last new node
		nodes        int
		withoutFacts int
		open         bool
		until        time.Duration
	}{
		{"closed until every agent had the time to reconnect, answer and beat", heardAll - 1, 0, 5, 0, false, heardAll},
		{"open when they had", heardAll, 0, 5, 0, true, 0},
		{"closed while new nodes are being heard", heardAll, heardAll - second/2, 5, 0, false, heardAll + second/2},
		{"open when none was for a moment", heardAll + second/2, heardAll - second/2, 5, 0, true, 0},
		{"a cluster that is never quiet is not waited for for ever", quietAtMost, quietAtMost, 5, 0, true, 0},
		{"closed while facts are missing", heardAll, 0, 5, 1, false, heardAll + factsAtMost},
		{"though not for ever", heardAll + factsAtMost, 0, 5, 1, true, 0},
		{"never open when nobody is heard", time.Hour, 0, 0, 0, false, 0},
	} {
		t.Run(c.claim, func(t *testing.T) {
			g := syncGate{since: noon}
			if c.joined > 0 {
				g.heard(inventory.Change{}, in(c.joined))
				g.heard(inventory.Change{Before: &inventory.Node{}}, in(c.joined+time.Minute)) // no new node
			}
			got := g.judge(in(c.now), second, c.nodes, c.withoutFacts)
			if got.Open != c.open || got.Open != (got.Why == "") {
				t.Errorf("%+v, want open: %t, and a reason if it is not", got, c.open)
			}
			if until := in(c.until); c.until > 0 && got.Until != until || c.until == 0 && !got.Until.IsZero() {
				t.Errorf("until %s, want %s", got.Until, until)
			}
		})
	}
}
