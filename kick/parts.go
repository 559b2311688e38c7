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

// maxInline is the size in bytes up to which a kick carries its members itself, and the limit of a part.
const maxInline = 256 << 10

func encodeParts(m Membership) ([][]byte, error) {
	const maxMembers = maxInline - 256 // leaves room for the other keys
	var chunks [][]json.RawMessage
	room := 0
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
	if err := decode(data, maxInline, &p, &p.V); err != nil {
		return p, err
	}
	if p.Parts <= 0 || p.Parts > 1024 || p.Part < 0 || p.Part >= p.Parts {
		return p, fmt.Errorf("part %d of %d: out of range", p.Part, p.Parts)
	}
	return p, checkWord("hash", p.Of)
}

// maxParts is how many parts a node keeps for kicks to come: 64 MiB.
const maxParts = 256

// assembly keeps the parts that a node receives until their kick asks for them. They stay encoded, because decoded
// members take several times the memory.
type assembly struct {
	parts []Part // oldest first
	old   int    // how many of them came before the last kick
}

// add keeps a part, and drops the oldest one of too many.
func (a *assembly) add(p Part) {
	a.parts = append(a.parts, p)
	if len(a.parts) > maxParts {
		a.parts = slices.Delete(a.parts, 0, 1)
		a.old = max(0, a.old-1)
	}
}

// complete fills a kick with the members that came before it in parts, and drops them: the controller sends them again
// with the next kick. It drops what no kick asked for at the second kick, because that is obsolete by then.
func (a *assembly) complete(k Kick) Kick {
	k.Needs = slices.Clone(k.Needs)
	used := map[string]bool{}
	for i, need := range k.Needs {
		used[need.Revision.Hash] = true
		if len(need.Members) == 0 {
			k.Needs[i].Members = a.members(need.Revision.Hash)
		}
	}
	a.parts = slices.DeleteFunc(slices.Delete(a.parts, 0, a.old), func(p Part) bool { return used[p.Of] })
	a.old = len(a.parts)
	return k
}

// members returns the members that were received of a list, in any order. It returns none if a part is invalid.
func (a *assembly) members(hash string) []Member {
	lists := map[int]json.RawMessage{} // a part may come twice
	for _, p := range a.parts {
		if p.Of == hash {
			lists[p.Part] = p.Members
		}
	}
	var all []Member
	for _, list := range lists {
		var some []Member
		if json.Unmarshal(list, &some) != nil {
			return nil
		}
		all = append(all, some...)
	}
	return all
}
