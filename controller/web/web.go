// Package web shows a running controller over HTTP, and takes an operator's orders.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"kicker/controller/api"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Config is what a handler shows, and to whom.
type Config struct {
	View func() *api.View // never nil
	Kick func(context.Context, api.KickOrder) (api.Kicked, error)
	Lose func(context.Context, api.LossOrder) error
	Plan func(ctx context.Context, text []byte) (api.Plan, error) // of the text of a configuration
	// Token is what a request must bear to be let in. Empty: no request bears it.
	Token string
	// OpenReads is for a loopback listener: reading needs no token. What comes in over loopback must name a loopback Host.
	OpenReads bool
	// Trusted is for a listener that lets in only who may do everything, such as a unix socket of mode 0600.
	Trusted bool
	Version string // of this program
	Log     *slog.Logger
}

// Limits of an exchange.
const (
	maxBody    = 64 << 10 // bytes of a request's body
	maxTime    = 30 * time.Second
	staleAfter = 15 * time.Second // the loop publishes a view every 5 s at least
)

type server struct{ Config }

// Handler answers the whole API, as docs/reference/api.md has it.
func Handler(cfg Config) http.Handler {
	s := &server{cfg}
	mux := http.NewServeMux()
	for pattern, answer := range s.routes() {
		mux.Handle(pattern, answer)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.noSuchPath(mux, w, r) })
	return s.guard(mux)
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

// Serve answers requests that come in through ln until ctx ends, then ends the streams, and the other requests within a few
// seconds. It closes ln.
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
		s.fail(w, http.StatusServiceUnavailable, api.Error{Error: fmt.Sprintf("the controller's loop has not turned for %s", age.Round(time.Second))})
		return
	}
	s.answer(w, map[string]bool{"ok": true})
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.synced(w); ok && s.leads(w) {
		s.answer(w, map[string]bool{"ok": true})
	}
}

// synced gives the view, or says that there is none yet that could be believed: half the truth is worse than none.
func (s *server) synced(w http.ResponseWriter) (*api.View, bool) {
	v := s.View()
	if !v.Sync.Open {
		s.fail(w, http.StatusServiceUnavailable, notSynced(v.Sync.Why))
	}
	return v, v.Sync.Open
}

func notSynced(why string) api.Error {
	return api.Error{
		Error:  "the controller does not know the nodes yet: " + why,
		Remedy: "wait a little and ask again; `kicker status` says what it waits for",
	}
}

func (s *server) noSuchPath(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != "/" {
			w.Header().Set("Allow", method)
			s.fail(w, http.StatusMethodNotAllowed, api.Error{Error: fmt.Sprintf("%s: only %s is possible", r.URL.Path, method)})
			return
		}
	}
	s.fail(w, http.StatusNotFound, api.Error{Error: fmt.Sprintf("no such path: %.100q", r.URL.Path), Remedy: "the API is below /v1/, see docs/reference/api.md"})
}

// knownQuery refuses a query with other keys than these: a filter that is misspelled must not answer everything.
func (s *server) knownQuery(w http.ResponseWriter, r *http.Request, keys ...string) bool {
	for key := range r.URL.Query() {
		if !slices.Contains(keys, key) {
			remedy := "it takes none"
			if len(keys) > 0 {
				remedy = "it takes " + strings.Join(keys, ", ")
			}
			s.fail(w, http.StatusBadRequest, api.Error{Error: fmt.Sprintf("%s: unknown query key %.100q", r.URL.Path, key), Remedy: remedy})
			return false
		}
	}
	return true
}

func (s *server) answer(w http.ResponseWriter, body any) { s.send(w, http.StatusOK, body) }

func (s *server) fail(w http.ResponseWriter, code int, e api.Error) { s.send(w, code, e) }

func (s *server) send(w http.ResponseWriter, code int, body any) {
	b, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		s.Log.Error("an answer that is no JSON", "err", err)
		code, b = http.StatusInternalServerError, []byte(`{"error": "the answer is no JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(b, '\n')) // nobody is left to tell when it fails
}
