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

// hearing is an inventory and the moment that it is told of things.
type hearing struct {
	*Inventory
	t   failer
	now time.Time
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func newHearing(t failer) *hearing {
	return &hearing{New(), t, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func (h *hearing) take(x Received) []Change {
	h.t.Helper()
	x.At = h.now
	changes, err := h.Apply(x)
	if err != nil {
		h.t.Fatalf("%+v: %v", x, err)
	}
	return changes
}

// beat tells of a beat as the listener does: one that says nothing new goes no further than the leases.
func (h *hearing) beat(b Beat) ([]Change, error) {
	raw := encode(b)
	if h.leases.same(b.Node, raw, h.now) {
		return nil, nil
	}
	h.leases.forgetBeat(b.Node)
	return h.Apply(Received{At: h.now, Beat: &b, raw: raw})
}

func (h *hearing) beats(beats ...Beat) {
	h.t.Helper()
	for _, b := range beats {
		if _, err := h.beat(b); err != nil {
			h.t.Fatalf("%+v: %v", b, err)
		}
	}
}

func (h *hearing) canary() []Change      { h.t.Helper(); return h.take(Received{Canary: true}) }
func (h *hearing) blind()                { h.t.Helper(); h.take(Received{Missed: "test"}) }
func (h *hearing) after(d time.Duration) { h.now = h.now.Add(d) }
func (h *hearing) closing(c Conn) []Change {
	h.t.Helper()
	return h.take(Received{Disconnect: &Disconnect{c, "client closed"}})
}
func (h *hearing) facts(b Beat, f Facts) {
	h.t.Helper()
	h.take(Received{Facts: &FactsMessage{V: Version, Node: b.Node, Instance: b.Instance, Boot: b.Boot, Facts: f}})
}

// life is what web1 is now, "" if it is not heard.
func (h *hearing) life() Life {
	if n := h.node("web1"); n != nil {
		return n.Life
	}
	return ""
}

var (
	isWeb = Facts{"role": "web"}
	isDB  = Facts{"role": "db"}
)

// web1 is a beat of the node that these tests are about, changed as a test needs it.
func web1(changes ...func(*Beat)) Beat {
	b := Beat{
		V: Version, Node: "web1", Instance: "m1", Boot: "b1", Conn: Conn{"s", 1}, Facts: isWeb.Digest(), Ready: true, NextIn: 1000,
		Kick: json.RawMessage("{}"),
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
func backWithin(d time.Duration) func(*Beat) {
	return func(b *Beat) { b.RestartWithin = d.Milliseconds() }
}

func TestLifeOfANode(t *testing.T) {
	for _, c := range []struct {
		claim string
		story func(*hearing)
		want  Life
	}{
		{"silence of two and a half beats is nothing", func(h *hearing) {
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
		{"longer silence is suspect", func(h *hearing) {
			h.after(2500*time.Millisecond + 1)
			h.canary()
		}, Suspect},
		{"and no more than that while it is shorter than its bound", func(h *hearing) {
			h.after(DefaultGoneAfter - 1)
			h.canary()
		}, Suspect},
		{"a suspect by silence has its whole bound", func(h *hearing) {
			h.after(3 * time.Second)
			h.canary()
			h.after(DefaultGoneAfter - 3*time.Second - 1)
			h.canary()
		}, Suspect},
		{"but no more than it", func(h *hearing) {
			h.after(3 * time.Second)
			h.canary()
			h.after(DefaultGoneAfter - 3*time.Second)
			h.canary()
		}, ""},
		{"a suspect by silence that says the same again is alive", func(h *hearing) {
			h.after(3 * time.Second)
			h.canary()
			h.beats(web1())
		}, Alive},
		{"a suspect by silence whose connection closes has a moment", func(h *hearing) {
			h.after(3 * time.Second)
			h.canary()
			h.closing(Conn{"s", 1})
			h.after(DisconnectGrace - 1)
			h.canary()
		}, Suspect},
		{"and no more, though its bound is longer", func(h *hearing) {
			h.after(3 * time.Second)
			h.canary()
			h.closing(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.canary()
		}, ""},
		{"blindness gives a suspect by silence its whole bound anew", func(h *hearing) {
			h.after(3 * time.Second)
			h.canary()
			h.after(time.Hour)
			h.blind()
			h.after(DefaultGoneAfter - 1)
			h.canary()
		}, Suspect},
		{"who said goodbye is not suspected", func(h *hearing) {
			h.beats(web1(leaving))
			h.after(3 * time.Second)
			h.canary()
		}, Left},
		{"silence as long as its bound is the end", func(h *hearing) {
			h.after(DefaultGoneAfter)
			h.canary()
		}, ""},
		{"silence that no canary tells of is nothing", func(h *hearing) {
			h.after(time.Hour)
		}, Alive},
		{"a node that beats slowly has three and a half beats", func(h *hearing) {
			h.beats(web1(every(10 * time.Second)))
			h.after(35*time.Second - 1)
			h.canary()
		}, Suspect},
		{"of which two and a half are nothing", func(h *hearing) {
			h.beats(web1(every(10 * time.Second)))
			h.after(25 * time.Second)
			h.canary()
		}, Alive},
		{"but no more", func(h *hearing) {
			h.beats(web1(every(10 * time.Second)))
			h.after(35 * time.Second)
			h.canary()
		}, ""},
		{"an unchanged beat renews the lease", func(h *hearing) {
			h.after(9 * time.Second)
			h.beats(web1())
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
		{"blindness gives everybody the whole time anew", func(h *hearing) {
			h.after(time.Hour)
			h.blind()
			h.after(DefaultGoneAfter - 1)
			h.canary()
		}, Suspect},
		{"and suspects nobody by itself", func(h *hearing) {
			h.after(time.Hour)
			h.blind()
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
		{"blindness saves nobody for ever", func(h *hearing) {
			h.blind()
			h.after(DefaultGoneAfter)
			h.canary()
		}, ""},
		{"its connection closed", func(h *hearing) {
			h.closing(Conn{"s", 1})
		}, Suspect},
		{"a suspect has a moment", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.after(DisconnectGrace - 1)
			h.canary()
		}, Suspect},
		{"a suspect is gone after it", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.canary()
		}, ""},
		{"a suspect that is heard on another connection is alive", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.beats(web1(onConn(2)))
			h.after(DisconnectGrace)
			h.canary()
		}, Alive},
		{"a late beat of a closed connection revives nobody", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.beats(web1(), web1(notReady))
		}, Suspect},
		{"nor brings it back", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.canary()
			h.beats(web1(), web1(notReady))
		}, ""},
		{"but its last words count, when the closing overtakes them", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.beats(web1(backWithin(time.Minute)), web1())
			h.after(time.Minute - 1)
			h.canary()
		}, Restarting},
		{"and so does its goodbye", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.beats(web1(leaving))
		}, ""},
		{"unless it is heard on another connection", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.beats(web1(onConn(2)), web1(leaving))
		}, Alive},
		{"a connection that closed before its first beat was heard is closed", func(h *hearing) {
			h.closing(Conn{"s", 2})
			h.beats(web1(onConn(2), notReady))
			if h.node("web1").conn != (Conn{"s", 1}) {
				h.t.Errorf("the beat of the closed connection was taken")
			}
		}, Alive},
		{"a former connection that closes says nothing", func(h *hearing) {
			h.beats(web1(onConn(2)))
			h.closing(Conn{"s", 1})
		}, Alive},
		{"the same client number at another server is another connection", func(h *hearing) {
			h.closing(Conn{"t", 1})
		}, Alive},
		{"blindness gives a suspect the whole time anew", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.after(DisconnectGrace)
			h.blind()
			h.canary()
		}, Suspect},
		{"facts of a suspect revive nobody", func(h *hearing) {
			h.closing(Conn{"s", 1})
			h.facts(web1(), isWeb)
			h.after(DisconnectGrace)
			h.canary()
		}, ""},
		{"goodbye", func(h *hearing) { h.beats(web1(leaving)) }, Left},
		{"a node that said goodbye is there as long as it is heard", func(h *hearing) {
			h.beats(web1(leaving))
			h.after(DefaultGoneAfter)
			h.canary()
		}, ""},
		{"a node that said goodbye and closed its connection is gone at once", func(h *hearing) {
			h.beats(web1(leaving))
			h.closing(Conn{"s", 1})
		}, ""},
		{"an agent that says goodbye no more is alive", func(h *hearing) {
			h.beats(web1(leaving), web1(onConn(2)))
		}, Alive},
		{"back soon", func(h *hearing) { h.beats(web1(backWithin(time.Minute))) }, Restarting},
		{"back soon outlives silence and a closed connection", func(h *hearing) {
			h.beats(web1(backWithin(time.Minute)))
			h.closing(Conn{"s", 1})
			h.after(time.Minute - 1)
			h.canary()
		}, Restarting},
		{"but not its time", func(h *hearing) {
			h.beats(web1(backWithin(30 * time.Second)))
			h.after(30 * time.Second)
			h.canary()
		}, ""},
		{"nor a minute", func(h *hearing) {
			h.beats(web1(backWithin(time.Hour)))
			h.after(MaxRestart)
			h.canary()
		}, ""},
		{"whatever it says", func(h *hearing) {
			h.beats(web1(func(b *Beat) { b.RestartWithin = 1 << 62 }))
			h.after(MaxRestart - 1)
			h.canary()
		}, Restarting},
		{"blindness shortens no promise to be back", func(h *hearing) {
			h.beats(web1(backWithin(time.Minute)))
			h.blind()
			h.after(time.Minute - 1)
			h.canary()
		}, Restarting},
		{"back", func(h *hearing) {
			h.beats(web1(backWithin(time.Minute)))
			h.closing(Conn{"s", 1})
			h.beats(web1(onConn(2)))
			h.after(2500 * time.Millisecond)
			h.canary()
		}, Alive},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newHearing(t)
			h.beats(web1())
			c.story(h)
			if got := h.life(); got != c.want {
				t.Errorf("web1 is %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhoBearsAName(t *testing.T) {
	for _, c := range []struct {
		claim    string
		story    func(*hearing) error
		instance string
		boot     string
		refused  bool
		why      string // of the last change
	}{
		{"a newer boot replaces the old at once", func(h *hearing) error {
			h.beats(web1(ofBoot("b2"), onConn(2)))
			return nil
		}, "m1", "b2", false, "booted again"},
		{"a late beat of a boot that is over is nothing", func(h *hearing) error {
			h.beats(web1(ofBoot("b2"), onConn(2)), web1())
			return nil
		}, "m1", "b2", false, "booted again"},
		{"nor are those of the boots before it", func(h *hearing) error {
			h.beats(web1(ofBoot("b2")), web1(ofBoot("b3")), web1(ofBoot("b4")), web1(ofBoot("b5")), web1(ofBoot("b2")), web1())
			return nil
		}, "m1", "b5", false, "booted again"},
		{"one that goes on and on is another machine with the same machine id", func(h *hearing) error {
			h.beats(web1(ofBoot("b2"), onConn(2)))
			h.after(cloneAfter + 1)
			_, err := h.beat(web1())
			return err
		}, "m1", "b2", true, "booted again"},
		{"another instance is refused while the first one beats", func(h *hearing) error {
			h.after(2 * time.Second)
			h.canary()
			_, err := h.beat(web1(ofInstance("m2"), onConn(2)))
			return err
		}, "m1", "b1", true, ""},
		{"silence that no canary tells of is no missed beat", func(h *hearing) error {
			h.after(9 * time.Second)
			_, err := h.beat(web1(ofInstance("m2"), onConn(2)))
			return err
		}, "m1", "b1", true, ""},
		{"another instance takes over when the first one missed its beat", func(h *hearing) error {
			h.after(2501 * time.Millisecond)
			h.canary()
			h.beats(web1(ofInstance("m2"), onConn(2)))
			return nil
		}, "m2", "b1 of m2", false, "another instance bears the name"},
		{"and when its connection closed", func(h *hearing) error {
			h.closing(Conn{"s", 1})
			h.beats(web1(ofInstance("m2"), onConn(2)))
			return nil
		}, "m2", "b1 of m2", false, "another instance bears the name"},
		{"and when it said goodbye", func(h *hearing) error {
			h.beats(web1(leaving), web1(ofInstance("m2"), onConn(2)))
			return nil
		}, "m2", "b1 of m2", false, "another instance bears the name"},
		{"the first one does not take it back", func(h *hearing) error {
			h.after(3 * time.Second)
			h.canary()
			h.beats(web1(ofInstance("m2"), onConn(2)))
			_, err := h.beat(web1())
			return err
		}, "m2", "b1 of m2", true, ""},
		{"blindness is no missed beat", func(h *hearing) error {
			h.after(time.Minute)
			h.blind()
			_, err := h.beat(web1(ofInstance("m2"), onConn(2)))
			return err
		}, "m1", "b1", true, ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newHearing(t)
			h.beats(web1())
			err := c.story(h)
			if (err != nil) != c.refused {
				t.Fatalf("error %v, want one: %t", err, c.refused)
			}
			if n := h.node("web1"); n.Instance != c.instance || n.Boot != c.boot {
				t.Errorf("the name is borne by %s of %s, want %s of %s", n.Boot, n.Instance, c.boot, c.instance)
			}
		})
	}
}

func TestConflictNamesBothInstances(t *testing.T) {
	h := newHearing(t)
	h.beats(web1())
	_, err := h.beat(web1(ofInstance("m2")))
	if conflict := (*Conflict)(nil); !errors.As(err, &conflict) || *conflict != (Conflict{Node: "web1", Accepted: "m1", Rejected: "m2"}) {
		t.Errorf("error %v, want a conflict of m1 and m2 over web1", err)
	}
}

func TestFactsOfANode(t *testing.T) {
	for _, c := range []struct {
		claim  string
		story  func(*hearing)
		want   Facts
		wanted bool // it is to be asked
	}{
		{"are asked for when nothing but their digest is known", func(*hearing) {}, nil, true},
		{"are attached when they come", func(h *hearing) { h.facts(web1(), isWeb) }, isWeb, false},
		{"of another digest are not", func(h *hearing) { h.facts(web1(), isDB) }, nil, true},
		{"of another boot are not", func(h *hearing) { h.facts(web1(ofBoot("b0")), isWeb) }, nil, true},
		{"of another instance are not", func(h *hearing) { h.facts(web1(ofInstance("m2")), isWeb) }, nil, true},
		{"stay until the new ones arrive", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.beats(web1(announcing(isDB)))
		}, isWeb, true},
		{"that came before the beat which announces them are taken with it", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.facts(web1(), isDB)
			h.beats(web1(announcing(isDB)))
		}, isDB, false},
		{"are kept for a beat that is a moment late", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.facts(web1(), isDB)
			h.after(time.Second)
			h.canary()
			h.beats(web1(announcing(isDB)))
		}, isDB, false},
		{"that nobody announces are forgotten", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.facts(web1(), isDB)
			h.after(askAgain + 1)
			h.canary()
			h.beats(web1(announcing(isDB)))
		}, isWeb, true},
		{"that turned back before they were sent are not asked for", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.beats(web1(announcing(isDB)), web1())
		}, isWeb, false},
		{"outlive a boot that did not change them", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.beats(web1(ofBoot("b2")))
		}, isWeb, false},
		{"do not outlive a boot that changed them", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.beats(web1(ofBoot("b2"), announcing(isDB)))
		}, nil, true},
		{"are not another instance's, even if it announces the same", func(h *hearing) {
			h.facts(web1(), isWeb)
			h.closing(Conn{"s", 1})
			h.beats(web1(ofInstance("m2"), onConn(2)))
		}, nil, true},
		{"that are none are known", func(h *hearing) {
			h.beats(web1(announcing(Facts{})))
			h.facts(web1(), Facts{})
		}, Facts{}, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newHearing(t)
			h.beats(web1())
			c.story(h)
			n := h.node("web1")
			if diff := cmp.Diff(c.want, n.Facts); diff != "" {
				t.Errorf("want -, have +:\n%s", diff)
			}
			if got := len(h.FactsToRequest(h.now)) == 1; got != c.wanted {
				t.Errorf("it is to be asked for its facts: %t, want %t", got, c.wanted)
			}
			if n.Eligible() != (n.Facts != nil) {
				t.Errorf("serving: %t with facts %v", n.Eligible(), n.Facts)
			}
		})
	}
}

func TestServingIsToBeReadyKnownAndThere(t *testing.T) {
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
			t.Errorf("%+v: serving %t, want %t", c.node, got, c.want)
		}
	}
}

func TestFewFactsAreAskedForAtOnce(t *testing.T) {
	h := newHearing(t)
	const nodes = 3 * maxAsked
	for i := range nodes {
		h.beats(web1(ofNode(fmt.Sprint("n", i)), onConn(uint64(i))))
	}
	asked := h.FactsToRequest(h.now)
	if len(asked) != maxAsked {
		t.Fatalf("%d are asked at once, want %d", len(asked), maxAsked)
	}
	if more := h.FactsToRequest(h.now); len(more) != 0 {
		t.Fatalf("%d more are asked while none has answered", len(more))
	}
	for _, name := range asked[:10] {
		h.facts(web1(ofNode(name)), isWeb)
	}
	if more := h.FactsToRequest(h.now); len(more) != 10 {
		t.Errorf("%d more are asked after 10 have answered", len(more))
	}
	for turns := 0; len(h.asked) > 0; turns++ {
		if turns > 10 {
			t.Fatalf("%d facts are still missing", len(h.asked))
		}
		h.after(askAgain)
		for _, name := range h.FactsToRequest(h.now) {
			h.facts(web1(ofNode(name)), isWeb)
		}
	}
}

func TestRoleOfANodeKeepsItsGoneAfter(t *testing.T) {
	h := newHearing(t)
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
	if len(changes) != 2 || changes[1].Before.Name != "web1" || changes[1].After != nil || changes[1].Why != "silent for 4.0 s" {
		t.Fatalf("after 4 s: %+v, want web1 gone", changes)
	}
	if db1 := changes[0]; db1.Before.Name != "db1" || db1.After == nil || db1.After.Life != Suspect {
		t.Errorf("after 4 s: %+v, want db1 no more than suspect", db1)
	}
}

func TestWhoIsSilentIsAskedForABeatOnce(t *testing.T) {
	h := newHearing(t)
	h.beats(web1(), web1(ofNode("web2"), onConn(2)), web1(ofNode("web3"), onConn(3)), web1(ofNode("web4"), onConn(4), leaving))
	h.closing(Conn{"s", 2}) // that is a fact, and needs no question
	h.after(3 * time.Second)
	h.beats(web1(ofNode("web3"), onConn(3)))
	h.canary()
	if got := h.NewSuspects(); !slices.Equal(got, []string{"web1"}) {
		t.Errorf("%q are asked for a beat, want web1, which alone is silent", got)
	}
	h.after(time.Second)
	h.canary()
	if got := h.NewSuspects(); len(got) != 0 {
		t.Errorf("%q are asked for a beat again", got)
	}
	h.beats(web1())
	h.after(3 * time.Second)
	h.canary()
	if got := h.NewSuspects(); !slices.Contains(got, "web1") {
		t.Errorf("%q are asked for a beat, want web1, which was heard and is silent again", got)
	}
}

func TestUnchangedBeatWritesNoRow(t *testing.T) {
	h := newHearing(t)
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
		t.Error("the row was written anew")
	}
	select {
	case <-watch:
		t.Error("whoever watches the row was woken")
	default:
	}
	if raw := encode(web1(notReady)); h.leases.same("web1", raw, h.now) {
		t.Error("a beat that says something new passed for an unchanged one")
	}
}

func TestSnapshotNeverChanges(t *testing.T) {
	h := newHearing(t)
	h.beats(web1())
	s := h.Snapshot()
	h.beats(web1(notReady), web1(ofNode("web2")))
	if n := s.Node("web1"); !n.Ready || s.Len() != 1 || s.Node("web2") != nil {
		t.Errorf("the snapshot has %d nodes, web1 ready %t: want it as it was", s.Len(), n.Ready)
	}
	if s := h.Snapshot(); s.Node("web1").Ready || s.Len() != 2 {
		t.Error("a new snapshot lacks what was heard since")
	}
}

func TestSinceAndJoinedAreKept(t *testing.T) {
	h := newHearing(t)
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

func TestNodeIsSuspectSinceTheFirstSuspicion(t *testing.T) {
	h := newHearing(t)
	h.beats(web1())
	h.after(3 * time.Second)
	h.canary()
	first := h.now
	h.after(time.Second)
	h.closing(Conn{"s", 1})
	if n := h.node("web1"); n.Life != Suspect || n.Since != first {
		t.Errorf("%s since %s, want suspect since it was silent, %s", n.Life, n.Since, first)
	}
}

func TestAfterBlindnessNodesMayComeBackOneByOneForTwoMinutes(t *testing.T) {
	h := newHearing(t)
	h.beats(web1())
	other := func(i int) Beat { return web1(ofNode(fmt.Sprint("other", i)), onConn(uint64(i+2))) }
	const others = 16 // one every 9 s: when the last ones come it is too late
	for i := range others {
		h.beats(other(i))
	}
	h.after(time.Second)
	h.blind()
	began := h.now
	for n := range others {
		h.after(9 * time.Second)
		for i := range n + 1 {
			h.beats(other(i))
		}
		h.canary()
		if here, want := h.life() != "", h.now.Sub(began) < 2*time.Minute+DefaultGoneAfter; here != want {
			t.Fatalf("%s after the blindness web1, which was not heard since, is a node: %t, want %t", h.now.Sub(began), here, want)
		}
	}
}

func TestNodesWithOneConnectionDoNotTakeItFromEachOther(t *testing.T) {
	h := newHearing(t)
	h.beats(web1(), web1(ofNode("web2")), web1(onConn(2)))
	h.closing(Conn{"s", 1})
	if n := h.node("web2"); n.Life != Suspect {
		t.Errorf("web2, whose connection closed, is %s", n.Life)
	}
	if n := h.node("web1"); n.Life != Alive {
		t.Errorf("web1, which has another, is %s", n.Life)
	}
}

func TestFactsWithoutABeatAreKeptForFew(t *testing.T) {
	h := newHearing(t)
	for i := range maxPending {
		h.facts(web1(ofNode(fmt.Sprint("n", i))), isWeb)
	}
	_, err := h.Apply(Received{At: h.now, Facts: &FactsMessage{Node: "one-more", Facts: isWeb}})
	if err == nil {
		t.Errorf("the facts of %d nodes without a heartbeat are kept", len(h.pending))
	}
	h.after(askAgain + 1)
	h.canary()
	if len(h.pending) != 0 {
		t.Errorf("the facts of %d nodes are kept for ever", len(h.pending))
	}
}

func TestRefusedMessageChangesNothing(t *testing.T) {
	h := newHearing(t)
	refused := fmt.Errorf("garbage")
	if changes, err := h.Apply(Received{At: h.now, Invalid: refused}); err != refused || changes != nil {
		t.Errorf("%v, %v: want the refusal alone", changes, err)
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

func TestNodeWhoseAgentWasStartedAgainIsReadyUntilItsServiceWasChecked(t *testing.T) {
	checking := func(b *Beat) { b.Ready, b.Checking, b.NotReady = false, true, "not checked yet" }
	leaving := func(b *Beat) { b.Leaving = true }
	for _, c := range []struct {
		claim string
		beats []Beat
		want  bool
	}{
		{"it was ready", []Beat{web1(), web1(checking, onConn(2))}, true},
		{"and was not since its check", []Beat{web1(), web1(checking, onConn(2)), web1(notReady, onConn(2))}, false},
		{"however often it is started", []Beat{web1(), web1(checking, onConn(2)), web1(checking, onConn(3))}, true},
		{"it was not ready", []Beat{web1(notReady), web1(checking, onConn(2))}, false},
		{"nobody knew it", []Beat{web1(checking)}, false},
		{"the machine was started again", []Beat{web1(), web1(checking, ofBoot("b2"), onConn(2))}, false},
		{"it had said goodbye", []Beat{web1(leaving), web1(checking, onConn(2))}, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newHearing(t)
			h.beats(c.beats...)
			if n := h.node("web1"); n.Ready != c.want || n.Checking != (!c.want && c.beats[len(c.beats)-1].Checking) || n.Ready == (n.NotReady != "") && n.Checking {
				t.Errorf("%+v, want ready: %t", n, c.want)
			}
		})
	}
}

// The model: what an inventory must hold after any sequence of things heard.

type modelNode struct {
	beat  Beat
	heard time.Time // as far as silence is counted
	beats time.Time // was heard
	life  Life
	until time.Time
	boots []string // that are over
	facts string   // digest of those known, "" none
}

type model struct {
	*hearing
	nodes  map[string]*modelNode
	closed map[Conn]bool
	canary time.Time
	blind  time.Time        // last
	away   int              // not heard since, when the last canary came
	rows   map[string]*Node // after the last change
	counts map[string]int
}

const modelGoneAfter = 4 * time.Second

func TestInventoryAgreesWithItsModel(t *testing.T) {
	total := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{hearing: newHearing(t), nodes: map[string]*modelNode{}, closed: map[Conn]bool{}, rows: map[string]*Node{}, counts: total}
		m.GoneAfter = func(*Node) time.Duration { return modelGoneAfter }
		m.Inventory.leases.canary = m.now
		m.canary = m.now
		t.Repeat(map[string]func(*rapid.T){
			"beat":       m.drawBeat,
			"beat again": m.drawSame,
			"last words": m.drawLastWords,
			"facts":      m.drawFacts,
			"close":      m.drawClosing,
			"blind":      func(t *rapid.T) { m.drawBlind() },
			"canary":     func(t *rapid.T) { m.drawCanary() },
			"hush": func(t *rapid.T) { // long enough to be suspect, not to be gone
				m.after(time.Duration(rapid.IntRange(2501, 3500).Draw(t, "ms")) * time.Millisecond)
				m.drawCanary()
			},
			"time": func(t *rapid.T) { m.after(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond) },
			"":     func(t *rapid.T) { m.check() },
		})
		m.hearing.after(5 * time.Minute)
		m.drawCanary()
		m.check()
		for what, n := range map[string]int{
			"nodes": m.Snapshot().Len(), "leases": m.leases.len(), "byConn": len(m.byConn), "waiting": len(m.waiting),
			"closed": len(m.Inventory.closed), "pending": len(m.pending), "asked": len(m.asked),
		} {
			if n != 0 {
				t.Errorf("%s: %d are left when nobody is heard any more", what, n)
			}
		}
	})
	for _, what := range []string{"joined", "suspect: silent", "suspect: closed", "revived", "gone: silent", "gone: suspect", "gone: restarting", "gone: left", "late", "last words", "conflict", "old boot", "replaced", "took over", "attached", "unchanged", "returning"} {
		if total[what] == 0 {
			t.Errorf("%q never happened: the test shows less than it says; %v", what, total)
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
		b.RestartWithin = rapid.Int64Range(1, 100_000).Draw(t, "back within")
	}
	m.tell(b)
}

func (m *model) drawSame(t *rapid.T) {
	if len(m.nodes) == 0 {
		return
	}
	m.tell(m.nodes[rapid.SampledFrom(slices.Sorted(maps.Keys(m.nodes))).Draw(t, "node")].beat)
}

// drawLastWords is a goodbye, or a back soon, over the connection that a node had, whether or not that is closed.
func (m *model) drawLastWords(t *rapid.T) {
	if len(m.nodes) == 0 {
		return
	}
	b := m.nodes[rapid.SampledFrom(slices.Sorted(maps.Keys(m.nodes))).Draw(t, "node")].beat
	b.Leaving, b.RestartWithin = rapid.Bool().Draw(t, "leaving"), 30_000
	m.tell(b)
}

func (m *model) tell(b Beat) {
	was := m.nodes[b.Node]
	if lease := m.leases.byNode[b.Node]; lease != nil && string(lease.beat) == string(encode(b)) {
		m.seen("unchanged")
		if changes, err := m.beat(b); len(changes) > 0 || err != nil || !cmp.Equal(was.beat, b) {
			m.t.Fatalf("%+v after %+v: taken for unchanged, %+v, %v", b, was.beat, changes, err)
		}
		was.heard, was.beats = m.now, m.now
		return
	}
	changes, err := m.beat(b)
	quiet := func(what string) {
		m.seen(what)
		if len(changes) > 0 {
			m.t.Fatalf("%s: %+v changed %+v", what, b, changes)
		}
	}
	lastWords := m.closed[b.Conn] && was != nil && was.life == Suspect && was.beat.Conn == b.Conn && (b.Leaving || b.RestartWithin > 0) &&
		was.beat.Instance == b.Instance && was.beat.Boot == b.Boot
	switch {
	case m.closed[b.Conn] && !lastWords:
		quiet("late")
		return
	case was != nil && was.beat.Instance != b.Instance && was.life == Alive && m.canary.Sub(was.heard) <= 2500*time.Millisecond:
		quiet("conflict")
		if err == nil {
			m.t.Fatalf("%+v: taken, though %+v bears the name", b, was.beat)
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
	next := &modelNode{beat: b, heard: m.now, beats: m.now, life: Alive}
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
	if p, ok := m.pendingBefore(b); ok && next.facts != b.Facts {
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
	if lastWords {
		m.seen("last words")
		if b.Leaving { // and its connection is closed
			delete(m.nodes, b.Node)
		}
	}
	m.follow(changes)
}

// pendingBefore asks the row itself whether facts that came first were attached: what may be attached is checked in follow.
func (m *model) pendingBefore(b Beat) (string, bool) {
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
	changes := m.take(Received{Facts: &FactsMessage{V: Version, Node: b.Node, Instance: b.Instance, Boot: b.Boot, Facts: f}})
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

func (m *model) drawClosing(t *rapid.T) {
	c := Conn{"s", rapid.Uint64Range(1, 8).Draw(t, "conn")}
	m.closed[c] = true
	changes := m.closing(c)
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

func (m *model) drawBlind() {
	m.hearing.blind()
	m.canary, m.blind = m.now, m.now
	m.away = m.unheard()
	m.renewed()
}

// unheard is how many nodes were not heard since the listener was blind.
func (m *model) unheard() int {
	n := 0
	for _, node := range m.nodes {
		if node.beats.Before(m.blind) {
			n++
		}
	}
	return n
}

func (m *model) renewed() {
	for name, n := range m.nodes {
		n.heard = m.now
		if !n.until.IsZero() && n.until.Before(m.now.Add(modelGoneAfter)) {
			n.until = m.now.Add(modelGoneAfter)
		}
		m.rows[name] = m.node(name)
	}
}

func (m *model) drawCanary() {
	changes := m.hearing.canary()
	m.canary = m.now
	if m.away > 0 && m.now.Sub(m.blind) <= returnWithin {
		away := m.unheard()
		if away < m.away {
			m.seen("returning")
			m.renewed()
		}
		m.away = away
	}
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
	if probed := m.NewSuspects(); !slices.Equal(slices.Sorted(slices.Values(probed)), slices.Sorted(maps.Keys(suspected))) {
		m.t.Fatalf("%q are asked for a beat, and the suspects are %v", probed, suspected)
	}
	for name, n := range m.nodes {
		late := m.now.Sub(n.heard) >= modelGoneAfter
		if !n.until.IsZero() {
			late = !m.now.Before(n.until)
		}
		if late != gone[name] {
			m.t.Fatalf("%s is %s, heard %s ago, until %s: gone %t, want %t", name, n.life, m.now.Sub(n.heard), n.until, gone[name], late)
		}
		silent := !late && n.life == Alive && m.now.Sub(n.heard) > 2500*time.Millisecond
		if silent != suspected[name] {
			m.t.Fatalf("%s is %s, heard %s ago: suspected %t, want %t", name, n.life, m.now.Sub(n.heard), suspected[name], silent)
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
		if _, kept := m.Inventory.closed[c]; !kept {
			delete(m.closed, c) // for how long is for TestLateBeatsAreKnownForAMinute to say
		}
	}
}

// follow takes over changes: each begins where the one before it ended, and attaches no facts but those announced.
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
	waiting := map[string]time.Time{}
	for name, n := range m.nodes {
		want[name] = n.life
		if !n.until.IsZero() {
			waiting[name] = n.until
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
			if lease := m.leases.byNode[n.Name]; lease == nil || lease.heard != mn.beats {
				m.t.Fatalf("the lease of %s is %+v, want it heard %s", n.Name, lease, mn.beats)
			}
		}
		if m.rows[n.Name] != n {
			m.t.Fatalf("%s is %+v, and no change said so", n.Name, n)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Fatalf("the nodes: want -, have +:\n%s", diff)
	}
	if len(got) != m.leases.len() {
		m.t.Fatalf("%d nodes, %d leases", len(got), m.leases.len())
	}
	if diff := cmp.Diff(waiting, m.waiting); diff != "" {
		m.t.Fatalf("waited for: want -, have +:\n%s", diff)
	}
	for conn, name := range m.byConn {
		if n := m.node(name); n == nil || n.conn != conn {
			m.t.Fatalf("%v is said to be the connection of %s, which is %+v", conn, name, n)
		}
	}
	for name := range m.asked {
		if n := m.node(name); n == nil || n.Facts != nil && n.Facts.Digest() == n.digest {
			m.t.Fatalf("%s is asked for facts, and is %+v", name, n)
		}
	}
}

func TestLateBeatsAreKnownForAMinute(t *testing.T) {
	h := newHearing(t)
	h.closing(Conn{"s", 1})
	h.after(closedMemory)
	h.canary()
	h.beats(web1())
	if got := h.life(); got != "" {
		t.Errorf("a late beat made web1 %s", got)
	}
	h.after(1)
	h.canary()
	h.beats(web1())
	if got := h.life(); got != Alive {
		t.Errorf("a connection's number is refused for ever: web1 is %q", got)
	}
}

func TestEndlessChurnLeavesNothing(t *testing.T) {
	h := newHearing(t)
	for i := range 10_000 {
		b := web1(ofNode(fmt.Sprint("n", i)), onConn(uint64(i)))
		h.facts(b, isWeb)
		h.beats(b)
		if i%2 == 0 {
			h.closing(b.Conn)
		}
		if i%100 == 0 {
			h.after(time.Second)
			h.canary()
		}
		if n := h.Snapshot().Len(); n > 1_200 {
			t.Fatalf("%d nodes are kept of 100 that come in a second", n)
		}
	}
	h.after(2 * time.Minute)
	h.canary()
	if n := len(h.byConn) + len(h.waiting) + len(h.closed) + len(h.pending) + len(h.asked) + h.leases.len() + h.Snapshot().Len(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}
