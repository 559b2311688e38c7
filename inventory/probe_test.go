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

// asking asks web1, which reaches what it is told, for a second opinion.
func asking(t *testing.T, reaches func(string) bool, others []string) (reached []string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) { a.Probe = reaches })
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		reached, err = Probe(ctx, n.bus.connect(t), "main", web1Self.Node, others)
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

func TestSecondOpinionIsWhomANodeReaches(t *testing.T) {
	others := addresses(MaxTargets)
	even := func(address string) bool { return slices.Index(others, address)%2 == 0 }
	reached, err := asking(t, even, others)
	want := slices.DeleteFunc(slices.Clone(others), func(a string) bool { return !even(a) })
	if err != nil || !slices.Equal(reached, want) {
		t.Errorf("reached %q, %v; want %q", reached, err, want)
	}
}

func TestWhoReachesNobodySaysSo(t *testing.T) {
	reached, err := asking(t, func(string) bool { return false }, addresses(3))
	if err != nil || len(reached) != 0 {
		t.Errorf("reached %q, %v; want none, and that it was tried", reached, err)
	}
}

func TestNodeTriesTheConnectionsAllAtOnce(t *testing.T) {
	var took time.Duration
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, func(a *Announcer) {
			a.Probe = func(string) bool { time.Sleep(2 * time.Second); return true }
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		reached, err := Probe(ctx, n.bus.connect(t), "main", web1Self.Node, addresses(MaxTargets))
		if took = time.Since(began); err != nil || len(reached) != MaxTargets {
			t.Errorf("reached %d, %v", len(reached), err)
		}
		if beats := n.beats(t); len(beats) < 2 {
			t.Errorf("%d beats while it tried: it forgot to say that it is alive", len(beats))
		}
	})
	if took != 2*time.Second {
		t.Errorf("%d connections took %s, want the time of one", MaxTargets, took)
	}
}

func TestTooManyAreNotTried(t *testing.T) {
	tried := false
	_, err := asking(t, func(string) bool { tried = true; return true }, addresses(MaxTargets+1))
	if !errors.Is(err, context.DeadlineExceeded) || tried {
		t.Errorf("asked to reach %d: error %v, tried: %t; want no answer", MaxTargets+1, err, tried)
	}
}

func TestNobodyIsAskedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := Probe(ctx, n.bus.connect(t), "main", "web9", addresses(1))
		if !errors.Is(err, nats.ErrNoResponders) || !strings.Contains(err.Error(), "web9") || time.Since(began) > time.Second {
			t.Errorf("error %v after %s, want at once that nobody is there", err, time.Since(began))
		}
	})
}

func TestOpinionThatIsNoneIsAnError(t *testing.T) {
	for _, answer := range []string{"", "x", `{"v":1,"reached":[]}`, `{"v":2,"reached":"all"}`} {
		synctest.Test(t, func(t *testing.T) {
			var b bus
			b.start(t)
			t.Cleanup(b.stop)
			liar := b.connect(t)
			sub, err := liar.Subscribe(nodeSubject("main", "web1"), func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = sub.Unsubscribe() })
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if reached, err := Probe(ctx, b.connect(t), "main", "web1", addresses(1)); err == nil {
				t.Errorf("%q was taken for the opinion %q", answer, reached)
			}
		})
	}
}
