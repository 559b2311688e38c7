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
// has verified. The hash is empty if the node does not have them.
func Roster(ctx context.Context, nc *nats.Conn, cluster, node, action, role string) ([]Member, string, error) {
	request := RosterRequest{V: Version, Roster: action, Role: role}
	members, hash, err := requestRoster(ctx, nc, kickSubject(cluster, node), request)
	if err != nil {
		return nil, "", fmt.Errorf("roster of %s/%s: %w", node, action, err)
	}
	return members, hash, nil
}

func requestRoster(
	ctx context.Context, nc *nats.Conn, subject string, q RosterRequest,
) (members []Member, hash string, err error) {
	for {
		data, err := json.Marshal(q)
		if err != nil {
			return nil, "", err
		}
		answer, err := request(ctx, nc, subject, data)
		if err != nil {
			return nil, "", err
		}
		var page RosterPage
		if err := decode(answer.Data, maxMessage, &page, &page.V); err != nil {
			return nil, "", err
		}
		switch {
		case page.Hash == "":
			return nil, "", nil
		case hash != "" && page.Hash != hash:
			return nil, "", errors.New("it changed between two pages")
		case page.Next != 0 && page.Next <= q.From, len(members)+len(page.Members) > maxRoster:
			return nil, "", errors.New("its pages do not end")
		}
		hash, members = page.Hash, append(members, page.Members...)
		if page.Next == 0 {
			break
		}
		q.From = page.Next
	}
	if Hash(members) != hash {
		return nil, "", fmt.Errorf("the %d members received do not match the hash %s", len(members), hash)
	}
	return members, hash, nil
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
	room := maxInline
	for i, m := range members[q.From:] {
		data, _ := json.Marshal(m) // it was decoded from JSON
		if room -= len(data) + 1; room < 0 && i > 0 {
			page.Next = q.From + i
			break
		}
		page.Members = append(page.Members, m)
	}
	return page
}
