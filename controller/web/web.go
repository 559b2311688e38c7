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
	Plan func(ctx context.Context, text []byte) (api.Plan, error) // of the text of a configuration
	// Token allows a request everything. If it is empty, no token does.
	Token string
	// OpenReads allows questions without a token. Over loopback they must name a loopback Host.
	OpenReads bool
	// Trusted allows every request everything. It is for listeners such as a unix socket of mode 0600.
	Trusted bool
	Version string // of this program
	Log     *slog.Logger
}

const (
	maxBody    = 64 << 10         // bytes of an order
	maxTime    = 30 * time.Second // to write an answer
	staleAfter = 15 * time.Second // the loop publishes a view every 5 s at least
)

type server struct{ Config }

// Handler answers every path of docs/reference/api.md.
func Handler(cfg Config) http.Handler {
	s := &server{cfg}
	mux := http.NewServeMux()
	for pattern, answer := range s.routes() {
		mux.Handle(pattern, answer)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.noSuchPath(mux, w, r) })
	return s.authorized(mux)
}

func (s *server) routes() map[string]http.Handler {
	return map[string]http.Handler{
		"GET /healthz":                 http.HandlerFunc(s.health),
		"GET /readyz":                  http.HandlerFunc(s.ready),
		"GET /metrics":                 s.metrics(),
		"GET /v1/status":               http.HandlerFunc(s.status),
		"GET /v1/nodes":                http.HandlerFunc(s.nodes),
		"GET /v1/nodes/{node}":         http.HandlerFunc(s.node),
		"GET /v1/nodes/{node}/explain": http.HandlerFunc(s.explain),
		"GET /v1/roles":                http.HandlerFunc(s.roles),
		"GET /v1/roles/{role}":         http.HandlerFunc(s.role),
		"GET /v1/runs":                 http.HandlerFunc(s.runs),
		"GET /v1/events":               http.HandlerFunc(s.events),
		"POST /v1/kicks":               http.HandlerFunc(s.kick),
		"POST /v1/losses":              http.HandlerFunc(s.lose),
		"POST " + planPath:             http.HandlerFunc(s.plan),
	}
}

// Serve answers the requests that arrive at ln until ctx ends. Then it ends streams at once and other requests within
// 3 s. It closes ln.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	down := make(chan struct{})
	go func() {
		defer close(down)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	}()
	err := srv.Serve(ln)
	stop()
	<-down
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve http on %s: %w", ln.Addr(), err)
}

func (s *server) health(w http.ResponseWriter, r *http.Request) {
	if age := time.Since(s.View().At); age > staleAfter {
		s.fail(w, http.StatusServiceUnavailable, api.Error{
			Error:  "the controller hangs: its loop last ran " + api.Duration(age) + " ago",
			Remedy: "restart it",
		})
		return
	}
	s.answer(w, map[string]bool{"ok": true})
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.synced(w); ok && s.leads(w) {
		s.answer(w, map[string]bool{"ok": true})
	}
}

// synced gives the view, or answers that the controller does not know enough yet: half the truth is worse than none.
func (s *server) synced(w http.ResponseWriter) (*api.View, bool) {
	v := s.View()
	if !v.Sync.Open {
		s.fail(w, http.StatusServiceUnavailable, notSynced("the nodes", v.Sync, v.At))
	}
	return v, v.Sync.Open
}

func notSynced(what string, sync api.Sync, at time.Time) api.Error {
	return api.Error{
		Error:  fmt.Sprintf("the controller does not know %s yet: %s%s", what, sync.Why, left(sync, at)),
		Remedy: "ask again later; `kicker status` says what it waits for",
	}
}

func (s *server) noSuchPath(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != "/" {
			w.Header().Set("Allow", method)
			s.fail(w, http.StatusMethodNotAllowed, api.Error{Error: r.URL.Path + ": only " + method + " is possible"})
			return
		}
	}
	s.fail(w, http.StatusNotFound, api.Error{
		Error:  fmt.Sprintf("no such path: %.100q", r.URL.Path),
		Remedy: "the API is below /v1/, see docs/reference/api.md",
	})
}

// knownQuery rejects a query with other keys than these: the answer to a misspelled filter would be everything.
func (s *server) knownQuery(w http.ResponseWriter, r *http.Request, keys ...string) bool {
	for key := range r.URL.Query() {
		if !slices.Contains(keys, key) {
			known := cmp.Or(strings.Join(keys, ", "), "none")
			s.badRequest(w, fmt.Errorf("%s: unknown query key %.100q", r.URL.Path, key), "known keys: "+known)
			return false
		}
	}
	return true
}

func (s *server) answer(w http.ResponseWriter, body any) { s.send(w, http.StatusOK, body) }

func (s *server) fail(w http.ResponseWriter, code int, e api.Error) { s.send(w, code, e) }

func (s *server) badRequest(w http.ResponseWriter, err error, remedy string) {
	s.fail(w, http.StatusBadRequest, api.Error{Error: err.Error(), Remedy: remedy})
}

func (s *server) send(w http.ResponseWriter, code int, body any) {
	b, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		s.Log.Error("answer cannot be encoded as JSON", "err", err)
		code, b = http.StatusInternalServerError, []byte(`{"error": "the answer cannot be encoded as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(b, '\n')) // if this fails, the client is gone
}
