package kick

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// RosterRequest asks a node, on its kick subject, for the members that an action applied last: what a controller that has just started
// can't know otherwise.
type RosterRequest struct {
	V      int    `json:"v"`
	Roster string `json:"roster"` // the action
	Role   string `json:"role"`
	From   int    `json:"from"` // the first member wanted, counted from 0
}

// RosterPage answers a RosterRequest, with at most MaxInline bytes of members.
type RosterPage struct {
	V       int      `json:"v"`
	Hash    string   `json:"hash"` // of all members; empty if the node doesn't know them
	Members []Member `json:"members"`
	Next    int      `json:"next,omitempty"` // the first of the page after this one; 0: there is none
}

// maxRoster is more members than any membership has.
const maxRoster = 1 << 20

// isRosterRequest tells it from a kick.
func isRosterRequest(data []byte) bool {
	var r struct {
		Roster string `json:"roster"`
	}
	return len(data) <= MaxAnswer && json.Unmarshal(data, &r) == nil && r.Roster != ""
}

// Roster asks a node for the members of a role that an action applied last, and returns them with their hash, which they were verified
// by. The hash is empty if the node doesn't know them any more.
func Roster(ctx context.Context, nc *nats.Conn, cluster, node, action, role string) (members []Member, hash string, err error) {
	fail := func(err error) ([]Member, string, error) {
		return nil, "", fmt.Errorf("roster of %s/%s: %w", node, action, err)
	}
	for from := 0; ; {
		request, err := json.Marshal(RosterRequest{V: Version, Roster: action, Role: role, From: from})
		if err != nil {
			return fail(err)
		}
		answer, err := nc.RequestWithContext(ctx, kickSubject(cluster, node), request)
		if err != nil {
			return fail(err)
		}
		var page RosterPage
		if err := unmarshal(answer.Data, MaxMessage, &page); err != nil {
			return fail(err)
		}
		switch {
		case page.V != Version:
			return fail(fmt.Errorf("version %d, want %d", page.V, Version))
		case page.Hash == "":
			return nil, "", nil
		case hash != "" && page.Hash != hash:
			return fail(errors.New("it changed while it was asked for"))
		case page.Next != 0 && page.Next <= from, len(members)+len(page.Members) > maxRoster:
			return fail(errors.New("it has no end"))
		}
		hash, members = page.Hash, append(members, page.Members...)
		if page.Next == 0 {
			break
		}
		from = page.Next
	}
	if Hash(members) != hash {
		return fail(fmt.Errorf("%d members arrived, and they are not those of %s", len(members), hash))
	}
	return members, hash, nil
}

// roster answers a request for what an action applied last.
func (r *Runner) roster(data []byte) RosterPage {
	page := RosterPage{V: Version, Members: []Member{}}
	var q RosterRequest
	if err := unmarshal(data, MaxAnswer, &q); err != nil || q.V != Version || q.From < 0 || checkActionName(q.Roster) != nil {
		return page
	}
	applied := loadApplied(r.cfg.Dir, q.Roster, r.state.Actions[q.Roster].Applied)
	members := applied.Roles[q.Role]
	if q.From > len(members) {
		return page
	}
	page.Hash = applied.Revisions[q.Role]
	room := MaxInline
	for i, m := range members[q.From:] {
		data, err := json.Marshal(m)
		if err != nil {
			return RosterPage{V: Version, Members: []Member{}}
		}
		if room -= len(data) + 1; room < 0 && i > 0 {
			page.Next = q.From + i
			break
		}
		page.Members = append(page.Members, m)
	}
	return page
}
