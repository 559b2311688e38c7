package daemon

import (
	"flag"
	"fmt"
	"kicker/controller/api"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// The invariants of design.md, section 10, over random schedules of faults. The schedule comes from its seed; what goroutines make of it
// does not: to see a rare failure again a seed may have to be played more than once.
var (
	seedFlag = flag.Uint64("seed", 0, "play the schedule of this seed alone")
	soakFlag = flag.Duration("soak", 0, "play random schedules for so long")
	firstRun = flag.Int("schedules", 0, "play so many schedules; 0: 200, or 40 with the race detector")
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
			t.Logf("play it again: go test ./cmd/kicker -run TestInvariants -seed %d", seed)
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
		defer func() {
			if t.Failed() {
				t.Logf("seed %d:\n%s", seed, strings.Join(w.record.notes, "\n"))
			}
		}()
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

// settleDown is invariant 1, and what follows from 6, 9 and 11: without faults, every live dependent has applied what is true, or is
// failing or gated with a reason.
func (w *world) settleDown() {
	w.t.Helper()
	deadline := time.Now().Add(15*time.Minute + 2*w.cfg.Backoff.Max)
	time.Sleep(time.Second) // the last change may be of this moment
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

// unsettled is what is not yet as it should be.
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
				return fmt.Sprintf("role %s: %s is a member", r.Name, m.Node)
			case member && m.Facts["ipaddress"] != address:
				return fmt.Sprintf("role %s: %s is at %v, not %s", r.Name, m.Node, m.Facts["ipaddress"], address)
			}
		}
		for node := range truth {
			if !slices.Contains(names, node) {
				return fmt.Sprintf("role %s: %s is no member", r.Name, node)
			}
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
			i := slices.IndexFunc(v.Verdicts, func(v api.Verdict) bool { return v.Node == m.self.Node && v.Action == a.Name })
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
				return fmt.Sprintf("%s/%s is %s (%s), gates %+v", m.self.Node, a.Name, verdict.State, verdict.Reason, verdict.Gates)
			}
			run := last[m.self.Node+"/"+a.Name]
			for _, role := range a.DependsOn {
				var told []string
				for _, member := range run.told.Roles[role] {
					told = append(told, member.Node)
				}
				if !slices.Equal(told, members[role]) {
					return fmt.Sprintf("%s/%s was told %v of %s, which has %v", m.self.Node, a.Name, told, role, members[role])
				}
			}
		}
	}
	return ""
}

// wronglyGated is why a gate that stays closed should not, "" if it should.
func (w *world) wronglyGated(v api.Verdict, members map[string][]string) string {
	for _, g := range v.Gates {
		switch g.Name {
		case api.GateMinMembers:
			if len(members["web"]) >= 1 {
				return "min_members is satisfied"
			}
		case api.GateRollout:
			if !slices.ContainsFunc(w.machines, func(m *machine) bool { return m.up && m.failing() }) {
				return "nobody fails"
			}
		}
	}
	return ""
}

// unlifted is invariant 9: a hold ends by itself when dependents can't reach the lost ones either, except where it would empty the role.
// Nobody can reach anybody here.
func (w *world) unlifted(r api.Role) string {
	if r.Held == nil {
		return ""
	}
	if len(w.truth(r.Name)) > 0 && r.Held.Probe == "" {
		return fmt.Sprintf("role %s: %v are held still: %s", r.Name, r.Held.Nodes, r.Held.Why)
	}
	return ""
}

// finale: in a world where all is well nothing happens, nor when its controller is restarted (3).
func (w *world) finale() {
	w.t.Helper()
	quiet := func(what string) {
		time.Sleep(time.Second) // the last change may be of this moment
		before := w.seen()
		time.Sleep(30 * time.Second)
		failing := slices.ContainsFunc(w.machines, func(m *machine) bool { return m.failing() })
		after := w.seen()
		kicks := slices.DeleteFunc(after.kicks[len(before.kicks):], func(k sentKick) bool { // who left may be cut off in the middle
			return slices.ContainsFunc(w.machines, func(m *machine) bool { return m.self.Node == k.Node && m.left })
		})
		if len(kicks) > 0 && !failing {
			w.t.Errorf("invariant 04: %s, and there were %d kicks: %+v", what, len(kicks), kicks[0])
		}
		forgotten := func(p publication) bool { return !p.witnessed } // nobody was told of them
		if p := slices.DeleteFunc(after.publications[len(before.publications):], forgotten); len(p) > 0 {
			w.t.Errorf("invariant 18: %s, and memberships changed: %+v", what, p)
		}
	}
	quiet("nothing happened")
	// Whom a failing dependent holds as members is what they were, and so may be what is held anew.
	if w.dice.IntN(3) > 0 || slices.ContainsFunc(w.machines, func(m *machine) bool { return m.failing() }) {
		return
	}
	w.record.note("the controller is restarted for the last time")
	w.stopController()
	w.startControl()
	quiet("the controller was restarted")
	if why := w.unsettled(w.control.View()); why != "" {
		w.t.Errorf("invariant 03: after a restart %s", why)
	}
}

// A time that is past and that nobody acts on would have the loop turn without end, and virtual time stand still.
func TestLossThatIsPendingWhenTheControllerGoesBlindWaits(t *testing.T) {
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
