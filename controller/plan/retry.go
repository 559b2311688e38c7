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

// Retry is what the controller remembers of an action's tries. It outlives the node's presence and the dependency, so that a role whose
// members come and go does not hammer a failing node.
type Retry struct {
	// Used is when the action was last there. A Retry that is not used for long is forgotten.
	Used time.Time
	// Sent is when the last kick was sent; zero: the controller knows no more than the node reports.
	Sent time.Time
	// Kicked is when the last kick was sent that the node accepted. The settle time between two kicks counts from here.
	Kicked time.Time
	// Took is how long the last run took. Ended is when it ended.
	Took  time.Duration
	Ended time.Time

	// Failures is how many runs failed, or kicks were rejected, since the last success. It is 0 exactly when backoff is nil, except for
	// failures that the node reported from before.
	Failures int
	backoff  *backoff.ExponentialBackOff
	// NotBefore is when a kick with the memberships of the last one may follow. Why says what it waits for; see next.
	NotBefore time.Time
	Why       string
	// Tried is the fingerprint of the memberships that the last kick handed over.
	Tried string
	// SendAgain is the id of a kick that got no reply. The same kick is sent again with the same id, and so makes one run.
	SendAgain string

	// SelfMade is how many accepted kicks in a row had no cause but runs of the action's own cycle. Damped says that this was reported.
	SelfMade int
	Damped   bool
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

// Accepted notes that a node accepted a kick that was sent for a cause. A retry after a failure has none of its own.
func (r *Retry) Accepted(sent time.Time, cause Cause) {
	r.Kicked = sent
	switch cause {
	case CauseOwnCycle:
		r.SelfMade++
	case CauseOutside:
		r.SelfMade = 0
	}
}

// Succeeded ends the series of failures.
func (r *Retry) Succeeded() {
	r.backoff, r.Failures, r.NotBefore, r.Why = nil, 0, time.Time{}, ""
}

// Kept reports whether a Retry holds more than the node itself reports again.
func (r *Retry) Kept() bool { return !r.Sent.IsZero() }

// Next is when a kick with these memberships may follow the last one. After a failure, other memberships than those that failed may be
// tried sooner, but not before the initial backoff; the retry of the failed ones keeps its backoff when others intervene.
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
