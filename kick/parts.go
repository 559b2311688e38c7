package kick

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Part carries some of the members that a kick needs and is too small for. Parts go before their kick, on the same subject.
type Part struct {
	V       int             `json:"v"`
	Of      string          `json:"part_of"` // the hash of all members, see Revision
	Part    int             `json:"part"`    // counts from 0
	Parts   int             `json:"parts"`
	Members json.RawMessage `json:"members"` // []Member
}

// maxParts bounds, in bytes, the parts that a node keeps for a kick to come.
const maxParts = 64 << 20

// isPart tells a part from a kick.
func isPart(data []byte) bool {
	var p struct {
		Of string `json:"part_of"`
	}
	return len(data) <= MaxMessage && json.Unmarshal(data, &p) == nil && p.Of != ""
}

func decodePart(data []byte) (Part, error) {
	var p Part
	if err := unmarshal(data, MaxMessage, &p); err != nil {
		return p, err
	}
	switch {
	case p.V != Version:
		return p, fmt.Errorf("version %d, want %d", p.V, Version)
	case len(p.Of) > 64 || !madeOf(p.Of, wordChars):
		return p, fmt.Errorf("part_of %.20q: not a hash", p.Of)
	case p.Parts <= 0 || p.Parts > 1024 || p.Part < 0 || p.Part >= p.Parts:
		return p, fmt.Errorf("part %d of %d: out of range", p.Part, p.Parts)
	}
	return p, nil
}

// assembly keeps parts until a kick asks for them, as they came: members take several times their size once decoded.
type assembly struct {
	lists []*partList // oldest first
	size  int         // bytes of all parts
}

type partList struct {
	hash  string
	parts []json.RawMessage // nil: did not arrive yet
	size  int
	kicks int // that came since the first part
}

// add keeps a part. The oldest lists go when all of them are larger than maxParts.
func (a *assembly) add(p Part) {
	list := a.find(p.Of)
	if list != nil && len(list.parts) != p.Parts {
		a.drop(list)
		list = nil
	}
	if list == nil {
		list = &partList{hash: p.Of, parts: make([]json.RawMessage, p.Parts), size: 32 * p.Parts} // of nothing yet, but memory
		a.lists = append(a.lists, list)
		a.size += list.size
	}
	grown := len(p.Members) - len(list.parts[p.Part])
	list.parts[p.Part] = p.Members
	list.size += grown
	a.size += grown
	for a.size > maxParts {
		a.drop(a.lists[0])
	}
}

// complete gives a kick the members that came before it in parts, and forgets them: they came for this kick, and its controller
// sends them again with the next one. What the kick did not ask for goes after the second kick: it is obsolete by then.
func (a *assembly) complete(k Kick) Kick {
	needs := make([]Membership, len(k.Needs))
	for i, need := range k.Needs {
		if list := a.find(need.Revision.Hash); list != nil && len(need.Members) == 0 {
			need.Members = list.members()
		}
		needs[i] = need
	}
	for _, list := range slices.Clone(a.lists) {
		list.kicks++
		used := slices.ContainsFunc(k.Needs, func(m Membership) bool { return m.Revision.Hash == list.hash })
		if used || list.kicks > 1 {
			a.drop(list)
		}
	}
	k.Needs = needs
	return k
}

// members is what arrived; whether that is all is for the hash to say.
func (l *partList) members() []Member {
	var all []Member
	for _, part := range l.parts {
		var some []Member
		if json.Unmarshal(part, &some) != nil {
			return nil
		}
		all = append(all, some...)
	}
	return all
}

func (a *assembly) find(hash string) *partList {
	i := slices.IndexFunc(a.lists, func(l *partList) bool { return l.hash == hash })
	if i < 0 {
		return nil
	}
	return a.lists[i]
}

func (a *assembly) drop(gone *partList) {
	a.lists = slices.DeleteFunc(a.lists, func(l *partList) bool { return l == gone })
	a.size -= gone.size
}
