package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

// The colours of the timeline on a terminal.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	plain  = ""
)

var eventColours = map[string]string{
	api.EventJoined: green, api.EventReady: green, api.EventBack: green, api.EventSucceeded: green,
	api.EventSuspect: yellow, api.EventRestarting: yellow, api.EventNotReady: yellow, api.EventLeft: yellow,
	api.EventGone: red, api.EventFailed: red, api.EventKickRejected: red,
	api.EventInvalidMessage: red, api.EventBusLost: red,
	api.EventKicked: cyan, api.EventRoleChanged: bold,
}

// timeline prints what happens, one line each: when, who, what. Any goroutine may use it.
type timeline struct {
	began  time.Time
	colour bool

	mu       sync.Mutex
	w        io.Writer
	measures bool   // print how long effects took; a story does that itself
	cause    string // the last thing that happened to a node, and when
	when     time.Time
}

func newTimeline(w io.Writer) *timeline {
	f, ok := w.(*os.File)
	colour := ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if colour {
		_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		colour = err == nil // a terminal
	}
	return &timeline{began: time.Now(), colour: colour, w: w}
}

func (t *timeline) text(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...) // an error has no reader
}

func (t *timeline) title(format string, args ...any) {
	t.text("\n%s", t.paint(bold, fmt.Sprintf(format, args...)))
}

// line prints one thing that happened.
func (t *timeline) line(colour, who, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(colour, who, fmt.Sprintf(format, args...))
}

func (t *timeline) put(colour, who, what string) {
	fmt.Fprintf(t.w, "%6.2f s  %-11s  %s\n", time.Since(t.began).Seconds(), who, t.paint(colour, print.Line(what)))
}

// measure prints from now on how long effects took.
func (t *timeline) measure() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.measures = true
}

// caused notes what may have an effect, as in "web2 ended".
func (t *timeline) caused(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.measures {
		t.cause, t.when = fmt.Sprintf(format, args...), time.Now()
	}
}

// effect prints the effect of the last cause, and how long it took.
func (t *timeline) effect(who, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause != "" {
		what += fmt.Sprintf(", %s after %s", seconds(time.Since(t.when)), t.cause)
	}
	t.cause = ""
	t.put(bold, who, what)
}

func (t *timeline) paint(colour, text string) string {
	if !t.colour || colour == plain {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// event prints an event of the controller.
func (t *timeline) event(e api.Event) {
	who, what := "controller", e.Text
	switch {
	case e.Kind == api.EventRoleChanged && e.Role != "web":
		return // nothing depends on it
	case e.Role != "":
		who = "role/" + e.Role
		what = strings.TrimPrefix(what, "role "+e.Role+" ")
		what = strings.TrimPrefix(what, "role "+e.Role+": ")
	case e.Action != "":
		who = e.Node + "/" + e.Action
		what = strings.TrimPrefix(strings.Replace(what, "kicked "+who, "kicked", 1), who+" ")
	case e.Node != "":
		who = e.Node
		what = strings.TrimPrefix(what, "node "+e.Node+" ")
	default:
		what = strings.TrimPrefix(what, "controller ")
	}
	t.line(eventColours[e.Kind], who, "%s", what)
	switch e.Kind {
	case api.EventReady:
		t.caused("%s became ready", e.Node)
	case api.EventNotReady:
		t.caused("%s became not ready", e.Node)
	case api.EventLeft:
		t.caused("%s left", e.Node)
	}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}
