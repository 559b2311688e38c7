package kick

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// rosterOf asks a node that answers the page from a member on with what answer makes of it.
func rosterOf(t *testing.T, answer func(RosterRequest) any) (members []Member, hash string, asked int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, failed := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true, MaxPayload: MaxMessage})
		if failed != nil {
			t.Fatal(failed)
		}
		go s.Start()
		defer s.WaitForShutdown()
		defer s.Shutdown()
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("the broker does not start")
		}
		nc, failed := nats.Connect("", nats.InProcessServer(s))
		if failed != nil {
			t.Fatal(failed)
		}
		defer nc.Close()
		sub, failed := nc.Subscribe(kickSubject("main", "lb1"), func(m *nats.Msg) {
			asked++
			var q RosterRequest
			if !isRosterRequest(m.Data) || json.Unmarshal(m.Data, &q) != nil || q.Roster != "reload" || q.Role != "web" {
				t.Errorf("asked with %s", m.Data)
			}
			data, ok := answer(q).([]byte)
			if !ok {
				data, _ = json.Marshal(answer(q))
			}
			_ = m.Respond(data) // who asked may be gone
		})
		if failed != nil {
			t.Fatal(failed)
		}
		defer func() { _ = sub.Unsubscribe() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		members, hash, err = Roster(ctx, nc, "main", "lb1", "reload", "web")
		nc.Close()
		synctest.Wait()
	})
	return members, hash, asked, err
}

func manyMembers(n int) []Member {
	list := make([]Member, n)
	for i := range list {
		list[i] = Member{Node: fmt.Sprintf("web%05d.example.org", i), Facts: map[string]any{"ipaddress": "10.0.0.1", "port": "8080"}}
	}
	return list
}

// knows is a runner whose action reload applied these members of web.
func knows(t testing.TB, list []Member) *Runner {
	t.Helper()
	web := Membership{Role: "web", Revision: Revision{Epoch: 1000, N: 7, Hash: Hash(list)}, Members: list}
	r := &Runner{cfg: RunnerConfig{Dir: t.TempDir()}, state: state{Actions: map[string]actionState{}}}
	path := appliedPath(r.cfg.Dir, "reload")
	data, err := json.Marshal(membersOf(kickOf("r1", web)))
	if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	r.state.Actions["reload"] = actionState{Applied: map[string]Revision{"web": web.Revision}}
	return r
}

func (r *Runner) answers(q RosterRequest) any {
	data, err := json.Marshal(q)
	if err != nil {
		panic(err)
	}
	return r.roster(data)
}

func TestRosterIsWhatWasAppliedLastHoweverLongItIs(t *testing.T) {
	for _, size := range []int{0, 1, 10_000} {
		list := manyMembers(size)
		r := knows(t, list)
		var largest, pages int
		members, hash, asked, err := rosterOf(t, func(q RosterRequest) any {
			page := r.answers(q)
			data, _ := json.Marshal(page.(RosterPage).Members)
			largest, pages = max(largest, len(data)), pages+1
			return page
		})
		if err != nil || hash != Hash(list) || len(members) != size || size > 0 && !reflect.DeepEqual(members, list) {
			t.Errorf("%d members: got %d with hash %s, %v", size, len(members), hash, err)
		}
		if largest > MaxInline || size == 10_000 && asked < 3 {
			t.Errorf("%d members came in %d pages, the largest of %d bytes", size, asked, largest)
		}
	}
}

func TestRosterThatIsNotKnownIsNone(t *testing.T) {
	r := knows(t, members("web1"))
	for name, q := range map[string]RosterRequest{
		"another role":     {V: Version, Roster: "reload", Role: "db"},
		"another action":   {V: Version, Roster: "other", Role: "web"},
		"a path":           {V: Version, Roster: "../reload", Role: "web"},
		"another version":  {V: Version - 1, Roster: "reload", Role: "web"},
		"before the first": {V: Version, Roster: "reload", Role: "web", From: -1},
		"after the last":   {V: Version, Roster: "reload", Role: "web", From: 2},
	} {
		if page := r.answers(q).(RosterPage); page.Hash != "" || len(page.Members) != 0 || page.Next != 0 {
			t.Errorf("%s: answered with %+v", name, page)
		}
	}
	members, hash, _, err := rosterOf(t, func(RosterRequest) any { return RosterPage{V: Version} })
	if members != nil || hash != "" || err != nil {
		t.Errorf("a node that does not know: %v, %q, %v; want nothing, and no error", members, hash, err)
	}
}

func TestRosterThatIsWrongIsRefused(t *testing.T) {
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
		t.Fatalf("got %v, %v before anything is spoilt", got, err)
	}
	for _, c := range []struct {
		claim  string
		answer func(RosterRequest) any
		want   string
	}{
		{"changed in between", pages(func(p *RosterPage) { p.Hash = "1-other" }), "it changed while it was asked for"},
		{"a member is missing", pages(func(p *RosterPage) { p.Members = nil }), "2 members arrived, and they are not those of"},
		{"a member is another", pages(func(p *RosterPage) { p.Members = members("web9") }), "3 members arrived, and they are not those of"},
		{"goes round in circles", pages(func(p *RosterPage) { p.Next = 1 }), "it has no end"},
		{"stands still", pages(func(p *RosterPage) { p.Next = 2 }), "it has no end"},
		{"goes back", pages(func(p *RosterPage) { p.Next = -1 }), "it has no end"},
		{"never ends", func(q RosterRequest) any {
			return RosterPage{V: Version, Hash: "1-x", Members: make([]Member, 20_000), Next: q.From + 1}
		}, "it has no end"},
		{"another version", pages(func(p *RosterPage) { p.V = Version - 1 }), "version 1, want 2"},
		{"garbage", func(RosterRequest) any { return []byte("{") }, "unexpected end"},
		{"nothing", func(RosterRequest) any { return []byte{} }, "unexpected end"},
		{"forgotten in between", pages(func(p *RosterPage) { p.Hash = "" }), ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			members, hash, _, err := rosterOf(t, c.answer)
			if members != nil || hash != "" {
				t.Errorf("taken: %d members of %q", len(members), hash)
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "roster of lb1/reload: ")) {
				t.Errorf("error %v, want roster of lb1/reload: …%s", err, c.want)
			}
		})
	}
}

func TestNullIsNoRoster(t *testing.T) {
	_, _, _, err := rosterOf(t, func(RosterRequest) any { return nil })
	if err == nil {
		t.Error("null was taken for a roster")
	}
}

func TestKickIsNoRosterRequest(t *testing.T) {
	kick, _ := json.Marshal(kickOf("r1", membership("web", 1000, 7, "web1")))
	part, _ := json.Marshal(Part{V: Version, Of: "1-x", Part: 1, Parts: 2})
	for _, data := range [][]byte{kick, part, nil, []byte("{"), []byte(`{"roster":""}`), []byte(`{"roster":1}`), slices.Concat([]byte(`{"roster":"`), make([]byte, MaxAnswer), []byte(`"}`))} {
		if isRosterRequest(data) {
			t.Errorf("%.60s is taken for a roster request", data)
		}
	}
}

// Whatever is asked, the answer is a page of what is known, or none.
func FuzzRoster(f *testing.F) {
	f.Add([]byte(`{"v":2,"roster":"reload","role":"web","from":0}`))
	f.Add([]byte(`{"v":2,"roster":"reload","role":"web","from":9223372036854775807}`))
	f.Add([]byte(`{"v":2,"roster":"../../etc","role":"","from":-1}`))
	list := members("web1", "web2", "web3")
	r := knows(f, list)
	f.Fuzz(func(t *testing.T, data []byte) {
		page := r.roster(data)
		if page.V != Version || page.Hash != "" && page.Hash != Hash(list) || page.Next < 0 || len(page.Members) > len(list) || page.Hash == "" && len(page.Members) > 0 {
			t.Errorf("%q is answered with %+v", data, page)
		}
	})
}
