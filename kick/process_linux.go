package kick

import (
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// process identifies a process. Its pid alone does not: the kernel uses pids again.
type process struct {
	Pid     int    `json:"pid"`
	Start   uint64 `json:"start"` // clock ticks after boot
	Boot    string `json:"boot"`
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
	ended := stat.State == "Z" || stat.State == "X"
	return process{Pid: pid, Start: stat.Starttime, session: stat.Session, ended: ended}, nil
}

// killSession kills every process of the session that leader began, except leader itself. That is the command and all
// it started, in whatever process group, but no daemon that began a session of its own.
func killSession(leader process) {
	if now, err := readProcess(leader.Pid); err == nil && now.Start != leader.Start {
		return // another process has this pid now
	}
	// A process that forks during one round leaves its child to the next.
	for range 100 {
		procs, _ := procfs.AllProcs()
		found := false
		for _, proc := range procs {
			p, err := readProcess(proc.PID)
			if err == nil && p.Pid != leader.Pid && p.session == leader.Pid && p.Start >= leader.Start && !p.ended {
				unix.Kill(p.Pid, unix.SIGKILL) // fails if it has just ended
				found = true
			}
		}
		if !found {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
