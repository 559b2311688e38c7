package web

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"kicker/controller/api"
)

func TestRequestsAreAllowedAsDocumented(t *testing.T) {
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
	crossSite := func(h map[string]string) map[string]string { return with(h, "Sec-Fetch-Site", "cross-site") }
	from := func(origin string) map[string]string { return with(right, "Origin", origin) }
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
		{"a plan changes nothing, so it is open like reading", loopback, plan, "127.0.0.1:7423", none, ok},
		{"but not beyond loopback", beyond, plan, "controller.example", none, unauthorized},
		{"nor by a name made to resolve to loopback", loopback, plan, "evil.example:7423", none, forbidden},
		{"nor by a page of another site", loopback, plan, "127.0.0.1:7423", crossSite(none), forbidden},
		{"a name made to resolve to loopback is rejected", loopback, read, "evil.example:7423", none, forbidden},
		{"even one that looks like localhost", loopback, read, "localhost.evil.example", none, forbidden},
		{"an address that is not loopback is rejected", loopback, read, "10.0.0.1:7423", none, forbidden},
		{"no host is rejected", loopback, read, "", none, forbidden},
		{"metrics are read like the rest", loopback, scrape, "evil.example", none, forbidden},
		{"the token works under any name", loopback, read, "controller.example", right, ok},

		{"writing needs the token on loopback", loopback, write, "localhost", none, unauthorized},
		{"so does any order", loopback, lose, "localhost", none, unauthorized},
		{"with the token any order works", loopback, lose, "localhost", right, ok},
		{"another site cannot give one", loopback, lose, "localhost", crossSite(right), forbidden},
		{"a wrong token is rejected", loopback, write, "localhost", wrong, unauthorized},
		{"so is an empty one", loopback, write, "localhost", empty, unauthorized},
		{"so is another scheme", loopback, write, "localhost", basic, unauthorized},
		{"with the token it works", loopback, write, "localhost", right, ok},
		{"if no token is configured, none works", tokenless, write, "localhost", empty, unauthorized},

		{"reading beyond loopback needs the token", beyond, read, "controller.example", none, unauthorized},
		{"also under a loopback name", beyond, read, "localhost", none, unauthorized},
		{"a wrong one is rejected", beyond, read, "controller.example", wrong, unauthorized},
		{"metrics too", beyond, scrape, "controller.example", none, unauthorized},
		{"with the token it works", beyond, read, "controller.example", right, ok},
		{"writing too", beyond, write, "controller.example", right, ok},
		{"writing needs it", beyond, write, "controller.example", none, unauthorized},
		{"probes are open", beyond, probe, "10.0.0.1", none, ok},
		{"ready too", beyond, ready, "10.0.0.1", none, ok},
		{"probes are open on loopback under any name", loopback, probe, "evil.example", none, ok},

		{"the socket is trusted", socket, write, "kicker", none, ok},
		{"for reading too", socket, read, "kicker", none, ok},

		{"another site can't write, token or not", loopback, write, "localhost", crossSite(right), forbidden},
		{"nor an old browser", loopback, write, "localhost:7423", from("http://evil.example"), forbidden},
		{"nor another port of this host", loopback, write, "localhost:7423", from("http://localhost:8080"), forbidden},
		{"nor through a socket's proxy", socket, write, "kicker", crossSite(none), forbidden},
		{"the same site can", loopback, write, "localhost:7423", from("http://localhost:7423"), ok},
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
		body := `{"object":"role/lb"}`
		if test.request == lose {
			body = `{"object":"role/lb","accept":1}`
		}
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Host = test.host
		for key, value := range test.header {
			r.Header.Set(key, value)
		}
		w := httptest.NewRecorder()
		Handler(cfg).ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("%s: %s: host %q, %v: %d, want %d",
				test.claim, test.request, test.host, test.header, w.Code, test.want)
		}
		if kicked && w.Code != ok {
			t.Errorf("%s: the request was rejected and carried out", test.claim)
		}
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: the token is in the answer", test.claim)
		}
	}
}

func TestOpenListenerBeyondLoopbackAnswersUnderAnyHost(t *testing.T) {
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
		local := &net.TCPAddr{IP: net.ParseIP(test.local), Port: 7423}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
		w := httptest.NewRecorder()
		Handler(cfg).ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("over %s: %d, want %d", test.local, w.Code, test.want)
		}
	}
}
