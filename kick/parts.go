package kick

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// Part carries some members of a kick that is larger than maxInline. It goes before its kick, on the same subject.
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
	var pages [][]Member
	for rest := m.Members; len(rest) > 0; {
		n := pageSize(rest)
		pages, rest = append(pages, rest[:n]), rest[n:]
	}
	parts := make([][]byte, len(pages))
	for i, members := range pages {
		list, _ := json.Marshal(members) // encodeKick has encoded them before
		parts[i], _ = json.Marshal(Part{V: Version, Of: m.Revision.Hash, Part: i, Parts: len(pages), Members: list})
		if len(parts[i]) > maxInline {
			return nil, fmt.Errorf("role %q: the facts of %s exceed %d bytes", m.Role, members[0].Node, maxInline)
		}
	}
	return parts, nil
}

// pageSize returns how many members, from the first, fit in a message of maxInline bytes. It is at least one.
func pageSize(members []Member) int {
	room := maxInline - 256 // for the other keys
	for i, m := range members {
		data, _ := json.Marshal(m) // it was decoded from JSON
		if room -= len(data) + 1; room < 0 && i > 0 {
			return i
		}
	}
	return len(members)
}

func decodePart(data []byte) (Part, error) {
	var p Part
	err := decode(data, maxInline, &p, &p.V)
	inRange := p.Parts <= 1024 && p.Part >= 0 && p.Part < p.Parts
	return p, cmp.Or(err, ensure(inRange, "part %d of %d: out of range", p.Part, p.Parts), checkWord("hash", p.Of))
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
