package daemon

import (
	"kicker/controller/api"
	"strings"
	"testing"
)

func TestCommandsExitAsDocumented(t *testing.T) {
	s := newSite(t, swift...)
	for _, command := range [][]string{{"status"}, {"inventory"}, {"runs"}, {"explain", "node/lb"},
		{"kick", "node/lb"}} {
		s.expect(exitUnreachable, []string{"api.sock", "Is kicker controller running there?"}, command...)
	}
	s.expect(exitUnreachable, []string{"leave web1", s.bus}, "leave", "--name", "web1")

	s.controller()
	s.until("the controller answers", func() string { return errorText(s.ask("/v1/status", new(any))) })
	for _, command := range [][]string{{"inventory"}, {"roles"}, {"explain", "node/lb"}, {"kick", "node/lb"}} {
		s.expect(exitUnreachable, []string{"does not know the nodes yet"}, command...)
	}
	s.expect(exitUnreachable, nil, "status", "--check")

	lb := s.configurer("lb", "web")
	web1 := s.member("web1", "web")
	s.member("web2", "web")
	s.converged(3)
	s.expect(0, nil, "status", "--check")
	s.expect(0, nil, "inventory", "role=web", "--fail-empty")
	s.expect(exitEmpty, []string{"role=db"}, "inventory", "role=db", "--fail-empty")

	s.expect(0, nil, "kick", "node/lb", "--wait")
	lb.exits(3)
	s.expect(exitFailed, []string{"failed"}, "kick", "node/lb", "--wait")
	lb.exits(0)
	s.converged(3)

	kicks, runs := s.kicks(), len(lb.record())
	s.write("lb/node/lb/disabled", "maintenance")
	s.until("the controller knows that lb is disabled", func() string {
		var e api.Explanation
		err := s.ask("/v1/nodes/lb/explain", &e)
		return objection(err != nil || e.Actions[0].Disabled == "", e)
	})
	s.expect(exitPerson, []string{"lb/configure waits for disabled"}, "kick", "node/lb", "--wait")
	if n := s.kicks() - kicks; n > 0 {
		t.Errorf("a disabled node got %d kicks, want none", n)
	}
	s.remove("lb/node/lb/disabled")
	s.until("the order is carried out", func() string { return objection(len(lb.record()) == runs, lb.record()) })
	s.converged(3)

	lb.hold()
	s.expect(exitTimeout, []string{"timed out", "lb/configure"}, "kick", "node/lb", "--wait", "--timeout", "1s")

	s.expect(exitUnreachable, []string{"leave unknown"}, "leave", "--name", "unknown")
	// at first it waits for dependents that may not have reported to a controller that has just begun to listen
	s.expect(exitTimeout, []string{"leave web1", "waiting for lb/configure"}, "leave", "--name", "web1", "--wait",
		"--timeout", "15s")
	lb.release()
	s.expect(0, nil, "leave", "--name", "web1", "--wait")
	if record := lb.record(); record[len(record)-1].members != "web2" {
		t.Errorf("released when lb last got %q, want web2 alone", record[len(record)-1].members)
	}
	web1.stop()
	if events := s.expect(0, nil, "events").stdout; !strings.Contains(events, "web1 left") ||
		strings.Contains(events, api.EventGone) {
		t.Errorf("want web1 to leave and no node to be gone:\n%s", events)
	}
}
