package print

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"kicker/controller/api"
)

// Blocked says what an action waits for, as in "waiting for lb1/reload: settle, 3s (more changes may follow)".
func Blocked(action string, gates []api.Gate, running bool, now time.Time) string {
	if len(gates) == 0 && running {
		return fmt.Sprintf("waiting for %s: its run is in progress", action)
	}
	if len(gates) == 0 {
		return fmt.Sprintf("waiting for %s: it is kicked now", action)
	}
	var texts []string
	for _, g := range gates {
		text := g.Name
		if left := g.Until.Sub(now); left > 0 {
			text += ", " + api.Duration(left.Round(100*time.Millisecond))
		}
		if g.Why != "" {
			text += " (" + g.Why + ")"
		}
		texts = append(texts, text)
	}
	return fmt.Sprintf("waiting for %s: %s", action, strings.Join(texts, "; "))
}

// OpenedBy is what a person can do about an action that waits only for a person. last says how to allow that a role
// becomes empty.
func OpenedBy(node string, gates []api.Gate, last string) string {
	var do []string
	for _, g := range gates {
		switch g.Name {
		case api.GateObserve:
			do = append(do, "set its mode to act in the controller's configuration")
		case api.GateDisabled:
			do = append(do, "remove the file disabled on "+node)
		case api.GateUnknown:
			do = append(do, "correct its depends_on, or name the role in the controller's configuration")
		case api.GateMinMembers:
			do = append(do, cmp.Or(last, "start more members, or lower min_members of the role"))
		}
	}
	return strings.Join(do, ", and ")
}
