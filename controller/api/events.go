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

// EventKind is a kind of event.
type EventKind struct {
	Kind    string
	Level   slog.Level // of its log line
	Meaning string     // one sentence
}

// EventKinds is all kinds of events. A person must act on an ERROR. A WARN is something wrong that kicker handles, or
// that may end by itself.
var EventKinds []EventKind

// The kinds of events, in the order of EventKinds. They never change.
var (
	EventStarted     = info("started", "The controller started.")
	EventFollows     = info("follows", "Another controller leads the cluster, and this one does nothing.")
	EventLeads       = warn("leads", "The controller that led is silent, and this one leads now.")
	EventSynced      = info("synced", "The controller knows the nodes and begins to act.")
	EventBusLost     = warn("bus lost", "The controller receives nothing from the bus: it removes and kicks no node.")
	EventBusRestored = info("bus restored", "The controller receives messages again: it waits for nodes to report.")

	EventDisconnectsLost     = warn("disconnects lost", "Disconnects do not arrive: only silence shows a dead node.")
	EventDisconnectsRestored = info("disconnects restored", "The controller receives disconnects again.")
	EventReloaded            = info("reloaded", "Another configuration is in force.")
	EventReloadRejected      = fail("reload rejected", "A new configuration was rejected: the old one is in force.")
	EventInvalidMessage      = warn("invalid message", "A message is invalid and was ignored: one event a second at most.")

	EventJoined        = info("joined", "A node reported for the first time.")
	EventReady         = info("ready", "A node's service became ready.")
	EventNotReady      = warn("not ready", "A node's service is no longer ready.")
	EventSuspect       = info("suspect", "A node disconnected, or missed heartbeats: it has a moment to come back.")
	EventRestarting    = info("restarting", "A node's agent restarts: the node stays a member for up to a minute.")
	EventBack          = info("back", "A node that was suspect or restarting reported again.")
	EventGone          = warn("gone", "A node stopped reporting and did not leave on purpose.")
	EventLeft          = info("left", "A node left on purpose.")
	EventLeaveOrdered  = info("leave ordered", "A person ordered a node to leave.")
	EventReplaced      = info("replaced", "A newer boot of the machine, or another machine, took over a node's name.")
	EventConflictBegan = fail("conflict began", "Two machines claim one name: one is accepted, the other rejected.")
	EventConflictEnded = info("conflict ended", "Only one machine claims the name.")
	EventWrongVersion  = warn("wrong version", "A node's messages have another version: the controller ignores them.")

	EventRoleChanged     = info("role changed", "The members of a role, or their member facts, changed.")
	EventHoldBegan       = warn("hold began", "The guard holds removals from a role, because too many members went at once.")
	EventHoldProbed      = info("hold probed", "Dependents were asked whether they reach the held nodes.")
	EventHoldEnded       = info("hold ended", "The guard no longer holds removals from a role.")
	EventQuarantineBegan = warn("quarantine began", "Every run with a node failed: it is kept out of a role.")
	EventQuarantineEnded = info("quarantine ended", "A node is no longer kept out of a role.")

	EventLossExpected = info("loss expected", "A person announced that members of a role will go.")
	EventCycleBegan   = info("cycle began", "Roles depend on each other.")
	EventCycleEnded   = info("cycle ended", "Roles no longer depend on each other.")

	EventKicked         = info("kicked", "A node accepted a kick.")
	EventKickRejected   = warn("kick rejected", "A node rejected a kick: the controller tries again with backoff.")
	EventKickUnanswered = warn("kick unanswered", "A node did not answer a kick: it is sent again.")
	EventOverdue        = warn("run overdue", "A run takes much longer than usual: it no longer takes a place from others.")
	EventSucceeded      = info("succeeded", "A run succeeded.")
	EventFailed         = warn("failed", "A run failed: the controller tries again with backoff.")
	EventDampingBegan   = warn("damping began", "An action runs more often than changes explain: kicks are delayed.")
	EventDampingEnded   = info("damping ended", "The kicks of an action are no longer delayed.")
)

func info(kind, meaning string) string { return addKind(EventKind{kind, slog.LevelInfo, meaning}) }
func warn(kind, meaning string) string { return addKind(EventKind{kind, slog.LevelWarn, meaning}) }
func fail(kind, meaning string) string { return addKind(EventKind{kind, slog.LevelError, meaning}) }

func addKind(k EventKind) string {
	EventKinds = append(EventKinds, k)
	return k.Kind
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
