package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"kicker/controller/api"
	"kicker/kick"
)

// configurer is a node whose action records its runs and can be controlled; see configure.
type configurer struct {
	*site
	name  string
	args  []string
	agent *daemon
}

// ran is a run in the record of the action.
type ran struct {
	id      string
	members string // comma-separated
	over    bool
}

// configurer starts a node that depends on a role.
func (s *site) configurer(name, role string) *configurer {
	s.t.Helper()
	s.write(name+"/record", "")
	c := &configurer{site: s, name: name, args: []string{"--role", "lb", "--depends-on", role,
		"--action", fmt.Sprintf("configure='%s' configure '%s'", s.actor, s.path(name))}}
	c.agent = s.agent(name, c.args...)
	return c
}

// member starts a node that has only an agent.
func (s *site) member(name, role string) *daemon {
	s.t.Helper()
	return s.agent(name, "--role", role, "--fact", "ipaddress=127.0.0.1", "--fact", "port=80")
}

func (c *configurer) restart() { c.agent = c.site.agent(c.name, c.args...) }

// hold keeps runs from ending until release.
func (c *configurer) hold()          { c.write(c.name+"/hold", "") }
func (c *configurer) release()       { c.remove(c.name + "/hold") }
func (c *configurer) exits(code int) { c.write(c.name+"/exit", fmt.Sprint(code)) }

// record is the runs that have started. Two at a time fail the test.
func (c *configurer) record() []ran {
	c.t.Helper()
	text, err := os.ReadFile(c.path(c.name, "record"))
	if err != nil {
		c.t.Fatal(err)
	}
	var runs []ran
	for line := range strings.Lines(string(text)) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		id, members, _ := strings.Cut(rest, " ")
		last := len(runs) - 1
		switch {
		case what == "start" && (last < 0 || runs[last].over):
			runs = append(runs, ran{id: id, members: members})
		case what == "end" && last >= 0 && runs[last].id == id && !runs[last].over:
			runs[last].over = true
		default:
			c.t.Fatalf("node %s: two runs at a time, or one twice:\n%s", c.name, text)
		}
	}
	return runs
}

// started waits for the n-th run's start.
func (c *configurer) started(n int) ran {
	c.t.Helper()
	return c.run(n, func(ran) bool { return true })
}

// ended waits for the n-th run's end.
func (c *configurer) ended(n int) ran {
	c.t.Helper()
	return c.run(n, func(r ran) bool { return r.over })
}

func (c *configurer) run(n int, so func(ran) bool) ran {
	c.t.Helper()
	var r ran
	c.until(fmt.Sprintf("run %d of %s", n, c.name), func() string {
		runs := c.record()
		if len(runs) < n || !so(runs[n-1]) {
			return fmt.Sprintf("%+v", runs)
		}
		r = runs[n-1]
		return ""
	})
	return r
}

// applied is the hash of the members of a role that the node reports as applied.
func (c *configurer) applied(role string) string {
	c.t.Helper()
	var n api.Node
	if err := c.ask("/v1/nodes/"+c.name, &n); err != nil {
		c.t.Fatal(err)
	}
	status, err := kick.ParseStatus(n.Kick)
	if err != nil || len(status.Actions) != 1 {
		c.t.Fatalf("node %s reports of its actions %s, %v", c.name, n.Kick, err)
	}
	return status.Actions[0].Applied[role].Hash
}

// handed is the hash of the members of a role that a run got.
func (c *configurer) handed(run, role string) string {
	c.t.Helper()
	data, err := os.ReadFile(c.path(c.name, "node", c.name, "runs", run, "members.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	var file kick.MembersFile
	if err := json.Unmarshal(data, &file); err != nil {
		c.t.Fatal(err)
	}
	return file.Revisions[role]
}

func TestRunOfAKilledAgentEndsNormally(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		exit    int
		outcome kick.Outcome
		away    bool // until the node is gone
	}{
		{"succeeds", 0, kick.Succeeded, false},
		{"succeeds when gone", 0, kick.Succeeded, true},
		{"fails when gone", 7, kick.Failed, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t, swift...)
			s.controller()
			lb := s.configurer("lb", "web")
			s.member("web1", "web")
			s.converged(2)
			want := lb.applied("web")

			lb.hold()
			lb.exits(test.exit)
			s.member("web2", "web")
			run := lb.started(2)
			if run.members != "web1,web2" {
				t.Errorf("the second run got %q, want web1 and web2", run.members)
			}
			before := s.now()
			lb.agent.kill()
			s.member("web3", "web")
			s.member("web4", "web")
			s.event("web4", before, api.EventJoined)
			if test.away {
				s.event("lb", before, api.EventGone)
			}
			lb.release()
			lb.ended(2) // while no agent runs
			lb.hold()
			lb.exits(0)
			lb.restart()
			lb.started(3)

			s.until("the run's outcome", func() string {
				runs := s.runs()
				i := slices.IndexFunc(runs, func(r api.Run) bool { return r.ID == run.id })
				if i < 0 || runs[i].Outcome != test.outcome || runs[i].Exit != test.exit ||
					runs[i].Output != "configuring with web1 web2\nconfigured\n" {
					return fmt.Sprintf("%+v", runs)
				}
				return ""
			})
			if test.outcome == kick.Succeeded {
				want = lb.handed(run.id, "web")
			}
			if got := lb.applied("web"); got != want {
				t.Errorf("after a run that %s the node has applied %s, want %s", test.outcome, got, want)
			}
			lb.release()
			s.converged(5)
			if runs := lb.record(); len(runs) != 3 || runs[2].members != "web1,web2,web3,web4" {
				t.Errorf("the runs were %+v; want a third, with all four", runs)
			}
		})
	}
}

func TestAgentsKilledAmidChangesRunOneThingAtATime(t *testing.T) {
	s := newSite(t, swift...)
	s.controller()
	lb := s.configurer("lb", "web")
	addr := freeAddr(t)
	s.write("switches/about", "a file here makes the node of its name ready")
	s.start("server", s.actor, "serve", addr, "server", s.path("switches"))
	// so many that the guard does not hold two
	nodes := []string{"web1", "web2", "web3", "web4", "web5", "web6", "web7", "web8"}
	for _, name := range nodes {
		s.write("switches/"+name, "")
		s.agent(name, "--role", "web", "--fact", "port=80", "--ready", "http://"+addr+"/ready/"+name)
	}
	lb.started(1)
	s.converged(9)
	for round := range 6 {
		n, before := len(lb.record()), s.now()
		if round%3 == 0 {
			lb.hold()
		}
		ready := nodes
		for _, name := range nodes[6:] {
			if round%2 == 1 {
				s.write("switches/"+name, "")
			} else {
				s.remove("switches/" + name)
				ready = nodes[:6]
			}
		}
		switch round % 3 {
		case 0: // during a run
			lb.started(n + 1)
		case 1: // when a run starts
			s.event("lb", before, api.EventKicked)
		case 2: // while the changes are being sent
		}
		lb.agent.kill()
		lb.restart()
		if round%3 == 0 {
			s.event("lb", before, api.EventBack, api.EventJoined)
			if runs := lb.record(); len(runs) != n+1 || runs[n].over {
				t.Errorf("runs %+v; want one in progress", runs[n:])
			}
			lb.release()
		}
		s.until("the rest was applied", func() string {
			runs := lb.record()
			last := runs[len(runs)-1]
			return objection(!last.over || last.members != strings.Join(ready, ","), runs[n:])
		})
	}
	s.converged(9)
	runs := lb.record()
	if got := runs[len(runs)-1].members; got != strings.Join(nodes, ",") {
		t.Errorf("the last run got %q, want all", got)
	}
	if _, err := os.Stat(s.path("lb", "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a run has not ended: %v", err)
	}
}
