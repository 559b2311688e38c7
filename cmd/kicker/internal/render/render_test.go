package render

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// renderInto renders a role with one node into file. set changes the job.
func renderInto(t *testing.T, dir, file, node string, set func(*Job)) error {
	t.Helper()
	members, tmpl := filepath.Join(dir, "members.json"), filepath.Join(dir, "x.tmpl")
	write(t, members, `{"v":2,"roles":{"web":[{"node":"`+node+`","facts":{}}]}}`)
	write(t, tmpl, `{{range .roles.web}}{{.node}}{{end}}`)
	job := Job{Template: tmpl, Members: members, File: file, Stderr: new(strings.Builder)}
	set(&job)
	return job.Run(t.Context())
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s has %q, %v, want %q", path, got, err, want)
	}
}

func TestRenderedFileKeepsItsModeAndOwner(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "out.cfg")
	for _, tc := range []struct {
		node         string
		before, want fs.FileMode
	}{{"web1", 0, 0o644}, {"web2", 0o640, 0o640}, {"web3", 0o600, 0o600}} {
		if tc.before != 0 {
			if err := os.Chmod(file, tc.before); err != nil {
				t.Fatal(err)
			}
		}
		owner := os.Geteuid()
		if owner == 0 && tc.before != 0 { // only root can give files away
			owner = 1
			if err := os.Chown(file, owner, owner); err != nil {
				t.Fatal(err)
			}
		}
		if err := renderInto(t, dir, file, tc.node, func(*Job) {}); err != nil {
			t.Fatal(err)
		}
		wantFile(t, file, tc.node)
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := int(info.Sys().(*syscall.Stat_t).Uid); info.Mode().Perm() != tc.want || got != owner {
			t.Errorf("mode %v and owner %d, want %v and %d", info.Mode(), got, tc.want, owner)
		}
	}
}

func TestRenderedLinkStaysALink(t *testing.T) {
	dir := t.TempDir()
	link, target := filepath.Join(dir, "link.cfg"), filepath.Join(dir, "target.cfg")
	write(t, target, "old")
	if err := os.Symlink("target.cfg", link); err != nil {
		t.Fatal(err)
	}
	if err := renderInto(t, dir, link, "web1", func(*Job) {}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, target, "web1")
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("%s is %v, %v, want a symlink", link, info.Mode(), err)
	}
}

// If the program is killed in the middle of a reload, the next render must reload again.
func TestReloadIsMarkedBeforeItBegins(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "out.cfg")
	mark := filepath.Join(dir, ".out.cfg.kicker-pending")
	if err := renderInto(t, dir, file, "web1", func(j *Job) { j.Reload = "test -e " + mark }); err != nil {
		t.Errorf("there is no mark during the reload: %v", err)
	}
	if _, err := os.Stat(mark); !os.IsNotExist(err) {
		t.Errorf("the mark is still there after the reload: %v", err)
	}
}

func TestCheckSeesTheNewFileBesideTheOld(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "out.cfg")
	write(t, file, "old")
	if err := renderInto(t, dir, file, "web1", func(j *Job) {
		j.Check = `sh -c 'test "$(cat "$0")" = web1 && test "$(cat "$1")" = old' {} ` + file
	}); err != nil {
		t.Error(err)
	}
	wantFile(t, file, "web1")
}

func TestForcedRenderReloadsAnUnchangedFile(t *testing.T) {
	dir := t.TempDir()
	file, log := filepath.Join(dir, "out.cfg"), filepath.Join(dir, "log")
	mark := filepath.Join(dir, ".out.cfg.kicker-pending")
	note := func(word string) string { return `sh -c 'echo ` + word + ` "$0" >>` + log + `' ` }
	force := func(j *Job) { j.Force, j.Check, j.Reload = true, note("check")+"{}", note("reload")+"x" }
	write(t, file, "web1")
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := renderInto(t, dir, file, "web1", func(j *Job) { force(j); j.Force = false }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); err == nil {
		t.Error("an unchanged file was reloaded without force")
	}
	if err := renderInto(t, dir, file, "web1", force); err != nil {
		t.Fatal(err)
	}
	wantFile(t, log, "check "+file+"\nreload x\n")
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Errorf("the unchanged file was replaced: %v", err)
	}
	if err := renderInto(t, dir, file, "web1", func(j *Job) { force(j); j.Check = "false {}" }); err == nil {
		t.Error("the check failed, and render did not")
	}
	wantFile(t, log, "check "+file+"\nreload x\n")

	// A forced reload that failed is done by the next render.
	if err := renderInto(t, dir, file, "web1", func(j *Job) { force(j); j.Reload = "false" }); err == nil {
		t.Error("the reload failed, and render did not")
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("a reload that failed is not remembered: %v", err)
	}
	if err := renderInto(t, dir, file, "web1", func(j *Job) { j.Reload = note("again") }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the mark is still there after the reload")
	}
}
