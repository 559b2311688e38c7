package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/inventory"
	"kicker/kick"
)

// The invariants of docs/explanation/invariants.md as predicates over what was seen from outside during the faults.
// Each returns the violations.

// listened is how long a controller listens before it acts: agents reconnect, answer and send one heartbeat.
const listened = 3700 * time.Millisecond

// cutNoticed is after what time a controller without its own canaries knows that the bus is lost.
const cutNoticed = inventory.MissedAfter + 2*inventory.CanaryEvery

// seen is what was seen of a world after its schedule.
type seen struct {
	*record
	runs         []ranAction
	publications []publication
	cfg          controller.Config
	external     bool
}

// publication is a membership as a controller published it.
type publication struct {
	at             time.Time
	by             string
	role           string
	revision       kick.Revision
	was, is        []string  // nodes
	heldSince      time.Time // of removals that were held just before
	quarantined    []string
	witnessed      bool // the controller published the previous one, or a node reported that it has applied it
	removed, added []string
}

func (w *world) seen() seen {
	s := seen{record: w.record.copy(), runs: w.ran(), cfg: w.cfg, external: w.external}
	type last struct {
		members []string
		held    *api.Held
		rev     kick.Revision
		by      string
	}
	lasts := map[string]*last{}
	by := ""
	for _, v := range s.views {
		if v.Identity.ID != by {
			by = v.Identity.ID
			for _, l := range lasts {
				l.held = nil
			}
		}
		for _, r := range v.Roles {
			if r.Revision.Hash == "" || !v.Sync.Open {
				continue
			}
			l := lasts[r.Name]
			if l == nil {
				l = &last{}
				lasts[r.Name] = l
			}
			if l.rev.Hash != r.Revision.Hash {
				p := publication{at: v.At, by: by, role: r.Name, revision: r.Revision, was: l.members}
				p.witnessed = l.by == by || slices.ContainsFunc(v.Verdicts, func(v api.Verdict) bool {
					return slices.ContainsFunc(v.Needs, func(n api.Need) bool {
						return n.Role == r.Name && n.Applied != nil && n.Applied.Hash == l.rev.Hash
					})
				})
				for _, m := range r.Members {
					p.is = append(p.is, m.Node)
				}
				for _, q := range r.Quarantined {
					p.quarantined = append(p.quarantined, q.Node)
				}
				if l.held != nil {
					p.heldSince = l.held.Since
				}
				p.removed, p.added = less(p.was, p.is), less(p.is, p.was)
				s.publications = append(s.publications, p)
				l.members, l.rev = p.is, r.Revision
			}
			l.by, l.held = by, r.Held
		}
	}
	return s
}

// less is the items of a that are not in b.
func less(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// invariants is every predicate by its number.
var invariants = map[string]func(seen) []string{
	"02 no kick before its roles are synced":       kicksWaitForSync,
	"04 no change, no kick":                        everyRunHasACause,
	"07 a mass loss freezes removals":              massLossIsHeld,
	"08 a controller without its bus does nothing": cutOffDoesNothing,
	"10 the budget holds at every instant":         budgetHolds,
	"12 one run at a time, and no lower epoch":     oneRunAtATime,
	"13 a bounded rate":                            rateIsBounded,
	"11 nothing blocks the others for long":        nothingBlocksForLong,
	"14 a node that left is never held":            leavesAreNotHeld,
	"15 what explain says is what happens":         verdictsAreDone,
	"18 never a false removal":                     noFalseRemoval,
	"19 no list that cannot be believed":           listsAreComplete,
	"21 a released node is not used":               releasedIsNotUsed,
}

// acting is the time from which a controller may act: when it has listened long enough.
func (s seen) acting(id string, at time.Time) time.Time {
	var since time.Time
	for _, r := range s.reigns {
		if r.id == id {
			since = r.from
		}
	}
	for _, cut := range slices.Concat(s.cuts, s.brokers) {
		long := cut.to.Sub(cut.from) > cutNoticed
		if long && cut.from.Before(at) && cut.to.After(since) && !cut.to.After(at) {
			since = cut.to
		}
	}
	return since.Add(listened)
}

func kicksWaitForSync(s seen) (wrong []string) {
	for _, k := range s.kicks {
		if from := s.acting(k.Controller, k.at); k.at.Before(from) {
			wrong = append(wrong,
				fmt.Sprintf("%s: %s was kicked %s before the controller could know the nodes", s.when(k.at), k.Node,
					from.Sub(k.at)))
		}
	}
	return wrong
}

// everyRunHasACause: a run follows a change, or a run that did not succeed.
func everyRunHasACause(s seen) (wrong []string) {
	last := map[string]ranAction{}
	for _, r := range s.runs {
		key := r.node + "/" + r.action
		before, ran := last[key]
		last[key] = r
		if !ran || before.ending.Exit != 0 || before.ending.Lost || before.ended.IsZero() ||
			s.reborn(r.node, before.started, r.started) {
			continue
		}
		if maps.Equal(before.file.Revisions, r.file.Revisions) {
			wrong = append(wrong, fmt.Sprintf("%s: %s ran again with %v, which it had applied at %s", s.when(r.started),
				key, r.members, s.when(before.ended)))
		}
	}
	return wrong
}

// massLossIsHeld: no published membership has lost 3 members and 30 percent within a minute, unless they left, others
// replaced them, or a hold on them had ended.
func massLossIsHeld(s seen) (wrong []string) {
	const window = time.Minute
	for i, p := range s.publications {
		lost := s.withoutLeave(p)
		if len(lost) == 0 || !p.witnessed {
			continue
		}
		if len(p.is) == 0 {
			wrong = append(wrong, fmt.Sprintf("%s: role %s was emptied, and %v never left", s.when(p.at), p.role, lost))
		}
		if !p.heldSince.IsZero() && p.at.Sub(p.heldSince) >= 3*time.Minute {
			continue
		}
		if !p.heldSince.IsZero() && len(p.is)*100 > 70*len(p.was) {
			continue // others replaced them
		}
		judged := p.at // a hold is measured against the members at its begin
		if !p.heldSince.IsZero() {
			judged = p.heldSince
		}
		// Names are counted, as the guard counts them: those that were members within the window and are gone, without
		// as many as joined within it.
		began, known := []string(nil), false
		gone, joined := map[string]bool{}, map[string]bool{}
		for _, q := range slices.Backward(s.publications[:i+1]) {
			if q.role != p.role {
				continue
			}
			if !q.witnessed || q.by != p.by || judged.Sub(q.at) >= window {
				began, known = q.is, true
				break
			}
			for _, name := range q.removed {
				if _, later := gone[name]; !later {
					gone[name] = slices.Contains(s.withoutLeave(q), name)
				}
			}
			for _, name := range q.added {
				joined[name] = true
			}
		}
		if !known {
			continue // the role did not exist a minute ago
		}
		a, r := 0, 0
		for name, never := range gone {
			if never && !slices.Contains(p.is, name) {
				a++
			} else if !slices.Contains(p.is, name) {
				delete(joined, name)
			}
		}
		for name := range joined {
			if !slices.Contains(began, name) {
				r++
			}
		}
		if base := len(p.is) + a - min(a, r); a >= 3 && len(p.is)*100 <= 70*base {
			wrong = append(wrong, fmt.Sprintf("%s: role %s went from %d to %d, and %v never left", s.when(p.at), p.role,
				base, len(p.is), lost))
		}
	}
	return wrong
}

// withoutLeave is the removed nodes that did not leave, and are not quarantined.
func (s seen) withoutLeave(p publication) []string {
	return slices.DeleteFunc(slices.Clone(p.removed), func(node string) bool {
		return slices.Contains(p.quarantined, node) || slices.ContainsFunc(s.leaves[node], func(t time.Time) bool { return !t.After(p.at) })
	})
}

func cutOffDoesNothing(s seen) (wrong []string) {
	for _, cut := range slices.Concat(s.cuts, s.brokers) {
		lost := span{cut.from.Add(cutNoticed), cut.to.Add(listened)}
		if !lost.from.Before(cut.to) {
			continue
		}
		for _, k := range s.kicks {
			if lost.from.Before(k.at) && k.at.Before(lost.to) {
				wrong = append(wrong,
					fmt.Sprintf("%s: %s was kicked by a controller without its bus since %s", s.when(k.at), k.Node,
						s.when(cut.from)))
			}
		}
		for _, p := range s.publications {
			if len(p.removed) > 0 && lost.from.Before(p.at) && p.at.Before(lost.to) {
				wrong = append(wrong,
					fmt.Sprintf("%s: %v removed from %s by a controller without its bus since %s", s.when(p.at),
						p.removed, p.role, s.when(cut.from)))
			}
		}
	}
	return wrong
}

// budgetHolds counts the processes that run at once when one begins: those that are not overdue, and all. It leaves out
// those on nodes that the controller may not have seen since they began. A kick that reached its node late does not
// count: its place was given back.
func budgetHolds(s seen) (wrong []string) {
	sent, overdue := s.sent(), s.overdue()
	onTime := func(r ranAction) bool {
		return slices.ContainsFunc(sent[r.env["KICKER_RUN"]], func(at time.Time) bool {
			return !at.After(r.started) && r.started.Sub(at) < replyTime
		})
	}
	for i, r := range s.runs {
		if !onTime(r) {
			continue
		}
		if s.deselected(r.node, r.started) {
			continue // it has no longer the role
		}
		role := strings.TrimRight(r.node, "0123456789")
		most := 1
		for _, cfg := range s.cfg.Roles {
			if cfg.Name == role && cfg.Budget != "" {
				if n, err := cfg.Budget.Of(s.most(role, r.started)); err == nil {
					most = n
				}
			}
		}
		at, late := []string{r.node}, []string(nil)
		for _, other := range s.runs[:i] {
			inProgress := other.ended.IsZero() || other.ended.After(r.started)
			if !strings.HasPrefix(other.node, role) || other.node == r.node || !inProgress || !onTime(other) ||
				s.unseen(other.node, other.started, r.started) {
				continue
			}
			if since, is := overdue[other.env["KICKER_RUN"]]; is && !since.After(r.started) {
				late = append(late, other.node)
			} else {
				at = append(at, other.node)
			}
		}
		if len(at) > most {
			wrong = append(wrong, fmt.Sprintf("%s: %v run at once, and the budget is %d", s.when(r.started), at, most))
		}
		if len(late) > most {
			wrong = append(wrong, fmt.Sprintf("%s: %s was kicked while %v are overdue, and the budget is %d",
				s.when(r.started), r.node, late, most))
		}
	}
	return wrong
}

// deselected reports whether a node had another role just then.
func (s seen) deselected(node string, at time.Time) bool {
	return slices.ContainsFunc(s.hurt[node], func(h hurt) bool {
		return h.what == "role changed" && h.meets(at.Add(-time.Second), at.Add(time.Millisecond))
	})
}

// overdue is since when runs were overdue, as controllers showed it.
func (s seen) overdue() map[string]time.Time {
	since := map[string]time.Time{}
	for _, v := range s.views {
		for _, o := range v.Overdue {
			if first, is := since[o.Run]; !is || o.Since.Before(first) {
				since[o.Run] = o.Since
			}
		}
	}
	return since
}

// nothingBlocksForLong: an action that waits only for the runs of others does not wait long for the same ones. A run
// keeps its place for a minute if it is known how long its action usually takes. Otherwise, or if too many are overdue,
// it is until the deadline, or until the node was gone for a minute.
func nothingBlocksForLong(s seen) (wrong []string) {
	const deadline, margin = longTimeout + runGrace + time.Minute, 10 * time.Second
	type wait struct {
		since   time.Time
		by, why string
		usual   bool // it was known all the time
		told    bool
	}
	waits := map[string]*wait{}
	for _, v := range s.views {
		usual := usualIsKnown(v)
		for _, verdict := range v.Verdicts {
			key := verdict.Node + "/" + verdict.Action
			why := ""
			blocked := verdict.State != api.Converged && len(verdict.Gates) > 0
			for _, g := range verdict.Gates {
				blocked = blocked && (g.Name == api.GateBudget || g.Name == api.GateRollout)
				why += g.Why + "; "
			}
			w := waits[key]
			if !blocked {
				delete(waits, key)
				continue
			}
			if w == nil || w.by != v.Identity.ID || w.why != why {
				waits[key] = &wait{since: v.At, by: v.Identity.ID, why: why, usual: usual}
				continue
			}
			w.usual = w.usual && usual
			most := deadline
			if w.usual && !strings.Contains(why, " tolerates: ") {
				most = time.Minute
			}
			if !w.told && v.At.Sub(w.since) > most+margin {
				w.told = true
				wrong = append(wrong, fmt.Sprintf("%s: %s has waited for the same runs since %s, want %s at most: %s",
					s.when(v.At), key, s.when(w.since), most, why))
			}
		}
	}
	return wrong
}

// usualIsKnown reports whether the usual duration of all actions is known.
func usualIsKnown(v *api.View) bool {
	known := map[string]bool{}
	for _, verdict := range v.Verdicts {
		known[verdict.Action] = known[verdict.Action] || verdict.Last != nil && verdict.Last.Outcome == kick.Succeeded
	}
	return !slices.Contains(slices.Collect(maps.Values(known)), false)
}

// replyTime is how long a controller waits for the reply to a kick.
const replyTime = 3 * time.Second

// sent is when each kick was sent, by its run.
func (s seen) sent() map[string][]time.Time {
	at := map[string][]time.Time{}
	for _, k := range s.kicks {
		at[k.ID] = append(at[k.ID], k.at)
	}
	return at
}

// most is the most nodes that a role had before a moment.
func (s seen) most(role string, at time.Time) int {
	n := 0
	for _, v := range s.views {
		for _, r := range v.Roles {
			if r.Name == role && !v.At.After(at) {
				n = max(n, len(r.Nodes))
			}
		}
	}
	return n
}

// unseen reports whether the controller may not have seen a node in a time. The restart of a controller hides none: it
// waits until all have reported.
func (s seen) unseen(node string, from, to time.Time) bool {
	meets := func(q span) bool { return q.meets(from, to) }
	if slices.ContainsFunc(s.hurt[node], func(h hurt) bool { return h.meets(from, to) }) {
		return true
	}
	return slices.ContainsFunc(s.quakes, func(q quake) bool { return q.meets(from, to) && !q.restart }) ||
		slices.ContainsFunc(s.brokers, meets) || slices.ContainsFunc(s.cuts, meets)
}

func oneRunAtATime(s seen) (wrong []string) {
	type accepted struct {
		ranAction
		kick.Kick
	}
	byID := map[string]kick.Kick{}
	for _, k := range s.kicks {
		byID[k.ID] = k.Kick
	}
	last := map[string]accepted{}
	for _, r := range s.runs {
		k := byID[r.env["KICKER_RUN"]]
		before, ran := last[r.node]
		last[r.node] = accepted{r, k}
		if k.ID == "" {
			wrong = append(wrong, fmt.Sprintf("%s: %s ran %s, which no controller kicked", s.when(r.started), r.node,
				r.env["KICKER_RUN"]))
		}
		if !ran {
			continue
		}
		if before.ended.IsZero() || before.ended.After(r.started) {
			wrong = append(wrong, fmt.Sprintf("%s: %s ran %s while it ran %s", s.when(r.started), r.node, r.action,
				before.ranAction.action))
		}
		if k.Epoch < before.Epoch && !s.reborn(r.node, before.started, r.started) {
			wrong = append(wrong, fmt.Sprintf("%s: %s accepted epoch %d after %d", s.when(r.started), r.node, k.Epoch,
				before.Epoch))
		}
	}
	return wrong
}

// rateIsBounded: under one controller the kicks of two runs of an action are at least settle_min apart, whatever was
// lost. After a failure that the controller could see they are at least the backoff apart.
func rateIsBounded(s seen) (wrong []string) {
	sent := map[string]sentKick{}
	for _, k := range s.kicks {
		if first, again := sent[k.ID]; !again || first.at.After(k.at) {
			sent[k.ID] = k
		}
	}
	last := map[string]ranAction{}
	for _, r := range s.runs {
		key := r.node + "/" + r.action
		before, ran := last[key]
		last[key] = r
		this, that := sent[r.env["KICKER_RUN"]], sent[before.env["KICKER_RUN"]]
		if !ran || this.Controller != that.Controller {
			continue
		}
		least := s.cfg.SettleMin
		if s.cfg.Settle == 0 {
			least = 0
		}
		if gap := this.at.Sub(that.at); gap < least {
			wrong = append(wrong, fmt.Sprintf("%s: %s was kicked %s after its last kick", s.when(r.started), key, gap))
		}
		if s.unseen(r.node, before.started.Add(-10*time.Second), r.started) || before.ended.IsZero() {
			continue
		}
		if gap := this.at.Sub(before.ended); before.ending.Exit != 0 &&
			maps.Equal(before.file.Revisions, r.file.Revisions) && gap < s.cfg.Backoff.Initial*8/10-time.Second {
			wrong = append(wrong, fmt.Sprintf("%s: %s was kicked %s after it had failed", s.when(r.started), key, gap))
		}
	}
	return wrong
}

// leavesAreNotHeld: a node that left is not held.
func leavesAreNotHeld(s seen) (wrong []string) {
	for _, v := range s.views {
		for _, r := range v.Roles {
			if r.Held == nil {
				continue
			}
			for _, node := range r.Held.Nodes {
				left := slices.ContainsFunc(s.leaves[node],
					func(t time.Time) bool { return t.Before(v.At.Add(-time.Second)) })
				grave := slices.ContainsFunc(s.hurt[node], func(h hurt) bool { return h.what != "leave" })
				if left && !grave && !slices.ContainsFunc(s.quakes,
					func(q quake) bool { return q.meets(v.At.Add(-20*time.Second), v.At) }) {
					wrong = append(wrong, fmt.Sprintf("%s: %s left and is held", s.when(v.At), node))
				}
			}
		}
	}
	return wrong
}

// verdictsAreDone: an action that is shown as waiting for nothing is kicked at that moment, and no other one is.
func verdictsAreDone(s seen) (wrong []string) {
	type order struct {
		at           time.Time
		node, action string
	}
	kicked := map[order]bool{}
	for _, k := range s.kicks {
		kicked[order{k.at, k.Node, k.Action}] = true
	}
	shown := map[order]bool{}
	moments := map[time.Time]bool{}
	for _, v := range s.views {
		moments[v.At] = true
		for _, verdict := range v.Verdicts {
			if verdict.State == api.Converged || len(verdict.Gates) > 0 {
				continue
			}
			o := order{v.At, verdict.Node, verdict.Action}
			shown[o] = true
			if !kicked[o] && !s.cannotSend(v.At) {
				wrong = append(wrong, fmt.Sprintf("%s: %s/%s waits for nothing (%s), and was not kicked", s.when(v.At),
					verdict.Node, verdict.Action, verdict.Reason))
			}
		}
	}
	for o := range kicked {
		if moments[o.at] && !shown[o] && !s.shownRunning(o.at, o.node) {
			wrong = append(wrong, fmt.Sprintf("%s: %s/%s was kicked, and no verdict says so", s.when(o.at), o.node,
				o.action))
		}
	}
	return wrong
}

// reborn reports whether a machine was rebuilt between two moments, and so remembers nothing.
func (s seen) reborn(node string, from, to time.Time) bool {
	return slices.ContainsFunc(s.rebirth[node], func(at time.Time) bool { return from.Before(at) && !to.Before(at) })
}

// cannotSend reports whether a controller could not send at that moment: it had no broker, or ended.
func (s seen) cannotSend(at time.Time) bool {
	down := slices.ContainsFunc(s.brokers, func(b span) bool {
		return b.meets(at.Add(-time.Millisecond), at.Add(time.Millisecond)) || b.meets(at.Add(-5*time.Second), at)
	})
	return down || slices.ContainsFunc(s.quakes, func(q quake) bool { return q.from.Equal(at) })
}

// shownRunning reports whether a view of that moment shows a kick of the node in progress, or the node gone. Then the
// view with its verdict was replaced within the same moment, before it was recorded.
func (s seen) shownRunning(at time.Time, node string) bool {
	return slices.ContainsFunc(s.views, func(v *api.View) bool {
		return v.At.Equal(at) &&
			(v.Nodes.Node(node) == nil || slices.ContainsFunc(v.Verdicts, func(verdict api.Verdict) bool {
				began := slices.ContainsFunc(v.Runs, func(r api.Run) bool { return r.Node == node && r.Started.Equal(at) })
				converged := verdict.State == api.Converged && (verdict.Running != nil || began)
				return verdict.Node == node && (converged || slices.ContainsFunc(verdict.Gates, func(g api.Gate) bool {
					return g.Name == api.GateRunning || g.Name == api.GateBackoff // the kick was rejected
				}))
			}))
	})
}

// noFalseRemoval: a removed node was silent for long enough, or reported itself that it is not ready.
func noFalseRemoval(s seen) (wrong []string) {
	for _, p := range s.publications {
		if !p.witnessed {
			continue // no node that is alive had applied it
		}
		for _, node := range less(p.removed, p.quarantined) {
			shaken := slices.ContainsFunc(s.quakes,
				func(q quake) bool { return q.meets(p.at.Add(-20*time.Second), p.at) })
			justified := slices.ContainsFunc(s.hurt[node], func(h hurt) bool {
				return (h.grave || shaken || s.cannotReceive(h.from) || h.what == "stopped" &&
					s.reigned(h.from, p.at)) && h.from.Before(p.at.Add(time.Millisecond)) &&
					p.at.Before(h.to.Add(s.patience(p)))
			})
			if !justified {
				wrong = append(wrong, fmt.Sprintf("%s: %s was removed from %s without a reason: %v", s.when(p.at), node,
					p.role, s.hurt[node]))
			}
		}
	}
	return wrong
}

// listsAreComplete: no list that is handed out, by a kick, to a run or by the API, has a member without a required fact,
// or is empty unless min_members allows that.
func listsAreComplete(s seen) (wrong []string) {
	type list struct{ need, hash string }
	checked := map[list]bool{} // what the API showed, which is the same for long
	check := func(at time.Time, door, need string, members []kick.Member) {
		name, with, _ := strings.Cut(need, " with=")
		least := membership.DefaultMinMembers
		for _, cfg := range s.cfg.Roles {
			if cfg.Name == name {
				least = cfg.MinMembers
			}
		}
		if len(members) < least {
			wrong = append(wrong, fmt.Sprintf("%s: %s has %d members of %s, and min_members is %d", s.when(at), door,
				len(members), need, least))
		}
		required := membership.DefaultMemberFacts
		if with != "" {
			required = strings.Split(with, ",")
		}
		for _, m := range members {
			for _, fact := range required {
				if m.Facts[fact] == nil && !strings.HasSuffix(fact, "?") {
					wrong = append(wrong, fmt.Sprintf("%s: %s has %s of %s, which has no fact %s", s.when(at), door,
						m.Node, need, fact))
				}
			}
		}
	}
	for _, k := range s.kicks {
		for _, need := range k.Needs {
			check(k.at, "a kick of "+k.Node, need.Role, need.Members)
		}
	}
	for _, r := range s.runs {
		for need, members := range r.file.Roles {
			check(r.started, "a run of "+r.node, need, members)
		}
	}
	for _, v := range s.views {
		for _, r := range v.Roles {
			shown := list{r.Name, r.Revision.Hash}
			if r.Refused == nil && v.Sync.Open && len(r.Dependents) > 0 && !checked[shown] {
				checked[shown] = true
				check(v.At, "the API", r.Name, r.Members)
			}
		}
	}
	return wrong
}

// releasedIsNotUsed: when a controller releases a node, no dependent that is there has it in what it applied last, or
// runs with it.
func releasedIsNotUsed(s seen) (wrong []string) {
	for _, release := range s.releases {
		uses := map[string]ranAction{}
		for _, r := range s.runs {
			key := r.node + "/" + r.action
			ended := !r.ended.IsZero() && !r.ended.After(release.at)
			switch {
			case r.started.After(release.at) || r.node == release.node || s.away(r.node, release.at):
			case s.reborn(r.node, r.started, release.at):
				delete(uses, key)
			case slices.Contains(r.members, release.node):
				uses[key] = r
			case ended && r.ending.Exit == 0 && !r.ending.Lost:
				delete(uses, key)
			}
		}
		for key, r := range uses {
			wrong = append(wrong, fmt.Sprintf("%s: %s was released, and %s was handed %v at %s, and nothing since",
				s.when(release.at), release.node, key, r.members, s.when(r.started)))
		}
	}
	return wrong
}

// away reports whether a node is silent for longer than a restart, or was until just before.
func (s seen) away(node string, at time.Time) bool {
	return slices.ContainsFunc(s.hurt[node], func(h hurt) bool {
		present := h.what == "not ready" || h.what == "fact lost" || h.what == "role changed"
		// a controller that begins waits for a restart as long as for a silent node
		restart := h.what == "stopped" && !h.grave && !s.reigned(h.from, at)
		return !present && !restart && h.meets(at.Add(-15*time.Second), at)
	})
}

// reigned reports whether a controller started in a time: it has received nothing from before.
func (s seen) reigned(from, to time.Time) bool {
	return slices.ContainsFunc(s.reigns, func(r reign) bool { return from.Before(r.from) && r.from.Before(to) })
}

// cannotReceive reports whether the controller could not receive last heartbeats at that moment: it was disconnected,
// without a broker, or reconnecting.
func (s seen) cannotReceive(at time.Time) bool {
	recent := func(b span) bool { return b.meets(at.Add(-3*time.Second), at) }
	return slices.ContainsFunc(slices.Concat(s.cuts, s.brokers), recent) ||
		slices.ContainsFunc(s.quakes, func(q quake) bool { return recent(q.span) && q.restart })
}

// patience is how much later than its reason a removal may come.
func (s seen) patience(p publication) time.Duration {
	if !p.heldSince.IsZero() {
		return p.at.Sub(p.heldSince) + 15*time.Second
	}
	return 15 * time.Second
}

func (s seen) when(t time.Time) string { return fmt.Sprintf("at %.3f s", t.Sub(s.began).Seconds()) }
