package kick

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
)

// These tests start real processes: the shim, and where it is to be killed the agent, are this very binary, see TestMain.

func shimExecute(t *testing.T) Execute {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Shim(exe, "shim")
}

func launchOf(t *testing.T, dir, id, script string) Launch {
	t.Helper()
	l := Launch{
		Dir: dir, Run: id, Action: "reload", Boot: "b-1",
		Command: []string{"/bin/sh", "-c", script}, Timeout: 20 * time.Second, Grace: time.Second,
	}
	if err := os.MkdirAll(l.runDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

func runToEnd(t *testing.T, l Launch) Ending {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := shimExecute(t)(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// start starts a run that ends during the test.
func start(t *testing.T, l Launch) <-chan Ending {
	t.Helper()
	execute := shimExecute(t)
	ended := make(chan Ending, 1)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	wg.Go(func() {
		e, err := execute(t.Context(), l)
		if err != nil {
			t.Errorf("run %s: %v", l.Run, err)
		}
		ended <- e
	})
	return ended
}

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func readPid(t *testing.T, path string) int {
	t.Helper()
	var pid int
	eventually(t, path, func() bool {
		data, err := os.ReadFile(path)
		if err != nil || !strings.HasSuffix(string(data), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	return pid
}

func alive(pid int) bool {
	p, err := readProcess(pid)
	return err == nil && !p.over
}

func TestEndOfACommandIsToldAsItWas(t *testing.T) {
	dir := t.TempDir()
	for i, c := range []struct {
		command []string
		outcome Outcome
		exit    int
		err     string
	}{
		{[]string{"/bin/sh", "-c", "exit 0"}, Succeeded, 0, ""},
		{[]string{"/bin/sh", "-c", "exit 2"}, Succeeded, 2, ""},
		{[]string{"/bin/sh", "-c", "exit 4"}, Failed, 4, ""},
		{[]string{"/bin/sh", "-c", "kill -KILL $$"}, Killed, -1, ""},
		{[]string{"/nonexistent/reload-lb"}, Failed, -1, "no such file"},
		{[]string{"/etc/passwd"}, Failed, -1, "permission denied"},
	} {
		l := launchOf(t, dir, fmt.Sprint("r", i), "")
		l.Command = c.command
		e := runToEnd(t, l)
		if got := e.outcome([]int{0, 2}); got != c.outcome || e.Exit != c.exit || !strings.Contains(e.Error, c.err) || (c.err == "") != (e.Error == "") {
			t.Errorf("%q: %s, %+v, want %s, exit %d, %q", c.command, got, e, c.outcome, c.exit, c.err)
		}
	}
}

func TestCommandGetsItsEnvironmentAndNothingElse(t *testing.T) {
	l := launchOf(t, t.TempDir(), "r1", `echo "$KICKER_NODE $PWD $(cat)"; ls -l /proc/$$/fd 2>/dev/null | grep -c run.lock; trap - TERM; kill -TERM $$`)
	l.Env = []string{"KICKER_NODE=lb1"}
	e := runToEnd(t, l)
	if e.Output != "lb1 / \n0\n" {
		t.Errorf("output %q, want its environment, / and no lock", e.Output)
	}
	if e.Signal != "SIGTERM" {
		t.Errorf("%+v, want it to die of TERM: it must not be ignored for the command", e)
	}
}

func TestDeadlineReachesGrandchildren(t *testing.T) {
	for _, c := range []struct{ name, script, output string }{
		{"polite, with a deaf child", `trap 'echo bye; exit 0' TERM; (trap '' TERM; exec sleep 1000) & echo $! >%[1]s.tmp; mv %[1]s.tmp %[1]s; wait`, "bye\n"},
		{"deaf", `trap '' TERM; sleep 1000 & echo $! >%[1]s.tmp; mv %[1]s.tmp %[1]s; wait; sleep 1000`, ""},
		{"in another group", `trap '' TERM; (set -m; sleep 1000 & echo $! >%[1]s.tmp; mv %[1]s.tmp %[1]s); sleep 1000`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			dir := t.TempDir()
			pidFile := filepath.Join(dir, "pid")
			l := launchOf(t, dir, "r1", fmt.Sprintf(c.script, pidFile))
			l.Timeout, l.Grace = 2*time.Second, time.Second
			e := runToEnd(t, l)
			if e.outcome([]int{0}) != TimedOut || e.Output != c.output || e.Duration < 2000 {
				t.Errorf("%+v, want it timed out with output %q", e, c.output)
			}
			if pid := readPid(t, pidFile); alive(pid) {
				t.Errorf("grandchild %d is alive", pid)
				unix.Kill(pid, unix.SIGKILL)
			}
		})
	}
}

func TestDaemonLeftBehindNeitherDelaysTheEndNorHoldsTheLock(t *testing.T) {
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	l := launchOf(t, dir, "r1", fmt.Sprintf(`setsid sh -c 'echo $$ >%[1]s; while [ -e %[1]s ] && echo still here; do sleep 0.05; done' & while ! [ -s %[1]s ]; do sleep 0.01; done`, pidFile))
	began := time.Now()
	e := runToEnd(t, l)
	if e.outcome([]int{0}) != Succeeded || time.Since(began) > 10*time.Second {
		t.Errorf("%+v after %v", e, time.Since(began))
	}
	pid := readPid(t, pidFile)
	defer unix.Kill(pid, unix.SIGKILL)
	if e := runToEnd(t, launchOf(t, dir, "r2", "exit 0")); e.outcome([]int{0}) != Succeeded {
		t.Errorf("the next run: %+v", e)
	}
	info, err := os.Stat(filepath.Join(l.runDir(), outputFile))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon writes on", func() bool {
		now, err := os.Stat(filepath.Join(l.runDir(), outputFile))
		return err == nil && now.Size() > info.Size()
	})
	if !alive(pid) {
		t.Error("the daemon is dead")
	}
}

func TestOutputIsBoundedAndItsEndIsKept(t *testing.T) {
	l := launchOf(t, t.TempDir(), "r1", `head -c 20000000 /dev/zero | tr '\0' x; echo; printf 'ü%.0s' $(seq 3000); echo ' the end'`)
	e := runToEnd(t, l)
	if !strings.HasSuffix(e.Output, "ü the end\n") || !strings.HasPrefix(e.Output, "ü") || len(e.Output) > tailOutput {
		t.Errorf("%d bytes, %.10q … %q", len(e.Output), e.Output, e.Output[len(e.Output)-20:])
	}
	data, err := os.ReadFile(filepath.Join(l.runDir(), outputFile))
	if err != nil || len(data) > maxOutput || !strings.HasPrefix(string(data), "[kicker: ") {
		t.Errorf("file of %d bytes, %.30q, %v", len(data), data, err)
	}
}

func TestOutputOfARunThatGoesOnIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf(`head -c 20000000 /dev/zero; echo 1 >%[1]s/written; while ! [ -e %[1]s/go ]; do sleep 0.01; done`, dir))
	run := start(t, l)
	readPid(t, filepath.Join(dir, "written"))
	eventually(t, "the output is bounded", func() bool {
		info, err := os.Stat(filepath.Join(l.runDir(), outputFile))
		return err == nil && info.Size() <= maxOutput
	})
	if len(run) > 0 {
		t.Error("it has ended")
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := next(t, run); e.outcome([]int{0}) != Succeeded {
		t.Errorf("%+v", e)
	}
}

// A number that came to another process after the shim's end is not the shim's, whatever session it leads.
func TestSessionOfAProcessWithAReusedNumberIsSpared(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", fmt.Sprintf(`sleep 1000 & echo $! >%s/child; wait; exit 7`, dir))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := readPid(t, filepath.Join(dir, "child"))
	defer func() {
		unix.Kill(child, unix.SIGKILL)
		cmd.Process.Kill()
		cmd.Wait()
	}()
	leader, err := readProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	former := leader
	former.Start -= 100
	killSession(former)
	if !alive(child) {
		t.Fatal("a process of another's session was killed")
	}
	killSession(leader)
	if alive(child) {
		t.Error("a process of the session is alive")
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("the leader: %v, want it to have seen its child's end", err)
	}
}

func TestSignalsToTheShimDoNotTouchTheRun(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf(`echo $PPID >%[1]s/shim; while ! [ -e %[1]s/go ]; do sleep 0.01; done; echo whole`, dir))
	ending := start(t, l)
	shim := readPid(t, filepath.Join(dir, "shim"))
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		if err := unix.Kill(shim, sig); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := next(t, ending); e.outcome([]int{0}) != Succeeded || e.Output != "whole\n" {
		t.Errorf("%+v", e)
	}
}

func TestRunOfAShimThatDiedIsLostAndItsProcessesAreKilled(t *testing.T) {
	for _, c := range []struct {
		name, boot string
		spared     bool
	}{
		{"same boot", "b-1", false},
		{"after a reboot the number is another's", "b-2", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l := launchOf(t, dir, "r1", fmt.Sprintf(`echo words; sleep 1000 & echo $! >%[1]s/child; echo $PPID >%[1]s/shim; wait`, dir))
			ctx, cancel := context.WithCancel(t.Context())
			agent := make(chan error)
			go func() {
				_, err := shimExecute(t)(ctx, l)
				agent <- err
			}()
			child, shim := readPid(t, filepath.Join(dir, "child")), readPid(t, filepath.Join(dir, "shim"))
			defer unix.Kill(child, unix.SIGKILL)
			cancel()
			if err := <-agent; err == nil {
				t.Fatal("the agent saw the end of a run that goes on")
			}
			unix.Kill(shim, unix.SIGKILL)

			adopted := Launch{Dir: dir, Run: "r1", Action: "reload", Boot: c.boot, Adopt: true}
			e := runToEnd(t, adopted)
			if e.outcome([]int{0}) != Lost || e.Exit != -1 || e.Output != "words\n" {
				t.Errorf("%+v, want it lost", e)
			}
			if alive(child) != c.spared {
				t.Errorf("grandchild alive: %v, want %v", !c.spared, c.spared)
			}
			if e := runToEnd(t, launchOf(t, dir, "r2", "exit 0")); e.outcome([]int{0}) != Succeeded {
				t.Errorf("the next run: %+v", e)
			}
		})
	}
}

func TestSecondShimDoesNotRun(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf(`echo $$ >%[1]s/pid; while ! [ -e %[1]s/go ]; do sleep 0.01; done`, dir))
	first := start(t, l)
	readPid(t, filepath.Join(dir, "pid"))
	ran := filepath.Join(dir, "ran")
	if e := runToEnd(t, launchOf(t, dir, "r2", "touch "+ran)); e.outcome([]int{0}) != Failed || !strings.Contains(e.Error, "another run holds") {
		t.Errorf("%+v", e)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("it ran")
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := next(t, first); e.outcome([]int{0}) != Succeeded {
		t.Errorf("the first: %+v", e)
	}
}

func TestStatOfAProcessWithAnOddName(t *testing.T) {
	stat := "77 (a) b (c) S 1 70 60 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3"
	p, err := parseStat(77, stat)
	if want := (process{Pid: 77, Start: 98765, session: 60}); err != nil || p != want {
		t.Errorf("parseStat = %+v, %v, want %+v", p, err, want)
	}
	if _, err := parseStat(77, "77 (x) S 1"); err == nil {
		t.Error("a short line is not refused")
	}
	if self, err := readProcess(os.Getpid()); err != nil || self.Start == 0 || self.over {
		t.Errorf("this process: %+v, %v", self, err)
	}
}

// agentMain is an agent with one action that runs a script, until it is killed.
func agentMain(url, dir string) int {
	// It goes with the test's bus, should the test be cut short.
	nc, err := nats.Connect(url, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { os.Exit(1) }))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cfg := configFor(dir)
	cfg.Actions[0].Command = []string{"/bin/sh", filepath.Join(dir, "script")}
	cfg.Actions[0].Success = []int{0, 2}
	cfg.Execute = Shim(exe, "shim")
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	r, err := NewRunner(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := func(s Status) {
		data, err := json.Marshal(s)
		if err == nil {
			err = nc.Publish("test.status", data)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if err := r.Run(context.Background(), nc, status); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// realNode is an agent in a process of its own.
type realNode struct {
	nc       *nats.Conn
	url, dir string
	results  chan Result
	statuses chan Status
	agent    *exec.Cmd
}

func newRealNode(t *testing.T, script string) *realNode {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Shutdown)
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("no bus")
	}
	n := &realNode{url: s.ClientURL(), dir: t.TempDir(), results: make(chan Result, 16), statuses: make(chan Status, 64)}
	if n.nc, err = nats.Connect(n.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.nc.Close)
	if _, err := ListenResults(n.nc, "main", func(r Result) { n.results <- r }, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	if _, err := n.nc.Subscribe("test.status", func(m *nats.Msg) {
		s, err := ParseStatus(m.Data)
		if err != nil {
			t.Error(err)
		}
		n.statuses <- s
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "script"), []byte("D="+n.dir+"\n"+script), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.kill(t) })
	return n
}

// start starts the agent and returns what it says first.
func (n *realNode) start(t *testing.T) Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := n.nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	for len(n.statuses) > 0 {
		<-n.statuses
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n.agent = exec.Command(exe, "agent", n.url, n.dir)
	n.agent.Stderr = t.Output()
	if err := n.agent.Start(); err != nil {
		t.Fatal(err)
	}
	return next(t, n.statuses)
}

func (n *realNode) kill(t *testing.T) {
	t.Helper()
	if n.agent == nil {
		return
	}
	if err := n.agent.Process.Kill(); err != nil {
		t.Error(err)
	}
	n.agent.Wait()
	n.agent = nil
}

func (n *realNode) kick(t *testing.T, k Kick) Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	reply, err := Send(ctx, n.nc, "main", k)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func (n *realNode) touch(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

// Each run says so if another one is in progress.
const exclusiveScript = `
mkdir $D/in-progress || echo overlap >>$D/overlaps
echo "start $KICKER_RUN" >>$D/journal
echo $$ >$D/pid.tmp; mv $D/pid.tmp $D/pid
while ! [ -e $D/go ]; do sleep 0.01; done
echo "members of $KICKER_RUN: $(grep -o '"node":"web[^"]*"' $KICKER_MEMBERS_FILE | wc -l)"
echo "end $KICKER_RUN" >>$D/journal
rmdir $D/in-progress
exit 2
`

func TestRunSurvivesTheKillingOfItsAgent(t *testing.T) {
	for _, c := range []struct {
		name       string
		endsBefore bool // the next agent starts
	}{{"ends under the next agent", false}, {"ends while there is no agent", true}} {
		t.Run(c.name, func(t *testing.T) {
			n := newRealNode(t, exclusiveScript)
			n.start(t)
			web := membership("web", 1000, 1, "web1", "web2")
			if reply := n.kick(t, kickOf("r1", web)); reply.Answer != Accepted {
				t.Fatalf("%+v", reply)
			}
			readPid(t, filepath.Join(n.dir, "pid"))
			n.kill(t)

			if c.endsBefore {
				n.touch(t, "go")
				eventually(t, "the run ends", func() bool {
					_, err := os.Stat(filepath.Join(n.dir, "runs", "r1", endingFile))
					return err == nil
				})
			}
			first := n.start(t)
			if first.Running == nil || first.Running.Run != "r1" || !first.Actions[0].Dirty {
				t.Errorf("the next agent says first: %+v", first)
			}
			if !c.endsBefore {
				if reply := n.kick(t, kickOf("r2", membership("web", 1000, 2, "web1"))); reply.Answer != Busy || reply.Run != "r1" {
					t.Errorf("a kick during the adopted run: %+v", reply)
				}
				n.touch(t, "go")
			}
			r := next(t, n.results)
			if r.Run != "r1" || r.Outcome != Succeeded || r.Exit != 2 || r.Output != "members of r1: 2\n" || r.Applied["web"] != web.Revision || r.Dirty {
				t.Errorf("the result is %+v", r)
			}
			if reply := n.kick(t, kickOf("r3", membership("web", 1000, 3, "web3"))); reply.Answer != Accepted {
				t.Errorf("the next kick: %+v", reply)
			}
			if r := next(t, n.results); r.Run != "r3" || r.Outcome != Succeeded {
				t.Errorf("the next result: %+v", r)
			}
			journal, err := os.ReadFile(filepath.Join(n.dir, "journal"))
			if want := "start r1\nend r1\nstart r3\nend r3\n"; err != nil || string(journal) != want {
				t.Errorf("journal %q, %v, want %q", journal, err, want)
			}
			if _, err := os.Stat(filepath.Join(n.dir, "overlaps")); err == nil {
				t.Error("two runs at once")
			}
		})
	}
}

func TestRunWithoutAgentAndShimIsLostAndLeavesTheActionDirty(t *testing.T) {
	n := newRealNode(t, exclusiveScript)
	n.start(t)
	n.kick(t, kickOf("r1", membership("web", 1000, 1, "web1")))
	command := readPid(t, filepath.Join(n.dir, "pid"))
	p, err := readProcess(command)
	if err != nil {
		t.Fatal(err)
	}
	n.kill(t)
	if err := unix.Kill(p.session, unix.SIGKILL); err != nil { // the shim leads the session
		t.Fatal(err)
	}
	n.start(t)
	if r := next(t, n.results); r.Run != "r1" || r.Outcome != Lost || !r.Dirty || len(r.Applied) > 0 {
		t.Errorf("the result is %+v, want it lost and dirty", r)
	}
	if alive(command) {
		t.Error("the command is alive")
	}
}
