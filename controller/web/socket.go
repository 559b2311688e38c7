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

// ListenUnix listens on a unix socket at path that only this user and root can use. It replaces a socket that does not
// answer.
func ListenUnix(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another controller listens there", path)
	}
	// It is made in a directory that no other user can enter, and moved when its mode is set: others can never connect.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".api")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		if len(made) > 107 {
			err = errors.New("the path is too long for a socket: choose a shorter state_dir")
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

// Addr is the path at which clients connect, not the one where the socket was made.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close removes the socket's file first: after that a successor may make its own.
func (s *socket) Close() error {
	s.remove.Do(func() { os.Remove(s.path) })
	return s.UnixListener.Close()
}
