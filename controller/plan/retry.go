package plan

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

// BackoffConfig spaces the tries of a failing action: exponential, with jitter.
type BackoffConfig struct {
	Initial time.Duration `mapstructure:"initial"`
	Max     time.Duration `mapstructure:"max"`
}

// Retry is what the controller remembers of the tries of an action. It outlives the node's presence and the dependency,
// so that a role whose members come and go does not hammer a failing node.
type Retry struct {
	// Used is when the action was there last. A Retry that was not used for long is forgotten.
	Used time.Time
	// Sent is when the last kick was sent; zero: the controller knows no more than the node reports. Tried is the
	// Fingerprint that the action had then.
	Sent  time.Time
	Tried string
	// SendAgain is the ID of the last kick if it got no reply, or empty. The same kick is sent again with the same ID,
	// and so makes one run.
	SendAgain string
	// kicked is Sent of the last kick that the node accepted. The settle time between two kicks counts from here, see
	// lastKick.
	kicked time.Time
	// Ended is when the last run ended. Took is how long its command took.
	Ended time.Time
	Took  time.Duration

	// Failures is how many runs failed, or kicks were rejected, in a row. It starts with those that the node reports.
	// backoff is nil while none has failed here.
	Failures int
	backoff  *backoff.ExponentialBackOff
	// NotBefore is when the last kick may be tried again, see Next. Why is what it waits for until then. A kick that
	// got no answer sets both without a failure. An order clears NotBefore.
	NotBefore time.Time
	Why       string

	// ownCycle is how many kicks in a row the node accepted whose cause was causeOwnCycle. damped says that an event
	// reported it; then ownCycle is dampAfter at least.
	ownCycle int
	damped   bool
}

// Failed spaces the next try. It never gives up.
func (r *Retry) Failed(cfg BackoffConfig, now time.Time, why string) {
	if r.backoff == nil {
		r.backoff = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(cfg.Initial), backoff.WithMaxInterval(cfg.Max), backoff.WithMultiplier(2),
			backoff.WithRandomizationFactor(0.2), backoff.WithMaxElapsedTime(0))
	}
	r.Failures++
	r.NotBefore, r.Why = now.Add(min(r.backoff.NextBackOff(), cfg.Max)), why
}

// Disabled spaces the next try without a failure: a person has disabled the action, and its node has yet to report that.
func (r *Retry) Disabled(cfg BackoffConfig, now time.Time, why string) {
	r.Failed(cfg, now, why)
	r.Failures--
}

// Succeeded ends the series of failures.
func (r *Retry) Succeeded() {
	r.backoff, r.Failures, r.NotBefore, r.Why = nil, 0, time.Time{}, ""
}

// Accepted notes that the node accepted a kick. One without a cause repeats a failed one, and so does not count.
func (r *Retry) Accepted(f *Flight) {
	r.kicked = f.Sent
	switch f.cause {
	case causeOwnCycle:
		r.ownCycle++
	case causeOutside:
		r.ownCycle = 0
	}
}

// Resends reports whether a kick with these memberships is the last one, sent again because it got no reply.
func (r *Retry) Resends(fingerprint string) bool { return r.SendAgain != "" && r.Tried == fingerprint }

// lastKick is when the last kick was sent; the settle time of one with these memberships counts from there. Zero: none
// was. One without a reply may have run. Sent again with the same memberships it is the same kick, and does not count.
func (r *Retry) lastKick(fingerprint string) time.Time {
	if r.SendAgain != "" && r.Tried != fingerprint {
		return r.Sent
	}
	return r.kicked
}

// Kept reports whether a Retry holds more than the node itself reports again.
func (r *Retry) Kept() bool { return !r.Sent.IsZero() }

// Next is when a kick with these memberships may follow the last one. After a failure, other memberships than those
// that failed may be tried sooner, but not before the initial backoff. The failed ones keep theirs.
func (r *Retry) Next(cfg BackoffConfig, fingerprint string) time.Time {
	soonest := r.Sent.Add(cfg.Initial)
	if r.Failures > 0 && fingerprint != r.Tried && soonest.Before(r.NotBefore) {
		return soonest
	}
	return r.NotBefore
}

// With is a copy of a Retry under another backoff: it does not wait longer than that allows.
func (r *Retry) With(cfg BackoffConfig, now time.Time) *Retry {
	next := *r
	if r.backoff == nil {
		return &next
	}
	paced := *r.backoff
	paced.MaxInterval = cfg.Max
	next.backoff = &paced
	if latest := now.Add(cfg.Max); next.NotBefore.After(latest) {
		next.NotBefore = latest
	}
	return &next
}
