package inventory

import (
	"testing"
	"time"
)

// FuzzApply applies any two messages that can be decoded. The inventory must agree with itself afterwards.
func FuzzApply(f *testing.F) {
	f.Add(encode(web1()), encode(web1(notReady)))
	f.Add(encode(web1()), encode(web1(ofInstance("m2"))))
	f.Add(encode(web1(restartWithin(time.Minute))), encode(web1(leaving, onConn(2))))
	f.Add(encode(FactsMessage{V: Version, Node: "web1", Instance: "m1", Boot: "b1", Facts: isWeb}), encode(web1()))
	f.Add([]byte(`{"v":2,"node":"web1","instance":"i","boot":"b","next_in_ms":1,`+
		`"restart_within_ms":9223372036854775807,"kick":[[[[]]]]}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		h := newTimeline(t)
		for _, data := range [][]byte{first, second} {
			if b, err := decodeBeat("web1", data); err == nil {
				_, _ = h.beat(*b) // may be rejected
			}
			if m, err := decodeFacts("web1", data); err == nil {
				_, _ = h.Apply(Received{At: h.now, Facts: m})
			}
			h.after(time.Second)
			h.canary()
		}
		for n := range h.Snapshot().All() {
			if CheckName(n.Name) != nil || n.Instance == "" || n.Boot == "" {
				t.Errorf("an invalid message became %+v", n)
			}
		}
		for name, deadline := range h.deadlines() {
			if deadline.Sub(h.now) > MaxRestart {
				t.Errorf("the deadline of %s is %s", name, deadline)
			}
		}
		h.after(5 * time.Minute)
		h.canary()
		if count(h.Snapshot())+len(h.leases.byNode)+len(h.byConn)+len(h.missingFacts)+len(h.earlyFacts) != 0 {
			t.Errorf("entries are left after %q, %q", first, second)
		}
	})
}
