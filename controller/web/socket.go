package web

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ListenUnix listens on a unix socket at path that only this user and root can use. A socket that nobody answers on is replaced.
func ListenUnix(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another controller answers there", path)
	}
	// Made in a directory that nobody else can enter, and moved when its mode is set: there is no moment at which others could connect.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".api")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		if len(made) > 107 {
			err = fmt.Errorf("the path is too long for a socket, choose a shorter state_dir: %w", err)
		}
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	ln.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &socket{UnixListener: ln, path: path}, nil
}

type socket struct {
	*net.UnixListener
	path   string
	remove sync.Once
}

// Addr is where it can be reached, not where it was made.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close removes the socket's file first: once it is closed the file may be a successor's.
func (s *socket) Close() error {
	s.remove.Do(func() { os.Remove(s.path) })
	return s.UnixListener.Close()
}
