package kick

import (
	"context"
	"path/filepath"
	"slices"
	"time"
)

// Execute starts a run, or adopts it, and waits for its end. If ctx ends first, it returns ctx's error and the run goes
// on. A run that could not be started has an Ending that says why.
type Execute func(ctx context.Context, l Launch) (Ending, error)

// Launch is what a run is started with.
type Launch struct {
	Dir     string        `json:"dir"` // the node's
	Run     string        `json:"run"`
	Action  string        `json:"action"`
	Boot    string        `json:"boot"` // the current boot of the machine
	Command []string      `json:"command"`
	Env     []string      `json:"env"` // beside the agent's own
	Timeout time.Duration `json:"timeout_ns"`
	Grace   time.Duration `json:"grace_ns"`
	// Adopt: a previous agent has started the run, or was about to. Only Dir, Run, Action and Boot are set.
	Adopt bool `json:"-"`
}

const launchName = "launch.json"

func (l Launch) lockFile() string    { return filepath.Join(l.Dir, "run.lock") }
func (l Launch) runDir() string      { return filepath.Join(l.Dir, "runs", l.Run) }
func (l Launch) membersFile() string { return filepath.Join(l.runDir(), "members.json") }
func (l Launch) shimFile() string    { return filepath.Join(l.runDir(), "shim.json") }
func (l Launch) commandFile() string { return filepath.Join(l.runDir(), "command.json") }
func (l Launch) endingFile() string  { return filepath.Join(l.runDir(), "ending.json") }
func (l Launch) reserveFile() string { return filepath.Join(l.runDir(), "ending.reserve") }
func (l Launch) outputFile() string  { return filepath.Join(l.runDir(), "output") }

// Ending is how a run ended, as its shim saw it.
type Ending struct {
	Exit     int    `json:"exit"`             // exit code; -1: there is none
	Signal   string `json:"signal,omitempty"` // that killed the command
	TimedOut bool   `json:"timed_out,omitempty"`
	Lost     bool   `json:"lost,omitempty"`   // the shim did not see the end
	Error    string `json:"error,omitempty"`  // for people: why it could not start, or what ended it
	Duration int64  `json:"duration_ms"`      // by the monotonic clock
	Output   string `json:"output,omitempty"` // the last 4 KiB
	// LeftBehind is the processes that still ran when the command had ended, as "sleep (pid 123)". Of more than ten the
	// last entry is a count.
	LeftBehind []string `json:"left_behind,omitempty"`
}

// maxLeftBehind is how many processes are named. The rest is a count.
const maxLeftBehind = 10

func (e Ending) outcome(success []int) Outcome {
	switch {
	case e.Lost:
		return Lost
	case e.TimedOut:
		return TimedOut
	case e.Signal != "":
		return Killed
	case e.Error == "" && slices.Contains(success, e.Exit):
		return Succeeded
	}
	return Failed
}
