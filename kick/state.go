package kick

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// state is what a Runner remembers across restarts, in state.json. It is a value: a change returns a new state and
// leaves the old one as it was, so a state that cannot be written never takes effect.
type state struct {
	V int `json:"v"`
	// Instance: the machine that wrote the state. Another machine discards it, for example one made from an image.
	Instance string `json:"instance"`
	// Epoch, Controller: the highest pair seen in a kick or a beacon. They never decrease.
	Epoch      int64  `json:"epoch"`
	Controller string `json:"controller"`
	// Actions: by name, every action that was ever kicked.
	Actions map[string]actionState `json:"actions"`
	// Run: the one run in progress, or nil. It is on disk before its command starts.
	Run *run `json:"run,omitempty"`
}

// actionState is what a Runner remembers of one action.
type actionState struct {
	// Applied: by need, the revisions that the last successful run was given. Only a success changes them, or a later
	// revision of the same members.
	Applied map[string]Revision `json:"applied,omitempty"`
	// Dirty: true from before the command starts until a run succeeds.
	Dirty bool `json:"dirty,omitempty"`
	// Attempted: by need, the revisions that the last run was given, however it ended.
	Attempted map[string]Revision `json:"attempted,omitempty"`
	// Last: how the last run ended; nil until one has ended.
	Last *LastRun `json:"last,omitempty"`
	// Runs: the runs whose directories are kept, oldest first. At most keptRuns.
	Runs []string `json:"runs,omitempty"`
}

// run is the run in progress.
type run struct {
	ID     string `json:"id"` // of the kick
	Action string `json:"action"`
	// Success, Limit: exit codes, and milliseconds in all, of the configuration that the run was started with.
	Success []int `json:"success"`
	Limit   int64 `json:"limit_ms"`
	// deadline: the run has ended by then. A restarted agent does not know when it began, and allows the whole Limit.
	deadline time.Time
}

// keptRuns is how many runs' directories an action keeps.
const keptRuns = 5

// withController returns the state after a controller was seen. A lower epoch, or one out of range, changes nothing.
func (s state) withController(epoch int64, controller string) state {
	if epoch <= MaxEpoch && s.obeys(epoch, controller) {
		s.Epoch, s.Controller = epoch, controller
	}
	return s
}

// withAction returns the state with one action changed.
func (s state) withAction(name string, a actionState) state {
	actions := map[string]actionState{}
	maps.Copy(actions, s.Actions)
	actions[name] = a
	s.Actions = actions
	return s
}

// status is what a heartbeat reports of the state.
func (s state) status(actions []Action) Status {
	st := Status{Epoch: s.Epoch, Controller: s.Controller}
	for _, a := range actions {
		known := s.Actions[a.Name]
		st.Actions = append(st.Actions, ActionStatus{
			Name: a.Name, DependsOn: a.DependsOn, Applied: known.Applied, Dirty: known.Dirty, Last: known.Last,
		})
	}
	if s.Run != nil {
		st.Running = &Running{Run: s.Run.ID, Action: s.Run.Action, Limit: s.Run.Limit}
	}
	return st
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

// loadState reads the state of a node. The state is empty if none was written yet, if another machine wrote it, or if
// it is invalid; an invalid file is moved aside.
func loadState(dir, instance string, log *slog.Logger) (state, error) {
	empty := state{V: Version, Instance: instance}
	path := statePath(dir)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("read the node's state: %w", err)
	}
	s, err := decodeState(data)
	switch {
	case err == nil && s.Instance == instance:
		return s, nil
	case err != nil:
		log.Error("invalid state file moved aside, every action will run again", "file", path+".corrupt", "err", err)
		if err := os.Rename(path, path+".corrupt"); err != nil {
			log.Error("cannot move the invalid state file aside", "file", path, "err", err)
		}
	default:
		log.Warn("state of another machine discarded", "file", path, "instance", instance, "other", s.Instance)
		if err := os.RemoveAll(filepath.Join(dir, "actions")); err != nil {
			log.Error("cannot remove the members that another machine applied", "err", err)
		}
	}
	return empty, nil
}

func decodeState(data []byte) (state, error) {
	var s state
	err := decode(data, math.MaxInt, &s, &s.V)
	return s, cmp.Or(err, ensure(s.Instance != "", "no instance"), s.status(nil).check())
}

// save returns when the state is on disk.
func (s state) save(dir string) error { return replaceFile(statePath(dir), s, 0o644) }

func readFile(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func writeFile(path string, v any, perm os.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), perm)
}

// replaceFile replaces a file as a whole. When it returns, the file is on disk under its name.
func replaceFile(path string, v any, perm os.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(data, '\n'), perm, renameio.WithTempDir(dir)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir returns when the names in a directory are on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
