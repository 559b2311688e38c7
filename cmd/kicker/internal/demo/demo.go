// Package demo plays a small cluster on one machine: a controller, a load balancer and web servers.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kballard/go-shellquote"
	"golang.org/x/sys/unix"

	"kicker/cmd/kicker/internal/client"
	"kicker/cmd/kicker/internal/print"
	"kicker/cmd/kicker/internal/render"
	"kicker/controller/api"
	"kicker/kick"
)

// demo is a small cluster on one machine: its directory, its processes, and what it shows.
type demo struct {
	dir, kicker, haproxy string // haproxy: empty, there is none
	bus, api, front      string // HOST:PORT
	timeline             *timeline
	crew                 *crew
	served               *served
	visitor              *visitor // idle without haproxy
	alive                *os.File // open for as long as the demo lives, see Web.Run
}

// Run starts the cluster and lets a person play with it, or once plays a story by itself. It leaves nothing behind.
// haproxy is the program, empty for none.
func Run(ctx context.Context, haproxy string, once bool, stdout, stderr io.Writer) (err error) {
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
		leave() // from here on the person looks
		d.timeline.measure()
		d.invite()
		<-ctx.Done()
		return d.interrupted(once)
	}
	d.timeline.title("All %d steps had their effect, in %.1f s.", len(story), time.Since(d.timeline.began).Seconds())
	return nil
}

// interrupted ends a demo after Ctrl-C. That is a failure only of a story.
func (d *demo) interrupted(once bool) error {
	d.timeline.title("The demo ends and removes everything it made.")
	if once {
		return errors.New("demo: interrupted")
	}
	return nil
}

// longestDir leaves room for the names of sockets below it: their paths have 107 bytes at most.
const longestDir = 80

// newDemo prepares the directory and starts nothing yet.
func newDemo(haproxy string, stdout io.Writer) (*demo, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find its own program: %w", err)
	}
	dir, err := os.MkdirTemp("", "kicker-demo-")
	if err != nil {
		return nil, err
	}
	d := &demo{dir: dir, kicker: filepath.Join(dir, "bin", "kicker"), haproxy: haproxy, timeline: newTimeline(stdout)}
	if len(dir) > longestDir {
		err = fmt.Errorf("directory %s: the path is too long for sockets, set TMPDIR to a shorter one", dir)
	} else {
		err = d.prepare(exe)
	}
	if err == nil {
		d.crew, err = newCrew(dir, d.ended)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.served = &served{read: d.readServed}
	d.visitor = &visitor{url: "http://" + d.front + "/"}
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
		"none.json":        fmt.Sprintf(`{"v": %d, "roles": {"web": []}}`, kick.Version),
	} {
		if err := os.WriteFile(d.file(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	empty, err := render.Template(d.file("haproxy.cfg.tmpl"), d.file("none.json"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.file("haproxy.cfg"), empty, 0o600); err != nil {
		return err
	}
	if err := unix.Mkfifo(d.file(aliveFile), 0o600); err != nil {
		return fmt.Errorf("%s: %w", d.file(aliveFile), err)
	}
	d.alive, err = os.OpenFile(d.file(aliveFile), os.O_RDWR, 0) // write-only would wait for a reader
	return err
}

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

// end ends every process, and removes every file.
func (d *demo) end() error {
	err := d.crew.end()
	d.alive.Close() // ends what the person started in another terminal
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		removed := os.RemoveAll(d.dir) // fails if a process makes a file there at this moment
		if removed == nil || time.Now().After(deadline) {
			return errors.Join(err, removed)
		}
	}
}

// freePorts finds free ports on 127.0.0.1, outside the kernel's range for outgoing connections: a controller that
// restarts needs its port again.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range 1000 {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(10000))))
		if err != nil {
			continue
		}
		defer ln.Close() // so that no port is found twice
		if ports = append(ports, ln.Addr().String()); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no port between 20000 and 29999 is free on 127.0.0.1")
}

// hurry is the settings that differ from the defaults.
const hurry = `settle: 300ms     # 1s by default
settle_min: 1s    # 5s
settle_max: 1s    # 1m
backoff:
  initial: 1s     # 5s
`

func (d *demo) sharedConfig(agent string) string {
	return fmt.Sprintf(`# The configuration of a running kicker demo.
cluster: demo
state_dir: %q
bus:
  listen: %s
api:
  listen: %s
%sagent:
  server: [%q]
%s`, d.dir, d.bus, d.api, hurry, d.bus, agent)
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
`, d.kicker, d.file("haproxy.cfg.tmpl"), d.file("haproxy.cfg"), check, shellquote.Join(d.kicker, "demo-reload", d.dir))
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
		if err := os.WriteFile(d.file(masterFile), []byte(pid), 0o600); err != nil {
			return err
		}
	}
	return d.crew.start("lb1", d.kicker, "agent", "--config", d.file("lb1.yaml"))
}

func (d *demo) startWeb(name string, warmUp time.Duration) error {
	return d.crew.start(name, d.kicker, "demo-node", name,
		"--warm-up", warmUp.String(), "--config", d.file("kicker.yaml"))
}

// ended shows that a process ended, and returns how to restart it if an init system would.
func (d *demo) ended(name, how string) (restart func() error) {
	d.timeline.line(red, name, "process ended: %s", how)
	d.timeline.caused("%s ended", name)
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

// followEvents shows the events of the present controller, and after a restart those of the next one.
func (d *demo) followEvents(ctx context.Context) {
	for ctx.Err() == nil {
		// Follow ends with each controller. The timeline shows by itself that none is there.
		_ = d.client().Follow(ctx, 0, func(e api.Event) (bool, error) {
			d.timeline.event(e)
			return false, nil
		})
		pause(ctx, 20*time.Millisecond)
	}
}

func (d *demo) client() *client.Client { return client.New("http://"+d.api, "") }

func (d *demo) ask(ctx context.Context, path string, query url.Values, into any) error {
	_, err := d.client().Get(ctx, path, query, into)
	return err
}

// runs is the runs of lb1 that the present controller knows.
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

// showServed shows how the servers behind the load balancer changed.
func (d *demo) showServed(before, now map[string]string) {
	who, verb := "haproxy", "uses "
	if d.haproxy == "" {
		who, verb = "haproxy.cfg", "has "
		for _, change := range changes(before, now) {
			d.timeline.line(plain, who, "%s", change)
		}
	}
	d.timeline.effect(who, verb+orNone(slices.Sorted(maps.Keys(now))))
}

// changes is the lines that were removed from the file and added to it.
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

// showLogs shows the last lines of what the processes logged.
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
		end := strings.Join(lines[max(0, len(lines)-12):], "\n")
		fmt.Fprintf(w, "\n--- the end of %s\n%s\n", filepath.Base(file), end)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if runs, err := d.runs(ctx); err == nil && len(runs) > 0 {
		last := runs[len(runs)-1]
		output := strings.TrimRight(last.Output, "\n")
		fmt.Fprintf(w, "\n--- lb1's last run: %s\n%s\n", print.Run(last, time.Now()), output)
	}
}

func (d *demo) introduce() {
	d.timeline.text("This starts a controller, the load balancer lb1 and the web servers web1, web2 and web3.")
	if d.haproxy != "" {
		d.timeline.text("lb1 depends on role web: its action renders and checks haproxy.cfg, and reloads a real HAProxy.")
	} else {
		d.timeline.text("lb1 depends on role web: its action renders haproxy.cfg. No HAProxy reads the file.\n" +
			"To see a real one, run `apt install haproxy` or give --haproxy FILE.")
	}
	d.timeline.text("To save time, settle is 0.3 s (not 1 s), kicks are 1 s apart (not 5 s), the first backoff is 1 s.")
	d.timeline.text("All files are in %s until the demo ends.", d.dir)
}

// invite prints commands to paste into another terminal.
func (d *demo) invite() {
	unset := ""
	for _, setting := range os.Environ() {
		if name, _, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "KICKER_") && name != "KICKER_CONFIG" {
			unset += "unset " + name + "; "
		}
	}
	lines := [][2]string{
		{"kicker demo-node web4", "start one more web server; Ctrl-C ends it"},
		{fmt.Sprintf("kill -9 %d", d.crew.pid("web2")), "kill web2"},
		{"kicker leave --wait --name web3", "web3 leaves; when this returns, lb1 does not use it"},
		{"kicker inventory role=web", "list the web servers"},
		{"kicker status", "is all well?"},
		{"kicker explain node/lb1", "why is lb1 in this state, and what comes next?"},
		{"cat " + d.file("haproxy.cfg"), ""},
	}
	if d.haproxy != "" {
		lines = append(lines, [2]string{"curl http://" + d.front + "/", "ask the load balancer: which server answers?"})
	}
	d.timeline.title("Now it is your turn. Paste this into another terminal first:")
	d.timeline.text("\n  %sexport PATH=%s:\"$PATH\" KICKER_CONFIG=%s\n\nthen try any of these, and watch here:\n",
		unset, shellquote.Join(d.file("bin")), shellquote.Join(d.file("kicker.yaml")))
	for _, l := range lines {
		d.timeline.text("  %s", strings.TrimRight(fmt.Sprintf("%-36s # %s", l[0], l[1]), " #"))
	}
	d.timeline.text("\nCtrl-C here ends the demo.\n")
}

// FindHAProxy is the program of HAProxy: the one asked for, or the installed one. It is empty for none.
func FindHAProxy(asked string) (string, error) {
	switch asked {
	case "none":
		return "", nil
	case "":
		// A user's PATH may lack the last two.
		for _, name := range []string{"haproxy", "/usr/sbin/haproxy", "/usr/local/sbin/haproxy"} {
			if path, err := exec.LookPath(name); err == nil {
				return filepath.Abs(path)
			}
		}
		return "", nil
	}
	path, err := exec.LookPath(asked)
	if err != nil {
		return "", fmt.Errorf("--haproxy %s: %w: give the file of the program, or none", asked, err)
	}
	return filepath.Abs(path)
}

// pause waits until d is over or ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// until waits until so is true, for most at most.
func until(ctx context.Context, most time.Duration, what string, so func() (bool, error)) error {
	deadline := time.Now().Add(most)
	var last error
	for {
		ok, err := so()
		if ok || ctx.Err() != nil {
			return ctx.Err()
		}
		var never impossible
		if errors.As(err, &never) {
			return err
		}
		if err != nil {
			last = err
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("not within %s: %s", api.Duration(most), what), last)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// impossible is an error that waiting can not mend.
type impossible string

func impossiblef(format string, args ...any) error { return impossible(fmt.Sprintf(format, args...)) }

func (f impossible) Error() string { return string(f) }
