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
	Targets []string // HOST:PORT of those lost members whose facts name both, at most inventory.MaxTargets

	lost map[string]loss // all that it asks for
	hold time.Time       // when the hold began: the answers are for no other
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
		due = append(due, Probe{r, r.guard.addresses(), maps.Clone(r.guard.missing), h.since})
	}
	return due
}

// AnyOf reports whether one of the lost members is in the inventory: it reports, and is not ready or not selected.
func (p Probe) AnyOf(nodes *inventory.Snapshot) bool {
	for name := range p.lost {
		if nodes.Node(name) != nil {
			return true
		}
	}
	return false
}

// Probed notes what a probe found, as text for people. confirmed says that dependents answered and none reaches a lost
// member. Then the losses are accepted, unless the role would be empty. It returns how many were accepted, or else the
// text if it is a new one.
//
// If more members are missing than the probe asked for, the next probe is due at once. An answer for a hold that has
// ended changes nothing.
func (t *Table) Probed(p Probe, confirmed bool, text string, now time.Time) (accepted int, news string) {
	r := t.byName[p.Role.Name]
	if r == nil || r.guard.hold == nil || !r.guard.hold.since.Equal(p.hold) || len(r.guard.missing) == 0 {
		return 0, ""
	}
	h, was := r.guard.hold, r.guard.hold.probe
	empty := r.present().sound == 0
	if confirmed && empty {
		text += ", but the role would be empty: a person has to decide"
	}
	h.probe = text
	unasked := maps.Clone(r.guard.missing)
	maps.DeleteFunc(unasked, func(name string, _ loss) bool { _, asked := p.lost[name]; return asked })
	switch {
	case confirmed && len(unasked) > 0:
		h.ask = now
	case confirmed && !empty:
		return r.accept(now), ""
	case text != was:
		return 0, text
	}
	return 0, ""
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
