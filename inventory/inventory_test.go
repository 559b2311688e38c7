package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// timeline is an inventory and a clock.
type timeline struct {
	*Inventory
	t   failer
	now time.Time
	why string // of the last heartbeat that changed something
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func newTimeline(t failer) *timeline {
	return &timeline{Inventory: New(), t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func (h *timeline) apply(r Received) []Change {
	h.t.Helper()
	r.At = h.now
	changes, err := h.Apply(r)
	if err != nil {
		h.t.Fatalf("%+v: %v", r, err)
	}
	return changes
}

// beat receives a heartbeat as the listener does: one that says nothing new only renews its lease.
func (h *timeline) beat(b Beat) ([]Change, error) {
	raw := encode(b)
	if h.leases.renewSame(b.Node, raw, h.now) {
		return nil, nil
	}
	h.leases.forgetBeat(b.Node)
	changes, err := h.Apply(Received{At: h.now, Beat: &b, raw: raw})
	if len(changes) > 0 {
		h.why = changes[0].Why
	}
	return changes, err
}

func (h *timeline) beats(beats ...Beat) {
	h.t.Helper()
	for _, b := range beats {
		if _, err := h.beat(b); err != nil {
			h.t.Fatalf("%+v: %v", b, err)
		}
	}
}

func (h *timeline) canary() []Change      { h.t.Helper(); return h.apply(Received{Canary: true}) }
func (h *timeline) missed()               { h.t.Helper(); h.apply(Received{Missed: "test"}) }
func (h *timeline) after(d time.Duration) { h.now = h.now.Add(d) }
func (h *timeline) disconnect(c Conn) []Change {
	h.t.Helper()
	return h.apply(Received{Disconnect: &Disconnect{c, "client closed"}})
}
func (h *timeline) facts(b Beat, f Facts) {
	h.t.Helper()
	h.apply(Received{Facts: &FactsMessage{V: Version, Node: b.Node, Instance: b.Instance, Boot: b.Boot, Facts: f}})
}

// deadlines are those of the nodes that have one.
func (h *timeline) deadlines() map[string]time.Time {
	deadlines := map[string]time.Time{}
	for name, held := range h.leases.byNode {
		if !held.deadline.IsZero() {
			deadlines[name] = held.deadline
		}
	}
	return deadlines
}

func count(s *Snapshot) int { return len(slices.Collect(s.All())) }

// life is the life of web1, "" if it is gone.
func (h *timeline) life() Life {
	if n := h.node("web1"); n != nil {
		return n.Life
	}
	return ""
}

var (
	isWeb = Facts{"role": "web"}
	isDB  = Facts{"role": "db"}
)

// web1 is a heartbeat of the node that these tests are about, with changes.
func web1(changes ...func(*Beat)) Beat {
	b := Beat{
		V: Version, Node: "web1", Instance: "m1", Boot: "b1", Conn: Conn{"s", 1}, Facts: isWeb.Digest(),
		Ready: true, NextIn: 1000, Kick: json.RawMessage("{}"),
	}
	for _, change := range changes {
		change(&b)
	}
	return b
}

func onConn(n uint64) func(*Beat)       { return func(b *Beat) { b.Conn.Client = n } }
func ofBoot(boot string) func(*Beat)    { return func(b *Beat) { b.Boot = boot } }
func ofInstance(i string) func(*Beat)   { return func(b *Beat) { b.Instance, b.Boot = i, "b1 of "+i } }
func announcing(f Facts) func(*Beat)    { return func(b *Beat) { b.Facts = f.Digest() } }
func leaving(b *Beat)                   { b.Leaving = true }
func notReady(b *Beat)                  { b.Ready = false }
func ofNode(name string) func(*Beat)    { return func(b *Beat) { b.Node = name } }
func every(d time.Duration) func(*Beat) { return func(b *Beat) { b.NextIn = d.Milliseconds() } }
func restartWithin(d time.Duration) func(*Beat) {
	return func(b *Beat) { b.RestartWithin = d.Milliseconds() }
}

func TestLifeOfANode(t *testing.T) {
	for _, c := range []struct {
		claim string
		story func(*timeline)
		want  Life
	}{
		{"a node is alive after two and a half missing heartbeats", func(h *timeline) {
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
		{"longer silence makes it suspect", func(h *timeline) {
			h.after(2500*time.Millisecond + 1)
			h.canary()
		}, Suspect},
		{"it stays suspect until gone_after", func(h *timeline) {
			h.after(DefaultGoneAfter - 1)
			h.canary()
		}, Suspect},
		{"a silent suspect has all of gone_after", func(h *timeline) {
			h.after(3 * time.Second)
			h.canary()
			h.after(DefaultGoneAfter - 3*time.Second - 1)
			h.canary()
		}, Suspect},
		{"and no more", func(h *timeline) {
			h.after(3 * time.Second)
			h.canary()
			h.after(DefaultGoneAfter - 3*time.Second)
			h.canary()
		}, ""},
		{"a silent suspect that repeats its heartbeat is alive", func(h *timeline) {
			h.after(3 * time.Second)
			h.canary()
			h.beats(web1())
		}, Alive},
		{"a silent suspect whose connection closes has the grace", func(h *timeline) {
			h.after(3 * time.Second)
			h.canary()
			h.disconnect(Conn{"s", 1})
			h.after(DisconnectGrace - 1)
			h.canary()
		}, Suspect},
		{"and no more, though gone_after is longer", func(h *timeline) {
			h.after(3 * time.Second)
			h.canary()
			h.disconnect(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.canary()
		}, ""},
		{"after missed messages a silent suspect has all of gone_after", func(h *timeline) {
			h.after(3 * time.Second)
			h.canary()
			h.after(time.Hour)
			h.missed()
			h.after(DefaultGoneAfter - 1)
			h.canary()
		}, Suspect},
		{"a node that left is not suspect", func(h *timeline) {
			h.beats(web1(leaving))
			h.after(3 * time.Second)
			h.canary()
		}, Left},
		{"after gone_after it is gone", func(h *timeline) {
			h.after(DefaultGoneAfter)
			h.canary()
		}, ""},
		{"without a canary silence proves nothing", func(h *timeline) {
			h.after(time.Hour)
		}, Alive},
		{"a node with a slow pace has three and a half heartbeats", func(h *timeline) {
			h.beats(web1(every(10 * time.Second)))
			h.after(35*time.Second - 1)
			h.canary()
		}, Suspect},
		{"it is alive for two and a half of them", func(h *timeline) {
			h.beats(web1(every(10 * time.Second)))
			h.after(25 * time.Second)
			h.canary()
		}, Alive},
		{"and gone after three and a half", func(h *timeline) {
			h.beats(web1(every(10 * time.Second)))
			h.after(35 * time.Second)
			h.canary()
		}, ""},
		{"an unchanged heartbeat renews the lease", func(h *timeline) {
			h.after(9 * time.Second)
			h.beats(web1())
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
		{"after missed messages every node has its full time", func(h *timeline) {
			h.after(time.Hour)
			h.missed()
			h.after(DefaultGoneAfter - 1)
			h.canary()
		}, Suspect},
		{"missed messages alone make no node suspect", func(h *timeline) {
			h.after(time.Hour)
			h.missed()
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
		{"after missed messages a silent node is gone in the end", func(h *timeline) {
			h.missed()
			h.after(DefaultGoneAfter)
			h.canary()
		}, ""},
		{"a node whose connection closed is suspect", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
		}, Suspect},
		{"a disconnected suspect has the grace", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.after(DisconnectGrace - 1)
			h.canary()
		}, Suspect},
		{"and is gone after it", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.canary()
		}, ""},
		{"a suspect that sends over a new connection is alive", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.beats(web1(onConn(2)))
			h.after(DisconnectGrace)
			h.canary()
		}, Alive},
		{"a late heartbeat of a closed connection revives no node", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.beats(web1(), web1(notReady))
		}, Suspect},
		{"nor adds it again", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.canary()
			h.beats(web1(), web1(notReady))
		}, ""},
		{"a late announcement of a restart counts", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.beats(web1(restartWithin(time.Minute)), web1())
			h.after(time.Minute - 1)
			h.canary()
		}, Restarting},
		{"a late announcement of leaving counts", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.beats(web1(leaving))
		}, ""},
		{"unless it sends over a new connection", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.beats(web1(onConn(2)), web1(leaving))
		}, Alive},
		{"a connection may close before its first heartbeat arrives", func(h *timeline) {
			h.disconnect(Conn{"s", 2})
			h.beats(web1(onConn(2), notReady))
			if h.node("web1").conn != (Conn{"s", 1}) {
				h.t.Errorf("the heartbeat of the closed connection was applied")
			}
		}, Alive},
		{"the end of a former connection changes nothing", func(h *timeline) {
			h.beats(web1(onConn(2)))
			h.disconnect(Conn{"s", 1})
		}, Alive},
		{"the same client number at another server is another connection", func(h *timeline) {
			h.disconnect(Conn{"t", 1})
		}, Alive},
		{"after missed messages a disconnected suspect has its full time", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.missed()
			h.canary()
		}, Suspect},
		{"facts revive no suspect", func(h *timeline) {
			h.disconnect(Conn{"s", 1})
			h.facts(web1(), isWeb)
			h.after(DisconnectGrace)
			h.canary()
		}, ""},
		{"a node that leaves has left", func(h *timeline) { h.beats(web1(leaving)) }, Left},
		{"a node that left is gone after gone_after", func(h *timeline) {
			h.beats(web1(leaving))
			h.after(DefaultGoneAfter)
			h.canary()
		}, ""},
		{"a node that left is gone when its connection closes", func(h *timeline) {
			h.beats(web1(leaving))
			h.disconnect(Conn{"s", 1})
		}, ""},
		{"a new agent of a node that left is alive", func(h *timeline) {
			h.beats(web1(leaving), web1(onConn(2)))
		}, Alive},
		{"a node that announces a restart is restarting",
			func(h *timeline) { h.beats(web1(restartWithin(time.Minute))) }, Restarting},
		{"it stays so without a connection", func(h *timeline) {
			h.beats(web1(restartWithin(time.Minute)))
			h.disconnect(Conn{"s", 1})
			h.after(time.Minute - 1)
			h.canary()
		}, Restarting},
		{"for as long as it announced", func(h *timeline) {
			h.beats(web1(restartWithin(30 * time.Second)))
			h.after(30 * time.Second)
			h.canary()
		}, ""},
		{"at most a minute", func(h *timeline) {
			h.beats(web1(restartWithin(time.Hour)))
			h.after(MaxRestart)
			h.canary()
		}, ""},
		{"however long it announced", func(h *timeline) {
			h.beats(web1(func(b *Beat) { b.RestartWithin = 1 << 62 }))
			h.after(MaxRestart - 1)
			h.canary()
		}, Restarting},
		{"missed messages do not shorten a restart", func(h *timeline) {
			h.beats(web1(restartWithin(time.Minute)))
			h.missed()
			h.after(time.Minute - 1)
			h.canary()
		}, Restarting},
		{"a node that is back is alive", func(h *timeline) {
			h.beats(web1(restartWithin(time.Minute)))
			h.disconnect(Conn{"s", 1})
			h.beats(web1(onConn(2)))
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newTimeline(t)
			h.beats(web1())
			c.story(h)
			if got := h.life(); got != c.want {
				t.Errorf("web1 is %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhichMachineHasAName(t *testing.T) {
	for _, c := range []struct {
		claim    string
		story    func(*timeline) error
		instance string
		boot     string
		rejected bool
		why      string
	}{
		{"a newer boot replaces the old at once", func(h *timeline) error {
			h.beats(web1(ofBoot("b2"), onConn(2)))
			return nil
		}, "m1", "b2", false, "rebooted"},
		{"a late heartbeat of the old boot is ignored", func(h *timeline) error {
			h.beats(web1(ofBoot("b2"), onConn(2)), web1())
			return nil
		}, "m1", "b2", false, "rebooted"},
		{"so are those of the boots before it", func(h *timeline) error {
			h.beats(web1(ofBoot("b2")), web1(ofBoot("b3")), web1(ofBoot("b4")), web1(ofBoot("b5")), web1(ofBoot("b2")),
				web1())
			return nil
		}, "m1", "b5", false, "rebooted"},
		{"later ones are of another machine with the same machine id", func(h *timeline) error {
			h.beats(web1(ofBoot("b2"), onConn(2)))
			h.after(cloneAfter + 1)
			_, err := h.beat(web1())
			return err
		}, "m1", "b2", true, "rebooted"},
		{"another instance is rejected while the first one is alive", func(h *timeline) error {
			h.after(2 * time.Second)
			h.canary()
			_, err := h.beat(web1(ofInstance("m2"), onConn(2)))
			return err
		}, "m1", "b1", true, ""},
		{"also when silence is not proved by a canary", func(h *timeline) error {
			h.after(9 * time.Second)
			_, err := h.beat(web1(ofInstance("m2"), onConn(2)))
			return err
		}, "m1", "b1", true, ""},
		{"another instance takes over when heartbeats are missing", func(h *timeline) error {
			h.after(2501 * time.Millisecond)
			h.canary()
			h.beats(web1(ofInstance("m2"), onConn(2)))
			return nil
		}, "m2", "b1 of m2", false, "another instance has the name"},
		{"and when its connection closed", func(h *timeline) error {
			h.disconnect(Conn{"s", 1})
			h.beats(web1(ofInstance("m2"), onConn(2)))
			return nil
		}, "m2", "b1 of m2", false, "another instance has the name"},
		{"and when it left", func(h *timeline) error {
			h.beats(web1(leaving), web1(ofInstance("m2"), onConn(2)))
			return nil
		}, "m2", "b1 of m2", false, "another instance has the name"},
		{"the first one does not get it back", func(h *timeline) error {
			h.after(3 * time.Second)
			h.canary()
			h.beats(web1(ofInstance("m2"), onConn(2)))
			_, err := h.beat(web1())
			return err
		}, "m2", "b1 of m2", true, "another instance has the name"},
		{"missed messages are no missing heartbeats", func(h *timeline) error {
			h.after(time.Minute)
			h.missed()
			_, err := h.beat(web1(ofInstance("m2"), onConn(2)))
			return err
		}, "m1", "b1", true, ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newTimeline(t)
			h.beats(web1())
			err := c.story(h)
			if (err != nil) != c.rejected {
				t.Fatalf("error %v, want one: %t", err, c.rejected)
			}
			if n := h.node("web1"); n.Instance != c.instance || n.Boot != c.boot {
				t.Errorf("boot %s of %s has the name, want %s of %s", n.Boot, n.Instance, c.boot, c.instance)
			}
			if h.why != c.why {
				t.Errorf("the last change says %q, want %q", h.why, c.why)
			}
		})
	}
}

func TestChangesSayWhyInPlainWords(t *testing.T) {
	for _, c := range []struct {
		story func(*timeline) []Change
		want  string
	}{
		{func(h *timeline) []Change { return h.disconnect(Conn{"s", 1}) }, "its connection closed (client closed)"},
		{func(h *timeline) []Change {
			h.disconnect(Conn{"s", 1})
			h.after(DisconnectGrace)
			return h.canary()
		}, "its connection closed (client closed) and it did not reconnect within 1.5s"},
		{func(h *timeline) []Change { h.after(10200 * time.Millisecond); return h.canary() }, "silent for 10.2s"},
		{func(h *timeline) []Change {
			h.beats(web1(restartWithin(time.Minute)))
			h.after(time.Minute)
			return h.canary()
		}, "its agent stopped and was not back within 1m"},
		{func(h *timeline) []Change { changes, _ := h.beat(web1(leaving)); return changes }, "left"},
		{func(h *timeline) []Change { h.beats(web1(leaving)); return h.disconnect(Conn{"s", 1}) }, "its agent stopped"},
	} {
		h := newTimeline(t)
		h.beats(web1())
		if changes := c.story(h); len(changes) != 1 || changes[0].Why != c.want {
			t.Errorf("changes %+v, want one that says %q", changes, c.want)
		}
	}
}

func TestConflictNamesBothInstances(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1())
	_, err := h.beat(web1(ofInstance("m2")))
	if conflict := (*Conflict)(nil); !errors.As(err, &conflict) ||
		*conflict != (Conflict{Node: "web1", Accepted: "m1", Rejected: "m2"}) {
		t.Errorf("error %v, want a conflict of m1 and m2 about web1", err)
	}
	want := "two machines claim the name web1: instance m1 is accepted, instance m2 is rejected"
	if err.Error() != want {
		t.Errorf("the error says %q, want %q", err, want)
	}
}

func TestFactsOfANode(t *testing.T) {
	for _, c := range []struct {
		claim   string
		story   func(*timeline)
		want    Facts
		missing bool
	}{
		{"are requested when only their digest is known", func(*timeline) {}, nil, true},
		{"are attached when they arrive", func(h *timeline) { h.facts(web1(), isWeb) }, isWeb, false},
		{"of another digest are not", func(h *timeline) { h.facts(web1(), isDB) }, nil, true},
		{"of another boot are not", func(h *timeline) { h.facts(web1(ofBoot("b0")), isWeb) }, nil, true},
		{"of another instance are not", func(h *timeline) { h.facts(web1(ofInstance("m2")), isWeb) }, nil, true},
		{"stay until the new ones arrive", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.beats(web1(announcing(isDB)))
		}, isWeb, true},
		{"that arrived before their heartbeat are attached by it", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.facts(web1(), isDB)
			h.beats(web1(announcing(isDB)))
		}, isDB, false},
		{"are kept for a heartbeat that is a little late", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.facts(web1(), isDB)
			h.after(time.Second)
			h.canary()
			h.beats(web1(announcing(isDB)))
		}, isDB, false},
		{"that no heartbeat announces are forgotten", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.facts(web1(), isDB)
			h.after(requestAgain + 1)
			h.canary()
			h.beats(web1(announcing(isDB)))
		}, isWeb, true},
		{"that changed back before they were sent are not requested", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.beats(web1(announcing(isDB)), web1())
		}, isWeb, false},
		{"outlive a boot that did not change them", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.beats(web1(ofBoot("b2")))
		}, isWeb, false},
		{"do not outlive a boot that changed them", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.beats(web1(ofBoot("b2"), announcing(isDB)))
		}, nil, true},
		{"are not another instance's, even if it announces the same", func(h *timeline) {
			h.facts(web1(), isWeb)
			h.disconnect(Conn{"s", 1})
			h.beats(web1(ofInstance("m2"), onConn(2)))
		}, nil, true},
		{"can be none", func(h *timeline) {
			h.beats(web1(announcing(Facts{})))
			h.facts(web1(), Facts{})
		}, Facts{}, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newTimeline(t)
			h.beats(web1())
			c.story(h)
			n := h.node("web1")
			if diff := cmp.Diff(c.want, n.Facts); diff != "" {
				t.Errorf("want -, have +:\n%s", diff)
			}
			if got := len(h.FactsToRequest(h.now)) == 1; got != c.missing {
				t.Errorf("its facts must be requested: %t, want %t", got, c.missing)
			}
			if n.Eligible() != (n.Facts != nil) {
				t.Errorf("eligible: %t with facts %v", n.Eligible(), n.Facts)
			}
		})
	}
}

func TestEligibleNodesAreReadyKnownAndPresent(t *testing.T) {
	for _, c := range []struct {
		node *Node
		want bool
	}{
		{nil, false},
		{&Node{Life: Alive, Ready: true, Facts: Facts{}}, true},
		{&Node{Life: Suspect, Ready: true, Facts: Facts{}}, true},
		{&Node{Life: Restarting, Ready: true, Facts: Facts{}}, true},
		{&Node{Life: Left, Ready: true, Facts: Facts{}}, false},
		{&Node{Life: Alive, Ready: false, Facts: Facts{}}, false},
		{&Node{Life: Alive, Ready: true}, false},
	} {
		if got := c.node.Eligible(); got != c.want {
			t.Errorf("%+v: eligible %t, want %t", c.node, got, c.want)
		}
	}
}

func TestFactsAreRequestedFromFewNodesAtATime(t *testing.T) {
	h := newTimeline(t)
	const nodes = 3 * maxRequests
	for i := range nodes {
		h.beats(web1(ofNode(fmt.Sprint("n", i)), onConn(uint64(i))))
	}
	requested := h.FactsToRequest(h.now)
	if len(requested) != maxRequests {
		t.Fatalf("%d requests at once, want %d", len(requested), maxRequests)
	}
	if more := h.FactsToRequest(h.now); len(more) != 0 {
		t.Fatalf("%d more requests before the first answer", len(more))
	}
	for _, name := range requested[:10] {
		h.facts(web1(ofNode(name)), isWeb)
	}
	if more := h.FactsToRequest(h.now); len(more) != 10 {
		t.Errorf("%d more requests after 10 answers", len(more))
	}
	for turns := 0; len(h.missingFacts) > 0; turns++ {
		if turns > 10 {
			t.Fatalf("%d facts are still missing", len(h.missingFacts))
		}
		h.after(requestAgain)
		for _, name := range h.FactsToRequest(h.now) {
			h.facts(web1(ofNode(name)), isWeb)
		}
	}
}

func TestGoneAfterDependsOnTheNode(t *testing.T) {
	h := newTimeline(t)
	h.GoneAfter = func(n *Node) time.Duration {
		if slices.Contains(n.Facts.Roles(), "web") {
			return 4 * time.Second
		}
		return DefaultGoneAfter
	}
	h.beats(web1(), web1(ofNode("db1"), onConn(2), announcing(isDB)))
	h.facts(web1(), isWeb)
	h.facts(web1(ofNode("db1")), isDB)
	h.after(4 * time.Second)
	changes := h.canary()
	if len(changes) != 2 || changes[1].Before.Name != "web1" || changes[1].After != nil ||
		changes[1].Why != "silent for 4.0s" {
		t.Fatalf("after 4 s: %+v, want web1 gone", changes)
	}
	if db1 := changes[0]; db1.Before.Name != "db1" || db1.After == nil || db1.After.Life != Suspect {
		t.Errorf("after 4 s: %+v, want db1 suspect", db1)
	}
}

func TestSilentNodesAreNewSuspectsOnce(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1(), web1(ofNode("web2"), onConn(2)), web1(ofNode("web3"), onConn(3)),
		web1(ofNode("web4"), onConn(4), leaving))
	h.disconnect(Conn{"s", 2}) // a certain disconnect needs no question
	h.after(3 * time.Second)
	h.beats(web1(ofNode("web3"), onConn(3)))
	h.canary()
	if got := h.NewSuspects(); !slices.Equal(got, []string{"web1"}) {
		t.Errorf("new suspects %q, want web1: only it is silent", got)
	}
	h.after(time.Second)
	h.canary()
	if got := h.NewSuspects(); len(got) != 0 {
		t.Errorf("new suspects %q, want none: web1 was one before", got)
	}
	h.beats(web1())
	h.after(3 * time.Second)
	h.canary()
	if got := h.NewSuspects(); !slices.Contains(got, "web1") {
		t.Errorf("new suspects %q, want web1: it is silent again", got)
	}
}

func TestUnchangedHeartbeatWritesNoRow(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1())
	h.facts(web1(), isWeb)
	before := h.node("web1")
	watch, _, err := h.db.Txn(false).FirstWatch("node", "id", "web1")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		h.after(time.Second)
		h.beats(web1())
		h.canary()
	}
	if h.node("web1") != before {
		t.Error("the row was written")
	}
	select {
	case <-watch:
		t.Error("watchers of the row were woken")
	default:
	}
	if raw := encode(web1(notReady)); h.leases.renewSame("web1", raw, h.now) {
		t.Error("a changed heartbeat was taken for an unchanged one")
	}
}

func TestSnapshotNeverChanges(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1())
	s := h.Snapshot()
	h.beats(web1(notReady), web1(ofNode("web2")))
	if n := s.Node("web1"); !n.Ready || count(s) != 1 || s.Node("web2") != nil {
		t.Errorf("the snapshot changed: %d nodes, web1 ready %t", count(s), n.Ready)
	}
	if s := h.Snapshot(); s.Node("web1").Ready || count(s) != 2 {
		t.Error("a new snapshot lacks the newest changes")
	}
}

func TestSinceAndJoinedAreKept(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1())
	start := h.now
	h.after(time.Second)
	h.beats(web1(notReady))
	if n := h.node("web1"); n.Since != start || n.Joined != start {
		t.Errorf("alive since %s, joined %s: want the start", n.Since, n.Joined)
	}
	h.after(time.Second)
	h.beats(web1(leaving))
	if n := h.node("web1"); n.Since != h.now || n.Joined != start {
		t.Errorf("left since %s, joined %s: want now and the start", n.Since, n.Joined)
	}
	h.after(time.Second)
	h.beats(web1(ofBoot("b2")))
	if n := h.node("web1"); n.Since != h.now || n.Joined != h.now {
		t.Errorf("after a boot since %s, joined %s: want now", n.Since, n.Joined)
	}
}

func TestSuspectKeepsTheTimeOfTheFirstSuspicion(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1())
	h.after(3 * time.Second)
	h.canary()
	first := h.now
	h.after(time.Second)
	h.disconnect(Conn{"s", 1})
	if n := h.node("web1"); n.Life != Suspect || n.Since != first {
		t.Errorf("%s since %s, want suspect since it was silent, %s", n.Life, n.Since, first)
	}
}

func TestNodesMayReconnectOneByOneForTwoMinutes(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1())
	other := func(i int) Beat { return web1(ofNode(fmt.Sprint("other", i)), onConn(uint64(i+2))) }
	const others = 16 // one every 9 s: when the last ones come it is too late
	for i := range others {
		h.beats(other(i))
	}
	h.after(time.Second)
	h.missed()
	began := h.now
	for n := range others {
		h.after(9 * time.Second)
		for i := range n + 1 {
			h.beats(other(i))
		}
		h.canary()
		if here, want := h.life() != "", h.now.Sub(began) < 2*time.Minute+DefaultGoneAfter; here != want {
			t.Fatalf("%s after missed messages silent web1 is still a node: %t, want %t", h.now.Sub(began), here, want)
		}
	}
}

func TestNodesOnOneConnectionAreKeptApart(t *testing.T) {
	h := newTimeline(t)
	h.beats(web1(), web1(ofNode("web2")), web1(onConn(2)))
	h.disconnect(Conn{"s", 1})
	if n := h.node("web2"); n.Life != Suspect {
		t.Errorf("web2, whose connection closed, is %s", n.Life)
	}
	if n := h.node("web1"); n.Life != Alive {
		t.Errorf("web1, which has another, is %s", n.Life)
	}
}

func TestFactsWithoutAHeartbeatAreLimited(t *testing.T) {
	h := newTimeline(t)
	for i := range maxEarlyFacts {
		h.facts(web1(ofNode(fmt.Sprint("n", i))), isWeb)
	}
	_, err := h.Apply(Received{At: h.now, Facts: &FactsMessage{Node: "one-more", Facts: isWeb}})
	if err == nil {
		t.Errorf("the facts of %d nodes without a heartbeat are kept", len(h.earlyFacts))
	}
	h.after(requestAgain + 1)
	h.canary()
	if len(h.earlyFacts) != 0 {
		t.Errorf("the facts of %d nodes without a heartbeat are kept forever", len(h.earlyFacts))
	}
}

func TestInvalidMessageChangesNothing(t *testing.T) {
	h := newTimeline(t)
	invalid := fmt.Errorf("invalid")
	if changes, err := h.Apply(Received{At: h.now, Invalid: invalid}); err != invalid || changes != nil {
		t.Errorf("%v, %v: want the error alone", changes, err)
	}
}

func TestRolesOfFacts(t *testing.T) {
	for _, c := range []struct {
		facts Facts
		want  []string
	}{
		{nil, nil},
		{Facts{"role": "web"}, []string{"web"}},
		{Facts{"role": []any{"web", 1.0, "db"}}, []string{"web", "db"}},
		{Facts{"role": 1.0}, nil},
	} {
		if got := c.facts.Roles(); !slices.Equal(got, c.want) {
			t.Errorf("%v has roles %q, want %q", c.facts, got, c.want)
		}
	}
}

func TestNodeStaysReadyWhileItsRestartedAgentChecks(t *testing.T) {
	checking := func(b *Beat) { b.Ready, b.Checking, b.NotReady = false, true, "not checked yet" }
	leaving := func(b *Beat) { b.Leaving = true }
	for _, c := range []struct {
		claim string
		beats []Beat
		want  bool
	}{
		{"it was ready", []Beat{web1(), web1(checking, onConn(2))}, true},
		{"and its check failed", []Beat{web1(), web1(checking, onConn(2)), web1(notReady, onConn(2))}, false},
		{"and its agent restarted twice", []Beat{web1(), web1(checking, onConn(2)), web1(checking, onConn(3))}, true},
		{"it was not ready", []Beat{web1(notReady), web1(checking, onConn(2))}, false},
		{"it is new", []Beat{web1(checking)}, false},
		{"its machine rebooted", []Beat{web1(), web1(checking, ofBoot("b2"), onConn(2))}, false},
		{"it had left", []Beat{web1(leaving), web1(checking, onConn(2))}, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newTimeline(t)
			h.beats(c.beats...)
			if n := h.node("web1"); n.Ready != c.want || n.Checking != (!c.want && c.beats[len(c.beats)-1].Checking) ||
				n.Ready == (n.NotReady != "") && n.Checking {
				t.Errorf("%+v, want ready: %t", n, c.want)
			}
		})
	}
}

// The model is what an inventory must contain after any sequence of messages.

type modelNode struct {
	beat  Beat
	start time.Time // of its silence
	beats time.Time // when its last heartbeat arrived
	life  Life
	until time.Time
	boots []string // before the present one
	facts string   // their digest, "" if they are not known
}

type model struct {
	*timeline
	nodes  map[string]*modelNode
	closed map[Conn]bool
	canary time.Time
	lost   time.Time        // when messages were last missed
	back   bool             // a node has sent its first heartbeat after that since the last canary
	rows   map[string]*Node // after the last change
	counts map[string]int
}

const modelGoneAfter = 4 * time.Second

func TestInventoryAgreesWithItsModel(t *testing.T) {
	total := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{timeline: newTimeline(t), nodes: map[string]*modelNode{}, closed: map[Conn]bool{},
			rows: map[string]*Node{}, counts: total}
		m.GoneAfter = func(*Node) time.Duration { return modelGoneAfter }
		m.Inventory.leases.canary = m.now
		m.canary = m.now
		t.Repeat(map[string]func(*rapid.T){
			"beat":       m.drawBeat,
			"beat again": m.drawSame,
			"stop":       m.drawStop,
			"facts":      m.drawFacts,
			"disconnect": m.drawDisconnect,
			"missed":     func(t *rapid.T) { m.drawMissed() },
			"canary":     func(t *rapid.T) { m.drawCanary() },
			"hush": func(t *rapid.T) { // long enough to be suspect, not to be gone
				m.after(time.Duration(rapid.IntRange(2501, 3500).Draw(t, "ms")) * time.Millisecond)
				m.drawCanary()
			},
			"time": func(t *rapid.T) {
				m.after(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) { m.check() },
		})
		m.timeline.after(5 * time.Minute)
		m.drawCanary()
		m.check()
		for what, n := range map[string]int{
			"nodes": count(m.Snapshot()), "leases": len(m.leases.byNode), "byConn": len(m.byConn),
			"disconnected": len(m.Inventory.disconnected),
			"earlyFacts":   len(m.earlyFacts), "missingFacts": len(m.missingFacts),
		} {
			if n != 0 {
				t.Errorf("%s: %d are left when all nodes are gone", what, n)
			}
		}
	})
	for _, what := range []string{"joined", "suspect: silent", "suspect: closed", "revived", "gone: silent",
		"gone: suspect", "gone: restarting", "gone: left", "late", "stop", "conflict", "old boot", "replaced",
		"took over", "attached", "unchanged", "reconnecting"} {
		if total[what] == 0 {
			t.Errorf("%q never happened, so the test does not test it: %v", what, total)
		}
	}
}

func (m *model) seen(what string) { m.counts[what]++ }

func (m *model) drawBeat(t *rapid.T) {
	b := web1(ofNode(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "node")))
	b.Instance = rapid.SampledFrom([]string{"m1", "m1", "m1", "m2"}).Draw(t, "instance")
	b.Boot = b.Instance + rapid.SampledFrom([]string{"-1", "-1", "-2"}).Draw(t, "boot")
	b.Conn.Client = rapid.Uint64Range(1, 8).Draw(t, "conn")
	b.Facts = rapid.SampledFrom([]Facts{isWeb, isDB}).Draw(t, "facts").Digest()
	b.Ready = rapid.Bool().Draw(t, "ready")
	switch rapid.IntRange(0, 9).Draw(t, "says") {
	case 0:
		b.Leaving = true
	case 1:
		b.RestartWithin = rapid.Int64Range(1, 100_000).Draw(t, "restart within")
	}
	m.receive(b)
}

func (m *model) drawSame(t *rapid.T) {
	if len(m.nodes) == 0 {
		return
	}
	m.receive(m.nodes[rapid.SampledFrom(slices.Sorted(maps.Keys(m.nodes))).Draw(t, "node")].beat)
}

// drawStop is a heartbeat that announces leaving or a restart, over the connection that a node had, open or closed.
func (m *model) drawStop(t *rapid.T) {
	if len(m.nodes) == 0 {
		return
	}
	b := m.nodes[rapid.SampledFrom(slices.Sorted(maps.Keys(m.nodes))).Draw(t, "node")].beat
	b.Leaving, b.RestartWithin = rapid.Bool().Draw(t, "leaving"), 30_000
	m.receive(b)
}

func (m *model) receive(b Beat) {
	was := m.nodes[b.Node]
	if lease := m.leases.byNode[b.Node]; lease != nil && string(lease.beat) == string(encode(b)) {
		m.seen("unchanged")
		if changes, err := m.beat(b); len(changes) > 0 || err != nil || !cmp.Equal(was.beat, b) {
			m.t.Fatalf("%+v after %+v was taken for unchanged: %+v, %v", b, was.beat, changes, err)
		}
		m.back = m.back || was.beats.Before(m.lost)
		was.start, was.beats = m.now, m.now
		return
	}
	changes, err := m.beat(b)
	quiet := func(what string) {
		m.seen(what)
		if len(changes) > 0 {
			m.t.Fatalf("%s: %+v changed %+v", what, b, changes)
		}
	}
	stop := m.closed[b.Conn] && was != nil && was.life == Suspect && was.beat.Conn == b.Conn &&
		(b.Leaving || b.RestartWithin > 0) && was.beat.Instance == b.Instance && was.beat.Boot == b.Boot
	switch {
	case m.closed[b.Conn] && !stop:
		quiet("late")
		return
	case was != nil && was.beat.Instance != b.Instance && was.life == Alive &&
		m.canary.Sub(was.start) <= 2500*time.Millisecond:
		quiet("conflict")
		if err == nil {
			m.t.Fatalf("%+v was accepted, though %+v has the name", b, was.beat)
		}
		return
	case was != nil && was.beat.Instance == b.Instance && slices.Contains(was.boots, b.Boot):
		clone := m.now.Sub(m.rows[b.Node].Joined) > cloneAfter
		if clone {
			quiet("clone")
		} else {
			quiet("old boot")
		}
		if _, conflict := errors.AsType[*Conflict](err); conflict != clone {
			m.t.Fatalf("%+v, after the boot that follows it: %v, want a conflict: %t", b, err, clone)
		}
		return
	}
	if err != nil {
		m.t.Fatalf("%+v: %v", b, err)
	}
	m.back = m.back || was != nil && was.beats.Before(m.lost)
	next := &modelNode{beat: b, start: m.now, beats: m.now, life: Alive}
	if was != nil && was.life == Suspect && cmp.Equal(was.beat, b) {
		m.seen("revived")
	}
	switch {
	case was == nil:
		m.seen("joined")
	case was.beat.Instance != b.Instance:
		m.seen("took over")
	case was.beat.Boot != b.Boot:
		m.seen("replaced")
		next.boots = append(slices.Clone(was.boots), was.beat.Boot)
		if was.facts == b.Facts {
			next.facts = was.facts
		}
	default:
		next.boots, next.facts = was.boots, was.facts
	}
	if p, ok := m.attached(b); ok && next.facts != b.Facts {
		m.seen("attached")
		next.facts = p
	}
	switch {
	case b.Leaving:
		next.life = Left
	case b.RestartWithin > 0:
		next.life, next.until = Restarting, m.now.Add(min(time.Duration(b.RestartWithin)*time.Millisecond, time.Minute))
	}
	m.nodes[b.Node] = next
	if stop {
		m.seen("stop")
		if b.Leaving { // and its connection is closed
			delete(m.nodes, b.Node)
		}
	}
	m.follow(changes)
}

// attached reads from the row whether facts that arrived first were attached. follow checks which may be.
func (m *model) attached(b Beat) (string, bool) {
	n := m.node(b.Node)
	if n == nil || n.Facts == nil {
		return "", false
	}
	return n.Facts.Digest(), n.Facts.Digest() == b.Facts
}

func (m *model) drawFacts(t *rapid.T) {
	b := web1(ofNode(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "node")))
	b.Instance = rapid.SampledFrom([]string{"m1", "m2"}).Draw(t, "instance")
	b.Boot = b.Instance + rapid.SampledFrom([]string{"-1", "-2"}).Draw(t, "boot")
	f := rapid.SampledFrom([]Facts{isWeb, isDB}).Draw(t, "facts")
	changes := m.apply(Received{Facts: &FactsMessage{V: Version, Node: b.Node, Instance: b.Instance, Boot: b.Boot,
		Facts: f}})
	n := m.nodes[b.Node]
	fits := n != nil && n.beat.Instance == b.Instance && n.beat.Boot == b.Boot && n.beat.Facts == f.Digest()
	if fits != (len(changes) == 1) {
		m.t.Fatalf("facts %v of %s: changed %+v, want a change: %t", f, b.Boot, changes, fits)
	}
	if fits {
		n.facts = f.Digest()
	}
	m.follow(changes)
}

func (m *model) drawDisconnect(t *rapid.T) {
	c := Conn{"s", rapid.Uint64Range(1, 8).Draw(t, "conn")}
	m.closed[c] = true
	changes := m.disconnect(c)
	for _, change := range changes {
		n := m.nodes[change.Before.Name]
		if n == nil || n.beat.Conn != c {
			m.t.Fatalf("%v closed: %+v, whose beat came over another", c, change)
		}
		switch {
		case n.life == Alive, n.life == Suspect && n.until.IsZero():
			m.seen("suspect: closed")
			n.life, n.until = Suspect, m.now.Add(DisconnectGrace)
		case n.life == Left:
			m.seen("gone: left")
			delete(m.nodes, change.Before.Name)
		default:
			m.t.Fatalf("%v closed: %+v, which was %s", c, change, n.life)
		}
	}
	m.follow(changes)
}

func (m *model) drawMissed() {
	m.missed()
	m.canary, m.lost, m.back = m.now, m.now, false
	m.renewed()
}

func (m *model) renewed() {
	for name, n := range m.nodes {
		n.start = m.now
		if !n.until.IsZero() && n.until.Before(m.now.Add(modelGoneAfter)) {
			n.until = m.now.Add(modelGoneAfter)
		}
		m.rows[name] = m.node(name)
	}
}

func (m *model) drawCanary() {
	changes := m.timeline.canary()
	m.canary = m.now
	if m.back && m.now.Sub(m.lost) <= reconnectWithin {
		m.seen("reconnecting")
		m.renewed()
	}
	m.back = false
	gone, suspected := map[string]bool{}, map[string]bool{}
	for _, change := range changes {
		switch {
		case change.After == nil:
			gone[change.Before.Name] = true
		case change.Before.Life == Alive && change.After.Life == Suspect:
			suspected[change.After.Name] = true
		default:
			m.t.Fatalf("a canary changed %+v", change)
		}
	}
	if probed := m.NewSuspects(); !slices.Equal(slices.Sorted(slices.Values(probed)),
		slices.Sorted(maps.Keys(suspected))) {
		m.t.Fatalf("new suspects %q, want %v", probed, suspected)
	}
	for name, n := range m.nodes {
		late := m.now.Sub(n.start) >= modelGoneAfter
		if !n.until.IsZero() {
			late = !m.now.Before(n.until)
		}
		if late != gone[name] {
			m.t.Fatalf("%s is %s, silent for %s, deadline %s: gone %t, want %t", name, n.life, m.now.Sub(n.start),
				n.until, gone[name], late)
		}
		silent := !late && n.life == Alive && m.now.Sub(n.start) > 2500*time.Millisecond
		if silent != suspected[name] {
			m.t.Fatalf("%s is %s, silent for %s: new suspect %t, want %t", name, n.life, m.now.Sub(n.start),
				suspected[name], silent)
		}
		switch {
		case silent:
			m.seen("suspect: silent")
			n.life = Suspect
		case late && n.until.IsZero():
			m.seen("gone: silent")
			delete(m.nodes, name)
		case late:
			m.seen("gone: " + string(n.life))
			delete(m.nodes, name)
		}
	}
	m.follow(changes)
	for c := range m.closed {
		if _, kept := m.Inventory.disconnected[c]; !kept {
			delete(m.closed, c) // TestDisconnectsAreRememberedForAMinute tests when
		}
	}
}

// follow checks changes: each begins where the one before it ended, and attaches only the facts that are announced.
func (m *model) follow(changes []Change) {
	for _, c := range changes {
		name := ""
		switch {
		case c.After != nil:
			name = c.After.Name
		default:
			name = c.Before.Name
		}
		if m.rows[name] != c.Before {
			m.t.Fatalf("%s: the change begins with %+v, the one before ended with %+v", name, c.Before, m.rows[name])
		}
		m.rows[name] = c.After
		if a, b := c.After, c.Before; a != nil && a.Facts != nil && a.Facts.Digest() != a.digest {
			if b == nil || b.Instance != a.Instance || b.Boot != a.Boot || b.Facts.Digest() != a.Facts.Digest() {
				m.t.Fatalf("%s announces %s and has %v", name, a.digest, a.Facts)
			}
		}
	}
}

func (m *model) check() {
	want := map[string]Life{}
	deadlines := map[string]time.Time{}
	for name, n := range m.nodes {
		want[name] = n.life
		if !n.until.IsZero() {
			deadlines[name] = n.until
		}
	}
	got := map[string]Life{}
	for n := range m.Snapshot().All() {
		got[n.Name] = n.Life
		if mn := m.nodes[n.Name]; mn != nil {
			digest := ""
			if n.Facts != nil {
				digest = n.Facts.Digest()
			}
			if digest != mn.facts || n.Ready != mn.beat.Ready || n.conn != mn.beat.Conn {
				m.t.Fatalf("%s is %+v with facts %s, want those of %+v", n.Name, n, digest, mn)
			}
			if lease := m.leases.byNode[n.Name]; lease == nil || lease.received != mn.beats {
				m.t.Fatalf("the lease of %s is %+v, want it renewed at %s", n.Name, lease, mn.beats)
			}
		}
		if m.rows[n.Name] != n {
			m.t.Fatalf("%s is %+v, without a change", n.Name, n)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Fatalf("the nodes: want -, have +:\n%s", diff)
	}
	if len(got) != len(m.leases.byNode) {
		m.t.Fatalf("%d nodes, %d leases", len(got), len(m.leases.byNode))
	}
	if diff := cmp.Diff(deadlines, m.deadlines()); diff != "" {
		m.t.Fatalf("deadlines: want -, have +:\n%s", diff)
	}
	for conn, name := range m.byConn {
		if n := m.node(name); n == nil || n.conn != conn {
			m.t.Fatalf("%v is the connection of %s, which is %+v", conn, name, n)
		}
	}
	for name := range m.missingFacts {
		if n := m.node(name); n == nil || n.Facts != nil && n.Facts.Digest() == n.digest {
			m.t.Fatalf("the facts of %s are missing, and it is %+v", name, n)
		}
	}
}

func TestDisconnectsAreRememberedForAMinute(t *testing.T) {
	h := newTimeline(t)
	h.disconnect(Conn{"s", 1})
	h.after(rememberDisconnect)
	h.canary()
	h.beats(web1())
	if got := h.life(); got != "" {
		t.Errorf("a late heartbeat made web1 %s", got)
	}
	h.after(1)
	h.canary()
	h.beats(web1())
	if got := h.life(); got != Alive {
		t.Errorf("a connection's number is ignored forever: web1 is %q", got)
	}
}

func TestEndlessChurnLeavesNoEntries(t *testing.T) {
	h := newTimeline(t)
	for i := range 10_000 {
		b := web1(ofNode(fmt.Sprint("n", i)), onConn(uint64(i)))
		h.facts(b, isWeb)
		h.beats(b)
		if i%2 == 0 {
			h.disconnect(b.Conn)
		}
		if i%100 == 0 {
			h.after(time.Second)
			h.canary()
		}
		if n := count(h.Snapshot()); n > 1_200 {
			t.Fatalf("%d nodes are kept while 100 join each second", n)
		}
	}
	h.after(2 * time.Minute)
	h.canary()
	n := count(h.Snapshot()) + len(h.leases.byNode) + len(h.byConn) + len(h.disconnected)
	if n += len(h.earlyFacts) + len(h.missingFacts); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}
