package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kicker/controller"
	"kicker/controller/api"
)

const (
	lanPrefix = "kicker-" // PID-NUMBER-HOST follows
	namespace = "/run/netns"
)

// lan is a site whose hosts are network namespaces: each has a link of its own to one of two switches, which are joined by a trunk.
// No packet leaves the machine.
type lan struct {
	*site
	number int
	prefix string
	hosts  []string // in the order of their addresses
	agents []*lanAgent
	server string // of the bus, as the agents are told

	since int64 // the number of the newest event before the fault
	began time.Time
}

// lanAgent is an agent, and how to start another in its place.
type lanAgent struct {
	*daemon
	again func() *daemon
}

func newLAN(t *testing.T, number int, settings ...string) *lan {
	t.Helper()
	program, err := builtKicker()
	if err != nil {
		t.Fatal(err)
	}
	l := &lan{number: number, prefix: fmt.Sprintf("%s%d-%d-", lanPrefix, os.Getpid(), number)}
	t.Cleanup(func() { // after the site's end
		if err := sweep(func(ns string) bool { return strings.HasPrefix(ns, l.prefix) }); err != nil {
			t.Error(err)
		}
	})
	l.site = siteOf(t, program, settings...)
	l.env = append(l.env, "KICKER_TOKEN_FILE="+l.path("secret"))
	l.write("secret", "known to the hosts of this lan\n")
	l.ip("netns", "add", l.prefix+"switches")
	for _, name := range []string{"left", "right"} {
		l.at("switches", "link", "add", name, "type", "bridge")
		l.at("switches", "link", "set", name, "up")
	}
	l.at("switches", "link", "add", "trunk", "type", "veth", "peer", "name", "knurt")
	l.at("switches", "link", "set", "trunk", "master", "left", "up")
	l.at("switches", "link", "set", "knurt", "master", "right", "up")
	return l
}

// sweep removes namespaces, and ends what still runs in them.
func sweep(ours func(ns string) bool) error {
	entries, err := os.ReadDir(namespace)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // none was ever made
	}
	var failed []error
	for _, e := range entries {
		ns := e.Name()
		if !strings.HasPrefix(ns, lanPrefix) || !ours(ns) {
			continue
		}
		pids, _ := exec.Command("ip", "netns", "pids", ns).Output() // whoever is left out keeps nothing of ours
		for _, field := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(field); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
		if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
			failed = append(failed, fmt.Errorf("remove namespace %s: %w\n%s", ns, err, out))
		}
	}
	return errors.Join(append(failed, err)...)
}

// abandoned reports whether the test that made a namespace has ended without removing it.
func abandoned(ns string) bool {
	owner, _, _ := strings.Cut(strings.TrimPrefix(ns, lanPrefix), "-")
	pid, err := strconv.Atoi(owner)
	return err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func (l *lan) ip(args ...string) { l.t.Helper(); l.must("ip", args...) }

// at changes the network of a host.
func (l *lan) at(host string, args ...string) {
	l.t.Helper()
	l.ip(append([]string{"-n", l.prefix + host}, args...)...)
}

func (l *lan) must(program string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// host makes a host on the left switch, unless told otherwise.
func (l *lan) host(name string, on ...string) {
	l.t.Helper()
	l.hosts = append(l.hosts, name)
	bridge := append(on, "left")[0]
	l.ip("netns", "add", l.prefix+name)
	l.at("switches", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", l.prefix+name)
	l.at("switches", "link", "set", name, "master", bridge, "up")
	l.at(name, "addr", "add", l.addr(name)+"/24", "dev", "eth0")
	l.at(name, "link", "set", "eth0", "up")
	l.at(name, "link", "set", "lo", "up")
}

func (l *lan) addr(host string) string {
	return fmt.Sprintf("10.99.%d.%d", l.number, slices.Index(l.hosts, host)+1)
}

// on starts a daemon on a host.
func (l *lan) on(host, name, program string, args ...string) *daemon {
	l.t.Helper()
	return l.start(name, "ip", append([]string{"netns", "exec", l.prefix + host, program}, args...)...)
}

// controlled makes the host of the controller, and starts it with its own bus.
func (l *lan) controlled() *daemon {
	l.t.Helper()
	l.host("ctl")
	l.server = l.addr("ctl") + ":7422"
	return l.control()
}

// control starts the controller on its host.
func (l *lan) control() *daemon {
	l.t.Helper()
	return l.on("ctl", "controller", l.program, "controller", "--state-dir", l.path("controller"), "--listen", "0.0.0.0:7422")
}

// crew makes hosts with agents, two balancers and six web servers, and waits until all of it has converged.
func (l *lan) crew() {
	l.t.Helper()
	for _, name := range []string{"lb1", "lb2"} {
		l.host(name)
		l.balancer(name, l.server)
	}
	for n := 1; n <= 6; n++ {
		name := fmt.Sprintf("web%d", n)
		l.host(name)
		l.web(name, l.server)
	}
	l.converged(8)
}

func (l *lan) balancer(name, server string) {
	l.t.Helper()
	l.write(name+"/record", "")
	l.node(name, "--server", server, "--role", "lb", "--depends-on", "web", "--action", fmt.Sprintf("configure='%s' configure '%s'", l.actor, l.path(name)))
}

// web is a web server: the agent, and a service that a balancer can reach.
func (l *lan) web(name, server string) {
	l.t.Helper()
	l.write(name+"/ready", "")
	l.on(name, name+"-service", l.actor, "serve", l.addr(name)+":80", name, l.path(name))
	l.node(name, "--server", server, "--role", "web", "--fact", "ipaddress="+l.addr(name), "--fact", "port=80")
}

func (l *lan) node(name string, args ...string) {
	l.t.Helper()
	again := func() *daemon {
		return l.on(name, name, l.program, append([]string{"agent", "--name", name, "--state-dir", l.path(name)}, args...)...)
	}
	l.agents = append(l.agents, &lanAgent{again(), again})
}

func (l *lan) agentOf(name string) *lanAgent {
	return l.agents[slices.IndexFunc(l.agents, func(a *lanAgent) bool { return a.name == name })]
}

// Faults, and their ends.

func (l *lan) cut(host string)  { l.t.Helper(); l.at("switches", "link", "set", host, "down") }
func (l *lan) mend(host string) { l.t.Helper(); l.at("switches", "link", "set", host, "up") }

// deaf makes two hosts lose whatever one sends to the other.
func (l *lan) deaf(host, other string) {
	l.t.Helper()
	l.at(host, "route", "add", "blackhole", l.addr(other))
	l.at(other, "route", "add", "blackhole", l.addr(host))
}

func (l *lan) hears(host, other string) {
	l.t.Helper()
	l.at(host, "route", "del", "blackhole", l.addr(other))
	l.at(other, "route", "del", "blackhole", l.addr(host))
}

// lossy makes every link lose 2 % of its packets, both ways. A filter of four instructions sends them to a queue without room: not
// every kernel has netem.
func (l *lan) lossy() {
	l.t.Helper()
	const share = 2 * (1 << 32) / 100
	program := fmt.Sprintf("4,32 0 0 %d,53 0 1 %d,6 0 0 0,6 0 0 %d", 0xfffff000+56, share, 0xffffffff) // a random number; less than share?
	for _, end := range l.ends() {
		for _, command := range []string{
			"qdisc add dev DEV root handle 1: htb default 10 r2q 100000",
			"class add dev DEV parent 1: classid 1:10 htb rate 10gbit",
			"class add dev DEV parent 1: classid 1:20 htb rate 10gbit",
			"qdisc add dev DEV parent 1:20 handle 20: pfifo limit 0",
		} {
			l.must("tc", append([]string{"-n", end.ns}, strings.Fields(strings.ReplaceAll(command, "DEV", end.dev))...)...)
		}
		l.must("tc", "-n", end.ns, "filter", "add", "dev", end.dev, "parent", "1:", "protocol", "all", "bpf", "bytecode", program, "flowid", "1:20")
	}
}

// lost is how many packets were lost since lossy, of how many.
func (l *lan) lost() (lost, of int) {
	l.t.Helper()
	counts := regexp.MustCompile(`qdisc htb .*\n Sent \d+ bytes (\d+) pkt \(dropped (\d+),`)
	for _, end := range l.ends() {
		found := counts.FindStringSubmatch(l.must("tc", "-n", end.ns, "-s", "qdisc", "show", "dev", end.dev))
		if found == nil {
			l.t.Fatalf("no queue at %s of %s", end.dev, end.ns)
		}
		passed, _ := strconv.Atoi(found[1])
		dropped, _ := strconv.Atoi(found[2])
		lost, of = lost+dropped, of+passed+dropped
	}
	return lost, of
}

type linkEnd struct{ ns, dev string }

func (l *lan) ends() []linkEnd {
	var ends []linkEnd
	for _, h := range l.hosts {
		ends = append(ends, linkEnd{l.prefix + h, "eth0"}, linkEnd{l.prefix + "switches", h})
	}
	return ends
}

// What came of it.

// mark is the moment before a fault.
func (l *lan) mark() { l.t.Helper(); l.since, l.began = l.now(), time.Now() }

// calm waits until the last kick is so long ago that a change is settled after its own second.
func (l *lan) calm() {
	l.t.Helper()
	l.until("calm", func() string {
		for _, e := range l.events() {
			if least := controller.DefaultConfig().SettleMin; e.Kind == api.EventKicked && time.Since(e.Time) < least {
				return e.Text
			}
		}
		return ""
	})
}

// lasts waits until the fault has lasted for so long: its length is what the scenario is about.
func (l *lan) lasts(d time.Duration) { time.Sleep(time.Until(l.began.Add(d))) }

func (l *lan) events() []api.Event {
	l.t.Helper()
	var events []api.Event
	if err := l.ask(fmt.Sprintf("/v1/events?since=%d", l.since), &events); err != nil {
		l.t.Fatal(err)
	}
	return events
}

// removed is who ceased to be a member of a role since the mark.
func (l *lan) removed() []string {
	l.t.Helper()
	var all []string
	for _, e := range l.events() {
		if e.Kind != api.EventRoleChanged {
			continue
		}
		for _, word := range strings.Fields(e.Text) {
			if node, ok := strings.CutPrefix(word, "-"); ok {
				all = append(all, node)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// kicked is who was kicked since the mark.
func (l *lan) kicked() []string {
	l.t.Helper()
	var all []string
	for _, e := range l.events() {
		if e.Kind == api.EventKicked {
			all = append(all, e.Node)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// first is how long after the mark something was heard of.
func (l *lan) first(kind string) string {
	l.t.Helper()
	for _, e := range l.events() {
		if e.Kind == kind {
			return inSeconds(e.Time.Sub(l.began))
		}
	}
	l.t.Fatalf("no event %q since the mark", kind)
	return ""
}

func inSeconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// says is the verdict of `kicker status`: what comes before its numbers.
func (l *lan) says(args ...string) string {
	l.t.Helper()
	verdict, _, _ := strings.Cut(l.expect(0, nil, append([]string{"status"}, args...)...).stdout, "\ncontroller ")
	head, problems, _ := strings.Cut(strings.TrimPrefix(verdict, "cluster "+l.cluster+": "), "\n")
	if problems == "" {
		return head
	}
	var all []string
	for line := range strings.Lines(problems) {
		all = append(all, strings.TrimSpace(line))
	}
	return inCommon.ReplaceAllString(strings.Join(all, "; "), "$1")
}

// inCommon is the facts that the lost share: here those of the machine that all hosts are on.
var inCommon = regexp.MustCompile(`, all [^;|]*?(; |\. If they)`)

// broker is an actor: a NATS server on ADDR, in a cluster with the one on a route, if any.
func broker(addr string, routes ...string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	options := &server.Options{ServerName: host, Host: host, Port: n, NoLog: true}
	if len(routes) > 0 {
		options.Cluster = server.ClusterOpts{Name: "kicker", Host: host, Port: 6222}
		options.Routes = server.RoutesFromStr("nats://" + routes[0] + ":6222")
	}
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	s.Start()
	s.WaitForShutdown() // by a signal
	return nil
}

// flood is an actor: what others do on a bus.
func flood(url string) error {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := nc.Subscribe("load", func(*nats.Msg) {}); err != nil {
		return err
	}
	payload := make([]byte, 1<<10)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		for range 20 {
			_ = nc.Publish("load", payload) // there is none for a moment
		}
	}
}

// each does something to all agents at once.
func (l *lan) each(do func(a *lanAgent)) {
	var doing sync.WaitGroup
	for _, a := range l.agents {
		doing.Go(func() { do(a) })
	}
	doing.Wait()
}

var faultsPage = filepath.Join("..", "..", "..", "..", "docs", "explanation", "faults.md")
