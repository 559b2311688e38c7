package demo

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
)

// Files in the demo's directory, beside its configuration.
const (
	masterFile  = "haproxy.pid"
	statsSocket = "haproxy.sock"
	reloadsFile = "reloads" // a record: a line at the beginning and one at the end of each reload
	lingerFile  = "linger"  // how long a reload takes at least; it also goes on while this file exists
)

// haproxyTemplate makes HAProxy show what kicker does: it neither checks the servers nor tries a second one.
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
{{end}}`, d.file(statsSocket), d.front)
}

// typo is a mistake in the template that makes a run fail: the right text and the wrong one.
func (d *demo) typo() (right, wrong string) {
	if d.haproxy == "" {
		return ".facts.port", ".facts.prot"
	}
	return "balance roundrobin", "balance rundrobin"
}

// readServed is the servers that HAProxy has, without HAProxy those in its file: addresses by name.
func (d *demo) readServed() (map[string]string, error) {
	if d.haproxy != "" {
		return askServers(d.file(statsSocket))
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

// askServers asks HAProxy which servers of the backend web get requests.
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
		up := strings.HasPrefix(status, "UP") || status == "no check"
		if column(row, "pxname") == "web" && name != "BACKEND" && up {
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

// haproxyProcess is the id of the process that accepts connections now.
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
	return "", errors.New("HAProxy's answer to show info has no Pid")
}

// served is the servers behind the load balancer, as seen from outside.
type served struct {
	read func() (map[string]string, error)

	mu      sync.Mutex
	servers map[string]string // addresses by name
}

// watch looks until ctx ends, and reports each change.
func (s *served) watch(ctx context.Context, changed func(before, now map[string]string)) {
	for ctx.Err() == nil {
		if servers, err := s.read(); err == nil { // else HAProxy is starting or reloading
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

// now is the names of the servers, sorted.
func (s *served) now() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.servers))
}

// visitor asks the load balancer for its page again and again, and remembers the answers.
type visitor struct {
	url string

	mu      sync.Mutex
	answers []answer
}

type answer struct {
	at  time.Time // of the question
	by  string    // the server; empty: the request failed
	why string
}

func (v *visitor) run(ctx context.Context) {
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

func (v *visitor) ask(ctx context.Context, c *http.Client) answer {
	began := time.Now()
	body, err := fetch(ctx, c, v.url)
	if err != nil {
		return answer{at: began, why: err.Error()}
	}
	return answer{at: began, by: strings.TrimSpace(body)}
}

// fetch is the page at url. Any answer but 200 is an error.
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

// since counts the answers to questions since t, by server, and the failures.
func (v *visitor) since(t time.Time) (answered map[string]int, failed int, why string) {
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

// Reload is how lb1's action reloads the HAProxy of the demo in dir. It returns when the new process has taken over.
func Reload(ctx context.Context, dir, run string) error {
	if err := recordReload(dir, "begin", run); err != nil {
		return err
	}
	if linger, err := os.ReadFile(filepath.Join(dir, lingerFile)); err == nil {
		d, err := time.ParseDuration(string(linger))
		if err != nil {
			return fmt.Errorf("%s: %w", lingerFile, err)
		}
		pause(ctx, d)
		if err := until(ctx, time.Minute, lingerFile+" is removed", func() (bool, error) {
			_, err := os.Stat(filepath.Join(dir, lingerFile))
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

// reloadMaster does nothing without HAProxy.
func reloadMaster(ctx context.Context, dir string) error {
	file, err := os.ReadFile(filepath.Join(dir, masterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	master, err := strconv.Atoi(string(file))
	if err != nil {
		return fmt.Errorf("%s: %w", masterFile, err)
	}
	socket := filepath.Join(dir, statsSocket)
	var before string
	if err := until(ctx, 5*time.Second, "HAProxy answers", func() (ok bool, err error) {
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
	f, err := os.OpenFile(filepath.Join(dir, reloadsFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\n", what, run)
	return errors.Join(err, f.Close())
}

// reloads is the runs that reloaded, in order. It fails if two overlapped, or if one is still in progress.
func (d *demo) reloads() ([]string, error) {
	f, err := os.Open(d.file(reloadsFile))
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
			return nil, impossiblef("the action's record has %q while run %q is in progress", lines.Text(), open)
		}
	}
	if open != "" {
		return nil, fmt.Errorf("run %s is in progress according to the action's record", open)
	}
	return runs, lines.Err()
}
