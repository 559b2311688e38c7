package main

import (
	"fmt"
	"io"
	"kicker/controller/api"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What the timeline prints in colour, on a terminal.
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
	api.EventGone: red, api.EventFailed: red, api.EventKickRejected: red, api.EventInvalidMessage: red, api.EventBusLost: red,
	api.EventKicked: cyan, api.EventRoleChanged: bold,
}

// demoTimeline prints what happens, a line each: when, whom it is about, what. Any goroutine may use it.
type demoTimeline struct {
	began  time.Time
	colour bool

	mu       sync.Mutex
	w        io.Writer
	measures bool   // how long effects took: a story does that itself
	cause    string // the last thing that happened to a node, and when
	when     time.Time
}

func newDemoTimeline(w io.Writer) *demoTimeline {
	f, ok := w.(*os.File)
	colour := ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if colour {
		_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		colour = err == nil // a terminal
	}
	return &demoTimeline{began: time.Now(), colour: colour, w: w}
}

func (t *demoTimeline) text(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...) // nobody is left to tell when it fails
}

func (t *demoTimeline) title(format string, args ...any) {
	t.text("\n%s", t.paint(bold, fmt.Sprintf(format, args...)))
}

// line prints one thing that happened.
func (t *demoTimeline) line(colour, who, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(colour, who, fmt.Sprintf(format, args...))
}

func (t *demoTimeline) put(colour, who, what string) {
	fmt.Fprintf(t.w, "%6.2f s  %s  %s\n", time.Since(t.began).Seconds(), fmt.Sprintf("%-11s", who), t.paint(colour, printable(what)))
}

// measure makes effects tell how long they took from now on.
func (t *demoTimeline) measure() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.measures = true
}

// caused notes what may have an effect.
func (t *demoTimeline) caused(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.measures {
		t.cause, t.when = fmt.Sprintf(format, args...), time.Now()
	}
}

// effect prints what came of the last cause, and how long that took.
func (t *demoTimeline) effect(who, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause != "" {
		what += fmt.Sprintf(", %s after %s", seconds(time.Since(t.when)), t.cause)
	}
	t.cause = ""
	t.put(bold, who, what)
}

func (t *demoTimeline) paint(colour, text string) string {
	if !t.colour || colour == plain {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// event prints what the controller tells.
func (t *demoTimeline) event(e api.Event) {
	who, what := "controller", e.Text
	switch {
	case e.Kind == api.EventRoleChanged && e.Role != "web":
		return // nobody depends on it
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
		t.caused("%s was ready", e.Node)
	case api.EventNotReady:
		t.caused("%s was not", e.Node)
	case api.EventLeft:
		t.caused("%s said goodbye", e.Node)
	}
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, " ")
}
