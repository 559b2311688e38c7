package web

import (
	"context"
	"kicker/controller/api"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestWhoMayDoWhat(t *testing.T) {
	const (
		read   = "GET /v1/status"
		scrape = "GET /metrics"
		write  = "POST /v1/kicks"
		lose   = "POST /v1/losses"
		plan   = "POST /v1/plan"
		probe  = "GET /healthz"
		ready  = "GET /readyz"
	)
	var (
		loopback  = Config{Token: "secret", OpenReads: true}
		beyond    = Config{Token: "secret"}
		tokenless = Config{OpenReads: true}
		socket    = Config{Trusted: true}

		none  = map[string]string{}
		right = map[string]string{"Authorization": "Bearer secret"}
		wrong = map[string]string{"Authorization": "Bearer secre"}
		empty = map[string]string{"Authorization": "Bearer "}
		basic = map[string]string{"Authorization": "Basic secret"}
	)
	with := func(h map[string]string, key, value string) map[string]string {
		h = maps.Clone(h)
		h[key] = value
		return h
	}
	const ok, unauthorized, forbidden = http.StatusOK, http.StatusUnauthorized, http.StatusForbidden
	for _, test := range []struct {
		claim   string
		cfg     Config
		request string
		host    string
		header  map[string]string
		want    int
	}{
		{"reading is open on loopback", loopback, read, "127.0.0.1:7423", none, ok},
		{"also by name", loopback, read, "localhost:7423", none, ok},
		{"also over IPv6", loopback, read, "[::1]:7423", none, ok},
		{"also through a forwarded port", loopback, read, "localhost:9999", none, ok},
		{"also without a port", loopback, read, "LOCALHOST.", none, ok},
		{"a plan changes nothing, and is read", loopback, plan, "127.0.0.1:7423", none, ok},
		{"but not beyond loopback", beyond, plan, "controller.example", none, unauthorized},
		{"nor by a name made to resolve to loopback", loopback, plan, "evil.example:7423", none, forbidden},
		{"nor by a page of another site", loopback, plan, "127.0.0.1:7423", with(none, "Sec-Fetch-Site", "cross-site"), forbidden},
		{"a name made to resolve to loopback is refused", loopback, read, "evil.example:7423", none, forbidden},
		{"whatever it looks like", loopback, read, "localhost.evil.example", none, forbidden},
		{"an address that is not loopback is refused", loopback, read, "10.0.0.1:7423", none, forbidden},
		{"no host is refused", loopback, read, "", none, forbidden},
		{"metrics are read like the rest", loopback, scrape, "evil.example", none, forbidden},
		{"the token opens under any name", loopback, read, "controller.example", right, ok},

		{"writing needs the token on loopback", loopback, write, "localhost", none, unauthorized},
		{"for any order", loopback, lose, "localhost", none, unauthorized},
		{"with the token each works", loopback, lose, "localhost", right, ok},
		{"another site can't give any", loopback, lose, "localhost", with(right, "Sec-Fetch-Site", "cross-site"), forbidden},
		{"the right one", loopback, write, "localhost", wrong, unauthorized},
		{"not none", loopback, write, "localhost", empty, unauthorized},
		{"as a bearer token", loopback, write, "localhost", basic, unauthorized},
		{"with the token it works", loopback, write, "localhost", right, ok},
		{"without a token nobody writes", tokenless, write, "localhost", empty, unauthorized},

		{"reading beyond loopback needs the token", beyond, read, "controller.example", none, unauthorized},
		{"also under a loopback name", beyond, read, "localhost", none, unauthorized},
		{"a wrong one is refused", beyond, read, "controller.example", wrong, unauthorized},
		{"metrics too", beyond, scrape, "controller.example", none, unauthorized},
		{"with the token it works", beyond, read, "controller.example", right, ok},
		{"writing too", beyond, write, "controller.example", right, ok},
		{"writing needs it", beyond, write, "controller.example", none, unauthorized},
		{"probes are open", beyond, probe, "10.0.0.1", none, ok},
		{"ready too", beyond, ready, "10.0.0.1", none, ok},
		{"probes are open on loopback under any name", loopback, probe, "evil.example", none, ok},

		{"the socket is trusted", socket, write, "kicker", none, ok},
		{"for reading too", socket, read, "kicker", none, ok},

		{"another site can't write, token or not", loopback, write, "localhost", with(right, "Sec-Fetch-Site", "cross-site"), forbidden},
		{"nor an old browser", loopback, write, "localhost:7423", with(right, "Origin", "http://evil.example"), forbidden},
		{"nor another port of this host", loopback, write, "localhost:7423", with(right, "Origin", "http://localhost:8080"), forbidden},
		{"nor through a socket's proxy", socket, write, "kicker", with(none, "Sec-Fetch-Site", "cross-site"), forbidden},
		{"the same site can", loopback, write, "localhost:7423", with(right, "Origin", "http://localhost:7423"), ok},
	} {
		cfg := showing(cluster(t))
		cfg.Trusted, cfg.Token, cfg.OpenReads = test.cfg.Trusted, test.cfg.Token, test.cfg.OpenReads
		kicked := false
		cfg.Kick = func(context.Context, api.KickOrder) (api.Kicked, error) {
			kicked = true
			return api.Kicked{}, nil
		}
		cfg.Lose = func(context.Context, api.LossOrder) error {
			kicked = true
			return nil
		}
		cfg.Plan = func(context.Context, []byte) (api.Plan, error) { return api.Plan{}, nil }
		fresh := *cfg.View()
		fresh.At = time.Now()
		cfg.View = func() *api.View { return &fresh }

		method, path, _ := strings.Cut(test.request, " ")
		r := httptest.NewRequest(method, path, strings.NewReader(`{"object":"role/lb"}`))
		r.Host = test.host
		for key, value := range test.header {
			r.Header.Set(key, value)
		}
		w := httptest.NewRecorder()
		Handler(cfg).ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("%s: %s: host %q, %v: %d, want %d", test.claim, test.request, test.host, test.header, w.Code, test.want)
		}
		if kicked && w.Code != ok {
			t.Errorf("%s: refused, and kicked all the same", test.claim)
		}
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: the token is in the answer", test.claim)
		}
	}
}

func TestOpenListenersBeyondLoopbackAnswerUnderAnyName(t *testing.T) {
	for _, test := range []struct {
		local string
		want  int
	}{
		{"127.0.0.1", http.StatusForbidden},
		{"::1", http.StatusForbidden},
		{"10.0.0.1", http.StatusOK},
	} {
		cfg := showing(cluster(t))
		cfg.Trusted, cfg.OpenReads = false, true
		r := httptest.NewRequest("GET", "http://controller.example/v1/status", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(test.local), Port: 7423}))
		w := httptest.NewRecorder()
		Handler(cfg).ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("over %s: %d, want %d", test.local, w.Code, test.want)
		}
	}
}
