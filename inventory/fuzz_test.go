package inventory

import (
	"testing"
	"time"
)

// FuzzTake hands to an inventory whatever two messages decode to: they are refused or taken in, and what is there agrees afterwards.
func FuzzTake(f *testing.F) {
	f.Add(encode(web1()), encode(web1(notReady)))
	f.Add(encode(web1()), encode(web1(ofInstance("m2"))))
	f.Add(encode(web1(backWithin(time.Minute))), encode(web1(leaving, onConn(2))))
	f.Add(encode(FactsMessage{V: Version, Node: "web1", Instance: "m1", Boot: "b1", Facts: isWeb}), encode(web1()))
	f.Add([]byte(`{"v":2,"node":"web1","instance":"i","boot":"b","next_in_ms":1,"restart_within_ms":9223372036854775807,"kick":[[[[]]]]}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		h := newHearing(t)
		for _, data := range [][]byte{first, second} {
			if b, err := decodeBeat("web1", data); err == nil {
				_, _ = h.beat(b) // refused or not: what counts is below
			}
			if m, err := decodeFacts("web1", data); err == nil {
				_, _ = h.Apply(Received{At: h.now, Facts: &m})
			}
			h.after(time.Second)
			h.canary()
		}
		for n := range h.Snapshot().All() {
			if CheckName(n.Name) != nil || n.Instance == "" || n.Boot == "" {
				t.Errorf("garbage became %+v", n)
			}
			if !n.until.IsZero() && n.until.Sub(h.now) > MaxRestart {
				t.Errorf("%s is waited for until %s", n.Name, n.until)
			}
		}
		h.after(5 * time.Minute)
		h.canary()
		if h.Snapshot().Len()+h.leases.len()+len(h.byConn)+len(h.waiting)+len(h.asked)+len(h.pending) != 0 {
			t.Errorf("something is left of %q, %q", first, second)
		}
	})
}
