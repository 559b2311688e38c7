package api

import (
	"log/slog"
	"time"
)

// Event is something that happened, or that the controller decided.
type Event struct {
	Seq    int64     `json:"seq"` // counts up from 1 within a run of the controller
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"` // one of EventKinds
	Node   string    `json:"node,omitempty"`
	Role   string    `json:"role,omitempty"`
	Action string    `json:"action,omitempty"`
	Run    string    `json:"run,omitempty"`
	Text   string    `json:"text"` // for people; it names its objects itself
}

// The kinds of events. EventKinds says what each means.
const (
	EventStarted             = "started"
	EventFollows             = "follows"
	EventLeads               = "leads"
	EventSynced              = "synced"
	EventBusLost             = "bus lost"
	EventBusRestored         = "bus restored"
	EventDisconnectsLost     = "disconnects lost"
	EventDisconnectsRestored = "disconnects restored"
	EventReloaded            = "reloaded"
	EventReloadRejected      = "reload rejected"

	EventJoined        = "joined"
	EventReady         = "ready"
	EventNotReady      = "not ready"
	EventSuspect       = "suspect"
	EventRestarting    = "restarting"
	EventBack          = "back"
	EventGone          = "gone"
	EventLeft          = "left"
	EventReplaced      = "replaced"
	EventConflictBegan = "conflict began"
	EventConflictEnded = "conflict ended"
	EventWrongVersion  = "wrong version"

	EventInvalidMessage = "invalid message"

	EventRoleChanged  = "role changed"
	EventHoldBegan    = "hold began"
	EventHoldProbed   = "hold probed"
	EventHoldEnded    = "hold ended"
	EventLossExpected = "loss expected"
	EventCycleBegan   = "cycle began"
	EventCycleEnded   = "cycle ended"

	EventKicked         = "kicked"
	EventKickRejected   = "kick rejected"
	EventKickUnanswered = "kick unanswered"
	EventSucceeded      = "succeeded"
	EventFailed         = "failed"
	EventDampingBegan   = "damping began"
	EventDampingEnded   = "damping ended"
)

// EventKind is a kind of event.
type EventKind struct {
	Kind    string
	Level   slog.Level // of its log line
	Meaning string     // one sentence
}

// A person must act on an ERROR. A WARN is something wrong that kicker handles, or that may end by itself.
const info, warn, fail = slog.LevelInfo, slog.LevelWarn, slog.LevelError

// EventKinds is all kinds of events.
var EventKinds = []EventKind{
	{EventStarted, info, "The controller started."},
	{EventFollows, info, "Another controller leads the cluster, and this one does nothing."},
	{EventLeads, warn, "The controller that led is silent, and this one leads now."},
	{EventSynced, info, "The controller knows the nodes and begins to act."},
	{EventBusLost, warn, "The controller receives nothing from the bus: until it does, it removes and kicks no node."},
	{EventBusRestored, info, "The controller receives messages again: it waits for nodes to report."},
	{EventDisconnectsLost, warn, "The controller receives no disconnects: it notices a dead node by its silence."},
	{EventDisconnectsRestored, info, "The controller receives disconnects again."},
	{EventReloaded, info, "Another configuration is in force."},
	{EventReloadRejected, fail, "The changed configuration was rejected: the old one stays in force."},

	{EventJoined, info, "A node reported for the first time."},
	{EventReady, info, "A node's service became ready."},
	{EventNotReady, warn, "A node's service is no longer ready."},
	{EventSuspect, info, "A node's connection closed, or it missed heartbeats: it has a moment to come back."},
	{EventRestarting, info, "A node's agent restarts: the node stays a member for up to a minute."},
	{EventBack, info, "A node that was suspect or restarting reported again."},
	{EventGone, warn, "A node stopped reporting and did not leave on purpose."},
	{EventLeft, info, "A node left on purpose."},
	{EventReplaced, info, "A newer boot of the machine, or another machine, took over a node's name."},
	{EventConflictBegan, fail, "Two machines claim one name: one is accepted, the other is rejected."},
	{EventConflictEnded, info, "Only one machine claims the name."},
	{EventWrongVersion, warn, "A node's messages have another version than the controller's, which ignores them."},

	{EventInvalidMessage, warn, "A message from the bus is invalid and was ignored: one event a second at most."},

	{EventRoleChanged, info, "The members of a role, or their member facts, changed."},
	{EventHoldBegan, warn, "The guard holds the removal of members of a role, because too many went at once."},
	{EventHoldProbed, info, "Dependents were asked whether they reach the held nodes."},
	{EventHoldEnded, info, "The guard no longer holds removals from a role."},
	{EventLossExpected, info, "A person announced that members of a role will go."},
	{EventCycleBegan, info, "Roles depend on each other."},
	{EventCycleEnded, info, "Roles no longer depend on each other."},

	{EventKicked, info, "A node accepted a kick."},
	{EventKickRejected, warn, "A node rejected a kick: the controller tries again with backoff."},
	{EventKickUnanswered, warn, "A node did not answer a kick: it is sent again."},
	{EventSucceeded, info, "A run succeeded."},
	{EventFailed, warn, "A run failed: the controller tries again with backoff."},
	{EventDampingBegan, warn, "An action runs more often than changes from outside explain: its kicks are delayed."},
	{EventDampingEnded, info, "The kicks of an action are no longer delayed."},
}

// EventLevel is the level at which an event of this kind is logged.
func EventLevel(kind string) slog.Level {
	for _, k := range EventKinds {
		if k.Kind == kind {
			return k.Level
		}
	}
	return slog.LevelInfo
}
