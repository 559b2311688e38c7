package kick

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MembersFile is what a run configures from, at KICKER_MEMBERS_FILE, and what an action last configured from with success, at
// actions/ACTION/members.json in the node's directory.
type MembersFile struct {
	V         int                 `json:"v"`
	Node      string              `json:"node"`
	Action    string              `json:"action"`
	Revisions map[string]string   `json:"revisions"` // hashes by role
	Roles     map[string][]Member `json:"roles"`
}

func membersOf(k Kick) MembersFile {
	f := MembersFile{V: Version, Node: k.Node, Action: k.Action, Revisions: map[string]string{}, Roles: map[string][]Member{}}
	for _, need := range k.Needs {
		f.Revisions[need.Role] = need.Revision.Hash
		f.Roles[need.Role] = slices.SortedFunc(slices.Values(need.Members), func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	}
	return f
}

func appliedPath(dir, action string) string {
	return filepath.Join(dir, "actions", action, "members.json")
}

// loadApplied reads the members that an action applied last. They are none where the file isn't of the revisions applied.
func loadApplied(dir, action string, applied map[string]Revision) MembersFile {
	var f MembersFile
	data, err := os.ReadFile(appliedPath(dir, action))
	if err != nil || json.Unmarshal(data, &f) != nil {
		return MembersFile{}
	}
	same := maps.EqualFunc(f.Revisions, applied, func(hash string, rev Revision) bool { return hash == rev.Hash })
	if !same {
		return MembersFile{}
	}
	return f
}

// The environment of a run, beside the agent's own and the action's.
var runEnv = []string{
	"KICKER_NODE", "KICKER_ACTION", "KICKER_RUN", "KICKER_MEMBERS_FILE", "KICKER_REASON", "KICKER_REVISION", "KICKER_ADDED", "KICKER_REMOVED",
}

// environment says what a run is for: before is what the action applied last.
func environment(k Kick, membersFile string, before, after MembersFile) []string {
	var revisions, added, removed []string
	for _, need := range k.Needs {
		revisions = append(revisions, need.Role+"="+need.Revision.Hash)
		prefix := ""
		if len(k.Needs) > 1 {
			prefix = need.Role + ":"
		}
		was, is := before.Roles[need.Role], after.Roles[need.Role]
		added = append(added, missing(is, was, prefix)...)
		removed = append(removed, missing(was, is, prefix)...)
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

// missing names the members of list that are not in other.
func missing(list, other []Member, prefix string) []string {
	there := map[string]bool{}
	for _, m := range other {
		there[m.Node] = true
	}
	var names []string
	for _, m := range list {
		if !there[m.Node] {
			names = append(names, prefix+m.Node)
		}
	}
	return names
}

// maxEnv keeps a variable well below the 128 KiB beyond which Linux refuses to start the command.
const maxEnv = 32 << 10

// joinBounded separates words by spaces. If they are too many it ends in +N, for the N words that have no room.
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
