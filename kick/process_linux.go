package kick

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// process identifies a process. Its pid alone does not: the kernel uses pids again.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
	Boot  string `json:"boot,omitempty"`

	name    string
	parent  int
	group   int
	session int
	ended   bool // a zombie
}

func readProcess(pid int) (process, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return process{}, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return process{}, err
	}
	return process{
		Pid: pid, Start: stat.Starttime, name: stat.Comm, parent: stat.PPID, group: stat.PGRP,
		session: stat.Session, ended: stat.State == "Z" || stat.State == "X",
	}, nil
}

// processes returns every process of the machine, by its pid.
func processes() map[int]process {
	all := map[int]process{}
	procs, _ := procfs.AllProcs() // none without /proc, and then no shim has started
	for _, proc := range procs {
		if p, err := readProcess(proc.PID); err == nil { // fails if it has just ended
			all[p.Pid] = p
		}
	}
	return all
}

// descendants returns the processes that descend from a process and have not ended, without that process.
func descendants(pid int) []process {
	all := processes()
	family := map[int]bool{pid: true}
	addChildren(family, all)
	delete(family, pid)
	return alivePids(family, all)
}

// addChildren adds the children of a family, their children, and so on.
func addChildren(family map[int]bool, all map[int]process) {
	for size := 0; size < len(family); {
		size = len(family)
		for _, p := range all {
			if family[p.parent] {
				family[p.Pid] = true
			}
		}
	}
}

// alivePids returns the processes of a family that have not ended, by their pids.
func alivePids(family map[int]bool, all map[int]process) []process {
	var alive []process
	for _, pid := range slices.Sorted(maps.Keys(family)) {
		if p := all[pid]; p.Pid == pid && !p.ended {
			alive = append(alive, p)
		}
	}
	return alive
}

// signal sends a signal to the process, and to no other one that has its pid by now.
func (p process) signal(sig syscall.Signal) error {
	handle, err := os.FindProcess(p.Pid) // a handle of the process itself, where the kernel has them
	if err != nil {
		return err
	}
	defer handle.Release()
	if now, err := readProcess(p.Pid); err != nil || now.Start != p.Start {
		return os.ErrProcessDone
	}
	return handle.Signal(sig)
}

// String names the process for people: "sleep (pid 123)".
func (p process) String() string { return fmt.Sprintf("%s (pid %d)", printable(p.name), p.Pid) }

// remains returns what a dead shim left running. Nothing else is the parent of these processes by now, so they are
// found by what they were born with, and so are their descendants:
//   - command, whatever it made of its environment;
//   - a process whose environment names the members file of the run. No other run has this file;
//   - a process of the session that the shim led. That is certain if the shim's zombie still has the pid, or if a
//     process of the session was found already: the kernel does not use the pid again as long as the session exists.
func (l Launch) remains(shim, command process) []process {
	all := processes()
	candidate := func(p process) bool {
		return p.Start >= shim.Start && !p.ended && p.Pid != shim.Pid && p.Pid != os.Getpid()
	}
	found := map[int]bool{}
	isSession := all[shim.Pid].Start == shim.Start
	for _, p := range all {
		isCommand := p.Pid == command.Pid && p.Start == command.Start
		if candidate(p) && (isCommand || l.marks(p)) {
			found[p.Pid] = true
			isSession = isSession || p.session == shim.Pid
		}
	}
	for _, p := range all {
		if isSession && candidate(p) && p.session == shim.Pid {
			found[p.Pid] = true
		}
	}
	addChildren(found, all)
	delete(found, os.Getpid())
	return alivePids(found, all)
}

// mark is in the environment of every process of a run, unless a process removes it.
func (l Launch) mark() string { return "KICKER_MEMBERS_FILE=" + l.membersFile() }

func (l Launch) marks(p process) bool {
	proc, err := procfs.NewProc(p.Pid)
	if err != nil {
		return false
	}
	env, _ := proc.Environ() // fails for another user's process
	return slices.Contains(env, l.mark())
}

// killRemains kills what a dead shim left running.
func (l Launch) killRemains(shim, command process) {
	// A process that forks during one round leaves its child to the next.
	for range 100 {
		rest := l.remains(shim, command)
		if len(rest) == 0 {
			return
		}
		for _, p := range rest {
			p.signal(unix.SIGKILL) // fails if it has just ended
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// family is the processes of a run, as its shim sees them: the command and all that descend from it. The shim is a
// subreaper, so it becomes the parent of each one whose parent ends, whatever session that one is in.
type family struct {
	shim    int // its pid
	command int // its pid
	status  *unix.WaitStatus
	exits   chan os.Signal // SIGCHLD
}

// reap takes the status of the processes that have ended, and reports whether none is left. A process without a parent
// in the family is a child of the shim, so no child means no descendant.
func (f *family) reap() bool {
	for range 1000 { // then it is the turn of the deadline, however fast processes end
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // there is no child
			return true
		case pid == 0:
			return false
		case pid == f.command:
			f.status = &status
		}
	}
	select {
	case f.exits <- unix.SIGCHLD:
	default: // there is one already
	}
	return false
}

// signal sends a signal to each process, and returns an error if one was not to be had. Each gets it once: a second one
// means something else to many programs.
func (f *family) signal(sig syscall.Signal) error {
	inGroup := f.status == nil // as long as the command is not reaped, its group is no other one
	if inGroup {
		unix.Kill(-f.command, sig) // all at the same instant; fails if they have just ended
	}
	var failed error
	for _, p := range descendants(f.shim) {
		if inGroup && p.group == f.command && sig != unix.SIGKILL {
			continue
		}
		if err := p.signal(sig); err != nil && err != os.ErrProcessDone {
			failed = cmp.Or(failed, fmt.Errorf("%s: %w", p, err))
		}
	}
	return failed
}
