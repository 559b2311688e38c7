package demo

import (
	"context"
	"errors"
	"fmt"
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
	Listener net.Listener
}

// Run serves, and runs the agent beside it, until ctx or the demo in dir ends.
func (w *Web) Run(ctx context.Context, dir string, agent func(context.Context) error) error {
	alive, err := os.OpenFile(filepath.Join(dir, aliveFile), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("no demo runs here, set KICKER_CONFIG as kicker demo printed it: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	server := &http.Server{Handler: w.pages()}
	context.AfterFunc(ctx, func() {
		alive.Close()
		server.Close()
	})
	group.Go(func() error {
		_, _ = alive.Read(make([]byte, 1)) // ends when no process has it open for writing, or it is closed
		cancel()
		return nil
	})
	group.Go(func() error {
		if err := server.Serve(w.Listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error { return agent(ctx) })
	return group.Wait()
}

// pages answers each request with the server's name once it has warmed up.
func (w *Web) pages() http.HandlerFunc {
	began := time.Now()
	return func(r http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < w.WarmUp {
			http.Error(r, "warming up", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(r, w.Name) // an error has no reader
	}
}
