package web

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
)

// loop publishes views, as a controller does.
type loop struct {
	view atomic.Pointer[api.View]
	next chan struct{}
}

func newLoop() *loop {
	l := &loop{next: make(chan struct{})}
	l.view.Store(&api.View{At: time.Now(), Next: l.next})
	return l
}

// publish publishes a view with n more events, and keeps only the last 100.
func (l *loop) publish(n int, text string) {
	old := l.view.Load()
	v := &api.View{At: time.Now(), Events: append([]api.Event{}, old.Events...)}
	for range n {
		e := api.Event{Seq: newestEvent(v) + 1, Time: time.Now(), Kind: api.EventJoined, Text: text}
		v.Events = append(v.Events, e)
	}
	v.Events = v.Events[max(0, len(v.Events)-100):]
	before := l.next
	l.next = make(chan struct{})
	v.Next = l.next
	l.view.Store(v)
	close(before)
}

// pipes is a listener without a network, for synctest.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// served is a connection to a server that runs until stop, which waits for its end.
func served(t *testing.T, l *loop) (conn net.Conn, stop func()) {
	t.Helper()
	cfg := showing(nil)
	cfg.View = l.view.Load
	ln := make(pipes)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Serve(ctx, ln, Handler(cfg)) }()
	conn, theirs := net.Pipe()
	ln <- theirs
	return conn, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		conn.Close()
	}
}

func follow(t *testing.T, conn net.Conn, query string) *bufio.Reader {
	t.Helper()
	if _, err := io.WriteString(conn, "GET /v1/events?"+query+" HTTP/1.1\r\nHost: kicker\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != http.StatusOK {
		t.Fatalf("follow: %s", r.Status)
	}
	return bufio.NewReader(r.Body)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("follow: %v", err)
	}
	return s
}

func seq(t *testing.T, line string) int64 {
	t.Helper()
	var e api.Event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("follow: %q: %v", line, err)
	}
	return e.Seq
}

func TestFollowersGetEveryEventOnceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop()
		l.publish(3, "before")
		conn, stop := served(t, l)
		defer stop()
		start := time.Now()
		r := follow(t, conn, "since=1&follow=1")
		for want := int64(2); want <= 3; want++ {
			if got := seq(t, line(t, r)); got != want {
				t.Errorf("event %d, want %d", got, want)
			}
		}
		for want := int64(4); want < 40; {
			l.publish(2, "now")
			for range 2 {
				if got := seq(t, line(t, r)); got != want {
					t.Errorf("event %d, want %d", got, want)
				}
				want++
			}
		}
		if late := time.Since(start); late > 0 {
			t.Errorf("the events arrived %s late", late)
		}
	})
}

func TestQuietStreamsHaveBlankLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop()
		conn, stop := served(t, l)
		defer stop()
		start := time.Now()
		r := follow(t, conn, "follow=1")
		for range 10 { // longer than any answer may take
			if got := line(t, r); got != "\n" {
				t.Errorf("%q, want a blank line", got)
			}
		}
		if took := time.Since(start); took != 150*time.Second {
			t.Errorf("10 blank lines in %s, want one every 15 s", took)
		}
	})
}

func TestStreamsEndWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop()
		conn, stop := served(t, l)
		r := follow(t, conn, "follow=1")
		start := time.Now()
		rest := make(chan error, 1)
		go func() {
			_, err := r.ReadByte()
			rest <- err
		}()
		stop()
		if err := <-rest; err != io.EOF {
			t.Errorf("the stream's end: %v, want EOF", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("the server took %s to stop", took)
		}
	})
}

func TestReadersThatTakeNothingAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop()
		conn, stop := served(t, l)
		defer stop()
		r := follow(t, conn, "follow=1")
		start := time.Now()
		for range 50 { // publish would hang if the reader could delay the loop
			l.publish(1, strings.Repeat("x", 4096))
		}
		time.Sleep(time.Minute) // virtual: the reader sleeps, the stream ends
		if took := time.Since(start); took != time.Minute {
			t.Errorf("publishing 50 events took %s", took-time.Minute)
		}
		if _, err := io.Copy(io.Discard, r); err == nil {
			t.Error("the stream ended properly, want it cut off")
		}
	})
}

func TestReadersThatFallBehindGetALastLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop()
		conn, stop := served(t, l)
		defer stop()
		r := follow(t, conn, "follow=1")
		for range 300 { // the handler may have read the first 100, and then the next ones must be lost
			l.publish(1, strings.Repeat("x", 4096))
		}
		want, last := int64(1), ""
		for {
			last = line(t, r)
			if strings.HasPrefix(last, `{"error"`) {
				break
			}
			if got := seq(t, last); got != want {
				t.Fatalf("event %d, want %d: one is missing", got, want)
			}
			want++
		}
		if !strings.Contains(last, "too slow") || want > 101 {
			t.Errorf("after event %d: %s", want-1, last)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("after the last line: %v, want EOF", err)
		}
	})
}
