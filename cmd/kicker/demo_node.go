package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kicker/config"
	"kicker/kick"
)

// demoAlive is a FIFO that is open for writing for as long as the demo lives.
const demoAlive = "alive"

// demoNodeCommand is a web server and its node's agent in one process, so that one signal kills a whole node.
func demoNodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "demo-node NAME",
		Short:  "A web server of a demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
	}
	agentFlags(cmd)
	warmUp := cmd.Flags().Duration("warm-up", 2*time.Second, "time until it is ready")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			return err
		}
		for _, flag := range [][2]string{
			{"name", args[0]}, {"role", "web"}, {"fact", "ipaddress=127.0.0.1"}, {"fact", "port=" + port},
			{"goodbye", config.LeaveAlways}, {"ready", "http://" + ln.Addr().String() + "/healthz"},
		} {
			if err := cmd.Flags().Set(flag[0], flag[1]); err != nil {
				return fmt.Errorf("--%s: %w", flag[0], err)
			}
		}
		o := configOptions(cmd)
		o.Daemon = true
		cfg, err := config.Load(o)
		if err != nil {
			return err
		}
		alive, err := os.OpenFile(filepath.Join(cfg.StateDir, demoAlive), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("no demo runs here: set KICKER_CONFIG as `kicker demo` has printed it: %w", err)
		}
		defer alive.Close()
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("its own program: %w", err)
		}
		log := newLogger(cfg.Log, cmd.ErrOrStderr())
		log.Info("web server started", "node", args[0], "address", ln.Addr(), "ready_in", *warmUp)

		group, ctx := errgroup.WithContext(cmd.Context())
		group.Go(func() error { return serveDemo(ctx, ln, args[0], *warmUp) })
		group.Go(func() error { return runAgent(ctx, cfg, kick.Shim(exe, "shim"), log) })
		group.Go(func() error { return watchDemo(ctx, alive) })
		if err := group.Wait(); !errors.Is(err, errDemoOver) {
			return err
		}
		log.Info("the demo is over")
		return nil
	}
	return cmd
}

// serveDemo is a web server that answers with its name, once it has warmed up.
func serveDemo(ctx context.Context, ln net.Listener, name string, warmUp time.Duration) error {
	began := time.Now()
	page := func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < warmUp {
			http.Error(w, "warming up", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, name) // nobody is left to tell when it fails
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", page)
	mux.HandleFunc("/healthz", page)
	srv := &http.Server{Handler: mux}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

var errDemoOver = errors.New("the demo is over")

// watchDemo returns errDemoOver when nobody has the FIFO open for writing any more.
func watchDemo(ctx context.Context, alive *os.File) error {
	stop := context.AfterFunc(ctx, func() { alive.Close() })
	defer stop()
	_, err := alive.Read(make([]byte, 1))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errDemoOver, err)
}
