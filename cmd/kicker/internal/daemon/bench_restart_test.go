package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"kicker/config"
	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/bus"
	"kicker/inventory"
	"kicker/kick"
)

// From the start of the controller's process until every node is alive, every role synced and every action converged.
// The bus restarts with it, so each node reconnects.
func BenchmarkControllerRestarts(b *testing.B) {
	for _, nodes := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s := benchSite(b)
			controllerRestarts(b, s, nodes, func() { s.controller() }, "nats://"+s.bus)
		})
	}
	b.Run("tls/nodes=10000", func(b *testing.B) {
		s := benchSite(b)
		broker, err := exec.LookPath("tls-broker")
		if err != nil {
			b.Fatal(err)
		}
		certificate, key := s.certificate()
		url := "tls://" + s.bus
		s.env = append(s.env, "SSL_CERT_FILE="+certificate)
		start := func() {
			s.start("broker", broker, s.bus, certificate, key)
			s.controller("--bus-url", url)
		}
		controllerRestarts(b, s, 10_000, start, url, nats.RootCAs(certificate))
	})
}

func controllerRestarts(b *testing.B, s *site, nodes int, start func(), url string, options ...nats.Option) {
	end := func() {
		for _, d := range s.daemons {
			d.stop()
		}
		s.daemons = nil
	}
	start()
	runs := s.crowd(b, nodes, url, options...)
	dependents := nodes / dependentEvery
	var status api.Status
	var alive time.Time // when every node was
	acts := func() string {
		time.Sleep(seldom)
		if err := s.ask("/v1/status", &status); err != nil {
			return err.Error()
		}
		if alive.IsZero() && status.Nodes[inventory.Alive] == nodes {
			alive = time.Now()
		}
		closed := 0
		for _, r := range status.Roles {
			if !r.Sync.Open {
				closed++
			}
		}
		if n, converged := status.Nodes[inventory.Alive], status.Actions[api.Converged]; !status.Sync.Open ||
			closed > 0 || n != nodes || converged != dependents {
			return fmt.Sprintf("%d nodes, %d roles not synced, %d actions converged, %+v", n, closed, converged,
				status.Sync)
		}
		return ""
	}
	s.until("all have joined", func() string {
		time.Sleep(seldom)
		if err := s.ask("/v1/status", &status); err != nil || status.Nodes[inventory.Alive] != nodes {
			return fmt.Sprintf("%d nodes: %v", status.Nodes[inventory.Alive], err)
		}
		return ""
	})
	s.until("all have converged", acts)
	var took, back []time.Duration
	for b.Loop() {
		ran := runs.Load()
		end()
		alive = time.Time{}
		began := time.Now()
		start()
		s.until("it acts", acts)
		took, back = append(took, time.Since(began)), append(back, alive.Sub(began))
		time.Sleep(2 * controller.DefaultConfig().GoneAfter) // a lost node would be gone by then
		if objection := acts(); objection != "" || runs.Load() != ran {
			b.Errorf("%d runs after a restart, want none; %s", runs.Load()-ran, objection)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(back), "ms-start-to-all-alive")
	b.ReportMetric(milliseconds(took), "ms-start-to-synced")
}

// seldom is the pause between two questions to a large controller.
const seldom = 50 * time.Millisecond

// dependentEvery: one of so many nodes depends on the next role.
const dependentEvery = 10

// crowd starts agents in this process, each with its own connection. It returns the counter of their runs.
func (s *site) crowd(b *testing.B, nodes int, url string, options ...nats.Option) (runs *atomic.Int64) {
	b.Helper()
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		b.Fatal(err)
	}
	if need := uint64(nodes + nodes/dependentEvery + 100); files.Cur < need {
		b.Fatalf("%d agents need %d open files, and only %d are allowed: ulimit -n %d", nodes, need, files.Cur, need)
	}
	ctx, stop := context.WithCancel(context.Background())
	agents, ctx := errgroup.WithContext(ctx)
	b.Cleanup(func() {
		stop()
		if err := agents.Wait(); err != nil {
			b.Error(err)
		}
	})
	runs = &atomic.Int64{}
	execute := func(context.Context, kick.Launch) (kick.Ending, error) {
		runs.Add(1)
		return kick.Ending{}, nil
	}
	quiet := slog.New(slog.DiscardHandler)
	var joins errgroup.Group
	joins.SetLimit(100)
	for i := range nodes {
		cfg := config.Default()
		cfg.StateDir = s.path("crowd")
		cfg.Agent.LeaveOnStop = config.LeaveNever
		cfg.Agent.Roles = []string{fmt.Sprintf("role%d", i%fleetRoles)}
		cfg.Agent.Facts = []string{"ipaddress=192.0.2.1", fmt.Sprintf("port=%d", i+1)}
		dependent := i/fleetRoles%dependentEvery == 0
		if dependent {
			cfg.Agent.Actions = []kick.Action{{Name: "reload", Command: []string{"true"},
				DependsOn: []string{fmt.Sprintf("role%d", (i+1)%fleetRoles)}}}
		}
		joins.Go(func() error {
			self := inventory.Identity{Cluster: s.cluster, Node: fmt.Sprintf("node%d", i), Instance: "bench",
				Boot: "bench"}
			reconnected := make(chan struct{}, 1)
			nc, err := bus.Join([]string{url}, "", self.Node, quiet, func() { signalTo(reconnected) }, options...)
			if err != nil {
				return err
			}
			announcer, err := newAnnouncer(cfg, self, nc, quiet)
			if err != nil {
				return err
			}
			agents.Go(func() error {
				defer nc.Close()
				if dependent {
					return attend(ctx, cfg, self, nc, announcer, reconnected, execute, quiet)
				}
				return announce(ctx, announcer, reconnected)
			})
			return nil
		})
	}
	if err := joins.Wait(); err != nil {
		b.Fatal(err)
	}
	return runs
}

// announce is the agent of a node that depends on nothing. Without a runner its connection is its only open file: some
// systems allow a process 20 000.
func announce(ctx context.Context, announcer *inventory.Announcer, reconnected <-chan struct{}) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return announcer.Run(ctx) })
	group.Go(func() error {
		for {
			select {
			case <-reconnected:
				announcer.Reconnected()
			case <-ctx.Done():
				return nil
			}
		}
	})
	return group.Wait()
}

// certificate makes a self-signed certificate for this machine and its key, as files.
func (s *site) certificate() (certificate, key string) {
	s.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		s.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("bus.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public})))
	s.write("bus.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return s.path("bus.crt"), s.path("bus.key")
}

// tlsBroker is the program `tls-broker HOST:PORT CERTIFICATE KEY`: an external NATS with TLS.
func tlsBroker() {
	if err := runTLSBroker(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "tls-broker:", err)
		os.Exit(1)
	}
}

func runTLSBroker(listen, certificate, key string) error {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	srv, err := server.NewServer(&server.Options{
		Host: host, Port: port, NoSigs: true, NoLog: true, TLS: true, TLSTimeout: 10,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		return err
	}
	go srv.Start() // ends with Shutdown
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil
}
