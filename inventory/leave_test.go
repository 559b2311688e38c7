package inventory

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressForThousandsOfDependentsFitsIntoAMessage(t *testing.T) {
	for claim, text := range map[string]string{
		"plain": "more changes may follow", "long": strings.Repeat("web1.example.com ", 1000),
		"escaped": strings.Repeat("<\x00>", 1000), "wide": strings.Repeat("é", 1000),
	} {
		t.Run(claim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNode(t, nil)
				n.restAfterBeat(t)
				n.do(t, OrderLeave(n.spy.nc, "main", n.identity.Node, "", false))
				synctest.Wait()
				status := LeaveStatus{Received: true, Why: text, Rejected: ""}
				gates := make([]Wait, 12)
				for i := range gates {
					gates[i] = Wait{Name: "unknown role", Why: text, Left: 1 << 40, Person: true}
				}
				for i := range 2000 {
					name := fmt.Sprintf("lb%04d.%s", i, strings.Repeat("x", 245))
					status.Waiting = append(status.Waiting, Blocker{name, strings.Repeat("a", 64), gates})
				}
				n.do(t, TellLeaving(n.spy.nc, "main", n.identity.Node, "", status))
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				got, err := RequestLeave(ctx, n.spy.nc, "main", n.identity.Node, false)
				if err != nil || len(got.Waiting)+got.More != 2000 || len(got.Waiting) == 0 || len(got.Waiting) > MaxBlockers {
					t.Fatalf("%d blockers and %d more, %v; want 2000 in all", len(got.Waiting), got.More, err)
				}
				if size := len(encode(Order{Status: &got})); size > maxMessage/2+1024 {
					t.Errorf("the message has %d bytes", size)
				}
			})
		})
	}
}

func TestOrderedNodeStaysAwayUntilAnotherRunOfItsAgent(t *testing.T) {
	byAgent := func(agent string) func(*Beat) { return func(b *Beat) { b.Agent = agent } }
	for _, tt := range []struct {
		claim string
		play  func(h *timeline)
		want  Life // "": gone
	}{
		{"its agent goes on", func(h *timeline) { h.beats(web1(byAgent("a1"))) }, Left},
		{"its agent reconnects", func(h *timeline) { h.beats(web1(byAgent("a1"), onConn(2))) }, Left},
		{"its agent restarts", func(h *timeline) { h.beats(web1(byAgent("a1"), restartWithin(time.Minute))) }, Left},
		{"another run of its agent reports", func(h *timeline) { h.beats(web1(byAgent("a2"), onConn(2))) }, Alive},
		{"and the first one too late", func(h *timeline) {
			h.beats(web1(byAgent("a2"), onConn(2)), web1(byAgent("a2"), onConn(2), leaving), web1(byAgent("a3"), onConn(3)))
		}, Alive},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			h := newTimeline(t)
			h.beats(web1(byAgent("a1")))
			change, there := h.Leave("web1", h.now)
			if !there || change.After.Life != Left || change.Before.Life != Alive {
				t.Fatalf("the order changed %+v, %t", change, there)
			}
			tt.play(h)
			n := h.node("web1")
			if n == nil || n.Life != tt.want {
				t.Errorf("the node is %+v, want %s", n, tt.want)
			}
		})
	}
}
