package controller

import (
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"kicker/kick"
)

// key names an action of a node.
type key struct{ node, action string }

func (k key) String() string { return k.node + "/" + k.action }

// action is one action of a node that is heard: what the node says of it, and what the controller remembers. It belongs to the loop.
type action struct {
	node, name string
	needs      []need
	unresolved string // why some of what it depends on is not in needs
	status     kick.ActionStatus
	running    *kick.Running // on its node, of whatever action
	flight     *flight       // on its node, of whatever action

	barred bool      // stale, and there is nothing to configure it from yet
	since  time.Time // stale since; zero while it is not
	from   time.Time // when the first change that made it stale began: settling counts from here
	forced *order    // an operator's order that was not accepted yet
	cause  cause     // why it is stale
	own    string    // the fact that runs of its own circle changed
	memory *memory
}

// lacks reports whether something that the action needs is not there to be configured from.
func (a *action) lacks() bool {
	return a.unresolved != "" || slices.ContainsFunc(a.needs, func(n need) bool {
		return !n.role.gate.open || n.role.unheardOf() || n.role.tooFew()
	})
}

// tooFew reports whether a role has fewer members than its dependents may be kicked with.
func (r *role) tooFew() bool { return len(r.now.Members) < r.MinMembers }

// memory outlives the node's presence and the need: a flapping role must not hammer a failing node.
type memory struct {
	used      time.Time
	sent      time.Time     // the last kick was
	kicked    time.Time     // the last accepted kick was sent
	took      time.Duration // the last run's
	ended     time.Time     // the last run
	selfMade  int           // accepted kicks in a row for changes that runs of its own circle made
	damped    bool          // was told
	failures  int           // in a row
	notBefore time.Time     // the same again, see next
	why       string        // notBefore
	tried     string        // the needs of the last kick
	retry     string        // the id of a kick that got no reply: the same kick again makes no second run
	backoff   *backoff.ExponentialBackOff
}

// flight is a kick that was sent, until its run is known to be over. There is one a node at most. A node that is gone may run on, and so
// its flight goes on too.
type flight struct {
	id, node, action string
	reason, tried    string
	cause            cause
	handed           []handed
	bears            []string // roles that its node bore
	sent             time.Time
	accepted         bool
	deadline         time.Time // over by then at the latest
}

// handed is a membership that a kick handed over.
type handed struct {
	role *role
	hash string
}

// ended notes what a run with these memberships tells of them. A revision that fails everywhere must not be tried everywhere at once.
func (f *flight) ended(succeeded bool) {
	for _, h := range f.handed {
		switch {
		case h.role.now.Revision.Hash != h.hash:
			// it says nothing of what is current
		case succeeded:
			h.role.failed = nil
		default:
			if h.role.failed == nil {
				h.role.failed = map[string]struct{}{}
			}
			h.role.failed[f.node] = struct{}{}
		}
	}
}

// strays is the runs in progress, as far as is known, that no action tells of.
func (c *Controller) strays() []stray {
	var strays []stray
	for node, f := range c.flights {
		if len(c.byNode[node]) > 0 {
			continue
		}
		_, heard := c.status[node]
		s := stray{key: key{node, f.action}, bears: c.roles.of[node], gone: !heard}
		if !heard {
			s.bears = c.roles.named(f.bears)
		}
		for _, h := range f.handed {
			if h.role.now.Revision.Hash == h.hash {
				s.tries = append(s.tries, h.role)
			}
		}
		strays = append(strays, s)
	}
	for node, run := range c.running {
		if len(c.byNode[node]) == 0 && c.flights[node] == nil {
			strays = append(strays, stray{key: key{node, run.Action}, bears: c.roles.of[node]})
		}
	}
	slices.SortFunc(strays, func(a, b stray) int { return strings.Compare(a.node, b.node) })
	return strays
}

// borneBy is the names of the roles that a node bears by name.
func (rs *roles) borneBy(node string) []string {
	var names []string
	for _, r := range rs.of[node] {
		names = append(names, r.Name)
	}
	return names
}

// named is those of the roles that are known.
func (rs *roles) named(names []string) []*role {
	var known []*role
	for _, name := range names {
		if r := rs.byName[name]; r != nil {
			known = append(known, r)
		}
	}
	return known
}

// failed spaces the next try. It never gives up.
func (m *memory) failed(cfg BackoffConfig, now time.Time, why string) {
	if m.backoff == nil {
		m.backoff = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(cfg.Initial), backoff.WithMaxInterval(cfg.Max), backoff.WithMultiplier(2),
			backoff.WithRandomizationFactor(0.2), backoff.WithMaxElapsedTime(0))
	}
	m.failures++
	m.notBefore, m.why = now.Add(min(m.backoff.NextBackOff(), cfg.Max)), why
}

// accepted notes that a kick was accepted that was sent then, and why it was. One after a failure only continues what was.
func (m *memory) accepted(sent time.Time, why cause) {
	m.kicked = sent
	switch why {
	case selfMade:
		m.selfMade++
	case outside:
		m.selfMade = 0
	}
}

func (m *memory) succeeded() {
	m.backoff, m.failures, m.notBefore, m.why = nil, 0, time.Time{}, ""
}

// kept reports whether a memory holds more than the node itself will say again.
func (m *memory) kept() bool { return !m.sent.IsZero() }

// next is when a kick with these needs may follow the last one, see fingerprint: with others than those that failed sooner, though not
// at once.
func (m *memory) next(cfg BackoffConfig, needs string) time.Time {
	floor := m.sent.Add(cfg.Initial)
	if m.failures > 0 && needs != m.tried && floor.Before(m.notBefore) {
		return floor
	}
	return m.notBefore
}
