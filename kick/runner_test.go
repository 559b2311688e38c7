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
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const lb1 = "lb1.example.org"

// connect starts a bus for the test and connects to it.
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

// fakeRuns has an Execute whose runs end when the test decides.
type fakeRuns struct {
	launched []Launch
	end      chan Ending
}

func (f *fakeRuns) execute(ctx context.Context, l Launch) (Ending, error) {
	f.launched = append(f.launched, l)
	select {
	case e := <-f.end:
		return e, nil
	case <-ctx.Done():
		return Ending{}, ctx.Err()
	}
}

// node is a Runner whose Run is in progress.
type node struct {
	*Runner
	nc       *nats.Conn
	runs     *fakeRuns
	statuses []Status
	stop     func()
	mu       sync.Mutex // for statuses
}

func configFor(dir string) RunnerConfig {
	return RunnerConfig{
		Cluster: "main", Node: lb1, Instance: "i-1", Boot: "b-1", Dir: dir,
		Actions: []Action{{
			Name: "reload", Command: []string{"reload-lb"}, DependsOn: []string{"web"}, Timeout: time.Minute,
		}},
		Log: slog.New(slog.DiscardHandler),
	}
}

// emptyStatus is the first status of a node with configFor.
var emptyStatus = Status{Actions: []ActionStatus{{Name: "reload", DependsOn: []string{"web"}}}}

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
	go func() {
		done <- r.Run(ctx, nc, func(s Status) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.statuses = append(n.statuses, s)
		})
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with the error: %v", err)
		}
	})
	t.Cleanup(n.stop)
	synctest.Wait()
	return n
}

// withNode runs a test in virtual time, with a node that was just started.
func withNode(t *testing.T, test func(t *testing.T, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, startNode(t, connect(t), configFor(t.TempDir()))) })
}

// webKick is a kick with one membership, of the role web.
func webKick(id string, n int64, names ...string) Kick {
	return kickOf(id, membership("web", 1000, n, names...))
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

// seen is how many statuses came so far.
func (n *node) seen() int {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.statuses)
}

func (n *node) status() Status {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
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

func TestSuccessfulRunIsApplied(t *testing.T) {
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
		want.Running = &Running{Run: "r1", Action: "reload", Limit: 75000}
		if diff := cmp.Diff(want, n.status()); diff != "" {
			t.Errorf("during the run (-want +got):\n%s", diff)
		}

		n.end(Ending{Duration: 1234, Output: "done\n"})
		applied := map[string]Revision{"web": web.Revision}
		want.Actions[0] = ActionStatus{
			Name: "reload", DependsOn: []string{"web"}, Applied: applied,
			Last: &LastRun{Run: "r1", Outcome: Succeeded, Duration: 1234},
		}
		want.Running = nil
		if diff := cmp.Diff(want, n.status()); diff != "" {
			t.Errorf("after the run (-want +got):\n%s", diff)
		}
		wantResult := Result{
			V: Version, Node: lb1, Action: "reload", Run: "r1", Outcome: Succeeded, Duration: 1234,
			Output: "done\n", Applied: applied,
		}
		if diff := cmp.Diff([]Result{wantResult}, *got); diff != "" {
			t.Errorf("results (-want +got):\n%s", diff)
		}
		if reply := n.kick(t, kickOf("r2", web)); reply.Answer != AlreadyApplied {
			t.Errorf("a kick with the same members: got %+v, want %s", reply, AlreadyApplied)
		}
	})
}

func TestRunReceivesTheMembersAndWhatChanged(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		n.kick(t, webKick("r1", 1, "web1", "web2"))
		n.end(Ending{})
		web := membership("web", 1000, 2, "web2", "web3")
		n.kick(t, kickOf("r2", web))
		file := Launch{Dir: n.cfg.Dir, Run: "r2"}.membersFile()
		want := []string{
			"KICKER_NODE=lb1.example.org", "KICKER_ACTION=reload", "KICKER_RUN=r2", "KICKER_MEMBERS_FILE=" + file,
			"KICKER_REASON=web: +web2", "KICKER_REVISION=web=" + web.Revision.Hash,
			"KICKER_ADDED=web3", "KICKER_REMOVED=web1", "KICKER_REMOVED_WHY=web1=unknown", "KICKER_FORCE=",
		}
		if diff := cmp.Diff(want, n.runs.launched[1].Env); diff != "" {
			t.Errorf("environment (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(membersOf(kickOf("r2", web)), readMembers(t, file)); diff != "" {
			t.Errorf("members file (-want +got):\n%s", diff)
		}
		n.end(Ending{Exit: 1})
		f := readMembers(t, appliedPath(n.cfg.Dir, "reload"))
		if len(f.Roles["web"]) != 2 || f.Roles["web"][0].Node != "web1" {
			t.Errorf("after a failure the action's members are %+v, want those of its last success", f.Roles)
		}
		n.kick(t, kickOf("r3", web, membership("db", 1000, 3, "db1")))
		env := n.runs.launched[2].Env
		if !slices.Contains(env, "KICKER_ADDED=web:web3 db:db1") || !slices.Contains(env, "KICKER_REMOVED=web:web1") {
			t.Errorf("environment %q, want what changed since the last success, by role", env)
		}
		n.end(Ending{})
	})
}

func readMembers(t *testing.T, path string) MembersFile {
	t.Helper()
	var f MembersFile
	if err := readFile(path, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAppliedMembersOfOtherRevisionsAreIgnored(t *testing.T) {
	r := runnerWith(t, members("web1"))
	applied := r.state.Actions["reload"].Applied
	if f := loadApplied(r.cfg.Dir, "reload", applied); len(f.Roles["web"]) != 1 {
		t.Errorf("the applied members: got %+v, want web1", f)
	}
	other := membership("web", 1000, 2, "web2")
	if f := loadApplied(r.cfg.Dir, "reload", map[string]Revision{"web": other.Revision}); len(f.Roles) > 0 {
		t.Errorf("members of another revision: got %+v, want none", f)
	}
}

func TestTooManyWordsEndInACount(t *testing.T) {
	var words []string
	for i := range 10000 {
		words = append(words, fmt.Sprintf("web%05d.example.org", i))
	}
	got := joinBounded(words)
	fields := strings.Fields(got)
	left := len(words) - (len(fields) - 1)
	if len(got) > maxEnv+100 || fields[len(fields)-1] != fmt.Sprintf("+%d", left) {
		t.Errorf("got %d bytes that end in %q, want the end +%d", len(got), got[len(got)-30:], left)
	}
	if got := joinBounded(words[:2]); got != "web00000.example.org web00001.example.org" {
		t.Errorf("two words: got %q", got)
	}
}

func TestKickDuringARunIsAnsweredBusyWithTheTimeLeft(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		n.kick(t, webKick("r1", 1, "web1"))
		time.Sleep(20 * time.Second)
		reply := n.kick(t, webKick("r2", 2, "web2"))
		if diff := cmp.Diff(Reply{V: Version, Answer: Busy, Run: "r1", Deadline: 55000}, reply); diff != "" {
			t.Errorf("another kick (-want +got):\n%s", diff)
		}
		reply = n.kick(t, webKick("r1", 1, "web1"))
		if diff := cmp.Diff(Reply{V: Version, Answer: Accepted, Run: "r1", Deadline: 55000}, reply); diff != "" {
			t.Errorf("the same kick (-want +got):\n%s", diff)
		}
		n.end(Ending{})
		reply = n.kick(t, webKick("r1", 1, "web1"))
		if runs := len(n.runs.launched); reply.Answer != Accepted || runs != 1 {
			t.Errorf("the same kick after its run: got %+v and %d runs, want it accepted and one run", reply, runs)
		}
	})
}

func TestFailuresAreCountedUntilASuccess(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
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
				t.Fatalf("kick %d: got %+v, want %s", i, reply, Accepted)
			}
			n.end(c.ending)
			a := n.status().Actions[0]
			sameLast := a.Last.Outcome == c.outcome && a.Last.Failures == c.failures
			if !sameLast || a.Dirty != c.dirty || (len(a.Applied) > 0) == c.dirty {
				t.Errorf("after %+v: got %+v, last run %+v", c.ending, a, *a.Last)
			}
		}
	})
}

func TestRunThatCannotBeStartedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		all := results(t, nc)
		n := startNode(t, nc, configFor(t.TempDir()))
		n.cfg.Execute = func(context.Context, Launch) (Ending, error) {
			return Ending{}, errors.New("no more processes")
		}
		for i := range 2 {
			if reply := n.kick(t, webKick(fmt.Sprint("r", i), 1, "web1")); reply.Answer != Accepted {
				t.Fatalf("got %+v, want %s", reply, Accepted)
			}
			a := n.status().Actions[0]
			failed := a.Last.Outcome == Failed && a.Last.Exit == -1 && a.Last.Failures == i+1
			if n.status().Running != nil || !a.Dirty || !failed {
				t.Errorf("got %+v, last run %+v, want it failed", a, a.Last)
			}
		}
		if len(*all) != 2 || (*all)[0].Error != "no more processes" {
			t.Errorf("got the results %+v, want two with the error of Execute", *all)
		}
	})
}

func TestRestartedAgentKeepsTheStateAndAdoptsTheRun(t *testing.T) {
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
		want := Status{
			Epoch: 2000, Controller: "ctl1-b", Running: &Running{Run: "r1", Action: "reload", Limit: 75000},
			Actions: []ActionStatus{{Name: "reload", DependsOn: []string{"web"}, Dirty: true}},
		}
		if diff := cmp.Diff(want, n.statuses[0]); diff != "" {
			t.Errorf("the first status after the restart (-want +got):\n%s", diff)
		}
		if len(n.runs.launched) != 1 || !n.runs.launched[0].Adopt || n.runs.launched[0].Run != "r1" {
			t.Fatalf("launched %+v, want r1 to be adopted", n.runs.launched)
		}
		newer := kickOf("r2", membership("web", 2000, 1, "web2"))
		newer.Epoch, newer.Controller = 2000, "ctl1-b"
		if reply := n.kick(t, newer); reply.Answer != Busy || reply.Run != "r1" || reply.Deadline != 75000 {
			t.Errorf("a kick during the adopted run: got %+v, want %s with a deadline in 75 s", reply, Busy)
		}
		n.end(Ending{Duration: 5})
		if len(*got) != 1 || (*got)[0].Outcome != Succeeded || (*got)[0].Applied["web"] != web.Revision {
			t.Errorf("got the results %+v, want the one of r1", *got)
		}
		if reply := n.kick(t, kickOf("r3", web)); reply.Answer != Stale {
			t.Errorf("a kick of a lower epoch: got %+v, want %s", reply, Stale)
		}
	})
}

func TestDirtyIsOnDiskBeforeTheRunStarts(t *testing.T) {
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
			t.Errorf("when the run started, the state on disk was %+v", atStart)
		}
	})
}

func TestEpochOutOfRangeIsRejected(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		n.Seen(MaxEpoch+1, "ctl1-z")
		k := webKick("r1", 1, "web1")
		k.Epoch = MaxEpoch + 1
		if reply := n.kick(t, k); reply.Answer != Invalid {
			t.Errorf("a kick of epoch %d: got %+v, want %s", k.Epoch, reply, Invalid)
		}
		if n.status().Epoch != 0 {
			t.Errorf("the status has epoch %d, want none", n.status().Epoch)
		}
		n.Seen(5, "ctl1-a")
		if n.status().Epoch != 5 {
			t.Errorf("the status has epoch %d, want 5", n.status().Epoch)
		}
	})
}

func TestDisabledNodeAnswersWithTheReason(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		file := filepath.Join(n.cfg.Dir, "disabled")
		if err := os.WriteFile(file, []byte("disk is being swapped\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		k := webKick("r1", 1, "web1")
		if reply := n.kick(t, k); reply.Answer != Disabled || reply.Detail != file+": disk is being swapped" {
			t.Errorf("got %+v, want %s with the file and its reason", reply, Disabled)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if reply := n.kick(t, k); reply.Answer != Accepted {
			t.Errorf("after the file was removed: got %+v, want %s", reply, Accepted)
		}
		n.end(Ending{})
	})
}

func TestStatusSaysThatTheNodeIsDisabled(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		file := filepath.Join(n.cfg.Dir, "disabled")
		for _, c := range []struct{ content, want string }{
			{"disk is being\nswapped\n", file + ": disk is being swapped"},
			{"\xff\x00" + strings.Repeat("ü", 4000), ""},
			{"", file + ": no reason given"},
		} {
			if err := os.WriteFile(file, []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lookEvery)
			got := n.status().Disabled
			if c.want != "" && got != c.want || got == "" || len(got) > maxText {
				t.Errorf("the status has the reason %q, want %q", got, c.want)
			}
			if _, err := ParseStatus(mustMarshal(t, n.status())); err != nil {
				t.Error(err)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		if got := n.status().Disabled; got != "" {
			t.Errorf("after the file was removed the status has the reason %q", got)
		}
		seen := n.seen()
		time.Sleep(10 * lookEvery)
		if n.seen() != seen {
			t.Errorf("%d statuses without a change", n.seen()-seen)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		n.kick(t, webKick("r1", 1, "web1"))
		if n.status().Disabled == "" {
			t.Error("the status does not follow at once when a kick is rejected")
		}
	})
}

func TestPipeOfTheNameDisabledIsNotReadFrom(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		file := filepath.Join(n.cfg.Dir, "disabled")
		if err := syscall.Mkfifo(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if reply := n.kick(t, webKick("r1", 1, "web1")); reply.Answer != Disabled {
			t.Errorf("got %+v, want %s", reply, Disabled)
		}
	})
}

func TestRunReceivesWhyMembersWereRemoved(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		const need = "web same=site"
		n.kick(t, kickOf("r1", membership(need, 1000, 1, "web1", "web2", "web3", "web4")))
		n.end(Ending{})
		web := membership(need, 1000, 2, "web4")
		web.Departed = map[string]Departure{"web1": DepartedNotReady, "web2": "of a later version\n", "web9": DepartedLeft}
		k := kickOf("r2", web)
		k.Force = true
		n.kick(t, k)
		env := n.runs.launched[1].Env
		for _, want := range []string{
			"KICKER_REMOVED=web1 web2 web3", "KICKER_REMOVED_WHY=web1=not_ready web2=unknown web3=unknown",
			"KICKER_REVISION=web_same=site=" + web.Revision.Hash, "KICKER_FORCE=1",
		} {
			if !slices.Contains(env, want) {
				t.Errorf("environment %q, want %s", env, want)
			}
		}
		n.end(Ending{Exit: 1})
		k = kickOf("r3", web, membership("db", 1000, 2, "db1"))
		n.kick(t, k)
		want := "KICKER_REMOVED_WHY=web_same=site:web1=not_ready web_same=site:web2=unknown web_same=site:web3=unknown"
		if env := n.runs.launched[2].Env; !slices.Contains(env, want) {
			t.Errorf("environment %q, want %s", env, want)
		}
		n.end(Ending{})
	})
}

func TestMembersOfAnEmptyRoleAreAnEmptyList(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		for i, k := range []Kick{
			kickOf("r1", Membership{Role: "web", Revision: Revision{Epoch: 1000, N: 1, Hash: Hash(nil)}}), kickOf("r2"),
		} {
			k.Ordered = true
			messages, err := encodeKick(k)
			if err != nil || strings.Contains(string(messages[0]), "null") {
				t.Errorf("the kick is %s, error %v", messages, err)
			}
			n.kick(t, k)
			data, err := os.ReadFile(n.runs.launched[i].membersFile())
			if err != nil || strings.Contains(string(data), "null") {
				t.Errorf("the members file is %s, error %v", data, err)
			}
			n.end(Ending{})
		}
		n.kick(t, kickOf("r3", membership("web", 1000, 2)))
		n.end(Ending{})
		page := mustMarshal(t, n.pageFor(RosterRequest{V: Version, Roster: "reload", Role: "web"}))
		if strings.Contains(string(page), "null") {
			t.Errorf("the roster page is %s", page)
		}
	})
}

func TestUnreadableDisabledFileDisablesTheNode(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		if err := os.Mkdir(filepath.Join(n.cfg.Dir, "disabled"), 0o755); err != nil {
			t.Fatal(err)
		}
		reply := n.kick(t, webKick("r1", 1, "web1"))
		if reply.Answer != Disabled || !strings.HasPrefix(reply.Detail, "cannot read ") || len(n.runs.launched) > 0 {
			t.Errorf("got %+v and %d runs, want %s and no run", reply, len(n.runs.launched), Disabled)
		}
	})
}

// Run and Execute both end when ctx ends. The run is still in progress, whichever of them ends first.
func TestRunGoesOnWhenItsAgentStops(t *testing.T) {
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
						time.Sleep(time.Millisecond) // Execute returns meanwhile
					}
				})
			})
			synctest.Wait()
			(&node{nc: nc}).kick(t, webKick("r1", 1, "web1"))
			wg.Wait()
			cancel()
			if s, err := loadState(cfg.Dir, cfg.Instance, cfg.Log); err != nil || s.Run == nil || s.Run.ID != "r1" {
				t.Fatalf("the next agent reads %+v, error %v; want r1 in progress", s, err)
			}
		})
	}
}

// kickedOnce runs an agent until it has accepted one kick, and returns when the agent has stopped.
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
	(&node{nc: nc}).kick(t, webKick("r1", 1, "web1"))
	cancel()
	wg.Wait()
}

func TestRunWaitsForExecuteToReturn(t *testing.T) {
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
			t.Error("Run returned before Execute did")
		}
	})
}

func TestFileIsReplacedAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := replaceFile(path, "old", 0o644); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := replaceFile(path, "new", 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(old); err != nil || string(data) != "\"old\"\n" {
		t.Errorf("a reader of the old file got %q, error %v; want the old content", data, err)
	}
}

func TestRunStartsInANewDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := configFor(t.TempDir())
		left := Launch{Dir: cfg.Dir, Run: "r1"}.endingFile() // by an agent that died before it wrote its state
		if err := replaceFile(left, Ending{}, 0o644); err != nil {
			t.Fatal(err)
		}
		n := startNode(t, connect(t), cfg)
		n.kick(t, webKick("r1", 1, "web1"))
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file of an earlier attempt is still there: %v", err)
		}
		n.end(Ending{})
	})
}

func TestNodeThatCannotWriteItsStateRunsNothing(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		if err := os.Mkdir(statePath(n.cfg.Dir), 0o755); err != nil { // stops root, too, unlike permissions
			t.Fatal(err)
		}
		reply := n.kick(t, webKick("r1", 1, "web1"))
		if reply.Answer != CannotRun || !strings.HasPrefix(reply.Detail, "cannot write the node's state: ") {
			t.Errorf("got %+v, want %s because of the state", reply, CannotRun)
		}
		if len(n.runs.launched) > 0 {
			t.Errorf("launched %+v, want no run", n.runs.launched)
		}
		if s := n.status(); s.Actions[0].Dirty || s.Running != nil || s.Epoch != 1000 {
			t.Errorf("got the status %+v, want only the epoch", s)
		}
	})
}

func TestInvalidStateIsMovedAside(t *testing.T) {
	for _, content := range []string{
		"", "{", `{"v":9,"instance":"i-1"}`, `{"v":2,"instance":"i-1","epoch":-4}`,
		`{"v":2,"instance":"i-1","run":{"id":"../x","action":"a"}}`,
	} {
		cfg := configFor(t.TempDir())
		if err := os.WriteFile(statePath(cfg.Dir), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := NewRunner(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(emptyStatus, r.state.status(r.cfg.Actions)); diff != "" {
			t.Errorf("%q: status (-want +got):\n%s", content, diff)
		}
		if aside, err := os.ReadFile(statePath(cfg.Dir) + ".corrupt"); err != nil || string(aside) != content {
			t.Errorf("moved aside: got %q, error %v, want %q", aside, err, content)
		}
	}
}

func TestUnreadableStateIsAnError(t *testing.T) {
	cfg := configFor(t.TempDir())
	if err := os.Mkdir(statePath(cfg.Dir), 0o755); err != nil { // stops root, too, unlike permissions
		t.Fatal(err)
	}
	if _, err := NewRunner(cfg); err == nil {
		t.Error("got no error: the node would forget its run in progress and its controller")
	}
}

func TestStateOfAnotherMachineIsDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		cfg := configFor(t.TempDir())
		n := startNode(t, nc, cfg)
		n.kick(t, webKick("r1", 1, "web1"))
		n.end(Ending{})
		n.stop()
		cfg.Instance = "i-2"
		n = startNode(t, nc, cfg)
		if diff := cmp.Diff(emptyStatus, n.status()); diff != "" {
			t.Errorf("status on the other machine (-want +got):\n%s", diff)
		}
		if _, err := os.Stat(appliedPath(cfg.Dir, "reload")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the first machine's members are still there: %v", err)
		}
	})
}

func TestOnlyTheLastRunsAreKept(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		for i := range 8 {
			n.kick(t, webKick(fmt.Sprint("r", i), int64(i), fmt.Sprint("web", i)))
			n.end(Ending{})
		}
		dirs, err := filepath.Glob(filepath.Join(n.cfg.Dir, "runs", "*"))
		if err != nil || len(dirs) != keptRuns || filepath.Base(dirs[0]) != "r3" {
			t.Errorf("kept %q, error %v, want r3 to r7", dirs, err)
		}
	})
}

func TestMembersBeyondTheInlineLimitGoInParts(t *testing.T) {
	withNode(t, func(t *testing.T, n *node) {
		var names []string
		for i := range 10000 {
			names = append(names, fmt.Sprintf("web%05d.example.org", i))
		}
		web, db := membership("web", 1000, 1, names...), membership("db", 1000, 1)
		messages, err := encodeKick(kickOf("r1", web, db))
		if err != nil || len(messages) < 3 {
			t.Fatalf("got %d messages, error %v, want some parts and a kick", len(messages), err)
		}
		for _, m := range messages {
			if len(m) > maxInline {
				t.Errorf("a message has %d bytes, the limit is %d", len(m), maxInline)
			}
		}
		if reply := n.kick(t, kickOf("r1", web, db)); reply.Answer != Accepted {
			t.Fatalf("got %+v, want %s", reply, Accepted)
		}
		f := readMembers(t, Launch{Dir: n.cfg.Dir, Run: "r1"}.membersFile())
		if Hash(f.Roles["web"]) != web.Revision.Hash || len(f.Roles["db"]) != 0 {
			t.Errorf("the run received %d members, not those that were sent", len(f.Roles["web"]))
		}
		n.end(Ending{})
		if len(n.parts.parts) != 0 {
			t.Errorf("%d parts are still kept", len(n.parts.parts))
		}

		// One part is lost.
		more := membership("web", 1000, 2, names[1:]...)
		messages, err = encodeKick(kickOf("r2", more))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages[1 : len(messages)-1] {
			if err := n.nc.Publish(kickSubject("main", lb1), m); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		answer, err := n.nc.RequestWithContext(ctx, kickSubject("main", lb1), messages[len(messages)-1])
		if err != nil {
			t.Fatal(err)
		}
		if reply, err := decodeReply(answer.Data); err != nil || reply.Answer != Incomplete {
			t.Errorf("without the first part: got %+v, error %v, want %s", reply, err, Incomplete)
		}
		if reply := n.kick(t, kickOf("r3", more)); reply.Answer != Accepted {
			t.Errorf("sent again: got %+v, want %s", reply, Accepted)
		}
		n.end(Ending{})
	})
}

func TestUnusedPartsAreBounded(t *testing.T) {
	var a assembly
	kept := func(hash string) bool { return slices.ContainsFunc(a.parts, func(p Part) bool { return p.Of == hash }) }
	list := json.RawMessage(strings.Repeat("x", maxInline))
	for i := range 1000 {
		a.add(Part{Of: fmt.Sprint("1-", i), Parts: 1024, Members: list})
		size := 0
		for _, p := range a.parts {
			size += len(p.Members)
		}
		if size > 64<<20 {
			t.Fatalf("%d bytes are kept after %d parts", size, i)
		}
	}
	if !kept("1-999") || kept("1-0") {
		t.Error("the newest list was dropped before the oldest")
	}
	if _, err := decodePart(fmt.Appendf(nil, `{"v":2,"part_of":"1-0","parts":1,"members":%q}`, list)); err == nil {
		t.Error("a part larger than the limit was accepted")
	}
	a.complete(kickOf("r1"))
	a.complete(kickOf("r2"))
	if len(a.parts) != 0 {
		t.Errorf("%d parts are kept after two kicks that did not use them", len(a.parts))
	}
}

func TestKickOfAnAbsentNodeHasNoResponders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := Send(ctx, connect(t), "main", kickOf("r1"))
		if !errors.Is(err, ErrNoAgent) || !strings.HasPrefix(err.Error(), "kick lb1.example.org/reload: ") {
			t.Errorf("got the error %v, want kick lb1.example.org/reload: %v", err, ErrNoAgent)
		}
	})
}

func TestInvalidMessagesChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		var (
			valid   []Result
			invalid []error
		)
		onResult := func(r Result) { valid = append(valid, r) }
		sub, err := ListenResults(nc, "main", onResult, func(err error) { invalid = append(invalid, err) })
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		n := startNode(t, nc, configFor(t.TempDir()))
		forged, _ := json.Marshal(exampleMessages()["result"])
		for _, m := range []nats.Msg{
			{Subject: resultSubject("main", "web1"), Data: forged}, // of another node
			{Subject: resultSubject("main", "a.b"), Data: []byte("\x00")},
			{Subject: kickSubject("main", lb1), Data: []byte(`{"part_of":"x","parts":-1}`)},
			{Subject: kickSubject("main", lb1), Data: []byte("]")},
		} {
			if err := nc.PublishMsg(&m); err != nil {
				t.Fatal(err)
			}
		}
		if reply := n.kick(t, webKick("r1", 1, "web1")); reply.Answer != Accepted {
			t.Errorf("a kick after invalid messages: got %+v, want %s", reply, Accepted)
		}
		n.end(Ending{})
		if len(valid) != 1 || len(invalid) != 2 {
			t.Errorf("got %d results and %d errors, want 1 and 2: %v", len(valid), len(invalid), invalid)
		}
	})
}

func TestAgentWaitsForTheLockOfAKilledAgentsChild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := connect(t)
		cfg := configFor(t.TempDir())
		child := flock.New(filepath.Join(cfg.Dir, "agent.lock"))
		if locked, err := child.TryLock(); err != nil || !locked {
			t.Fatal(locked, err)
		}
		time.AfterFunc(lockTimeout-time.Second, func() { child.Unlock() })
		r, err := NewRunner(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := r.Run(ctx, nc, func(Status) { cancel() }); err != nil {
			t.Errorf("the agent stopped with the error: %v", err)
		}
	})
}

func TestTwoAgentsDoNotShareADirectory(t *testing.T) {
	nc := connect(t)
	cfg := configFor(t.TempDir())
	first, err := NewRunner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewRunner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	started := make(chan struct{})
	ended := make(chan error)
	go func() { ended <- first.Run(ctx, nc, func(Status) { close(started) }) }()
	<-started
	if err := second.Run(ctx, nc, func(Status) {}); err == nil || !strings.Contains(err.Error(), cfg.Dir) {
		t.Errorf("the second agent in the directory stopped with %v, want an error that names the directory", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := second.Run(ctx, nc, func(Status) {}); err != nil {
		t.Errorf("after the first agent stopped, the second one stopped with the error: %v", err)
	}
}
