package kick

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
)

// ErrLocked is the error for a node's directory that an agent uses.
var ErrLocked = errors.New("an agent uses it")

// LockStored locks a node's directory while no agent uses it, so that none starts. It is an error if one does, and
// if there is no directory: then no agent ever ran there.
func LockStored(dir string) (unlock func(), err error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("node's directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, lockName))
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("node's directory %s: %w", dir, err)
	case !locked:
		return nil, fmt.Errorf("node's directory %s: %w", dir, ErrLocked)
	}
	return func() { _ = lock.Unlock() }, nil
}

// Stored is what the last agent of a node wrote down in the node's directory: the machine's instance, and what it would
// report of these actions. An action that is not among them depends on what it applied. What another instance than wanted
// wrote does not count; "" wants any.
func Stored(dir, wanted string, actions []Action) (instance string, status Status, err error) {
	data, err := os.ReadFile(statePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return wanted, (state{}).status(actions), nil
	}
	var s state
	if err == nil {
		s, err = decodeState(data)
	}
	if err != nil {
		return "", Status{}, fmt.Errorf("read the node's state %s: %w", statePath(dir), err)
	}
	if wanted != "" && s.Instance != wanted {
		return wanted, (state{}).status(actions), nil
	}
	status = s.status(actions)
	for _, name := range slices.Sorted(maps.Keys(s.Actions)) {
		if known := s.Actions[name]; actionIndex(actions, name) < 0 && len(known.Applied) > 0 {
			status.Actions = append(status.Actions, ActionStatus{
				Name: name, DependsOn: slices.Sorted(maps.Keys(known.Applied)),
				Applied: known.Applied, Dirty: known.Dirty, Last: known.Last,
			})
		}
	}
	return s.Instance, status, nil
}
