package daemon

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// atOnce lets all balancers reload at the same time, in tests that are not about budgets.
const atOnce = "roles: [{name: lb, budget: 100%}]"

// soon is how fast a killed node must be removed everywhere, on a slow machine.
const soon = 20 * time.Second

// howtoBackend is the template of docs/howto/haproxy.md.
func howtoBackend(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../../docs/howto/haproxy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## The template\n")
	var lines []string
	for line := range strings.Lines(section) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, code)
		} else if len(lines) > 0 {
			break
		}
	}
	text := strings.Join(lines, "")
	if !strings.HasPrefix(text, "backend web\n") {
		t.Fatalf("docs/howto/haproxy.md: the first example of section The template is %q, want the backend web", text)
	}
	return text
}

// front is several balancers with clients that never stop asking through each.
type front struct {
	*site
	each    []*balancer
	clients []*askers
	written []string // the file of each balancer, as a person wrote it
	kills   []killed
}

// killed is the time within which a node was killed.
type killed struct{ from, to time.Time }

// front starts a controller and n balancers, whose hand-written files have one server, static. settings are more keys
// of their action.
func (s *site) front(n int, dependsOn, backend string, settings ...string) *front {
	s.t.Helper()
	addr := freeAddr(s.t)
	s.write("static/ready", "")
	s.start("static-server", s.actor, "serve", addr, "static", s.path("static"))
	f := &front{site: s}
	s.t.Cleanup(func() {
		for _, c := range f.clients {
			c.stop()
		}
	})
	s.controller()
	for i := range n {
		hand := "backend web\n\tserver static " + addr + "\n"
		b := s.haproxy("lb"+strconv.Itoa(i+1), redispatch, hand)
		f.each = append(f.each, b)
		f.written = append(f.written, b.file())
		f.clients = append(f.clients, askEvery(25*time.Millisecond, b.addr, 0, 100*time.Millisecond))
	}
	for i, b := range f.each {
		f.clients[i].until(s, "static")
		b.follow(dependsOn, backend, settings...)
	}
	return f
}

// file is what is in HAProxy's file.
func (b *balancer) file() string {
	b.t.Helper()
	text, err := os.ReadFile(b.path(b.name + ".cfg"))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// mustBeAsWritten wants that no balancer's file was replaced.
func (f *front) mustBeAsWritten(when string) {
	f.t.Helper()
	for i, b := range f.each {
		if got := b.file(); got != f.written[i] {
			f.t.Fatalf("%s %s has replaced its file, which now ends with %q", when, b.name, lastLine(got))
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// uses waits until the servers of each balancer are exactly these.
func (f *front) uses(limit time.Duration, names ...string) {
	f.t.Helper()
	for _, b := range f.each {
		b.usesWithin(limit, names...)
	}
}

// crash kills the agent and the server of a node.
func (f *front) crash(w *webNode) {
	from := time.Now()
	w.crash()
	f.kills = append(f.kills, killed{from, time.Now()})
}

// removed kills a node, and wants each balancer to use exactly the others soon.
func (f *front) removed(w *webNode, others ...string) {
	f.t.Helper()
	f.crash(w)
	f.uses(soon, others...)
}

// finish wants that each balancer uses exactly these servers, that they answer, and that no request goes elsewhere. The
// only requests that failed were in progress when a node was killed.
func (f *front) finish(names ...string) {
	f.t.Helper()
	for i, b := range f.each {
		b.mustUse("at the end", names...)
		for _, line := range strings.Split(b.file(), "\n") {
			if words := strings.Fields(line); len(words) > 1 && words[0] == "server" && !slices.Contains(names, words[1]) {
				f.t.Errorf("at the end the file of %s has %q", b.name, line)
			}
		}
		c := f.clients[i]
		errorsBefore := b.connectionErrors()
		by, bad := c.answers()
		for _, name := range names {
			c.until(f.site, name)
		}
		byNow, badNow := c.answers()
		for server, n := range byNow {
			if n > by[server] && !slices.Contains(names, server) {
				f.t.Errorf("at the end %s still sends requests to %s", b.name, server)
			}
		}
		if len(badNow) > len(bad) {
			f.t.Errorf("at the end requests through %s fail: %q", b.name, badNow[len(bad):])
		}
		if n := b.connectionErrors() - errorsBefore; n > 0 {
			f.t.Errorf("at the end %s tried %d times to reach a server that is dead", b.name, n)
		}
		c.stop()
		f.checkFailures(b.name, c)
	}
}

// checkFailures wants that at most one request of each client failed at each kill, and none otherwise. HAProxy can not
// repeat a request that it has sent, and repeats all others elsewhere.
func (f *front) checkFailures(balancer string, c *askers) {
	f.t.Helper()
	const late = 500 * time.Millisecond // until HAProxy knows that a connection which it keeps open is closed
	atKill := make([]int, len(f.kills))
	_, bad := c.answers()
	for _, failed := range bad {
		i := slices.IndexFunc(f.kills, func(k killed) bool {
			return failed.ended.After(k.from) && failed.began.Before(k.to.Add(late))
		})
		if i < 0 {
			f.t.Errorf("through %s a request failed though no node was killed: %s", balancer, failed)
			continue
		}
		atKill[i]++
	}
	for i, n := range atKill {
		if n > c.number {
			f.t.Errorf("through %s %d requests failed at kill %d, want at most %d, one of each client: %q", balancer, n,
				i+1, c.number, bad[:min(len(bad), 10)])
		}
	}
	if c.good < 100 {
		f.t.Errorf("through %s only %d requests were answered, want at least 100", balancer, c.good)
	}
}

// connectionErrors is how often HAProxy could not reach a server, since its last reload.
func (b *balancer) connectionErrors() int {
	b.t.Helper()
	rows, err := b.statistics()
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, row := range rows {
		for _, column := range []string{"econ", "wretr", "wredis"} {
			count, err := strconv.Atoi(row[column])
			if err != nil {
				b.t.Fatalf("show stat: %s of %s is %q", column, row["svname"], row[column])
			}
			n += count
		}
	}
	return n
}

// alive waits until n nodes are alive.
func (s *site) alive(n int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d nodes alive", n), func() string {
		var st api.Status
		err := s.ask("/v1/status", &st)
		return objection(err != nil || !st.Sync.Open || st.Nodes[inventory.Alive] != n, st)
	})
}

// problem waits for a problem about an object whose name begins so, and returns it. It does meanwhile at each look.
func (s *site) problem(object string, so func(api.Problem) bool, meanwhile func()) api.Problem {
	s.t.Helper()
	var found api.Problem
	s.until("a problem about "+object, func() string {
		meanwhile()
		var st api.Status
		if err := s.ask("/v1/status", &st); err != nil {
			return err.Error()
		}
		i := slices.IndexFunc(st.Problems, func(p api.Problem) bool { return strings.HasPrefix(p.Object, object) && so(p) })
		if i < 0 {
			return fmt.Sprintf("the problems are %+v", st.Problems)
		}
		found = st.Problems[i]
		return ""
	})
	return found
}

// notMember waits until a node is no member, and wants `kicker explain` to have all these words. It does meanwhile at
// each look.
func (s *site) notMember(node string, meanwhile func(), words ...string) {
	s.t.Helper()
	s.until(node+" is no member", func() string {
		meanwhile()
		var e api.Explanation
		err := s.ask("/v1/nodes/"+node+"/explain", &e)
		return objection(err != nil || e.Member || len(e.NotMember) == 0, e)
	})
	s.explains(node, words...)
}

// explains wants `kicker explain` of a node to have all these words.
func (s *site) explains(node string, words ...string) {
	s.t.Helper()
	got := s.expect(0, nil, "explain", "node/"+node).stdout
	for _, w := range words {
		if !strings.Contains(got, w) {
			s.t.Errorf("explain node/%s has no %q:\n%s", node, w, got)
		}
	}
}

// notHeld wants that the guard has held nothing.
func (s *site) notHeld() {
	s.t.Helper()
	var events []api.Event
	if err := s.ask("/v1/events", &events); err != nil {
		s.t.Fatal(err)
	}
	for _, e := range events {
		if e.Kind == api.EventHoldBegan {
			s.t.Errorf("the guard held a removal: %s", e.Text)
		}
	}
}

// noneFailed wants that no run has failed.
func (s *site) noneFailed() {
	s.t.Helper()
	for _, r := range s.runsOf("") {
		if !r.Ended.IsZero() && r.Outcome != kick.Succeeded {
			s.t.Fatalf("a run of %s/%s %s: %s\n%s", r.Node, r.Action, r.Outcome, r.Error, r.Output)
		}
	}
}

// handedTo is the members that a run got, by the file that its action read.
func (s *site) handedTo(r api.Run) []string {
	s.t.Helper()
	data, err := os.ReadFile(s.path(r.Node, "node", r.Node, "runs", r.ID, "members.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var file kick.MembersFile
	if err := json.Unmarshal(data, &file); err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, members := range file.Roles {
		names = append(names, memberNames(members)...)
	}
	return names
}

// runsOf is the runs of a node's actions, or of all nodes', oldest first.
func (s *site) runsOf(node string) []api.Run {
	s.t.Helper()
	var all []api.Run
	if err := s.ask("/v1/runs?limit=1000", &all); err != nil {
		s.t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(r api.Run) bool { return node != "" && r.Node != node })
	slices.SortStableFunc(all, func(a, b api.Run) int { return a.Started.Compare(b.Started) })
	return all
}

func TestFirstContactNeverEmptiesABackend(t *testing.T) {
	s := newSite(t) // with the default pauses, so that ports that open together make one kick
	f := s.front(2, "web", howtoBackend(t))
	names := []string{"web1", "web2", "web3"}
	var addrs []string
	for _, name := range names {
		addr := freeAddr(t)
		_, port, _ := net.SplitHostPort(addr)
		s.agent(name, "--role", "web", "--fact", "ipaddress=127.0.0.1", "--ready", "tcp:"+port) // which gives the port
		addrs = append(addrs, addr)
	}
	s.alive(5)
	const when = "while web has no member"
	p := s.problem("role/web", func(p api.Problem) bool { return p.Severity == api.Critical },
		func() { f.mustBeAsWritten(when) })
	if !strings.Contains(p.Text+p.Why, "min_members") && !strings.Contains(p.Text+p.Why, "no member") {
		t.Errorf("the problem is %+v, want it to say that web has too few members", p)
	}
	var st api.Status
	if err := s.ask("/v1/status", &st); err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(st.Roles, func(r api.RoleStatus) bool { return r.Name == "web" }); i < 0 ||
		st.Roles[i].Dependents != 2 || st.Roles[i].Members != 0 {
		t.Errorf("status has the roles %+v, want web with 2 dependents and no member", st.Roles)
	}
	s.expect(exitFailed, nil, "status", "--check")
	for i, c := range f.clients {
		c.until(s, "static")
		if by, bad := c.answers(); len(by) != 1 || len(bad) > 0 {
			t.Errorf("%s %s is answered by %v and not %q, want only by static", when, f.each[i].name, by, bad)
		}
	}
	f.mustBeAsWritten(when)

	var open []*httptest.Server
	for i, addr := range addrs {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, names[i])
		}))
		srv.Listener.Close()
		var err error
		if srv.Listener, err = net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Close)
		open = append(open, srv)
	}
	for _, srv := range open {
		srv.Start()
	}
	f.uses(patience, names...)
	for _, b := range f.each {
		if runs := s.runsOf(b.name); len(runs) != 1 || !slices.Equal(s.handedTo(runs[0]), names) {
			t.Errorf("%s had %d runs, want one that got %v: %+v", b.name, len(runs), names, runs)
		}
	}
	f.finish(names...)
}

func TestFirstKickWaitsForReadinessVerdicts(t *testing.T) {
	s := newSite(t, swift...)
	s.env = append(s.env, "KICKER_AGENT_READY_TIMEOUT=30s")
	s.controller()
	s.write("check.sh", fmt.Sprintf("until [ -e '%s' ]; do sleep 0.05; done\n", s.path("go")))
	s.member("web1", "web")
	s.agent("web2", "--role", "web", "--fact", "ipaddress=127.0.0.1", "--fact", "port=80", "--ready",
		fmt.Sprintf("exec:/bin/sh '%s'", s.path("check.sh")))
	s.alive(2)
	lb := s.configurer("lb", "web")
	s.until("lb waits for web2's check", func() string {
		if runs := lb.record(); len(runs) > 0 {
			t.Fatalf("the first run got %q before web2's check had a result", runs[0].members)
		}
		var e api.Explanation
		err := s.ask("/v1/nodes/lb/explain", &e)
		waits := err == nil && len(e.Actions) == 1 && slices.ContainsFunc(e.Actions[0].Gates, func(g api.Gate) bool {
			return strings.Contains(g.Why, "web2") && !g.Until.IsZero()
		})
		return objection(!waits, e.Actions)
	})
	s.write("go", "")
	if r := lb.ended(1); r.members != "web1,web2" {
		t.Errorf("the first run got %q, want both", r.members)
	}
}

func TestEmptyListThatIsAllowedIsAList(t *testing.T) {
	s := newSite(t, append(swift, "roles: [{name: web, min_members: 0}]")...)
	s.controller()
	s.write("copy.sh", fmt.Sprintf(`cp "$KICKER_MEMBERS_FILE" '%[1]s.new' && mv '%[1]s.new' '%[1]s'`, s.path("copy")))
	s.agentWith("lb", "copy", s.path("copy.sh"), nil, "--role", "lb", "--depends-on", "web")
	s.until("members.json", func() string { return unlike(s.path("copy"), func(string) bool { return true }) })
	text, err := os.ReadFile(s.path("copy"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Roles map[string]json.RawMessage }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if got := string(file.Roles["web"]); got != "[]" {
		t.Errorf("the members of web are %s, want []:\n%s", got, text)
	}
	for _, path := range []string{"/v1/roles", "/v1/roles/web", "/v1/status"} {
		var answer json.RawMessage
		if err := s.ask(path, &answer); err != nil {
			t.Error(err)
		}
		if null := regexp.MustCompile(`"[a-z_]+":\s*null`).FindString(string(answer)); null != "" {
			t.Errorf("%s has %s", path, null)
		}
	}
}

func TestMemberWithoutAFactDelaysNobody(t *testing.T) {
	s := newSite(t, append(swift, atOnce)...)
	f := s.front(4, "web", howtoBackend(t))
	var web1 *webNode
	for i := range 5 {
		w := s.web("web" + strconv.Itoa(i+1))
		if i == 0 {
			web1 = w
		}
	}
	f.uses(patience, "web1", "web2", "web3", "web4", "web5")
	s.converged(9)

	s.agent("web6", "--role", "web", "--fact", "ipaddress=127.0.0.1")
	s.notMember("web6", s.noneFailed, "not a member of", "no fact port")
	s.converged(10)
	s.noneFailed()

	f.removed(web1, "web2", "web3", "web4", "web5")
	s.converged(9)
	s.noneFailed()
	s.notHeld()
	f.finish("web2", "web3", "web4", "web5")
}

func TestMemberThatBreaksEveryRunIsQuarantined(t *testing.T) {
	s := newSite(t, swift...)
	const need = "web with=ipaddress,port,weight?"
	backend := strings.NewReplacer(".roles.web", fmt.Sprintf("index .roles %q", need),
		" check\n", " check weight {{.facts.weight}}\n").Replace(howtoBackend(t))
	f := s.front(3, need, backend)
	webs := map[string]*webNode{}
	for _, name := range []string{"web1", "web2", "web3", "web4"} {
		webs[name] = s.web(name, "--fact", "weight=10")
	}
	f.uses(patience, "web1", "web2", "web3", "web4")
	s.converged(7)

	before := s.now()
	web7 := s.web("web7")
	s.event("web7", before, api.EventJoined)
	s.until("a run fails", func() string {
		failed := slices.ContainsFunc(s.runsOf(""), func(r api.Run) bool { return r.Outcome == kick.Failed })
		return objection(!failed, "no run has failed")
	})
	s.web("web8", "--fact", "weight=10")
	f.removed(webs["web2"], "web1", "web3", "web4", "web8")

	p := s.problem("", func(p api.Problem) bool { return p.Code == "member_quarantined" }, func() {})
	if !strings.Contains(p.Object+p.Text, "web7") {
		t.Errorf("the problem is %+v, want it to name web7", p)
	}
	s.explains("web7", "quarantined")
	var events []api.Event
	if err := s.ask("/v1/events", &events); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(e api.Event) bool {
		return strings.Contains(e.Kind, "quarantine") && strings.Contains(e.Node+e.Text, "web7")
	}) {
		t.Error("no event says that web7 is quarantined")
	}
	for _, name := range []string{"web1", "web3", "web4", "web8"} {
		if got := s.expect(0, nil, "explain", "node/"+name).stdout; strings.Contains(got, "quarantined:") {
			t.Errorf("explain node/%s says that it is quarantined:\n%s", name, got)
		}
	}

	web7.agent.stop()
	web7.agentArgs = append(web7.agentArgs, "--fact", "weight=10")
	web7.agent = s.agent("web7", web7.agentArgs...)
	f.uses(patience, "web1", "web3", "web4", "web7", "web8")
	s.converged(8)
	f.finish("web1", "web3", "web4", "web7", "web8")
}

func TestNodeThatDiesAgainIsRemoved(t *testing.T) {
	t.Parallel()
	t.Run("one of three", func(t *testing.T) {
		s := newSite(t, append(swift, atOnce)...)
		f := s.front(2, "web", howtoBackend(t))
		s.web("web1")
		s.web("web2")
		web3 := s.web("web3")
		f.uses(patience, "web1", "web2", "web3")
		for range 2 {
			f.removed(web3, "web1", "web2")
			web3.start()
			f.uses(patience, "web1", "web2", "web3")
		}
		f.removed(web3, "web1", "web2")
		s.converged(4)
		s.notHeld()
		f.finish("web1", "web2")
	})
	t.Run("after others of five", func(t *testing.T) {
		s := newSite(t, append(swift, atOnce)...)
		f := s.front(2, "web", howtoBackend(t))
		s.web("web1")
		web2, web3, web4, web5 := s.web("web2"), s.web("web3"), s.web("web4"), s.web("web5")
		f.uses(patience, "web1", "web2", "web3", "web4", "web5")
		f.removed(web4, "web1", "web2", "web3", "web5")
		f.removed(web3, "web1", "web2", "web5")
		web4.start()
		web3.start()
		f.uses(patience, "web1", "web2", "web3", "web4", "web5")
		web2.leave()
		web2.agent.stop()
		web2.server.stop()
		f.removed(web5, "web1", "web3", "web4")
		s.converged(5)
		s.notHeld()
		f.finish("web1", "web3", "web4")
	})
}

func TestHungRunDelaysOthersUntilItsDeadline(t *testing.T) {
	const timeout = 8 * time.Second
	s := newSite(t, swift...)
	f := s.front(2, "web", howtoBackend(t), "timeout: "+timeout.String(), "grace: 500ms")
	lb1, lb2 := f.each[0], f.each[1]
	web1 := s.web("web1")
	s.web("web2")
	s.web("web3")
	f.uses(patience, "web1", "web2", "web3")
	s.converged(5)

	s.write("lb2.hang", "")
	s.expect(0, nil, "kick", "node/lb2")
	hung := func() api.Run {
		runs := s.runsOf("lb2")
		return runs[len(runs)-1]
	}
	s.until("lb2's run is in progress", func() string { return objection(!hung().Ended.IsZero(), hung()) })
	run := hung()

	f.crash(web1)
	var gate api.Gate
	s.within(timeout, "lb1 waits for the budget", func() string {
		var e api.Explanation
		if err := s.ask("/v1/nodes/lb1/explain", &e); err != nil || len(e.Actions) != 1 {
			return fmt.Sprint(e, err)
		}
		i := slices.IndexFunc(e.Actions[0].Gates, func(g api.Gate) bool { return g.Name == api.GateBudget })
		if i < 0 {
			return fmt.Sprintf("%+v", e.Actions[0])
		}
		gate = e.Actions[0].Gates[i]
		return ""
	})
	if !strings.Contains(gate.Why, "lb2/reload") {
		t.Errorf("lb1 waits for %q, want it to name the run of lb2/reload", gate.Why)
	}
	if !regexp.MustCompile(`since|began|started`).MatchString(gate.Why) {
		t.Errorf("lb1 waits for %q, want it to say since when that runs", gate.Why)
	}
	var until time.Time
	if found := regexp.MustCompile(`until (\d\d:\d\d:\d\d)`).FindStringSubmatch(gate.Why); found != nil {
		until, _ = time.ParseInLocation(time.DateTime, run.Started.Local().Format(time.DateOnly)+" "+found[1], time.Local)
	}
	// besides its timeout and grace, the run has time to be killed and to be reported
	if takes := until.Sub(run.Started); takes < timeout-time.Second || takes > timeout+12*time.Second {
		t.Errorf("lb1 waits for %q, want it to say until when at the latest: %s after the start of lb2's run at %s",
			gate.Why, timeout, run.Started.Local())
	}
	if got := s.expect(0, nil, "explain", "node/lb1").stdout; !strings.Contains(got, "lb2/reload") {
		t.Errorf("explain node/lb1 does not name lb2/reload:\n%s", got)
	}

	s.until("lb2's run ends", func() string {
		runs := s.runsOf("lb2")
		i := slices.IndexFunc(runs, func(r api.Run) bool { return r.ID == run.ID })
		if i < 0 || runs[i].Ended.IsZero() {
			return fmt.Sprintf("%+v", runs)
		}
		run = runs[i]
		return ""
	})
	if run.Outcome != kick.TimedOut {
		t.Errorf("the run of lb2 %s, want it timed out: %+v", run.Outcome, run)
	}
	lb1.usesWithin(timeout, "web2", "web3") // while lb2 hangs again
	s.remove("lb2.hang")
	lb2.usesWithin(soon, "web2", "web3")
	s.converged(4)
	f.finish("web2", "web3")
}

func TestProcessLeftBehindEndsAtTheDeadline(t *testing.T) {
	s := newSite(t, swift...)
	s.controller()
	s.member("web1", "web")
	s.write("detach.sh", fmt.Sprintf(`[ -e '%[1]s' ] && exit 0 # the first run did it
setsid sh -c 'echo $$ >"%[1]s.new"; mv "%[1]s.new" "%[1]s"; exec sleep 300' &
until [ -e '%[1]s' ]; do sleep 0.05; done
`, s.path("pid")))
	s.agentWith("lb", "detach", s.path("detach.sh"), []string{"timeout: 3s", "grace: 500ms"}, "--depends-on", "web")
	r := s.firstRun("lb", func() {})
	if r.Outcome != kick.TimedOut || !strings.Contains(r.Error+r.Output, "sleep") {
		t.Errorf("the run %s (%q, %q), want it timed out, with the name of what it left behind: sleep", r.Outcome,
			r.Error, r.Output)
	}
	text, err := os.ReadFile(s.path("pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty if it has ended
	if strings.HasPrefix(string(command), "sleep") {
		t.Errorf("process %d that the run left behind is alive", pid)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

func TestOutputIsBoundedWhileItIsProduced(t *testing.T) {
	s := newSite(t, swift...)
	s.controller()
	s.member("web1", "web")
	s.write("flood.sh", fmt.Sprintf("[ -e '%[1]s' ] && exit 0 # the first run did it\ntouch '%[1]s'\nexec yes\n",
		s.path("flooded")))
	s.agentWith("lb", "flood", s.path("flood.sh"), []string{"timeout: 3s", "grace: 500ms"}, "--depends-on", "web")
	const most = 8 << 20
	var largest int64
	r := s.firstRun("lb", func() {
		outputs, _ := filepath.Glob(s.path("lb", "node", "lb", "runs", "*", "output")) // the pattern is valid
		for _, output := range outputs {
			if info, err := os.Stat(output); err == nil {
				largest = max(largest, info.Size())
			}
		}
	})
	if largest > most {
		t.Errorf("the output grew to %d MiB, want at most %d", largest>>20, most>>20)
	}
	if r.Outcome == kick.Succeeded || !strings.Contains(r.Output, "y\ny\n") {
		t.Errorf("the run %s (%q) with an output of %d bytes, want it stopped, and the end of its output", r.Outcome,
			r.Error, len(r.Output))
	}
}

// firstRun waits until the first run of a node's actions has failed, with its result. It does meanwhile at each look.
func (s *site) firstRun(node string, meanwhile func()) api.Run {
	s.t.Helper()
	var r api.Run
	s.until("the first run of "+node+" ends", func() string {
		meanwhile()
		var events []api.Event
		if err := s.ask("/v1/events", &events); err != nil {
			return err.Error()
		}
		if !slices.ContainsFunc(events, func(e api.Event) bool {
			return e.Node == node && (e.Kind == api.EventSucceeded || e.Kind == api.EventFailed)
		}) {
			return fmt.Sprintf("%+v", events)
		}
		r = s.runsOf(node)[0]
		return objection(r.Ended.IsZero() || r.Error == "", r) // a heartbeat may report the end before the result does
	})
	return r
}
