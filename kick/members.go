package kick

import (
	"maps"
	"path/filepath"
)

// MembersFile is the memberships that a run configures from, at KICKER_MEMBERS_FILE. Those that an action applied last
// are kept at actions/ACTION/members.json in the node's directory.
type MembersFile struct {
	V         int                 `json:"v"`
	Node      string              `json:"node"`
	Action    string              `json:"action"`
	Revisions map[string]string   `json:"revisions"` // hashes, by role
	Roles     map[string][]Member `json:"roles"`     // sorted by name
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
