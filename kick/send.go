package kick

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// ErrNoAgent is the error for a request to a node that has no agent on the bus.
var ErrNoAgent = errors.New("no agent of that name is on the bus")

// Send sends a kick to its node and returns the node's reply, waiting until ctx ends. The error wraps ErrNoAgent if no
// agent of the node is on the bus. Members that make the kick larger than maxInline go before it, in parts.
func Send(ctx context.Context, nc *nats.Conn, cluster string, k Kick) (Reply, error) {
	fail := func(err error) (Reply, error) {
		return Reply{}, fmt.Errorf("kick %s/%s: %w", k.Node, k.Action, err)
	}
	messages, err := encodeKick(k)
	if err := cmp.Or(checkName(k.Node), err); err != nil {
		return fail(err)
	}
	subject := kickSubject(cluster, k.Node)
	last := len(messages) - 1
	for _, part := range messages[:last] {
		if err := nc.Publish(subject, part); err != nil {
			return fail(err)
		}
	}
	answer, err := request(ctx, nc, subject, messages[last])
	if err != nil {
		return fail(err)
	}
	reply, err := decodeReply(answer.Data)
	if err != nil {
		return fail(fmt.Errorf("invalid reply: %w", err))
	}
	return reply, nil
}

// request sends a message and waits for its reply until ctx ends.
func request(ctx context.Context, nc *nats.Conn, subject string, data []byte) (*nats.Msg, error) {
	reply, err := nc.RequestWithContext(ctx, subject, data)
	if errors.Is(err, nats.ErrNoResponders) {
		err = ErrNoAgent
	}
	return reply, err
}

// encodeKick returns the messages of a kick in the order to send them: the parts, if any, and the kick.
func encodeKick(k Kick) ([][]byte, error) {
	k.V = Version
	k = fitting(k)
	data, err := json.Marshal(k)
	if err != nil || len(data) <= maxInline {
		return [][]byte{data}, err
	}
	var messages [][]byte
	for i, need := range k.Needs {
		parts, err := encodeParts(need)
		if err != nil {
			return nil, err
		}
		messages = append(messages, parts...)
		k.Needs[i].Members = []Member{}
	}
	if len(messages) > maxParts {
		return nil, fmt.Errorf("its members take %d messages, the limit is %d", len(messages), maxParts)
	}
	data, err = json.Marshal(k)
	return append(messages, data), err
}

// fitting returns the kick with texts and lists that a node takes: what is too long is cut, and never rejected.
func fitting(k Kick) Kick {
	k.Reason = bounded(printable(k.Reason), maxReason)
	k.Needs = append([]Membership{}, k.Needs...)
	room := maxDeparted
	for i := range k.Needs {
		need := &k.Needs[i]
		if need.Members == nil {
			need.Members = []Member{}
		}
		if len(need.Departed) > room {
			kept := map[string]Departure{}
			for _, node := range slices.Sorted(maps.Keys(need.Departed))[:room] {
				kept[node] = need.Departed[node]
			}
			need.Departed = kept
		}
		room -= len(need.Departed)
	}
	return k
}

// ListenResults calls each with the result of every run in the cluster, one after the other. It calls invalid with the
// error of an invalid message.
func ListenResults(nc *nats.Conn, cluster string, each func(Result), invalid func(error)) (*nats.Subscription, error) {
	prefix := resultSubject(cluster, "")
	sub, err := nc.Subscribe(prefix+">", func(m *nats.Msg) {
		node := strings.TrimPrefix(m.Subject, prefix)
		r, err := decodeResult(node, m.Data)
		if err != nil {
			invalid(fmt.Errorf("result of %s: %w", node, err))
			return
		}
		each(r)
	})
	if err != nil {
		return nil, fmt.Errorf("listen for results: %w", err)
	}
	return sub, nil
}
