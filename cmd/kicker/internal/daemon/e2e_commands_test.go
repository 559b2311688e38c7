package daemon

import (
	"kicker/controller/api"
	"strings"
	"testing"
)

func TestCommandsExitAsDocumented(t *testing.T) {
	s := newSite(t, swift...)
	for _, command := range [][]string{{"status"}, {"inventory"}, {"runs"}, {"explain", "node/lb"}, {"kick", "node/lb"}} {
		s.expect(exitUnreachable, []string{"api.sock", "does it run there?"}, command...)
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
	s.expect(exitTimeout, []string{"not over in time", "lb/configure"}, "kick", "node/lb", "--wait", "--timeout", "1s")
	if n := s.kicks() - kicks; n < 1 || n > 10 {
		t.Errorf("a node that is disabled was sent %d kicks in a second", n)
	}
	s.remove("lb/node/lb/disabled")
	s.until("what was ordered is done", func() string { return objection(len(lb.record()) == runs, lb.record()) })
	s.converged(3)

	lb.hold()
	s.expect(exitTimeout, []string{"not over in time", "lb/configure"}, "kick", "node/lb", "--wait", "--timeout", "1s")

	s.expect(exitUnreachable, []string{"leave nobody"}, "leave", "--name", "nobody")
	s.expect(exitTimeout, []string{"leave web1", "still waiting for lb/configure"}, "leave", "--name", "web1", "--wait", "--timeout", "1s")
	lb.release()
	s.expect(0, nil, "leave", "--name", "web1", "--wait")
	if record := lb.record(); record[len(record)-1].told != "web2" {
		t.Errorf("released when lb was told %q last, want web2 alone", record[len(record)-1].told)
	}
	web1.stop()
	if events := s.expect(0, nil, "events").stdout; !strings.Contains(events, "web1 said goodbye") || strings.Contains(events, api.EventGone) {
		t.Errorf("want a goodbye of web1 and nobody gone:\n%s", events)
	}
}
