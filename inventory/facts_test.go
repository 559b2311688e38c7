package inventory

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestFactThatTheBusWouldChangeIsAnErrorAndNamed(t *testing.T) {
	deep := any("end")
	for range 10_001 {
		deep = []any{deep}
	}
	a := NewAnnouncer(nil, web1Identity, slog.New(slog.DiscardHandler))
	setFacts(t, a, Facts{"role": "web"})
	before := a.next.Facts
	for _, c := range []struct {
		facts Facts
		want  string
	}{
		{Facts{"site": "M\xfcnchen"}, `fact "site": not valid UTF-8`},
		{Facts{"site": map[string]any{"halls": []any{"east", "s\xfcd"}}}, `fact "site": not valid UTF-8`},
		{Facts{"site": map[string]any{"h\xfcgel": 1.0}}, `fact "site": not valid UTF-8`},
		{Facts{"h\xfcgel": 1.0}, `fact "h\xfcgel": not valid UTF-8`},
		{Facts{"serial": int64(1<<53 + 1)}, "fact serial: JSON cannot carry this value unchanged"},
		{Facts{"serial": json.Number("1e3")}, "fact serial: JSON cannot carry this value unchanged"},
		{Facts{"load": math.NaN()}, "fact load: JSON cannot carry this value unchanged"},
		{Facts{"load": math.Inf(1)}, "fact load: JSON cannot carry this value unchanged"},
		{Facts{"pair": struct{ B, A string }{"b", "a"}}, "fact pair: JSON cannot carry this value unchanged"},
		{Facts{"deep": deep}, "fact deep: JSON cannot carry this value unchanged"},
		{Facts{"call": func() {}}, "fact call: JSON cannot carry this value unchanged"},
	} {
		err := a.SetFacts(c.facts)
		if err == nil || !strings.Contains(err.Error(), c.want) || a.next.Facts != before {
			t.Errorf("SetFacts = %.200v, want an error with %s and no change", err, c.want)
		}
	}
}

// TestBothEndsComputeOneDigestOfWhatIsSent sends facts of every kind of value, also of those that YAML and Go have.
func TestBothEndsComputeOneDigestOfWhatIsSent(t *testing.T) {
	kinds := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		facts := Facts{}
		for range rapid.IntRange(0, 3).Draw(t, "facts") {
			facts[drawText(t, "name")] = drawValue(t, 3)
		}
		a := NewAnnouncer(nil, web1Identity, slog.New(slog.DiscardHandler))
		if err := a.SetFacts(facts); err != nil {
			kinds["rejected"] = true
			return
		}
		kinds["sent"] = true
		m, err := decodeFacts(web1Identity.Node, a.next.facts)
		if err != nil {
			t.Fatalf("the controller rejects facts that a node sends: %v", err)
		}
		if got := m.Facts.Digest(); got != a.next.Facts {
			t.Fatalf("%#v: the node announces digest %s, the controller computes %s of %#v", facts, a.next.Facts, got, m.Facts)
		}
	})
	if !kinds["sent"] || !kinds["rejected"] {
		t.Errorf("of the draws there are only %v, want facts sent and facts rejected", kinds)
	}
}

func drawText(t *rapid.T, label string) string {
	return rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a", "\xff", "a\u2028<&>", "\ufffd", "", "\x00"})).
		Draw(t, label)
}

func drawValue(t *rapid.T, depth int) any {
	most := 7
	if depth == 0 {
		most = 5
	}
	switch rapid.IntRange(0, most).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{
			math.Copysign(0, -1), math.Inf(1), 1e21, 1e-7, 1<<53 + 1, math.MaxFloat64, 5e-324})).Draw(t, "float")
	case 3:
		return drawText(t, "text")
	case 4:
		return rapid.SampledFrom([]any{1, int64(math.MaxInt64), uint64(1 << 53), int64(-1<<53 - 1), float32(0.1),
			json.Number("1.0"), []string{"a"}, map[string]string{"b": "\xff"}, []byte("raw"), time.Unix(0, 0)}).Draw(t, "go")
	case 5:
		return rapid.Int().Draw(t, "int")
	case 6:
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "size") {
			list = append(list, drawValue(t, depth-1))
		}
		return list
	default:
		object := map[string]any{}
		for range rapid.IntRange(0, 3).Draw(t, "size") {
			object[drawText(t, "key")] = drawValue(t, depth-1)
		}
		return object
	}
}

// TestLargestMessagesPassTheBus sends what Announcer and decoder allow at most. The server and the client of the test
// have the limits of the embedded bus, which are NATS' own.
func TestLargestMessagesPassTheBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, nil)
		size := func(text int) int {
			id := web1Identity
			facts := Facts{"motd": strings.Repeat("x", text)}
			return len(encode(FactsMessage{V: Version, Node: id.Node, Instance: id.Instance, Boot: id.Boot, Facts: facts}))
		}
		largest := Facts{"motd": strings.Repeat("x", maxFacts-size(0))}
		setFacts(t, n.Announcer, largest)
		time.Sleep(2 * time.Second)
		var last message
		for _, m := range n.received(t) {
			if m.kind == "facts" {
				last = m
			}
		}
		facts, err := decodeFacts(web1Identity.Node, last.data)
		if err != nil || len(last.data) != maxFacts || facts.Facts.Digest() != largest.Digest() {
			t.Errorf("the bus delivered %d bytes of facts, want %d: %v", len(last.data), maxFacts, err)
		}
		kick := func(bytes int) json.RawMessage { return json.RawMessage(fmt.Sprintf("%q", strings.Repeat("x", bytes))) }
		n.SetKick(kick(0))
		time.Sleep(2 * time.Second)
		beats := n.beats(t)
		n.SetKick(kick(maxBeat - len(beats[len(beats)-1].data)))
		time.Sleep(2 * time.Second)
		beats = n.beats(t)
		last = beats[len(beats)-1]
		if _, err := decodeBeat(web1Identity.Node, last.data); err != nil || len(last.data) != maxBeat {
			t.Errorf("the bus delivered a heartbeat of %d bytes, want %d: %v", len(last.data), maxBeat, err)
		}
		n.SetKick(nil) // a smaller last heartbeat
	})
}
