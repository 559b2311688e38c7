package controller

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// ErrOtherLeads ends a controller that is no standby when another one leads its cluster.
var ErrOtherLeads = errors.New("another controller of this cluster leads")

const (
	introduction = time.Second      // in which a controller that has just started waits for the answer to who leads
	beaconEvery  = 10 * time.Second // a beacon of the one that leads, whatever happens
)

// leadership decides which controller of a cluster leads. Of two it is the one with the higher epoch, and of equal
// epochs the one with the greater id. It is a value: messages and the time go in, effects come out.
type leadership struct {
	cluster string
	id      string
	started time.Time
	// takeOver is the silence of the leader after which a standby takes over.
	takeOver time.Duration

	// epochs is the epochs that this controller has used, in order. epoch is the last one.
	epochs []int64
	epoch  int64
	// seen is the highest epoch that a node reports of another controller.
	seen int64
	// rival is the controller that leads. Its id is empty while this one leads.
	rival rival
	// asking is since when this one asks who has a higher epoch that a node reported; zero: it does not.
	asking time.Time
	// next is when the next beacon is due.
	next time.Time
}

// rival is another controller that leads. It shows by its beacons, and by its canary four times a second, that it is
// alive.
type rival struct {
	id    string
	epoch int64
	alive time.Time // when it last showed so
}

func newLeadership(cluster, id string, takeOver time.Duration, now time.Time) leadership {
	epoch := now.UnixMilli()
	return leadership{cluster: cluster, id: id, started: now, takeOver: takeOver, epoch: epoch, epochs: []int64{epoch}}
}

// leads reports whether no other controller is known to lead.
func (l *leadership) leads() bool { return l.rival.id == "" }

// silent is why this controller must not kick; empty if it may.
func (l *leadership) silent() string {
	switch {
	case !l.leads():
		return fmt.Sprintf("controller %s leads", l.rival.id)
	case !l.asking.IsZero():
		return fmt.Sprintf("a node reports a higher epoch (%d): checking whether another controller leads", l.seen)
	}
	return ""
}

// beacon decides who leads when another controller speaks.
func (l *leadership) beacon(b inventory.Beacon, now time.Time) []effect {
	if b.ID == l.id {
		return nil
	}
	ahead := cmp.Or(cmp.Compare(b.Epoch, l.epoch), cmp.Compare(b.ID, l.id)) > 0
	introduced := !now.Before(l.started.Add(introduction))
	switch {
	case b.Epoch == 0 || !ahead && introduced && l.leads():
		if introduced && l.asking.IsZero() {
			l.next = time.Time{} // the beacon tells it who leads; two that ask would answer each other without end
		}
	case l.rival.id == b.ID:
		l.rival = rival{b.ID, b.Epoch, now}
	case l.leads() || b.Epoch > l.rival.epoch:
		l.rival = rival{b.ID, b.Epoch, now}
		return []effect{event(now, api.EventFollows,
			"controller %s leads cluster %s with epoch %d: this one kicks no node",
			b.ID, l.cluster, b.Epoch)}
	}
	return nil
}

// rivalAlive notes that another controller's canary was received.
func (l *leadership) rivalAlive(id string, now time.Time) {
	if id == l.rival.id {
		l.rival.alive = now
	}
}

// missed notes that messages may have been missed until now: a rival may be alive, and another controller may lead
// since.
func (l *leadership) missed(now time.Time) {
	l.rival.alive, l.next = now, time.Time{}
}

// reported notes the highest epoch that a node reports of another controller. If it is higher than this one's, another
// one may lead beyond a network partition. This one asks for a second; only without an answer does it raise its epoch.
func (l *leadership) reported(epoch int64, now time.Time) (changed bool) {
	l.seen = max(l.seen, epoch)
	if !l.leads() || l.seen < l.epoch || l.seen >= kick.MaxEpoch || !l.asking.IsZero() {
		return false
	}
	l.asking, l.next = now, time.Time{}
	return true
}

// canary takes over from a rival that has been silent for too long. now is when this controller's own canary came back:
// a controller that receives nothing does not take its rival for silent.
func (l *leadership) canary(now time.Time) []effect {
	silence := now.Sub(l.rival.alive)
	if l.leads() || silence < l.takeOver {
		return nil
	}
	takesOver := event(now, api.EventLeads, "controller %s was silent for %s: this one leads now",
		l.rival.id, api.Duration(silence))
	l.seen = max(l.seen, l.rival.epoch)
	l.rival = rival{}
	l.raise()
	return []effect{takesOver, renumber{}, recoverRoles{}}
}

// raise makes the epoch higher than any that a node reports of another controller, for nodes accept kicks of the
// highest.
func (l *leadership) raise() {
	if l.seen < l.epoch || l.seen >= kick.MaxEpoch {
		return // nodes accept no epoch beyond MaxEpoch
	}
	l.epoch = l.seen + 1
	l.epochs = append(l.epochs, l.epoch)
	l.next = time.Time{}
}

// tick sends the beacons that are due: a question at the start and while it asks, then now and then that it leads.
func (l *leadership) tick(now time.Time) []effect {
	if now.Before(l.next) {
		return nil
	}
	if !l.leads() {
		l.asking = time.Time{}
	}
	l.next = now.Add(beaconEvery)
	switch {
	case now.Before(l.started.Add(introduction)), now.Before(l.asking.Add(introduction)):
		l.next = now.Add(introduction / 4) // the question or the answer may be lost
		return []effect{sendBeacon{0}}
	case !l.leads():
		return nil
	case l.asking.IsZero():
		return []effect{sendBeacon{l.epoch}}
	}
	l.asking = time.Time{}
	l.raise()
	l.next = now.Add(beaconEvery)
	return []effect{renumber{}, sendBeacon{l.epoch}}
}

// yields is the error that ends a controller that is no standby when another one leads.
func (l *leadership) yields(standby bool) error {
	if l.leads() || standby {
		return nil
	}
	return fmt.Errorf("cluster %s: %w: %s with epoch %d: stop that one first, or start this one with --standby",
		l.cluster, ErrOtherLeads, l.rival.id, l.rival.epoch)
}
