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
	r.MustRegister(build, viewCollector{s.View}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// viewCollector computes metrics from the view at the moment of the scrape. No label is a node's name: series would pile up as
// machines come and go.
type viewCollector struct{ view func() *api.View }

var (
	nodesDesc     = desc("kicker_nodes", "Nodes that are heard.", "life")
	membersDesc   = desc("kicker_members", "Members of a role: nodes that are in it, alive and ready.", "role")
	heldDesc      = desc("kicker_held_members", "Members of a role whose removal the guard holds, or would hold in shadow.", "role")
	conflictsDesc = desc("kicker_conflicts", "Names of nodes that two machines claim.")
	verdictsDesc  = desc("kicker_verdicts", "Actions that depend on something.", "state")
	gatesDesc     = desc("kicker_gates", "Actions that wait for a gate.", "gate")
	runsDesc      = desc("kicker_runs_total", "Runs that ended.", "outcome")
	kicksDesc     = desc("kicker_kicks_total", "Kicks that were sent, by the node's answer.", "answer")
	syncedDesc    = desc("kicker_synced", "1 if the controller knows enough to act.")
	closingsDesc  = desc("kicker_closings_heard", "0 if it should be heard which connections close, by bus.system_url, and is not.")
	leadingDesc   = desc("kicker_leading", "1 if no other controller is known to lead.")
	eventsDesc    = desc("kicker_events_total", "Events.", "kind")
	refusedDesc   = desc("kicker_refused_messages_total", "Messages from the bus that were refused.")
	ageDesc       = desc("kicker_view_age_seconds", "How long ago the controller's loop turned. It turns every 5 s at least.")
	startedDesc   = desc("kicker_start_time_seconds", "When the controller started, in Unix seconds.")
	reloadDesc    = desc("kicker_config_last_reload_successful", "0 if the configuration changed since, and is no good.")
	loadedDesc    = desc("kicker_config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded, in Unix seconds.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func (viewCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, conflictsDesc, membersDesc, heldDesc, verdictsDesc, gatesDesc, runsDesc, kicksDesc, syncedDesc, closingsDesc, leadingDesc,
		eventsDesc, refusedDesc, ageDesc, startedDesc, reloadDesc, loadedDesc} {
		ch <- d
	}
}

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
	for outcome, n := range fromZero(v.Counts.Runs, kick.Succeeded, kick.Failed, kick.TimedOut, kick.Killed, kick.Lost) {
		counter(runsDesc, n, string(outcome))
	}
	for answer, n := range fromZero(v.Counts.Kicks, kick.Accepted) {
		counter(kicksDesc, n, string(answer))
	}
	for kind, n := range v.Counts.Events {
		counter(eventsDesc, n, kind)
	}
	gauge(syncedDesc, oneIf(v.Sync.Open))
	gauge(closingsDesc, oneIf(v.DisconnectsLost == ""))
	gauge(leadingDesc, oneIf(v.Leader == ""))
	counter(refusedDesc, v.Counts.InvalidMessages)
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
	for _, gate := range []string{api.GateLeader, api.GateObserve, api.GateSynced, api.GateUnknown, api.GateMinMembers,
		api.GateSettle, api.GateRunning, api.GateBudget, api.GateRollout, api.GateBackoff} {
		n[gate] = 0
	}
	for _, v := range verdicts {
		for _, g := range v.Gates {
			n[g.Name]++
		}
	}
	return n
}

// fromZero adds what never happened: a rate can only be taken of a series that was there before.
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
