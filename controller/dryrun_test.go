package controller

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/kick"
)

// A run goes on where its node is gone. It is still the one that tries a broken revision, also under another
// configuration.
func TestDryRunKeepsTheRolloutGateOfAStrayRun(t *testing.T) {
	cfg := patient()
	cfg.Settle = 0
	cfg.Roles = []membership.RoleConfig{{Name: "lb", Budget: "100%"}}
	inLoop(t, cfg, func(l *loop) {
		l.says("web1", "web", kick.Status{})
		for i := range 5 {
			l.says(fmt.Sprint("lb", i), "lb", reload())
		}
		l.sync(t)
		kicks := l.kicked()
		for _, k := range kicks[:4] {
			l.ends(kick.Result{Node: k.Node, Action: "reload", Run: k.ID, Outcome: kick.Failed, Exit: 1, Dirty: true})
		}
		l.goes(kicks[4].Node)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		var dry []api.Verdict
		err := l.inLoop(context.Background(), func(_ context.Context, now time.Time) (changed bool) {
			next, err := l.with(cfg, now)
			if err != nil {
				t.Error(err)
				return false
			}
			dry = next.firstTurn(now)
			return false
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, live := range l.View().Verdicts {
			if gateNames(live) != api.GateRollout || gateNames(dry[i]) != api.GateRollout {
				t.Errorf("%s waits for %q, and for %q in the dry run; want the rollout", live.Node, gateNames(live), gateNames(dry[i]))
			}
		}
	})
}
