package kick

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// RosterRequest asks a node, on its kick subject, for the members of a role that an action applied last. A controller
// that has just started has no other source for them.
type RosterRequest struct {
	V      int    `json:"v"`
	Roster string `json:"roster"` // the action
	Role   string `json:"role"`
	From   int    `json:"from"` // the first member of the page, counted from 0
}

// RosterPage answers a RosterRequest, with at most maxInline bytes of members.
type RosterPage struct {
	V       int      `json:"v"`
	Hash    string   `json:"hash"` // of all members; empty: the node does not have them
	Members []Member `json:"members"`
	Next    int      `json:"next,omitempty"` // the first member of the next page; 0: this is the last page
}

// maxRoster is more members than any membership has.
const maxRoster = 1 << 20

// Roster asks a node for the members of a role that an action applied last. It returns them with their hash, which it
// has verified, sorted by name: a node may send them in any order. The hash is empty if the node does not have them.
func Roster(ctx context.Context, nc *nats.Conn, cluster, node, action, role string) ([]Member, string, error) {
	fail := func(err error) ([]Member, string, error) {
		return nil, "", fmt.Errorf("roster of %s/%s: %w", node, action, err)
	}
	var roster RosterPage // the pages received so far
	for more := true; more; more = roster.Next != 0 {
		data, _ := json.Marshal(RosterRequest{V: Version, Roster: action, Role: role, From: roster.Next})
		answer, err := request(ctx, nc, kickSubject(cluster, node), data)
		if err != nil {
			return fail(err)
		}
		var page RosterPage
		if err := decode(answer.Data, maxMessage, &page, &page.V); err != nil {
			return fail(err)
		}
		switch {
		case page.Hash == "":
			return nil, "", nil
		case roster.Hash != "" && page.Hash != roster.Hash:
			return fail(errors.New("it changed between two pages"))
		case page.Next != 0 && page.Next <= roster.Next, len(roster.Members)+len(page.Members) > maxRoster:
			return fail(errors.New("its pages do not end"))
		}
		page.Members = append(roster.Members, page.Members...)
		roster = page
	}
	if Hash(roster.Members) != roster.Hash {
		return fail(fmt.Errorf("the %d members received do not match the hash %s", len(roster.Members), roster.Hash))
	}
	return sorted(roster.Members), roster.Hash, nil
}

// rosterPage answers a roster request. The page is empty if the request is invalid or the node lacks the members.
func (r *Runner) rosterPage(data []byte) RosterPage {
	page := RosterPage{V: Version, Members: []Member{}}
	var q RosterRequest
	if decode(data, maxAnswer, &q, &q.V) != nil || q.From < 0 || checkWord("action", q.Roster) != nil {
		return page
	}
	applied := loadApplied(r.cfg.Dir, q.Roster, r.state.Actions[q.Roster].Applied)
	members := applied.Roles[q.Role]
	if q.From > len(members) {
		return page
	}
	page.Hash = applied.Revisions[q.Role]
	end := q.From + pageSize(members[q.From:])
	page.Members = append(page.Members, members[q.From:end]...)
	if end < len(members) {
		page.Next = end
	}
	return page
}
