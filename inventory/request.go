package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrNoAgent is the error for a request to a node that has no agent on the bus.
var ErrNoAgent = errors.New("no agent of that name is on the bus")

// SendBeacon announces a controller to a cluster.
func SendBeacon(nc *nats.Conn, cluster string, b Beacon) error {
	b.V = Version
	return publish(nc, beaconSubject(cluster), b)
}

// RequestReports asks every node of a cluster for a heartbeat within splay.
func RequestReports(nc *nats.Conn, cluster string, splay time.Duration) error {
	return publish(nc, reportSubject(cluster), ReportRequest{V: Version, Splay: splay.Milliseconds()})
}

// Ask asks one node for a heartbeat (DoBeat) or its facts (DoFacts).
func Ask(nc *nats.Conn, cluster, node, do string) error {
	return publish(nc, nodeSubject(cluster, node), Order{V: Version, Do: do})
}

// AnswerLeave tells a leaving node how far it is; reply is Received.Reply.
func AnswerLeave(nc *nats.Conn, reply string, status LeaveStatus) error {
	return publish(nc, reply, status)
}

func publish(nc *nats.Conn, subject string, message any) error {
	if err := nc.Publish(subject, encode(message)); err != nil {
		return fmt.Errorf("send to %s: %w", subject, err)
	}
	return nil
}

// RequestLeave makes a node leave, and returns how far it is. It can be called again to follow the progress.
func RequestLeave(ctx context.Context, nc *nats.Conn, cluster, node string) (LeaveStatus, error) {
	var status LeaveStatus
	err := request(ctx, nc, node, leaveSubject(cluster, node), Order{V: Version, Do: DoLeave}, &status, &status.V)
	if err == nil && status.Rejected != "" {
		err = fmt.Errorf("rejected: %s", status.Rejected)
	}
	if err != nil {
		return status, fmt.Errorf("leave %s: %w", node, err)
	}
	return status, nil
}

// Probe asks a node to connect to each target, HOST:PORT, and returns those that accept. The answer takes two seconds
// at most.
func Probe(ctx context.Context, nc *nats.Conn, cluster, node string, targets []string) ([]string, error) {
	var p ProbeReply
	order := Order{V: Version, Do: DoProbe, Targets: targets}
	err := request(ctx, nc, node, nodeSubject(cluster, node), order, &p, &p.V)
	if err != nil {
		return nil, fmt.Errorf("probe from %s: %w", node, err)
	}
	return p.Reached, nil
}

// request sends an order to a node and decodes its answer, and the answer's version into v.
func request(ctx context.Context, nc *nats.Conn, node, subject string, o Order, answer any, v *int) error {
	m, err := nc.RequestWithContext(ctx, subject, encode(o))
	if errors.Is(err, nats.ErrNoResponders) {
		return ErrNoAgent
	}
	if err != nil {
		return err
	}
	return decode(node, m.Data, maxMessage, answer, v)
}
