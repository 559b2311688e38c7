package demo

import (
	"fmt"
	"os"
	"syscall"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the parent of orphans below it, and says how to start processes that die with the
// thread that calls it. Each has a process group of its own: Ctrl-C is for the demo, which then ends the others.
func adoptOrphans() (*syscall.SysProcAttr, error) {
	family := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the parent of orphans: %w", err)
	}
	// `go run` dies of a SIGTERM and does not pass it on. A parent may be in another container.
	if parent, err := procfs.NewProc(os.Getppid()); err == nil {
		if name, err := parent.Comm(); err == nil && name == "go" {
			return family, unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
		}
	}
	return family, nil
}
