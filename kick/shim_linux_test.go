package kick

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
)

// These tests start real processes. The test binary is also the shim and the agent that they start.

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "shim" {
		os.Exit(ShimMain(os.Args[2]))
	}
	if len(os.Args) > 3 && os.Args[1] == "agent" {
		os.Exit(agentMain(os.Args[2], os.Args[3]))
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or every shim takes a second to exit
	os.Exit(m.Run())
}

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

// eventually waits until another process has done something.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen in 20 s: %s", what)
		}
	}
}

func readPid(t *testing.T, path string) int {
	t.Helper()
	var pid int
	eventually(t, "a pid in "+path, func() bool {
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
	return err == nil && !p.ended
}

func TestEndingIsThatOfTheCommand(t *testing.T) {
	dir := t.TempDir()
	windows := filepath.Join(dir, "reload.sh")
	if err := os.WriteFile(windows, []byte("#!/bin/sh\r\nexit 0\r\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		command []string
		outcome Outcome
		exit    int
		err     string
	}{
		{[]string{"/bin/sh", "-c", "exit 0"}, Succeeded, 0, ""},
		{[]string{"/bin/sh", "-c", "exit 2"}, Succeeded, 2, ""},
		{[]string{"/bin/sh", "-c", "exit 4"}, Failed, 4, ""},
		{[]string{"/bin/sh", "-c", "kill -KILL $$"}, Killed, -1, "the command received SIGKILL"},
		{[]string{"/nonexistent/lb"}, Failed, -1, "could not start /nonexistent/lb: no such file or directory"},
		{[]string{"/etc/passwd"}, Failed, -1, "could not start /etc/passwd: permission denied"},
		{[]string{"no-such-lb"}, Failed, -1, "could not start no-such-lb: executable file not found in $PATH"},
		{
			[]string{windows}, Failed, -1,
			"could not start " + windows + `: its first line names "/bin/sh\r", and there is no such program`,
		},
	} {
		l := launchOf(t, dir, fmt.Sprint("r", i), "")
		l.Command = c.command
		e := runToEnd(t, l)
		if got := e.outcome([]int{0, 2}); got != c.outcome || e.Exit != c.exit || e.Error != c.err {
			t.Errorf("%q: got %s, %+v, want %s, exit %d, error %q", c.command, got, e, c.outcome, c.exit, c.err)
		}
	}
}

func TestCommandInheritsNothingButItsEnvironment(t *testing.T) {
	l := launchOf(t, t.TempDir(), "r1",
		`echo "$KICKER_NODE $PWD $(cat)"; ls -l /proc/$$/fd 2>/dev/null | grep -c run.lock; trap - TERM; kill -TERM $$`)
	l.Env = []string{"KICKER_NODE=lb1"}
	e := runToEnd(t, l)
	if e.Output != "lb1 / \n0\n" {
		t.Errorf("output %q, want its environment, / and no lock", e.Output)
	}
	if e.Signal != "SIGTERM" {
		t.Errorf("got %+v, want SIGTERM: the command must not ignore it", e)
	}
}

func TestDeadlineReachesGrandchildren(t *testing.T) {
	for _, c := range []struct{ name, script, output string }{
		{
			"TERM ends the command but not its child",
			`trap 'echo bye; exit 0' TERM; (trap '' TERM; exec sleep 1000) & WRITE; wait`, "bye\n",
		},
		{"TERM is ignored", `trap '' TERM; sleep 1000 & WRITE; wait; sleep 1000`, ""},
		{"child in another group", `trap '' TERM; (set -m; sleep 1000 & WRITE); sleep 1000`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			dir := t.TempDir()
			pidFile := filepath.Join(dir, "pid")
			write := fmt.Sprintf("echo $! >%[1]s.tmp; mv %[1]s.tmp %[1]s", pidFile)
			l := launchOf(t, dir, "r1", strings.ReplaceAll(c.script, "WRITE", write))
			l.Timeout, l.Grace = 2*time.Second, time.Second
			e := runToEnd(t, l)
			if e.outcome([]int{0}) != TimedOut || e.Output != c.output || e.Duration < 2000 {
				t.Errorf("got %+v, want it timed out with the output %q", e, c.output)
			}
			if want := "still running after 2s, stopped at its deadline"; e.Error != want {
				t.Errorf("got the error %q, want %q", e.Error, want)
			}
			if pid := readPid(t, pidFile); alive(pid) {
				t.Errorf("grandchild %d is alive", pid)
				unix.Kill(pid, unix.SIGKILL)
			}
		})
	}
}

// leaveBehind is a script that starts a process in a session of its own, and ends when that one runs. body is what the
// process does.
func leaveBehind(dir, body string) string {
	pid := filepath.Join(dir, "pid")
	return fmt.Sprintf(`setsid sh -c 'echo $$ >%[1]s.tmp; mv %[1]s.tmp %[1]s; %[2]s' &
		while ! [ -e %[1]s ]; do sleep 0.01; done`, pid, body)
}

func TestRunIsOverWhenWhatItLeftBehindHasEnded(t *testing.T) {
	for name, script := range map[string]string{
		"session":     `LEAVE; exit 3`,
		"double fork": `(LEAVE) & wait; exit 3`,
		"group":       `set -m; (LEAVE) & while ! [ -e DIR/pid ]; do sleep 0.01; done; exit 3`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script = strings.ReplaceAll(script, "LEAVE", leaveBehind(dir, waitForGo(dir)+"; echo the last words"))
			l := launchOf(t, dir, "r1", strings.ReplaceAll(script, "DIR", dir))
			run := start(t, l)
			pid := readPid(t, filepath.Join(dir, "pid"))
			select {
			case e := <-run:
				t.Fatalf("the run is over while a process of it runs: %+v", e)
			case <-time.After(300 * time.Millisecond):
			}
			touch(t, dir, "go")
			e := next(t, run)
			if e.outcome([]int{3}) != Succeeded || e.Exit != 3 || !strings.HasSuffix(e.Output, "the last words\n") {
				t.Errorf("got %+v, want the command's exit code 3, and what the other process printed", e)
			}
			if want := fmt.Sprintf("sh (pid %d)", pid); !slices.Contains(e.LeftBehind, want) {
				t.Errorf("left behind: %q, want %s", e.LeftBehind, want)
			}
		})
	}
}

func TestDeadlineEndsWhatWasLeftBehind(t *testing.T) {
	for _, c := range []struct{ name, body, end, output string }{
		{"by TERM", `trap "echo bye; exit" TERM; while :; do sleep 0.01; done`, "exit 0", "bye\n"},
		{"by KILL", `trap "" TERM; while :; do sleep 0.01; done`, "exit 0", ""},
		{"of a killed command", `exec sleep 1000`, "kill -KILL $$", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			dir := t.TempDir()
			l := launchOf(t, dir, "r1", leaveBehind(dir, c.body)+"\n"+c.end)
			l.Timeout, l.Grace = time.Second, time.Second
			e := runToEnd(t, l)
			pid := readPid(t, filepath.Join(dir, "pid"))
			if alive(pid) {
				t.Error("the process that was left behind is alive")
				unix.Kill(pid, unix.SIGKILL)
			}
			how, exit := "the command ended with exit code 0", 0
			if strings.HasPrefix(c.end, "kill") {
				how, exit = "the command received SIGKILL", -1
			}
			stopped := e.outcome([]int{0}) == TimedOut && e.Exit == exit && e.Duration >= 1000
			if !stopped || !strings.HasSuffix(e.Output, c.output) {
				t.Errorf("got %+v, want it timed out with the exit code %d and the output %q", e, exit, c.output)
			}
			want := fmt.Sprintf("(pid %d)", pid)
			named := len(e.LeftBehind) > 0 && strings.Contains(strings.Join(e.LeftBehind, " "), want)
			begins := strings.HasPrefix(e.Error, how+", and left ")
			ends := strings.HasSuffix(e.Error, "stopped at the deadline")
			if !named || !begins || !ends || !strings.Contains(e.Error, want) {
				t.Errorf("left behind %q, error %q, want %s in both", e.LeftBehind, e.Error, want)
			}
		})
	}
}

func TestProcessesThatWereStoppedAtTheDeadlineAreNamed(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf(
		`(sleep 0.3; setsid sh -c 'echo $$ >%[1]s.tmp; mv %[1]s.tmp %[1]s; exec sleep 1000' &) &`, filepath.Join(dir, "pid")))
	l.Timeout = 2 * time.Second
	e := runToEnd(t, l)
	want := []string{fmt.Sprintf("sleep (pid %d)", readPid(t, filepath.Join(dir, "pid")))}
	if diff := cmp.Diff(want, e.LeftBehind); diff != "" {
		t.Errorf("left behind at the deadline (-want +got):\n%s", diff)
	}
	wantErr := "the command ended with exit code 0, and left " + want[0] + " running, which was stopped at the deadline"
	if e.outcome([]int{0}) != TimedOut || e.Error != wantErr {
		t.Errorf("got %+v, want it timed out with the error %q", e, wantErr)
	}
}

func TestTermReachesEveryProcessOnce(t *testing.T) {
	dir := t.TempDir()
	trap := `trap "echo term >>` + dir + `/terms" TERM; n=0; while [ $n -lt 50 ]; do sleep 0.02; n=$((n+1)); done`
	// A child in the command's group, one in a session of its own, and the command.
	script := fmt.Sprintf("(%[1]s) & setsid sh -c '%[1]s' & %[1]s; wait", trap)
	l := launchOf(t, dir, "r1", script)
	l.Timeout, l.Grace = 300*time.Millisecond, 10*time.Second
	runToEnd(t, l)
	terms, err := os.ReadFile(filepath.Join(dir, "terms"))
	if n := strings.Count(string(terms), "term"); err != nil || n != 3 {
		t.Errorf("three processes received TERM %d times, error %v", n, err)
	}
}

func TestManyProcessesAreReaped(t *testing.T) {
	dir := t.TempDir()
	// Each subshell ends before its child, which the shim inherits.
	script := `i=0; while [ $i -lt 300 ]; do (setsid true &); i=$((i+1)); done; echo $PPID >DIR/shim; GO`
	script = strings.NewReplacer("DIR", dir, "GO", waitForGo(dir)).Replace(script)
	run := start(t, launchOf(t, dir, "r1", script))
	shim := readPid(t, filepath.Join(dir, "shim"))
	eventually(t, "the shim has no zombies", func() bool {
		for _, p := range processes() {
			if p.parent == shim && p.ended {
				return false
			}
		}
		return true
	})
	touch(t, dir, "go")
	if e := next(t, run); e.outcome([]int{0}) != Succeeded {
		t.Errorf("got %+v, want success", e)
	}
}

func TestProcessesAreNamedUpToTen(t *testing.T) {
	var list []process
	for i := range 47 {
		list = append(list, process{Pid: i + 1, name: "a\nb"})
	}
	got := names(list)
	if len(got) != maxLeftBehind+1 || got[0] != "a b (pid 1)" || got[maxLeftBehind] != "and 37 more" {
		t.Errorf("got %q, want ten in one line each, and 37 more", got)
	}
	if got := names(list[:10]); len(got) != 10 {
		t.Errorf("got %q for ten processes", got)
	}
}

// A process that is none of the run's has the pipe, as one that systemd-run --pipe starts.
func TestRunEndsWhenAStrangerKeepsItsOutput(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf("echo $$ >%s/pid; echo words; %s", dir, waitForGo(dir)))
	run := start(t, l)
	pid := readPid(t, filepath.Join(dir, "pid"))
	pipe, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	touch(t, dir, "go")
	if e := next(t, run); e.outcome([]int{0}) != Succeeded || e.Output != "words\n" {
		t.Errorf("got %+v, want success", e)
	}
}

func TestEndingIsWrittenToAFullDisk(t *testing.T) {
	l := launchOf(t, t.TempDir(), "r1", "")
	if err := reserveEnding(l); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(l.reserveFile())
	if err != nil {
		t.Fatal(err)
	}
	var left []process
	for i := range 99 {
		left = append(left, process{Pid: 4 << 20, name: fmt.Sprintf("%015d", i)})
	}
	want := Ending{
		Exit: 3, Error: strings.Repeat("<", maxText), Output: strings.Repeat("\x01", tailOutput), LeftBehind: names(left),
	}
	if err := writeEnding(l, want); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(l.endingFile())
	if err != nil || after.Size() > before.Size() || !os.SameFile(before, after) {
		t.Errorf("the ending took new room on the disk: %+v, then %+v, error %v", before, after, err)
	}
	var got Ending
	if err := readFile(l.endingFile(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the ending (-want +got):\n%s", diff)
	}
}

func TestOutputNeverExceedsItsBound(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", "yes 'a line of yes' & sleep 1; kill $!; wait; echo; echo 'the end'")
	run := start(t, l)
	var largest int64
	for {
		select {
		case e := <-run:
			if largest < keptOutput || largest > maxOutput {
				t.Errorf("the file had %d bytes, want at most %d, and yes to exceed %d", largest, maxOutput, keptOutput)
			}
			if !strings.HasSuffix(e.Output, "\nthe end\n") || len(e.Output) > tailOutput {
				t.Errorf("got %d bytes of output, %.60q…", len(e.Output), e.Output)
			}
			data, err := os.ReadFile(l.outputFile())
			if err != nil || !strings.HasPrefix(string(data), droppedNote) || len(data) < keptOutput {
				t.Errorf("the file has %d bytes, %.60q…, error %v; want the note first", len(data), data, err)
			}
			return
		default:
			if info, err := os.Stat(l.outputFile()); err == nil {
				largest = max(largest, info.Size())
			}
		}
	}
}

func TestOutputIsBoundedAndItsEndIsKept(t *testing.T) {
	l := launchOf(t, t.TempDir(), "r1",
		`head -c 20000000 /dev/zero | tr '\0' x; echo; printf 'ü%.0s' $(seq 3000); echo ' the end'`)
	e := runToEnd(t, l)
	complete := strings.HasPrefix(e.Output, "ü") && strings.HasSuffix(e.Output, "ü the end\n")
	if !complete || len(e.Output) > tailOutput {
		t.Errorf("got %d bytes of output, %.10q … %q", len(e.Output), e.Output, e.Output[len(e.Output)-20:])
	}
	data, err := os.ReadFile(l.outputFile())
	if err != nil || len(data) > maxOutput || !strings.HasPrefix(string(data), droppedNote) {
		t.Errorf("the file has %d bytes, %.30q…, error %v; want the note first", len(data), data, err)
	}
	if notes := strings.Count(string(data), "[kicker: "); notes != 1 {
		t.Errorf("the file has %d notes, want one", notes)
	}
}

func TestOutputIsBoundedDuringTheRun(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1",
		fmt.Sprintf("head -c 20000000 /dev/zero; echo 1 >%s/written; %s; echo 'the end'", dir, waitForGo(dir)))
	run := start(t, l)
	readPid(t, filepath.Join(dir, "written"))
	eventually(t, "the output is bounded", func() bool {
		info, err := os.Stat(l.outputFile())
		return err == nil && info.Size() <= maxOutput
	})
	if len(run) > 0 {
		t.Error("the run has ended")
	}
	touch(t, dir, "go")
	if e := next(t, run); e.outcome([]int{0}) != Succeeded {
		t.Errorf("got %+v, want success", e)
	}
	data, err := os.ReadFile(l.outputFile())
	first, rest, _ := strings.Cut(string(data), "\n")
	if err != nil || first+"\n" != droppedNote || strings.TrimLeft(rest, "\x00") != "the end\n" {
		t.Errorf("the file has %d bytes, %.60q…, error %v; want the note, then the end", len(data), data, err)
	}
}

// After the shim has ended, another process can have its pid and lead a session of its own.
func TestSessionOfAReusedPidIsNotKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", fmt.Sprintf(`sleep 1000 & echo $! >%s/child; wait; exit 7`, dir))
	startSession(t, cmd)
	child := readPid(t, filepath.Join(dir, "child"))
	defer unix.Kill(child, unix.SIGKILL)
	leader, err := readProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	earlier := leader
	earlier.Start -= 100
	l := Launch{Dir: dir, Run: "r1"}
	l.killRemains(earlier, process{})
	if !alive(child) {
		t.Fatal("a process of the other session was killed")
	}
	l.killRemains(leader, process{})
	if alive(child) {
		t.Error("a process of the session is still alive")
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("the leader ended with %v, want exit status 7, after its child", err)
	}
}

func TestRunGoesOnWhenItsShimReceivesSignals(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf("echo $PPID >%s/shim; %s; echo done", dir, waitForGo(dir)))
	ending := start(t, l)
	shim := readPid(t, filepath.Join(dir, "shim"))
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		if err := unix.Kill(shim, sig); err != nil {
			t.Error(err)
		}
	}
	touch(t, dir, "go")
	if e := next(t, ending); e.outcome([]int{0}) != Succeeded || e.Output != "done\n" {
		t.Errorf("got %+v, want success", e)
	}
}

func TestRunOfADeadShimIsLostAndItsRestIsKilled(t *testing.T) {
	for _, c := range []struct {
		name, boot string
		err        string
		survives   bool
	}{
		{"in the same boot", "b-1", "(its shim) died", false},
		{"after a reboot", "b-2", "the machine rebooted", true}, // the pid can be another process's
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			script := fmt.Sprintf("echo words; sleep 1000 & echo $! >%[1]s/child; echo $PPID >%[1]s/shim; wait", dir)
			l := launchOf(t, dir, "r1", script)
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
				t.Fatal("Execute returned an ending of a run in progress")
			}
			for output := ""; output == ""; time.Sleep(time.Millisecond) { // the shim has read it
				data, _ := os.ReadFile(l.outputFile())
				output = string(data)
			}
			unix.Kill(shim, unix.SIGKILL)

			adopted := Launch{Dir: dir, Run: "r1", Action: "reload", Boot: c.boot, Adopt: true}
			e := runToEnd(t, adopted)
			lost := e.outcome([]int{0}) == Lost && e.Exit == -1 && strings.Contains(e.Error, c.err)
			if !lost || e.Output != "words\n" {
				t.Errorf("got %+v, want it lost with the error %q", e, c.err)
			}
			if alive(child) != c.survives {
				t.Errorf("grandchild alive: %v, want %v", !c.survives, c.survives)
			}
			if e := runToEnd(t, launchOf(t, dir, "r2", "exit 0")); e.outcome([]int{0}) != Succeeded {
				t.Errorf("the next run: got %+v, want success", e)
			}
		})
	}
}

// The shim's zombie is gone, and its pid may be another process's.
func TestRemainsOfADeadShimAreFoundInAnySession(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"left behind", "setsid sh -c 'WRITE; exec sleep 1000' &"},
		{"a session of its own", "setsid sh -c 'WRITE; exec sleep 1000' & wait"},
		{"an emptied environment", "WRITE; exec env -i sleep 1000"},
		{"a child of that", "env -i setsid sh -c 'WRITE; exec sleep 1000' & wait"},
		{"started by what was found", "(setsid env -i sh -c 'WRITE; exec sleep 1000'; :) & wait"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write := fmt.Sprintf("echo $$ >%[1]s/pid.tmp; mv %[1]s/pid.tmp %[1]s/pid", dir)
			l := launchOf(t, dir, "r1", strings.ReplaceAll(c.script, "WRITE", write))
			ctx, cancel := context.WithCancel(t.Context())
			agent := make(chan error)
			go func() {
				_, err := shimExecute(t)(ctx, l)
				agent <- err
			}()
			pid := readPid(t, filepath.Join(dir, "pid"))
			defer unix.Kill(pid, unix.SIGKILL)
			var shim process
			eventually(t, "the command's identity is on disk", func() bool {
				var command process
				return readFile(l.commandFile(), &command) == nil && readFile(l.shimFile(), &shim) == nil
			})
			if c.name == "left behind" {
				eventually(t, "the command has ended", func() bool {
					var command process
					return readFile(l.commandFile(), &command) == nil && !alive(command.Pid)
				})
			}
			cancel()
			<-agent
			other := exec.Command("sleep", "1000")
			other.Env = []string{Launch{Dir: dir, Run: "r2"}.mark()}
			startSession(t, other)
			unix.Kill(shim.Pid, unix.SIGKILL)
			unix.Wait4(shim.Pid, nil, 0, nil) // this process is its parent
			l.Adopt = true
			if e := runToEnd(t, l); e.outcome([]int{0}) != Lost || alive(pid) {
				t.Errorf("got %+v, and the process is alive: %v", e, alive(pid))
			}
			if !alive(other.Process.Pid) {
				t.Error("a process of another run was killed")
			}
		})
	}
}

func TestRunThatWasNotStartedIsLost(t *testing.T) {
	l := launchOf(t, t.TempDir(), "r1", "exit 0")
	l.Adopt = true
	e := runToEnd(t, l)
	want := "the agent or the machine stopped while the run was starting"
	if e.outcome([]int{0}) != Lost || e.Error != want {
		t.Errorf("got %+v, want it lost with the error %q", e, want)
	}
}

func TestSecondRunAtTheSameTimeFails(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf("echo $$ >%s/pid; %s", dir, waitForGo(dir)))
	first := start(t, l)
	readPid(t, filepath.Join(dir, "pid"))
	ran := filepath.Join(dir, "ran")
	e := runToEnd(t, launchOf(t, dir, "r2", "touch "+ran))
	if e.outcome([]int{0}) != Failed || !strings.Contains(e.Error, "another run holds") {
		t.Errorf("the second run: got %+v, want an error that another run holds the lock", e)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the second command ran")
	}
	touch(t, dir, "go")
	if e := next(t, first); e.outcome([]int{0}) != Succeeded {
		t.Errorf("the first run: got %+v, want success", e)
	}
}

func TestRunIsNotOverWhenItsLockFileIsRemoved(t *testing.T) {
	dir := t.TempDir()
	l := launchOf(t, dir, "r1", fmt.Sprintf("echo $$ >%s/pid; %s", dir, waitForGo(dir)))
	first := start(t, l)
	readPid(t, filepath.Join(dir, "pid"))
	l.Adopt = true // as the next agent does, which is not the shim's parent
	ending := start(t, l)
	time.Sleep(100 * time.Millisecond) // it waits for the lock by then
	if err := os.Remove(l.lockFile()); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-ending:
		t.Errorf("the run is over while its command runs: %+v", e)
	case <-time.After(500 * time.Millisecond): // five times the longest pause between two tries
	}
	touch(t, dir, "go")
	for _, ended := range []<-chan Ending{first, ending} {
		if e := next(t, ended); e.outcome([]int{0}) != Succeeded {
			t.Errorf("got %+v, want success", e)
		}
	}
}

func TestProcessWithAnOddNameIsRead(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(t.TempDir(), "a) b (c")
	if err := os.Symlink(sleep, odd); err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: odd, Args: []string{"sleep", "1000"}}
	startSession(t, cmd)
	self, err := readProcess(os.Getpid())
	if err != nil || self.Start == 0 || self.ended {
		t.Errorf("this process: got %+v, error %v", self, err)
	}
	p, err := readProcess(cmd.Process.Pid)
	if err != nil || p.session != cmd.Process.Pid || p.Start < self.Start || p.ended {
		t.Errorf("the process with an odd name: got %+v, error %v", p, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process is a zombie", func() bool {
		p, err := readProcess(cmd.Process.Pid)
		return err == nil && p.ended
	})
}

// startSession starts a command in a session of its own, for as long as the test takes.
func startSession(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// waitForGo is a script that waits for the file go in dir.
func waitForGo(dir string) string {
	return fmt.Sprintf("while ! [ -e %s/go ]; do sleep 0.01; done", dir)
}

func touch(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// agentMain runs an agent until it is killed. It has one action, which runs a script.
func agentMain(url, dir string) int {
	// It ends with the test's bus, even if the test is interrupted.
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
		t.Fatal("the bus did not start in 10 s")
	}
	n := &realNode{
		url: s.ClientURL(), dir: t.TempDir(), results: make(chan Result, 16), statuses: make(chan Status, 64),
	}
	if n.nc, err = nats.Connect(n.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.nc.Close)
	onResult, onInvalid := func(r Result) { n.results <- r }, func(err error) { t.Error(err) }
	if _, err := ListenResults(n.nc, "main", onResult, onInvalid); err != nil {
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

// start starts the agent and returns its first status.
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

func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("received nothing in 20 s")
		panic("unreachable")
	}
}

// exclusiveScript reports if another run is in progress.
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

func TestRunGoesOnWhenItsAgentIsKilled(t *testing.T) {
	for _, c := range []struct {
		name       string
		endsBefore bool // the next agent starts
	}{{"it ends under the next agent", false}, {"it ends while there is no agent", true}} {
		t.Run(c.name, func(t *testing.T) {
			n := newRealNode(t, exclusiveScript)
			n.start(t)
			web := membership("web", 1000, 1, "web1", "web2")
			if reply := n.kick(t, kickOf("r1", web)); reply.Answer != Accepted {
				t.Fatalf("got %+v, want %s", reply, Accepted)
			}
			readPid(t, filepath.Join(n.dir, "pid"))
			n.kill(t)

			if c.endsBefore {
				touch(t, n.dir, "go")
				eventually(t, "the run ends", func() bool {
					_, err := os.Stat(Launch{Dir: n.dir, Run: "r1"}.endingFile())
					return err == nil
				})
			}
			first := n.start(t)
			if first.Running == nil || first.Running.Run != "r1" || !first.Actions[0].Dirty {
				t.Errorf("the next agent's first status is %+v, want r1 in progress", first)
			}
			if !c.endsBefore {
				if reply := n.kick(t, webKick("r2", 2, "web1")); reply.Answer != Busy || reply.Run != "r1" {
					t.Errorf("a kick during the adopted run: got %+v, want %s", reply, Busy)
				}
				touch(t, n.dir, "go")
			}
			want := Result{
				V: Version, Node: lb1, Action: "reload", Run: "r1", Outcome: Succeeded, Exit: 2,
				Output: "members of r1: 2\n", Applied: map[string]Revision{"web": web.Revision},
			}
			got := next(t, n.results)
			want.Duration = got.Duration
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the result of the adopted run (-want +got):\n%s", diff)
			}
			if reply := n.kick(t, webKick("r3", 3, "web3")); reply.Answer != Accepted {
				t.Errorf("the next kick: got %+v, want %s", reply, Accepted)
			}
			if r := next(t, n.results); r.Run != "r3" || r.Outcome != Succeeded {
				t.Errorf("the next result: got %+v, want r3 succeeded", r)
			}
			journal, err := os.ReadFile(filepath.Join(n.dir, "journal"))
			if want := "start r1\nend r1\nstart r3\nend r3\n"; err != nil || string(journal) != want {
				t.Errorf("got the journal %q, error %v, want %q", journal, err, want)
			}
			if _, err := os.Stat(filepath.Join(n.dir, "overlaps")); err == nil {
				t.Error("two runs were in progress at the same time")
			}
		})
	}
}

func TestRunWithoutAgentAndShimLeavesTheActionDirty(t *testing.T) {
	n := newRealNode(t, exclusiveScript)
	n.start(t)
	n.kick(t, webKick("r1", 1, "web1"))
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
		t.Errorf("got the result %+v, want it lost and dirty", r)
	}
	if alive(command) {
		t.Error("the command is still alive")
	}
}
