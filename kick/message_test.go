package kick

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func members(names ...string) []Member {
	var list []Member
	for i, name := range names {
		facts := map[string]any{"ipaddress": fmt.Sprintf("10.0.0.%d", i+1), "port": "8080"}
		list = append(list, Member{Node: name, Facts: facts})
	}
	return list
}

func membership(role string, epoch, n int64, names ...string) Membership {
	list := members(names...)
	return Membership{Role: role, Revision: Revision{Epoch: epoch, N: n, Hash: Hash(list)}, Members: list}
}

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func kickOf(id string, needs ...Membership) Kick {
	return Kick{
		V: Version, ID: id, Controller: "ctl1-a", Epoch: 1000, Node: lb1, Action: "reload",
		Reason: "web: +web2", Needs: needs,
	}
}

// exampleMessages sets every key of every message, so that no key changes unseen.
func exampleMessages() map[string]any {
	web := membership("web", 1000, 7, "web1", "web2")
	k := kickOf("r1", web)
	k.Ordered, k.Force = true, true
	k.Needs[0].Departed = map[string]Departure{"web3": DepartedNotReady}
	list, _ := json.Marshal(web.Members)
	applied := map[string]Revision{"web": web.Revision}
	return map[string]any{
		"kick":  k,
		"part":  Part{V: Version, Of: web.Revision.Hash, Part: 1, Parts: 3, Members: list},
		"reply": Reply{V: Version, Answer: Busy, Run: "r0", Deadline: 615000, Detail: "why"},
		"result": Result{
			V: Version, Node: lb1, Action: "reload", Run: "r1", Outcome: Failed, Exit: 3, Duration: 1234,
			Error: "why", Output: "the last line\n", Applied: applied, Dirty: true,
			LeftBehind: []string{"sleep (pid 123)"},
		},
		"status": Status{
			Epoch: 1000, Controller: "ctl1-a",
			Actions: []ActionStatus{{
				Name: "reload", DependsOn: []string{"web"}, Applied: applied, Dirty: true,
				Last: &LastRun{Run: "r1", Outcome: TimedOut, Exit: -1, Duration: 10, Failures: 2},
			}},
			Running: &Running{Run: "r2", Action: "reload", Limit: 615000}, Disabled: "why",
		},
		"roster-request": RosterRequest{V: Version, Roster: "reload", Role: "web", From: 2},
		"roster":         RosterPage{V: Version, Hash: web.Revision.Hash, Members: web.Members, Next: 4},
		"members":        membersOf(k),
		"state": state{
			V: Version, Instance: "i-1", Epoch: 1000, Controller: "ctl1-a",
			Actions: map[string]actionState{"reload": {
				Applied: applied, Dirty: true, Attempted: applied,
				Last: &LastRun{Run: "r1", Outcome: TimedOut, Exit: -1, Duration: 10, Failures: 2},
				Runs: []string{"r1", "r2"},
			}},
			Run: &run{ID: "r2", Action: "reload", Success: []int{0, 2}, Limit: 615000},
		},
		"ending": Ending{
			Exit: -1, Signal: "SIGKILL", TimedOut: true, Lost: true,
			Error: "why", Duration: 10, Output: "the last line\n", LeftBehind: []string{"sleep (pid 123)"},
		},
	}
}

func TestMessagesAreAsDocumented(t *testing.T) {
	for name, message := range exampleMessages() {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(message, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s changed (-golden +now):\n%s", path, diff)
			}
		})
	}
}

func TestGoldenMessagesAreDecoded(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	k, err1 := decodeKick(lb1, read("kick"))
	p, err2 := decodePart(read("part"))
	r, err3 := decodeReply(read("reply"))
	res, err4 := decodeResult(lb1, read("result"))
	st, err5 := ParseStatus(read("status"))
	s, err6 := decodeState(read("state"))
	for _, err := range []error{err1, err2, err3, err4, err5, err6} {
		if err != nil {
			t.Error(err)
		}
	}
	want := exampleMessages()
	var compact bytes.Buffer
	if err := json.Compact(&compact, p.Members); err != nil {
		t.Fatal(err)
	}
	p.Members = compact.Bytes()
	for name, got := range map[string]any{"kick": k, "part": p, "reply": r, "result": res, "status": st, "state": s} {
		if !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s: got %+v, want %+v", name, got, want[name])
		}
	}
}

func TestHashIdentifiesMembersInAnyOrder(t *testing.T) {
	web := members("web1", "web2", "web3")
	reordered := []Member{web[2], web[0], web[1]}
	if Hash(web) != Hash(reordered) {
		t.Error("the order of the members changes the hash")
	}
	moved := members("web1", "web2", "web3")
	moved[1].Facts["port"] = "8081"
	if Hash(web) == Hash(moved) {
		t.Error("a changed port leaves the hash as it was")
	}
	if !strings.HasPrefix(Hash(nil), "1-") {
		t.Errorf("Hash(nil) = %s, want a hash that begins with 1-", Hash(nil))
	}
}

func TestInvalidKickIsRejected(t *testing.T) {
	web := membership("web", 1000, 1, "web1")
	for name, spoil := range map[string]func(*Kick){
		"version":                   func(k *Kick) { k.V = Version - 1 },
		"another node":              func(k *Kick) { k.Node = "lb2" },
		"no id":                     func(k *Kick) { k.ID = "" },
		"id is a path":              func(k *Kick) { k.ID = "../x" },
		"action is a path":          func(k *Kick) { k.Action = "../x" },
		"no epoch":                  func(k *Kick) { k.Epoch = 0 },
		"epoch of 2300":             func(k *Kick) { k.Epoch = 10413792000000 },
		"no controller":             func(k *Kick) { k.Controller = "" },
		"NUL in reason":             func(k *Kick) { k.Reason = "a\x00b" },
		"a role twice":              func(k *Kick) { k.Needs = append(k.Needs, k.Needs[0]) },
		"no hash":                   func(k *Kick) { k.Needs[0].Revision.Hash = "" },
		"revision of a later epoch": func(k *Kick) { k.Needs[0].Revision.Epoch = k.Epoch + 1 },
		"too many needs": func(k *Kick) {
			for i := range maxNeeds {
				k.Needs = append(k.Needs, membership(fmt.Sprint("r", i), 1, 1))
			}
		},
		"too large":                           func(k *Kick) { k.Needs[0].Role = strings.Repeat("x", maxMessage) },
		"control character in the controller": func(k *Kick) { k.Controller = "ctl\n1" },
		"node of an odd name that departed": func(k *Kick) {
			k.Needs[0].Departed = map[string]Departure{"a b": DepartedLeft}
		},
		"long reason": func(k *Kick) { k.Reason = strings.Repeat("x", 4097) },
	} {
		k := kickOf("r1", web)
		if _, err := decodeKick(lb1, mustMarshal(t, k)); err != nil {
			t.Fatalf("the valid kick is rejected: %v", err)
		}
		spoil(&k)
		if _, err := decodeKick(lb1, mustMarshal(t, k)); err == nil {
			t.Errorf("%s: not rejected", name)
		}
	}
}

func TestValueOfTheWrongTypeIsNamedByItsPath(t *testing.T) {
	_, err := decodeKick(lb1, []byte(`{"needs":[{"revision":{"epoch":"x"}}]}`))
	if want := "JSON string at .needs.revision.epoch has the wrong type"; fmt.Sprint(err) != want {
		t.Errorf("got the error %v, want %s", err, want)
	}
}

func TestKickAtTheLimitsIsAccepted(t *testing.T) {
	k := kickOf(strings.Repeat("r", 64))
	k.Epoch, k.Action = MaxEpoch, strings.Repeat("a", 64)
	k.Controller, k.Reason = strings.Repeat("c", 253), strings.Repeat("x", 4096)
	for i := range maxNeeds {
		k.Needs = append(k.Needs, membership(fmt.Sprintf("%0256d", i), MaxEpoch, 1))
	}
	if got, err := decodeKick(k.Node, mustMarshal(t, k)); err != nil || len(got.Needs) != maxNeeds {
		t.Errorf("got %d needs, error %v; want %d needs", len(got.Needs), err, maxNeeds)
	}
}

// Everything in a result or a reply that the controller trusts, stores or shows is checked.
func TestInvalidResultOrReplyIsRejected(t *testing.T) {
	result := exampleMessages()["result"].(Result)
	for name, spoil := range map[string]func(*Result){
		"version":            func(r *Result) { r.V = Version - 1 },
		"another node":       func(r *Result) { r.Node = "web1" },
		"action is a path":   func(r *Result) { r.Action = "../x" },
		"run is a path":      func(r *Result) { r.Run = "../x" },
		"no outcome":         func(r *Result) { r.Outcome = "" },
		"long outcome":       func(r *Result) { r.Outcome = Outcome(strings.Repeat("x", 33)) },
		"NUL in the outcome": func(r *Result) { r.Outcome = "a\x00" },
		"negative duration":  func(r *Result) { r.Duration = -1 },
		"hash is a path": func(r *Result) {
			r.Applied = map[string]Revision{"web": {Epoch: 1, N: 1, Hash: "../x"}}
		},
		"too large":      func(r *Result) { r.Output = strings.Repeat("x", maxResult) },
		"12 left behind": func(r *Result) { r.LeftBehind = slices.Repeat([]string{"sleep"}, maxLeftBehind+2) },
		"odd name":       func(r *Result) { r.LeftBehind = []string{"a\nb"} },
	} {
		r := result
		spoil(&r)
		if _, err := decodeResult(result.Node, mustMarshal(t, r)); err == nil {
			t.Errorf("result, %s: not rejected", name)
		}
	}
	reply := exampleMessages()["reply"].(Reply)
	for name, spoil := range map[string]func(*Reply){
		"version":                  func(r *Reply) { r.V = Version - 1 },
		"no answer":                func(r *Reply) { r.Answer = "" },
		"negative deadline":        func(r *Reply) { r.Deadline = -1 },
		"deadline after a century": func(r *Reply) { r.Deadline = (100 * 365 * 24 * time.Hour).Milliseconds() },
		"no run":                   func(r *Reply) { r.Answer, r.Run = Accepted, "" },
	} {
		r := reply
		spoil(&r)
		if _, err := decodeReply(mustMarshal(t, r)); err == nil {
			t.Errorf("reply, %s: not rejected", name)
		}
	}
	for _, noJSON := range []string{"", "{", "[]"} {
		if _, err := decodeResult(result.Node, []byte(noJSON)); err == nil {
			t.Errorf("result %q: not rejected", noJSON)
		}
		if _, err := decodeReply([]byte(noJSON)); err == nil {
			t.Errorf("reply %q: not rejected", noJSON)
		}
	}
}

func TestNodeNameIsPartsWithDotsBetween(t *testing.T) {
	long := strings.Repeat("a.", 126) + "a"
	for _, valid := range []string{"a", "lb1.example.org", "a_b-9", "a._b", long} {
		if err := checkName(valid); err != nil {
			t.Error(err)
		}
	}
	for _, invalid := range []string{"", "_a", "A", "a b", "a..b", ".a", "a.", "a.*", "a.>", "ü", "a/b", long + "a"} {
		if checkName(invalid) == nil {
			t.Errorf("%.20q is not rejected", invalid)
		}
	}
}

func TestStatusIsParsedOrRejected(t *testing.T) {
	for _, empty := range []json.RawMessage{nil, {}, json.RawMessage("null"), json.RawMessage("{}")} {
		s, err := ParseStatus(empty)
		if err != nil || !reflect.DeepEqual(s, Status{}) {
			t.Errorf("ParseStatus(%q) = %+v, %v, want no actions", empty, s, err)
		}
	}
	roles := `"` + strings.Join(strings.Fields(strings.Repeat("r ", MaxDepends)), `","`) + `"`
	many := `{"actions":[{"name":"a0","depends_on":[` + roles + `]}`
	for i := range MaxActions - 1 {
		many += fmt.Sprintf(`,{"name":"a%d"}`, i+1)
	}
	if s, err := ParseStatus(json.RawMessage(many + `]}`)); err != nil || len(s.Actions) != MaxActions {
		t.Errorf("a status at the limits: got %d actions, error %v", len(s.Actions), err)
	}
	many += `,{"name":"one-more"}`
	for _, invalid := range []string{
		`[]`, `{`, many + `]}`,
		`{"epoch":-1}`,
		`{"epoch":10413792000000}`,
		`{"actions":[{"name":""}]}`,
		`{"actions":[{"name":"A b"}]}`,
		`{"actions":[{"name":"a"},{"name":"a"}]}`,
		`{"actions":[{"name":"a","depends_on":[""]}]}`,
		`{"actions":[{"name":"a","depends_on":[` + strings.Repeat(`"r",`, MaxDepends) + `"r"]}]}`,
		`{"actions":[{"name":"a","applied":{"web":{"epoch":-1,"n":1,"hash":"1-a"}}}]}`,
		`{"actions":[{"name":"a","applied":{"web":{"epoch":1,"n":-1,"hash":"1-a"}}}]}`,
		`{"actions":[{"name":"a","applied":{"web":{"epoch":1,"n":1,"hash":"../"}}}]}`,
		`{"actions":[{"name":"a","last":{"run":"","outcome":"failed"}}]}`,
		`{"actions":[{"name":"a","last":{"run":"r","outcome":""}}]}`,
		`{"actions":[{"name":"a","last":{"run":"r","outcome":"failed","failures":-1}}]}`,
		`{"running":{"run":"","action":"a"}}`,
		`{"running":{"run":"r","action":""}}`,
		`{"running":{"run":"r","action":"a","limit_ms":-1}}`,
		`{"disabled":"a\nb"}`,
		`{"disabled":"` + strings.Repeat("x", maxText+1) + `"}`,
		`{"controller":"` + strings.Repeat("x", maxStatus) + `"}`,
	} {
		if s, err := ParseStatus(json.RawMessage(invalid)); err == nil {
			t.Errorf("ParseStatus(%.80s) = %+v, want an error", invalid, s)
		}
	}
}

// What is decoded is within the limits, and can be encoded and decoded again.
func FuzzDecode(f *testing.F) {
	for _, message := range exampleMessages() {
		f.Add(lb1, mustMarshal(f, message))
	}
	f.Add("", []byte(`{}`))
	f.Fuzz(func(t *testing.T, node string, data []byte) {
		if k, err := decodeKick(node, data); err == nil {
			if len(k.Needs) > maxNeeds || k.Epoch <= 0 || strings.ContainsAny(k.ID+k.Action, "./ ") {
				t.Errorf("kick beyond the limits: %+v", k)
			}
			if enc := mustMarshal(t, k); len(enc) <= maxMessage {
				if _, err := decodeKick(node, enc); err != nil {
					t.Errorf("kick cannot be decoded again: %v", err)
				}
			}
		}
		if r, err := decodeResult(node, data); err == nil && (r.Node != node || checkName(node) != nil) {
			t.Errorf("a result of %q was accepted from %q", r.Node, node)
		}
		if s, err := ParseStatus(data); err == nil {
			if enc := mustMarshal(t, s); len(enc) <= maxStatus {
				if _, err := ParseStatus(enc); err != nil {
					t.Errorf("status cannot be decoded again: %v", err)
				}
			}
		}
		if s, err := decodeState(data); err == nil {
			if _, err := decodeState(mustMarshal(t, s)); err != nil {
				t.Errorf("state cannot be decoded again: %v", err)
			}
		}
		if p, err := decodePart(data); err == nil {
			var a assembly
			a.add(p)
			a.complete(kickOf("r", Membership{Role: "web", Revision: Revision{Hash: p.Of}}))
			if len(a.parts) != 0 {
				t.Errorf("%d parts are kept forever", len(a.parts))
			}
		}
		if r, err := decodeReply(data); err == nil && r.Deadline < 0 {
			t.Errorf("reply beyond the limits: %+v", r)
		}
	})
}
