package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	benchNodes = 1000
	benchBeats = 200_000 // in a round
	benchBurst = 10_000  // heartbeats, then a mark that shows the publisher how far the receiver is
	benchAhead = 4       // bursts that the publisher is ahead, so few that the client drops none
)

// One operation is a round of raw and a round of kicker: the rates are the medians of all rounds, and ratio is the
// median of the rounds' ratios. Run it with -benchtime 9x or more.
func BenchmarkUnchangedHeartbeats(b *testing.B) {
	for _, size := range []int{64, 300} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true,
				NoSigs: true})
			if err != nil {
				b.Fatal(err)
			}
			go srv.Start() // until Shutdown
			defer srv.WaitForShutdown()
			defer srv.Shutdown()
			if !srv.ReadyForConnections(10 * time.Second) {
				b.Fatal("the server is not up")
			}
			var raw, kicker, ratio []float64
			for b.Loop() {
				r := dropHeartbeats(b, srv.ClientURL(), size)
				k := listenToHeartbeats(b, srv.ClientURL(), size)
				raw, kicker, ratio = append(raw, r), append(kicker, k), append(ratio, k/r)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(raw), "raw/s")
			b.ReportMetric(median(kicker), "kicker/s")
			b.ReportMetric(median(ratio), "ratio")
		})
	}
}

// dropHeartbeats measures how many heartbeats a second reach a subscriber that drops them.
func dropHeartbeats(b *testing.B, url string, size int) float64 {
	nc := benchConnect(b, url)
	defer nc.Close()
	marks := make(chan struct{}, benchBeats)
	n := 0
	if _, err := nc.Subscribe(heartbeatSubject("main", ">"), func(*nats.Msg) {
		if n++; n%(benchBurst+1) == 0 {
			marks <- struct{}{}
		}
	}); err != nil {
		b.Fatal(err)
	}
	return publishHeartbeats(b, url, nc, size, marks)
}

// listenToHeartbeats measures how many unchanged heartbeats a second Listen receives.
func listenToHeartbeats(b *testing.B, url string, size int) float64 {
	nc := benchConnect(b, url)
	defer nc.Close()
	ctx, cancel := context.WithCancel(context.Background())
	inv, out, done := New(), make(chan Received), make(chan error, 1)
	for i := range benchNodes {
		name := benchName(i)
		inv.leases.byNode[name] = &lease{beat: benchBeat(name, size), received: time.Now(), next: time.Second}
	}
	marks := make(chan struct{}, benchBeats)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for {
			select {
			case h := <-out:
				switch {
				case h.Invalid != nil: // the mark is no valid heartbeat
					marks <- struct{}{}
				case !h.Canary:
					b.Errorf("received %+v, though no node says anything new", h)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() { done <- Listen(ctx, nc, "main", "bench", inv, out) }()
	for nc.NumSubscriptions() < 2 {
		time.Sleep(time.Millisecond) // until Listen has subscribed
	}
	rate := publishHeartbeats(b, url, nc, size, marks)
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	<-drained
	return rate
}

// publishHeartbeats measures how many heartbeats a second go from one connection to listener, which sends each mark to
// marks.
func publishHeartbeats(b *testing.B, url string, listener *nats.Conn, size int, marks <-chan struct{}) float64 {
	if err := listener.Flush(); err != nil {
		b.Fatal(err)
	}
	nc := benchConnect(b, url)
	defer nc.Close()
	var subjects []string
	var beats [][]byte
	for i := range benchNodes {
		subjects = append(subjects, heartbeatSubject("main", benchName(i)))
		beats = append(beats, benchBeat(benchName(i), size))
	}
	publish := func(subject string, data []byte) {
		if err := nc.Publish(subject, data); err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	for i := range benchBeats {
		publish(subjects[i%benchNodes], beats[i%benchNodes])
		if (i+1)%benchBurst == 0 {
			publish(heartbeatSubject("main", "mark"), nil)
			if i/benchBurst >= benchAhead {
				<-marks
			}
		}
	}
	for range benchAhead {
		<-marks
	}
	return benchBeats / time.Since(began).Seconds()
}

func benchConnect(b *testing.B, url string) *nats.Conn {
	fail := func(_ *nats.Conn, _ *nats.Subscription, err error) { b.Error(err) }
	nc, err := nats.Connect(url, nats.ErrorHandler(fail))
	if err != nil {
		b.Fatal(err)
	}
	return nc
}

func benchName(i int) string { return fmt.Sprintf("web%04d.example.com", i) }

// benchBeat is a heartbeat of that size; a small one is cut off.
func benchBeat(name string, size int) []byte {
	beat := Beat{
		V: Version, Node: name, Instance: uuid, Boot: bootID, Conn: Conn{Server: "NSERVER", Client: 42},
		Facts: "4d7fde67f16e56b09f05a758", Ready: true, NextIn: 1000, Kick: json.RawMessage(`""`),
	}
	if missing := size - len(encode(beat)); missing > 0 {
		beat.Kick = json.RawMessage(`"` + strings.Repeat("k", missing) + `"`)
	}
	return encode(beat)[:size]
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// A changed heartbeat writes a row.
func BenchmarkChangedHeartbeat(b *testing.B) {
	for _, nodes := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			inv := New()
			apply := func(i int, ready bool) {
				beat := Beat{
					V: Version, Node: benchName(i), Instance: "bench", Boot: "bench",
					Conn: Conn{Server: "bench", Client: uint64(i)}, Ready: ready, NextIn: 1000,
				}
				if _, err := inv.Apply(Received{At: time.Now(), Beat: &beat}); err != nil {
					b.Fatal(err)
				}
			}
			for i := range nodes {
				apply(i, true)
			}
			for i := 0; b.Loop(); i++ {
				apply(i%nodes, i/nodes%2 == 1)
			}
		})
	}
}
