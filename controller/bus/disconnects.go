package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	disconnectsName   = "kicker disconnects"        // of the connection
	disconnectSubject = "$SYS.ACCOUNT.*.DISCONNECT" // of all accounts: the controller may use another than the nodes
)

// Why disconnects are lost.
const (
	systemUnreachable = "bus.system_url: no server can be reached; dead nodes are noticed by their silence alone"
	systemRejected    = "bus.system_url: the server rejects its user; dead nodes are noticed by their silence alone. " +
		"Name a user of its system account, with the password (system_account in the configuration of nats-server)"
)

// clientReasons are the reasons of a disconnect from the client's end. When a server stops, or closes a connection that
// is stale, slow or no longer permitted, that says nothing about the client.
var clientReasons = []string{
	server.ClientClosed.String(), server.ReadError.String(), server.WriteError.String(),
}

// Disconnects calls closed, on one goroutine, for each connection that is closed from its client's end. stop ends that.
func (b *Bus) Disconnects(closed func(server string, client uint64, why string)) (stop func(), err error) {
	nc, err := b.Join(disconnectsName, nats.UserInfo(systemUser, b.secret))
	if err != nil {
		return nil, err
	}
	return subscribe(nc, closed)
}

// Disconnects is Bus.Disconnects for another NATS, whose URLs name a user of its system account. It retries forever.
// While it has no connection disconnects are lost, and are not reported later. lost is called, on any goroutine, with
// why when that begins and with "" when it ends.
func Disconnects(
	servers []string, log *slog.Logger, closed func(server string, client uint64, why string), lost func(why string),
	options ...nats.Option,
) (stop func(), err error) {
	o := &outage{log: log, unreachable: systemUnreachable, rejected: systemRejected, lost: lost}
	joined := func(nc *nats.Conn) {
		if flush(nc) != nil || nc.LastError() != nil {
			return // lost again, or the user may not subscribe: another handler reports it
		}
		log.Info("disconnects are received", "server", nc.ConnectedUrlRedacted())
		o.end()
	}
	nc, err := retry(servers, "", disconnectsName, o, append([]nats.Option{
		nats.ConnectHandler(joined),
		nats.ReconnectHandler(joined),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { o.report(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if isRejection(err) {
				o.report(err)
			} else {
				log.Warn("bus error", "err", err)
			}
		}),
	}, options...)...)
	if err != nil {
		return nil, err
	}
	return subscribe(nc, closed)
}

// subscribe calls closed for each disconnect from now on, until stop.
func subscribe(nc *nats.Conn, closed func(server string, client uint64, why string)) (stop func(), err error) {
	_, err = nc.Subscribe(disconnectSubject, func(m *nats.Msg) {
		if e, ok := decodeDisconnect(m.Data); ok {
			closed(e.Server.ID, e.Client.ID, strings.ToLower(e.Reason))
		}
	})
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("bus: subscribe to disconnects: %w", err)
	}
	if nc.IsConnected() {
		_ = flush(nc) // if it fails, the connection is lost and nc subscribes again
	}
	return nc.Close, nil
}

// decodeDisconnect decodes a server's report, and reports whether the connection was closed from its client's end.
func decodeDisconnect(data []byte) (e server.DisconnectEventMsg, fromClient bool) {
	err := json.Unmarshal(data, &e)
	return e, err == nil && slices.Contains(clientReasons, e.Reason)
}

// flush waits until the server has processed everything that was sent.
func flush(nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return nc.FlushWithContext(ctx)
}
