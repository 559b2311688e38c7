package web

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kicker/controller/api"
	"kicker/kick"
)

func (s *server) metrics() http.Handler {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kicker_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": s.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	r := prometheus.NewRegistry()
	process := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	r.MustRegister(build, viewCollector{s.View}, collectors.NewGoCollector(), process)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// viewCollector makes metrics from the view of the moment. No label is a node's name: series would pile up as machines
// come and go.
type viewCollector struct{ view func() *api.View }

var (
	nodesDesc     = desc("kicker_nodes", "Nodes.", "life")
	membersDesc   = desc("kicker_members", "Members of a role.", "role")
	heldDesc      = desc("kicker_held_members", "Members whose removal the guard holds, or in shadow would.", "role")
	problemsDesc  = desc("kicker_problems", "Problems.", "code", "severity")
	conflictsDesc = desc("kicker_conflicts", "Names that two machines claim.")
	verdictsDesc  = desc("kicker_verdicts", "Actions that depend on a role.", "state")
	gatesDesc     = desc("kicker_gates", "Actions that wait for a gate.", "gate")
	runsDesc      = desc("kicker_runs_total", "Runs that ended.", "outcome")
	kicksDesc     = desc("kicker_kicks_total", "Kicks sent, by the node's answer.", "answer")
	syncedDesc    = desc("kicker_synced", "1 if the controller knows enough to act.")
	receivedDesc  = desc("kicker_disconnects_received", "0 if bus.system_url is set and delivers no disconnects.")
	leadingDesc   = desc("kicker_leading", "1 if no other controller is known to lead.")
	eventsDesc    = desc("kicker_events_total", "Events.", "kind")
	invalidDesc   = desc("kicker_invalid_messages_total", "Invalid messages from the bus.")
	ageDesc       = desc("kicker_view_age_seconds", "Time since the controller's loop ran. It runs every 5 s at least.")
	startedDesc   = desc("kicker_start_time_seconds", "When the controller started, in Unix seconds.")
	reloadDesc    = desc("kicker_config_last_reload_successful", "0 if the changed configuration was rejected.")
	loadedDesc    = desc("kicker_config_last_reload_success_timestamp_seconds",
		"When the configuration in force was loaded, in Unix seconds.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe sends nothing: which series there are follows from the view.
func (viewCollector) Describe(chan<- *prometheus.Desc) {}

func (c viewCollector) Collect(ch chan<- prometheus.Metric) {
	v := c.view()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	for life, n := range lives(v.Nodes) {
		gauge(nodesDesc, float64(n), string(life))
	}
	type kind struct{ code, severity string }
	count := map[kind]int{}
	for _, p := range problems(v) {
		count[kind{p.Code, string(p.Severity)}]++
	}
	for _, code := range api.ProblemCodes {
		for _, severity := range api.Severities {
			gauge(problemsDesc, float64(count[kind{code, string(severity)}]), code, string(severity))
		}
	}
	gauge(conflictsDesc, float64(len(v.Conflicts)))
	for _, role := range v.Roles {
		held := 0
		if role.Held != nil {
			held = len(role.Held.Nodes)
		}
		gauge(membersDesc, float64(len(role.Members)), role.Name)
		gauge(heldDesc, float64(held), role.Name)
	}
	for state, n := range states(v.Verdicts) {
		gauge(verdictsDesc, float64(n), string(state))
	}
	for gate, n := range gates(v.Verdicts) {
		gauge(gatesDesc, float64(n), gate)
	}
	outcomes := []kick.Outcome{kick.Succeeded, kick.Failed, kick.TimedOut, kick.Killed, kick.Lost}
	for outcome, n := range fromZero(v.Counts.Runs, outcomes...) {
		counter(runsDesc, n, string(outcome))
	}
	for answer, n := range fromZero(v.Counts.Kicks, kick.Accepted) {
		counter(kicksDesc, n, string(answer))
	}
	for kind, n := range v.Counts.Events {
		counter(eventsDesc, n, kind)
	}
	gauge(syncedDesc, oneIf(v.Sync.Open))
	gauge(receivedDesc, oneIf(v.DisconnectsLost == ""))
	gauge(leadingDesc, oneIf(v.Leader == ""))
	counter(invalidDesc, v.Counts.InvalidMessages)
	gauge(ageDesc, time.Since(v.At).Seconds())
	gauge(startedDesc, float64(v.Identity.Started.UnixMilli())/1000)
	gauge(reloadDesc, oneIf(v.Loaded.Failed == ""))
	gauge(loadedDesc, float64(v.Loaded.At.UnixMilli())/1000)
}

func oneIf(fact bool) float64 {
	if fact {
		return 1
	}
	return 0
}

func gates(verdicts []api.Verdict) map[string]int {
	n := map[string]int{}
	for _, gate := range api.Gates {
		n[gate] = 0
	}
	for _, v := range verdicts {
		for _, g := range v.Gates {
			n[g.Name]++
		}
	}
	return n
}

// fromZero adds what never happened: a rate needs a series that exists before the first time.
func fromZero[K comparable](counts map[K]int64, known ...K) map[K]int64 {
	all := map[K]int64{}
	for _, k := range known {
		all[k] = 0
	}
	for k, n := range counts {
		all[k] = n
	}
	return all
}
