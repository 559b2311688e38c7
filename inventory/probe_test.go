package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// probing probes targets from web1, for which accepts says which ones accept a connection.
func probing(t *testing.T, accepts func(string) bool, targets []string) (reached []string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) { a.Probe = accepts })
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		reached, err = Probe(ctx, n.bus.connect(t), "main", web1Identity.Node, targets)
	})
	return reached, err
}

func addresses(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("10.0.0.%d:80", i))
	}
	return all
}

func TestProbeReturnsTheTargetsThatAccept(t *testing.T) {
	targets := addresses(MaxTargets)
	even := func(address string) bool { return slices.Index(targets, address)%2 == 0 }
	reached, err := probing(t, even, targets)
	want := slices.DeleteFunc(slices.Clone(targets), func(a string) bool { return !even(a) })
	if err != nil || !slices.Equal(reached, want) {
		t.Errorf("reached %q, %v; want %q", reached, err, want)
	}
}

func TestProbeCanReachNoTarget(t *testing.T) {
	reached, err := probing(t, func(string) bool { return false }, addresses(3))
	if err != nil || len(reached) != 0 {
		t.Errorf("reached %q, %v; want none and no error", reached, err)
	}
}

func TestProbeConnectsToAllTargetsAtOnce(t *testing.T) {
	var took time.Duration
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) {
			a.Probe = func(string) bool { time.Sleep(2 * time.Second); return true }
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		reached, err := Probe(ctx, n.bus.connect(t), "main", web1Identity.Node, addresses(MaxTargets))
		if took = time.Since(began); err != nil || len(reached) != MaxTargets {
			t.Errorf("reached %d, %v", len(reached), err)
		}
		if beats := n.beats(t); len(beats) < 2 {
			t.Errorf("%d heartbeats during the probe, want at least 2", len(beats))
		}
	})
	if took != 2*time.Second {
		t.Errorf("%d connections took %s, want the time of one", MaxTargets, took)
	}
}

func TestTooManyTargetsAreNotProbed(t *testing.T) {
	tried := false
	_, err := probing(t, func(string) bool { tried = true; return true }, addresses(MaxTargets+1))
	if !errors.Is(err, context.DeadlineExceeded) || tried {
		t.Errorf("probe of %d targets: error %v, tried: %t; want no answer", MaxTargets+1, err, tried)
	}
}

func TestProbeFromAnUnknownNodeFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := Probe(ctx, n.bus.connect(t), "main", "web9", addresses(1))
		if !errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), "web9") || time.Since(began) > time.Second {
			t.Errorf("error %v after %s, want at once that there is no agent", err, time.Since(began))
		}
	})
}

func TestInvalidProbeReplyIsAnError(t *testing.T) {
	for _, answer := range []string{"", "x", `{"v":1,"reached":[]}`, `{"v":2,"reached":"all"}`} {
		synctest.Test(t, func(t *testing.T) {
			var b bus
			b.start(t)
			t.Cleanup(b.stop)
			nc := b.connect(t)
			sub, err := nc.Subscribe(nodeSubject("main", "web1"), func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = sub.Unsubscribe() })
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if reached, err := Probe(ctx, b.connect(t), "main", "web1", addresses(1)); err == nil {
				t.Errorf("%q was decoded as %q", answer, reached)
			}
		})
	}
}
