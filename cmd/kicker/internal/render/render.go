// Package render makes a file from a template and the members file of a kick.
package render

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/kballard/go-shellquote"
)

// Job is one rendering.
type Job struct {
	Template       string // file
	Members        string // file, as a kick hands it over
	File           string // to write; empty: Stdout
	Check          string // command that must succeed before File is replaced; {} in it stands for the new file
	Reload         string // command to run after File was replaced
	Force          bool   // check and reload even if File does not change
	Stdout, Stderr io.Writer
}

// Validate finds mistakes in how the job is put together.
func (j *Job) Validate() error {
	switch {
	case j.Members == "":
		return errors.New("no members file: set --members FILE (a kicked action finds it in KICKER_MEMBERS_FILE)")
	case j.File == "" && (j.Check != "" || j.Reload != ""):
		return errors.New("--check and --reload need a file: add -o FILE")
	case j.Check != "" && !strings.Contains(j.Check, "{}"):
		return fmt.Errorf("--check %q does not name the new file: put {} where its name belongs", j.Check)
	}
	return errors.Join(validate("--check", j.Check), validate("--reload", j.Reload))
}

func validate(flag, line string) error {
	words, err := shellquote.Split(line)
	if err != nil {
		return fmt.Errorf("%s %q: %w", flag, line, err)
	}
	if line != "" && (len(words) == 0 || words[0] == "") {
		return fmt.Errorf("%s %q: no command", flag, line)
	}
	return nil
}

// Run renders the template into the file, or to Stdout. It says on Stderr what it did with the file.
func (j *Job) Run(ctx context.Context) error {
	content, err := Template(j.Template, j.Members)
	if err != nil {
		return err
	}
	if j.File == "" {
		_, err := j.Stdout.Write(content)
		return err
	}
	done, err := j.put(ctx, content)
	if err != nil {
		return fmt.Errorf("render %s: %w", j.File, err)
	}
	_, err = fmt.Fprintf(j.Stderr, "%s: %s\n", j.File, done)
	return err
}

// put makes content be what is in the file and what its reader has loaded, and says what it did. The mark is set before
// the file is replaced and removed after the reload. If anything cuts this short, the next render finds either an old
// file or a mark, and does the rest.
func (j *Job) put(ctx context.Context, content []byte) (done string, err error) {
	path := j.File
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link stays a link
	}
	mark := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".kicker-pending")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	done = "unchanged"
	switch {
	case err != nil || !bytes.Equal(old, content):
		if err := j.replace(ctx, path, mark, content); err != nil {
			return "", err
		}
		done = "written"
	case j.Force:
		if err := j.recheck(ctx, path, mark); err != nil {
			return "", err
		}
	}
	if _, err := os.Lstat(mark); j.Reload == "" || errors.Is(err, fs.ErrNotExist) {
		return done, nil
	}
	if err := j.command(ctx, j.Reload, "{}"); err != nil {
		return "", fmt.Errorf("%s, but reload failed: %w. The next render tries it again", done, err)
	}
	return done + ", reloaded", os.Remove(mark)
}

// replace puts content into path, with the same mode and owner, if the check succeeds. A power cut leaves no mixture.
func (j *Job) replace(ctx context.Context, path, mark string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o644),
		renameio.WithExistingPermissions())
	if err != nil {
		return err
	}
	defer f.Cleanup() // removes it if it did not replace the file
	if old, err := os.Stat(path); err == nil {
		owner := old.Sys().(*syscall.Stat_t)
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return fmt.Errorf("keep the owner: %w", err)
		}
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if j.Check != "" {
		// The check sees a name that ends as path does, since programs go by that. With the dot no *.cfg matches it.
		seen := dir + "/.kicker-" + rand.Text() + "-" + filepath.Base(path)
		if err := os.Link(f.Name(), seen); err != nil {
			return err
		}
		defer os.Remove(seen)
		if err := j.command(ctx, j.Check, seen); err != nil {
			return fmt.Errorf("check failed: %w. The file is unchanged", err)
		}
	}
	if j.Reload != "" {
		if err := os.WriteFile(mark, nil, 0o644); err != nil {
			return err
		}
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close()) // renameio does not sync the new name
}

// recheck runs the check on a file that stays as it is, and sets the mark.
func (j *Job) recheck(ctx context.Context, path, mark string) error {
	if j.Check != "" {
		if err := j.command(ctx, j.Check, path); err != nil {
			return fmt.Errorf("check failed: %w. The file is unchanged", err)
		}
	}
	if j.Reload == "" {
		return nil
	}
	return os.WriteFile(mark, nil, 0o644)
}

// command runs a command line, with file in the place of {}. What it prints is not data, so it goes to Stderr.
func (j *Job) command(ctx context.Context, line, file string) error {
	words, _ := shellquote.Split(line) // Validate has checked it
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "{}", file)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = j.Stderr, j.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return fmt.Errorf("%s ended with exit code %d", words[0], exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", words[0], err)
	}
	return nil
}
