package kick

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Part carries some of the members of a kick that is larger than maxInline. Parts go before their kick, on the same
// subject.
type Part struct {
	V       int             `json:"v"`
	Of      string          `json:"part_of"` // the hash of all members, see Revision
	Part    int             `json:"part"`    // counts from 0
	Parts   int             `json:"parts"`
	Members json.RawMessage `json:"members"` // []Member
}

// maxInline is the size in bytes up to which a kick carries its members itself. It is also the limit of a part.
const maxInline = 256 << 10

func encodeParts(m Membership) ([][]byte, error) {
	const maxMembers = maxInline - 256 // leaves room for the other keys
	var (
		chunks [][]json.RawMessage
		room   int
	)
	for _, member := range m.Members {
		data, err := json.Marshal(member)
		if err != nil {
			return nil, err
		}
		if len(data) > maxMembers {
			return nil, fmt.Errorf("role %q: member %s has %d bytes of facts, the limit is %d",
				m.Role, member.Node, len(data), maxMembers)
		}
		if len(data)+1 > room {
			chunks = append(chunks, nil)
			room = maxMembers
		}
		room -= len(data) + 1
		chunks[len(chunks)-1] = append(chunks[len(chunks)-1], data)
	}
	parts := make([][]byte, len(chunks))
	for i, members := range chunks {
		list, err := json.Marshal(members)
		if err != nil {
			return nil, err
		}
		part := Part{V: Version, Of: m.Revision.Hash, Part: i, Parts: len(chunks), Members: list}
		if parts[i], err = json.Marshal(part); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func decodePart(data []byte) (Part, error) {
	var p Part
	if err := decode(data, maxMessage, &p, &p.V); err != nil {
		return p, err
	}
	if p.Parts <= 0 || p.Parts > 1024 || p.Part < 0 || p.Part >= p.Parts {
		return p, fmt.Errorf("part %d of %d: out of range", p.Part, p.Parts)
	}
	return p, checkWord("hash", p.Of)
}

// maxParts is how many bytes of parts a node keeps for kicks to come.
const maxParts = 64 << 20

// assembly keeps the parts that a node receives until their kick asks for them. They stay encoded, because decoded
// members take several times the memory.
type assembly struct {
	lists []*partList // oldest first
	size  int         // bytes of all lists
}

// partList is the parts of one list of members.
type partList struct {
	hash  string
	parts []json.RawMessage // nil: not received yet
	size  int               // bytes of the parts
	kicks int               // received since the first part
}

// add keeps a part. If all lists together are larger than maxParts, the oldest ones are dropped.
func (a *assembly) add(p Part) {
	list := a.find(p.Of)
	if list != nil && len(list.parts) != p.Parts {
		a.drop(list)
		list = nil
	}
	if list == nil {
		list = &partList{hash: p.Of, parts: make([]json.RawMessage, p.Parts)}
		list.size = 32 * p.Parts // an empty part takes memory, too
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

// complete fills a kick with the members that came before it in parts, and drops them: the controller sends them again
// with the next kick. It drops what no kick asked for at the second kick, because that is obsolete by then.
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

// members returns what has been received. If a part is missing or invalid, it returns none, or not all.
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

func (a *assembly) drop(list *partList) {
	a.lists = slices.DeleteFunc(a.lists, func(l *partList) bool { return l == list })
	a.size -= list.size
}
