package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"kicker/controller/api"
)

// authorized lets only allowed requests through, and each for maxTime. A local user or a web page must not be able to
// start runs.
func (s *server) authorized(next http.Handler) http.Handler {
	sites := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		conn.SetWriteDeadline(time.Now().Add(maxTime)) // best effort: a ResponseWriter in tests has none
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if probe := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"; probe && isRead(r) {
			next.ServeHTTP(w, r)
			return
		}
		if err := sites.Check(r); err != nil {
			s.fail(w, http.StatusForbidden, api.Error{Error: err.Error()})
			return
		}
		if err := s.allow(r); err != nil {
			s.Log.Warn("request rejected", "from", r.RemoteAddr, "method", r.Method, "path", r.URL.Path, "err", err)
			e, code := api.Error{Error: err.Error()}, http.StatusForbidden
			if errors.Is(err, errToken) {
				code = http.StatusUnauthorized
				w.Header().Set("WWW-Authenticate", "Bearer")
				e.Remedy = "send the controller's token (Authorization: Bearer TOKEN; kicker --token-file FILE), " +
					"or ask as the controller's user through its api.sock"
			}
			s.fail(w, code, e)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var errToken = errors.New("the token is missing or wrong")

// allow says why a request is not allowed.
func (s *server) allow(r *http.Request) error {
	switch {
	case s.Trusted, s.hasToken(r):
		return nil
	case s.OpenReads && (isRead(r) || r.URL.Path == planPath):
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && !local.IP.IsLoopback() {
			return nil // the configuration opened a listener beyond loopback
		}
		// A web page's name can be made to resolve to 127.0.0.1: then only the Host shows that it is another site.
		return checkLoopback(r.Host)
	}
	return errToken
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func (s *server) hasToken(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if s.Token == "" || !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	// Digests, so that the time this takes does not even show the length.
	got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(s.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

func checkLoopback(host string) error {
	if api.IsLoopback(host) {
		return nil
	}
	return fmt.Errorf("host %.100q: this listener answers only to localhost and loopback addresses", host)
}
