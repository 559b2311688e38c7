package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kicker/controller/api"
	"kicker/controller/web"
)

func TestEventsAreFollowedAsTheyHappen(t *testing.T) {
	l := newLab("calm")
	srv := httptest.NewServer(l.handler(web.Config{OpenReads: true}))
	t.Cleanup(srv.Close)
	for _, format := range []string{"table", "json"} {
		ctx, interrupt := context.WithCancel(t.Context())
		r, w := io.Pipe()
		root := newRoot()
		root.SetOut(w)
		root.SetArgs([]string{"events", "--follow", "--api", srv.URL, "-o", format})
		ended := make(chan error)
		go func() {
			err := root.ExecuteContext(ctx)
			w.Close()
			ended <- err
		}()
		lines := bufio.NewScanner(r)
		next := func(want string) {
			t.Helper()
			if !lines.Scan() || !strings.Contains(lines.Text(), want) {
				t.Errorf("-o %s: %q, want an event %q", format, lines.Text(), want)
			}
		}
		for _, e := range l.show().Events {
			next(e.Text)
		}
		for i := range 3 {
			text := fmt.Sprintf("web%d joined", i)
			l.tell(nil, api.Event{Kind: api.EventJoined, Text: text})
			next(text)
		}
		interrupt()
		if err := <-ended; err != nil {
			t.Errorf("-o %s: interrupted: %v, want no error", format, err)
		}
	}
}

func TestCommandsForLinuxSayWhatToDoElsewhere(t *testing.T) {
	cmd := onLinux("darwin", agentCommand())
	const want = "agent needs Linux, and this is darwin: run it on a Linux machine"
	if err := cmd.RunE(cmd, nil); err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

func TestRejectedKickIsNamedWhenTheWaitTimesOut(t *testing.T) {
	a := newAwaited(api.Kicked{Actions: []api.Verdict{{Node: "lb1", Action: "reload"}, {Node: "lb2", Action: "reload"}}})
	event := func(kind, run, text string) {
		a.take(api.Event{Kind: kind, Node: "lb2", Action: "reload", Run: run, Text: text})
	}
	event(api.EventKickRejected, "r1", "kick rejected: disabled")
	if got, want := a.String(), "lb1/reload, lb2/reload: kick rejected: disabled"; got != want {
		t.Errorf("it waits for %q, want %q", got, want)
	}
	event(api.EventKicked, "r2", "")
	if got, want := a.String(), "lb1/reload, lb2/reload"; got != want {
		t.Errorf("after an accepted kick it waits for %q, want %q", got, want)
	}
	event(api.EventSucceeded, "r2", "")
	if got, want := a.String(), "lb1/reload"; got != want || a.failed != 0 {
		t.Errorf("after a success it waits for %q, %d failed; want %q and none", got, a.failed, want)
	}
}

var updateCLI = flag.Bool("update-cli", false, "write docs/reference/cli.md anew")

func TestCLIReferenceIsCurrent(t *testing.T) {
	const file = "../../docs/reference/cli.md"
	got := cliReference(newRoot())
	if *updateCLI {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-is +should be; go test ./cmd/kicker -run CLIReference -update-cli writes it anew):\n%s", file,
			diff)
	}
}

// cliReference is every command that people see, with its flags.
func cliReference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(`# The command line

` + "`kicker COMMAND --help`" + ` prints the same texts. Data goes to stdout, everything else to stderr. Write objects as
` + "`node/N` or `role/R`" + `.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | failure, or ` + "`--check`" + ` found something |
| 2 | wrong usage |
| 3 | the controller does not answer, rejects the token, or is not synced |
| 4 | no result, with ` + "`--fail-empty`" + ` |
| 5 | timeout |
| 6 | what ` + "`--wait`" + ` waits for only a person can end |

Every command has this flag:

` + flagTable(root.PersistentFlags()))
	describe(&b, root)
	return b.String()
}

func describe(b *strings.Builder, parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		if !cmd.IsAvailableCommand() || cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		if cmd.Runnable() && !cmd.HasSubCommands() {
			about := cmd.Long
			if about == "" {
				about = cmd.Short + "."
			}
			fmt.Fprintf(b, "\n## %s\n\n%s\n", cmd.UseLine(), strings.TrimSpace(about))
			if cmd.HasExample() {
				fmt.Fprintf(b, "\n```\n%s\n```\n", strings.TrimRight(cmd.Example, "\n"))
			}
			if cmd.LocalNonPersistentFlags().HasAvailableFlags() {
				b.WriteString("\n" + flagTable(cmd.LocalNonPersistentFlags()))
			}
		}
		describe(b, cmd)
	}
}

func flagTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("| flag | | default |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		set := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			set = "`" + f.DefValue + "`"
		}
		cell := strings.NewReplacer("|", "\\|")
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", cell.Replace(strings.TrimSpace(name+" "+value)), cell.Replace(usage),
			set)
	})
	return b.String()
}
