package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	closingsName = "kicker closings"
	// disconnects is where a NATS tells its system account which connection closed. All accounts: the controller may be in another
	// one than the nodes.
	disconnects = "$SYS.ACCOUNT.*.DISCONNECT"
)

// clientsEnd is why a connection closes that its client's end closed. A server that stops, goes lame, or gives a connection up as stale,
// slow or no longer allowed says nothing about the client.
var clientsEnd = []string{server.ClientClosed.String(), server.ReadError.String(), server.WriteError.String()}

// Closings calls closed, from one goroutine, for each connection that its client's end closed. It returns what ends it.
func (b *Bus) Disconnects(closed func(server string, client uint64, why string)) (stop func(), err error) {
	nc, err := b.join(closingsName, systemUser)
	if err != nil {
		return nil, fmt.Errorf("bus: join as %s: %w", systemUser, err)
	}
	_, err = nc.Subscribe(disconnects, eachClosing(closed))
	if err == nil {
		err = flush(nc) // from here on none is missed
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("bus: listen for closed connections: %w", err)
	}
	return nc.Close, nil
}

// Disconnects is Bus.Disconnects of a NATS elsewhere: the URLs of its servers name a user of its system account. It tries for ever, and what
// closes while it has no connection is not reported, now or later. lost is called, from any goroutine, when that begins, with why, and with
// "" when it is over.
func Disconnects(servers []string, log *slog.Logger, closed func(server string, client uint64, why string), lost func(why string), more ...nats.Option) (stop func(), err error) {
	f := &failures{log: log, refused: systemRefused, unreached: systemUnreached, once: true, changed: lost}
	restored := func(nc *nats.Conn) {
		if flush(nc) != nil || nc.LastError() != nil {
			return // it is lost again, or may not subscribe: handlers are told
		}
		log.Info("disconnects are received", "server", nc.ConnectedUrlRedacted())
		f.over()
	}
	options := []nats.Option{
		nats.ConnectHandler(restored),
		nats.ReconnectHandler(restored),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { f.tell(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if refusal(err) {
				f.tell(err)
			} else {
				log.Warn("bus", "err", err)
			}
		}),
	}
	nc, err := persist(servers, "", closingsName, f, append(options, more...)...)
	if err != nil {
		return nil, err
	}
	if _, err := nc.Subscribe(disconnects, eachClosing(closed)); err != nil {
		nc.Close()
		return nil, fmt.Errorf("bus: listen for closed connections: %w", err)
	}
	if nc.IsConnected() {
		_ = flush(nc) // from here on none is missed; fails if the server has gone, and whoever reconnects subscribes
	}
	return nc.Close, nil
}

// Why disconnects are not received.
const (
	systemUnreached = "bus.system_url: no server can be reached; the controller notices dead nodes by their silence alone"
	systemRefused   = "bus.system_url: the server rejects its user; the controller notices dead nodes by their silence alone. " +
		"Name a user of the server's system account, with its password (system_account in the configuration of nats-server)"
)

// refusal reports whether it is the user that is wrong. All else may pass.
func refusal(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrPermissionViolation)
}

func eachClosing(closed func(server string, client uint64, why string)) nats.MsgHandler {
	return func(m *nats.Msg) {
		if e, ok := decodeClosing(m); ok {
			closed(e.Server.ID, e.Client.ID, strings.ToLower(e.Reason))
		}
	}
}

// decodeClosing is a server's report of a closed connection, and whether its client's end closed it.
func decodeClosing(m *nats.Msg) (e server.DisconnectEventMsg, ofClient bool) {
	err := json.Unmarshal(m.Data, &e)
	return e, err == nil && slices.Contains(clientsEnd, e.Reason)
}

func flush(nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return nc.FlushWithContext(ctx)
}
