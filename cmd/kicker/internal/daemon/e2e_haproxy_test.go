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

// A server that is gone or not there yet would be seen at once: nothing is tried twice or elsewhere, and HAProxy does not check.
const haproxyTemplate = `global
	stats socket %s mode 600 level admin expose-fd listeners
	hard-stop-after 15s
defaults
	mode http
	retries 0
	timeout connect 2s
	timeout client 30s
	timeout server 30s
frontend www
	bind %s
	default_backend web
backend web
`

// balancer is a real HAProxy whose file a node's action renders.
type balancer struct {
	*site
	addr, master, stats string
	agentArgs           []string
}

// balancer starts HAProxy with no server, and node lb, which depends on web.
func (s *site) balancer() *balancer {
	s.t.Helper()
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		haproxy, err = exec.LookPath("/usr/sbin/haproxy") // where Debian has it, and where a user's PATH does not look
	}
	if err != nil {
		s.t.Fatal("haproxy is not installed: `make test` installs it")
	}
	b := &balancer{site: s, addr: freeAddr(s.t), master: s.path("master.sock"), stats: s.path("stats.sock")}
	empty := fmt.Sprintf(haproxyTemplate, b.stats, b.addr)
	s.write("haproxy.cfg", empty)
	s.write("haproxy.cfg.tmpl", empty+"{{range .roles.web}}\tserver {{.node}} {{.facts.ipaddress}}:{{.facts.port}}\n{{end}}")
	s.start("haproxy", haproxy, "-W", "-S", b.master, "-f", s.path("haproxy.cfg"))
	s.until("haproxy answers", func() string {
		_, err := b.servers()
		return errorText(err)
	})
	b.agentArgs = []string{"--role", "lb", "--depends-on", "web", "--action", fmt.Sprintf("reload='%s' render %s -o %s --check '%s -c -f {}' --reload '%s reload %s'",
		s.program, s.path("haproxy.cfg.tmpl"), s.path("haproxy.cfg"), haproxy, s.actor, b.master)}
	s.agent("lb", b.agentArgs...)
	return b
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// servers is what HAProxy has in its backend.
func (b *balancer) servers() ([]string, error) {
	text, err := askSocket(b.stats, "show stat")
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "# "))).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("show stat: %q: %w", text, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	column := func(row []string, name string) string { return row[slices.Index(rows[0], name)] }
	names := []string{}
	for _, row := range rows[1:] {
		if column(row, "pxname") == "web" && column(row, "svname") != "BACKEND" {
			names = append(names, column(row, "svname"))
		}
	}
	slices.Sort(names)
	return names, nil
}

// serves waits until HAProxy's servers are exactly these.
func (b *balancer) serves(names ...string) {
	b.t.Helper()
	b.until(fmt.Sprintf("haproxy serves %v", names), func() string {
		got, err := b.servers()
		if err != nil || !slices.Equal(got, names) {
			return fmt.Sprintf("it serves %v, %v", got, err)
		}
		return ""
	})
}

// mustServe wants HAProxy's servers to be exactly these, now.
func (b *balancer) mustServe(when string, names ...string) {
	b.t.Helper()
	if got, err := b.servers(); err != nil || !slices.Equal(got, names) {
		b.t.Errorf("%s haproxy serves %v, %v; want %v", when, got, err, names)
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
	if err := cmp.Or(err, conn.CloseWrite()); err != nil { // a master waits for more questions until it knows that there are none
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// master is what a HAProxy master says of its processes.
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
	name          string
	server, agent *daemon
	agentArgs     []string
}

// startWeb starts a web node whose server is not ready.
func (s *site) startWeb(name string) *webNode {
	s.t.Helper()
	addr := freeAddr(s.t)
	_, port, _ := net.SplitHostPort(addr)
	s.write(name+"/about", "what is in this directory is this machine's")
	w := &webNode{site: s, name: name, server: s.start(name+"-server", s.actor, "serve", addr, name, s.path(name))}
	w.agentArgs = []string{"--role", "web", "--fact", "ipaddress=127.0.0.1", "--fact", "port=" + port, "--ready", "http://" + addr + "/healthz"}
	w.agent = s.agent(name, w.agentArgs...)
	return w
}

// web starts a web node that becomes ready.
func (s *site) web(name string) *webNode {
	s.t.Helper()
	w := s.startWeb(name)
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

func TestHAProxyServesTheLiveAndReadyNodes(t *testing.T) {
	s := newSite(t, swift...)
	s.controller()
	b := s.balancer()
	web1, web2 := s.web("web1"), s.web("web2")
	b.serves("web1", "web2")

	web3 := s.startWeb("web3")
	s.event("web3", 0, api.EventJoined)
	s.expect(0, nil, "kick", "node/lb", "--wait") // a run that began after the join
	b.mustServe("while web3's check fails", "web1", "web2")
	web3.setReady(true)
	b.serves("web1", "web2", "web3")

	web1.crash()
	b.serves("web2", "web3")

	web2.leave()
	b.mustServe("when leave --wait returns", "web3")
	web2.server.stop()
	web2.agent.stop()

	reloads, before := b.reloads(), s.now()
	web3.agent.stop()
	s.event("web3", before, api.EventRestarting)
	s.expect(0, nil, "kick", "node/lb", "--wait")
	b.mustServe("while web3's agent is restarted", "web3")
	web3.agent = s.agent("web3", web3.agentArgs...)
	s.event("web3", before, api.EventBack)
	s.converged(2)
	if n := b.reloads(); n != reloads {
		t.Errorf("the restart of an agent made haproxy reload %d times", n-reloads)
	}

	s.web("web4")
	s.web("web5")
	s.web("web6")
	b.serves("web3", "web4", "web5", "web6")

	web3.setReady(false)
	b.serves("web4", "web5", "web6")
	web3.setReady(true)
	b.serves("web3", "web4", "web5", "web6")

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
	b.serves("web1", "web2")

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
		leaving.crash() // not even a request in progress is left there
		a.until(s, joining.name)
	}
	b.serves("web4", "web5")
	a.stop()
	if len(a.bad) > 0 || a.good < 500 {
		t.Errorf("%d of %d requests were not answered with 200, want none of at least 500: %q", len(a.bad), a.good+len(a.bad), a.bad[:min(len(a.bad), 10)])
	}
}

// askers never stop asking.
type askers struct {
	cancel context.CancelFunc
	asking sync.WaitGroup

	mu   sync.Mutex
	good int
	bad  []string
	by   map[string]int // answers with 200, by server
}

// ask starts clients of all kinds: over one connection and over one a request, in a hurry and slowly.
func ask(addr string) *askers {
	ctx, cancel := context.WithCancel(context.Background())
	a := &askers{cancel: cancel, by: map[string]int{}}
	for _, take := range []time.Duration{0, 0, 300 * time.Millisecond} {
		for _, oneEach := range []bool{false, true} {
			transport := &http.Transport{DisableKeepAlives: oneEach}
			a.asking.Go(func() {
				defer transport.CloseIdleConnections()
				for ctx.Err() == nil {
					a.once(&http.Client{Transport: transport}, fmt.Sprintf("http://%s/?take=%s", addr, take))
					select {
					case <-ctx.Done():
					case <-time.After(2 * time.Millisecond): // leaves the processor to those who reload
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
		a.bad = append(a.bad, fmt.Sprintf("%s: %v after %s", began.Format(time.StampMilli), err, time.Since(began)))
	case r.StatusCode != http.StatusOK:
		a.bad = append(a.bad, fmt.Sprintf("%s: %s after %s", began.Format(time.StampMilli), r.Status, time.Since(began)))
	default:
		a.good++
		a.by[string(body)]++
	}
}

// until waits for further answers of a server.
func (a *askers) until(s *site, server string) {
	s.t.Helper()
	answers := func() (of int, all string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.by[server], fmt.Sprint(maps.Clone(a.by), a.bad)
	}
	before, _ := answers()
	s.until(server+" answers", func() string {
		if now, all := answers(); now < before+10 {
			return all
		}
		return ""
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
	b.serves("web0")
	addr := freeAddr(t)
	s.write("web/about", "what is in this directory is for all of them")
	s.start("web-server", s.actor, "serve", addr, "all", s.path("web"))
	want := []string{"web0"}
	for i := range n {
		name := "web" + strconv.Itoa(i+1)
		want = append(want, name)
		s.agent(name, "--role", "web", "--fact", "ipaddress=127.0.0.1", "--fact", "port="+strconv.Itoa(i+1), "--ready", "http://"+addr+"/healthz",
			"--ready-interval", fmt.Sprint(time.Duration(i+1)*200*time.Millisecond)) // a burst, in which each is seen by itself
	}
	for _, name := range want {
		s.event(name, 0, api.EventJoined)
	}
	reloads := b.reloads()
	s.write("web/ready", "")
	b.serves(want...)
	s.converged(n + 2)
	if got := b.reloads() - reloads; got < 1 || got > 2 {
		t.Errorf("%d nodes that became ready together made %d reloads, want 1 or 2", n, got)
	}
	if runs := s.runs(); len(runs) != b.reloads() {
		t.Errorf("kicker knows of %d runs, haproxy of %d reloads: %+v", len(runs), b.reloads(), runs)
	}
}
