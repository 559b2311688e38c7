package kick

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MembersFile is the memberships that a run configures from, at KICKER_MEMBERS_FILE. Those that an action applied last
// are kept at actions/ACTION/members.json in the node's directory.
type MembersFile struct {
	V         int                 `json:"v"`
	Node      string              `json:"node"`
	Action    string              `json:"action"`
	Revisions map[string]string   `json:"revisions"` // hashes, by need
	Roles     map[string][]Member `json:"roles"`     // by need, sorted by name; never null
}

func membersOf(k Kick) MembersFile {
	f := MembersFile{V: Version, Node: k.Node, Action: k.Action}
	f.Revisions, f.Roles = map[string]string{}, map[string][]Member{}
	for _, need := range k.Needs {
		f.Revisions[need.Role] = need.Revision.Hash
		f.Roles[need.Role] = sorted(need.Members)
	}
	return f
}

func appliedPath(dir, action string) string {
	return filepath.Join(dir, "actions", action, "members.json")
}

// loadApplied reads the members that an action applied last. It returns none if the file has other revisions.
func loadApplied(dir, action string, applied map[string]Revision) MembersFile {
	var f MembersFile
	err := readFile(appliedPath(dir, action), &f)
	sameHash := func(hash string, rev Revision) bool { return hash == rev.Hash }
	if err != nil || !maps.EqualFunc(f.Revisions, applied, sameHash) {
		return MembersFile{}
	}
	return f
}

// runEnv is the environment of a run, beside the agent's own and the action's.
var runEnv = []string{
	"KICKER_NODE", "KICKER_ACTION", "KICKER_RUN", "KICKER_MEMBERS_FILE",
	"KICKER_REASON", "KICKER_REVISION", "KICKER_ADDED", "KICKER_REMOVED", "KICKER_REMOVED_WHY", "KICKER_FORCE",
}

// environment returns runEnv with its values. before is what the action applied last, after is what the kick brings.
func environment(k Kick, membersFile string, before, after MembersFile) []string {
	var revisions, added, removed, why []string
	for _, need := range k.Needs {
		name := oneWord(need.Role)
		revisions = append(revisions, name+"="+need.Revision.Hash)
		prefix := ""
		if len(k.Needs) > 1 {
			prefix = name + ":"
		}
		old, new := before.Roles[need.Role], after.Roles[need.Role]
		for _, node := range missing(new, old) {
			added = append(added, prefix+node)
		}
		for _, node := range missing(old, new) {
			removed = append(removed, prefix+node)
			why = append(why, prefix+node+"="+reasonWord(need.Departed[node]))
		}
	}
	force := ""
	if k.Force {
		force = "1"
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
		"KICKER_REMOVED_WHY=" + joinBounded(why),
		"KICKER_FORCE=" + force,
	}
}

// oneWord makes a text one word of a list that blanks separate.
func oneWord(s string) string { return strings.ReplaceAll(s, " ", "_") }

// reasonWord is a departure as one word, "unknown" if it is none that this version knows.
func reasonWord(d Departure) string {
	if !slices.Contains(Departures, d) {
		return "unknown"
	}
	return oneWord(string(d))
}

// missing returns the names of the members of list that are not in other.
func missing(list, other []Member) []string {
	known := map[string]bool{}
	for _, m := range other {
		known[m.Node] = true
	}
	var names []string
	for _, m := range list {
		if !known[m.Node] {
			names = append(names, m.Node)
		}
	}
	return names
}

// maxEnv keeps a variable well below 128 KiB, beyond which Linux refuses to start the command.
const maxEnv = 32 << 10

// joinBounded separates words by spaces. If they are longer than maxEnv, it ends in +N for the N words left out.
func joinBounded(words []string) string {
	size := 0
	for i, word := range words {
		if size += len(word) + 1; size > maxEnv {
			return strings.Join(words[:i], " ") + " +" + strconv.Itoa(len(words)-i)
		}
	}
	return strings.Join(words, " ")
}
