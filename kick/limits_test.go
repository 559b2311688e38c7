package kick

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
)

// longNeed is a need of the largest size, the nth of many. Its characters take the most room in JSON.
func longNeed(n int) string {
	return strings.Repeat("<", 40) + fmt.Sprintf("%016d", n)
}

// largestActions is a configuration at every limit.
func largestActions() []Action {
	actions := make([]Action, MaxActions)
	for i := range actions {
		actions[i] = Action{Name: fmt.Sprintf("%064d", i), Command: []string{"r"}, Timeout: maxTimeout, Grace: maxGrace}
		for j := range min(MaxDepends, MaxDependsAll-i*MaxDepends) {
			actions[i].DependsOn = append(actions[i].DependsOn, longNeed(i*MaxDepends+j))
		}
	}
	return actions
}

var largestRevision = Revision{Epoch: MaxEpoch, N: 1<<63 - 1, Hash: strings.Repeat("h", 64)}

// largestApplied is what an action applied at every limit, with n needs of its own.
func largestApplied(n int) map[string]Revision {
	applied := map[string]Revision{}
	for i := range n + maxNeeds - MaxDepends {
		applied[longNeed(i)] = largestRevision
	}
	return applied
}

var (
	longest     = strings.Repeat("<", maxText)
	longestLast = &LastRun{
		Run: strings.Repeat("r", 64), Outcome: Outcome(strings.Repeat("o", 32)), Exit: -1,
		Duration: 1<<63 - 1, Failures: 1<<63 - 1,
	}
)

func TestLargestNeedTakesItsBoundInEveryMessage(t *testing.T) {
	for _, need := range []string{
		longNeed(1), strings.Repeat("x", MaxNeed), strings.Repeat("ü", MaxNeed/2), strings.Repeat(`"`, MaxNeed/2),
	} {
		if size := len(mustMarshal(t, need)) - 2; size != MaxNeed {
			t.Errorf("%.20q takes %d bytes, want %d", need, size, MaxNeed)
		}
		if err := CheckNeed(need); err != nil {
			t.Error(err)
		}
		if CheckNeed(need+"x") == nil {
			t.Errorf("%.20q with one byte more is not rejected", need)
		}
	}
	for _, invalid := range []string{"", "a\nb", "\xff", "a\u2028b"} {
		if CheckNeed(invalid) == nil {
			t.Errorf("%q is not rejected", invalid)
		}
	}
}

func TestLargestConfigurationIsReported(t *testing.T) {
	actions := largestActions()
	if err := errors.Join(ValidateActions(actions)...); err != nil {
		t.Fatal(err)
	}
	s := state{Epoch: MaxEpoch, Controller: strings.Repeat("c", 253), Actions: map[string]actionState{}}
	for _, a := range actions {
		applied := largestApplied(len(a.DependsOn))
		s.Actions[a.Name] = actionState{Applied: applied, Dirty: true, Last: longestLast}
	}
	s.Run = &run{ID: strings.Repeat("r", 64), Action: actions[0].Name, Limit: maxLimit}
	status := s.status(actions)
	status.Disabled = longest
	data := mustMarshal(t, status)
	t.Logf("the largest status has %d bytes of %d", len(data), maxStatus)
	got, err := ParseStatus(data)
	if err != nil || len(got.Actions) != MaxActions || len(got.Actions[0].Applied) != maxNeeds {
		t.Errorf("the largest status: got %d actions, error %v", len(got.Actions), err)
	}
	const envelope = 32 << 10 // of a heartbeat
	if maxStatus+envelope > maxMessage {
		t.Errorf("a heartbeat with a status of %d bytes exceeds what the bus takes", maxStatus)
	}

	for name, spoil := range map[string]func() []Action{
		"actions: 25 of them, the limit is 24": func() []Action {
			return append(largestActions()[:MaxActions:MaxActions], Action{Name: "more", Command: []string{"r"}})
		},
		"actions: 513 entries of depends_on in all, the limit is 512": func() []Action {
			a := largestActions()
			a[MaxActions-1].DependsOn = []string{"more"}
			return a
		},
		"actions[0].depends_on: 65 needs, the limit is 64": func() []Action {
			a := largestActions()
			a[0].DependsOn = append(a[0].DependsOn, "more")
			a[1].DependsOn = a[1].DependsOn[1:]
			return a
		},
		"actions[0].depends_on[0]: need": func() []Action {
			a := largestActions()
			a[0].DependsOn[0] += "x"
			return a
		},
	} {
		if err := errors.Join(ValidateActions(spoil())...); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("got the error %v, want %s", err, name)
		}
	}
	got.Actions[0].Applied["more"] = largestRevision
	if _, err := ParseStatus(mustMarshal(t, got)); err == nil {
		t.Errorf("an action with %d needs applied is not rejected", maxNeeds+1)
	}
}

// largestKick is a kick at every limit, with members in parts.
func largestKick(id string) Kick {
	k := Kick{
		ID: id, Controller: strings.Repeat("c", 253), Epoch: MaxEpoch, Node: "lb1", Action: "reload",
		Reason: strings.Repeat("<", maxReason),
	}
	name := strings.Repeat("n", 249)
	for i := range maxNeeds {
		list := []Member{{Node: "web1", Facts: map[string]any{"text": strings.Repeat("x", 4<<10)}}}
		m := Membership{Role: longNeed(i), Members: list, Departed: map[string]Departure{}}
		m.Revision = Revision{Epoch: MaxEpoch, N: 1<<63 - 1, Hash: Hash(list)}
		for j := range maxDeparted / maxNeeds {
			m.Departed[fmt.Sprintf("%s%d", name, i*7+j)] = DepartedFactMissing
		}
		k.Needs = append(k.Needs, m)
	}
	return k
}

func TestLargestKickIsCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		results := results(t, nc)
		cfg := configFor(t.TempDir())
		cfg.Node = "lb1"
		n := startNode(t, nc, cfg)
		k := largestKick(strings.Repeat("r", 64))
		if reply := n.kick(t, k); reply.Answer != Accepted {
			t.Fatalf("got %+v, want %s", reply, Accepted)
		}
		left := append([]string{}, strings.Fields(strings.Repeat(strings.Repeat("l", 64)+" ", maxLeftBehind+1))...)
		n.end(Ending{Output: strings.Repeat("\x01", tailOutput), Error: strings.Repeat("<\n", 1<<20), LeftBehind: left})
		n.kick(t, largestKick("r2"))
		n.end(Ending{Output: strings.Repeat("\x01", tailOutput), LeftBehind: left})
		if len(*results) != 2 || (*results)[1].Outcome != Succeeded || len((*results)[1].Applied) != maxNeeds {
			t.Fatalf("got %d results, want two, and the second with all needs applied", len(*results))
		}
		if e := (*results)[0].Error; len(e) > maxText || !strings.HasSuffix(e, " bytes)") {
			t.Errorf("the error has %d bytes and ends in %q, want it cut with a count", len(e), e[max(0, len(e)-20):])
		}
		if _, err := ParseStatus(mustMarshal(t, n.status())); err != nil {
			t.Error(err)
		}
		need := k.Needs[maxNeeds-1]
		members, hash, err := Roster(t.Context(), nc, "main", "lb1", "reload", need.Role)
		if err != nil || hash != need.Revision.Hash || len(members) != 1 {
			t.Errorf("the roster of the last need: got %d members, error %v", len(members), err)
		}
		k = largestKick("r3")
		k.Needs = append(k.Needs, membership("more", 1, 1))
		if reply := n.kick(t, k); reply.Answer != Invalid || !strings.Contains(reply.Detail, "129 needs, the limit is 128") {
			t.Errorf("a kick with a need more: got %+v, want %s", reply, Invalid)
		}
	})
}

func TestWhatIsTooLongForAKickIsCut(t *testing.T) {
	k := webKick("r1", 1, "web1")
	k.Reason = "web: by ci\n" + strings.Repeat("ü\x00", 5000)
	k.Needs[0].Departed = map[string]Departure{}
	for i := range 2 * maxDeparted {
		k.Needs[0].Departed[fmt.Sprintf("web%04d", i)] = DepartedGone
	}
	more := membership("db", 1000, 1, "db1")
	more.Departed = map[string]Departure{"db2": DepartedLeft}
	k.Needs = append(k.Needs, more)
	messages, err := encodeKick(k)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeKick(k.Node, messages[len(messages)-1])
	if err != nil {
		t.Fatal(err)
	}
	begins, ends := strings.HasPrefix(got.Reason, "web: by ci ü"), strings.HasSuffix(got.Reason, " bytes)")
	if len(got.Reason) > maxReason || len(got.Reason) < maxReason-10 || !begins || !ends || !utf8.ValidString(got.Reason) {
		t.Errorf("the reason has %d bytes, %.20q…, want it cut with a count", len(got.Reason), got.Reason)
	}
	if a, b := len(got.Needs[0].Departed), len(got.Needs[1].Departed); a != maxDeparted || b != 0 {
		t.Errorf("%d and %d nodes departed, want %d in all", a, b, maxDeparted)
	}
	if len(k.Needs[0].Departed) != 2*maxDeparted {
		t.Error("the sender's kick was changed")
	}
	got.Needs[1].Departed = map[string]Departure{"db2": DepartedLeft}
	if _, err := decodeKick(k.Node, mustMarshal(t, got)); err == nil {
		t.Errorf("%d departed nodes are not rejected", maxDeparted+1)
	}
}

func TestCutTextEndsInTheNumberOfBytesCut(t *testing.T) {
	for _, s := range []string{strings.Repeat("x", 101), strings.Repeat("ü", 1000), strings.Repeat("…", 1_000_000)} {
		got := bounded(s, 100)
		kept := got[:strings.LastIndex(got, "… (+")]
		var cut int
		_, err := fmt.Sscanf(got[len(kept):], "… (+%d bytes)", &cut)
		whole := len(kept)+cut == len(s) && strings.HasPrefix(s, kept)
		if err != nil || len(got) > 100 || !utf8.ValidString(got) || !whole {
			t.Errorf("bounded(%d bytes) is %q, error %v", len(s), got, err)
		}
	}
	if s := strings.Repeat("x", 100); bounded(s, 100) != s {
		t.Error("a text at the limit was cut")
	}
}

func TestLargestRosterPageIsTaken(t *testing.T) {
	var list []Member
	for i := range 20 {
		facts := map[string]any{"text": strings.Repeat("x", 63<<10)}
		list = append(list, Member{Node: fmt.Sprintf("web%02d", i), Facts: facts})
	}
	r := runnerWith(t, list)
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		_, err := nc.Subscribe(kickSubject("main", "lb1"), func(m *nats.Msg) {
			m.Respond(mustMarshal(t, r.rosterPage(m.Data)))
		})
		if err != nil {
			t.Fatal(err)
		}
		got, hash, err := Roster(t.Context(), nc, "main", "lb1", "reload", "web")
		if err != nil || len(got) != 20 || hash != Hash(list) {
			t.Errorf("got %d members, error %v", len(got), err)
		}
	})
}
