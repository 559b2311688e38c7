package web

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	ln, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := ln.Addr().String(); got != path {
		t.Errorf("the address is %s, want %s", got, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode %o, want 600", got)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside the socket: %v, %v", entries, err)
	}
}

func TestSocketAnswersUntilItIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	ln, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Serve(ctx, ln, Handler(showing(cluster(t)))) }()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	r, err := client.Get("http://kicker/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("status over the socket: %s", r.Status)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket still exists: %v", err)
	}
}

func TestOnlyADeadSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	live, err := ListenUnix(path)
	if err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	if second, err := ListenUnix(path); err == nil {
		second.Close()
		t.Error("a second listener took the socket of a live one")
	}
	live.Close()
	successor, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	live.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("closing twice removed the successor's socket: %v", err)
	}
}

func TestSocketErrorSaysWhereAndWhy(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, strings.Repeat("d", 100))
	if err := os.Mkdir(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(deep, "api.sock"):            "choose a shorter state_dir",
		filepath.Join(dir, "missing", "api.sock"):  "no such file or directory",
		filepath.Join(dir, "a\x00b", "api.sock"):   "invalid argument",
		filepath.Join("/proc/self", "kicker.sock"): "",
	} {
		ln, err := ListenUnix(path)
		if err == nil {
			ln.Close()
			t.Errorf("%q: a socket was made", path)
			continue
		}
		text, tooLong := err.Error(), strings.Contains(err.Error(), "shorter")
		if !strings.HasPrefix(text, "listen on "+path) || !strings.Contains(text, want) ||
			tooLong != strings.Contains(want, "shorter") {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
	if left, err := os.ReadDir(deep); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
