package kick

import (
	"strconv"
	"strings"
)

// runEnv is the environment of a run, beside the agent's own and the action's.
var runEnv = []string{
	"KICKER_NODE", "KICKER_ACTION", "KICKER_RUN", "KICKER_MEMBERS_FILE",
	"KICKER_REASON", "KICKER_REVISION", "KICKER_ADDED", "KICKER_REMOVED",
}

// environment returns runEnv with its values. before is what the action applied last, after is what the kick brings.
func environment(k Kick, membersFile string, before, after MembersFile) []string {
	var revisions, added, removed []string
	for _, need := range k.Needs {
		revisions = append(revisions, need.Role+"="+need.Revision.Hash)
		prefix := ""
		if len(k.Needs) > 1 {
			prefix = need.Role + ":"
		}
		old, new := before.Roles[need.Role], after.Roles[need.Role]
		added = append(added, missing(new, old, prefix)...)
		removed = append(removed, missing(old, new, prefix)...)
	}
	return []string{
		"KICKER_NODE=" + k.Node,
		"KICKER_ACTION=" + k.Action,
		"KICKER_RUN=" + k.ID,
		"KICKER_MEMBERS_FILE=" + membersFile,
		"KICKER_REASON=" + k.Reason,
		"KICKER_REVISION=" + joinBounded(revisions),
		"KICKER_ADDED=" + joinBounded(added),
		"KICKER_REMOVED=" + joinBounded(removed),
	}
}

// missing returns the names of the members of list that are not in other.
func missing(list, other []Member, prefix string) []string {
	known := map[string]bool{}
	for _, m := range other {
		known[m.Node] = true
	}
	var names []string
	for _, m := range list {
		if !known[m.Node] {
			names = append(names, prefix+m.Node)
		}
	}
	return names
}

// maxEnv keeps a variable well below 128 KiB, beyond which Linux refuses to start the command.
const maxEnv = 32 << 10

// joinBounded separates words by spaces. If they are longer than maxEnv, it ends in +N for the N words left out.
func joinBounded(words []string) string {
	var b strings.Builder
	for i, word := range words {
		if b.Len()+len(word) > maxEnv {
			return b.String() + " +" + strconv.Itoa(len(words)-i)
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	return b.String()
}
