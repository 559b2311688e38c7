package membership

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"kicker/inventory"
	"kicker/inventory/query"
)

// Probe is the question to dependents whether they reach the members of a role whose removal is held.
type Probe struct {
	Role    *Role
	Lost    []string // nodes, sorted
	Targets []string // HOST:PORT of those of them whose facts name both, at most inventory.MaxTargets

	hold time.Time // when the hold began: the answers are for no other
}

// Probes is the probes that are due, by role. The next one of each hold is due probeEvery later.
func (t *Table) Probes(now time.Time) []Probe {
	var due []Probe
	for _, r := range t.Roles() {
		h := r.guard.hold
		if h == nil || !r.recovery.done || now.Before(h.ask) {
			continue
		}
		h.ask = now.Add(probeEvery)
		due = append(due, Probe{r, slices.Sorted(maps.Keys(r.guard.missing)), r.guard.addresses(), h.since})
	}
	return due
}

// Probed notes what a probe found, as text for people. confirmed says that dependents answered and none reaches a lost member: then the
// loss is accepted, unless the role would be empty. It reports how many were accepted, and whether the text is new. If more members are
// missing than the probe asked for, the next probe is due at once. An answer for a hold that has ended changes nothing.
func (t *Table) Probed(p Probe, confirmed bool, text string, now time.Time) (accepted int, news bool) {
	r := t.byName[p.Role.Name]
	if r == nil || r.guard.hold == nil || !r.guard.hold.since.Equal(p.hold) {
		return 0, false
	}
	h := r.guard.hold
	more := slices.ContainsFunc(slices.Collect(maps.Keys(r.guard.missing)), func(name string) bool {
		return !slices.Contains(p.Lost, name)
	})
	news = h.probe != text
	h.probe = text
	switch {
	case confirmed && more:
		h.ask = now
		return 0, false
	case confirmed && r.sound() > 0:
		accepted = len(r.guard.missing)
		r.guard.accept(now, len(r.members))
		r.touch(now)
	}
	return accepted, news
}

// Empty reports whether a role would be empty without the members whose removal is held.
func (r *Role) Empty() bool { return r.sound() == 0 }

// Missing reports whether a node departed from the role without leaving, and its removal is not published.
func (r *Role) Missing(node string) bool {
	_, missing := r.guard.missing[node]
	return missing
}

// addresses is where the missing took connections, as far as their facts say.
func (g *guard) addresses() []string {
	var addresses []string
	for _, name := range slices.Sorted(maps.Keys(g.missing)) {
		facts := g.missing[name].facts
		if facts == nil {
			facts = inventory.Facts(g.missing[name].member.Facts)
		}
		host, hasHost := query.Lookup(facts, "ipaddress")
		port, hasPort := query.Lookup(facts, "port")
		if hasHost && hasPort && len(addresses) < inventory.MaxTargets {
			addresses = append(addresses, net.JoinHostPort(fmt.Sprint(host), fmt.Sprint(port)))
		}
	}
	return addresses
}
