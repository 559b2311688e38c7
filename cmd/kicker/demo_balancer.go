package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Files in the demo's directory, beside those that it is configured by.
const (
	demoMaster  = "haproxy.pid"
	demoStats   = "haproxy.sock"
	demoReloads = "reloads" // the record of reloads, a line at the beginning and at the end of each
	demoLinger  = "linger"  // how long a reload takes at least; and it goes on while this is there
)

// haproxyTemplate is made for seeing what kicker does: HAProxy neither checks the servers nor tries another one.
func (d *demo) haproxyTemplate() string {
	return fmt.Sprintf(`global
  stats socket %q mode 600 expose-fd listeners
  hard-stop-after 10s

defaults
  mode http
  retries 0
  timeout connect 1s
  timeout client 10s
  timeout server 10s

frontend demo
  bind %s
  default_backend web

backend web
  balance roundrobin
{{range .roles.web}}  server {{.node}} {{.facts.ipaddress}}:{{.facts.port}}
{{end}}`, d.file(demoStats), d.front)
}

// typo is a mistake in the template, such that a run fails: what it replaces, and by what.
func (d *demo) typo() (right, wrong string) {
	if d.haproxy == "" {
		return ".facts.port", ".facts.prot"
	}
	return "balance roundrobin", "balance rundrobin"
}

// readServed is the servers that HAProxy has, or without one those in its file: their addresses by their names.
func (d *demo) readServed() (map[string]string, error) {
	if d.haproxy != "" {
		return askServers(d.file(demoStats))
	}
	file, err := os.ReadFile(d.file("haproxy.cfg"))
	if err != nil {
		return nil, err
	}
	servers := map[string]string{}
	for line := range strings.Lines(string(file)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "server" {
			servers[words[1]] = words[2]
		}
	}
	return servers, nil
}

// askServers asks HAProxy for the servers of the backend web that it sends requests to.
func askServers(socket string) (map[string]string, error) {
	answer, err := askHAProxy(socket, "show stat")
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(answer, "# "))).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("show stat: %q: %w", answer, err)
	}
	column := func(row []string, name string) string {
		if i := slices.Index(rows[0], name); i >= 0 && i < len(row) {
			return row[i]
		}
		return ""
	}
	servers := map[string]string{}
	for _, row := range rows[1:] {
		name, status := column(row, "svname"), column(row, "status")
		if column(row, "pxname") == "web" && name != "BACKEND" && (strings.HasPrefix(status, "UP") || status == "no check") {
			servers[name] = column(row, "addr")
		}
	}
	return servers, nil
}

func askHAProxy(socket, command string) (string, error) {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(command + "\n")); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return strings.TrimSpace(string(answer)), err
}

// haproxyProcess is the process that takes connections now.
func haproxyProcess(socket string) (string, error) {
	info, err := askHAProxy(socket, "show info")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(info) {
		if pid, ok := strings.CutPrefix(line, "Pid: "); ok {
			return strings.TrimSpace(pid), nil
		}
	}
	return "", errors.New("show info names no process")
}

// demoServed is who is served now, as it was seen from outside.
type demoServed struct {
	read func() (map[string]string, error)

	mu      sync.Mutex
	servers map[string]string // addresses by names
}

// watch looks until ctx ends, and tells of each change.
func (s *demoServed) watch(ctx context.Context, changed func(before, now map[string]string)) {
	for ctx.Err() == nil {
		if servers, err := s.read(); err == nil { // it is not there yet, or just reloads
			s.mu.Lock()
			before := s.servers
			s.servers = servers
			s.mu.Unlock()
			if !maps.Equal(before, servers) {
				changed(before, servers)
			}
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// now is the names, sorted.
func (s *demoServed) now() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.servers))
}

// demoVisitor asks the load balancer for its page, again and again, and remembers what it got.
type demoVisitor struct {
	url string

	mu      sync.Mutex
	answers []demoAnswer
}

type demoAnswer struct {
	at  time.Time // asked
	by  string    // empty: it failed
	why string
}

func (v *demoVisitor) run(ctx context.Context) {
	once := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		answer := v.ask(ctx, &once)
		if ctx.Err() == nil {
			v.mu.Lock()
			v.answers = append(v.answers, answer)
			v.mu.Unlock()
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func (v *demoVisitor) ask(ctx context.Context, c *http.Client) demoAnswer {
	answer := demoAnswer{at: time.Now()}
	body, err := fetch(ctx, c, v.url)
	answer.by = strings.TrimSpace(body)
	if err != nil {
		answer.by, answer.why = "", err.Error()
	}
	return answer
}

// fetch is the page at url, if it is answered with 200.
func fetch(ctx context.Context, c *http.Client, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	return string(body), err
}

// since is what the visitor got for what it asked since then.
func (v *demoVisitor) since(t time.Time) (answered map[string]int, failed int, why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	answered = map[string]int{}
	for _, a := range v.answers {
		switch {
		case a.at.Before(t):
		case a.by == "":
			failed++
			why = a.why
		default:
			answered[a.by]++
		}
	}
	return answered, failed, why
}

// demoReloadCommand is how lb1's action tells HAProxy: it returns when the new processes have taken over.
func demoReloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "demo-reload DIRECTORY",
		Short:  "Reload the HAProxy of a demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return demoReload(cmd.Context(), args[0], os.Getenv("KICKER_RUN"))
		},
	}
}

func demoReload(ctx context.Context, dir, run string) error {
	if err := recordReload(dir, "begin", run); err != nil {
		return err
	}
	if linger, err := os.ReadFile(filepath.Join(dir, demoLinger)); err == nil {
		d, err := time.ParseDuration(string(linger))
		if err != nil {
			return fmt.Errorf("%s: %w", demoLinger, err)
		}
		pause(ctx, d)
		if err := until(ctx, time.Minute, demoLinger+" is removed", func() (bool, error) {
			_, err := os.Stat(filepath.Join(dir, demoLinger))
			return errors.Is(err, fs.ErrNotExist), nil
		}); err != nil {
			return err
		}
	}
	if err := reloadMaster(ctx, dir); err != nil {
		return fmt.Errorf("reload haproxy: %w", err)
	}
	return recordReload(dir, "end", run)
}

// reloadMaster does nothing where there is no HAProxy.
func reloadMaster(ctx context.Context, dir string) error {
	file, err := os.ReadFile(filepath.Join(dir, demoMaster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	master, err := strconv.Atoi(string(file))
	if err != nil {
		return fmt.Errorf("%s: %w", demoMaster, err)
	}
	socket := filepath.Join(dir, demoStats)
	var before string
	if err := until(ctx, 5*time.Second, "it answers", func() (ok bool, err error) {
		before, err = haproxyProcess(socket)
		return err == nil, err
	}); err != nil {
		return err
	}
	if err := syscall.Kill(master, syscall.SIGUSR2); err != nil {
		return err
	}
	return until(ctx, 10*time.Second, "a new process takes over", func() (bool, error) {
		now, err := haproxyProcess(socket)
		return err == nil && now != before, err
	})
}

func recordReload(dir, what, run string) error {
	f, err := os.OpenFile(filepath.Join(dir, demoReloads), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\n", what, run)
	return errors.Join(err, f.Close())
}

// reloads is the runs that have reloaded, in order. It fails if two of them overlapped, or one has begun and not ended.
func (d *demo) reloads() ([]string, error) {
	f, err := os.Open(d.file(demoReloads))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var runs []string
	open := ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		what, run, _ := strings.Cut(lines.Text(), " ")
		switch {
		case what == "begin" && open == "":
			open = run
		case what == "end" && open == run:
			open = ""
			runs = append(runs, run)
		default:
			return nil, failure("the action's own record has %q while run %q is in progress", lines.Text(), open)
		}
	}
	if open != "" {
		return nil, fmt.Errorf("by the action's own record, run %s is in progress", open)
	}
	return runs, lines.Err()
}
