package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// ListenUnix listens on a unix socket that only this user and root can use. It replaces one that does not answer.
func ListenUnix(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another controller listens there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	ln, err := (&net.ListenConfig{Control: onlyOwner}).Listen(context.Background(), "unix", path)
	if err != nil && len(path) > 107 {
		err = errors.New("the path is too long for a socket: choose a shorter state_dir")
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return ln, nil
}

// onlyOwner sets the mode of a socket before it is bound. Linux makes the file with it, so others can never connect.
func onlyOwner(_, _ string, conn syscall.RawConn) (err error) {
	failed := conn.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) })
	return errors.Join(failed, err)
}
