package kick

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// rosterOf asks a node for its roster. answer makes the node's answer to each request: a page, or bytes.
func rosterOf(t *testing.T, answer func(RosterRequest) any) (members []Member, hash string, requests int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		_, failed := nc.Subscribe(kickSubject("main", "lb1"), func(m *nats.Msg) {
			requests++
			var q RosterRequest
			err := json.Unmarshal(m.Data, &q)
			if kindOf(m.Data) != rosterMessage || err != nil || q.Roster != "reload" || q.Role != "web" {
				t.Errorf("got the request %s", m.Data)
			}
			data, ok := answer(q).([]byte)
			if !ok {
				data, _ = json.Marshal(answer(q))
			}
			_ = m.Respond(data) // fails if the test has ended
		})
		if failed != nil {
			t.Fatal(failed)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		members, hash, err = Roster(ctx, nc, "main", "lb1", "reload", "web")
	})
	return members, hash, requests, err
}

func manyMembers(n int) []Member {
	list := make([]Member, n)
	for i := range list {
		facts := map[string]any{"ipaddress": "10.0.0.1", "port": "8080"}
		list[i] = Member{Node: fmt.Sprintf("web%05d.example.org", i), Facts: facts}
	}
	return list
}

// runnerWith returns a Runner whose action reload has applied these members of web.
func runnerWith(t testing.TB, list []Member) *Runner {
	t.Helper()
	web := Membership{Role: "web", Revision: Revision{Epoch: 1000, N: 7, Hash: Hash(list)}, Members: list}
	r := &Runner{cfg: RunnerConfig{Dir: t.TempDir()}}
	applied := membersOf(kickOf("r1", web))
	if err := replaceFile(appliedPath(r.cfg.Dir, "reload"), applied, 0o600); err != nil {
		t.Fatal(err)
	}
	r.state = r.state.withAction("reload", actionState{Applied: map[string]Revision{"web": web.Revision}})
	return r
}

func (r *Runner) pageFor(q RosterRequest) RosterPage {
	data, err := json.Marshal(q)
	if err != nil {
		panic(err)
	}
	return r.rosterPage(data)
}

func TestRosterOfAnyLengthIsWhatWasAppliedLast(t *testing.T) {
	for _, size := range []int{0, 1, 10_000} {
		list := manyMembers(size)
		r := runnerWith(t, list)
		var largest int
		members, hash, requests, err := rosterOf(t, func(q RosterRequest) any {
			page := r.pageFor(q)
			data, _ := json.Marshal(page.Members)
			largest = max(largest, len(data))
			return page
		})
		if err != nil || hash != Hash(list) || len(members) != size || size > 0 && !reflect.DeepEqual(members, list) {
			t.Errorf("%d members: got %d with the hash %s, error %v", size, len(members), hash, err)
		}
		if largest > maxInline || size == 10_000 && requests < 3 {
			t.Errorf("%d members came in %d pages, the largest of %d bytes", size, requests, largest)
		}
	}
}

func TestRosterThatTheNodeLacksIsEmpty(t *testing.T) {
	r := runnerWith(t, members("web1"))
	for name, q := range map[string]RosterRequest{
		"another role":     {V: Version, Roster: "reload", Role: "db"},
		"another action":   {V: Version, Roster: "other", Role: "web"},
		"a path":           {V: Version, Roster: "../reload", Role: "web"},
		"another version":  {V: Version - 1, Roster: "reload", Role: "web"},
		"before the first": {V: Version, Roster: "reload", Role: "web", From: -1},
		"after the last":   {V: Version, Roster: "reload", Role: "web", From: 2},
	} {
		if page := r.pageFor(q); page.Hash != "" || len(page.Members) != 0 || page.Next != 0 {
			t.Errorf("%s: got the page %+v, want an empty one", name, page)
		}
	}
	members, hash, _, err := rosterOf(t, func(RosterRequest) any { return RosterPage{V: Version} })
	if members != nil || hash != "" || err != nil {
		t.Errorf("the node lacks the members: got %v, %q, error %v; want none and no error", members, hash, err)
	}
}

func TestInvalidRosterIsRejected(t *testing.T) {
	list := members("web1", "web2", "web3")
	first := RosterPage{V: Version, Hash: Hash(list), Members: list[:2], Next: 2}
	second := RosterPage{V: Version, Hash: Hash(list), Members: list[2:]}
	pages := func(spoil func(*RosterPage)) func(RosterRequest) any {
		return func(q RosterRequest) any {
			page := first
			if q.From > 0 {
				page = second
				spoil(&page)
			}
			return page
		}
	}
	if got, _, _, err := rosterOf(t, pages(func(*RosterPage) {})); err != nil || !reflect.DeepEqual(got, list) {
		t.Fatalf("the valid roster: got %v, error %v", got, err)
	}
	for _, c := range []struct {
		claim  string
		answer func(RosterRequest) any
		want   string
	}{
		{"changed between two pages", pages(func(p *RosterPage) { p.Hash = "1-other" }), "it changed between"},
		{"a member is missing", pages(func(p *RosterPage) { p.Members = nil }), "members received do not match"},
		{"another member", pages(func(p *RosterPage) { p.Members = members("web9") }), "members received do not match"},
		{"the next page is an earlier one", pages(func(p *RosterPage) { p.Next = 1 }), "its pages do not end"},
		{"the next page is the same", pages(func(p *RosterPage) { p.Next = 2 }), "its pages do not end"},
		{"the next page is negative", pages(func(p *RosterPage) { p.Next = -1 }), "its pages do not end"},
		{"never ends", func(q RosterRequest) any {
			return RosterPage{V: Version, Hash: "1-x", Members: make([]Member, 20_000), Next: q.From + 1}
		}, "its pages do not end"},
		{"another version", pages(func(p *RosterPage) { p.V = Version - 1 }), "version 1, want 2"},
		{"invalid JSON", func(RosterRequest) any { return []byte("{") }, "unexpected end"},
		{"empty message", func(RosterRequest) any { return []byte{} }, "unexpected end"},
		{"dropped between two pages", pages(func(p *RosterPage) { p.Hash = "" }), ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			members, hash, _, err := rosterOf(t, c.answer)
			if members != nil || hash != "" {
				t.Errorf("got %d members of %q, want none", len(members), hash)
			}
			if c.want == "" {
				if err != nil {
					t.Errorf("got the error %v, want none", err)
				}
				return
			}
			got, named := strings.CutPrefix(fmt.Sprint(err), "roster of lb1/reload: ")
			if !named || !strings.Contains(got, c.want) {
				t.Errorf("got the error %v, want roster of lb1/reload: …%s", err, c.want)
			}
		})
	}
}

// The hash is of the members in any order, and who compares two lists relies on their order.
func TestRosterIsSorted(t *testing.T) {
	list := members("web1", "web2", "web3")
	got, _, _, err := rosterOf(t, func(RosterRequest) any {
		return RosterPage{V: Version, Hash: Hash(list), Members: []Member{list[2], list[0], list[1]}}
	})
	if err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("got %v, error %v, want %v", got, err, list)
	}
}

func TestNullIsNotARoster(t *testing.T) {
	_, _, _, err := rosterOf(t, func(RosterRequest) any { return nil })
	if err == nil {
		t.Error("null was accepted as a roster")
	}
}

func TestOtherMessagesAreNotRosterRequests(t *testing.T) {
	kick := mustMarshal(t, kickOf("r1", membership("web", 1000, 7, "web1")))
	part := mustMarshal(t, Part{V: Version, Of: "1-x", Part: 1, Parts: 2})
	tooLarge := slices.Concat([]byte(`{"roster":"`), bytes.Repeat([]byte("x"), maxAnswer), []byte(`"}`))
	notARequest := [][]byte{kick, part, tooLarge, nil, []byte("{"), []byte(`{"roster":""}`), []byte(`{"roster":1}`)}
	for _, data := range notARequest {
		if kindOf(data) == rosterMessage {
			t.Errorf("%.60s was accepted as a roster request", data)
		}
	}
}

// For any request, the answer is a page of what the node has, or an empty one.
func FuzzRoster(f *testing.F) {
	f.Add([]byte(`{"v":2,"roster":"reload","role":"web","from":0}`))
	f.Add([]byte(`{"v":2,"roster":"reload","role":"web","from":9223372036854775807}`))
	f.Add([]byte(`{"v":2,"roster":"../../etc","role":"","from":-1}`))
	list := members("web1", "web2", "web3")
	r := runnerWith(f, list)
	f.Fuzz(func(t *testing.T, data []byte) {
		page := r.rosterPage(data)
		empty := page.Hash == "" && len(page.Members) == 0
		valid := page.Hash == Hash(list) && len(page.Members) <= len(list)
		if page.V != Version || page.Next < 0 || !empty && !valid {
			t.Errorf("the answer to %q is %+v", data, page)
		}
	})
}
