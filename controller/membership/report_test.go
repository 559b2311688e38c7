package membership_test

import (
	"fmt"
	"testing"
	"time"

	"kicker/controller/membership"
	"kicker/kick"
)

// report says that lb1 has applied a revision of role web.
func (tab table) report(revision kick.Revision, now time.Time) *membership.Role {
	tab.t.Helper()
	r := tab.resolve("web")
	holder := membership.Holder{Revision: revision, Node: "lb1", Action: "reload", As: "web"}
	tab.Report(membership.Need{As: "web", Role: r}, holder, reports, now)
	return r
}

func TestRevisionThatIsRememberedClosesNoRole(t *testing.T) {
	tab := newTable(t)
	tab.join("web1", noon)
	tab.publish()
	r := tab.Role("web")
	for _, step := range []struct {
		hash string
		open bool
	}{{r.Current().Revision.Hash, true}, {"1-unknown", false}} {
		if tab.report(kick.Revision{Epoch: 9, N: 1, Hash: step.hash}, noon); r.Open() != step.open {
			t.Errorf("lb1 holds %s of another controller, and the role is open: %t, want %t", step.hash, r.Open(), step.open)
		}
	}
}

func TestOldRevisionClosesARoleOnlySoonAfterAStart(t *testing.T) {
	const soon = 5 * time.Minute
	for _, c := range []struct {
		claim    string
		revision kick.Revision
		now      time.Time
		open     bool
	}{
		{"of another controller, soon", kick.Revision{Epoch: 6, N: 9, Hash: "1-old"}, reports.Since.Add(soon - 1), false},
		{"of another controller, later", kick.Revision{Epoch: 6, N: 9, Hash: "1-old"}, reports.Since.Add(soon), true},
		{"of this controller, soon", kick.Revision{Epoch: 7, N: 9, Hash: "1-old"}, reports.Since, true},
		{"newer than this controller's, later", kick.Revision{Epoch: 8, N: 1, Hash: "1-new"}, noon, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			tab := newTable(t)
			tab.join("web1", noon)
			tab.publish()
			if r := tab.report(c.revision, c.now); r.Open() != c.open {
				t.Errorf("open: %t, want %t", r.Open(), c.open)
			}
		})
	}
}

func TestRoleIsNotRecoveredFromTheSameRevisionTwice(t *testing.T) {
	tab := newTable(t)
	now := reports.Since
	old := kick.Revision{Epoch: 6, N: 9, Hash: "1-old"}
	r := tab.report(old, now)
	tab.publishAt(now)
	tab.publishAt(now.Add(time.Minute)) // no holder answered
	if !r.Open() {
		t.Fatal("the role still waits for a holder that does not answer")
	}
	for _, n := range []int64{8, 9} {
		if tab.report(kick.Revision{Epoch: 6, N: n, Hash: fmt.Sprint("1-", n)}, now.Add(time.Minute)); !r.Open() {
			t.Fatalf("revision %d closed the role, though it was recovered from revision 9", n)
		}
	}
	if tab.report(kick.Revision{Epoch: 6, N: 10, Hash: "1-10"}, now.Add(time.Minute)); r.Open() {
		t.Error("revision 10 did not close the role, which was recovered from revision 9")
	}
}

func TestRoleThatAnActionHasAppliedIsKnown(t *testing.T) {
	for _, applied := range []bool{true, false} {
		tab := newTable(t)
		r := tab.resolve("web")
		if applied {
			tab.report(kick.Revision{Hash: "1-former"}, noon)
		}
		if r.Unknown() == applied {
			t.Errorf("lb1 has applied web: %t, and web is unknown: %t", applied, r.Unknown())
		}
	}
}

func TestAnswerCountsOnlyForTheRevisionInQuestion(t *testing.T) {
	tab := newTable(t)
	tab.join("web1", noon)
	old := []kick.Member{{Node: "web1"}, {Node: "web2"}}
	r := tab.report(kick.Revision{Epoch: 6, N: 1, Hash: kick.Hash(old)}, noon)
	questions := tab.Recover(tab.nodes, reports, noon)
	if len(questions) != 1 || questions[0].Role != "web" || questions[0].Node != "lb1" || questions[0].As != "web" {
		t.Fatalf("the questions are %+v, want one to lb1 about web", questions)
	}
	for _, wrong := range []struct{ role, hash string }{{"web", "1-other"}, {"web", ""}, {"db", kick.Hash(old)}} {
		if tab.Answer(wrong.role, wrong.hash, old) {
			t.Errorf("the answer %+v counts", wrong)
		}
	}
	if !tab.Answer("web", kick.Hash(old), old) {
		t.Error("the answer does not count")
	}
	tab.Recover(tab.nodes, reports, noon)
	if r.Open() || r.Sync().Why != "2 of 2 last known members have not reported yet: web1, web2" {
		t.Errorf("the role waits for %+v, want the two members", r.Sync())
	}
	tab.publishAt(in(time.Minute))
	if !r.Open() || tab.Answer("web", kick.Hash(old), old) {
		t.Errorf("open: %t, and an answer still counts", r.Open())
	}
}

func TestAnswerWithoutMembersIsAnAnswer(t *testing.T) {
	tab := newTable(t)
	r := tab.report(kick.Revision{Epoch: 6, N: 1, Hash: kick.Hash(nil)}, noon)
	tab.Recover(tab.nodes, reports, noon)
	if tab.Answer("web", kick.Hash(nil), nil); r.Open() {
		t.Fatal("the role is open before the answer")
	}
	if tab.Recover(tab.nodes, reports, noon); !r.Open() {
		t.Errorf("the role waits for %+v, though it had no member", r.Sync())
	}
}

func TestRestartForgetsHoldsAndRecoversAgain(t *testing.T) {
	tab, r := holding(t)
	was := r.Current()
	if tab.Restart(); r.Open() || r.Held(false) != nil {
		t.Fatalf("open: %t, held: %+v; want neither", r.Open(), r.Held(false))
	}
	tab.report(was.Revision, in(time.Minute))
	q := tab.Recover(tab.nodes, reports, in(time.Minute))
	if len(q) != 1 || !tab.Answer("web", was.Revision.Hash, was.Members) {
		t.Fatalf("the questions are %+v, want one to lb1", q)
	}
	tab.publishAt(in(time.Hour))
	if h := r.Held(false); h == nil || len(h.Nodes) != 6 {
		t.Errorf("held is %+v, want the six that dependents still know", h)
	}
}

func TestRenumberChangesTheEpochAlone(t *testing.T) {
	tab := newTable(t)
	tab.join("web1", noon)
	tab.publish()
	r := tab.Role("web")
	tab.resolve("db")
	want := r.Current()
	want.Revision.Epoch = 9
	tab.Renumber(9)
	db := tab.Role("db").Current().Revision
	if got := r.Current(); got.Revision != want.Revision || db != (kick.Revision{}) {
		t.Errorf("the revisions are %+v and %+v, want %+v and none", got.Revision, db, want.Revision)
	}
}
