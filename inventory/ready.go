package inventory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kballard/go-shellquote"
)

// Check checks whether a node's service is ready. Its defaults may be changed before Watch.
type Check struct {
	Interval time.Duration // between the starts of two checks
	Timeout  time.Duration // of one
	Rise     int           // successes in a row that make it ready
	Fall     int           // failures in a row that make it not ready

	text  string
	port  string
	probe func(context.Context) error
}

// Defaults of a Check. The counts are those of Kubernetes' readiness probes.
const (
	DefaultCheckInterval = time.Second
	DefaultCheckTimeout  = time.Second
	DefaultRise          = 1
	DefaultFall          = 3
)

// ParseCheck parses a check and says when the service is ready:
//
//	tcp:PORT, tcp:HOST:PORT    it accepts a connection
//	http://…, http:URL         it answers a GET with a status of 2xx or 3xx, as in HAProxy's httpchk
//	exec:COMMAND ARG…          the command exits with 0; quotes and backslashes as in a shell, nothing is expanded
func ParseCheck(s string) (Check, error) {
	c := Check{
		Interval: DefaultCheckInterval, Timeout: DefaultCheckTimeout, Rise: DefaultRise, Fall: DefaultFall, text: s,
	}
	kind, rest, _ := strings.Cut(s, ":")
	var err error
	switch {
	case kind == "tcp":
		c.port, c.probe, err = parseTCP(rest)
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

// String is the text that was parsed.
func (c Check) String() string { return c.text }

// Port is the port that a tcp check connects to, in decimal. It is empty for other checks: the port of a health check
// need not be the port of the service.
func (c Check) Port() string { return c.port }

// label is the check's text at the start of a reason. A long one is cut, so that the cause has room after it.
func (c Check) label() string { return plain(c.text, maxReason/4) + ": " }

// Watch checks until ctx ends. It calls set when the service becomes ready or not ready, and when the reason changes.
// It calls checking, with the reason, while that is not known yet: until Rise checks in a row have succeeded or Fall
// have failed.
func (c Check) Watch(ctx context.Context, set func(ready bool, why string), checking func(why string)) error {
	if c.Interval <= 0 || c.Timeout <= 0 || c.Rise < 1 || c.Fall < 1 {
		return fmt.Errorf("check %s: interval %s, timeout %s, rise %d, fall %d: all must be more than 0",
			c.text, c.Interval, c.Timeout, c.Rise, c.Fall)
	}
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	results := streak{rise: c.Rise, fall: c.Fall}
	reported := "" // the kind of the last failure
	checking(c.label() + "not checked yet")
	for {
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		before := results
		results.count(err == nil)
		switch {
		case results.ready && !before.ready:
			set(true, "")
		case results.ready || err == nil:
		case before.known == results.known && !before.ready && reported == kindOf(err):
		case results.known:
			reported = kindOf(err)
			set(false, c.label()+err.Error())
		default:
			reported = kindOf(err)
			checking(c.label() + err.Error())
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
		return fmt.Errorf("no answer within %gs", c.Timeout.Seconds())
	}
	return err
}

// streak counts successes and failures in a row.
type streak struct {
	rise, fall int
	known      bool // ready is
	ready      bool
	last       bool // the last result
	times      int  // that it came in a row
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

func parseTCP(address string) (port string, probe func(context.Context) error, err error) {
	if !strings.Contains(address, ":") {
		address = net.JoinHostPort("localhost", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", nil, fmt.Errorf("port %q: want a number from 1 to 65535", port)
	}
	port = strconv.FormatUint(n, 10) // without zeros before it
	address = net.JoinHostPort(cmp.Or(host, "localhost"), port)
	return port, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return innermost(err)
		}
		return conn.Close()
	}, nil
}

func parseHTTP(text string) (func(context.Context) error, error) {
	request, err := http.NewRequest(http.MethodGet, text, nil)
	if err != nil || request.URL.Scheme != "http" && request.URL.Scheme != "https" || request.URL.Host == "" {
		return nil, errors.New("want a URL such as http://localhost:8080/healthz")
	}
	request.Header.Set("User-Agent", "kicker")
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // a kept connection proves nothing; no proxy
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) error {
		response, err := client.Do(request.WithContext(ctx))
		if err != nil {
			return innermost(err)
		}
		defer response.Body.Close()
		_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // the status is known; this only lets the service finish
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

// run runs a command, and kills its whole process group when ctx ends or the command exits.
func run(ctx context.Context, argv []string) error {
	var output tail
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 100 * time.Millisecond // if a child keeps the output open
	err := cmd.Run()
	if cmd.Process != nil {
		_ = cmd.Cancel() // fails if no process is left
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return nil
	}
	if line := output.lastLine(); line != "" {
		return &failure{err, line}
	}
	if start, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", start.Path, start.Err)
	}
	return err
}

// failure is a failed command and its output. The output is not part of its kind: it may contain the time, and each new
// kind is a new heartbeat.
type failure struct {
	error
	output string
}

func (f *failure) Error() string { return f.error.Error() + ": " + f.output }

func kindOf(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.error.Error()
	}
	return err.Error()
}

// tail keeps the last maxTail bytes that are written to it.
type tail struct {
	kept []byte
	cut  int // bytes of the line at the start of kept that are not kept
}

const maxTail = 256

func (t *tail) Write(p []byte) (int, error) {
	all := append(t.kept, p...)
	lost := all[:max(0, len(all)-maxTail)]
	if i := bytes.LastIndexByte(lost, '\n'); i >= 0 {
		t.cut = len(lost) - i - 1
	} else {
		t.cut += len(lost)
	}
	t.kept = append(t.kept[:0], all[len(lost):]...)
	return len(p), nil
}

// lastLine returns the last line that is not empty. A long line has its end, and the number of bytes before that.
func (t *tail) lastLine() string {
	text := bytes.TrimSpace(t.kept)
	start := bytes.LastIndexByte(text, '\n') + 1
	line := strings.ToValidUTF8(string(text[start:]), "")
	if start == 0 && t.cut > 0 && line != "" {
		return fmt.Sprintf("(%d bytes left out) …%s", t.cut, line)
	}
	return line
}

// innermost returns the innermost cause. The errors around it name the local address, which changes with each check.
func innermost(err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}
