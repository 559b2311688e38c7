package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	closingsName = "kicker closings"
	// disconnects is where a NATS tells its system account which connection closed. All accounts: the controller may be in another
	// one than the nodes.
	disconnects = "$SYS.ACCOUNT.*.DISCONNECT"

	overhearTries = 2 // the news of who listens takes a moment from one server of a NATS to another
	overhearWait  = time.Second
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

// Closings is Bus.Closings of a NATS elsewhere: the URLs of its servers name a user of its system account. It fails if that user is
// refused, or hears nothing. While no server is reached it goes on trying: what closes meanwhile is not heard, now or later. deaf is called,
// from any goroutine, when that begins, with why, and with "" when it is over.
func Disconnects(servers []string, log *slog.Logger, closed func(server string, client uint64, why string), deaf func(why string), more ...nats.Option) (stop func(), err error) {
	err = overhear(servers, more...)
	if refusal(err) {
		return nil, fmt.Errorf("%w: %s", err, systemRemedy)
	}
	const unheard = "closed connections are not heard, so a death is seen by silence alone"
	f := &failures{log: log, refused: unheard + ": " + systemRemedy, unreached: unheard, once: true, changed: deaf}
	reached := err == nil
	checked := reached // from here on the handlers' own, which come one at a time
	heard := func(nc *nats.Conn) {
		if !checked {
			if err := overhear(servers, more...); err != nil {
				f.tell(err)
				return
			}
			checked = true
		}
		log.Info("closed connections are heard", "server", nc.ConnectedUrlRedacted())
		f.over()
	}
	options := []nats.Option{
		nats.ConnectHandler(heard),
		nats.ReconnectHandler(heard),
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
	if reached {
		_ = flush(nc) // from here on none is missed; fails if the server has gone, and whoever reconnects subscribes
	}
	return nc.Close, nil
}

const systemRemedy = "the URL must name a user of its system account, with the password (system_account in the configuration of nats-server)"

var errDeaf = errors.New("its user does not hear which connections close")

// refusal reports whether it is the user that is wrong. All else may pass.
func refusal(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, errDeaf)
}

// overhear is why the user in the servers' URLs does not hear of closed connections.
func overhear(servers []string, more ...nats.Option) error {
	options := append([]nats.Option{
		nats.Name(closingsName), nats.Timeout(connectTimeout), nats.PermissionErrOnSubscribe(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the subscription says it too
	}, more...)
	ear, err := nats.Connect(strings.Join(servers, ","), options...)
	if err == nil {
		defer ear.Close()
		err = overhearOne(ear, options)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", Redacted(strings.Join(servers, ",")), err)
	}
	return nil
}

// overhearOne closes a connection, and waits until the ear hears of it.
func overhearOne(ear *nats.Conn, options []nats.Option) error {
	told, err := ear.SubscribeSync(disconnects)
	if err != nil {
		return err
	}
	if err := flush(ear); err != nil {
		return err
	}
	for range overhearTries {
		one, err := nats.Connect(ear.ConnectedUrl(), options...)
		if err != nil {
			return err
		}
		server := one.ConnectedServerId()
		client, err := one.GetClientID()
		one.Close()
		if err != nil {
			return err
		}
		switch err := await(told, server, client); {
		case err == nil:
			return nil
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
	}
	return errDeaf
}

// await waits until that connection is reported closed.
func await(told *nats.Subscription, server string, client uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), overhearWait)
	defer cancel()
	for {
		m, err := told.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		if e, ok := decodeClosing(m); ok && e.Server.ID == server && e.Client.ID == client {
			return nil
		}
	}
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
