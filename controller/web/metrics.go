package web

import (
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kicker/controller/api"
	"kicker/kick"
)

func (s *server) metrics() http.Handler {
	r := prometheus.NewRegistry()
	process := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	r.MustRegister(s, collectors.NewGoCollector(), process)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// Describe sends nothing: which series there are follows from the view.
func (s *server) Describe(chan<- *prometheus.Desc) {}

// Collect makes metrics from the view. No label is a node's name: series would pile up as machines come and go.
func (s *server) Collect(ch chan<- prometheus.Metric) {
	v := s.View()
	emit(ch, "kicker_build_info", "Always 1; the labels say what runs.", 1,
		"version", s.Version, "goversion", runtime.Version())
	emit(ch, "kicker_start_time_seconds", "When the controller started, in Unix seconds.", unix(v.Identity.Started))
	emit(ch, "kicker_view_age_seconds", "Time since the controller's loop ran. It runs every 5 s at least.",
		time.Since(v.At).Seconds())
	emit(ch, "kicker_synced", "1 if the controller knows enough to act.", oneIf(v.Sync.Open))
	emit(ch, "kicker_leading", "1 if no other controller is known to lead.", oneIf(v.Leader == ""))
	emit(ch, "kicker_disconnects_received", "0 if bus.system_url is set and delivers no disconnects.",
		oneIf(v.DisconnectsLost == ""))
	emit(ch, "kicker_config_last_reload_successful", "0 if the changed configuration was rejected.",
		oneIf(v.Loaded.Failed == ""))
	emit(ch, "kicker_config_last_reload_success_timestamp_seconds",
		"When the configuration in force was loaded, in Unix seconds.", unix(v.Loaded.At))
	emit(ch, "kicker_invalid_messages_total", "Invalid messages from the bus.", float64(v.Counts.InvalidMessages))
	emit(ch, "kicker_conflicts", "Names that two machines claim.", float64(len(v.Conflicts)))

	for _, role := range v.Roles {
		held := 0
		if role.Held != nil {
			held = len(role.Held.Nodes)
		}
		emit(ch, "kicker_members", "Members of a role.", float64(len(role.Members)), "role", role.Name)
		emit(ch, "kicker_held_members", "Members whose removal the guard holds, or in shadow would.",
			float64(held), "role", role.Name)
	}
	gates := fromZero[string, int](nil, api.Gates...)
	for _, verdict := range v.Verdicts {
		for _, gate := range verdict.Gates {
			gates[gate.Name]++
		}
	}
	outcomes := fromZero(v.Counts.Runs, kick.Succeeded, kick.Failed, kick.TimedOut, kick.Killed, kick.Lost)
	emitEach(ch, "kicker_nodes", "Nodes.", "life", lives(v.Nodes))
	emitEach(ch, "kicker_verdicts", "Actions that depend on a role.", "state", states(v.Verdicts))
	emitEach(ch, "kicker_gates", "Actions that wait for a gate.", "gate", gates)
	emitEach(ch, "kicker_runs_total", "Runs that ended.", "outcome", outcomes)
	emitEach(ch, "kicker_kicks_total", "Kicks sent, by the node's answer.", "answer",
		fromZero(v.Counts.Kicks, kick.Accepted))
	emitEach(ch, "kicker_events_total", "Events.", "kind", v.Counts.Events)

	count := map[[2]string]int{} // by code and severity
	for _, p := range problems(v) {
		count[[2]string{p.Code, string(p.Severity)}]++
	}
	for _, code := range api.ProblemCodes {
		for _, severity := range api.Severities {
			n := float64(count[[2]string{code, string(severity)}])
			emit(ch, "kicker_problems", "Problems.", n, "code", code, "severity", string(severity))
		}
	}
}

func emitEach[K ~string, N int | int64](ch chan<- prometheus.Metric, name, help, label string, values map[K]N) {
	for k, n := range values {
		emit(ch, name, help, float64(n), label, string(k))
	}
}

// emit sends a counter if the name ends in _total, otherwise a gauge. labels are names and values in turn.
func emit(ch chan<- prometheus.Metric, name, help string, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if strings.HasSuffix(name, "_total") {
		kind = prometheus.CounterValue
	}
	with := prometheus.Labels{}
	for label := range slices.Chunk(labels, 2) {
		with[label[0]] = label[1]
	}
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, with), kind, value)
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func oneIf(fact bool) float64 {
	if fact {
		return 1
	}
	return 0
}

// fromZero adds what never happened: a rate needs a series that exists before the first time.
func fromZero[K comparable, N int | int64](counts map[K]N, known ...K) map[K]N {
	all := map[K]N{}
	for _, k := range known {
		all[k] = 0
	}
	maps.Copy(all, counts)
	return all
}
