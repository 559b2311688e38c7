package demo

import (
	"fmt"
	"os"
	"syscall"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the parent of orphans below it. Call it on a thread that stays.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	parent, err := procfs.NewProc(os.Getppid())
	if err != nil {
		return nil // it belongs to another container
	}
	if name, err := parent.Comm(); err != nil || name != "go" {
		return nil
	}
	// `go run` dies of a SIGTERM and does not pass it on.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
}

// dieWithParent makes a process end with the thread that starts it. It has a process group of its own: Ctrl-C is for
// the demo, which then ends the others.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
