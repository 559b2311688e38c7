package api

import "time"

// Problem is one thing that is not as it should be. Its texts are for people, lower case and without a period.
type Problem struct {
	Code     string    `json:"code"` // one of ProblemCodes
	Severity Severity  `json:"severity"`
	Object   string    `json:"object,omitempty"`    // node/N, node/N/ACTION or role/R; empty: the whole cluster
	Since    time.Time `json:"since,omitzero"`      // zero: not known
	Text     string    `json:"text"`                // what is the case, without the object
	Why      string    `json:"why,omitempty"`       // the cause
	Next     string    `json:"next,omitempty"`      // what kicker does about it, and when
	Do       string    `json:"do,omitempty"`        // what a person can do, or why doing nothing is safe
	CausedBy string    `json:"caused_by,omitempty"` // code of the problem that it follows from
}

// Severity ranks a problem by its consequence.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // a dependent uses, or may soon use, members that it should not use
	Warning  Severity = "warning"  // after one more fault it would
	Note     Severity = "note"     // it would not
)

// Severities is all severities, worst first.
var Severities = []Severity{Critical, Warning, Note}

// The codes of problems.
const (
	ProblemBusLost           = "bus_lost"
	ProblemNotSynced         = "not_synced"
	ProblemReloadRejected    = "reload_rejected"
	ProblemDisconnectsLost   = "disconnects_lost"
	ProblemRoleNotSynced     = "role_not_synced"
	ProblemRemovalHeld       = "removal_held"
	ProblemUnknownRole       = "unknown_role"
	ProblemTooFewMembers     = "too_few_members"
	ProblemMemberIncomplete  = "member_incomplete"
	ProblemMemberQuarantined = "member_quarantined"
	ProblemNameConflict      = "name_conflict"
	ProblemWrongVersion      = "wrong_version"
	ProblemNodeNotReady      = "node_not_ready"
	ProblemActionFailing     = "action_failing"
	ProblemOverdueRun        = "overdue_run"
	ProblemActionDisabled    = "action_disabled"
)

// ProblemCodes is all codes, in the order cluster, roles, nodes, actions. docs/reference/api.md says what each means.
var ProblemCodes = []string{
	ProblemBusLost, ProblemNotSynced, ProblemReloadRejected, ProblemDisconnectsLost,
	ProblemRoleNotSynced, ProblemRemovalHeld, ProblemUnknownRole, ProblemTooFewMembers,
	ProblemMemberIncomplete, ProblemMemberQuarantined,
	ProblemNameConflict, ProblemWrongVersion, ProblemNodeNotReady, ProblemActionFailing, ProblemOverdueRun,
	ProblemActionDisabled,
}
