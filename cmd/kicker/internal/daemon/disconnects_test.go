package daemon

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kicker/config"
	"kicker/controller/api"
	"kicker/controller/bus"
	"kicker/inventory"
)

// atANATSElsewhere plays a story with the kind of broker that bus.url points at.
func atANATSElsewhere(t *testing.T, system bool, story func(c *cluster, webs []*node)) {
	t.Helper()
	inCluster(t, func(c *cluster) {
		c.closeBroker()
		c.openBroker()
		c.system = system
		story(c, c.fleet(4))
	})
}

// death kills a node, and says how long it took until it was suspected and until it was gone.
func (c *cluster) death(n *node) (suspected, gone time.Duration) {
	c.t.Helper()
	time.Sleep(500 * time.Millisecond) // after its last beat
	killed := time.Now()
	c.kill(n)
	c.until("gone", time.Minute, func(v *api.View) bool { return v.Nodes.Node(n.self.Node) == nil })
	return c.told(api.EventSuspect, n.self.Node, killed), c.told(api.EventGone, n.self.Node, killed)
}

func TestDeathAtANATSElsewhereIsSeenAtOnceWithItsSystemAccount(t *testing.T) {
	atANATSElsewhere(t, true, func(c *cluster, webs []*node) {
		suspected, gone := c.death(webs[0])
		if suspected > 100*time.Millisecond || gone < inventory.DisconnectGrace || gone > inventory.DisconnectGrace+inventory.CanaryEvery+100*time.Millisecond {
			t.Errorf("suspected after %s and gone after %s, want at once and %s", suspected, gone, inventory.DisconnectGrace)
		}
	})
}

func TestDeathAtANATSElsewhereIsSilenceWithoutItsSystemAccount(t *testing.T) {
	atANATSElsewhere(t, false, func(c *cluster, webs []*node) {
		if suspected, gone := c.death(webs[0]); suspected < 1500*time.Millisecond || gone < 9*time.Second {
			t.Errorf("suspected after %s and gone after %s: who told?", suspected, gone)
		}
	})
}

func TestDeathIsSilenceWhileTheSystemAccountIsNotHeard(t *testing.T) {
	atANATSElsewhere(t, true, func(c *cluster, webs []*node) {
		ear := c.wiresOf("controller")[2] // after that which listens and that which speaks
		ear.cut()
		c.until("deaf", time.Second, func(v *api.View) bool {
			return strings.Contains(v.DisconnectsLost, "bus.system_url: no server can be reached")
		})
		if suspected, gone := c.death(webs[0]); suspected < 1500*time.Millisecond || gone < 9*time.Second {
			t.Errorf("suspected after %s and gone after %s: who told?", suspected, gone)
		}
		if v := c.control.View(); !v.Sync.Open || !members("web", 3)(v) {
			t.Errorf("sync %+v, roles %+v; want it open, and only who died removed", v.Sync, v.Roles)
		}
	})
}

func TestBrokerThatStopsClosesNobodysConnection(t *testing.T) {
	atANATSElsewhere(t, true, func(c *cluster, webs []*node) {
		c.closeBroker()
		time.Sleep(3 * time.Second)
		c.openBroker()
		time.Sleep(time.Minute)
		for _, kind := range []string{api.EventSuspect, api.EventGone} {
			if texts := c.events(kind); len(texts) > 0 {
				t.Errorf("%s: %q, want nothing", kind, texts)
			}
		}
		if !members("web", len(webs))(c.control.View()) {
			t.Errorf("roles %+v, want all of them", c.control.View().Roles)
		}
		if why := c.control.View().DisconnectsLost; why != "" {
			t.Errorf("a minute after the broker is back: %s", why)
		}
		for kind, want := range map[string]string{api.EventDisconnectsLost: "bus.system_url: no server can be reached", api.EventDisconnectsRestored: "are heard"} {
			if told := c.events(kind); len(told) != 1 || !strings.Contains(told[0], want) {
				t.Errorf("%s is told as %q, want once, with %q", kind, told, want)
			}
		}
		c.death(webs[0])
		if texts := c.events(api.EventSuspect); !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, "its connection closed") }) {
			t.Errorf("suspects: %q, want one by its connection: it must be heard again", texts)
		}
	})
}

func TestConfiguredSystemAccountIsHeardOrRefused(t *testing.T) {
	nodes, system := server.NewAccount("KICKER"), server.NewAccount("SYS")
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, Accounts: []*server.Account{nodes, system}, SystemAccount: system.Name,
		Users: []*server.User{{Username: "kicker", Password: "pw", Account: nodes}, {Username: "sys", Password: "secret", Account: system}},
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start() // ends with Shutdown, which the test waits for
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker did not start")
	}
	cfg := config.Default()
	cfg.Bus.URL = "nats://kicker:pw@" + s.Addr().String()
	lost := make(chan string, 100)
	open := func(url string) (closed chan inventory.Conn, stop func(), err error) {
		cfg.Bus.SystemURL = url
		b, err := openBus(cfg, "", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if b.where != "nats://xxxxx@"+s.Addr().String() {
			t.Errorf("the bus is shown as %s, want it without user and password", b.where)
		}
		closed = make(chan inventory.Conn, 100)
		stop, err = b.disconnects(func(server string, client uint64, _ string) { closed <- inventory.Conn{Server: server, Client: client} }, func(string) {})
		return closed, stop, err
	}
	_, stop, err := open("nats://sys:wrong@" + s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case why := <-lost:
		if !strings.HasPrefix(why, "bus.system_url: the server rejects its user") {
			t.Errorf("a wrong password: %q, want the key and the reason", why)
		}
	case <-time.After(10 * time.Second):
		t.Error("a wrong password is not reported")
	}
	stop()
	_, stop, err = open("")
	if err != nil {
		t.Fatalf("without a system account: %v", err)
	}
	stop()
	closed, stop, err := open("nats://sys:secret@" + s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	nc, err := bus.Connect([]string{cfg.Bus.URL}, "", "a node")
	if err != nil {
		t.Fatal(err)
	}
	client, err := nc.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	want := inventory.Conn{Server: nc.ConnectedServerId(), Client: client}
	nc.Close()
	for {
		select {
		case got := <-closed:
			if got == want {
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%+v closed, and nobody heard of it", want)
		}
	}
}
