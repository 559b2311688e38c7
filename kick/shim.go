package kick

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a run's output.
const (
	maxOutput  = 8 << 20  // of the file
	keptOutput = 64 << 10 // of it, when it became too large
	tailOutput = 4 << 10  // that travels
)

// lockFD is where a shim inherits the lock.
const lockFD = 3

// ShimMain is all that the process that Shim starts does. It returns the exit code; how the run ended is in a file.
func ShimMain(runDir string) int {
	syscall.CloseOnExec(lockFD) // a daemon that the command leaves behind would hold the lock for ever
	if err := unix.Flock(lockFD, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		fmt.Fprintf(os.Stderr, "kicker's shim is started by the agent only: no lock: %v\n", err)
		return 2
	}
	// Caught and not ignored: the command would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	if err := shim(runDir); err != nil {
		fmt.Fprintf(os.Stderr, "kicker's shim: %v\n", err)
		return 1
	}
	return 0
}

func shim(runDir string) error {
	var l Launch
	data, err := os.ReadFile(filepath.Join(runDir, launchFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("%s: %w", launchFile, err)
	}
	self, err := readProcess(os.Getpid())
	if err != nil {
		return err
	}
	self.Boot = l.Boot
	if data, err = json.Marshal(self); err != nil {
		return err
	}
	// Before the command starts, so that there is no moment at which nobody knows what to kill.
	if err := os.WriteFile(filepath.Join(runDir, shimFile), data, 0o644); err != nil {
		return err
	}
	output, err := openOutput(runDir)
	if err != nil {
		return err
	}
	defer output.Close()

	ending := runCommand(l, self, output)
	ending.Output = tail(runDir)
	if data, err = json.Marshal(ending); err != nil {
		return err
	}
	return replaceFile(filepath.Join(runDir, endingFile), append(data, '\n'), 0o600)
}

// runCommand runs the command to its end. The output is the command's own file and no pipe: a daemon left behind that keeps it open
// neither delays the end nor dies of the shim's.
func runCommand(l Launch, self process, output *os.File) Ending {
	began := time.Now()
	cmd := exec.Command(l.Command[0], l.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), "PWD=/"), l.Env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return Ending{Exit: -1, Error: err.Error()}
	}
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()

	deadline := time.NewTimer(l.Timeout)
	defer deadline.Stop()
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	var (
		patience <-chan time.Time
		timedOut bool
	)
	for {
		select {
		case <-deadline.C:
			timedOut = true
			unix.Kill(-cmd.Process.Pid, unix.SIGTERM) // it may have ended at this moment
			patience = time.After(l.Grace)
		case <-patience:
			killSession(self)
		case <-look.C:
			boundOutput(output)
		case err := <-waited:
			if timedOut {
				killSession(self)
			}
			boundOutput(output)
			e := endingOf(cmd.ProcessState, err)
			e.Duration = time.Since(began).Milliseconds()
			if timedOut {
				e.TimedOut = true
				e.Error = fmt.Sprintf("not over after %v", l.Timeout)
			}
			return e
		}
	}
}

func endingOf(state *os.ProcessState, err error) Ending {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Ending{Exit: -1, Error: err.Error()}
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return Ending{Exit: -1, Signal: unix.SignalName(status.Signal())}
	}
	return Ending{Exit: state.ExitCode()}
}

// openOutput opens the run's output to append, so that what is written goes on at the end when it is cut. 0600: it may show secrets.
func openOutput(runDir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(runDir, outputFile), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
}

// boundOutput cuts an output that became too large to its end. What cannot be cut is left: it must not fail the run.
func boundOutput(f *os.File) {
	info, err := f.Stat()
	if err != nil || info.Size() <= maxOutput {
		return
	}
	kept := make([]byte, keptOutput)
	n, err := f.ReadAt(kept, info.Size()-keptOutput)
	if err != nil || f.Truncate(0) != nil {
		return
	}
	fmt.Fprintf(f, "[kicker: %d bytes of output dropped]\n%s", info.Size()-int64(n), kept[:n])
}
