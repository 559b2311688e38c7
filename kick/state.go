package kick

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

// loadState reads what the node remembered. It is nothing if the state was never written, is another machine's (golden images
// carry one along), or can't be understood; then it is put aside.
func loadState(dir, instance string, log *slog.Logger) (state, error) {
	fresh := state{V: Version, Instance: instance}
	path := statePath(dir)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("read what the node remembers: %w", err)
	}
	s, err := decodeState(data)
	if err != nil {
		log.Error("the node's state can't be understood and is put aside; all actions will run again", "file", path+".corrupt", "err", err)
		if err := os.Rename(path, path+".corrupt"); err != nil {
			log.Error("the node's state can't be put aside", "file", path, "err", err)
		}
		return fresh, nil
	}
	if s.Instance != instance {
		log.Warn("the node's state is another machine's and is discarded", "file", path, "instance", instance, "other", s.Instance)
		if err := os.RemoveAll(filepath.Join(dir, "actions")); err != nil {
			log.Error("another machine's members can't be removed", "err", err)
		}
		return fresh, nil
	}
	return s, nil
}

func decodeState(data []byte) (state, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return s, err
	}
	if s.V != Version {
		return s, fmt.Errorf("version %d, want %d", s.V, Version)
	}
	if s.Instance == "" {
		return s, errors.New("no instance")
	}
	if s.Run != nil {
		if err := checkRunID(s.Run.ID); err != nil {
			return s, err
		}
		if err := checkActionName(s.Run.Action); err != nil {
			return s, err
		}
	}
	return s, Status{Epoch: s.Epoch, Controller: s.Controller}.check()
}

func (s state) save(dir string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := replaceFile(statePath(dir), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot keep state: %w", err)
	}
	return nil
}

// replaceFile writes a file atomically; when it returns the file is on the disk, under its name.
func replaceFile(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, data, perm, renameio.WithTempDir(dir)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
