package kick

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process identifies a process: a pid alone may be another's by now.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
	Boot  string `json:"boot"`

	session int
	over    bool // a zombie
}

// readProcess reads /proc/PID/stat, see proc_pid_stat(5).
func readProcess(pid int) (process, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, err
	}
	return parseStat(pid, string(data))
}

func parseStat(pid int, stat string) (process, error) {
	// The second field is the command's name in parentheses, and may itself contain some.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return process{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	session, err := strconv.Atoi(fields[6-3])
	start, err2 := strconv.ParseUint(fields[22-3], 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return process{Pid: pid, Start: start, session: session, over: fields[0] == "Z" || fields[0] == "X"}, nil
}

// killSession kills all processes of the session that leader began, except leader itself: the command, its group, and what it moved
// into groups of their own, but no daemon that began a session.
func killSession(leader process) {
	if now, err := readProcess(leader.Pid); err == nil && now.Start != leader.Start {
		return // the number is another's
	}
	// A process that forks while it is looked for leaves a child to the next round.
	for range 100 {
		members := sessionMembers(leader)
		if len(members) == 0 {
			return
		}
		for _, p := range members {
			unix.Kill(p.Pid, unix.SIGKILL) // it may have ended at this moment
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func sessionMembers(leader process) []process {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var members []process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == leader.Pid {
			continue
		}
		p, err := readProcess(pid)
		if err == nil && p.session == leader.Pid && p.Start >= leader.Start && !p.over {
			members = append(members, p)
		}
	}
	return members
}
