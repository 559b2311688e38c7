package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kicker/controller/api"
	"kicker/inventory"
)

var updateFaults = flag.Bool("update-faults", false, "write docs/explanation/faults.md anew; takes four minutes")

// hostFault is a fault of hosts or links, and its consequences.
type hostFault struct {
	name     string
	what     string // in the words of the page
	settings []string
	long     bool // played only when the page is written
	removed  []string
	kicked   []string
	play     func(l *lan) sighting
}

// sighting is what was seen during and after a fault.
type sighting struct {
	removed, kicked  []string
	took             string
	meanwhile, after string // what `kicker status` said
}

// facts are the parts that are the same each time.
func (s sighting) facts() []string {
	return []string{listed(s.removed), listed(s.kicked), cell(s.meanwhile), cell(s.after)}
}

func listed(of []string) string {
	if len(of) == 0 {
		return "none"
	}
	return strings.Join(of, ", ")
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

var (
	balancers = []string{"lb1", "lb2"}
	lastWeb   = []string{"web6"}
	half      = []string{"web4", "web5", "web6"}
)

var hostFaults = []hostFault{
	{name: "link down", what: "The link of one host of six goes down; `gone_after` is 3.5 s",
		settings: []string{"gone_after: 3500ms"},
		removed:  lastWeb, kicked: balancers, play: linkDown},
	{name: "suspended 8 s", what: "A host is suspended for 8 s", play: suspendedBriefly},
	{name: "suspended 30 s", what: "A host is suspended for 30 s", removed: lastWeb, kicked: balancers,
		play: suspendedForLong},
	{name: "loss", what: "Every link loses 2 % of its packets, both ways, for a minute", play: loss},
	{name: "half behind a dead link",
		what: "The link between the controller and half of a role is dead for 20 s, and balancers still reach that half", play: halfBehindDeadLink},
	{name: "probes", what: "The same for longer than three minutes", long: true, play: probes},
	{name: "controller disconnected", what: "The controller's host is disconnected from all others for 30 s",
		play: controllerCutOff},
	{name: "controller suspended", what: "The controller is suspended for 30 s", play: controllerSuspended},
	{name: "broker restarted", what: "The broker, an external one, is killed under load, and started again",
		play: brokerRestarted},
	{name: "agents upgraded", what: "The agent is upgraded on every node at once", play: upgradedEverywhere},
	{name: "parted", what: "A cluster of two brokers with a controller beside each is parted for 30 s, and on each side a web server leaves",
		removed: []string{"lb1", "lb2", "web3", "web6"}, kicked: balancers, play: parted},
}

func TestNetnsFaults(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the hosts are network namespaces, which only root may make: run sudo make test")
	}
	t.Parallel()
	if err := sweep(abandoned); err != nil {
		t.Fatal(err)
	}
	all := make([]sighting, len(hostFaults))
	var playing sync.WaitGroup // all at once: they mostly wait
	for i, f := range hostFaults {
		if f.long && !*updateFaults {
			continue
		}
		playing.Go(func() {
			t.Run(f.name, func(t *testing.T) {
				all[i] = f.play(newLAN(t, i+1, f.settings...))
				if diff := cmp.Diff([][]string{f.removed, f.kicked},
					[][]string{all[i].removed, all[i].kicked}); diff != "" {
					t.Errorf("removed and kicked (-want +got):\n%s", diff)
				}
			})
		})
	}
	playing.Wait()
	if t.Failed() {
		return
	}
	if *updateFaults {
		writeFaults(t, all)
		return
	}
	page, err := os.ReadFile(faultsPage)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range hostFaults {
		if all[i].took == "" {
			continue // not played
		}
		if diff := cmp.Diff(written(string(page), f.what), all[i].facts()); diff != "" {
			t.Errorf("%s: %s differs; -update-faults writes it anew (-page +seen):\n%s", f.what, faultsPage, diff)
		}
	}
}

const faultsText = `# Faults

What kicker does when machines and links fail. A test writes this page, with real processes: each host is a network
namespace with its own link to a switch, and the agents and the controller are the program as it is installed. They have
the default settings unless the row says otherwise. There are six web servers and two balancers that depend on them.

| What happens | Removed | Kicked | How long it took | ` + "`kicker status` meanwhile | `kicker status` afterwards" + ` |
|---|---|---|---|---|---|
`

const faultsMade = `
Removed are the nodes that stopped being members of a role for its dependents. A removed host is a member again when it
reports again, and its dependents are kicked once more; that is not in the table. A host is suspended by SIGSTOP to its
agent, the controller by SIGSTOP to itself. The status has no "next" and "do" lines here. In the last row each balancer is
kicked on its own side of the partition, because a web server leaves there. Each side also removes the balancer of the
other side: the guard does not hold one of two.

Made on %s with ` + "`go test ./cmd/kicker/internal/daemon -run Netns -update-faults`" + `, which needs root and takes four minutes,
on a machine with 2 cores. ` + "`make test`" + ` plays all rows but that of more than three minutes again, and compares everything but
the durations.

## Lists and runs

These faults are in nodes and in the configuration, not in the network. Each is played by the test in its row.

| What happens | What kicker does | Test |
|---|---|---|
| No web server is ready when the balancers report for the first time | No balancer is kicked, so none has an empty list. ` + "`kicker status`" + ` has the critical problem too_few_members. When the web servers are ready, each balancer is kicked once. | TestFirstContactNeverEmptiesABackend |
| A web server without the fact port joins | It is not a member, and ` + "`kicker status`" + ` names the fact. All runs succeed, and a server that dies then is removed as usual. | TestMemberWithoutAFactDelaysNobody |
| A web server has a fact with which every run fails, and another server dies meanwhile | The first one is quarantined after three failed runs. The dead one is removed from every list, and a third one that joins is added. | TestMemberThatBreaksEveryRunIsQuarantined |
| One web server of three dies, is back, and dies again, three times | It is removed each time, and nothing is held: it counts once. | TestNodeThatDiesAgainIsRemoved |
| The reload of one of two balancers hangs, and a web server dies | The other balancer waits until the run has ended, or is overdue: after five times the usual time, and at least a minute. The gate names the run and its deadline. | TestHungRunDelaysOthersUntilItsDeadline |
| The selector of a role gets a typo, and the controller reloads it | All removals are held, and no balancer is kicked. The hold names the reload and says what to undo. | TestMistypedSelectorIsHeldAndKicksNothing |
`

func writeFaults(t *testing.T, all []sighting) {
	var b strings.Builder
	b.WriteString(faultsText)
	for i, f := range hostFaults {
		facts := all[i].facts()
		fmt.Fprintf(&b, "| %s |\n",
			strings.Join(slices.Concat([]string{f.what}, facts[:2], []string{all[i].took}, facts[2:]), " | "))
	}
	fmt.Fprintf(&b, faultsMade, time.Now().Format(time.DateOnly))
	if err := os.WriteFile(faultsPage, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// written is the facts in the row of a fault.
func written(page, what string) []string {
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.Trim(line, "|\n "), " | ")
		if cells[0] == what && len(cells) == 6 {
			return slices.Delete(cells[1:], 2, 3)
		}
	}
	return nil
}

// healed waits until so many nodes are alive and converged, and adds the status after that.
func (l *lan) healed(s sighting, nodes int) sighting {
	l.t.Helper()
	l.converged(nodes)
	s.after = l.finally()
	return s
}

// untroubled is what was seen of a fault without consequences, after its end.
func (l *lan) untroubled(took, meanwhile string) sighting {
	l.t.Helper()
	over := time.Now()
	l.converged(len(l.agents))
	back := time.Since(over)
	if took == "" {
		took = fmt.Sprintf("all converged %s after its end", inSeconds(back))
	}
	after := l.finally()
	return sighting{l.removed(), l.kicked(), took, meanwhile, after}
}

// finally waits until all is well again, and is the status after that.
func (l *lan) finally() string {
	l.t.Helper()
	l.until("all is well", func() string { said := l.says(); return objection(said != "all is well", said) })
	return l.says()
}

// removal waits until both balancers were kicked.
func (l *lan) removal() sighting {
	l.t.Helper()
	l.until("the balancers are kicked",
		func() string { return objection(len(l.kicked()) < len(balancers), l.kicked()) })
	l.converged(len(l.agents) - 1)
	return sighting{removed: l.removed(), kicked: l.kicked(), meanwhile: l.says(),
		took: fmt.Sprintf("gone after %s, the first kick after %s", l.first(api.EventGone), l.first(api.EventKicked))}
}

func linkDown(l *lan) sighting {
	l.controlled()
	l.crew()
	l.calm()
	l.mark()
	l.cut("web6")
	s := l.removal()
	l.mend("web6")
	return l.healed(s, 8)
}

func suspendedBriefly(l *lan) sighting {
	l.controlled()
	l.crew()
	l.mark()
	l.signal(l.agentOf("web6").daemon, syscall.SIGSTOP)
	l.lasts(8 * time.Second)
	meanwhile := l.says()
	l.signal(l.agentOf("web6").daemon, syscall.SIGCONT)
	return l.untroubled("", meanwhile)
}

func suspendedForLong(l *lan) sighting {
	l.controlled()
	l.crew()
	l.calm()
	l.mark()
	l.signal(l.agentOf("web6").daemon, syscall.SIGSTOP)
	s := l.removal()
	l.lasts(30 * time.Second)
	l.signal(l.agentOf("web6").daemon, syscall.SIGCONT)
	return l.healed(s, 8)
}

func (l *lan) signal(d *daemon, sig syscall.Signal) {
	l.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		l.t.Fatal(err)
	}
}

func loss(l *lan) sighting {
	l.controlled()
	l.crew()
	l.mark()
	l.lossy()
	l.lasts(time.Minute)
	lost, of := l.lost()
	if lost*100 < of {
		l.t.Errorf("%d of %d packets were lost, want about 2 %%", lost, of)
	}
	return l.untroubled(fmt.Sprintf("lost %d packets of %d", lost, of), l.says())
}

func halfBehindDeadLink(l *lan) sighting { return behindDeadLink(l, "held", 20*time.Second) }

func probes(l *lan) sighting { return behindDeadLink(l, "reaches", 3*time.Minute) }

// behindDeadLink separates half of a role from the controller for some time, and until the status has a word.
func behindDeadLink(l *lan, word string, lasts time.Duration) sighting {
	former := l.controlled()
	l.crew()
	former.stop()
	l.control() // for this one all six were members from the start
	l.converged(8)
	l.mark()
	for _, name := range half {
		l.separate("ctl", name)
	}
	l.lasts(lasts)
	l.until("status says "+word,
		func() string { said := l.says(); return objection(!strings.Contains(said, word), said) })
	took := "held after " + l.first(api.EventHoldBegan)
	if word == "reaches" {
		took = "the probes after " + inSeconds(time.Since(l.began))
	}
	meanwhile := l.says()
	for _, name := range half {
		l.rejoin("ctl", name)
	}
	return l.untroubled(took, meanwhile)
}

func controllerCutOff(l *lan) sighting {
	l.controlled()
	l.crew()
	l.mark()
	l.cut("ctl")
	l.lasts(30 * time.Second)
	meanwhile := l.says()
	l.mend("ctl")
	return l.untroubled("", meanwhile)
}

func controllerSuspended(l *lan) sighting {
	ctl := l.controlled()
	l.crew()
	l.mark()
	l.signal(ctl, syscall.SIGSTOP)
	_, meanwhile, _ := strings.Cut(strings.TrimSpace(l.expect(exitTimeout, nil, "status").stderr), "api.sock: ")
	l.lasts(30 * time.Second)
	l.signal(ctl, syscall.SIGCONT)
	return l.untroubled("", meanwhile)
}

func brokerRestarted(l *lan) sighting {
	l.host("broker")
	l.host("ctl")
	l.host("other")
	l.server = "nats://" + l.addr("broker") + ":4222"
	start := func() *daemon { return l.on("broker", "broker", l.actor, "broker", l.addr("broker")+":4222") }
	b := start()
	l.on("other", "flood", l.actor, "flood", l.server)
	l.on("ctl", "controller", l.program, "controller", "--state-dir", l.path("controller"), "--bus-url", l.server)
	l.crew()
	l.mark()
	b.kill()
	start()
	l.until("the controller is not synced", func() string {
		var st api.Status
		err := l.ask("/v1/status", &st)
		return objection(err != nil || st.Sync.Open, st)
	})
	return l.untroubled("", l.says())
}

func upgradedEverywhere(l *lan) sighting {
	l.controlled()
	l.crew()
	l.mark()
	l.each(func(a *lanAgent) { a.stop() })
	meanwhile := l.says()
	for _, a := range l.agents {
		a.daemon = a.again()
	}
	return l.untroubled("", meanwhile)
}

// parted is two controllers on two sides of a partition, each with half of the nodes, a broker and a balancer.
func parted(l *lan) sighting {
	sides := []struct {
		bridge, controller string
		nodes              []string
	}{{"left", "controller", []string{"web1", "web2", "web3", "lb1"}},
		{"right", "standby", []string{"web4", "web5", "web6", "lb2"}}}
	l.host("ctl1", "left")
	l.host("ctl2", "right")
	urls := []string{"nats://" + l.addr("ctl1") + ":4222", "nats://" + l.addr("ctl2") + ":4222"}
	start := func(side int) {
		l.on(l.hosts[side], sides[side].controller, l.program, "controller", "--state-dir",
			l.path(sides[side].controller), "--bus-url", urls[side], "--standby")
	}
	for i, ctl := range l.hosts[:2] {
		l.on(ctl, ctl+"-broker", l.actor, "broker", l.addr(ctl)+":4222", l.addr(l.hosts[1-i]))
	}
	for i, side := range sides {
		for _, name := range side.nodes {
			l.host(name, side.bridge)
			if strings.HasPrefix(name, "lb") {
				l.balancer(name, urls[i])
			} else {
				l.web(name, urls[i])
			}
		}
	}
	start(0)
	l.until("the first controller leads", func() string {
		var st api.Status
		err := l.ask("/v1/status", &st)
		return objection(err != nil || !st.Sync.Open, err)
	})
	start(1)
	l.converged(8)
	other := &lan{site: l.beside("standby")}
	other.converged(8)
	if said := other.expect(0, nil, "status", "--api",
		"unix://"+l.path("standby", "api.sock")).stdout; !strings.Contains(said, "standby: controller") {
		l.t.Errorf("before the partition the standby says %q", said)
	}

	l.mark()
	other.mark()
	l.cut("trunk")
	l.until("the standby leads its side",
		func() string { return objection(!other.has(api.EventLeads), other.events()) })
	leads := other.first(api.EventLeads)
	standbySays := func() string { return other.says("--api", "unix://"+l.path("standby", "api.sock")) }
	for _, says := range []func() string{func() string { return l.says() }, standbySays} {
		l.until("the loss of the other side is held",
			func() string { said := says(); return objection(!strings.Contains(said, "held"), said) })
	}
	for i, side := range sides {
		l.until("a web server leaves", func() string {
			out := l.must("ip", "netns", "exec", l.prefix+side.nodes[2], "env", "KICKER_CONFIG="+l.path("kicker.yaml"),
				l.program, "leave", "--name", side.nodes[2], "--server", urls[i])
			return objection(strings.Contains(out, "error"), out)
		})
	}
	for _, c := range []*lan{l, other} {
		c.until("its balancer is kicked", func() string { return objection(len(c.kicked()) == 0, c.events()) })
	}
	l.lasts(30 * time.Second)
	if diff := cmp.Diff([][]string{{"lb1"}, {"lb2"}}, [][]string{l.kicked(), other.kicked()}); diff != "" {
		l.t.Errorf("nodes that the first and the second controller kicked (-want +got):\n%s", diff)
	}
	s := sighting{
		removed:   slices.Sorted(slices.Values(slices.Concat(l.removed(), other.removed()))),
		kicked:    slices.Sorted(slices.Values(slices.Concat(l.kicked(), other.kicked()))),
		took:      "the standby led after " + leads,
		meanwhile: fmt.Sprintf("left: %s<br>right: %s", l.says(), standbySays()),
	}
	l.mend("trunk")
	l.until("the second controller leads, as its epoch is higher, and all is converged", func() string {
		var first, second api.Status
		if err := errors.Join(l.ask("/v1/status", &first), other.ask("/v1/status", &second)); err != nil {
			return err.Error()
		}
		one := second.Leader == "" && first.Leader == second.Identity.ID
		return objection(!one || !second.Well || second.Nodes[inventory.Alive] != 6 ||
			second.Actions[api.Pending] > 0, []api.Status{first, second})
	})
	s.after = l.finally()
	return s
}

// beside is the site as another one of its controllers sees it.
func (l *lan) beside(name string) *site {
	s := *l.site
	s.api = http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", l.path(name, "api.sock"))
	}}}
	return &s
}

// has reports whether there is an event of a kind since the mark.
func (l *lan) has(kind string) bool {
	l.t.Helper()
	return slices.ContainsFunc(l.events(), func(e api.Event) bool { return e.Kind == kind })
}
