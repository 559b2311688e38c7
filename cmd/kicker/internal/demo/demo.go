// Package demo plays a small cluster on one machine: a controller, a load balancer and web servers.
package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
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
	"kicker/controller/api"
)

// demo is a small cluster on one machine: its directory, its processes, and what it shows.
type demo struct {
	dir, kicker, haproxy string // haproxy: empty, there is none
	bus, api, front      string // HOST:PORT
	timeline             *timeline
	crew                 *crew
	alive                *os.File // open for as long as the demo lives, see Web.Run

	mu      sync.Mutex
	servers map[string]string // behind the load balancer now: addresses by name
	visits  []visit           // with haproxy
}

// Run starts the cluster and lets a person play with it, or once plays a story by itself. It leaves nothing behind.
// haproxy is the program, empty for none.
func Run(ctx context.Context, haproxy string, once bool, stdout, stderr io.Writer) (err error) {
	d := &demo{haproxy: haproxy, timeline: newTimeline(stdout, !once)}
	if err := d.prepare(); err != nil {
		return fmt.Errorf("demo: %w", errors.Join(err, os.RemoveAll(d.dir)))
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer func() {
		cancel()
		watching.Wait()
		err = errors.Join(err, d.end())
	}()
	watching.Go(func() { d.followEvents(ctx) })
	watching.Go(func() { d.watchServers(ctx) })
	visiting, leave := context.WithCancel(ctx)
	defer leave()
	if d.haproxy != "" {
		watching.Go(func() { d.keepVisiting(visiting) })
	}

	d.introduce()
	story := d.story()
	if !once {
		story = story[:1]
	}
	for i, step := range story {
		d.timeline.title("%d. %s", i+1, step.title)
		if err = d.play(ctx, step); err != nil {
			err = fmt.Errorf("demo: step %d, %s: %w", i+1, step.title, err)
			break
		}
	}
	if err == nil && !once {
		leave() // from here on the person looks
		d.invite()
		<-ctx.Done()
	}
	switch {
	case ctx.Err() != nil:
		d.timeline.title("The demo ends and removes everything it made.")
		if once {
			return errors.New("demo: interrupted")
		}
		return nil
	case err != nil:
		d.showLogs(stderr)
	default:
		d.timeline.title("All %d steps had their effect, in %s.", len(story), seconds(time.Since(d.timeline.began)))
	}
	return err
}

// The configuration. A $name in it stands for a value of this demo, quoted.
var (
	//go:embed files/kicker.yaml
	kickerYAML string
	//go:embed files/lb1.yaml
	lb1YAML string
	//go:embed files/haproxy.cfg.tmpl
	haproxyTemplate string
)

// prepare makes the directory and starts nothing yet.
func (d *demo) prepare() (err error) {
	if d.dir, err = os.MkdirTemp("", "kicker-demo-"); err != nil {
		return err
	}
	if len(d.dir) > 80 { // the path of a socket below it has 107 bytes at most
		return fmt.Errorf("directory %s: the path is too long for sockets, set TMPDIR to a shorter one", d.dir)
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find its own program: %w", err)
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	d.kicker = d.file("bin/kicker")
	d.bus, d.api, d.front = ports[0], ports[1], ports[2]
	check := "true {}"
	if d.haproxy != "" {
		check = shellquote.Join(d.haproxy) + " -c -f {}"
	}
	values := map[string]string{
		"dir": d.dir, "bus": d.bus, "api": d.api, "front": d.front, "socket": d.file(statsSocket),
		"kicker": d.kicker, "template": d.file("haproxy.cfg.tmpl"), "config": d.file("haproxy.cfg"),
		"check": check, "reload": shellquote.Join(d.kicker, "demo-reload", d.dir),
	}
	err = errors.Join(os.Mkdir(d.file("bin"), 0o700), os.Mkdir(d.file("log"), 0o700), os.Symlink(exe, d.kicker))
	noServers, _, _ := strings.Cut(haproxyTemplate, "{{range")
	for name, text := range map[string]string{
		"kicker.yaml": kickerYAML, "lb1.yaml": lb1YAML, "haproxy.cfg.tmpl": haproxyTemplate, "haproxy.cfg": noServers,
	} {
		text = os.Expand(text, func(name string) string { return strconv.Quote(values[name]) })
		err = errors.Join(err, os.WriteFile(d.file(name), []byte(text), 0o600))
	}
	if err != nil {
		return err
	}
	if err := unix.Mkfifo(d.file(aliveFile), 0o600); err != nil {
		return fmt.Errorf("%s: %w", d.file(aliveFile), err)
	}
	if d.alive, err = os.OpenFile(d.file(aliveFile), os.O_RDWR, 0); err != nil { // write-only would wait for a reader
		return err
	}
	d.crew, err = newCrew(d.dir, d.timeline, "controller", "lb1")
	return err
}

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

// end ends every process, and removes every file.
func (d *demo) end() error {
	d.crew.end()
	d.alive.Close() // ends what the person started in another terminal
	return until(context.Background(), "the demo's directory is removed", func() error {
		return os.RemoveAll(d.dir) // fails if a process makes a file there at this moment
	})
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

// followEvents shows the events of the present controller, and after a restart those of the next one.
func (d *demo) followEvents(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		// Follow ends with each controller. The timeline shows by itself that none is there.
		_ = client.New("http://"+d.api, "").Follow(ctx, 0, func(e api.Event) (bool, error) {
			d.timeline.event(e)
			return false, nil
		})
	}
}

func ask[T any](ctx context.Context, d *demo, path string) (answer T, err error) {
	_, err = client.New("http://"+d.api, "").Get(ctx, path, nil, &answer)
	return answer, err
}

// runs is the runs of lb1 since then that the present controller knows.
func (d *demo) runs(ctx context.Context, since time.Time) ([]api.Run, error) {
	runs, err := ask[[]api.Run](ctx, d, "/v1/runs?node=lb1")
	return slices.DeleteFunc(runs, func(r api.Run) bool { return r.Started.Before(since) }), err
}

// showServers shows how the servers behind the load balancer changed.
func (d *demo) showServers(before, now map[string]string) {
	who, verb := "haproxy", "uses "
	if d.haproxy == "" {
		who, verb = "haproxy.cfg", "has "
		d.showLines("-", before, now)
		d.showLines("+", now, before)
	}
	d.timeline.effect(who, verb+orNone(slices.Sorted(maps.Keys(now))))
}

// showLines shows the lines of the file that others lacks.
func (d *demo) showLines(sign string, servers, others map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		if servers[name] != others[name] {
			d.timeline.line(plain, "haproxy.cfg", "%s   server %s %s", sign, name, servers[name])
		}
	}
}

// showLogs shows the last lines of what the processes logged, and of lb1's last run.
func (d *demo) showLogs(w io.Writer) {
	logs, _ := filepath.Glob(d.file("log/*.log")) // fails for a bad pattern only
	for _, file := range logs {
		if text, err := readText(file); err == nil && text != "" {
			lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
			end := strings.Join(lines[max(0, len(lines)-12):], "\n")
			fmt.Fprintf(w, "\n--- the end of %s\n%s\n", filepath.Base(file), end)
		}
	}
	if runs, err := d.runs(context.Background(), d.timeline.began); err == nil && len(runs) > 0 {
		last := runs[len(runs)-1]
		fmt.Fprintf(w, "\n--- lb1's last run: %s\n%s\n", print.Run(last, time.Now()), last.Output)
	}
}

func (d *demo) introduce() {
	action := "renders and checks haproxy.cfg, and reloads a real HAProxy."
	if d.haproxy == "" {
		action = "renders haproxy.cfg. No HAProxy reads the file.\n" +
			"To see a real one, run `apt install haproxy` or give --haproxy FILE."
	}
	d.timeline.text(`This starts a controller, the load balancer lb1 and the web servers web1, web2 and web3.
lb1 depends on role web: its action %s
To save time, settle is 0.3 s (not 1 s), kicks are 1 s apart (not 5 s), the first backoff is 1 s.
All files are in %s until the demo ends.`, action, d.dir)
}

// invite prints commands to paste into another terminal.
func (d *demo) invite() {
	unset := ""
	for _, setting := range os.Environ() {
		if name, _, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "KICKER_") {
			unset += "unset " + name + "; "
		}
	}
	curl := ""
	if d.haproxy != "" {
		curl = fmt.Sprintf("\n  %-36s # ask the load balancer: which server answers?", "curl http://"+d.front+"/")
	}
	d.timeline.title("Now it is your turn. Paste this into another terminal first:")
	d.timeline.text(`
  %sexport PATH=%s:"$PATH" KICKER_CONFIG=%s

then try any of these, and watch here:

  kicker demo-node web4                # start one more web server; Ctrl-C ends it
  kill -9 %-28d # kill web2
  kicker leave --wait --name web3      # web3 leaves; when this returns, lb1 does not use it
  kicker inventory role=web            # list the web servers
  kicker status                        # is all well?
  kicker explain node/lb1              # why is lb1 in this state, and what comes next?
  cat %s%s

Ctrl-C here ends the demo.
`, unset, shellquote.Join(d.file("bin")), shellquote.Join(d.file("kicker.yaml")),
		d.crew.member("web2").cmd.Process.Pid, d.file("haproxy.cfg"), curl)
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

// patience is how long anything may take, on a slow machine too.
const patience = 20 * time.Second

// until waits until so returns no error. It gives up when patience is over, or if the error is impossible.
func until(ctx context.Context, what string, so func() error) error {
	for deadline := time.Now().Add(patience); ; pause(ctx, 10*time.Millisecond) {
		err := so()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, never := errors.AsType[impossible](err); err == nil || never {
			return err
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("not within %s: %s", api.Duration(patience), what), err)
		}
	}
}

// impossible is an error that waiting can not mend.
type impossible string

func (i impossible) Error() string { return string(i) }
