package daemon

import (
	"bufio"
	"errors"
	"io/fs"
	"kicker/controller/api"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestKilledControllerKicksNobodyWhenItIsBack(t *testing.T) {
	s := newSite(t, swift...)
	ctl := s.controller()
	lb, backup := s.configurer("lb", "web"), s.configurer("backup", "db")
	gone := s.member("web1", "web")
	s.member("web2", "web")
	s.member("db1", "db")
	s.converged(5)
	runs, others := len(lb.record()), len(backup.record())

	ctl.kill()
	ctl = s.controller()
	s.converged(5)
	if kicks := s.kicks(); kicks != 0 || len(lb.record()) != runs || len(backup.record()) != others {
		t.Errorf("it sent %d kicks, and nothing had changed: %+v", kicks, s.runs())
	}

	ctl.kill()
	gone.kill()
	s.member("web3", "web")
	s.controller()
	s.until("lb knows web2 and web3", func() string {
		record := lb.record()
		return objection(record[len(record)-1].told != "web2,web3", record)
	})
	s.converged(5)
	if got := len(backup.record()) - others; got != 0 {
		t.Errorf("backup was kicked %d times, and no db had changed", got)
	}
}

// kicks is how many kicks the controller has sent, whatever was answered.
func (s *site) kicks() int {
	s.t.Helper()
	r, err := s.api.Get("http://kicker/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	total := 0
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "kicker_kicks_total{"); ok {
			n, err := strconv.Atoi(rest[strings.LastIndexByte(rest, ' ')+1:])
			if err != nil {
				s.t.Fatal(err)
			}
			total += n
		}
	}
	return total
}

func TestDaemonsStopCleanlyWhenTold(t *testing.T) {
	s := newSite(t, swift...)
	ctl := s.controller()
	lb := s.configurer("lb", "web")
	web1 := s.member("web1", "web")
	lb.hold()
	lb.started(1)
	follower := s.start("follower", s.program, "events", "-f")
	s.until("events are followed", func() string {
		log, err := os.ReadFile(follower.log)
		return objection(err != nil || len(log) == 0, err)
	})

	mustStop := func(d *daemon) {
		t.Helper()
		began := time.Now()
		d.stop()
		if code, took := d.cmd.ProcessState.ExitCode(), time.Since(began); code != 0 || took > 5*time.Second {
			t.Errorf("%s exited with %d, %s after SIGTERM, want 0 within 5s", d.name, code, took)
		}
	}
	mustStop(lb.agent) // in mid-run
	s.event("lb", 0, api.EventRestarting)
	mustStop(ctl)
	if _, err := os.Lstat(s.path("controller", "api.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the API's socket is left behind: %v", err)
	}
	mustStop(web1) // without a bus
	if lb.record()[0].over {
		t.Error("lb's run has ended before it was let go")
	}
	lb.release()
	lb.ended(1)
}
