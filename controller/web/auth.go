package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"kicker/controller/api"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// guard lets in who may, and limits how long an exchange may take. A local user or a web page must not be able to start runs.
func (s *server) guard(next http.Handler) http.Handler {
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
		if err := s.admit(r); err != nil {
			s.Log.Warn("a request was refused", "from", r.RemoteAddr, "method", r.Method, "path", r.URL.Path, "err", err)
			e, code := api.Error{Error: err.Error()}, http.StatusForbidden
			if errors.Is(err, errToken) {
				code = http.StatusUnauthorized
				w.Header().Set("WWW-Authenticate", "Bearer")
				e.Remedy = "send the controller's token (Authorization: Bearer …; kicker --token-file FILE), or ask as the controller's user through its api.sock"
			}
			s.fail(w, code, e)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var errToken = errors.New("the token is missing or wrong")

func (s *server) admit(r *http.Request) error {
	switch {
	case s.Trusted, s.bearsToken(r):
		return nil
	case s.OpenReads && (isRead(r) || r.URL.Path == planPath):
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && !local.IP.IsLoopback() {
			return nil // a listener beyond loopback was opened on purpose
		}
		// A web page whose name was made to resolve to 127.0.0.1 is of the same site for its browser: only the Host tells.
		return checkLoopback(r.Host)
	}
	return errToken
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func (s *server) bearsToken(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if s.Token == "" || !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	// Of digests, so that not even the length shows in how long it takes.
	got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(s.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

func checkLoopback(hostport string) error {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	return fmt.Errorf("host %.100q: this listener answers to localhost and loopback addresses only", hostport)
}
