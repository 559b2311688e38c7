package kick

import "slices"

// Ending is how a run ended, as its shim saw it.
type Ending struct {
	Exit     int    `json:"exit"`             // exit code; -1 where there was none
	Signal   string `json:"signal,omitempty"` // that it died of
	TimedOut bool   `json:"timed_out,omitempty"`
	Lost     bool   `json:"lost,omitempty"` // nobody saw its end
	Error    string `json:"error,omitempty"`
	Duration int64  `json:"duration_ms"`      // by the monotonic clock
	Output   string `json:"output,omitempty"` // its last 4 KiB
}

func (e Ending) outcome(success []int) Outcome {
	switch {
	case e.Lost:
		return Lost
	case e.TimedOut:
		return TimedOut
	case e.Signal != "":
		return Killed
	case e.Error == "" && slices.Contains(success, e.Exit):
		return Succeeded
	}
	return Failed
}
