package kick

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// MaxInline is the size in bytes up to which a kick carries its members itself, and which no part exceeds.
const MaxInline = 256 << 10

// Send kicks one node's action and returns what the node makes of it, waiting as long as ctx. If nobody is there to be kicked
// the error is nats.ErrNoResponders. Members that make the kick larger than MaxInline go before it, in parts.
func Send(ctx context.Context, nc *nats.Conn, cluster string, k Kick) (Reply, error) {
	reply, err := send(ctx, nc, cluster, k)
	if err != nil {
		return Reply{}, fmt.Errorf("kick %s/%s: %w", k.Node, k.Action, err)
	}
	return reply, nil
}

func send(ctx context.Context, nc *nats.Conn, cluster string, k Kick) (Reply, error) {
	if err := checkName(k.Node); err != nil {
		return Reply{}, err
	}
	messages, err := encodeKick(k)
	if err != nil {
		return Reply{}, err
	}
	subject := kickSubject(cluster, k.Node)
	last := len(messages) - 1
	for _, part := range messages[:last] {
		if err := nc.Publish(subject, part); err != nil {
			return Reply{}, err
		}
	}
	answer, err := nc.RequestWithContext(ctx, subject, messages[last])
	if err != nil {
		return Reply{}, err
	}
	reply, err := decodeReply(answer.Data)
	if err != nil {
		return Reply{}, fmt.Errorf("reply: %w", err)
	}
	return reply, nil
}

// encodeKick returns the messages that a kick is sent as, in order: the parts, if any, and the kick.
func encodeKick(k Kick) ([][]byte, error) {
	k.V = Version
	data, err := json.Marshal(k)
	if err != nil || len(data) <= MaxInline {
		return [][]byte{data}, err
	}
	var messages [][]byte
	needs := make([]Membership, len(k.Needs))
	for i, need := range k.Needs {
		parts, err := encodeParts(need)
		if err != nil {
			return nil, err
		}
		messages = append(messages, parts...)
		needs[i] = Membership{Role: need.Role, Revision: need.Revision}
	}
	k.Needs = needs
	data, err = json.Marshal(k)
	return append(messages, data), err
}

func encodeParts(m Membership) ([][]byte, error) {
	const envelope = 256 // bytes around the members, at most
	var (
		chunks [][]json.RawMessage
		room   int
	)
	for _, member := range m.Members {
		data, err := json.Marshal(member)
		if err != nil {
			return nil, err
		}
		if len(data) > MaxInline-envelope {
			return nil, fmt.Errorf("role %q: member %s has %d bytes of facts, more than %d", m.Role, member.Node, len(data), MaxInline-envelope)
		}
		if len(data)+1 > room {
			chunks = append(chunks, nil)
			room = MaxInline - envelope
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
		if parts[i], err = json.Marshal(Part{V: Version, Of: m.Revision.Hash, Part: i, Parts: len(chunks), Members: list}); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// ListenResults hands the results of all nodes to result, one after the other. What is no result goes to garbage.
func ListenResults(nc *nats.Conn, cluster string, result func(Result), garbage func(error)) (*nats.Subscription, error) {
	prefix := resultSubject(cluster, "")
	sub, err := nc.Subscribe(prefix+">", func(m *nats.Msg) {
		node := strings.TrimPrefix(m.Subject, prefix)
		r, err := decodeResult(node, m.Data)
		if err != nil {
			garbage(fmt.Errorf("result of %s: %w", node, err))
			return
		}
		result(r)
	})
	if err != nil {
		return nil, fmt.Errorf("listen for results: %w", err)
	}
	return sub, nil
}
