package demo

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

// The colours of the timeline on a terminal.
const (
	plain  = ""
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

var (
	// levels is the colours of events, by the level of their log lines.
	levels = map[slog.Level]string{slog.LevelWarn: yellow, slog.LevelError: red}
	// causes is the events that change the load balancer soon, as in "web4 became ready".
	causes = map[string]string{
		api.EventReady: "became ready", api.EventNotReady: "became not ready", api.EventLeft: "left",
	}
)

// timeline prints what happens, one line each: when, who, what. Any goroutine may use it.
type timeline struct {
	began    time.Time
	colour   bool
	measures bool // print how long effects took

	mu    sync.Mutex
	w     io.Writer
	cause string // the last thing that happened to a node, and when; empty: it had its effect
	when  time.Time
}

func newTimeline(w io.Writer, measures bool) *timeline {
	t := &timeline{began: time.Now(), w: w, measures: measures}
	if f, ok := w.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		t.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return t
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
	what := t.paint(colour, print.Line(fmt.Sprintf(format, args...)))
	t.text("%6.2f s  %-11s  %s", time.Since(t.began).Seconds(), who, what)
}

func (t *timeline) paint(colour, text string) string {
	if !t.colour || colour == plain {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// caused notes what may have an effect, as in "web2 ended".
func (t *timeline) caused(cause string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cause, t.when = cause, time.Now()
}

// effect prints the effect of the last cause, and how long it took.
func (t *timeline) effect(who, what string) {
	t.mu.Lock()
	if t.measures && t.cause != "" {
		what += fmt.Sprintf(", %s after %s", seconds(time.Since(t.when)), t.cause)
	}
	t.cause = ""
	t.mu.Unlock()
	t.line(bold, who, "%s", what)
}

// event prints an event of the controller. Its text names its subject, which the line does already.
func (t *timeline) event(e api.Event) {
	who, subject := "controller", "controller "
	switch {
	case e.Kind == api.EventRoleChanged && e.Role != "web":
		return // nothing depends on it
	case e.Role != "":
		who, subject = "role/"+e.Role, "role "+e.Role+": "
	case e.Action != "":
		who, subject = e.Node+"/"+e.Action, e.Node+"/"+e.Action+" "
	case e.Node != "":
		who, subject = e.Node, "node "+e.Node+" "
	}
	colour := levels[api.EventLevel(e.Kind)]
	if e.Kind == api.EventSucceeded {
		colour = green
	}
	t.line(colour, who, "%s", strings.Replace(e.Text, subject, "", 1))
	if how, ok := causes[e.Kind]; ok {
		t.caused(e.Node + " " + how)
	}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
