package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestServiceIsReadyAfterRiseSuccessesUntilFallFailures(t *testing.T) {
	for _, tt := range []struct {
		rise, fall    int
		results, want string
	}{
		{1, 3, "--+--+---+", "??RRRRRR.R"},
		{1, 3, "---+", "??.R"},
		{1, 1, "+-+-", "R.R."},
		{3, 2, "++-+++-+--", "?????RRRR."},
	} {
		s := streak{rise: tt.rise, fall: tt.fall}
		got := ""
		for _, r := range tt.results {
			s.count(r == '+')
			switch {
			case !s.known:
				got += "?"
			case s.ready:
				got += "R"
			default:
				got += "."
			}
		}
		if got != tt.want {
			t.Errorf("rise %d, fall %d, results %s: ready %s, want %s", tt.rise, tt.fall, tt.results, got, tt.want)
		}
	}
}

// TestStreakAgreesWithModel looks back over all results each time.
func TestStreakAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := streak{rise: rapid.IntRange(1, 4).Draw(t, "rise"), fall: rapid.IntRange(1, 4).Draw(t, "fall")}
		ready, known := false, false
		var results string
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			success := rapid.Bool().Draw(t, "success")
			s.count(success)
			results += map[bool]string{true: "+", false: "-"}[success]
			if strings.HasSuffix(results, strings.Repeat("+", s.rise)) {
				ready, known = true, true
			}
			if strings.HasSuffix(results, strings.Repeat("-", s.fall)) {
				ready, known = false, true
			}
			if s.ready != ready || s.known != known {
				t.Fatalf("after %s with rise %d, fall %d: ready %v, known %v, want %v, %v", results, s.rise, s.fall,
					s.ready, s.known, ready, known)
			}
		}
	})
}

func TestWatchChecksAtOnceAndReportsOnlyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		results := []error{
			errors.New("refused"), errors.New("refused"), errors.New("status 503"), nil, nil,
			errors.New("a"), errors.New("b"), nil,
			errors.New("a"), errors.New("b"), errors.New("c"),
			&failure{errors.New("exit status 1"), "at 12:00:01"}, &failure{errors.New("exit status 1"), "at 12:00:02"},
			nil,
		}
		ctx, cancel := context.WithCancel(t.Context())
		c := parseCheck(t, "tcp:8080")
		c.probe = func(context.Context) error {
			if len(results) == 0 {
				cancel()
				return nil
			}
			err := results[0]
			results = results[1:]
			return err
		}
		start := time.Now()
		var reported []string
		if err := c.Watch(ctx, func(ready bool, why string) {
			reported = append(reported, fmt.Sprint(time.Since(start), " ", ready, " ", why))
		}, func(why string) {
			reported = append(reported, fmt.Sprint(time.Since(start), " checking ", why))
		}); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"0s checking tcp:8080: not checked yet",
			"0s checking tcp:8080: refused",
			"2s false tcp:8080: status 503",
			"3s true ",
			"10s false tcp:8080: c",
			"11s false tcp:8080: exit status 1: at 12:00:01",
			"13s true ",
		}
		if diff := cmp.Diff(want, reported); diff != "" {
			t.Errorf("reported (-want +got):\n%s", diff)
		}
	})
}

func TestCheckThatHangsFailsAfterItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := parseCheck(t, "tcp:8080")
		c.Timeout = 3 * time.Second
		c.probe = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		start := time.Now()
		if err := c.once(t.Context()); err == nil || err.Error() != "no answer within 3s" {
			t.Errorf("a check that hangs = %v, want no answer within 3s", err)
		}
		if took := time.Since(start); took != c.Timeout {
			t.Errorf("it took %s, want %s", took, c.Timeout)
		}
	})
}

func TestWatchRejectsSettingsThatAreZero(t *testing.T) {
	for _, spoil := range []func(*Check){
		func(c *Check) { c.Interval = 0 }, func(c *Check) { c.Timeout = -1 },
		func(c *Check) { c.Rise = 0 }, func(c *Check) { c.Fall = 0 },
	} {
		c := parseCheck(t, "tcp:8080")
		spoil(&c)
		if err := c.Watch(t.Context(), func(bool, string) {}, func(string) {}); err == nil ||
			!strings.Contains(err.Error(), "all must be more than 0") {
			t.Errorf("Watch of %+v = %v, want an error", c, err)
		}
	}
}

func TestTCPCheckSucceedsWhileThePortAccepts(t *testing.T) {
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"tcp:" + port, "tcp::" + port, "tcp:" + listener.Addr().String()} {
		if err := once(t, text); err != nil {
			t.Errorf("%s = %v while the port accepts", text, err)
		}
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := once(t, "tcp:"+port); err == nil || err.Error() != "connection refused" {
		t.Errorf("tcp:%s = %v on a closed port, want connection refused", port, err)
	}
}

func TestHTTPCheckUsesTheStatusAsHAProxyDoes(t *testing.T) {
	var connections atomic.Int64
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/200":
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<20)) // the client may close the connection
		case "/302":
			http.Redirect(w, r, "/500", http.StatusFound)
		case "/404":
			http.NotFound(w, r)
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	service.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	service.Start()
	defer service.Close()
	for path, want := range map[string]string{"/200": "", "/302": "", "/404": "status 404", "/500": "status 500"} {
		for _, prefix := range []string{"", "http:"} {
			got := ""
			if err := once(t, prefix+service.URL+path); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%s = %q, want %q", path, got, want)
			}
		}
	}
	c := parseCheck(t, service.URL+"/200")
	before := connections.Load()
	for range 3 {
		if err := c.once(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := connections.Load() - before; got != 3 {
		t.Errorf("3 checks made %d connections, want a new one each time", got)
	}
	service.Close()
	if err := c.once(t.Context()); err == nil || err.Error() != "connection refused" {
		t.Errorf("check of a dead service = %v, want connection refused", err)
	}
}

func TestExecCheckSucceedsWhenItsCommandExitsWithZero(t *testing.T) {
	for text, want := range map[string]string{
		"exec:true":           "",
		"exec:sh -c 'exit 3'": "exit status 3",
		"exec:sh -c 'echo one; echo \"disk full\" >&2; false'": "exit status 1: disk full",
		"exec:sh -c 'kill -9 $$'":                              "signal: killed",
		"exec:/no/such/command":                                "/no/such/command: no such file or directory",
		"exec:sh -c 'sleep 1000 & exit 0'":                     "", // its child keeps the output open
	} {
		got := ""
		if err := once(t, text); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s = %q, want %q", text, got, want)
		}
	}
}

func TestExecCheckLeavesNoProcesses(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout time.Duration
		then    string // what the command does after it started a grandchild
	}{
		"at its timeout":         {500 * time.Millisecond, "wait"},
		"when the watch ends":    {time.Hour, "wait"},
		"when the command exits": {time.Hour, "exit 0"},
	} {
		t.Run(name, func(t *testing.T) {
			held := filepath.Join(t.TempDir(), "held") // open for writing as long as the grandchild lives
			if err := syscall.Mkfifo(held, 0o600); err != nil {
				t.Fatal(err)
			}
			c := parseCheck(t, "exec:sh -c 'exec 3>"+held+"; (sleep 1000; true) & exec 3>&-; "+tt.then+"'")
			c.Timeout, c.Interval = tt.timeout, time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			watched := make(chan error, 1)
			go func() { watched <- c.Watch(ctx, func(bool, string) {}, func(string) {}) }()
			reader, err := os.Open(held) // returns when the command has opened it
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			if name == "when the watch ends" {
				cancel()
			}
			if err := reader.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := reader.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the grandchild still runs: reading from it = %v, want %v", err, io.EOF)
			}
			cancel()
			if err := <-watched; err != nil {
				t.Errorf("Watch = %v", err)
			}
		})
	}
}

func TestParseCheckErrorsNameTheRemedy(t *testing.T) {
	for text, want := range map[string]string{
		"":                   `check "": want tcp:PORT`,
		"8080":               "want tcp:PORT",
		"tcp:":               `port "": want a number from 1 to 65535`,
		"tcp:0":              "want a number from 1 to 65535",
		"tcp:http":           "want a number from 1 to 65535",
		"tcp:a:b:1":          "too many colons",
		"tcp:[::1]:65536":    "want a number from 1 to 65535",
		"http:8080":          "want a URL such as http://localhost:8080/healthz",
		"http:///healthz":    "want a URL",
		"http:ftp://a/":      "want a URL",
		"exec:":              "want a command",
		"exec:sh -c 'exit 0": "Unterminated single-quoted string",
		`exec:true \`:        "Unterminated backslash-escape",
	} {
		if _, err := ParseCheck(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseCheck(%q) = %v, want an error with %s", text, err, want)
		}
	}
	for _, text := range []string{"tcp:80", "tcp:[::1]:80", "tcp:web1:80", "https://web1/", "http:https://web1/",
		"exec:true"} {
		if c := parseCheck(t, text); c.String() != text || c.Interval != time.Second || c.Timeout != time.Second ||
			c.Rise != 1 || c.Fall != 3 {
			t.Errorf("ParseCheck(%q) = %+v, want the defaults", text, c)
		}
	}
}

func TestTailKeepsTheEndOfALongOutput(t *testing.T) {
	var tail tail
	for i := range 10_000 {
		fmt.Fprintf(&tail, "line %d\n", i)
	}
	fmt.Fprint(&tail, strings.Repeat("x", 10*maxTail))
	want := fmt.Sprintf("(%d bytes left out) …%s", 9*maxTail, strings.Repeat("x", maxTail))
	if got := tail.lastLine(); got != want {
		t.Errorf("last line = %q, want %q", got, want)
	}
	fmt.Fprint(&tail, "\nthe end\n\n")
	if got := tail.lastLine(); got != "the end" || cap(tail.kept) > 4*maxTail {
		t.Errorf("last line = %q of %d bytes kept", got, cap(tail.kept))
	}
}

func FuzzParseCheck(f *testing.F) {
	for _, text := range []string{"tcp:8080", "tcp:[::1]:80", "http://a/", `exec:a 'b' "c\"" d\`, "exec:'"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseCheck(text); err == nil && c.probe == nil {
			t.Errorf("ParseCheck(%q) has no probe", text)
		}
	})
}

func parseCheck(t *testing.T, text string) Check {
	t.Helper()
	c, err := ParseCheck(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// once runs a check once, with more time than it needs.
func once(t *testing.T, text string) error {
	t.Helper()
	c := parseCheck(t, text)
	c.Timeout = 20 * time.Second
	return c.once(t.Context())
}

func TestOnlyATCPCheckNamesThePortOfTheService(t *testing.T) {
	for text, want := range map[string]string{
		"tcp:80": "80", "tcp:0080": "80", "tcp:[::1]:81": "81", "tcp:web1:82": "82", "tcp::83": "83",
		"http://web1:8080/healthz": "", "exec:nc -z web1 80": "",
	} {
		if got := parseCheck(t, text).Port(); got != want {
			t.Errorf("the port of %s is %q, want %q", text, got, want)
		}
	}
}

func TestReasonOfALongCheckIsCutAndKeepsItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := parseCheck(t, "exec:false "+strings.Repeat("x", 4000))
		check.Fall = 1
		check.probe = func(context.Context) error { return errors.New("the \x1b[31mcause") }
		n := startNode(t, func(a *Announcer) { a.SetChecking("\n" + strings.Repeat("ä", 4000)) })
		synctest.Wait()
		first := n.beats(t)[0].beat(t).NotReady
		ctx, stop := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer stop()
		if err := check.Watch(ctx, n.SetReady, n.SetChecking); err != nil {
			t.Fatal(err)
		}
		beats := n.beats(t)
		last := beats[len(beats)-1].beat(t).NotReady
		if len(first) > maxReason || !strings.HasSuffix(first, "more bytes)") {
			t.Errorf("the reason has %d bytes: %s", len(first), first)
		}
		if want := " more bytes): the  [31mcause"; len(last) > maxReason || !strings.HasSuffix(last, want) {
			t.Errorf("the reason has %d bytes, want at most %d, and its end to be %q: %s", len(last), maxReason, want, last)
		}
	})
}
