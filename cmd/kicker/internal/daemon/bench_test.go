package daemon

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// These benchmarks measure the program as users have it, in its own processes. Of several operations the number is the
// median. docs/explanation/performance.md explains them.

// shippedKicker is the program as `make build` makes it. It lies beside the programs that testscript.Main makes and
// removes.
var shippedKicker = sync.OnceValues(func() (string, error) {
	actor, err := exec.LookPath("actor")
	if err != nil {
		return "", err
	}
	shipped := filepath.Join(filepath.Dir(actor), "shipped", "kicker")
	if out, err := exec.Command("make", "-C", "../../../..", "build", "BIN="+shipped).CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return shipped, nil
})

// benchSite is a site with kicker's default settings.
func benchSite(b *testing.B) *site {
	b.Helper()
	program, err := shippedKicker()
	if err != nil {
		b.Fatal(err)
	}
	return siteOf(b, program)
}

func BenchmarkNodeStartsAndLeaves(b *testing.B) {
	s := benchSite(b)
	s.controller("--settle", "0")
	s.member("web", "web")
	acted := s.dependent("lb", "web")
	s.converged(2)
	var started, beaten, left, said []time.Duration
	for i := 0; b.Loop(); i++ {
		web := fmt.Sprintf("web%d", i)
		beat, leave := s.firstBeat(web, false), s.firstBeat(web, true)

		began := time.Now()
		agent := s.member(web, "web")
		action := acted(" +" + web)
		started, beaten = append(started, action.Sub(began)), append(beaten, action.Sub(<-beat))
		s.converged(3)

		began = time.Now()
		leaving := s.start(web+"-leave", s.program, "leave", "--name", web)
		action = acted(" -" + web)
		left, said = append(left, action.Sub(began)), append(said, action.Sub(<-leave))
		<-leaving.done
		agent.stop()
		s.converged(2)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(started), "ms-start-to-action")
	b.ReportMetric(milliseconds(beaten), "ms-beat-to-action")
	b.ReportMetric(milliseconds(left), "ms-leave-to-action")
	b.ReportMetric(milliseconds(said), "ms-leaving-beat-to-action")
}

func BenchmarkNodeDies(b *testing.B) {
	b.Run("killed", func(b *testing.B) { nodeDies(b, syscall.SIGKILL) })
	b.Run("silent/gone-after=3.5s", func(b *testing.B) { nodeDies(b, syscall.SIGSTOP, "--gone-after", "3.5s") })
}

func nodeDies(b *testing.B, by syscall.Signal, args ...string) {
	s := benchSite(b)
	s.controller(args...)
	const together = 5 // nodes that wait for calm together; each has its own dependent
	var pairs []func() time.Duration
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		if i%together == 0 {
			pairs = nil
			for n := range together {
				web := fmt.Sprintf("web%d", i+n)
				acted := s.dependent("lb-"+web, web)
				s.member("other-"+web, web) // else the guard would hold the last member
				agent := s.member(web, web)
				pairs = append(pairs, func() time.Duration {
					died := time.Now()
					if err := agent.cmd.Process.Signal(by); err != nil {
						b.Fatal(err)
					}
					action := acted(" -" + web)
					agent.kill()
					return action.Sub(died)
				})
			}
			s.converged(2*i + 3*together)
			time.Sleep(controller.DefaultConfig().SettleMin)
		}
		took = append(took, pairs[i%together]())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(took), "ms-to-action")
	b.ReportMetric(milliseconds([]time.Duration{slices.Max(took)}), "ms-to-action-at-most")
}

// The runtime collects garbage every two minutes at least, and touches much of the program then.
func BenchmarkIdleAgent(b *testing.B) {
	s := benchSite(b)
	s.controller()
	agent := s.agent("web", "--role", "web", "--depends-on", "db", "--action", "reload=true")
	began := time.Now()
	for b.Loop() {
		for _, age := range []time.Duration{30 * time.Second, 150 * time.Second} {
			time.Sleep(time.Until(began.Add(age)))
			s.reportMemory(b, agent, fmt.Sprintf("-after-%.0fs", age.Seconds()))
		}
	}
	b.ReportMetric(0, "ns/op")
}

func (s *site) reportMemory(b *testing.B, d *daemon, suffix string) {
	for line, unit := range map[string]string{"VmRSS": "MB-resident", "RssAnon": "MB-private"} {
		b.ReportMetric(float64(resident(b, d.cmd.Process.Pid, line))/1000, unit+suffix)
	}
}

// resident is a line of /proc/PID/status, in kB.
func resident(t testing.TB, pid int, line string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\n"+line+":")
	var kB int
	if _, err := fmt.Sscan(after, &kB); err != nil {
		t.Fatalf("%s of process %d: %v", line, pid, err)
	}
	return kB
}

// Each node has one of 50 roles and depends on the next one. All send a heartbeat a second, over one connection.
func BenchmarkController(b *testing.B) {
	for _, nodes := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s := benchSite(b)
			d := s.controller()
			f := &fleet{site: s, b: b, nc: s.visit(), nodes: nodes}
			f.answerForFacts()
			f.setApplied(nil)
			var published []api.Role
			f.beat(func() bool { return s.ask("/v1/roles", &published) == nil && len(published) == fleetRoles })
			current := map[string]kick.Revision{}
			for _, r := range published {
				current[r.Name] = r.Revision
			}
			f.setApplied(current)
			var status api.Status
			f.beat(func() bool {
				return s.ask("/v1/status", &status) == nil && status.Actions[api.Converged] == nodes
			})
			var share []float64
			for b.Loop() {
				before, began := cpuTime(b, d), time.Now()
				f.beat(func() bool { return time.Since(began) > 20*time.Second })
				share = append(share, 100*(cpuTime(b, d)-before).Seconds()/time.Since(began).Seconds())
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(slices.Sorted(slices.Values(share))[len(share)/2], "%-of-a-core")
			s.reportMemory(b, d, "")
		})
	}
}

const fleetRoles = 50

// fleet is nodes that exist only as messages.
type fleet struct {
	*site
	b     *testing.B
	nc    *nats.Conn
	nodes int
	beats []inventory.Beat
}

func (f *fleet) name(i int) string { return fmt.Sprintf("node%d", i) }
func (f *fleet) role(i int) string { return fmt.Sprintf("role%d", i%fleetRoles) }

func (f *fleet) facts(i int) inventory.FactsMessage {
	return inventory.FactsMessage{
		V: inventory.Version, Node: f.name(i), Instance: "bench", Boot: "bench",
		Facts: inventory.Facts{"role": f.role(i), "ipaddress": "192.0.2.1", "port": i},
	}
}

// answerForFacts sends the facts of a node on request.
func (f *fleet) answerForFacts() {
	prefix := "kicker." + f.cluster + ".node."
	if _, err := f.nc.Subscribe(prefix+"*", func(m *nats.Msg) {
		var i int
		if _, err := fmt.Sscanf(strings.TrimPrefix(m.Subject, prefix), "node%d", &i); err != nil {
			f.b.Error(err)
		}
		f.publish("facts", i, f.facts(i))
	}); err != nil {
		f.b.Fatal(err)
	}
}

// setApplied makes the heartbeats: each node has applied these revisions, or has no action without them.
func (f *fleet) setApplied(applied map[string]kick.Revision) {
	f.beats = make([]inventory.Beat, f.nodes)
	for i := range f.beats {
		facts, needed := f.facts(i), f.role(i+1)
		f.beats[i] = inventory.Beat{
			V: inventory.Version, Node: facts.Node, Instance: facts.Instance, Boot: facts.Boot,
			Facts: facts.Facts.Digest(),
			Conn:  inventory.Conn{Server: "bench", Client: uint64(i)}, Ready: true, NextIn: 1000,
		}
		if applied != nil {
			f.beats[i].Kick = encodeStatus(kick.Status{Actions: []kick.ActionStatus{{
				Name: "reload", DependsOn: []string{needed}, Applied: map[string]kick.Revision{needed: applied[needed]},
			}}})
		}
	}
}

// beat sends a heartbeat of each node per second, one after the other, until enough, which it calls once a second.
func (f *fleet) beat(enough func() bool) {
	f.b.Helper()
	const parts = 100
	tick := time.NewTicker(time.Second / parts)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !enough(); {
		if time.Now().After(deadline) {
			f.b.Fatalf("%d nodes: not within %s", f.nodes, patience)
		}
		for part := range parts {
			for i := part; i < f.nodes; i += parts {
				f.publish("heartbeat", i, f.beats[i])
			}
			<-tick.C
		}
	}
}

func (f *fleet) publish(kind string, i int, message any) {
	data, err := json.Marshal(message)
	if err == nil {
		err = f.nc.Publish("kicker."+f.cluster+"."+kind+"."+f.name(i), data)
	}
	if err != nil {
		f.b.Error(err)
	}
}

// dependent starts a node with an action. The function that it returns waits for a run after a change, " +NODE" or "
// -NODE", and says when that started.
func (s *site) dependent(name, role string) (acted func(change string) time.Time) {
	s.t.Helper()
	pipe := s.path(name + ".pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		s.t.Fatal(err)
	}
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(name+".sh", fmt.Sprintf("echo \" +$KICKER_ADDED -$KICKER_REMOVED \" > %s\n", pipe))
	type run struct {
		changes string
		at      time.Time
	}
	runs := make(chan run, 64)
	go func() {
		defer close(runs)
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			runs <- run{lines.Text(), time.Now()}
		}
	}()
	s.t.Cleanup(func() {
		_ = reader.Close() // ends the reading
		for range runs {
		}
	})
	s.agent(name, "--role", "lb", "--depends-on", role, "--action", "note=/bin/sh "+s.path(name+".sh"))
	return func(change string) time.Time {
		s.t.Helper()
		timeout := time.After(patience)
		for {
			select {
			case r := <-runs:
				if strings.Contains(r.changes, change+" ") {
					return r.at
				}
			case <-timeout:
				s.t.Fatalf("%s: no run after%s within %s", name, change, patience)
			}
		}
	}
}

// firstBeat says when the first heartbeat of a node comes over the bus, or the first one that says that it leaves.
func (s *site) firstBeat(node string, leaving bool) <-chan time.Time {
	s.t.Helper()
	first := make(chan time.Time, 1)
	nc := s.visit()
	if _, err := nc.Subscribe("kicker."+s.cluster+".heartbeat."+node, func(m *nats.Msg) {
		var beat inventory.Beat
		if json.Unmarshal(m.Data, &beat) != nil || beat.Leaving != leaving {
			return
		}
		select {
		case first <- time.Now():
		default: // not the first
		}
	}); err != nil {
		s.t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		s.t.Fatal(err)
	}
	return first
}

// visit waits for the site's bus and connects to it until the test's end.
func (s *site) visit() *nats.Conn {
	s.t.Helper()
	var nc *nats.Conn
	s.until("the bus is up", func() string {
		var err error
		if nc, err = bus.Connect([]string{s.bus}, "", "bench"); err != nil {
			return err.Error()
		}
		return ""
	})
	s.t.Cleanup(nc.Close)
	return nc
}

// cpuTime is the processor time that a process has used.
func cpuTime(b *testing.B, d *daemon) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	var user, system int
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 wherever Linux runs Go
}

// milliseconds is the median of d.
func milliseconds(d []time.Duration) float64 {
	sorted := slices.Sorted(slices.Values(d))
	return float64(sorted[len(sorted)/2].Microseconds()) / 1000
}
