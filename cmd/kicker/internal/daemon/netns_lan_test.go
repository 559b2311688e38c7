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

// lan is a site whose hosts are network namespaces. Each has its own link to one of two switches, which a trunk
// connects. No packet leaves the machine.
type lan struct {
	*site
	number int
	prefix string
	hosts  []string // in the order of their addresses
	agents []*lanAgent
	server string // of the bus, for the agents

	since int64 // the number of the newest event before the fault
	began time.Time
}

// lanAgent is an agent, and a function to start it again.
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

// sweep removes namespaces, and ends the processes in them.
func sweep(ours func(ns string) bool) error {
	entries, err := os.ReadDir(namespace)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is none
	}
	var failed []error
	for _, e := range entries {
		ns := e.Name()
		if !strings.HasPrefix(ns, lanPrefix) || !ours(ns) {
			continue
		}
		pids, _ := exec.Command("ip", "netns", "pids", ns).Output() // a process that is missed has nothing of ours
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

// abandoned reports whether the test process that made a namespace has ended.
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

// host makes a host on a switch, by default on the left one.
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

// controlled makes the host of the controller, and starts the controller with its own bus.
func (l *lan) controlled() *daemon {
	l.t.Helper()
	l.host("ctl")
	l.server = l.addr("ctl") + ":7422"
	return l.control()
}

// control starts the controller on its host.
func (l *lan) control() *daemon {
	l.t.Helper()
	return l.on("ctl", "controller", l.program, "controller", "--state-dir", l.path("controller"), "--listen",
		"0.0.0.0:7422")
}

// crew makes two balancers and six web servers, each on a host with an agent, and waits until all is converged.
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
	l.node(name, "--server", server, "--role", "lb", "--depends-on", "web", "--action",
		fmt.Sprintf("configure='%s' configure '%s'", l.actor, l.path(name)))
}

// web is a web server: an agent, and a service that balancers can reach.
func (l *lan) web(name, server string) {
	l.t.Helper()
	l.write(name+"/ready", "")
	l.on(name, name+"-service", l.actor, "serve", l.addr(name)+":80", name, l.path(name))
	l.node(name, "--server", server, "--role", "web", "--fact", "ipaddress="+l.addr(name), "--fact", "port=80")
}

func (l *lan) node(name string, args ...string) {
	l.t.Helper()
	again := func() *daemon {
		return l.on(name, name, l.program,
			append([]string{"agent", "--name", name, "--state-dir", l.path(name)}, args...)...)
	}
	l.agents = append(l.agents, &lanAgent{again(), again})
}

func (l *lan) agentOf(name string) *lanAgent {
	return l.agents[slices.IndexFunc(l.agents, func(a *lanAgent) bool { return a.name == name })]
}

// The faults and their ends.

func (l *lan) cut(host string)  { l.t.Helper(); l.at("switches", "link", "set", host, "down") }
func (l *lan) mend(host string) { l.t.Helper(); l.at("switches", "link", "set", host, "up") }

// separate makes two hosts lose what they send to each other.
func (l *lan) separate(host, other string) {
	l.t.Helper()
	l.at(host, "route", "add", "blackhole", l.addr(other))
	l.at(other, "route", "add", "blackhole", l.addr(host))
}

func (l *lan) rejoin(host, other string) {
	l.t.Helper()
	l.at(host, "route", "del", "blackhole", l.addr(other))
	l.at(other, "route", "del", "blackhole", l.addr(host))
}

// lossy makes every link lose 2 % of its packets, both ways. Not every kernel has netem, so a filter of four
// instructions sends them to a queue without room.
func (l *lan) lossy() {
	l.t.Helper()
	const share = 2 * (1 << 32) / 100
	// is a random number less than share?
	program := fmt.Sprintf("4,32 0 0 %d,53 0 1 %d,6 0 0 0,6 0 0 %d", 0xfffff000+56, share, 0xffffffff)
	for _, end := range l.ends() {
		for _, command := range []string{
			"qdisc add dev DEV root handle 1: htb default 10 r2q 100000",
			"class add dev DEV parent 1: classid 1:10 htb rate 10gbit",
			"class add dev DEV parent 1: classid 1:20 htb rate 10gbit",
			"qdisc add dev DEV parent 1:20 handle 20: pfifo limit 0",
		} {
			l.must("tc", append([]string{"-n", end.ns},
				strings.Fields(strings.ReplaceAll(command, "DEV", end.dev))...)...)
		}
		l.must("tc", "-n", end.ns, "filter", "add", "dev", end.dev, "parent", "1:", "protocol", "all", "bpf",
			"bytecode", program, "flowid", "1:20")
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

// What was seen.

// mark notes the moment before a fault.
func (l *lan) mark() { l.t.Helper(); l.since, l.began = l.now(), time.Now() }

// calm waits until the last kick is long ago: then the next change settles in a second.
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

// lasts waits until the fault has lasted for d.
func (l *lan) lasts(d time.Duration) { time.Sleep(time.Until(l.began.Add(d))) }

func (l *lan) events() []api.Event {
	l.t.Helper()
	var events []api.Event
	if err := l.ask(fmt.Sprintf("/v1/events?since=%d", l.since), &events); err != nil {
		l.t.Fatal(err)
	}
	return events
}

// removed is the nodes that stopped being members of a role since the mark.
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

// kicked is the nodes that were kicked since the mark.
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

// first is how long after the mark the first event of a kind came.
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

// says is what `kicker status` says of problems, without the lines on what to do.
func (l *lan) says(args ...string) string {
	l.t.Helper()
	verdict, _, _ := strings.Cut(l.expect(0, nil, append([]string{"status"}, args...)...).stdout, "\ncontroller ")
	head, problems, _ := strings.Cut(strings.TrimPrefix(verdict, "cluster "+l.cluster+": "), "\n")
	if problems == "" {
		return head
	}
	var all []string
	for line := range strings.Lines(problems) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "next:") && !strings.HasPrefix(line, "do:") {
			all = append(all, began.ReplaceAllString(line, ""))
		}
	}
	return inCommon.ReplaceAllString(strings.Join(all, "; "), "$1")
}

var (
	began = regexp.MustCompile(` \(began \w+ ago\)$`)
	// inCommon is the facts that lost nodes share: here those of the machine that all hosts are on.
	inCommon = regexp.MustCompile(`, all [^;|]*?(; |\. If they|$)`)
)

// broker is an actor: a NATS server on addr, in a cluster with the one at routes, if any.
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
	s.WaitForShutdown() // after a signal
	return nil
}

// flood is an actor: other traffic on a bus.
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
			_ = nc.Publish("load", payload) // fails while the bus is down
		}
	}
}

// each does something with all agents at once.
func (l *lan) each(do func(a *lanAgent)) {
	var doing sync.WaitGroup
	for _, a := range l.agents {
		doing.Go(func() { do(a) })
	}
	doing.Wait()
}

var faultsPage = filepath.Join("..", "..", "..", "..", "docs", "explanation", "faults.md")
