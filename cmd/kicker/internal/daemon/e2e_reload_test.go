package daemon

import (
	"kicker/controller/api"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestControllerReloadsOnSIGHUPAndWhenItsFileChanges(t *testing.T) {
	s := newSite(t, swift...)
	ctl := s.controller()
	lb := s.configurer("lb", "web")
	s.member("web1", "web")
	s.member("db1", "db")
	s.converged(3)
	original, err := os.ReadFile(s.path("kicker.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(more string) {
		t.Helper()
		s.write("new.yaml", string(original)+"\n"+more+"\n")
		if err := os.Rename(s.path("new.yaml"), s.path("kicker.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	reports := func(kind, word string) func() string { // without a command, which would read the same file
		return func() string {
			var events []api.Event
			if err := s.ask("/v1/events", &events); err != nil {
				return err.Error()
			}
			found := slices.ContainsFunc(events, func(e api.Event) bool {
				return e.Kind == kind && strings.Contains(e.Text, word)
			})
			return objection(!found, events)
		}
	}

	const depends = "roles: [{name: lb, depends_on: [db]}]"
	s.write("planned.yaml", string(original)+"\n"+depends+"\n")
	got := s.expect(1, nil, "plan", "--config", s.path("planned.yaml"), "--check")
	if !strings.Contains(got.stdout, "1 action would become stale") {
		t.Errorf("the plan is %q, want one action stale", got.stdout)
	}

	runs := len(lb.record())
	rewrite(depends)
	if err := ctl.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.until("lb gets db1", func() string {
		record := lb.record()
		members := strings.Split(record[len(record)-1].members, ",") // by role, in any order
		slices.Sort(members)
		return objection(!slices.Equal(members, []string{"db1", "web1"}), record)
	})
	s.converged(3)
	if n := len(lb.record()) - runs; n != 1 {
		t.Errorf("%d runs, want 1", n)
	}

	rewrite("gone_after: 7")
	s.until("the mistake is reported", reports(api.EventReloadRejected, "gone_after: 7 has no unit"))
	s.expect(1, nil, "status", "--check", "--config", s.path("planned.yaml"))
	if !ctl.running() {
		t.Fatal("the controller has ended")
	}
	rewrite(depends)
	s.until("it is right again", reports(api.EventReloaded, "valid again"))
	if n := len(lb.record()) - runs; n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
}
