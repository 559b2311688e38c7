package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// aliveFile is a FIFO that is open for writing for as long as the demo lives.
const aliveFile = "alive"

// Web is a web server of a demo. It runs in one process with its node's agent, so that one signal kills a whole node.
type Web struct {
	Name     string
	WarmUp   time.Duration // until it is ready
	listener net.Listener
}

// ListenWeb opens a free port of 127.0.0.1 for a web server.
func ListenWeb(name string, warmUp time.Duration) (*Web, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Web{name, warmUp, ln}, nil
}

// Addr is where the server listens.
func (w *Web) Addr() *net.TCPAddr { return w.listener.Addr().(*net.TCPAddr) }

// Run serves, and runs the agent beside it, until ctx or the demo in dir ends.
func (w *Web) Run(ctx context.Context, dir string, log *slog.Logger, agent func(context.Context) error) error {
	alive, err := os.OpenFile(filepath.Join(dir, aliveFile), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("no demo runs here, set KICKER_CONFIG as kicker demo printed it: %w", err)
	}
	defer alive.Close()
	log.Info("web server started", "node", w.Name, "address", w.Addr(), "ready_in", w.WarmUp)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.serve(ctx) })
	group.Go(func() error { return agent(ctx) })
	group.Go(func() error { return watchDemo(ctx, alive) })
	if err := group.Wait(); !errors.Is(err, errDemoOver) {
		return err
	}
	log.Info("the demo is over")
	return nil
}

// serve answers with the server's name once it has warmed up.
func (w *Web) serve(ctx context.Context) error {
	began := time.Now()
	page := func(r http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < w.WarmUp {
			http.Error(r, "warming up", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(r, w.Name) // an error has no reader
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", page)
	mux.HandleFunc("/healthz", page)
	srv := &http.Server{Handler: mux}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(w.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close closes the port of a server that does not run.
func (w *Web) Close() error { return w.listener.Close() }

var errDemoOver = errors.New("the demo is over")

// watchDemo returns errDemoOver when no process has the FIFO open for writing.
func watchDemo(ctx context.Context, alive *os.File) error {
	stop := context.AfterFunc(ctx, func() { alive.Close() })
	defer stop()
	_, err := alive.Read(make([]byte, 1))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errDemoOver, err)
}
