package controller

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"kicker/controller/api"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

const (
	benchNodes = 10_000
	benchRoles = 50
)

// newBench is a controller that knows nodes in roles, each of which depends on the next role and has applied it.
func newBench(b *testing.B) (c *Controller, beat func(i, epoch int) inventory.Received) {
	b.Helper()
	role := func(i int) string { return fmt.Sprintf("role%d", i%benchRoles) }
	c, err := New(DefaultConfig(), "bench", inventory.New(), Bus{
		Send: func(context.Context, kick.Kick) (kick.Reply, error) {
			b.Error("all is applied, and a node was kicked")
			return kick.Reply{}, nil
		},
		Ask: func(string, string) {}, RequestReports: func(time.Duration) {}, Beacon: func(string, int64, time.Duration) {},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	facts := make([]inventory.FactsMessage, benchNodes)
	for i := range facts {
		facts[i] = inventory.FactsMessage{
			Node: fmt.Sprintf("node%d", i), Instance: "bench", Boot: "bench",
			Facts: inventory.Facts{"role": role(i), "ipaddress": "192.0.2.1", "port": float64(i%65535 + 1)},
		}
	}
	applied := map[string]kick.Revision{}
	beat = func(i, epoch int) inventory.Received {
		status := fmt.Sprintf(`{"epoch":%d,"controller":"bench"}`, epoch)
		if needed := role(i + 1); applied[needed].Hash != "" {
			status = fmt.Sprintf(`{"epoch":%d,"controller":"bench","actions":[{"name":"reload","depends_on":[%q],"applied":{%q:{"hash":%q}}}]}`,
				epoch, needed, needed, applied[needed].Hash)
		}
		return inventory.Received{At: time.Now(), Beat: &inventory.Beat{
			Node: facts[i].Node, Instance: "bench", Boot: "bench", Conn: inventory.Conn{Server: "bench", Client: uint64(i)},
			Facts: facts[i].Facts.Digest(), Ready: true, NextIn: 1000, Kick: []byte(status),
		}}
	}
	for i := range facts {
		c.ingest(inventory.Received{At: time.Now(), Facts: &facts[i]})
		c.ingest(beat(i, 1))
	}
	c.listening.sync = api.Sync{Open: true}
	c.table.Recover(c.inv.Snapshot(), c.reports(), time.Now())
	c.publish(time.Now())
	for _, r := range c.table.Roles() {
		applied[r.Name] = r.Current().Revision
	}
	for i := range facts {
		c.ingest(beat(i, 2))
	}
	c.turn(b.Context(), true, time.Now())
	if n := len(c.views.current.Load().Verdicts); n != benchNodes {
		b.Fatalf("%d verdicts, want %d", n, benchNodes)
	}
	return c, beat
}

// The verdicts of 10 000 nodes that need 50 roles.
func BenchmarkPlan(b *testing.B) {
	c, _ := newBench(b)
	now := time.Now()
	s := c.situation(now)
	for b.Loop() {
		plan.Make(s, now)
	}
}

// All that follows from one heartbeat that says something new.
func BenchmarkTurn(b *testing.B) {
	c, beat := newBench(b)
	for epoch := 3; b.Loop(); epoch++ {
		c.ingest(beat(epoch%benchNodes, epoch))
		c.turn(b.Context(), true, time.Now())
	}
}
