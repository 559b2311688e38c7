package inventory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kballard/go-shellquote"
)

// Check finds out whether a node's service is ready. ParseCheck makes one, with defaults that may be changed before Watch.
type Check struct {
	Interval time.Duration // between the starts of two checks
	Timeout  time.Duration // of one
	Rise     int           // successes in a row that make it ready
	Fall     int           // failures in a row that make it not ready

	text  string
	probe func(context.Context) error
}

// Defaults of a Check. The counts are those of Kubernetes' readiness probes.
const (
	DefaultCheckInterval = time.Second
	DefaultCheckTimeout  = time.Second
	DefaultRise          = 1
	DefaultFall          = 3
)

// ParseCheck reads a check:
//
//	tcp:PORT, tcp:HOST:PORT    a connection is accepted
//	http://…, https://…        a GET is answered with a status of 2xx or 3xx, as HAProxy's httpchk wants it (or http:http://…)
//	exec:COMMAND ARG…          it exits with 0; no shell, but quotes and backslashes hold words together
func ParseCheck(s string) (Check, error) {
	c := Check{Interval: DefaultCheckInterval, Timeout: DefaultCheckTimeout, Rise: DefaultRise, Fall: DefaultFall, text: s}
	kind, rest, _ := strings.Cut(s, ":")
	var err error
	switch {
	case kind == "tcp":
		c.probe, err = parseTCP(rest)
	case kind == "exec":
		c.probe, err = parseExec(rest)
	case strings.HasPrefix(s, "http://"), strings.HasPrefix(s, "https://"):
		c.probe, err = parseHTTP(s)
	case kind == "http":
		c.probe, err = parseHTTP(rest)
	default:
		err = errors.New("want tcp:PORT, tcp:HOST:PORT, http://HOST:PORT/PATH or exec:COMMAND")
	}
	if err != nil {
		return Check{}, fmt.Errorf("check %q: %w", s, err)
	}
	return c, nil
}

// String is the check as it was read.
func (c Check) String() string { return c.text }

// Watch checks until ctx ends, and tells set whenever it changes whether the service is ready, or why not. Until Rise checks in a row have
// succeeded, or Fall have failed, it is not known: that, and why, is told to checking, at once.
func (c Check) Watch(ctx context.Context, set func(ready bool, why string), checking func(why string)) error {
	if c.Interval <= 0 || c.Timeout <= 0 || c.Rise < 1 || c.Fall < 1 {
		return fmt.Errorf("check %s: interval %s, timeout %s, rise %d, fall %d: all must be more than 0", c.text, c.Interval, c.Timeout, c.Rise, c.Fall)
	}
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	results := streak{rise: c.Rise, fall: c.Fall}
	told := ""
	checking(c.text + ": not checked yet")
	for {
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		was := results
		results.count(err == nil)
		switch {
		case results.ready && !was.ready:
			set(true, "")
		case results.ready || err == nil || was.ready == results.ready && was.known == results.known && told == kindOf(err):
			// nothing new
		case results.known:
			told = kindOf(err)
			set(false, c.text+": "+err.Error())
		default:
			told = kindOf(err)
			checking(c.text + ": " + err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c Check) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	err := c.probe(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("no answer within %s", c.Timeout)
	}
	return err
}

// streak counts successes and failures in a row.
type streak struct {
	rise, fall int
	known      bool // whether it is ready
	ready      bool
	last       bool // result, and how many times in a row
	times      int
}

func (s *streak) count(success bool) {
	if success != s.last {
		s.last, s.times = success, 0
	}
	s.times++
	need := s.fall
	if success {
		need = s.rise
	}
	if s.times >= need {
		s.known, s.ready = true, success
	}
}

func parseTCP(address string) (func(context.Context) error, error) {
	if !strings.Contains(address, ":") {
		address = net.JoinHostPort("localhost", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("port %q: want a number from 1 to 65535", port)
	}
	address = net.JoinHostPort(cmp.Or(host, "localhost"), port)
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return innermost(err)
		}
		return conn.Close()
	}, nil
}

func parseHTTP(text string) (func(context.Context) error, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("want a URL such as http://localhost:8080/healthz")
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // a connection that is kept says nothing about new ones; no proxy
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return err
		}
		request.Header.Set("User-Agent", "kicker")
		response, err := client.Do(request)
		if err != nil {
			return innermost(err)
		}
		defer response.Body.Close()
		_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // politeness: the status has come already
		if response.StatusCode < 200 || response.StatusCode > 399 {
			return fmt.Errorf("status %d", response.StatusCode)
		}
		return nil
	}, nil
}

func parseExec(line string) (func(context.Context) error, error) {
	argv, err := shellquote.Split(line)
	if err != nil {
		return nil, err
	}
	if len(argv) == 0 {
		return nil, errors.New("want a command, as in exec:/usr/local/bin/is-ready --quick")
	}
	return func(ctx context.Context) error { return run(ctx, argv) }, nil
}

// run runs a command in a process group of its own. All of the group dies with ctx, or at the latest when the command ends: what a
// check left behind each time would pile up.
func run(ctx context.Context, argv []string) error {
	var output tail
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 100 * time.Millisecond // for a child left behind that keeps the output open
	err := cmd.Run()
	if cmd.Process != nil {
		_ = cmd.Cancel() // fails when nothing is left, as it should be
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return nil
	}
	if line := output.lastLine(); line != "" {
		return &failure{err, line}
	}
	return err
}

// failure is a failed command and what it said. What it said does not tell it from another: there may be a clock in it, and every
// change of why a node isn't ready is a new heartbeat.
type failure struct {
	error
	said string
}

func (f *failure) Error() string { return f.error.Error() + ": " + f.said }

func kindOf(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.error.Error()
	}
	return err.Error()
}

// tail keeps the last bytes written to it.
type tail struct{ kept []byte }

const maxTail = 256

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-maxTail):]...)
	t.kept = append(t.kept[:0], t.kept[max(0, len(t.kept)-maxTail):]...)
	return len(p), nil
}

func (t *tail) lastLine() string {
	text := bytes.TrimSpace(t.kept)
	return strings.ToValidUTF8(string(text[bytes.LastIndexByte(text, '\n')+1:]), "")
}

// innermost is the cause at the bottom: what is around it names addresses, and those of our own end change every time.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
