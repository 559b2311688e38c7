package kick

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Shim returns an Execute that runs each command under a shim: a process that starts exe with args and the run's
// directory, and does nothing but ShimMain. The shim outlives the agent; the next agent adopts its run.
//
// All runs of a node share one lock. The agent takes it, and the shim inherits it, so the lock is held as long as a run
// is starting or in progress. If the lock is free and there is no ending, the shim has died.
func Shim(exe string, args ...string) Execute {
	return func(ctx context.Context, l Launch) (Ending, error) {
		var shim *exec.Cmd
		if !l.Adopt {
			var err error
			if shim, err = startShim(l, exe, args); err != nil {
				return Ending{Exit: -1, Error: "could not start the run: " + err.Error()}, nil
			}
		}
		return await(ctx, l, shim)
	}
}

func startShim(l Launch, exe string, args []string) (*exec.Cmd, error) {
	// No flock.Flock: it does not give away its file, and its Unlock would release the lock of the shim, too.
	lock, err := os.OpenFile(l.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil, fmt.Errorf("another run holds %s", l.lockFile())
	}
	if err := writeFile(filepath.Join(l.runDir(), launchName), l, 0o600); err != nil { // the environment may hold secrets
		return nil, err
	}
	// To append, so that writing goes on at the end after the file was cut.
	output, err := os.OpenFile(l.outputFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) // it may show secrets
	if err != nil {
		return nil, err
	}
	defer output.Close()
	shim := exec.Command(exe, append(args[:len(args):len(args)], l.runDir())...)
	shim.Stderr = output // of the command, and of the shim itself if it fails
	shim.ExtraFiles = []*os.File{lock}
	shim.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return shim, startProcess(shim)
}

// lockPatiently takes the lock of a file as soon as it is free. Its pauses grow, so that the end of a short run is
// noticed soon and waiting for a long one costs nothing. It waits for the file that it opened: package flock opens the
// path again at each try, and a file that was removed meanwhile would look free.
func lockPatiently(ctx context.Context, path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for pause := 2 * time.Millisecond; ; pause = min(pause*3/2, 100*time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			err = nil
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(pause):
		}
		if err != nil {
			lock.Close()
			return nil, err
		}
	}
}

// await waits until the lock is free, which is the end of the shim, whether it is a child of this agent or adopted.
func await(ctx context.Context, l Launch, shim *exec.Cmd) (Ending, error) {
	lock, err := lockPatiently(ctx, l.lockFile())
	if err != nil {
		return Ending{}, err
	}
	// After what a dead shim left is killed. A child that this agent forks now may have a copy: closing is not enough.
	defer func() { unix.Flock(int(lock.Fd()), unix.LOCK_UN); lock.Close() }()
	if shim != nil {
		shim.Wait() // how it ended is in the file, or unknown
	}
	var e Ending
	if err = readFile(l.endingFile(), &e); err == nil {
		return e, nil
	}
	e = Ending{Exit: -1, Lost: true, Error: l.killRest(), Output: tail(l)}
	if !errors.Is(err, fs.ErrNotExist) {
		e.Error = "cannot read how the run ended: " + err.Error()
	}
	return e, nil
}

// killRest kills what a dead shim left running, and returns why the run is lost.
func (l Launch) killRest() string {
	var shim process
	switch {
	case readFile(l.shimFile(), &shim) != nil:
		return "the agent or the machine stopped while the run was starting"
	case shim.Boot != l.Boot:
		return "the machine rebooted before the command ended"
	}
	killSession(shim)
	return "the process that watches the command (its shim) died; what was left of the command was killed"
}

// lockFD is where the shim inherits the lock.
const lockFD = 3

// ShimMain is the whole program of a shim. It writes how the run ended to a file, and returns the exit code.
func ShimMain(runDir string) int {
	if err := shim(runDir); err != nil {
		fmt.Fprintf(os.Stderr, "kicker shim: %v\n", err)
		return 1
	}
	return 0
}

func shim(runDir string) error {
	syscall.CloseOnExec(lockFD) // or a daemon that the command leaves behind would hold the lock forever
	if unix.Flock(lockFD, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return errors.New("only an agent can start a shim: the lock of the run is missing")
	}
	// Caught, not ignored: the command would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	var l Launch
	if err := readFile(filepath.Join(runDir, launchName), &l); err != nil {
		return fmt.Errorf("cannot read %s: %w", launchName, err)
	}
	self, err := readProcess(os.Getpid())
	if err != nil {
		return err
	}
	self.Boot = l.Boot
	// Before the command starts: whenever the shim dies, the agent knows what to kill.
	if err := writeFile(l.shimFile(), self, 0o644); err != nil {
		return err
	}
	ending := runCommand(l, self)
	ending.Output = tail(l)
	return replaceFile(l.endingFile(), ending, 0o600)
}

// runCommand runs the command to its end. The command writes to the file itself, not to a pipe of the shim: a daemon
// that it leaves behind neither delays the end nor dies of a broken pipe.
func runCommand(l Launch, self process) Ending {
	began := time.Now()
	cmd := exec.Command(l.Command[0], l.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), "PWD=/"), l.Env...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // the output file, see startShim
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := startProcess(cmd); err != nil {
		return Ending{Exit: -1, Error: "could not start " + err.Error()}
	}
	waited := make(chan struct{})
	go func() {
		cmd.Wait() // how it ended is in cmd.ProcessState
		close(waited)
	}()

	deadline, outputCheck := time.After(l.Timeout), time.Tick(200*time.Millisecond)
	var graceOver <-chan time.Time // nil until the deadline
	for {
		select {
		case <-deadline:
			unix.Kill(-cmd.Process.Pid, unix.SIGTERM) // fails if the command has just ended
			graceOver = time.After(l.Grace)
		case <-graceOver:
			killSession(self)
		case <-outputCheck:
			boundOutput(l)
		case <-waited:
			took, timedOut := time.Since(began).Milliseconds(), graceOver != nil
			e := Ending{Exit: cmd.ProcessState.ExitCode(), TimedOut: timedOut, Duration: took}
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
				e.Signal = unix.SignalName(status.Signal())
				e.Error = "the command received " + e.Signal
			}
			if timedOut {
				killSession(self)
				e.Error = fmt.Sprintf("still running after %s, stopped at its deadline", short(l.Timeout))
			}
			boundOutput(l)
			return e
		}
	}
}

// startProcess starts a process. The error names the program and the cause, without the words of os/exec.
func startProcess(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", cmd.Args[0], cmp.Or(errors.Unwrap(err), err))
	}
	return nil
}
