package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"kicker/controller/api"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kballard/go-shellquote"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const demoHelp = `Starts a controller, a load balancer and three web servers on this machine, each a process of its own, and prints
what happens to them. A real HAProxy follows, if it is installed; otherwise the file that it would read is shown as it changes.

Then it stays until it is interrupted, and prints the lines with which to start one more web server, to kill one, and to ask
who is there. With --once it plays a whole story by itself instead, and fails if a step of it had no effect.

Everything is in one temporary directory and on free ports of 127.0.0.1, and is gone when the demo ends.`

func demoCommand() *cobra.Command {
	var once bool
	var haproxy string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Play with a small cluster on this machine",
		Long:  demoHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The terminal or the pipe that it prints to may go first.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP, syscall.SIGPIPE)
			defer stop()
			haproxy, err := findHAProxy(haproxy)
			if err != nil {
				return err
			}
			return runDemo(ctx, haproxy, once, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "play a story, see that each step had its effect, and end")
	cmd.Flags().StringVar(&haproxy, "haproxy", "", "HAProxy's program `FILE`, or none (default: the installed one, if there is one)")
	return cmd
}

// demo is a small cluster on one machine: its directory, its processes, and what it shows.
type demo struct {
	dir, kicker, haproxy string // haproxy: empty, there is none
	bus, api, front      string // HOST:PORT
	timeline             *demoTimeline
	crew                 *demoCrew
	served               *demoServed
	visitor              *demoVisitor // has asked nobody without haproxy
	alive                *os.File     // open for as long as the demo lives, see watchDemo
}

// runDemo starts the cluster, plays a story with it or lets a person play, and leaves nothing behind.
func runDemo(ctx context.Context, haproxy string, once bool, stdout, stderr io.Writer) (err error) {
	d, err := newDemo(haproxy, stdout)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer func() {
		cancel()
		watching.Wait()
		if endErr := d.end(); endErr != nil {
			err = errors.Join(err, fmt.Errorf("demo: %w", endErr))
		}
	}()
	watching.Go(func() { d.followEvents(ctx) })
	watching.Go(func() { d.served.watch(ctx, d.showServed) })

	d.introduce()
	story := d.story()
	if !once {
		story = story[:1]
	}
	visiting, leave := context.WithCancel(ctx)
	defer leave()
	if d.haproxy != "" {
		watching.Go(func() { d.visitor.run(visiting) })
	}
	for i, step := range story {
		d.timeline.title("%d. %s", i+1, step.title)
		if err := step.play(ctx); err != nil {
			if ctx.Err() != nil {
				return d.interrupted(once)
			}
			d.showLogs(stderr)
			return fmt.Errorf("demo: step %d, %s: %w", i+1, step.title, err)
		}
	}
	if !once {
		leave() // who answers whom is the person's to find out
		d.timeline.measure()
		d.invite()
		<-ctx.Done()
		return d.interrupted(once)
	}
	d.timeline.title("All %d steps had their effect, in %.1f s.", len(story), time.Since(d.timeline.began).Seconds())
	return nil
}

// interrupted is how a demo ends that was told to: only a story is cut short by it.
func (d *demo) interrupted(once bool) error {
	d.timeline.title("Ending; nothing stays.")
	if once {
		return errors.New("demo: interrupted")
	}
	return nil
}

// longestDir leaves room for the names of sockets below it, of the 107 bytes that their paths may have.
const longestDir = 80

// newDemo prepares the directory, and the crew to be started.
func newDemo(haproxy string, stdout io.Writer) (*demo, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("its own program: %w", err)
	}
	dir, err := os.MkdirTemp("", "kicker-demo-")
	if err != nil {
		return nil, err
	}
	d := &demo{dir: dir, kicker: filepath.Join(dir, "bin", "kicker"), haproxy: haproxy, timeline: newDemoTimeline(stdout)}
	if len(dir) > longestDir {
		err = fmt.Errorf("%s: its sockets have no room for such a long path: set TMPDIR to a shorter one", dir)
	} else {
		err = d.prepare(exe)
	}
	if err == nil {
		d.crew, err = newDemoCrew(dir, d.ended)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.served = &demoServed{read: d.readServed}
	d.visitor = &demoVisitor{url: "http://" + d.front + "/"}
	return d, nil
}

func (d *demo) prepare(exe string) error {
	for _, dir := range []string{"bin", "log"} {
		if err := os.Mkdir(d.file(dir), 0o700); err != nil {
			return err
		}
	}
	if err := os.Symlink(exe, d.kicker); err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	d.bus, d.api, d.front = ports[0], ports[1], ports[2]
	for name, content := range map[string]string{
		"kicker.yaml":      d.sharedConfig(""),
		"lb1.yaml":         d.sharedConfig(d.balancerConfig()),
		"haproxy.cfg.tmpl": d.haproxyTemplate(),
		"nobody.json":      `{"v": 1, "roles": {"web": []}}`,
	} {
		if err := os.WriteFile(d.file(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	empty, err := renderTemplate(d.file("haproxy.cfg.tmpl"), d.file("nobody.json"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.file("haproxy.cfg"), empty, 0o600); err != nil {
		return err
	}
	if err := unix.Mkfifo(d.file(demoAlive), 0o600); err != nil {
		return fmt.Errorf("%s: %w", d.file(demoAlive), err)
	}
	d.alive, err = os.OpenFile(d.file(demoAlive), os.O_RDWR, 0) // for writing alone it would wait for a reader
	return err
}

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

// end ends every process, and removes every file.
func (d *demo) end() error {
	err := d.crew.end()
	d.alive.Close() // what the person has started in another terminal ends now
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		removed := os.RemoveAll(d.dir) // fails if one of them puts a file there meanwhile
		if removed == nil || time.Now().After(deadline) {
			return errors.Join(err, removed)
		}
	}
}

// freePorts finds loopback ports outside the range from which the kernel takes the ports of outgoing connections: a controller that is
// killed must find its own free again.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range 1000 {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(10000))))
		if err != nil {
			continue
		}
		defer ln.Close() // all are kept until all are found
		if ports = append(ports, ln.Addr().String()); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free ports between 20000 and 29999 on 127.0.0.1")
}

// What the demo does not leave at its default.
const demoHurry = `settle: 300ms     # 1s by default
settle_min: 1s    # 5s
settle_max: 1s    # 1m
backoff:
  initial: 1s     # 5s
`

func (d *demo) sharedConfig(agent string) string {
	return fmt.Sprintf(`# Of a kicker demo that is running.
cluster: demo
state_dir: %q
bus:
  listen: %s
api:
  listen: %s
%sagent:
  server: [%q]
%s`, d.dir, d.bus, d.api, demoHurry, d.bus, agent)
}

func (d *demo) balancerConfig() string {
	check := ""
	if d.haproxy != "" {
		check = fmt.Sprintf("\n        - --check\n        - %q", shellquote.Join(d.haproxy)+" -c -f {}")
	}
	return fmt.Sprintf(`  name: lb1
  roles: [haproxy]
  depends_on: [web]
  actions:
    - name: reload
      command:
        - %q
        - render
        - %q
        - -o
        - %q%s
        - --reload
        - %q
`, d.kicker, d.file("haproxy.cfg.tmpl"), d.file("haproxy.cfg"), check, shellquote.Join(d.kicker)+" demo-reload "+shellquote.Join(d.dir))
}

func (d *demo) startController() error {
	return d.crew.start("controller", d.kicker, "controller", "--config", d.file("kicker.yaml"))
}

func (d *demo) startBalancer() error {
	if d.haproxy != "" {
		if err := d.crew.start("haproxy", d.haproxy, "-W", "-f", d.file("haproxy.cfg")); err != nil {
			return err
		}
		pid := strconv.Itoa(d.crew.pid("haproxy"))
		if err := os.WriteFile(d.file(demoMaster), []byte(pid), 0o600); err != nil {
			return err
		}
	}
	return d.crew.start("lb1", d.kicker, "agent", "--config", d.file("lb1.yaml"))
}

func (d *demo) startWeb(name string, warmUp time.Duration) error {
	return d.crew.start(name, d.kicker, "demo-node", name, "--warm-up", warmUp.String(), "--config", d.file("kicker.yaml"))
}

// ended shows that a process is no more. What init would start again, the demo does.
func (d *demo) ended(name, how string) (restart func() error) {
	d.timeline.line(red, name, "its process ended: %s", how)
	d.timeline.caused("%s's end", name)
	switch name {
	case "controller":
		return d.startController
	case "lb1":
		return func() error {
			return d.crew.start("lb1", d.kicker, "agent", "--config", d.file("lb1.yaml"))
		}
	}
	return nil
}

// followEvents shows what the controller tells, whichever controller that is.
func (d *demo) followEvents(ctx context.Context) {
	for ctx.Err() == nil {
		// It ends with each controller; that it can't be reached is shown by what doesn't happen.
		_ = d.client().follow(ctx, 0, func(_ []byte, e api.Event) (bool, error) {
			d.timeline.event(e)
			return false, nil
		})
		pause(ctx, 20*time.Millisecond)
	}
}

// client is for one goroutine.
func (d *demo) client() *client {
	return &client{http: http.DefaultClient, base: "http://" + d.api, name: d.api}
}

func (d *demo) ask(ctx context.Context, path string, query url.Values, into any) error {
	_, err := d.client().get(ctx, path, query, into)
	return err
}

// runs is the runs of lb1 that the present controller knows of.
func (d *demo) runs(ctx context.Context) ([]api.Run, error) {
	var runs []api.Run
	err := d.ask(ctx, "/v1/runs", url.Values{"node": {"lb1"}}, &runs)
	return runs, err
}

func (d *demo) node(ctx context.Context, name string) (api.Explanation, error) {
	var e api.Explanation
	err := d.ask(ctx, "/v1/nodes/"+name+"/explain", nil, &e)
	return e, err
}

// showServed tells how what is served has changed.
func (d *demo) showServed(before, now map[string]string) {
	who, verb := "haproxy", "serves "
	if d.haproxy == "" {
		who, verb = "haproxy.cfg", "has "
		for _, change := range changes(before, now) {
			d.timeline.line(plain, who, "%s", change)
		}
	}
	d.timeline.effect(who, verb+orNobody(slices.Sorted(maps.Keys(now))))
}

// changes is the lines of the file that came and went.
func changes(before, now map[string]string) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if before[name] != now[name] {
			lines = append(lines, fmt.Sprintf("-   server %s %s", name, before[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if before[name] != now[name] {
			lines = append(lines, fmt.Sprintf("+   server %s %s", name, now[name]))
		}
	}
	return lines
}

// showLogs shows the last lines of what the processes had to say.
func (d *demo) showLogs(w io.Writer) {
	logs, err := filepath.Glob(d.file("log/*.log"))
	if err != nil {
		return // only a bad pattern
	}
	for _, file := range logs {
		text, err := os.ReadFile(file)
		if err != nil || len(text) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		fmt.Fprintf(w, "\n--- the end of %s\n%s\n", filepath.Base(file), strings.Join(lines[max(0, len(lines)-12):], "\n"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if runs, err := d.runs(ctx); err == nil && len(runs) > 0 {
		last := runs[len(runs)-1]
		fmt.Fprintf(w, "\n--- lb1's last run: %s\n%s\n", outcomeText(last), strings.TrimRight(last.Output, "\n"))
	}
}

func (d *demo) introduce() {
	d.timeline.text("A controller, the load balancer lb1 and the web servers web1, web2 and web3: processes of this machine.")
	if d.haproxy != "" {
		d.timeline.text("lb1 depends on the role web: its action renders haproxy.cfg, checks it, and reloads a real HAProxy.")
	} else {
		d.timeline.text("lb1 depends on the role web: its action renders haproxy.cfg. No HAProxy reads it, as none is used; with\n" +
			"`apt install haproxy`, or --haproxy FILE, a real one follows.")
	}
	d.timeline.text("They are in a hurry: settle is 0.3 s (not 1 s), 1 s between two kicks (not 5 s), first backoff 1 s (not 5 s).")
	d.timeline.text("All their files are in %s, until the demo ends.", d.dir)
}

// invite prints what to paste in another terminal.
func (d *demo) invite() {
	unset := ""
	for _, setting := range os.Environ() {
		if name, _, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "KICKER_") && name != "KICKER_CONFIG" {
			unset += "unset " + name + "; "
		}
	}
	lines := [][2]string{
		{"kicker demo-node web4", "one more web server; Ctrl-C ends it"},
		{fmt.Sprintf("kill -9 %d", d.crew.pid("web2")), "web2 dies"},
		{"kicker leave --wait --name web3", "web3 leaves; when that returns nobody is sent there any more"},
		{"kicker inventory role=web", "who is there"},
		{"kicker status", "is all well?"},
		{"kicker explain node/lb1", "why is lb1 as it is, and what comes next?"},
		{"cat " + d.file("haproxy.cfg"), ""},
	}
	if d.haproxy != "" {
		lines = append(lines, [2]string{"curl http://" + d.front + "/", "through the load balancer: who answers?"})
	}
	d.timeline.title("Now you. In another terminal, paste this first:")
	d.timeline.text("\n  %sexport PATH=%s:\"$PATH\" KICKER_CONFIG=%s\n\nthen any of these, and watch here:\n",
		unset, shellquote.Join(d.file("bin")), shellquote.Join(d.file("kicker.yaml")))
	for _, l := range lines {
		d.timeline.text("  %s", strings.TrimRight(fmt.Sprintf("%-36s # %s", l[0], l[1]), " #"))
	}
	d.timeline.text("\nCtrl-C here ends it all.\n")
}

// findHAProxy is where HAProxy is, empty if it is not to be used, or not installed.
func findHAProxy(asked string) (string, error) {
	switch asked {
	case "none":
		return "", nil
	case "":
		for _, name := range []string{"haproxy", "/usr/sbin/haproxy", "/usr/local/sbin/haproxy"} { // a user's PATH may lack those
			if path, err := exec.LookPath(name); err == nil {
				return filepath.Abs(path)
			}
		}
		return "", nil
	}
	path, err := exec.LookPath(asked)
	if err != nil {
		return "", usageError("--haproxy %s: %w: name the program's file, or none", asked, err)
	}
	return filepath.Abs(path)
}

// pause waits a little, less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// until waits for what others bring about.
func until(ctx context.Context, most time.Duration, what string, so func() (bool, error)) error {
	deadline := time.Now().Add(most)
	var last error
	for {
		ok, err := so()
		if ok || ctx.Err() != nil {
			return ctx.Err()
		}
		var never demoFailure
		if errors.As(err, &never) {
			return err
		}
		if err != nil {
			last = err
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s: not within %s", what, most), last)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// demoFailure is what must not happen, however long one waits.
type demoFailure string

func failure(format string, args ...any) error { return demoFailure(fmt.Sprintf(format, args...)) }

func (f demoFailure) Error() string { return string(f) }
