package kick

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const lb1 = "lb1.example.org"

// connect starts a bus of its own for the test.
func connect(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	})
	return nc
}

// fakeRuns is an Execute whose runs end when the test says so.
type fakeRuns struct {
	mu       sync.Mutex
	launched []Launch
	running  int
	most     int // at once
	end      chan Ending
}

func (f *fakeRuns) execute(ctx context.Context, l Launch) (Ending, error) {
	f.mu.Lock()
	f.launched = append(f.launched, l)
	f.running++
	f.most = max(f.most, f.running)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	select {
	case e := <-f.end:
		return e, nil
	case <-ctx.Done():
		return Ending{}, ctx.Err()
	}
}

// node is a Runner that runs.
type node struct {
	*Runner
	nc       *nats.Conn
	runs     *fakeRuns
	statuses []Status
	stop     func()
}

func configFor(dir string) RunnerConfig {
	return RunnerConfig{
		Cluster: "main", Node: lb1, Instance: "i-1", Boot: "b-1", Dir: dir,
		Actions: []Action{{Name: "reload", Command: []string{"reload-lb"}, DependsOn: []string{"web"}, Timeout: time.Minute}},
		Log:     slog.New(slog.DiscardHandler),
	}
}

func startNode(t *testing.T, nc *nats.Conn, cfg RunnerConfig) *node {
	t.Helper()
	n := &node{nc: nc, runs: &fakeRuns{end: make(chan Ending)}}
	cfg.Execute = n.runs.execute
	r, err := NewRunner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Runner = r
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx, nc, func(s Status) { n.statuses = append(n.statuses, s) }) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	synctest.Wait()
	return n
}

func (n *node) kick(t *testing.T, k Kick) Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := Send(ctx, n.nc, "main", k)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return reply
}

func (n *node) end(e Ending) {
	n.runs.end <- e
	synctest.Wait()
}

func (n *node) status() Status {
	synctest.Wait()
	return n.statuses[len(n.statuses)-1]
}

func results(t *testing.T, nc *nats.Conn) *[]Result {
	t.Helper()
	var all []Result
	sub, err := ListenResults(nc, "main", func(r Result) { all = append(all, r) }, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Unsubscribe() })
	synctest.Wait()
	return &all
}

func TestKickRunsTheActionAndItsSuccessIsApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		got := results(t, nc)
		n := startNode(t, nc, configFor(t.TempDir()))
		want := Status{Actions: []ActionStatus{{Name: "reload", DependsOn: []string{"web"}}}}
		if diff := cmp.Diff([]Status{want}, n.statuses); diff != "" {
			t.Fatalf("before the kick (-want +got):\n%s", diff)
		}

		web := membership("web", 1000, 1, "web1", "web2")
		reply := n.kick(t, kickOf("r1", web))
		if diff := cmp.Diff(Reply{V: Version, Answer: Accepted, Run: "r1", Deadline: 75000}, reply); diff != "" {
			t.Errorf("reply (-want +got):\n%s", diff)
		}
		want.Epoch, want.Controller = 1000, "ctl1-a"
		want.Actions[0].Dirty = true
		want.Running = &Running{Run: "r1", Action: "reload"}
		if diff := cmp.Diff(want, n.status()); diff != "" {
			t.Errorf("during the run (-want +got):\n%s", diff)
		}

		n.end(Ending{Duration: 1234, Output: "done\n"})
		applied := map[string]Revision{"web": web.Revision}
		want.Actions[0] = ActionStatus{
			Name: "reload", DependsOn: []string{"web"}, Applied: applied, Last: &LastRun{Run: "r1", Outcome: Succeeded, Duration: 1234},
		}
		want.Running = nil
		if diff := cmp.Diff(want, n.status()); diff != "" {
			t.Errorf("after the run (-want +got):\n%s", diff)
		}
		wantResult := Result{V: Version, Node: lb1, Action: "reload", Run: "r1", Outcome: Succeeded, Duration: 1234, Output: "done\n", Applied: applied}
		if diff := cmp.Diff([]Result{wantResult}, *got); diff != "" {
			t.Errorf("results (-want +got):\n%s", diff)
		}
		if reply := n.kick(t, kickOf("r2", web)); reply.Answer != AlreadyApplied {
			t.Errorf("the same again: %+v, want %s", reply, AlreadyApplied)
		}
	})
}

func TestRunGetsTheMembershipAndWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := startNode(t, connect(t), configFor(dir))
		n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1", "web2")))
		n.end(Ending{})
		web := membership("web", 1000, 2, "web2", "web3")
		n.kick(t, kickOf("r2", web))
		file := filepath.Join(dir, "runs", "r2", "members.json")
		want := []string{
			"KICKER_NODE=lb1.example.org", "KICKER_ACTION=reload", "KICKER_RUN=r2", "KICKER_MEMBERS_FILE=" + file,
			"KICKER_REASON=web: +web2", "KICKER_REVISION=web=" + web.Revision.Hash, "KICKER_ADDED=web3", "KICKER_REMOVED=web1",
		}
		if diff := cmp.Diff(want, n.runs.launched[1].Env); diff != "" {
			t.Errorf("environment (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(membersOf(kickOf("r2", web)), readMembers(t, file)); diff != "" {
			t.Errorf("members file (-want +got):\n%s", diff)
		}
		n.end(Ending{Exit: 1})
		if f := readMembers(t, appliedPath(dir, "reload")); len(f.Roles["web"]) != 2 || f.Roles["web"][0].Node != "web1" {
			t.Errorf("after a failure the action's members are %+v, want those of its last success", f.Roles)
		}
		n.kick(t, kickOf("r3", web, membership("db", 1000, 3, "db1")))
		if env := n.runs.launched[2].Env; !slices.Contains(env, "KICKER_ADDED=web:web3 db:db1") || !slices.Contains(env, "KICKER_REMOVED=web:web1") {
			t.Errorf("environment %q, want what changed since the last success, by role", env)
		}
		n.end(Ending{})
	})
}

func readMembers(t *testing.T, path string) MembersFile {
	t.Helper()
	var f MembersFile
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMembersOfOtherRevisionsThanAppliedAreNotComparedWith(t *testing.T) {
	dir := t.TempDir()
	web := membership("web", 1000, 1, "web1")
	data, err := json.Marshal(membersOf(kickOf("r1", web)))
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(appliedPath(dir, "reload"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if f := loadApplied(dir, "reload", map[string]Revision{"web": web.Revision}); len(f.Roles["web"]) != 1 {
		t.Errorf("what is applied was read as %+v", f)
	}
	other := membership("web", 1000, 2, "web2")
	if f := loadApplied(dir, "reload", map[string]Revision{"web": other.Revision}); len(f.Roles) > 0 {
		t.Errorf("what isn't applied was read as %+v", f)
	}
}

func TestWordsWithoutRoomAreCounted(t *testing.T) {
	var words []string
	for i := range 10000 {
		words = append(words, fmt.Sprintf("web%05d.example.org", i))
	}
	got := joinBounded(words)
	fields := strings.Fields(got)
	left := len(words) - (len(fields) - 1)
	if len(got) > maxEnv+100 || fields[len(fields)-1] != fmt.Sprintf("+%d", left) {
		t.Errorf("%d bytes that end in %q, want them to end in +%d", len(got), got[len(got)-30:], left)
	}
	if got := joinBounded(words[:2]); got != "web00000.example.org web00001.example.org" {
		t.Errorf("two words became %q", got)
	}
}

func TestKickDuringARunIsBusyWithTheTimeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, connect(t), configFor(t.TempDir()))
		n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
		time.Sleep(20 * time.Second)
		reply := n.kick(t, kickOf("r2", membership("web", 1000, 2, "web2")))
		if diff := cmp.Diff(Reply{V: Version, Answer: Busy, Run: "r1", Deadline: 55000}, reply); diff != "" {
			t.Errorf("another kick (-want +got):\n%s", diff)
		}
		reply = n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
		if diff := cmp.Diff(Reply{V: Version, Answer: Accepted, Run: "r1", Deadline: 55000}, reply); diff != "" {
			t.Errorf("the same kick (-want +got):\n%s", diff)
		}
		n.end(Ending{})
		if reply := n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1"))); reply.Answer != Accepted || len(n.runs.launched) != 1 {
			t.Errorf("the same kick after its run: %+v, %d runs, want it accepted and one run", reply, len(n.runs.launched))
		}
	})
}

func TestFailuresAreCountedUntilASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, connect(t), configFor(t.TempDir()))
		web := membership("web", 1000, 1, "web1")
		for i, c := range []struct {
			ending   Ending
			outcome  Outcome
			failures int
			dirty    bool
		}{
			{Ending{Exit: 1}, Failed, 1, true},
			{Ending{Exit: -1, TimedOut: true}, TimedOut, 2, true},
			{Ending{Exit: -1, Signal: "SIGSEGV"}, Killed, 3, true},
			{Ending{Exit: -1, Lost: true}, Lost, 4, true},
			{Ending{Exit: -1, Error: "no such file"}, Failed, 5, true},
			{Ending{}, Succeeded, 0, false},
		} {
			if reply := n.kick(t, kickOf(fmt.Sprint("r", i), web)); reply.Answer != Accepted {
				t.Fatalf("kick %d: %+v", i, reply)
			}
			n.end(c.ending)
			a := n.status().Actions[0]
			if a.Last.Outcome != c.outcome || a.Last.Failures != c.failures || a.Dirty != c.dirty || (len(a.Applied) > 0) == c.dirty {
				t.Errorf("after %+v: %+v, last %+v", c.ending, a, *a.Last)
			}
		}
	})
}

func TestRunThatCannotBeStartedHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		all := results(t, nc)
		cfg := configFor(t.TempDir())
		n := startNode(t, nc, cfg)
		n.cfg.Execute = func(context.Context, Launch) (Ending, error) { return Ending{}, errors.New("no more processes") }
		for i := range 2 {
			if reply := n.kick(t, kickOf(fmt.Sprint("r", i), membership("web", 1000, 1, "web1"))); reply.Answer != Accepted {
				t.Fatalf("%+v", reply)
			}
			a := n.status().Actions[0]
			if n.status().Running != nil || !a.Dirty || a.Last.Outcome != Failed || a.Last.Exit != -1 || a.Last.Failures != i+1 {
				t.Errorf("%+v, last %+v, want it failed", a, a.Last)
			}
		}
		if len(*all) != 2 || (*all)[0].Error != "no more processes" {
			t.Errorf("results %+v", *all)
		}
	})
}

func TestStateSurvivesARestartAndItsRunIsAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		got := results(t, nc)
		cfg := configFor(t.TempDir())
		n := startNode(t, nc, cfg)
		web := membership("web", 1000, 1, "web1")
		n.kick(t, kickOf("r1", web))
		n.Seen(2000, "ctl1-b")
		synctest.Wait()
		n.stop()

		n = startNode(t, nc, cfg)
		first := n.statuses[0]
		if first.Epoch != 2000 || first.Controller != "ctl1-b" || !first.Actions[0].Dirty || first.Running == nil || first.Running.Run != "r1" {
			t.Errorf("the first status after the restart is %+v", first)
		}
		if len(n.runs.launched) != 1 || !n.runs.launched[0].Adopt || n.runs.launched[0].Run != "r1" {
			t.Fatalf("launched %+v, want r1 adopted", n.runs.launched)
		}
		newer := kickOf("r2", membership("web", 2000, 1, "web2"))
		newer.Epoch, newer.Controller = 2000, "ctl1-b"
		if reply := n.kick(t, newer); reply.Answer != Busy || reply.Run != "r1" || reply.Deadline != 75000 {
			t.Errorf("a kick during the adopted run: %+v, want it busy for 75 s at the latest", reply)
		}
		n.end(Ending{Duration: 5})
		if len(*got) != 1 || (*got)[0].Outcome != Succeeded || (*got)[0].Applied["web"] != web.Revision {
			t.Errorf("results %+v, want that of r1", *got)
		}
		if reply := n.kick(t, kickOf("r3", web)); reply.Answer != Stale {
			t.Errorf("a kick of a lower epoch: %+v, want %s", reply, Stale)
		}
	})
}

func TestDirtyIsOnTheDiskBeforeTheRunStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := configFor(dir)
		nc := connect(t)
		var atStart state
		cfg.Execute = func(context.Context, Launch) (Ending, error) {
			data, err := os.ReadFile(statePath(dir))
			if err == nil {
				atStart, err = decodeState(data)
			}
			return Ending{}, err
		}
		kickedOnce(t, nc, cfg)
		if !atStart.Actions["reload"].Dirty || atStart.Run == nil || atStart.Run.ID != "r1" {
			t.Errorf("when the run started the disk had %+v", atStart)
		}
	})
}

func TestAbsurdEpochIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, connect(t), configFor(t.TempDir()))
		n.Seen(MaxEpoch+1, "ctl1-z")
		k := kickOf("r1", membership("web", 1000, 1, "web1"))
		k.Epoch = MaxEpoch + 1
		if reply := n.kick(t, k); reply.Answer != Invalid {
			t.Errorf("kick of epoch %d: %+v, want %s", k.Epoch, reply, Invalid)
		}
		if n.status().Epoch != 0 {
			t.Errorf("epoch %d is remembered", n.status().Epoch)
		}
		n.Seen(5, "ctl1-a")
		if n.status().Epoch != 5 {
			t.Errorf("epoch %d after 5 was seen", n.status().Epoch)
		}
	})
}

func TestDisabledNodeSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := startNode(t, connect(t), configFor(dir))
		if err := os.WriteFile(filepath.Join(dir, "disabled"), []byte("disk is being swapped\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		k := kickOf("r1", membership("web", 1000, 1, "web1"))
		if reply := n.kick(t, k); reply.Answer != Disabled || !strings.HasSuffix(reply.Detail, "/disabled: disk is being swapped") {
			t.Errorf("got %+v", reply)
		}
		if err := os.Remove(filepath.Join(dir, "disabled")); err != nil {
			t.Fatal(err)
		}
		if reply := n.kick(t, k); reply.Answer != Accepted {
			t.Errorf("enabled again: %+v", reply)
		}
		n.end(Ending{})
	})
}

func TestDisabledFileThatCannotBeReadDisables(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := startNode(t, connect(t), configFor(dir))
		if err := os.Mkdir(filepath.Join(dir, "disabled"), 0o755); err != nil {
			t.Fatal(err)
		}
		if reply := n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1"))); reply.Answer != Disabled || len(n.runs.launched) > 0 {
			t.Errorf("%+v, %d runs: somebody meant to disable it", reply, len(n.runs.launched))
		}
	})
}

// The end of its watching and the agent's may come at the same time: whichever is seen first, the run is not over.
func TestRunThatItsAgentLeavesIsNotOver(t *testing.T) {
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			nc := connect(t)
			cfg := configFor(t.TempDir())
			cfg.Execute = func(ctx context.Context, _ Launch) (Ending, error) {
				<-ctx.Done()
				return Ending{}, ctx.Err()
			}
			r, err := NewRunner(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				r.Run(ctx, nc, func(s Status) {
					if s.Running != nil {
						cancel()
						time.Sleep(time.Millisecond) // in which what waits for the run returns
					}
				})
			})
			synctest.Wait()
			(&node{nc: nc}).kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
			wg.Wait()
			cancel()
			if s, err := loadState(cfg.Dir, cfg.Instance, cfg.Log); err != nil || s.Run == nil || s.Run.ID != "r1" {
				t.Fatalf("the next agent finds %+v, %v; want r1 in progress", s, err)
			}
		})
	}
}

// kickedOnce is an agent that is kicked, and stopped as soon as it has accepted; it returns when the agent is over.
func kickedOnce(t *testing.T, nc *nats.Conn, cfg RunnerConfig) {
	t.Helper()
	r, err := NewRunner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx, nc, func(Status) {}) })
	synctest.Wait()
	(&node{nc: nc}).kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
	cancel()
	wg.Wait()
}

func TestAgentWaitsForWhatWatchesItsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		cfg := configFor(t.TempDir())
		var returned atomic.Bool
		cfg.Execute = func(ctx context.Context, _ Launch) (Ending, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			returned.Store(true)
			return Ending{}, ctx.Err()
		}
		if kickedOnce(t, nc, cfg); !returned.Load() {
			t.Error("the agent is over, and still watches a run that the next one adopts")
		}
	})
}

func TestFileIsReplacedNotWrittenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := replaceFile(path, []byte("former"), 0o644); err != nil {
		t.Fatal(err)
	}
	former, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer former.Close()
	if err := replaceFile(path, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(former); err != nil || string(data) != "former" {
		t.Errorf("whoever reads meanwhile, or a crash, finds %q, %v: neither the former file nor the new one", data, err)
	}
}

func TestRunBeginsInADirectoryOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(t.TempDir())
		left := filepath.Join(Launch{Dir: cfg.Dir, Run: "r1"}.runDir(), endingFile) // of an agent that died before it knew of the run
		if err := errors.Join(os.MkdirAll(filepath.Dir(left), 0o755), os.WriteFile(left, []byte("{}"), 0o644)); err != nil {
			t.Fatal(err)
		}
		n := startNode(t, connect(t), cfg)
		n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what another attempt left is still there: %v", err)
		}
		n.end(Ending{})
	})
}

func TestNodeThatCannotKeepStateRunsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := startNode(t, connect(t), configFor(dir))
		if err := os.Mkdir(statePath(dir), 0o755); err != nil { // works against root as well, unlike permissions
			t.Fatal(err)
		}
		reply := n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
		if reply.Answer != Disabled || !strings.HasPrefix(reply.Detail, "cannot keep state: ") || len(n.runs.launched) > 0 {
			t.Errorf("%+v, %d runs, want none", reply, len(n.runs.launched))
		}
		if s := n.status(); s.Actions[0].Dirty || s.Running != nil || s.Epoch != 1000 {
			t.Errorf("status %+v, want nothing but the epoch", s)
		}
	})
}

func TestCorruptStateIsPutAsideAndNothingIsKnown(t *testing.T) {
	for _, content := range []string{"", "{", `{"v":9,"instance":"i-1"}`, `{"v":2,"instance":"i-1","epoch":-4}`, `{"v":2,"instance":"i-1","run":{"id":"../x","action":"a"}}`} {
		cfg := configFor(t.TempDir())
		if err := os.WriteFile(statePath(cfg.Dir), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := NewRunner(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Status{Actions: []ActionStatus{{Name: "reload", DependsOn: []string{"web"}}}}, r.state.status(r.cfg.Actions)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", content, diff)
		}
		if aside, err := os.ReadFile(statePath(cfg.Dir) + ".corrupt"); err != nil || string(aside) != content {
			t.Errorf("put aside: %q, %v, want %q", aside, err, content)
		}
	}
}

func TestStateThatCannotBeReadIsNotTakenForNone(t *testing.T) {
	cfg := configFor(t.TempDir())
	if err := os.Mkdir(statePath(cfg.Dir), 0o755); err != nil { // works against root as well, unlike permissions
		t.Fatal(err)
	}
	if _, err := NewRunner(cfg); err == nil {
		t.Error("the node begins anew: its run in progress and what it obeys are forgotten")
	}
}

func TestStateOfAnotherMachineIsDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		cfg := configFor(t.TempDir())
		n := startNode(t, nc, cfg)
		n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
		n.end(Ending{})
		n.stop()
		cfg.Instance = "i-2"
		n = startNode(t, nc, cfg)
		if diff := cmp.Diff(Status{Actions: []ActionStatus{{Name: "reload", DependsOn: []string{"web"}}}}, n.status()); diff != "" {
			t.Errorf("a machine made from the other's image (-want +got):\n%s", diff)
		}
		if _, err := os.Stat(appliedPath(cfg.Dir, "reload")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the other's members are still there: %v", err)
		}
	})
}

func TestOnlyTheLastRunsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(t.TempDir())
		n := startNode(t, connect(t), cfg)
		for i := range 8 {
			n.kick(t, kickOf(fmt.Sprint("r", i), membership("web", 1000, int64(i), fmt.Sprint("web", i))))
			n.end(Ending{})
		}
		dirs, err := filepath.Glob(filepath.Join(cfg.Dir, "runs", "*"))
		if err != nil || len(dirs) != keptRuns || filepath.Base(dirs[0]) != "r3" {
			t.Errorf("kept %q, %v, want r3 to r7", dirs, err)
		}
	})
}

func TestMembersBeyondTheInlineLimitGoInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		nc := connect(t)
		n := startNode(t, nc, configFor(dir))
		var names []string
		for i := range 10000 {
			names = append(names, fmt.Sprintf("web%05d.example.org", i))
		}
		web, db := membership("web", 1000, 1, names...), membership("db", 1000, 1)
		messages, err := encodeKick(kickOf("r1", web, db))
		if err != nil || len(messages) < 3 {
			t.Fatalf("%d messages, %v, want some parts and a kick", len(messages), err)
		}
		for _, m := range messages {
			if len(m) > MaxInline {
				t.Errorf("a message of %d bytes", len(m))
			}
		}
		if reply := n.kick(t, kickOf("r1", web, db)); reply.Answer != Accepted {
			t.Fatalf("%+v", reply)
		}
		f := readMembers(t, filepath.Join(dir, "runs", "r1", "members.json"))
		if Hash(f.Roles["web"]) != web.Revision.Hash || len(f.Roles["db"]) != 0 {
			t.Errorf("%d members arrived, and other ones", len(f.Roles["web"]))
		}
		n.end(Ending{})
		if n.parts.size != 0 {
			t.Errorf("%d bytes of parts are kept", n.parts.size)
		}

		// One part is lost.
		more := membership("web", 1000, 2, names[1:]...)
		messages, err = encodeKick(kickOf("r2", more))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages[1 : len(messages)-1] {
			if err := nc.Publish(kickSubject("main", lb1), m); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		answer, err := nc.RequestWithContext(ctx, kickSubject("main", lb1), messages[len(messages)-1])
		if err != nil {
			t.Fatal(err)
		}
		if reply, err := decodeReply(answer.Data); err != nil || reply.Answer != Incomplete {
			t.Errorf("without its first part: %+v, %v, want %s", reply, err, Incomplete)
		}
		if reply := n.kick(t, kickOf("r3", more)); reply.Answer != Accepted {
			t.Errorf("sent again: %+v", reply)
		}
		n.end(Ending{})
	})
}

func TestPartsThatNoKickAsksForAreBounded(t *testing.T) {
	var a assembly
	list := json.RawMessage(`"` + strings.Repeat("x", MaxInline) + `"`)
	for i := range 1000 {
		a.add(Part{Of: fmt.Sprint("1-", i), Parts: 1024, Members: list})
		if a.size > maxParts {
			t.Fatalf("%d bytes after %d parts", a.size, i)
		}
	}
	if a.find("1-999") == nil || a.find("1-0") != nil {
		t.Error("the newest went before the oldest")
	}
	a.complete(kickOf("r1"))
	a.complete(kickOf("r2"))
	if a.size != 0 || len(a.lists) != 0 {
		t.Errorf("%d bytes are left after two kicks that did not ask for them", a.size)
	}
}

func TestNobodyThereIsSaidByTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := Send(ctx, connect(t), "main", kickOf("r1"))
		if !errors.Is(err, nats.ErrNoResponders) || !strings.HasPrefix(err.Error(), "kick lb1.example.org/reload: ") {
			t.Errorf("got %v", err)
		}
	})
}

func TestGarbageNeitherStopsTheNodeNorTheListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		var (
			good []Result
			bad  []error
		)
		sub, err := ListenResults(nc, "main", func(r Result) { good = append(good, r) }, func(err error) { bad = append(bad, err) })
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		n := startNode(t, nc, configFor(t.TempDir()))
		forged, _ := json.Marshal(exampleMessages()["result"])
		for subject, data := range map[string][]byte{
			resultSubject("main", "web1"): forged, // of another node
			resultSubject("main", "a.b"):  []byte("\x00"),
			kickSubject("main", lb1):      []byte(`{"part_of":"x","parts":-1}`),
		} {
			if err := nc.Publish(subject, data); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Publish(kickSubject("main", lb1), []byte("]")); err != nil {
			t.Fatal(err)
		}
		if reply := n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1"))); reply.Answer != Accepted {
			t.Errorf("after garbage: %+v", reply)
		}
		n.end(Ending{})
		if len(good) != 1 || len(bad) != 2 {
			t.Errorf("%d results and %d errors, want 1 and 2: %v", len(good), len(bad), bad)
		}
	})
}

func TestAgentWaitsForTheChildThatAKilledOneWasAboutToMakeAShim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		cfg := configFor(t.TempDir())
		left, err := acquire(t.Context(), filepath.Join(cfg.Dir, "agent.lock"))
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(ownWithin-time.Second, func() { left.Close() })
		r, err := NewRunner(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := r.Run(ctx, nc, func(Status) { cancel() }); err != nil {
			t.Errorf("it ended with %v: systemd would start it again, and the node be gone meanwhile", err)
		}
	})
}

func TestTwoAgentsDoNotShareADirectory(t *testing.T) {
	nc := connect(t)
	cfg := RunnerConfig{Cluster: "main", Node: lb1, Instance: "i", Boot: "b", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	first, err := NewRunner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewRunner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	runs := make(chan struct{})
	ended := make(chan error)
	go func() { ended <- first.Run(ctx, nc, func(Status) { close(runs) }) }()
	<-runs
	if err := second.Run(ctx, nc, func(Status) {}); err == nil || !strings.Contains(err.Error(), cfg.Dir) {
		t.Errorf("a second agent in the same directory ended with %v, want an error that names it", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := second.Run(ctx, nc, func(Status) {}); err != nil {
		t.Errorf("after the first agent's end the second one ended with %v", err)
	}
}
