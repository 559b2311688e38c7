// Package web answers questions about a running controller over HTTP, and hands over people's orders.
package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"kicker/controller/api"
)

// Config is the controller behind a handler, and who may ask it.
type Config struct {
	View func() *api.View // never nil
	Kick func(context.Context, api.KickOrder) (api.Kicked, error)
	Lose func(context.Context, api.LossOrder) error
	// Leave makes a node leave, Leaving says how far that is.
	Leave   func(context.Context, api.LeaveOrder) (api.Leaving, error)
	Leaving func(ctx context.Context, node string) (api.Leaving, error)
	Plan    func(ctx context.Context, text []byte) (api.Plan, error) // of the text of a configuration

	Token     string // allows a request everything; if it is empty, no token does
	OpenReads bool   // allows questions without a token; over loopback they must name a loopback Host
	Trusted   bool   // allows every request everything: for listeners such as a unix socket of mode 0600
	Version   string // of this program
	Log       *slog.Logger
}

const (
	planPath   = "/v1/plan"
	maxOrder   = 64 << 10         // bytes of an order
	maxConfig  = 1 << 20          // bytes of a configuration
	maxTime    = 30 * time.Second // to write an answer
	staleAfter = 15 * time.Second // the loop publishes a view every 5 s at least
)

type server struct{ Config }

// Handler answers every path of docs/reference/api.md.
func Handler(cfg Config) http.Handler {
	s := &server{cfg}
	mux := http.NewServeMux()
	for pattern, handler := range s.routes() {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(pattern, handler)
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", method)
			send(w, nil, fail(http.StatusMethodNotAllowed, "", "%s: only %s is possible", r.URL.Path, method))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		const remedy = "the API is below /v1/, see docs/reference/api.md"
		send(w, nil, fail(http.StatusNotFound, remedy, "no such path: %.100q", r.URL.Path))
	})
	return s.authorized(mux)
}

func (s *server) routes() map[string]http.Handler {
	return map[string]http.Handler{
		"GET /healthz":                 http.HandlerFunc(s.health),
		"GET /readyz":                  http.HandlerFunc(s.ready),
		"GET /metrics":                 s.metrics(),
		"GET /v1/status":               s.answer(always, s.status),
		"GET /v1/nodes":                s.answer(synced, s.nodes, "selector"),
		"GET /v1/nodes/{node}":         s.answer(synced, s.node),
		"GET /v1/nodes/{node}/explain": s.answer(synced, s.explain),
		"GET /v1/roles":                s.answer(synced, s.roles),
		"GET /v1/roles/{role}":         s.answer(synced, s.role, "min"),
		"GET /v1/runs":                 s.answer(always, s.runs, "node", "action", "role", "limit"),
		"GET /v1/events":               http.HandlerFunc(s.events),
		"POST /v1/kicks":               http.MaxBytesHandler(s.answer(leads, s.kick), maxOrder),
		"POST /v1/losses":              http.MaxBytesHandler(s.answer(leads, s.lose), maxOrder),
		"POST /v1/leaves":              http.MaxBytesHandler(s.answer(leads, s.leave), maxOrder),
		"GET /v1/leaves/{node}":        s.answer(leads, s.leaving),
		"POST " + planPath:             http.MaxBytesHandler(s.answer(always, s.plan), maxConfig),
	}
}

// Serve answers the requests that arrive at ln until ctx ends. Then it ends streams at once and other requests within
// 3 s. It closes ln.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	defer srv.Close()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve http on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	srv.Shutdown(grace) // Close cuts off what takes longer
	<-failed
	return nil
}

// answer answers a question or an order about the view of the moment, if check has no objection. It rejects a query
// with other keys than these: the answer to a misspelled filter would be everything.
func (s *server) answer(check func(*api.View) error, body func(*api.View, *http.Request) (any, error),
	keys ...string,
) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any
		v := s.View()
		err := cmp.Or(checkQuery(r, keys...), check(v))
		if err == nil {
			answer, err = body(v, r)
		}
		send(w, answer, err)
	})
}

func checkQuery(r *http.Request, keys ...string) error {
	for key := range r.URL.Query() {
		if !slices.Contains(keys, key) {
			remedy := "known keys: " + cmp.Or(strings.Join(keys, ", "), "none")
			return fail(http.StatusBadRequest, remedy, "%s: unknown query key %.100q", r.URL.Path, key)
		}
	}
	return nil
}

func always(*api.View) error { return nil }

// synced says if the controller does not know enough yet: half the truth is worse than none.
func synced(v *api.View) error {
	if v.Sync.Open {
		return nil
	}
	return notSynced("the nodes", v.Sync, v.At)
}

func notSynced(what string, sync api.Sync, at time.Time) error {
	return fail(http.StatusServiceUnavailable, "ask again later; `kicker status` says what it waits for",
		"the controller does not know %s yet: %s%s", what, sync.Why, left(sync, at))
}

// leads says if another controller leads: only that one carries out orders.
func leads(v *api.View) error {
	if v.Leader == "" {
		return nil
	}
	return fail(http.StatusServiceUnavailable, "ask that one (kicker --api URL)",
		"this controller is a standby: controller %s leads", v.Leader)
}

func (s *server) health(w http.ResponseWriter, r *http.Request) {
	var err error
	if age := time.Since(s.View().At); age > staleAfter {
		err = fail(http.StatusServiceUnavailable, "restart it",
			"the controller hangs: its loop last ran %s ago", api.Duration(age))
	}
	send(w, map[string]bool{"ok": true}, err)
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	v := s.View()
	send(w, map[string]bool{"ok": true}, cmp.Or(synced(v), leads(v)))
}

// failure is an error with the answer that it becomes. Every other error becomes status 400.
type failure struct {
	status int
	body   api.Error
}

func (f failure) Error() string { return f.body.Error }

func fail(status int, remedy, format string, args ...any) error {
	return failure{status, api.Error{Error: fmt.Sprintf(format, args...), Remedy: remedy}}
}

func send(w http.ResponseWriter, body any, err error) {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		const text = "the body is too large: send at most %d KiB"
		err = fail(http.StatusRequestEntityTooLarge, "", text, tooLarge.Limit>>10)
	}
	status := http.StatusOK
	if err != nil {
		f, ok := errors.AsType[failure](err)
		if !ok {
			f = failure{http.StatusBadRequest, api.Error{Error: err.Error()}}
		}
		status, body = f.status, f.body
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(body) // if this fails, the client is gone
}
