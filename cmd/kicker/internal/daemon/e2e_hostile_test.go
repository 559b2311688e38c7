package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

func TestBusBeyondLoopbackNeedsAToken(t *testing.T) {
	s := newSite(t, append(swift, "log: {level: debug}")...)
	rejected := s.expect(exitFailed, []string{"listen: 0.0.0.0:0", "token_file", "--insecure"}, "controller", "--listen",
		"0.0.0.0:0", "--state-dir", s.path("controller"))
	if rejected.stdout != "" {
		t.Errorf("stdout is %q, want nothing", rejected.stdout)
	}

	s.controller("--listen", strings.Replace(s.bus, "127.0.0.1", "0.0.0.0", 1), "--token-file", s.path("secret"))
	s.until("a token", func() string { return unlike(s.path("secret"), func(text string) bool { return text != "" }) })
	if info, err := os.Stat(s.path("secret")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token file: %v, %v; want mode 0600", info, err)
	}
	s.write("wrong", "guess\n")
	strangers := []*daemon{s.agent("tokenless", "--role", "web"),
		s.agent("guesser", "--role", "web", "--token-file", s.path("wrong"))}
	s.agent("member", "--role", "web", "--token-file", s.path("secret"))
	for _, d := range strangers {
		s.until(d.name+" is rejected and tries again", func() string {
			return unlike(d.log, func(log string) bool {
				return strings.Count(log, "the bus rejects this node: token_file") > 2
			})
		})
		if !d.running() {
			t.Errorf("%s ended", d.name)
		}
	}
	s.converged(1)
	if got := s.members("web"); !slices.Equal(got, []string{"member"}) {
		t.Errorf("members are %v, want the one with the token", got)
	}
	s.expect(exitUnreachable, []string{"token_file"}, "leave", "--name", "member")
}

// unlike is what is in a file, if that is not so.
func unlike(path string, so func(text string) bool) string {
	text, err := os.ReadFile(path)
	return objection(err != nil || !so(string(text)), string(text))
}

func TestStrangerOnTheBusCanNotKick(t *testing.T) {
	s := newSite(t, swift...)
	s.controller()
	lb := s.configurer("lb", "web")
	s.member("web1", "web")
	s.converged(2)
	runs := len(lb.record())

	stranger := s.stranger()
	var node api.Node
	if err := s.ask("/v1/nodes/lb", &node); err != nil {
		t.Fatal(err)
	}
	status, err := kick.ParseStatus(node.Kick)
	if err != nil {
		t.Fatal(err)
	}
	order := kick.Kick{V: kick.Version, ID: "evil", Controller: status.Controller, Epoch: status.Epoch, Node: "lb",
		Action: "configure", Reason: "evil", Ordered: true}
	order.Needs = []kick.Membership{{Role: "web",
		Revision: kick.Revision{Epoch: status.Epoch, N: math.MaxInt32, Hash: kick.Hash(nil)}}}
	data, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	for what, message := range map[string][]byte{
		"kick.lb": data, "kick.lb.x": data,
		"controller":             []byte(`{"v": 2, "id": "evil", "epoch": 4000000000000, "pace_ms": 60000}`),
		"report":                 []byte(`{"v": 2, "splay_ms": 0}`),
		"heartbeat._canary.evil": nil,
	} {
		stranger.send(what, message)
		stranger.flush()
		if err := stranger.LastError(); !errors.Is(err, nats.ErrPermissionViolation) ||
			!strings.Contains(err.Error(), fmt.Sprintf("%q", stranger.subject(what))) {
			t.Errorf("publishing on %s: %v, want it rejected", what, err)
		}
	}
	s.expect(0, nil, "kick", "node/lb", "--wait") // earlier messages have been received by now
	if got := lb.record(); len(got) != runs+1 || slices.ContainsFunc(got, func(r ran) bool { return r.id == "evil" }) {
		t.Errorf("after a kick by a stranger and one by the operator the runs are %+v, want one more than %d", got,
			runs)
	}
}

// stranger is a connection to the bus like that of a node.
type stranger struct {
	*site
	*nats.Conn
}

func (s *site) stranger() stranger {
	s.t.Helper()
	// else the client prints them
	nc, err := nats.Connect("nats://"+s.bus, nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return stranger{s, nc}
}

func (s stranger) subject(what string) string { return "kicker." + s.cluster + "." + what }

func (s stranger) send(what string, message []byte) {
	s.t.Helper()
	if err := s.Publish(s.subject(what), message); err != nil {
		s.t.Fatal(err)
	}
}

// flush returns when the bus has received everything.
func (s stranger) flush() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := s.FlushWithContext(ctx); err != nil {
		s.t.Fatal(err)
	}
}

func TestGarbageOnTheBusChangesNothing(t *testing.T) {
	const messages, visitors = 30_000, 50
	s := newSite(t, append(swift, "gone_after: 3500ms")...)
	ctl := s.controller()
	lb := s.configurer("lb", "web")
	web1 := s.member("web1", "web")
	s.converged(2)
	runs, memory := len(lb.record()), s.resident(ctl)

	stranger, garbage := s.stranger(), newGarbage("lb", "web1")
	for range messages {
		stranger.send(garbage.next())
	}
	stranger.flush()
	for range 40 {
		stranger.send("facts.lb",
			fmt.Appendf(nil, `{"v": 2, "node": "lb", "instance": "i", "boot": "b", "facts": {"big": %q}}`,
				strings.Repeat("x", 1<<20-200)))
		stranger.flush() // so that the server keeps little for slow readers
	}
	for i := range visitors {
		name := fmt.Sprintf("visitor%d", i)
		stranger.send("heartbeat."+name,
			fmt.Appendf(nil, `{"v": 2, "node": %q, "instance": "i", "boot": "b", "facts": "", "ready": true, "next_in_ms": 1000}`, name))
	}
	stranger.flush()

	s.until("invalid messages are counted", func() string {
		var st api.Status
		err := s.ask("/v1/status", &st)
		return objection(err != nil || st.InvalidMessages < messages/3, st.InvalidMessages)
	})
	s.until("the visitors come and go", func() string {
		var events []api.Event
		err := s.ask("/v1/events", &events)
		gone := 0
		for _, e := range events {
			switch visitor := strings.HasPrefix(e.Node, "visitor"); {
			case visitor && e.Kind == api.EventGone:
				gone++
			case e.Kind == api.EventJoined && !visitor && e.Node != "lb" && e.Node != "web1":
				t.Fatalf("garbage joined as node %s", e.Node)
			}
		}
		return objection(err != nil || gone < visitors, gone)
	})
	s.converged(2)
	s.expect(0, nil, "status", "--check")
	if got, want := s.expect(0, nil, "inventory", "-o", "name").stdout, "node/lb\nnode/web1\n"; got != want {
		t.Errorf("the inventory is %q, want %q", got, want)
	}
	if got := len(lb.record()); got != runs {
		t.Errorf("garbage caused %d runs", got-runs)
	}
	for _, d := range []*daemon{ctl, web1, lb.agent} {
		if !d.running() {
			t.Errorf("%s has ended", d.name)
		}
	}
	const most = 256 // MiB; the race detector needs several times as much
	if now := s.resident(ctl); now > memory+most {
		t.Errorf("the controller grew from %d to %d MiB", memory, now)
	}
	s.member("web2", "web")
	s.until("lb gets web2", func() string {
		record := lb.record()
		return objection(record[len(record)-1].members != "web1,web2", record)
	})
}

// resident is a daemon's memory, in MiB.
func (s *site) resident(d *daemon) int {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	var kib int
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		s.t.Fatal(err)
	}
	return kib >> 10
}

// garbage is invalid messages, about nodes that exist and others.
type garbage struct {
	rand  *rand.Rand
	nodes []string
}

func newGarbage(nodes ...string) *garbage {
	return &garbage{rand.New(rand.NewPCG(1, 2)),
		append(nodes, "unknown", "UPPER", "_canary.x", "a.b.c", strings.Repeat("n", 254))}
}

// next is one more message and its subject.
func (g *garbage) next() (subject string, message []byte) {
	node := g.one(g.nodes...)
	return g.one("heartbeat.", "facts.", "result.", "node.", "nonsense.", "") + node, g.spoil(g.sound(node))
}

// sound is a valid message, but never a valid heartbeat.
func (g *garbage) sound(node string) []byte {
	data, err := json.Marshal([]any{
		inventory.Beat{V: inventory.Version, Node: node, Instance: "i", Boot: "b", NextIn: -1,
			Kick: json.RawMessage(`{"epoch": 1, "actions": [{"name": "configure"}]}`)},
		inventory.FactsMessage{V: inventory.Version, Node: node, Instance: "i", Boot: "b",
			Facts: inventory.Facts{"role": "web"}},
		inventory.Order{V: inventory.Version, Do: inventory.DoFacts},
		kick.Result{V: kick.Version, Node: node, Action: "nothing", Run: "r", Outcome: kick.Failed},
		inventory.LeaveStatus{V: inventory.Version, Received: true, Released: true},
	}[g.rand.IntN(5)])
	if err != nil {
		panic(err)
	}
	return data
}

func (g *garbage) spoil(sound []byte) []byte {
	switch g.rand.IntN(6) {
	case 0: // bytes
		data := make([]byte, g.rand.IntN(300))
		for i := range data {
			data[i] = byte(g.rand.Uint32())
		}
		return data
	case 1: // half of it
		return sound[:g.rand.IntN(len(sound))]
	case 2: // another byte in it
		sound[g.rand.IntN(len(sound))] = byte(g.rand.Uint32())
		return sound
	case 3: // another version
		return []byte(strings.Replace(string(sound), `"v":2`, `"v":`+g.one("0", "1", "-1", "1e99", `"2"`), 1))
	case 4:
		return sound
	}
	var m map[string]any
	if err := json.Unmarshal(sound, &m); err != nil {
		panic(err)
	}
	absurd := []any{math.MinInt64, -1, 1e300, nil, true, "", strings.Repeat("s", 10_000), []any{[]any{}},
		map[string]any{"": nil}}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key != "v" && key != "node" && g.rand.IntN(2) == 0 {
			m[key] = absurd[g.rand.IntN(len(absurd))]
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

func (g *garbage) one(of ...string) string { return of[g.rand.IntN(len(of))] }
