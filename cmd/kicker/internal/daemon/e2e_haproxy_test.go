package daemon

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"kicker/controller/api"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// haproxyHead is a configuration without its backend web. Its %s are: the socket for statistics, lines of defaults, and
// the address.
const haproxyHead = `global
	stats socket %s mode 600 level admin expose-fd listeners
	hard-stop-after 15s
defaults
	mode http
	%s
	timeout connect 2s
	timeout client 30s
	timeout server 30s
frontend www
	bind %s
	default_backend web
`

// With strict HAProxy tries nothing twice or elsewhere, so a wrong server shows at once. With redispatch it tries a
// request elsewhere if a server accepts no connection.
const (
	strict     = "retries 0"
	redispatch = "retries 3\n\toption redispatch 1"
)

// balancer is a real HAProxy whose file a node's action renders.
type balancer struct {
	*site
	name                string // of the node
	program             string // haproxy
	head                string // of the file
	addr, master, stats string
}

// balancer starts HAProxy with no server, and node lb, which depends on web.
func (s *site) balancer() *balancer {
	s.t.Helper()
	b := s.haproxy("lb", strict, "backend web\n")
	b.follow("web", "backend web\n{{range .roles.web}}\tserver {{.node}} {{.facts.ipaddress}}:{{.facts.port}}\n{{end}}")
	return b
}

// haproxy starts HAProxy with a hand-written backend.
func (s *site) haproxy(name, defaults, backend string) *balancer {
	s.t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/haproxy") // on Debian, where a user's PATH may not look
	}
	if err != nil {
		s.t.Fatal("haproxy is not installed: `make test` installs it")
	}
	b := &balancer{site: s, name: name, program: program, addr: freeAddr(s.t), master: s.path(name + ".master"),
		stats: s.path(name + ".stats")}
	b.head = fmt.Sprintf(haproxyHead, b.stats, defaults, b.addr)
	s.write(name+".cfg", b.head+backend)
	s.start(name+"-haproxy", program, "-W", "-S", b.master, "-f", s.path(name+".cfg"))
	s.until("haproxy answers", func() string {
		_, err := b.servers()
		return errorText(err)
	})
	return b
}

// follow starts the balancer's node, whose action renders the backend. A run hangs while the file NAME.hang exists.
// settings are more keys of the action.
func (b *balancer) follow(dependsOn, backend string, settings ...string) {
	b.t.Helper()
	b.write(b.name+".cfg.tmpl", b.head+backend)
	b.write(b.name+".sh", fmt.Sprintf(`while [ -e '%s' ]; do sleep 0.1; done
exec '%s' render '%s' -o '%s' --check '%s -c -f {}' --reload '%s reload %s'
`, b.path(b.name+".hang"), b.site.program, b.path(b.name+".cfg.tmpl"), b.path(b.name+".cfg"), b.program, b.actor,
		b.master))
	b.agentWith(b.name, "reload", b.path(b.name+".sh"), settings, "--role", "lb", "--depends-on", dependsOn)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// statistics is the rows of `show stat` about the servers in HAProxy's backend, by column.
func (b *balancer) statistics() ([]map[string]string, error) {
	text, err := askSocket(b.stats, "show stat")
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "# "))).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("show stat: %q: %w", text, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	var servers []map[string]string
	for _, row := range rows[1:] {
		columns := map[string]string{}
		for i, name := range rows[0] {
			columns[name] = row[i]
		}
		if columns["pxname"] == "web" && columns["svname"] != "BACKEND" {
			servers = append(servers, columns)
		}
	}
	return servers, nil
}

// servers is the servers in HAProxy's backend.
func (b *balancer) servers() ([]string, error) {
	rows, err := b.statistics()
	names := []string{}
	for _, row := range rows {
		names = append(names, row["svname"])
	}
	slices.Sort(names)
	return names, err
}

// uses waits until HAProxy's servers are exactly these.
func (b *balancer) uses(names ...string) {
	b.t.Helper()
	b.usesWithin(patience, names...)
}

// usesWithin is uses with another patience.
func (b *balancer) usesWithin(limit time.Duration, names ...string) {
	b.t.Helper()
	b.within(limit, fmt.Sprintf("haproxy of %s uses %v", b.name, names), func() string {
		got, err := b.servers()
		if err != nil || !slices.Equal(got, names) {
			return fmt.Sprintf("it uses %v, %v", got, err)
		}
		return ""
	})
}

// mustUse wants HAProxy's servers to be exactly these, now.
func (b *balancer) mustUse(when string, names ...string) {
	b.t.Helper()
	if got, err := b.servers(); err != nil || !slices.Equal(got, names) {
		b.t.Errorf("%s haproxy uses %v, %v; want %v", when, got, err, names)
	}
}

func (b *balancer) reloads() int {
	b.t.Helper()
	m, err := askMaster(b.master)
	if err != nil {
		b.t.Fatal(err)
	}
	if m.failed > 0 {
		b.t.Errorf("haproxy failed to reload %d times", m.failed)
	}
	return m.reloads
}

func askSocket(path, question string) (string, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	_, err = io.WriteString(conn, question+"\n")
	if err := cmp.Or(err, conn.CloseWrite()); err != nil { // a master waits for more questions until this end is closed
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// master is what a HAProxy master reports of its processes.
type master struct{ pid, reloads, failed, oldWorkers int }

func askMaster(socket string) (master, error) {
	text, err := askSocket(socket, "show proc")
	if err != nil {
		return master{}, err
	}
	var m master
	workers, old := 0, false
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# old workers"):
			old = true
		case len(words) < 3:
		case words[1] == "master":
			if _, err := fmt.Sscanf(line, "%d master %d [failed: %d]", &m.pid, &m.reloads, &m.failed); err != nil {
				return m, fmt.Errorf("show proc: %q: %w", line, err)
			}
		case words[1] == "worker" && old:
			m.oldWorkers++
		case words[1] == "worker":
			workers++
		}
	}
	if m.pid == 0 || workers == 0 {
		return m, fmt.Errorf("show proc: no master, or no worker: %q", text)
	}
	return m, nil
}

// webNode is a machine with a web server and an agent that checks it.
type webNode struct {
	*site
	name, addr    string
	server, agent *daemon
	agentArgs     []string
}

// startWeb starts a web node whose server is not ready. args are more of its agent's.
func (s *site) startWeb(name string, args ...string) *webNode {
	s.t.Helper()
	addr := freeAddr(s.t)
	_, port, _ := net.SplitHostPort(addr)
	s.write(name+"/about", "what is in this directory is this machine's")
	w := &webNode{site: s, name: name, addr: addr}
	w.agentArgs = append([]string{"--role", "web", "--fact", "ipaddress=127.0.0.1", "--fact", "port=" + port, "--ready",
		"http://" + addr + "/healthz"}, args...)
	w.start()
	return w
}

// start starts the server and the agent.
func (w *webNode) start() {
	w.t.Helper()
	w.server = w.site.start(w.name+"-server", w.actor, "serve", w.addr, w.name, w.path(w.name))
	w.agent = w.site.agent(w.name, w.agentArgs...)
}

// web starts a web node that becomes ready. args are more of its agent's.
func (s *site) web(name string, args ...string) *webNode {
	s.t.Helper()
	w := s.startWeb(name, args...)
	w.setReady(true)
	return w
}

func (w *webNode) setReady(ready bool) {
	w.t.Helper()
	if ready {
		w.write(w.name+"/ready", "")
	} else {
		w.remove(w.name + "/ready")
	}
}

// crash kills all of it.
func (w *webNode) crash() {
	w.agent.kill()
	w.server.kill()
}

func (w *webNode) leave() {
	w.t.Helper()
	w.expect(0, nil, "leave", "--name", w.name, "--wait")
}

func TestHAProxyUsesTheAliveAndReadyNodes(t *testing.T) {
	s := newSite(t, swift...)
	s.controller()
	b := s.balancer()
	web1, web2 := s.web("web1"), s.web("web2")
	b.uses("web1", "web2")

	web3 := s.startWeb("web3")
	s.event("web3", 0, api.EventJoined)
	s.expect(0, nil, "kick", "node/lb", "--wait") // a run that began after the join
	b.mustUse("while web3's check fails", "web1", "web2")
	web3.setReady(true)
	b.uses("web1", "web2", "web3")

	web1.crash()
	b.uses("web2", "web3")

	web2.leave()
	b.mustUse("when leave --wait returns", "web3")
	web2.server.stop()
	web2.agent.stop()

	reloads, before := b.reloads(), s.now()
	web3.agent.stop()
	s.event("web3", before, api.EventRestarting)
	s.expect(0, nil, "kick", "node/lb", "--wait")
	b.mustUse("while web3's agent is restarted", "web3")
	web3.agent = s.agent("web3", web3.agentArgs...)
	s.event("web3", before, api.EventBack)
	s.converged(2)
	if n := b.reloads(); n != reloads {
		t.Errorf("the restart of an agent made haproxy reload %d times", n-reloads)
	}

	s.web("web4")
	s.web("web5")
	s.web("web6")
	b.uses("web3", "web4", "web5", "web6")

	web3.setReady(false)
	b.uses("web4", "web5", "web6")
	web3.setReady(true)
	b.uses("web3", "web4", "web5", "web6")

	s.converged(5)
	s.expect(0, nil, "status", "--check")
	listed := s.expect(0, nil, "inventory", "-o", "name", "role=web").stdout
	if want := "node/web3\nnode/web4\nnode/web5\nnode/web6\n"; listed != want {
		t.Errorf("kicker inventory lists %q, want %q", listed, want)
	}
}

func TestClientsSeeOnly200WhileNodesComeAndGo(t *testing.T) {
	s := newSite(t, swift...)
	s.controller()
	b := s.balancer()
	nodes := []*webNode{s.web("web1"), s.web("web2")}
	b.uses("web1", "web2")

	a := ask(b.addr)
	defer a.stop()
	a.until(s, "web1")
	for i := 3; i <= 5; i++ {
		joining := s.web(fmt.Sprintf("web%d", i))
		nodes = append(nodes, joining)
		a.until(s, joining.name)
		leaving := nodes[0]
		nodes = nodes[1:]
		leaving.leave()
		leaving.crash() // no request is in progress there
		a.until(s, joining.name)
	}
	b.uses("web4", "web5")
	a.stop()
	if len(a.bad) > 0 || a.good < 500 {
		t.Errorf("%d of %d requests were not answered with 200, want none of at least 500: %q", len(a.bad),
			a.good+len(a.bad), a.bad[:min(len(a.bad), 10)])
	}
}

// askers are clients that never stop asking. Each has one request at a time.
type askers struct {
	cancel context.CancelFunc
	asking sync.WaitGroup
	number int

	mu   sync.Mutex
	good int
	bad  []failure
	by   map[string]int // answers with 200, by server
}

// failure is a request that was not answered with 200.
type failure struct {
	began, ended time.Time
	why          string
}

func (f failure) String() string {
	return fmt.Sprintf("%s: %s after %s", f.began.Format(time.StampMilli), f.why, f.ended.Sub(f.began))
}

// ask starts clients of all kinds: with one connection for all requests or one for each, fast and slow ones.
func ask(addr string) *askers {
	return askEvery(2*time.Millisecond, addr, 0, 0, 300*time.Millisecond) // the pause leaves time for the reloads
}

// askEvery starts two clients for each time that a request takes: with one connection for all requests, and with one
// for each.
func askEvery(pause time.Duration, addr string, takes ...time.Duration) *askers {
	ctx, cancel := context.WithCancel(context.Background())
	a := &askers{cancel: cancel, number: 2 * len(takes), by: map[string]int{}}
	for _, take := range takes {
		for _, oneEach := range []bool{false, true} {
			transport := &http.Transport{DisableKeepAlives: oneEach}
			a.asking.Go(func() {
				defer transport.CloseIdleConnections()
				for ctx.Err() == nil {
					a.once(&http.Client{Transport: transport}, fmt.Sprintf("http://%s/?take=%s", addr, take))
					select {
					case <-ctx.Done():
					case <-time.After(pause):
					}
				}
			})
		}
	}
	return a
}

func (a *askers) once(client *http.Client, url string) {
	began := time.Now()
	r, err := client.Get(url)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(r.Body)
		r.Body.Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.bad = append(a.bad, failure{began, time.Now(), err.Error()})
	case r.StatusCode != http.StatusOK:
		a.bad = append(a.bad, failure{began, time.Now(), r.Status})
	default:
		a.good++
		a.by[string(body)]++
	}
}

// answers is a copy of what was answered until now.
func (a *askers) answers() (by map[string]int, bad []failure) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.by), slices.Clone(a.bad)
}

// until waits for more answers of a server.
func (a *askers) until(s *site, server string) {
	s.t.Helper()
	before, _ := a.answers()
	s.until(server+" answers", func() string {
		now, bad := a.answers()
		return objection(now[server] < before[server]+10, fmt.Sprint(now, bad))
	})
}

func (a *askers) stop() {
	a.cancel()
	a.asking.Wait()
}

func TestManyJoinsAtOnceMakeFewReloads(t *testing.T) {
	const n = 8
	s := newSite(t) // with the default pauses
	s.controller()
	b := s.balancer()
	s.web("web0")
	b.uses("web0")
	addr := freeAddr(t)
	s.write("web/about", "what is in this directory is for all of them")
	s.start("web-server", s.actor, "serve", addr, "all", s.path("web"))
	want := []string{"web0"}
	for i := range n {
		name := "web" + strconv.Itoa(i+1)
		want = append(want, name)
		s.agent(name, "--role", "web", "--fact", "ipaddress=127.0.0.1", "--fact", "port="+strconv.Itoa(i+1), "--ready",
			"http://"+addr+"/healthz",
			"--ready-interval", fmt.Sprint(time.Duration(i+1)*200*time.Millisecond)) // a burst of single changes
	}
	for _, name := range want {
		s.event(name, 0, api.EventJoined)
	}
	reloads := b.reloads()
	s.write("web/ready", "")
	b.uses(want...)
	s.converged(n + 2)
	if got := b.reloads() - reloads; got < 1 || got > 2 {
		t.Errorf("%d nodes that became ready together caused %d reloads, want 1 or 2", n, got)
	}
	if runs := s.runs(); len(runs) != b.reloads() {
		t.Errorf("kicker knows %d runs, haproxy %d reloads: %+v", len(runs), b.reloads(), runs)
	}
}
