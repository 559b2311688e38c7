package membership

import (
	"fmt"
	"slices"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

const (
	// ReconnectTime is how long nodes need to reconnect to a bus that was restarted.
	ReconnectTime = 2200 * time.Millisecond

	askAgain   = time.Second     // after a question that got no answer
	startTime  = 5 * time.Minute // in which nodes that reconnect may hold what another controller published
	maxHolders = 4               // beside the one that is asked

	readyTime = 10 * time.Second // for the first checks of nodes that are there when the recovery begins
)

// recovery finds the members that a role had before this controller knew it. No file lists them, but the dependents
// remember: each keeps the member list that it applied last and reports its revision. A holder of the newest revision
// is asked for the list. The role is recovered when every node on the list has reported with its facts, has left, or
// was silent for gone_after. That time starts again whenever one of them reports, because nodes behind a repaired link
// return one by one.
type recovery struct {
	// done is true from the end of the recovery on. A revision of another controller begins it anew.
	done  bool
	why   string    // not done: what it waits for
	until time.Time // not done: when it ends at the latest

	// newest is a holder of the newest revision that was reported, and that revision; others hold the same members,
	// perhaps at an older one. Its hash is empty while none was reported.
	newest Holder
	others []Holder
	// known is the members of that revision, nil until a holder has answered.
	known []kick.Member
	asked time.Time // when a holder was asked last; zero: none was asked for this revision
	have  int       // the most of known that have reported
	came  time.Time // when have grew last
	began time.Time // when this recovery began to wait
	// unchecked is the nodes that had the role then and did not know yet whether they are ready.
	unchecked []string
	// basis is the revision that the role was recovered from. While done is false it is that of the last time.
	basis kick.Revision
}

// Holder is an action that applied a revision of a role, which it calls As.
type Holder struct {
	Revision         kick.Revision
	Node, Action, As string
}

// Question asks a holder for the members of the revision that it applied.
type Question struct {
	Role string
	Holder
}

// Reports is what recovery has to know of the reports that nodes send.
type Reports struct {
	Since  time.Time // none was missed since
	Synced time.Time // when the inventory was complete
	Epochs []int64   // that this controller has published with, at least one, the present one last
}

// Report notes that an action has applied a revision of a role. If another controller published it, an open role closes
// again until its members are recovered from that revision.
func (t *Table) Report(need Need, h Holder, reports Reports, now time.Time) {
	r := need.Role
	r.known = true
	g := &r.recovery
	foreign := !slices.Contains(reports.Epochs, h.Revision.Epoch)
	late := foreign && now.Before(reports.Since.Add(startTime)) && g.basis.Before(h.Revision)
	newer := late || h.Revision.Epoch > reports.Epochs[len(reports.Epochs)-1]
	if _, known := r.past[h.Revision.Hash]; g.done && (!newer || known) {
		return
	}
	g.done = false
	g.report(h)
}

// report keeps the holders of the newest revision. Older ones led to it: an action that has failed for weeks must not
// bring back members of then. Revisions with the same members count as one, and each of their holders can be asked.
func (g *recovery) report(h Holder) {
	if g.newest.Revision.Hash != h.Revision.Hash {
		if g.newest.Revision.Hash == "" || g.newest.Revision.Before(h.Revision) {
			g.newest, g.others, g.known, g.have, g.asked = h, nil, nil, 0, time.Time{}
		}
		return
	}
	is := func(o Holder) bool { return o.Node == h.Node && o.Action == h.Action && o.As == h.As }
	if !is(g.newest) && len(g.others) < maxHolders && !slices.ContainsFunc(g.others, is) {
		g.others = append(g.others, h)
	}
	if g.newest.Revision.Before(h.Revision) {
		g.newest.Revision = h.Revision
	}
}

// question is the next one to ask, if it is time: another holder, if the one before gave no answer.
func (g *recovery) question(now time.Time) (Holder, bool) {
	if g.known != nil || g.newest.Revision.Hash == "" || now.Sub(g.asked) < askAgain {
		return Holder{}, false
	}
	if !g.asked.IsZero() && len(g.others) > 0 {
		silent, revision := g.newest, g.newest.Revision
		g.newest, g.others = g.others[0], append(slices.Clone(g.others[1:]), silent)
		g.newest.Revision = revision // of the same members it is the newest
	}
	g.asked = now
	return g.newest, true
}

// judge ends the recovery, or says what it waits for: until last, and until none of the members has reported for the
// time gone. present reports whether a node has reported with its facts. A list is not complete either while nodes
// that were there at the beginning are unchecked, but that counts for readyTime at most.
//
// Example: gone is 10 s and last is 12:00:12. Of five known members three report at 12:00:01. The fourth reports at
// 12:00:08, so the fifth has until 12:00:18.
func (g *recovery) judge(now, last time.Time, gone time.Duration, present func(node string) bool) {
	g.why, g.until, g.done = "", time.Time{}, false
	switch {
	case g.newest.Revision.Hash == "":
		g.done = true // no action has applied this role
	case g.known == nil && now.Before(last):
		g.why = fmt.Sprintf("waiting for %s/%s to report the members it last applied", g.newest.Node, g.newest.Action)
		g.until = last
	case g.known == nil:
		g.done = true // no holder is left
	default:
		var absent []string
		for _, m := range g.known {
			if !present(m.Node) {
				absent = append(absent, m.Node)
			}
		}
		if have := len(g.known) - len(absent); have > g.have {
			g.have, g.came = have, now
		}
		if others := g.came.Add(gone); others.After(last) {
			last = others
		}
		if g.done = len(absent) == 0 || !now.Before(last); !g.done {
			g.why = fmt.Sprintf("%d of %d last known members have not reported yet: %s",
				len(absent), len(g.known), api.List(absent, 5))
			g.until = last
		}
	}
	if end := g.began.Add(readyTime); g.done && len(g.unchecked) > 0 && now.Before(end) {
		g.done, g.until = false, end
		g.why = "waiting for the first readiness check of " + api.List(g.unchecked, 5)
	}
}

// isChecking reports whether a node does not know yet whether it is ready.
func isChecking(nodes *inventory.Snapshot, node string) bool {
	n := nodes.Node(node)
	return n != nil && n.Checking
}

// Recover ends the recoveries that are complete. It returns the questions that are to be asked now; Answer takes what
// comes back.
func (t *Table) Recover(nodes *inventory.Snapshot, reports Reports, now time.Time) []Question {
	var questions []Question
	for _, r := range t.Roles() {
		g := &r.recovery
		if g.done {
			continue
		}
		if h, ask := g.question(now); ask {
			questions = append(questions, Question{r.Name, h})
		}
		if g.began.IsZero() {
			g.began = now
			g.unchecked = slices.Clone(r.Nodes())
		}
		g.unchecked = slices.DeleteFunc(g.unchecked, func(node string) bool { return !isChecking(nodes, node) })
		gone := t.goneAfter(r)
		g.judge(now, g.lastReport(nodes, reports, gone), gone, func(node string) bool {
			n := nodes.Node(node)
			return n != nil && n.Facts != nil && !n.Checking
		})
		if g.done {
			r.recovered(nodes, now)
		}
	}
	return questions
}

// lastReport is when every node that was there has reported or is gone: it had time to reconnect, and then to be silent
// for gone_after.
func (g *recovery) lastReport(nodes *inventory.Snapshot, reports Reports, gone time.Duration) time.Time {
	from := later(reports.Since, g.began).Add(ReconnectTime)
	last := later(from, reports.Synced).Add(gone)
	if g.known == nil {
		for _, h := range append([]Holder{g.newest}, g.others...) {
			last = later(last, answersBy(nodes.Node(h.Node), gone))
		}
	}
	return last
}

// answersBy is when a node that is asked has answered or is gone. It may be suspect, restarting, or just back.
func answersBy(n *inventory.Node, gone time.Duration) time.Time {
	switch {
	case n == nil:
		return time.Time{}
	case n.Life == inventory.Restarting:
		return restartedBy(n).Add(gone)
	}
	return n.Since.Add(gone)
}

// restartedBy is when a restarting node is back or gone.
func restartedBy(n *inventory.Node) time.Time { return n.Since.Add(inventory.MaxRestart) }

// recovered opens a role. Known members that are none now, and did not leave, are losses, on which the guard decides.
func (r *Role) recovered(nodes *inventory.Snapshot, now time.Time) {
	known, newest := r.recovery.known, r.recovery.newest.Revision
	for _, m := range known {
		_, isMember := r.members[m.Node]
		n := nodes.Node(m.Node)
		if isMember || r.Missing(m.Node) || n != nil && n.Life == inventory.Left {
			continue
		}
		l := loss{member: m, at: now.Add(-guardPause), why: kick.DepartedGone}
		if n != nil {
			l.facts, l.why = n.Facts, r.whyNot(n, n)
		}
		if n != nil && n.Life == inventory.Restarting && (n.Facts == nil || n.Checking) {
			l.at = restartedBy(n) // it restarted before it had reported everything
		}
		r.guard.lost(m.Node, l)
		r.depart(m.Node, l.why, now)
	}
	if known != nil {
		r.remember(newest.Hash, known)
		r.quarantine.good = known
	}
	r.recovery = recovery{done: true, basis: newest}
	r.touch(now)
}

// Answer takes the members that a holder has of a revision. hash is what they are; an answer to an older question
// changes nothing. It reports whether the role can go on.
func (t *Table) Answer(role, hash string, members []kick.Member) bool {
	r := t.byName[role]
	if r == nil || hash == "" || r.recovery.done || hash != r.recovery.newest.Revision.Hash {
		return false
	}
	r.recovery.known = append([]kick.Member{}, members...)
	return true
}

// Restart begins all recoveries anew, and forgets what the guards saw: another controller led until now, and losses
// were accepted there. The caller has to Report again what actions have applied.
func (t *Table) Restart() {
	for _, r := range t.byName {
		r.recovery, r.guard = recovery{}, guard{}
	}
}

// later is the later one of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
