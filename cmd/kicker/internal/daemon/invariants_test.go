package daemon

import (
	"flag"
	"fmt"
	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// The invariants of docs/explanation/invariants.md over random schedules of faults. A seed fixes the schedule, but not
// the order of goroutines: to repeat a rare failure, play its seed several times.
var (
	seedFlag = flag.Uint64("seed", 0, "play the schedule of this seed alone")
	soakFlag = flag.Duration("soak", 0, "play random schedules for this long")
	firstRun = flag.Int("schedules", 0, "play this many schedules; 0: 200, or 40 with the race detector")
)

func TestInvariants(t *testing.T) {
	counts := map[string]int{}
	began := time.Now()
	most := uint64(200)
	switch {
	case *firstRun > 0:
		most = uint64(*firstRun)
	case raced():
		most = 40
	}
	seeds := func(yield func(uint64) bool) {
		if *seedFlag != 0 {
			yield(*seedFlag)
			return
		}
		from := uint64(1)
		if *soakFlag > 0 {
			from = uint64(began.UnixNano())
		}
		for i := range uint64(1 << 62) {
			if *soakFlag > 0 && time.Since(began) > *soakFlag || *soakFlag == 0 && i >= most {
				return
			}
			if !yield(from + i) {
				return
			}
		}
	}
	played := 0
	for seed := range seeds {
		played++
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { playSchedule(t, seed, counts) }) {
			fmt.Printf("a schedule failed, play it again: make soak SEED=%d\n", seed) // at once, not after a long soak
		}
	}
	fmt.Printf("%d schedules in %s, with\n%s", played, time.Since(began).Round(time.Second), faultTable(counts))
	if *seedFlag != 0 {
		return
	}
	for _, f := range faults() {
		if counts[f.kind] == 0 {
			t.Errorf("no %s in %d schedules", f.kind, played)
		}
	}
}

func playSchedule(t *testing.T, seed uint64, counts map[string]int) {
	var s seen
	inCluster(t, func(c *cluster) {
		dice := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(c, dice, counts)
		w.in(w.between(0, 15*time.Second), "the faults begin", func() {})
		w.play()
		kinds := faults()
		at := time.Duration(0)
		for range 4 + dice.IntN(14) {
			at += w.between(0, 9*time.Second)
			w.in(at, "", func() {
				if f := pick(dice, kinds...); f.do(w) {
					w.happens(f.kind)
				}
			})
		}
		w.heal()
		w.removalsArrive()
		w.settleDown()
		w.finale()
		w.counts["lost"] += w.storm.nLost
		w.counts["doubled"] += w.storm.nDouble
		w.counts["overtaken"] += w.storm.nOvertook
		s = w.seen()
		for _, number := range slices.Sorted(maps.Keys(invariants)) {
			for _, wrong := range invariants[number](s) {
				t.Errorf("invariant %s: %s", number, wrong)
			}
		}
	})
}

// removalsArrive is invariant 25: there are no faults any more, apart from members that break every run. Another member
// dies. Its removal, and all others, reach every dependent. Then all members are well again.
func (w *world) removalsArrive() {
	w.t.Helper()
	var poison, healthy []*machine
	for _, m := range w.machines {
		switch member := m.role == "web" && m.up && !m.left; {
		case member && w.poisons.has(m.self.Node):
			poison = append(poison, m)
		case member:
			healthy = append(healthy, m)
		}
	}
	if len(poison) > 0 && len(healthy) > 3 {
		w.counts["removal beside a member that breaks every run"]++
		dead := pick(w.dice, healthy...)
		w.record.note("node dead for good: %s", dead.self.Node)
		w.record.impair(dead.self.Node, "dead", true)
		w.crash(dead.node, "boot of a dead node")
		dead.up = false
		healthy = slices.DeleteFunc(healthy, func(m *machine) bool { return m == dead })
	}
	// A trial never hands out too short a list. Other members may be accused, too.
	one := len(poison) == 1 && len(healthy) > w.least("web")
	two := len(poison) == 2 && w.least("web") <= 1
	enough := len(healthy) >= 2 && (one || two)
	if len(poison) > 0 && enough {
		bound := 20*time.Minute + 8*w.cfg.Backoff.Max
		deadline := time.Now().Add(bound)
		for why := w.stillUsed(); why != ""; why = w.stillUsed() {
			if !time.Now().Before(deadline) {
				w.t.Errorf("invariant 25: %s after the last fault, %d members break every run: %s", bound, len(poison), why)
				break
			}
			time.Sleep(time.Second)
		}
	}
	for _, m := range w.machines {
		w.cure(m)
	}
}

// stillUsed is which dependent still uses a member that is gone, "" for none. A dependent that fails for reasons of its
// own does not count.
func (w *world) stillUsed() string {
	held := map[string][]string{}
	for _, r := range w.control.View().Roles {
		if r.Held != nil {
			held[r.Name] = r.Held.Nodes
		}
	}
	last := map[string]ranAction{}
	for _, r := range w.ran() {
		if !r.ended.IsZero() && r.ending.Exit == 0 && !r.ending.Lost && r.started.After(w.record.rebuiltAt(r.node)) {
			last[r.node+"/"+r.action] = r
		}
	}
	for _, m := range w.machines {
		if !m.up || m.left || m.failing() {
			continue
		}
		for _, a := range m.cfg.Agent.Actions {
			for need, members := range last[m.self.Node+"/"+a.Name].file.Roles {
				truth := w.truth(need)
				for _, member := range members {
					if _, is := truth[member.Node]; !is && !slices.Contains(held[need], member.Node) {
						return fmt.Sprintf("%s/%s still uses %s of %s", m.self.Node, a.Name, member.Node, need)
					}
				}
			}
		}
	}
	return ""
}

// settleDown is invariant 1, and a part of 6, 9 and 11: without faults, every live dependent has applied the true
// members, or it is failing or waits for a gate with a reason.
func (w *world) settleDown() {
	w.t.Helper()
	deadline := time.Now().Add(15*time.Minute + 2*w.cfg.Backoff.Max)
	time.Sleep(time.Second) // the last change may be from this moment
	for {
		v := w.control.View()
		wrong := w.unsettled(v)
		if wrong == "" {
			return
		}
		select {
		case <-v.Next:
		case <-time.After(time.Until(deadline)):
			w.t.Fatalf("invariant 01: %s after the last fault: %s", time.Until(deadline), wrong)
		}
	}
}

// unsettled is what is not yet as it should be, "" for nothing.
func (w *world) unsettled(v *api.View) string {
	if !v.Sync.Open {
		return "not synced: " + v.Sync.Why
	}
	held := map[string]*api.Held{}
	members := map[string][]string{}
	for _, r := range v.Roles {
		truth := w.truth(r.Name)
		if r.Revision.Hash == "" {
			if len(truth) > 0 {
				return "role " + r.Name + " is not published"
			}
			continue
		}
		var names []string
		for _, m := range r.Members {
			names = append(names, m.Node)
			address, member := truth[m.Node]
			switch {
			case !member && (r.Held == nil || !slices.Contains(r.Held.Nodes, m.Node)):
				return fmt.Sprintf("role %s: %s is still a member", r.Name, m.Node)
			case member && m.Facts["ipaddress"] != address:
				return fmt.Sprintf("role %s: %s has address %v, not %s", r.Name, m.Node, m.Facts["ipaddress"], address)
			}
		}
		for node := range truth {
			isOut := slices.ContainsFunc(r.Quarantined, func(q api.Quarantined) bool { return q.Node == node })
			if !slices.Contains(names, node) && !isOut {
				return fmt.Sprintf("role %s: %s is not a member yet", r.Name, node)
			}
		}
		if len(r.Quarantined) > 0 && slices.ContainsFunc(w.machines, func(m *machine) bool {
			return m.up && !m.left && !m.failing() && slices.ContainsFunc(r.Dependents, func(d string) bool {
				return strings.HasPrefix(d, m.self.Node+"/")
			})
		}) {
			return fmt.Sprintf("role %s: %+v are still quarantined", r.Name, r.Quarantined)
		}
		members[r.Name], held[r.Name] = names, r.Held
		if why := w.unlifted(r); why != "" {
			return why
		}
	}
	last := map[string]ranAction{}
	for _, r := range w.ran() {
		last[r.node+"/"+r.action] = r
	}
	for _, m := range w.machines {
		if !m.up || m.left {
			continue
		}
		for _, a := range m.cfg.Agent.Actions {
			i := slices.IndexFunc(v.Verdicts, func(v api.Verdict) bool {
				return v.Node == m.self.Node && v.Action == a.Name
			})
			if i < 0 {
				return fmt.Sprintf("there is no verdict on %s/%s", m.self.Node, a.Name)
			}
			verdict := v.Verdicts[i]
			if m.failing() && verdict.State == api.Failing && len(verdict.Gates) > 0 {
				continue
			}
			if verdict.State != api.Converged && slices.ContainsFunc(verdict.Gates, func(g api.Gate) bool {
				return g.Name == api.GateMinMembers || g.Name == api.GateUnknown || g.Name == api.GateRollout
			}) {
				if why := w.wronglyGated(verdict, members); why == "" {
					continue
				}
			}
			if verdict.State != api.Converged {
				return fmt.Sprintf("%s/%s is %s (%s), gates %+v", m.self.Node, a.Name, verdict.State, verdict.Reason,
					verdict.Gates)
			}
			run := last[m.self.Node+"/"+a.Name]
			for _, role := range a.DependsOn {
				var got []string
				for _, member := range run.file.Roles[role] {
					got = append(got, member.Node)
				}
				if !slices.Equal(got, members[role]) {
					return fmt.Sprintf("%s/%s got %v of %s, which has %v", m.self.Node, a.Name, got, role,
						members[role])
				}
			}
		}
	}
	return ""
}

// wronglyGated is why a closed gate should be open, "" if it should not.
func (w *world) wronglyGated(v api.Verdict, members map[string][]string) string {
	for _, g := range v.Gates {
		switch g.Name {
		case api.GateMinMembers:
			if !slices.ContainsFunc(v.Needs, func(n api.Need) bool { return len(members[n.Role]) < w.least(n.Role) }) {
				return "min_members is satisfied"
			}
		case api.GateRollout:
			if !slices.ContainsFunc(w.machines, func(m *machine) bool { return m.up && m.failing() }) {
				return "no node fails"
			}
		}
	}
	return ""
}

// least is the min_members of a role, or of a part of it.
func (w *world) least(role string) int {
	role, _, _ = strings.Cut(role, " ")
	for _, cfg := range w.cfg.Roles {
		if cfg.Name == role {
			return cfg.MinMembers
		}
	}
	return membership.DefaultMinMembers
}

// unlifted is invariant 9: a hold ends by itself when dependents can't reach the lost nodes either, unless the role
// would be empty. In this world no node can reach another.
func (w *world) unlifted(r api.Role) string {
	if r.Held == nil {
		return ""
	}
	if len(w.truth(r.Name)) > 0 && r.Held.Probe == "" {
		return fmt.Sprintf("role %s: %v are still held: %s", r.Name, r.Held.Nodes, r.Held.Why)
	}
	return ""
}

// finale: in a world where all is well nothing happens, not even when the controller restarts (invariant 3).
func (w *world) finale() {
	w.t.Helper()
	// A hold is not stored: a controller that restarts forgets the losses that were published before it began, and may
	// find that the held ones alone are too few for a hold. Then it removes these, and no others.
	held := map[string][]string{}
	heldOnly := func(p publication) bool {
		few := len(p.removed) < 3 || len(p.is)*100 > 70*len(p.was)
		return few && len(p.is) > 0 && len(p.removed) > 0 && len(p.added) == 0 && len(less(p.removed, held[p.role])) == 0
	}
	quiet := func(what string) (lifted []string) {
		time.Sleep(time.Second) // the last change may be from this moment
		before := w.seen()
		time.Sleep(30 * time.Second)
		failing := slices.ContainsFunc(w.machines, func(m *machine) bool { return m.failing() })
		after := w.seen()
		publications := slices.DeleteFunc(after.publications[len(before.publications):], func(p publication) bool {
			if heldOnly(p) {
				lifted = append(lifted, p.role)
			}
			// The first: no node had applied them. The last: a node that leaves ends its run, and may make a trial.
			return !p.witnessed || heldOnly(p) || len(p.added) == 0 && len(less(p.removed, p.quarantined)) == 0 && len(p.removed) > 0
		})
		// a node that left may have stopped during a run
		kicks := slices.DeleteFunc(after.kicks[len(before.kicks):], func(k sentKick) bool {
			return slices.ContainsFunc(w.machines, func(m *machine) bool { return m.self.Node == k.Node && m.left }) ||
				slices.ContainsFunc(k.Needs, func(n kick.Membership) bool { return slices.Contains(lifted, n.Role) })
		})
		if len(kicks) > 0 && !failing {
			w.t.Errorf("invariant 04: %s, and there were %d kicks, first %+v", what, len(kicks), kicks[0])
		}
		if len(publications) > 0 {
			w.t.Errorf("invariant 18: %s, and memberships changed: %+v", what, publications)
		}
		return lifted
	}
	quiet("nothing happened")
	// A failing dependent still reports old members, so that a restarted controller may hold them again.
	if w.dice.IntN(3) > 0 || slices.ContainsFunc(w.machines, func(m *machine) bool { return m.failing() }) {
		return
	}
	for _, r := range w.control.View().Roles {
		if r.Held != nil {
			held[r.Name] = r.Held.Nodes
		}
		if len(r.Quarantined) > 0 { // no dependent is alive that could try them again, and a restart forgets them
			return
		}
	}
	w.record.note("the controller is restarted for the last time")
	w.stopController()
	w.startControl()
	if lifted := quiet("the controller restarted"); len(lifted) > 0 {
		w.settleDown()
		return
	}
	if why := w.unsettled(w.control.View()); why != "" {
		w.t.Errorf("invariant 03: after a restart %s", why)
	}
}

// A deadline in the past without an action would make the loop run without end, and virtual time stand still.
func TestPendingLossWaitsWhileTheBusIsLost(t *testing.T) {
	inCluster(t, func(c *cluster) {
		webs := c.fleet(10)
		for _, w := range c.wiresOf("controller") {
			w.stall(true)
		}
		time.Sleep(3 * time.Second)
		webs[0].announcer.SetReady(false, "refused")
		for _, w := range c.wiresOf("controller") {
			w.stall(false)
		}
		c.until("9 members", time.Minute, members("web", 9))
	})
}
