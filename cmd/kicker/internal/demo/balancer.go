package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Files in the demo's directory, beside its configuration.
const (
	masterFile  = "haproxy.pid" // written by HAProxy's master process
	statsSocket = "haproxy.sock"
	reloadsFile = "reloads" // a record: the run's id when a reload begins, and again when it ends
	lingerFile  = "linger"  // reloads take as long as this file exists
)

// Servers: name, address and port. HAProxy lists them with many numbers, of which the first is 2 for a running one.
var (
	configured = regexp.MustCompile(`(?m)^  server (\S+) (\S+):(\d+)$`)
	running    = regexp.MustCompile(`(?m)^\d+ web \d+ (\S+) (\S+) 2(?: \S+){12} (\d+) `)
)

// readServers is the servers that HAProxy has, or those in its file: HOST:PORT by name.
func readServers(dir string, haproxy bool) (map[string]string, error) {
	pattern := configured
	text, err := readText(filepath.Join(dir, "haproxy.cfg"))
	if haproxy {
		pattern = running
		text, err = askHAProxy(dir, "show servers state web")
	}
	servers := map[string]string{}
	for _, found := range pattern.FindAllStringSubmatch(text, -1) {
		servers[found[1]] = net.JoinHostPort(found[2], found[3])
	}
	return servers, err
}

func readText(file string) (string, error) {
	text, err := os.ReadFile(file)
	return string(text), err
}

func askHAProxy(dir, command string) (string, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(dir, statsSocket), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// A deadline or a command that fails shows when the answer is read.
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintln(conn, command)
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// watchServers shows each change of the servers behind the load balancer.
func (d *demo) watchServers(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		servers, err := readServers(d.dir, d.haproxy != "")
		if err != nil {
			continue // HAProxy is starting or reloading
		}
		d.mu.Lock()
		before := d.servers
		d.servers = servers
		d.mu.Unlock()
		if !maps.Equal(before, servers) {
			d.showServers(before, servers)
		}
	}
}

// served is the names of the servers behind the load balancer, sorted.
func (d *demo) served() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.servers))
}

// visit is a request to the load balancer.
type visit struct {
	at  time.Time
	by  string // the server that answered
	err error
}

// keepVisiting asks the load balancer for its page again and again, as soon as it has servers.
func (d *demo) keepVisiting(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		if len(d.served()) == 0 {
			continue
		}
		v := visit{at: time.Now()}
		v.by, v.err = fetch("http://" + d.front + "/")
		d.mu.Lock()
		d.visits = append(d.visits, v)
		d.mu.Unlock()
	}
}

// visitsSince is the requests that were sent after t.
func (d *demo) visitsSince(t time.Time) []visit {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(d.visits), func(v visit) bool { return v.at.Before(t) })
}

// visitor opens a connection for each request, so that HAProxy chooses a server for each.
var visitor = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// fetch is the page at url. Any answer but 200 is an error.
func fetch(url string) (string, error) {
	answer, err := visitor.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// Reload reloads the HAProxy of the demo in dir. It returns when HAProxy has the servers of its file.
func Reload(ctx context.Context, dir, run string) error {
	record, err := os.OpenFile(filepath.Join(dir, reloadsFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer record.Close()
	if _, err := fmt.Fprintln(record, run); err != nil {
		return err
	}
	if err := until(ctx, lingerFile+" is removed", func() error {
		if _, err := os.Stat(filepath.Join(dir, lingerFile)); err == nil {
			return errors.New("it exists")
		}
		return nil
	}); err != nil {
		return err
	}
	if err := reloadHAProxy(ctx, dir); err != nil {
		return fmt.Errorf("reload haproxy: %w", err)
	}
	_, err = fmt.Fprintln(record, run)
	return err
}

func reloadHAProxy(ctx context.Context, dir string) error {
	text, err := readText(filepath.Join(dir, masterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is no HAProxy
	}
	if err != nil {
		return err
	}
	master, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return fmt.Errorf("%s: %w", masterFile, err)
	}
	if err := syscall.Kill(master, syscall.SIGUSR2); err != nil {
		return err
	}
	return until(ctx, "HAProxy has the servers of its file", func() error {
		want, err := readServers(dir, false)
		if err != nil {
			return err
		}
		now, err := readServers(dir, true)
		if err == nil && !maps.Equal(now, want) {
			err = fmt.Errorf("it has %v, not %v", now, want)
		}
		return err
	})
}
