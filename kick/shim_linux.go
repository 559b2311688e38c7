package kick

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
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
	if err := reserveEnding(l); err != nil {
		return nil, err
	}
	output, err := os.OpenFile(l.outputFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) // it may show secrets
	if err != nil {
		return nil, err
	}
	defer output.Close()
	shim := exec.Command(exe, append(args[:len(args):len(args)], l.runDir())...)
	shim.Stderr = output // of the shim itself, if it fails
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
		defer shim.Wait() // at the end, because its zombie keeps its pid; how it ended is in the file, or unknown
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
	var shim, command process
	switch {
	case readFile(l.shimFile(), &shim) != nil:
		return "the agent or the machine stopped while the run was starting"
	case shim.Boot != l.Boot:
		return "the machine rebooted before the command ended"
	}
	readFile(l.commandFile(), &command) // fails if the shim died before it could write it
	l.killRemains(shim, command)
	return "the process that watches the command (its shim) died; what was left of the command was killed"
}

// endingRoom is more than any ending takes.
const endingRoom = 64 << 10

// reserveEnding takes the room for the ending on the disk. A disk that is full when the run ends does not lose it.
func reserveEnding(l Launch) error {
	return os.WriteFile(l.reserveFile(), bytes.Repeat([]byte{' '}, endingRoom), 0o600)
}

// writeEnding returns when the ending is on disk under its name.
func writeEnding(l Launch, e Ending) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	f, err := os.OpenFile(l.reserveFile(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data) // over the blanks, whose place on the disk it takes
	err = cmp.Or(err, f.Truncate(int64(len(data))), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(l.reserveFile(), l.endingFile())
	}
	if err == nil {
		err = syncDir(l.runDir())
	}
	return err
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
	ending, err := watch(l)
	if err != nil {
		ending = Ending{Exit: -1, Error: "could not start the run: " + err.Error()}
	}
	return writeEnding(l, ending)
}

// watch runs the command of a run, and returns when it and everything that it left behind have ended.
func watch(l Launch) (Ending, error) {
	self, err := readProcess(os.Getpid())
	if err != nil {
		return Ending{}, err
	}
	self.Boot = l.Boot
	// Before the command starts: whenever the shim dies, the agent knows what to kill.
	if err := writeFile(l.shimFile(), self, 0o644); err != nil {
		return Ending{}, err
	}
	f := &family{shim: self.Pid, exits: make(chan os.Signal, 1)}
	signal.Notify(f.exits, syscall.SIGCHLD)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return Ending{}, fmt.Errorf("become a subreaper: %w", err)
	}
	out, err := openOutput(l)
	if err != nil {
		return Ending{}, err
	}
	began := time.Now()
	ending, err := f.run(l, out)
	if err != nil {
		ending = Ending{Exit: -1, Error: bounded("could not start "+err.Error(), maxText)}
	}
	ending.Duration = time.Since(began).Milliseconds()
	ending.Output = out.finish()
	return ending, nil
}

const (
	killTime  = 3 * time.Second // for which the shim kills what does not end; within slack
	killPause = 10 * time.Millisecond
)

// run starts the command and waits until no process of the family is left. At the deadline all receive TERM, and after
// the grace KILL until none is left. A process that cannot be killed, for example another user's, is given up.
func (f *family) run(l Launch, out *output) (Ending, error) {
	cmd := exec.Command(l.Command[0], l.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), "PWD=/"), append(l.Env, l.mark())...)
	cmd.Stdout, cmd.Stderr = out.pipe, out.pipe
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := startProcess(cmd)
	out.pipe.Close() // or the pipe would not end with the last of its writers
	if err != nil {
		return Ending{}, err
	}
	f.command = cmd.Process.Pid // reap takes its status, not cmd.Wait
	if command, err := readProcess(f.command); err == nil {
		writeFile(l.commandFile(), command, 0o644) // without it, the command is still found by what it was born with
	}

	var (
		left     []process // behind, when the command ended
		exited   bool      // the command has, before the deadline
		failed   error     // the last signal
		deadline = time.After(l.Timeout)
		killing  <-chan time.Time // nil until the deadline
		giveUp   <-chan time.Time // nil until the end of the grace
	)
	for !f.reap() {
		if f.status != nil && !exited && killing == nil {
			exited, left = true, descendants(f.shim)
		}
		select {
		case <-f.exits:
		case <-deadline:
			if f.reap() {
				continue
			}
			if now := descendants(f.shim); exited && len(now) > 0 {
				left = now // those that it began with may have ended
			}
			f.signal(unix.SIGTERM)
			killing = time.After(l.Grace)
		case <-killing:
			failed = f.signal(unix.SIGKILL)
			killing = time.After(killPause)
			if giveUp == nil {
				giveUp = time.After(killTime)
			}
		case <-giveUp:
			return f.ending(l, left, true, cmp.Or(failed, errors.New("they do not end"))), nil
		}
	}
	return f.ending(l, left, killing != nil, nil), nil
}

// ending says how the run ended. left is what the command left behind when it ended by itself. alive is why processes
// are still there.
func (f *family) ending(l Launch, left []process, timedOut bool, alive error) Ending {
	e := Ending{Exit: -1, TimedOut: timedOut, LeftBehind: names(left)}
	how := ""
	switch {
	case f.status == nil:
	case f.status.Signaled():
		e.Signal = unix.SignalName(f.status.Signal())
		how = "the command received " + e.Signal
		e.Error = how
	default:
		e.Exit = f.status.ExitStatus()
		how = fmt.Sprintf("the command ended with exit code %d", e.Exit)
	}
	if timedOut {
		e.Error = fmt.Sprintf("still running after %s, stopped at its deadline", short(l.Timeout))
		if len(left) > 0 {
			were := "which was"
			if len(left) > 1 {
				were = "which were"
			}
			e.Error = fmt.Sprintf("%s, and left %s running, %s stopped at the deadline",
				how, strings.Join(e.LeftBehind, ", "), were)
		}
	}
	if alive != nil {
		e.Error += fmt.Sprintf("; could not kill %s: %s", strings.Join(names(descendants(f.shim)), ", "), alive)
	}
	e.Error = bounded(e.Error, maxText)
	return e
}

func names(list []process) []string {
	var all []string
	for i, p := range list {
		if i == maxLeftBehind {
			return append(all, fmt.Sprintf("and %d more", len(list)-i))
		}
		all = append(all, p.String())
	}
	return all
}

// startProcess starts a process. The error names the program and the cause, without the words of os/exec.
func startProcess(cmd *exec.Cmd) error {
	err := cmd.Start()
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if interpreter := missingInterpreter(cmd.Path); interpreter != "" {
			return fmt.Errorf("%s: its first line names %q, and there is no such program", cmd.Args[0], interpreter)
		}
	}
	return fmt.Errorf("%s: %w", cmd.Args[0], cmp.Or(errors.Unwrap(err), err))
}

// missingInterpreter returns the interpreter that a script names and that is not there, or "". With line ends of
// Windows its name ends in \r.
func missingInterpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	start := make([]byte, 256)
	n, _ := f.Read(start)
	line, _, _ := strings.Cut(string(start[:n]), "\n")
	rest, isScript := strings.CutPrefix(line, "#!")
	program, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), " ")
	if _, err := os.Stat(program); !isScript || !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return program
}
