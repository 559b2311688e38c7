package demo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// crew is the processes of a demo. They and what they start end with it, even if it is killed.
type crew struct {
	dir      string
	timeline *timeline
	restarts []string // the processes that an init system would restart

	starts   chan *exec.Cmd // for one thread that starts all
	started  chan error
	watching sync.WaitGroup

	over    atomic.Bool // nothing starts any more
	mu      sync.Mutex
	members map[string]*process
}

type process struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
}

func newCrew(dir string, timeline *timeline, restarts ...string) (*crew, error) {
	c := &crew{
		dir: dir, timeline: timeline, restarts: restarts,
		starts: make(chan *exec.Cmd), started: make(chan error), members: map[string]*process{},
	}
	c.watching.Go(func() {
		// For the kernel a parent dies with the thread that started the child, so this thread stays.
		runtime.LockOSThread()
		family, err := adoptOrphans()
		c.started <- err
		for cmd := range c.starts {
			cmd.SysProcAttr = family
			c.started <- cmd.Start()
		}
	})
	if err := <-c.started; err != nil {
		close(c.starts)
		return nil, err
	}
	return c, nil
}

// start starts a process that logs to log/NAME.log, unless the demo is over.
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
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over.Load() {
		return nil
	}
	c.starts <- p.cmd
	if err := <-c.started; err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	c.members[name] = p
	c.watching.Go(func() { c.watch(name, p) })
	return nil
}

// environment is ours without settings of kicker: a process knows only what the demo tells it.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "KICKER_") })
}

// watch waits until a process ends, and restarts it as an init system would.
func (c *crew) watch(name string, p *process) {
	_ = p.cmd.Wait() // how it ended is in its state
	close(p.gone)
	if c.over.Load() {
		return
	}
	c.timeline.line(red, name, "process ended: %s", p.cmd.ProcessState)
	c.timeline.caused(name + " ended")
	if !slices.Contains(c.restarts, name) {
		return
	}
	time.Sleep(500 * time.Millisecond)
	if err := c.start(name, p.cmd.Args...); err != nil {
		c.timeline.line(red, name, "%s", err)
	}
}

func (c *crew) member(name string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[name]
}

// stop sends a process a signal that ends it, and returns when it has ended.
func (c *crew) stop(name string, signal os.Signal) error {
	p := c.member(name)
	if err := p.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("stop %s: it still runs 10 s after the signal: %s", name, signal)
	}
}

// end kills everything: the processes, the shims that outlived their agent, and what those run.
func (c *crew) end() {
	c.mu.Lock()
	c.over.Store(true)
	close(c.starts)
	for _, p := range c.members {
		_ = p.cmd.Process.Kill() // it may have ended
	}
	c.mu.Unlock()
	c.watching.Wait()
	// The children that are left are orphans of those processes. Only this process can reap them.
	for {
		procs, _ := procfs.AllProcs() // fails without /proc only
		for _, p := range procs {
			if stat, err := p.Stat(); err == nil && stat.PPID == os.Getpid() {
				_ = syscall.Kill(p.PID, syscall.SIGKILL) // it may have ended
			}
		}
		if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
			return
		}
	}
}
