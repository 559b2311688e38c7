package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kicker/cmd/kicker/internal/demo"
)

func TestDemoOncePlaysEachStep(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"with HAProxy": {}, "without": {"--haproxy", "none"}} {
		t.Run(name, func(t *testing.T) {
			d := startDemo(t, append(flags, "--once")...)
			if err := d.cmd.Wait(); err != nil {
				t.Fatalf("%v\n%s\n%s", err, &d.stdout, &d.stderr)
			}
			d.leftNothing(t)
			if steps := strings.Count(d.stdout.String(), "✓"); steps != 8 ||
				!strings.Contains(d.stdout.String(), "All 8 steps had their effect") {
				t.Errorf("%d steps, want 8:\n%s", steps, &d.stdout)
			}
			if d.stderr.String() != "" {
				t.Errorf("stderr: %s", &d.stderr)
			}
			if with := len(flags) == 0; strings.Contains(d.stdout.String(), "haproxy      uses web1 web4") != with {
				t.Errorf("want a real HAProxy: %v\n%s", with, &d.stdout)
			}
		})
	}
}

func TestDemoOnceFailsAtAStepWithoutEffect(t *testing.T) {
	t.Parallel()
	haproxy, err := demo.FindHAProxy("")
	if err != nil || haproxy == "" {
		t.Fatalf("haproxy: %q, %v: make setup installs it", haproxy, err)
	}
	for name, test := range map[string]struct{ check, want string }{
		"a configuration with web4 is rejected": {
			`! grep -q 'server web4' "$3"`,
			"demo: step 2, web4 joins and gets no requests before it is ready: not within 20s: " +
				"requests go to exactly web1 web2 web3 web4",
		},
		"web2 is never removed": {
			`grep -q 'server web2' "$3" || echo '  server web2 127.0.0.1:9' >> "$3"`,
			"demo: step 3, web2 is killed: not within 20s: requests go to exactly web1 web3 web4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake := filepath.Join(t.TempDir(), "haproxy")
			script := fmt.Sprintf("#!/bin/sh\ncase $1 in -c) %s; exit;; esac\nexec %s \"$@\"\n", test.check, haproxy)
			if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			d := startDemo(t, "--once", "--haproxy", fake)
			if err := d.cmd.Wait(); err == nil || d.cmd.ProcessState.ExitCode() != exitFailed {
				t.Errorf("%v, want exit code %d\n%s", err, exitFailed, &d.stdout)
			}
			d.leftNothing(t)
			for _, want := range []string{test.want, "--- the end of controller.log", "--- the end of lb1.log"} {
				if !strings.Contains(d.stderr.String(), want) {
					t.Errorf("stderr has no %q:\n%s", want, &d.stderr)
				}
			}
		})
	}
}

func TestDemoPrintsCommandsThatWork(t *testing.T) {
	d := startDemo(t)
	shown := d.await(t, "Ctrl-C here")
	lines := regexp.MustCompile(`(?m)^  (\S.*)$`).FindAllStringSubmatch(shown[strings.Index(shown,
		"Paste this into another terminal first"):], -1)
	first := lines[0][1]
	var web4 *exec.Cmd
	for _, line := range lines[1:] {
		in := exec.CommandContext(t.Context(), "sh", "-c", first+"\n"+line[1])
		in.Env = d.cmd.Env
		if strings.Contains(line[1], "demo-node") { // it runs on, in another terminal
			if err := in.Start(); err != nil {
				t.Fatal(err)
			}
			web4 = in
			d.await(t, "haproxy      uses web1 web2 web3 web4")
			continue
		}
		out, err := in.CombinedOutput()
		if err != nil && !strings.HasPrefix(line[1], "curl") { // which may not be installed
			t.Errorf("%s: %v\n%s", line[1], err, out)
		}
		switch {
		case strings.HasPrefix(line[1], "kill"):
			d.await(t, "haproxy      uses web1 web3 web4")
		case strings.HasPrefix(line[1], "kicker leave"):
			d.await(t, "haproxy      uses web1 web4")
		}
	}
	if len(lines) != 9 {
		t.Errorf("%d commands to paste, want 9:\n%s", len(lines), shown)
	}
	d.signal(t, syscall.SIGINT)
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v, want exit code 0\n%s", err, &d.stderr)
	}
	d.leftNothing(t)
	if err := web4.Wait(); err != nil {
		t.Errorf("web4: %v, want it to end with the demo", err)
	}
}

func TestNothingOutlivesADemo(t *testing.T) {
	t.Parallel()
	t.Run("terminated during a run", func(t *testing.T) {
		d := startDemo(t)
		d.await(t, "Ctrl-C here")
		if err := os.WriteFile(filepath.Join(d.home(t), "linger"), []byte("1m"), 0o600); err != nil {
			t.Fatal(err)
		}
		kicked := strings.Count(d.stdout.String(), "kicked")
		kick := exec.CommandContext(t.Context(), "bin/kicker", "leave", "--name", "web1", "--config", "kicker.yaml")
		kick.Dir = d.home(t)
		if out, err := kick.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		d.awaitThat(t, "a run starts", func() bool { return strings.Count(d.stdout.String(), "kicked") > kicked })
		d.awaitThat(t, "its shim starts", func() bool { return slices.ContainsFunc(d.processes(t), isShim) })
		d.signal(t, syscall.SIGTERM)
		if err := d.cmd.Wait(); err != nil {
			t.Errorf("terminated: %v, want exit code 0", err)
		}
		d.leftNothing(t)
	})
	t.Run("its terminal closes", func(t *testing.T) {
		d := startDemo(t, "--once")
		d.await(t, "is ready")
		d.signal(t, syscall.SIGHUP)
		_ = d.cmd.Wait()
		if code := d.cmd.ProcessState.ExitCode(); code != exitFailed ||
			!strings.Contains(d.stderr.String(), "demo: interrupted") {
			t.Errorf("an interrupted story: exit code %d, want %d\n%s", code, exitFailed, &d.stderr)
		}
		d.leftNothing(t)
	})
	t.Run("killed", func(t *testing.T) {
		d := startDemo(t)
		d.await(t, "Ctrl-C here")
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = d.cmd.Wait()
		d.awaitThat(t, "its processes end", func() bool { return len(d.processes(t)) == 0 })
	})
}

func isShim(cmdline string) bool { return strings.Contains(cmdline, "kicker shim ") }

// demoRun is a demo in its own process, with its own temporary directory.
type demoRun struct {
	cmd            *exec.Cmd
	tmp            string
	stdout, stderr demoOutput
}

func startDemo(t *testing.T, flags ...string) *demoRun {
	t.Helper()
	t.Parallel()
	program, err := exec.LookPath("kicker") // this binary, see TestMain
	if err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp("", "demo") // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	d := &demoRun{cmd: exec.CommandContext(t.Context(), program, append([]string{"demo"}, flags...)...), tmp: tmp}
	d.cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "KICKER_API=http://127.0.0.1:1", "GORACE=atexit_sleep_ms=0")
	d.cmd.Stdout, d.cmd.Stderr = &d.stdout, &d.stderr
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = d.cmd.Wait()
		if err := os.RemoveAll(tmp); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *demoRun) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// await waits for a text, and returns the whole output until then.
func (d *demoRun) await(t *testing.T, text string) string {
	t.Helper()
	d.awaitThat(t, fmt.Sprintf("%q", text), func() bool { return strings.Contains(d.stdout.String(), text) })
	return d.stdout.String()
}

func (d *demoRun) awaitThat(t *testing.T, what string, so func() bool) {
	t.Helper()
	const patience = time.Minute // more than a slow machine needs
	for deadline := time.Now().Add(patience); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s\n%s\n%s", patience, what, &d.stdout, &d.stderr)
		}
	}
}

// home is the directory that the demo made.
func (d *demoRun) home(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.tmp, "kicker-demo-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the demo's directory: %q, %v", found, err)
	}
	return found[0]
}

// processes is the command lines of the demo's processes and their children: all have its directory in the environment.
func (d *demoRun) processes(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		environ, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environ, []byte("TMPDIR="+d.tmp)) {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err == nil {
			found = append(found, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

func (d *demoRun) leftNothing(t *testing.T) {
	t.Helper()
	for _, p := range d.processes(t) {
		if !strings.Contains(p, "demo-node web4") { // started by a person, and ends now
			t.Errorf("process still runs: %s", p)
		}
	}
	files, err := os.ReadDir(d.tmp)
	if err != nil || len(files) > 0 {
		t.Errorf("files are left: %v (%v)", files, err)
	}
}

// demoOutput is the output of a process, readable while it runs.
type demoOutput struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *demoOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *demoOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}
