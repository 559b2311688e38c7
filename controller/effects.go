package controller

import (
	"time"

	"kicker/controller/api"
)

// effect is something that leadership or listening wants done: an api.Event, which is recorded, or one of the types
// below.
type effect any

// sendBeacon tells every node and controller who leads. Epoch 0 is the question who leads.
type sendBeacon struct{ epoch int64 }

// requestReports asks every node to report.
type requestReports struct{}

// restated says that verdicts have to be made anew.
type restated struct{}

// renumber publishes all memberships under the present epoch.
type renumber struct{}

// recoverRoles begins the recovery of every role anew, from what actions have applied.
type recoverRoles struct{}

// carryOut does what leadership or listening wants done. It reports whether that may change a verdict.
func (c *Controller) carryOut(effects []effect, now time.Time) (changed bool) {
	for _, e := range effects {
		switch e := e.(type) {
		case sendBeacon:
			c.bus.Beacon(c.leadership.id, e.epoch, c.listening.pace)
			continue
		case requestReports:
			c.bus.RequestReports(reportSplay)
			continue
		case renumber:
			c.table.Renumber(c.leadership.epoch)
		case recoverRoles:
			c.table.Restart()
			c.reportAll(now)
		case api.Event:
			c.event(e)
		}
		changed = true
	}
	return changed
}
