package api

import "log/slog"

const (
	EventBusRestored    = "bus restored"
	EventKickUnanswered = "kick unanswered"
	EventHoldProbed     = "hold probed"
)

func EventLevel(kind string) slog.Level { return slog.LevelInfo }
