package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/kballard/go-shellquote"
	"github.com/spf13/cobra"

	"kicker/inventory/query"
	"kicker/kick"
)

const renderHelp = `Renders a Go text/template from the members file of a kick, and puts it in FILE's place
only if that changes it and the check passes. The template sees the file as it is:

  {{range .roles.web}}server {{.node}} {{.facts.ipaddress}}:{{.facts.port}}
  {{end}}

What is not there is an error, not nothing: a role, a fact, a variable. Beside Go's own
functions, of which index is as strict:

  get OBJECT "facts.site.room" "lobby"   the value at a path, or else the last one
  env "NAME" "lobby"                     the environment's variable, or else the last one
  default 80 VALUE                       VALUE, or 80 if it is empty
  join "," LIST                          the list's items in one text
  json VALUE                             VALUE as JSON

CMD is split into words as a shell does, but no shell runs it. {} in --check stands for
the new file before it is in place. --reload runs if FILE changed, and again at the next
render until it has succeeded: .FILE.kicker-pending beside FILE remembers that.`

func renderCommand() *cobra.Command {
	var r rendering
	cmd := &cobra.Command{
		Use:   "render TEMPLATE",
		Short: "Render a file from the members that a kick hands over",
		Long:  renderHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.template = args[0]
			r.stdout, r.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := r.checkUsage(); err != nil {
				return err
			}
			return r.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&r.file, "output", "o", "", "the `FILE` to write (default: stdout)")
	f.StringVar(&r.members, "members", "", "the members `FILE` (default: $KICKER_MEMBERS_FILE)")
	f.StringVar(&r.check, "check", "", "`CMD` that must succeed before FILE is replaced, as in 'haproxy -c -f {}'")
	f.StringVar(&r.reload, "reload", "", "`CMD` to run when FILE was replaced, as in 'systemctl reload haproxy'")
	return cmd
}

// rendering is one call of render.
type rendering struct {
	template, file, members, check, reload string
	stdout, stderr                         io.Writer
}

func (r *rendering) checkUsage() error {
	r.members = cmp.Or(r.members, os.Getenv("KICKER_MEMBERS_FILE"))
	switch {
	case r.members == "":
		return usageError("render: no members file: set --members FILE (a kicked action finds it in KICKER_MEMBERS_FILE)")
	case r.file == "" && (r.check != "" || r.reload != ""):
		return usageError("render: --check and --reload are about a file: add -o FILE")
	case r.check != "" && !strings.Contains(r.check, "{}"):
		return usageError("render: --check %q does not look at the new file: put {} where its name belongs", r.check)
	}
	return errors.Join(checkCommandLine("--check", r.check), checkCommandLine("--reload", r.reload))
}

func checkCommandLine(flag, line string) error {
	words, err := shellquote.Split(line)
	if err != nil {
		return usageError("render: %s %q: %w", flag, line, err)
	}
	if line != "" && (len(words) == 0 || words[0] == "") {
		return usageError("render: %s %q: no command", flag, line)
	}
	return nil
}

func (r *rendering) run(ctx context.Context) error {
	content, err := renderTemplate(r.template, r.members)
	if err != nil {
		return err
	}
	if r.file == "" {
		_, err := r.stdout.Write(content)
		return err
	}
	done, err := r.put(ctx, content)
	if err != nil {
		return fmt.Errorf("render %s: %w", r.file, err)
	}
	_, err = fmt.Fprintf(r.stderr, "%s: %s\n", r.file, done)
	return err
}

// put makes content be what is in the file and what its reader has loaded, and says what it took.
//
// The mark is set before the file is replaced and goes only after the reload: whatever cuts this short, the next render finds
// either an old file or a mark, and does the rest.
func (r *rendering) put(ctx context.Context, content []byte) (done string, err error) {
	path := r.file
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link stays a link
	}
	mark := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".kicker-pending")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	done = "unchanged"
	if err != nil || !bytes.Equal(old, content) {
		temp, err := writeTemp(path, content)
		if err != nil {
			return "", err
		}
		defer os.Remove(temp) // if it was not moved
		if r.check != "" {
			if err := r.command(ctx, r.check, temp); err != nil {
				return "", fmt.Errorf("check: %w: the file stays as it was", err)
			}
		}
		if r.reload != "" {
			if err := os.WriteFile(mark, nil, 0o644); err != nil {
				return "", err
			}
		}
		if err := replace(path, temp); err != nil {
			return "", err
		}
		done = "written"
	}
	if r.reload == "" {
		return done, nil
	}
	if _, err := os.Lstat(mark); errors.Is(err, fs.ErrNotExist) {
		return done, nil
	}
	if err := r.command(ctx, r.reload, ""); err != nil {
		return "", fmt.Errorf("%s, but reload: %w: the next render tries it again", done, err)
	}
	return done + ", reloaded", os.Remove(mark)
}

// command runs a command line. What it prints is not data: it goes to stderr.
func (r *rendering) command(ctx context.Context, line, file string) error {
	words, err := shellquote.Split(line)
	if err != nil {
		return err
	}
	if file != "" {
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "{}", file)
		}
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = r.stderr, r.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", words[0], err)
	}
	return nil
}

// writeTemp writes content durably beside path, with the mode and the owner of what is there. The temporary name begins with a dot,
// so that no *.cfg takes it in, and ends as path does, since programs go by that.
func writeTemp(path string, content []byte) (temp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".kicker-*-"+filepath.Base(path))
	if err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
		owner, own := info.Sys().(*syscall.Stat_t), new(syscall.Stat_t)
		if err := syscall.Fstat(int(f.Fd()), own); err != nil {
			return "", err
		}
		if owner.Uid != own.Uid || owner.Gid != own.Gid {
			if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return "", fmt.Errorf("keep its owner: %w", err)
			}
		}
	}
	if _, err := f.Write(content); err != nil {
		return "", err
	}
	if err := f.Chmod(mode); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

// replace puts temp in path's place, so that it is there after a power cut too.
func replace(path, temp string) error {
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// renderTemplate is what the template makes of the members.
func renderTemplate(path, membersPath string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	data, err := readMembers(membersPath)
	if err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	t, err := template.New(filepath.Base(path)).Option("missingkey=error").Funcs(renderFuncs).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		roles, _ := data["roles"].(map[string]any)
		return nil, fmt.Errorf("%w (the roles in %s are: %s)", err, membersPath, strings.Join(slices.Sorted(maps.Keys(roles)), ", "))
	}
	return out.Bytes(), nil
}

func readMembers(path string) (map[string]any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var data map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // a number is written as it was, and compares with eq as the text that it is
	if err := dec.Decode(&data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if v, _ := data["v"].(json.Number); v.String() != fmt.Sprint(kick.Version) {
		return nil, fmt.Errorf("%s: version %v, want %d: is it a members file?", path, data["v"], kick.Version)
	}
	roles, _ := data["roles"].(map[string]any)
	for role, members := range roles {
		if members == nil {
			roles[role] = []any{} // no members are a list too
		}
	}
	return data, nil
}

var renderFuncs = template.FuncMap{
	"index": strictIndex,
	"get": func(object map[string]any, path string, otherwise any) any {
		if v, ok := query.Lookup(object, path); ok {
			return v
		}
		return otherwise
	},
	"env": func(name string, otherwise ...string) (string, error) {
		if v, ok := os.LookupEnv(name); ok {
			return v, nil
		}
		if len(otherwise) > 0 {
			return otherwise[0], nil
		}
		return "", fmt.Errorf("%s is not set in the environment", name)
	},
	"default": func(otherwise, v any) any {
		if truth, _ := template.IsTrue(v); !truth {
			return otherwise
		}
		return v
	},
	"join": func(sep string, list []any) string {
		words := make([]string, len(list))
		for i, item := range list {
			words[i] = fmt.Sprint(item)
		}
		return strings.Join(words, sep)
	},
	"json": func(v any) (string, error) {
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		err := enc.Encode(v)
		return strings.TrimSuffix(b.String(), "\n"), err
	},
}

// strictIndex is the template's index, but what is not there is an error: the built-in makes an empty backend of a typo.
func strictIndex(v any, keys ...any) (any, error) {
	for _, key := range keys {
		switch container := v.(type) {
		case map[string]any:
			name, _ := key.(string)
			inner, ok := container[name]
			if !ok {
				return nil, fmt.Errorf("map has no entry for key %q", fmt.Sprint(key))
			}
			v = inner
		case []any:
			i, ok := key.(int)
			if !ok || i < 0 || i >= len(container) {
				return nil, fmt.Errorf("list of %d has no item %v", len(container), key)
			}
			v = container[i]
		default:
			return nil, fmt.Errorf("can't index %T", v)
		}
	}
	return v, nil
}
