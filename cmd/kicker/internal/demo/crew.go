package demo

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// crew is the processes of a demo. They and what they start end with it, even if it is killed.
type crew struct {
	dir   string
	ended func(name, how string) (restart func() error) // of a process that the demo did not stop

	starts   chan func() // run on one thread
	quit     chan struct{}
	watching sync.WaitGroup

	mu      sync.Mutex
	members map[string]*process
}

type process struct {
	cmd     *exec.Cmd
	stopped bool          // by the demo
	gone    chan struct{} // closed when it has ended
}

// restartAfter is how long an init system waits.
const restartAfter = 500 * time.Millisecond

func newCrew(dir string, ended func(name, how string) func() error) (*crew, error) {
	c := &crew{
		dir: dir, ended: ended, starts: make(chan func()), quit: make(chan struct{}), members: map[string]*process{},
	}
	ready := make(chan error)
	c.watching.Go(func() {
		// For the kernel a parent dies with the thread that started the child, so this thread stays.
		runtime.LockOSThread()
		ready <- adoptOrphans()
		for {
			select {
			case start := <-c.starts:
				start()
			case <-c.quit:
				return
			}
		}
	})
	if err := <-ready; err != nil {
		close(c.quit)
		c.watching.Wait()
		return nil, err
	}
	return c, nil
}

// start starts a process that logs to log/NAME.log.
func (c *crew) start(name string, argv ...string) error {
	log, err := os.OpenFile(filepath.Join(c.dir, "log", name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), gone: make(chan struct{})}
	p.cmd.Env = environment()
	p.cmd.Dir = c.dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = dieWithParent()
	done := make(chan error, 1)
	select {
	case c.starts <- func() { done <- p.cmd.Start() }:
	case <-c.quit:
		return errors.New("the demo ends")
	}
	if err := <-done; err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	c.mu.Lock()
	c.members[name] = p
	c.mu.Unlock()
	c.watching.Go(func() { c.watch(name, p) })
	return nil
}

// environment is ours without settings of kicker: a process knows only what the demo tells it.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "KICKER_") })
}

func (c *crew) watch(name string, p *process) {
	_ = p.cmd.Wait() // how it ended is in its state
	close(p.gone)
	c.mu.Lock()
	stopped := p.stopped
	c.mu.Unlock()
	if stopped {
		return
	}
	select {
	case <-c.quit:
		return
	default:
	}
	restart := c.ended(name, p.cmd.ProcessState.String())
	if restart == nil {
		return
	}
	select {
	case <-c.quit:
	case <-time.After(restartAfter):
		if err := restart(); err != nil {
			c.ended(name, err.Error())
		}
	}
}

func (c *crew) member(name string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[name]
}

func (c *crew) pid(name string) int { return c.member(name).cmd.Process.Pid }

// kill kills a process, and returns when it is gone.
func (c *crew) kill(name string) error {
	p := c.member(name)
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	<-p.gone
	return nil
}

// stop tells a process to end, and returns when it has ended.
func (c *crew) stop(name string) error {
	p := c.member(name)
	c.mu.Lock()
	p.stopped = true
	c.mu.Unlock()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("stop %s: it still runs 10 s after SIGTERM", name)
	}
}

// end kills everything: the processes, the shims that outlived their agent, and what those run.
func (c *crew) end() error {
	close(c.quit)
	var left []int
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if left = children(os.Getpid()); len(left) == 0 {
			break
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by now
			if !c.knows(pid) {
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // an orphan, which only this process can reap
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("processes %v do not end", left)
	}
	c.watching.Wait()
	return nil
}

func (c *crew) knows(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.members {
		if p.cmd.Process.Pid == pid {
			return true
		}
	}
	return false
}

// children is the processes whose parent is pid, zombies too.
func children(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // fails for a bad pattern only
	var found []int
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PARENT, and a name may itself have parentheses.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			found = append(found, child)
		}
	}
	return found
}
