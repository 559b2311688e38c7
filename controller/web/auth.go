package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
	"time"

	"kicker/controller/api"
)

// authorized lets only allowed requests through, each for maxTime: no other user and no web page may start runs.
func (s *server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxTime)) // tests' ResponseWriters have none
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if err := s.allow(r); err != nil {
			s.Log.Warn("request rejected", "from", r.RemoteAddr, "method", r.Method, "path", r.URL.Path, "err", err)
			w.Header().Set("WWW-Authenticate", "Bearer")
			send(w, nil, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var sites = http.NewCrossOriginProtection()

// allow says why a request is not allowed.
func (s *server) allow(r *http.Request) error {
	isRead := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch err := sites.Check(r); {
	case isRead && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz"):
		return nil
	case err != nil:
		return fail(http.StatusForbidden, "", "%v", err)
	case s.Trusted, s.hasToken(r):
		return nil
	case !s.OpenReads, !isRead && r.URL.Path != planPath:
		return fail(http.StatusUnauthorized, "send the controller's token (Authorization: Bearer TOKEN; kicker "+
			"--token-file FILE), or ask as the controller's user through its api.sock", "the token is missing or wrong")
	}
	// A web page's name can be made to resolve to 127.0.0.1: then only the Host shows that it is another site. Beyond
	// loopback the configuration opened the listener to any name.
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if ok && !local.IP.IsLoopback() || api.IsLoopback(r.Host) {
		return nil
	}
	return fail(http.StatusForbidden, "",
		"host %.100q: this listener answers only to localhost and loopback addresses", r.Host)
}

func (s *server) hasToken(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Digests, so that the time this takes does not even show the length.
	got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(s.Token))
	return s.Token != "" && strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
