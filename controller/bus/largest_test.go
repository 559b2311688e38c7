package bus

import (
	"context"
	"sort"
	"strings"
	"testing"

	"kicker/inventory"
)

// TestBusTakesTheLargestFactsAndHeartbeats sends as many facts as an Announcer accepts, over TCP.
func TestBusTakesTheLargestFactsAndHeartbeats(t *testing.T) {
	b := start(t, Config{Listen: "127.0.0.1:0"})
	node, controller := connected(t, b, ""), connected(t, b, "")
	facts, err := controller.SubscribeSync("kicker.main.facts.>")
	if err != nil {
		t.Fatal(err)
	}
	beats, err := controller.SubscribeSync("kicker.main.heartbeat.>")
	if err != nil {
		t.Fatal(err)
	}
	flushed(t, controller)
	name := strings.Repeat("n", 253)
	a := inventory.NewAnnouncer(node, inventory.Identity{Cluster: "main", Node: name, Instance: "i", Boot: "b"}, noLog)
	tooMany := func(n int) bool { return a.SetFacts(inventory.Facts{"motd": strings.Repeat("x", n)}) != nil }
	most := sort.Search(4<<20, tooMany) - 1
	if tooMany(most) || most < 900<<10 {
		t.Fatalf("the largest fact has %d bytes", most)
	}
	a.SetKick([]byte(`"` + strings.Repeat("x", 767<<10) + `"`))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	if m, err := facts.NextMsg(patience); err != nil || len(m.Data) < most {
		t.Errorf("the facts did not arrive: %v", err)
	}
	if m, err := beats.NextMsg(patience); err != nil || len(m.Data) < 767<<10 {
		t.Errorf("the heartbeat did not arrive: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := node.MaxPayload(); got < int64(most) {
		t.Errorf("the bus takes %d bytes", got)
	}
}
