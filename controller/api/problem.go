package api

import "time"

// Severity ranks a problem by its consequence.
type Severity string

// The severities, worst first.
const (
	Critical Severity = "critical" // a dependent uses, or may soon use, members that it should not use
	Warning  Severity = "warning"  // one more fault and it would
	Note     Severity = "note"     // nothing has to be done
)

// Problem is one thing that is not as it should be.
type Problem struct {
	Code     string    `json:"code"` // one of the Problem constants
	Severity Severity  `json:"severity"`
	Object   string    `json:"object,omitempty"`    // node/N, role/R or node/N/ACTION; empty: the whole cluster
	Since    time.Time `json:"since,omitzero"`      // zero: not known
	Text     string    `json:"text"`                // what is the case, one sentence without the object
	Why      string    `json:"why,omitempty"`       // what it comes from
	Next     string    `json:"next,omitempty"`      // what kicker does about it
	Do       string    `json:"do,omitempty"`        // what a person can do: a command, or that waiting is safe
	CausedBy string    `json:"caused_by,omitempty"` // the Code of the problem that this one follows from; it stands right after that one
}
