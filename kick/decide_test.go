package kick

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var reloadAction = []Action{Action{Name: "reload", Command: []string{"r"}, DependsOn: []string{"web"}}.withDefaults()}

func TestKickIsAnsweredFromStateAndActions(t *testing.T) {
	web7 := membership("web", 1000, 7, "web1")
	web8 := membership("web", 1000, 8, "web1", "web2")
	applied := func(a actionState) state {
		return state{Epoch: 1000, Controller: "ctl1-a", Actions: map[string]actionState{"reload": a}}
	}
	at := func(m Membership) map[string]Revision { return map[string]Revision{"web": m.Revision} }
	running := applied(actionState{Dirty: true, Attempted: at(web7)})
	running.Run = &run{ID: "r0", Action: "reload"}
	otherRun := state{Run: &run{ID: "r0", Action: "other"}}

	for _, c := range []struct {
		name     string
		state    state
		kick     func(*Kick)
		disabled string
		want     Answer
	}{
		{name: "first kick", want: Accepted},
		{name: "new members", state: applied(actionState{Applied: at(web7)}), want: Accepted},
		{name: "already applied", state: applied(actionState{Applied: at(web8)}), want: AlreadyApplied},
		{
			name: "already applied, forced", state: applied(actionState{Applied: at(web8)}),
			kick: func(k *Kick) { k.Ordered = true }, want: Accepted,
		},
		{name: "already applied, dirty", state: applied(actionState{Applied: at(web8), Dirty: true}), want: Accepted},
		{name: "another run in progress", state: running, want: Busy},
		{name: "the same run in progress", state: running, kick: func(k *Kick) { k.ID = "r0" }, want: Accepted},
		{name: "the id of another action's run", state: otherRun, kick: func(k *Kick) { k.ID = "r0" }, want: Busy},
		{name: "the run that ended last", state: applied(actionState{Last: &LastRun{Run: "r1"}}), want: Accepted},
		{name: "lower epoch", state: state{Epoch: 1001}, want: Stale},
		{name: "same epoch, lower controller", state: state{Epoch: 1000, Controller: "ctl1-b"}, want: Stale},
		{name: "same epoch, higher controller", state: state{Epoch: 1000, Controller: "ctl1-A"}, want: Accepted},
		{name: "epoch out of range", kick: func(k *Kick) { k.Epoch = MaxEpoch + 1 }, want: Invalid},
		{name: "unknown action", kick: func(k *Kick) { k.Action = "other" }, want: NoSuchAction},
		{name: "disabled", disabled: "by hand", want: Disabled},
		{
			name: "older than applied", state: applied(actionState{Applied: at(web8)}),
			kick: func(k *Kick) { k.Needs = []Membership{web7} }, want: Older,
		},
		{
			name: "older, with the same members", state: applied(actionState{Applied: at(web8)}),
			kick: func(k *Kick) { k.Needs[0].Revision.N = 7 }, want: AlreadyApplied,
		},
		{
			name: "older than attempted", state: applied(actionState{Dirty: true, Attempted: at(web8)}),
			kick: func(k *Kick) { k.Needs = []Membership{web7} }, want: Older,
		},
		{name: "members missing", kick: func(k *Kick) { k.Needs[0].Members = nil }, want: Incomplete},
		{name: "other members", kick: func(k *Kick) { k.Needs[0].Members = members("web9") }, want: Incomplete},
	} {
		k := kickOf("r1", web8)
		if c.kick != nil {
			c.kick(&k)
		}
		next, reply := c.state.decide(time.Now(), reloadAction, c.disabled, k)
		if reply.Answer != c.want {
			t.Errorf("%s: got %+v, want %s", c.name, reply, c.want)
		}
		if next.Epoch > MaxEpoch {
			t.Errorf("%s: the state has epoch %d, out of range", c.name, next.Epoch)
		}
	}
}

func TestLaterRevisionOfTheSameMembersIsKept(t *testing.T) {
	web := membership("web", 1000, 7, "web1")
	s := state{}.withAction("reload", actionState{Applied: map[string]Revision{"web": web.Revision}})
	later := membership("web", 1000, 9, "web1")
	next, reply := s.decide(time.Now(), reloadAction, "", kickOf("r1", later))
	if reply.Answer != AlreadyApplied || next.Actions["reload"].Applied["web"] != later.Revision {
		t.Errorf("answer %s, applied %+v, want %+v", reply.Answer, next.Actions["reload"].Applied, later.Revision)
	}
	if s.Actions["reload"].Applied["web"] != web.Revision {
		t.Error("decide changed the old state")
	}
}

// modelAction is what a simple model of the node remembers of one action.
type modelAction struct {
	applied map[string]string // role: hash
	dirty   bool
	fails   int // in a row
}

// After any kicks, ends of runs and restarts: at most one run is in progress, Applied is what the last successful run
// was given, Dirty is a start without a success since, and epochs never decrease.
func TestDecisionsFollowTheModel(t *testing.T) {
	actions := []Action{
		Action{Name: "a", Command: []string{"x"}}.withDefaults(),
		Action{Name: "b", Command: []string{"x"}, Success: []int{0, 2}}.withDefaults(),
	}
	rapid.Check(t, func(t *rapid.T) {
		s := state{V: Version, Instance: "i"}
		model := map[string]modelAction{"a": {}, "b": {}}
		var (
			highest int64
			running *Kick
			ids     int
		)
		now := time.Now()
		t.Repeat(map[string]func(*rapid.T){
			"kick": func(t *rapid.T) {
				if !rapid.Bool().Draw(t, "again") {
					ids++
				}
				k := Kick{
					V: Version, ID: fmt.Sprint("r", ids), Controller: "c", Node: "n",
					Epoch:   rapid.Int64Range(1, 4).Draw(t, "epoch"),
					Action:  rapid.SampledFrom([]string{"a", "b", "none"}).Draw(t, "action"),
					Ordered: rapid.Bool().Draw(t, "force"),
				}
				for _, role := range []string{"web", "db"}[:rapid.IntRange(1, 2).Draw(t, "roles")] {
					n := rapid.Int64Range(1, 4).Draw(t, "n")
					member := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "member")
					k.Needs = append(k.Needs, membership(role, k.Epoch, n, member))
				}
				next, reply := s.decide(now, actions, "", k)
				started := next.Run != nil && (s.Run == nil || s.Run.ID != next.Run.ID)
				m := model[k.Action]
				switch {
				case started && reply.Answer != Accepted:
					t.Fatalf("a run starts with the answer %s", reply.Answer)
				case started && running != nil:
					t.Fatalf("run %s starts while %s is in progress", k.ID, running.ID)
				case started && k.Epoch < highest:
					t.Fatalf("a run starts for epoch %d after %d", k.Epoch, highest)
				case reply.Answer == Stale && k.Epoch >= highest:
					t.Fatalf("epoch %d is stale, the highest is %d", k.Epoch, highest)
				case reply.Answer == Busy && running == nil:
					t.Fatal("busy without a run in progress")
				case reply.Answer == AlreadyApplied && (m.dirty || k.Ordered || !m.upToDate(k)):
					t.Fatalf("already applied, the model has %+v", m)
				case started && !k.Ordered && !m.dirty && m.upToDate(k):
					t.Fatalf("a run starts for what is applied: %+v", m)
				}
				if k.Epoch > highest {
					highest = k.Epoch
				}
				if started {
					running = &k
					m.dirty = true
					model[k.Action] = m
				}
				s = next
			},
			"end": func(t *rapid.T) {
				if running == nil {
					t.Skip()
				}
				e := rapid.SampledFrom([]Ending{
					{}, {Exit: 1}, {Exit: 2}, {TimedOut: true},
					{Exit: -1, Signal: "SIGKILL"}, {Exit: -1, Lost: true}, {Exit: -1, Error: "no such file"},
				}).Draw(t, "ending")
				noCode := e.TimedOut || e.Exit < 0
				succeeds := !noCode && (e.Exit == 0 || e.Exit == 2 && running.Action == "b")
				next, result := s.afterRun(e)
				m := model[running.Action]
				if succeeds {
					m = modelAction{applied: map[string]string{}}
					for _, need := range running.Needs {
						m.applied[need.Role] = need.Revision.Hash
					}
				} else {
					m.fails++
				}
				model[running.Action] = m
				if (result.Outcome == Succeeded) != succeeds || result.Run != running.ID || result.Dirty != m.dirty {
					t.Fatalf("%+v gave the result %+v", e, result)
				}
				s, running = next, nil
			},
			"restart": func(t *rapid.T) {
				data, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				if s, err = decodeState(data); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				if (s.Run != nil) != (running != nil) || s.Epoch != highest {
					t.Fatalf("run %+v, epoch %d, want %+v, %d", s.Run, s.Epoch, running, highest)
				}
				for name, m := range model {
					a := s.Actions[name]
					hashes := map[string]string{}
					for role, rev := range a.Applied {
						hashes[role] = rev.Hash
					}
					if diff := cmp.Diff(m.applied, hashes, cmpopts.EquateEmpty()); diff != "" || a.Dirty != m.dirty {
						t.Fatalf("action %s: dirty %v, want %v; applied (-want +got):\n%s",
							name, a.Dirty, m.dirty, diff)
					}
					if m.fails > 0 && a.Last.Failures != m.fails {
						t.Fatalf("action %s: %d failures, want %d", name, a.Last.Failures, m.fails)
					}
					if len(a.Runs) > keptRuns {
						t.Fatalf("action %s keeps %d runs", name, len(a.Runs))
					}
				}
			},
		})
	})
}

func (m modelAction) upToDate(k Kick) bool {
	for _, need := range k.Needs {
		if m.applied[need.Role] != need.Revision.Hash {
			return false
		}
	}
	return true
}

// For any state and any kick there is an answer, and never a second run.
func FuzzDecide(f *testing.F) {
	messages := exampleMessages()
	s, _ := json.Marshal(messages["state"])
	k, _ := json.Marshal(messages["kick"])
	f.Add(s, k, "")
	f.Add([]byte(`{}`), k, "off")
	f.Fuzz(func(t *testing.T, stateJSON, kickJSON []byte, disabled string) {
		var (
			s state
			k Kick
		)
		if json.Unmarshal(stateJSON, &s) != nil || json.Unmarshal(kickJSON, &k) != nil {
			return
		}
		before := maps.Clone(s.Actions)
		next, reply := s.decide(time.Now(), reloadAction, disabled, k)
		if reply.Answer == "" {
			t.Error("no answer")
		}
		if s.Run != nil && next.Run != s.Run {
			t.Errorf("%+v is in progress, and %+v starts", s.Run, next.Run)
		}
		if disabled != "" && s.Run == nil && next.Run != nil {
			t.Error("a run starts on a disabled node")
		}
		if diff := cmp.Diff(before, s.Actions); diff != "" {
			t.Errorf("decide changed the old state (-before +after):\n%s", diff)
		}
		if next.Run != nil {
			next.afterRun(Ending{})
		}
	})
}
