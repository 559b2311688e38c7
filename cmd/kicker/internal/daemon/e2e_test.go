package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// How a test waits. patience is more than a slow machine needs.
const (
	patience  = time.Minute
	lookEvery = 10 * time.Millisecond
)

// The exit codes of kicker, as docs/reference/cli.md has them.
const (
	exitFailed      = 1
	exitUnreachable = 3
	exitEmpty       = 4
	exitTimeout     = 5
	exitPerson      = 6
)

// builtKicker is the program as users have it, built once, with the race detector if the tests have it. It lies beside
// the programs that testscript.Main makes and removes.
var builtKicker = sync.OnceValues(func() (string, error) {
	actor, err := exec.LookPath("actor")
	if err != nil {
		return "", err
	}
	built := filepath.Join(filepath.Dir(actor), "built", "kicker")
	args := []string{"build", "-buildvcs=false", "-o", built}
	if raced() {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "kicker/cmd/kicker")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kicker: %w\n%s", err, out)
	}
	return built, nil
})

// raced reports whether the tests run with the race detector, which makes virtual time five times slower.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// site is a cluster of real processes on this machine, with its own bus, directory and configuration file.
type site struct {
	t       testing.TB
	dir     string
	program string   // kicker
	actor   string   // see actor
	env     []string // of every process
	cluster string
	bus     string // HOST:PORT
	api     http.Client
	daemons []*daemon
}

// newSite makes a site in which nothing runs yet. settings are lines of its kicker.yaml.
func newSite(t *testing.T, settings ...string) *site {
	t.Helper()
	t.Parallel()
	program, err := builtKicker()
	if err != nil {
		t.Fatal(err)
	}
	return siteOf(t, program, settings...)
}

// siteOf makes a site that uses program as kicker.
func siteOf(t testing.TB, program string, settings ...string) *site {
	t.Helper()
	actor, err := exec.LookPath("actor")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: t.TempDir(), program: program, actor: actor, bus: freeAddr(t)}
	_, port, _ := net.SplitHostPort(s.bus)
	s.cluster = "e2e-" + port
	socket := filepath.Join(s.dir, "controller", "api.sock")
	s.api.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	s.write("kicker.yaml", strings.Join(append([]string{
		"cluster: " + s.cluster,
		"bus: {listen: '" + s.bus + "'}",
		"api: {listen: '" + freeAddr(t) + "', url: 'unix://" + socket + "'}",
		"agent: {server: ['" + s.bus + "'], ready: {interval: 50ms, fall: 2}}",
	}, settings...), "\n"))
	s.env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KICKER_") })
	// else each command takes a second to exit
	s.env = append(s.env, "KICKER_CONFIG="+s.path("kicker.yaml"), "GORACE=atexit_sleep_ms=0")
	t.Cleanup(s.end)
	return s
}

// swift are settings for tests that are not about the pauses between kicks.
var swift = []string{"settle: 100ms", "settle_min: 100ms", "settle_max: 200ms", "backoff: {initial: 200ms, max: 1s}"}

var ports sync.Map // in use

// freeAddr is a free address. It is below the kernel's ports for outgoing connections, so that a restarted daemon finds
// its port free.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.N(20_000))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		_ = ln.Close()
		if _, taken := ports.LoadOrStore(addr, true); !taken {
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (s *site) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

func (s *site) write(name, content string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) remove(name string) {
	s.t.Helper()
	if err := os.Remove(s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

// daemon is a process that runs until it is stopped.
type daemon struct {
	t    testing.TB
	name string
	log  string // the file
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start starts a daemon. It ends with the test, even if the test's process is killed.
func (s *site) start(name, program string, args ...string) *daemon {
	s.t.Helper()
	d := &daemon{t: s.t, name: name, log: s.path(name + ".log"), cmd: exec.Command(program, args...),
		done: make(chan struct{})}
	log, err := os.OpenFile(d.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Dir, d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = s.dir, s.env, log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(d.done)
		runtime.LockOSThread() // for the kernel a parent dies with the thread that started the child
		err := d.cmd.Start()
		started <- err
		if err == nil {
			_ = d.cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatal(err)
	}
	s.daemons = append(s.daemons, d)
	return d
}

// kill ends the daemon as a crash does.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.done
}

// stop ends the daemon as an init system does, and wants that to work.
func (d *daemon) stop() {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		d.kill()
		d.t.Errorf("%s still runs 10 s after SIGTERM", d.name)
	}
}

func (d *daemon) running() bool {
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// end ends the daemons, then the runs that outlive them. It fails the test if one of them crashed.
func (s *site) end() {
	for _, d := range slices.Backward(s.daemons) {
		d.stop()
	}
	held, _ := filepath.Glob(s.path("*", "hold")) // the pattern is valid
	for _, hold := range held {
		_ = os.Remove(hold) // else its run only ends with the directory
	}
	locks, _ := filepath.Glob(s.path("*", "node", "*", "run.lock"))
	for _, lock := range locks {
		s.until("no run in progress", func() string { return heldLock(lock) })
	}
	logs, _ := filepath.Glob(s.path("*.log"))
	outputs, _ := filepath.Glob(s.path("*", "node", "*", "runs", "*", "output"))
	for _, log := range append(logs, outputs...) {
		text, err := os.ReadFile(log)
		if err != nil {
			s.t.Error(err)
		}
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if bytes.Contains(text, []byte(bad)) {
				s.t.Errorf("%s: %s", log, bad)
			}
		}
		if s.t.Failed() && len(text) > 0 {
			s.t.Logf("%s ends with:\n%s", log, text[max(0, len(text)-4<<10):])
		}
	}
}

func heldLock(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return path + " is held"
	}
	return ""
}

// controller starts the site's controller.
func (s *site) controller(args ...string) *daemon {
	return s.start("controller", s.program,
		append([]string{"controller", "--state-dir", s.path("controller")}, args...)...)
}

// agent starts a node's agent.
func (s *site) agent(name string, args ...string) *daemon {
	return s.start(name, s.program, append([]string{"agent", "--name", name, "--state-dir", s.path(name)}, args...)...)
}

// agentWith starts a node's agent with one action, which runs a shell script. settings are more keys of the action.
func (s *site) agentWith(name, action, script string, settings []string, args ...string) *daemon {
	s.t.Helper()
	keys := append([]string{"name: " + action, fmt.Sprintf("command: [/bin/sh, '%s']", script)}, settings...)
	s.write(name+".yaml", fmt.Sprintf("cluster: %s\nagent: {server: ['%s'], actions: [{%s}]}\n", s.cluster, s.bus,
		strings.Join(keys, ", ")))
	return s.agent(name, append([]string{"--config", s.path(name + ".yaml")}, args...)...)
}

// output is the output of a command, and its exit code.
type output struct {
	stdout, stderr string
	code           int
}

// kicker runs a command to its end.
func (s *site) kicker(args ...string) output {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		s.t.Fatalf("kicker %s: %v", strings.Join(args, " "), err)
	}
	return output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// expect runs a command. It must exit with code, and its stderr must have each of these words.
func (s *site) expect(code int, words []string, args ...string) output {
	s.t.Helper()
	got := s.kicker(args...)
	missing := slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(got.stderr, w) })
	if got.code != code || missing {
		s.t.Errorf("kicker %s: exit code %d, want %d and %q in stderr:\n%s%s", strings.Join(args, " "), got.code, code,
			words, got.stdout, got.stderr)
	}
	return got
}

// until waits until look has no objection.
func (s *site) until(what string, look func() (objection string)) {
	s.t.Helper()
	s.within(patience, what, look)
}

// within is until with another patience.
func (s *site) within(limit time.Duration, what string, look func() (objection string)) {
	s.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		objection := look()
		if objection == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %s: %s: %s", limit, what, objection)
		}
		time.Sleep(lookEvery)
	}
}

// ask asks the controller over its socket.
func (s *site) ask(path string, into any) error {
	r, err := s.api.Get("http://kicker" + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, r.Status, body)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// converged waits until n nodes are alive and all actions are converged.
func (s *site) converged(n int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d nodes alive and all converged", n), func() string {
		var st api.Status
		if err := s.ask("/v1/status", &st); err != nil {
			return err.Error()
		}
		if !st.Sync.Open || st.Nodes[inventory.Alive] != n || st.Actions[api.Pending]+st.Actions[api.Failing] > 0 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// event waits for an event of one of these kinds about a node, after the event of number since.
func (s *site) event(node string, since int64, kinds ...string) {
	s.t.Helper()
	s.until(fmt.Sprintf("node %s: event %q", node, kinds), func() string {
		var events []api.Event
		if err := s.ask(fmt.Sprintf("/v1/events?since=%d", since), &events); err != nil {
			return err.Error()
		}
		found := slices.ContainsFunc(events, func(e api.Event) bool {
			return e.Node == node && slices.Contains(kinds, e.Kind)
		})
		return objection(!found, events)
	})
}

// now is the number of the newest event.
func (s *site) now() int64 {
	s.t.Helper()
	var events []api.Event
	if err := s.ask("/v1/events", &events); err != nil {
		s.t.Fatal(err)
	}
	if len(events) == 0 {
		return 0
	}
	return events[len(events)-1].Seq
}

// runs is the runs by `kicker runs -o json`.
func (s *site) runs() []api.Run {
	s.t.Helper()
	var runs []api.Run
	if err := json.Unmarshal([]byte(s.expect(0, nil, "runs", "-o", "json", "--limit", "1000").stdout),
		&runs); err != nil {
		s.t.Fatal(err)
	}
	return runs
}

// members is the names of a role's members.
func (s *site) members(role string) []string {
	s.t.Helper()
	var r api.Role
	if err := s.ask("/v1/roles/"+role, &r); err != nil {
		s.t.Fatal(err)
	}
	return memberNames(r.Members)
}

func memberNames(members []kick.Member) []string {
	var all []string
	for _, m := range members {
		all = append(all, m.Node)
	}
	return all
}

// objection is for until: what was seen, or nothing.
func objection(objects bool, seen any) string {
	if !objects {
		return ""
	}
	return fmt.Sprintf("seen: %+v", seen)
}
