package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"kicker/kick"
)

// actor is this test binary as another program, which runs on the machines beside kicker.
func actor() {
	var err error
	switch os.Args[1] {
	case "serve":
		err = serveWeb(os.Args[2], os.Args[3], os.Args[4])
	case "reload":
		err = reloadHAProxy(os.Args[2])
	case "configure":
		err = configure(os.Args[2])
	case "broker":
		err = broker(os.Args[2], os.Args[3:]...)
	case "flood":
		err = flood(os.Args[2])
	default:
		err = fmt.Errorf("unknown actor %s", os.Args[1])
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		os.Exit(int(code))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "actor:", err)
		os.Exit(1)
	}
}

// exitCode is an error that only says what to exit with.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// serveWeb is a web server on addr that answers with name. It is ready while the file dir/ready exists, and answers
// with an error until it was ready once, which it may be at its start. /ready/OTHER says whether dir/OTHER exists, so
// that it can be the service of many nodes.
func serveWeb(addr, name, dir string) error {
	there := func(file string) bool {
		_, err := os.Stat(filepath.Join(dir, file))
		return err == nil
	}
	var serves atomic.Bool
	serves.Store(there("ready"))
	status := func(w http.ResponseWriter, ok bool) {
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		ready := there("ready")
		serves.CompareAndSwap(false, ready)
		status(w, ready)
	})
	mux.HandleFunc("/ready/{node}",
		func(w http.ResponseWriter, r *http.Request) { status(w, there(r.PathValue("node"))) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if slow, err := time.ParseDuration(r.FormValue("take")); err == nil {
			time.Sleep(slow)
		}
		status(w, serves.Load())
		fmt.Fprint(w, name)
	})
	srv := &http.Server{Addr: addr, Handler: mux}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	over := make(chan error)
	go func() {
		<-ctx.Done()
		over <- srv.Shutdown(context.Background())
	}()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-over
}

// reloadHAProxy makes the master at a socket load its file, and returns when no worker uses the old file: then its old
// servers get no requests.
func reloadHAProxy(socket string) error {
	before, err := askMaster(socket)
	if err != nil {
		return err
	}
	if err := syscall.Kill(before.pid, syscall.SIGUSR2); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(lookEvery) {
		now, err := askMaster(socket) // it does not answer while it loads the file
		switch {
		case err == nil && now.failed > before.failed:
			return errors.New("reload: haproxy can't load the file")
		case err == nil && now.reloads > before.reloads && now.oldWorkers == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("reload: not finished: %+v, %w", now, err)
		}
	}
}

// configure is an action. In dir it records its runs: "start RUN MEMBER,MEMBER" and "end RUN", or "overlap RUN" if
// another one is in progress. A run goes on while the file dir/hold exists, and exits with the code in dir/exit.
func configure(dir string) error {
	membersPath := os.Getenv("KICKER_MEMBERS_FILE")
	run := filepath.Base(filepath.Dir(membersPath))
	data, err := os.ReadFile(membersPath)
	if err != nil {
		return err
	}
	var file kick.MembersFile
	if err := json.Unmarshal(data, &file); err != nil {
		return err
	}
	var names []string
	for _, members := range file.Roles {
		names = append(names, memberNames(members)...)
	}
	lock := filepath.Join(dir, "lock")
	if err := os.Mkdir(lock, 0o755); err != nil {
		return errors.Join(err, note(dir, "overlap "+run))
	}
	if err := note(dir, fmt.Sprintf("start %s %s", run, strings.Join(names, ","))); err != nil {
		return err
	}
	fmt.Println("configuring with", strings.Join(names, " "))
	for {
		if _, err := os.Stat(filepath.Join(dir, "hold")); errors.Is(err, fs.ErrNotExist) {
			break
		}
		time.Sleep(lookEvery)
	}
	fmt.Println("configured")
	code := 0
	if said, err := os.ReadFile(filepath.Join(dir, "exit")); err == nil {
		if code, err = strconv.Atoi(string(said)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Remove(lock), note(dir, "end "+run)); err != nil {
		return err
	}
	return exitCode(code)
}

// note adds a line to the record in dir.
func note(dir, line string) error {
	f, err := os.OpenFile(filepath.Join(dir, "record"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
