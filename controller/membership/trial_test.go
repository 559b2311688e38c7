package membership_test

import (
	"slices"
	"testing"
	"time"

	"kicker/controller/membership"
	"kicker/inventory"
)

// trying is a table whose role web has web1 and web2, with which a run succeeded.
func trying(t *testing.T) (tab table, web *membership.Role) {
	t.Helper()
	tab = newTable(t)
	web = tab.resolve("web")
	for _, name := range []string{"web1", "web2"} {
		tab.complete(name)
	}
	tab.ended(web, "lb1/reload", true)
	return tab, web
}

// complete adds a member of role web that has all facts, and publishes it.
func (tab table) complete(name string) *inventory.Node {
	tab.t.Helper()
	n := eligible(name, inventory.Facts{"role": "web", "ipaddress": "10.0.0.1", "port": "80"})
	tab.apply(nil, n, noon)
	tab.publish()
	return n
}

// ended ends a run with the members that an action is handed now.
func (tab table) ended(r *membership.Role, by string, succeeded bool) {
	tab.Ended(map[string]string{r.Name: r.Handed(by).Revision.Hash}, by, succeeded, noon)
}

// try begins the trial that is due. again is the action that may try quarantined members again.
func (tab table) try(again string, now time.Time) {
	tab.Try(func(*membership.Role) string { return again }, func(*membership.Role, string) bool { return true }, now)
}

// quarantined is a table whose role web has the quarantined member web3, and is as trying otherwise.
func quarantined(t *testing.T) (tab table, web *membership.Role, web3 *inventory.Node) {
	t.Helper()
	tab, web = trying(t)
	web3 = tab.complete("web3")
	for range 3 {
		tab.ended(web, "lb1/reload", false)
	}
	tab.try("", noon)
	tab.ended(web, "lb1/reload", true)
	tab.publish()
	if q := web.Quarantined(); len(q) != 1 || q[0].Node != "web3" {
		t.Fatalf("quarantined are %+v, want web3", q)
	}
	return tab, web, web3
}

func TestBadMembersThatJoinOneByOneAreSuspectedTogether(t *testing.T) {
	tab, web := trying(t)
	tab.complete("web3")
	tab.ended(web, "lb1/reload", false)
	tab.ended(web, "lb1/reload", false)
	tab.complete("web4")
	tab.ended(web, "lb1/reload", false)
	tab.try("", noon)
	if trial := web.Trial(); trial == nil || !slices.Equal(trial.Of, []string{"web3", "web4"}) {
		t.Errorf("the trial is %+v, want one without web3 and web4", trial)
	}
}

// A deadline in the past would make the loop run without end.
func TestRetryThatNoActionCanMakeIsNoDeadline(t *testing.T) {
	tab, web, web3 := quarantined(t)
	due := noon.Add(time.Minute)
	if next := tab.Next(true); !next.Equal(due) {
		t.Errorf("the next retry is due %s, want %s", next, due)
	}
	tab.try("", due)
	if next := tab.Next(true); !next.IsZero() || web.Trial() != nil {
		t.Errorf("no action can retry, and the next retry is due %s, want none", next)
	}
	tab.apply(web3, nil, due)
	tab.try("lb1/reload", due)
	if next := tab.Next(true); !next.IsZero() || web.Trial() != nil {
		t.Errorf("the member is gone, and the next retry is due %s, want none", next)
	}
	tab.complete("web3")
	tab.try("lb1/reload", due)
	if trial := web.Trial(); trial == nil || !trial.Again || !slices.Equal(trial.By, []string{"lb1/reload"}) {
		t.Errorf("an action can retry, and the trial is %+v", trial)
	}
}
