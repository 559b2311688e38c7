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
	ProblemBusLost         = "bus_lost"
	ProblemNotSynced       = "not_synced"
	ProblemReloadRejected  = "reload_rejected"
	ProblemDisconnectsLost = "disconnects_lost"
	ProblemRoleNotSynced   = "role_not_synced"
	ProblemRemovalHeld     = "removal_held"
	ProblemUnknownRole     = "unknown_role"
	ProblemNameConflict    = "name_conflict"
	ProblemWrongVersion    = "wrong_version"
	ProblemNodeNotReady    = "node_not_ready"
	ProblemActionFailing   = "action_failing"
)

// ProblemCode is a code and what it means, in one sentence.
type ProblemCode struct{ Code, Meaning string }

// ProblemCodes is all codes, in the order cluster, roles, nodes, actions.
var ProblemCodes = []ProblemCode{
	{ProblemBusLost, "The controller receives nothing from the bus."},
	{ProblemNotSynced, "The controller does not know all nodes yet."},
	{ProblemReloadRejected, "The changed configuration was rejected, so the old one stays in force."},
	{ProblemDisconnectsLost, "The controller does not receive disconnects through `bus.system_url`."},
	{ProblemRoleNotSynced, "The controller does not know all members of the role yet."},
	{ProblemRemovalHeld, "The guard holds the removal of members; with `guard: shadow` it only reports it."},
	{ProblemUnknownRole, "An action depends on a role that no node has and no configuration names."},
	{ProblemNameConflict, "Two machines claim one name."},
	{ProblemWrongVersion, "The node's messages have another version than the controller's."},
	{ProblemNodeNotReady, "The node reports, but it is not ready, or its facts have not arrived."},
	{ProblemActionFailing, "The last try to run the action failed."},
}
