package kick

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Execute starts a run, or adopts it, and waits for its end. If ctx ends first it returns ctx's error and the run goes on.
// A run that could not be started has an Ending that says so.
type Execute func(ctx context.Context, l Launch) (Ending, error)

// Launch is what a run is started with.
type Launch struct {
	Dir     string        `json:"dir"` // the node's
	Run     string        `json:"run"`
	Action  string        `json:"action"`
	Boot    string        `json:"boot"` // the present one
	Command []string      `json:"command"`
	Env     []string      `json:"env"` // beside the agent's own
	Timeout time.Duration `json:"timeout_ns"`
	Grace   time.Duration `json:"grace_ns"`
	// Adopt is set for a run that a former agent started, or was about to. Only Dir, Run, Action and Boot are known of it.
	Adopt bool `json:"-"`
}

func (l Launch) runDir() string      { return filepath.Join(l.Dir, "runs", l.Run) }
func (l Launch) membersFile() string { return filepath.Join(l.runDir(), "members.json") }
func (l Launch) lockFile() string    { return filepath.Join(l.Dir, "run.lock") }

// Files in a run's directory.
const (
	launchFile = "launch.json" // 0600: the environment may hold secrets
	shimFile   = "shim.json"
	endingFile = "ending.json"
	outputFile = "output"
)

// Shim executes runs in processes of their own, which start exe with args and the run's directory; such a process does nothing
// but ShimMain. The shim outlives the agent: what an agent that was killed has started, the next one adopts.
//
// There is one lock for all runs of a node. It is taken here and inherited by the shim, so that at no moment a run is on its
// way or in progress and the lock is free. A free lock without an ending is a shim that died.
func Shim(exe string, args ...string) Execute {
	return func(ctx context.Context, l Launch) (Ending, error) {
		if l.Adopt {
			return await(ctx, l, nil)
		}
		shim, err := startShim(ctx, l, exe, args)
		if ctx.Err() != nil && shim == nil {
			return Ending{}, ctx.Err()
		}
		if err != nil {
			return Ending{Exit: -1, Error: fmt.Sprintf("start the run's shim: %v", err)}, nil
		}
		return await(ctx, l, shim)
	}
}

func startShim(ctx context.Context, l Launch, exe string, args []string) (*exec.Cmd, error) {
	// The run before is over, but a process that the agent forks at this moment may hold a copy of the lock until it execs.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	lock, err := acquire(ctx, l.lockFile())
	if err != nil {
		return nil, fmt.Errorf("another run holds %s: %w", l.lockFile(), err)
	}
	defer lock.Close()

	data, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(l.runDir(), launchFile), data, 0o600); err != nil {
		return nil, err
	}
	output, err := openOutput(l.runDir())
	if err != nil {
		return nil, err
	}
	defer output.Close()
	shim := exec.Command(exe, append(args[:len(args):len(args)], l.runDir())...)
	shim.Stderr = output // what the shim itself has to say belongs to the run
	shim.ExtraFiles = []*os.File{lock}
	shim.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := shim.Start(); err != nil {
		return nil, err
	}
	return shim, nil
}

// await waits until the lock is free: the one sign of the shim's end that works for children and adopted shims alike.
func await(ctx context.Context, l Launch, shim *exec.Cmd) (Ending, error) {
	lock, err := acquire(ctx, l.lockFile())
	if err != nil {
		return Ending{}, err
	}
	defer lock.Close() // after the leftovers of a lost run are dead
	if shim != nil {
		shim.Wait() // how it ended is in the file, or nowhere
	}
	data, err := os.ReadFile(filepath.Join(l.runDir(), endingFile))
	if err == nil {
		var e Ending
		if err = json.Unmarshal(data, &e); err == nil {
			return e, nil
		}
	}
	e := Ending{Exit: -1, Lost: true, Error: "its shim died", Output: tail(l.runDir())}
	if !errors.Is(err, fs.ErrNotExist) {
		e.Error = err.Error()
	}
	killLeftover(l)
	return e, nil
}

// acquire takes a lock that another process holds now, as soon as it is free.
func acquire(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	pause := 2 * time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		pause = min(pause*3/2, 100*time.Millisecond) // short runs are noticed soon, long ones cost nothing
	}
}

// killLeftover kills what a shim that died has left running.
func killLeftover(l Launch) {
	var shim process
	data, err := os.ReadFile(filepath.Join(l.runDir(), shimFile))
	if err != nil || json.Unmarshal(data, &shim) != nil || shim.Boot != l.Boot {
		return // it died before it started anything, or the machine has been booted since
	}
	killSession(shim)
}
