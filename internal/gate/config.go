package gate

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/internal/gate/wire"
)

// Store is the server behind the gate, which an [upstream.Store] is.
type Store interface {
	// Dial makes a connection that is ready for use, in RESP2.
	Dial(ctx context.Context) (*upstream.Conn, error)
	// Unblock has the command that a connection waits in return with the error UNBLOCKED. None may wait.
	Unblock(ctx context.Context, c *upstream.Conn) error
	// Gone ends a connection, and returns nil once nothing that was sent on it can execute any more.
	Gone(ctx context.Context, c *upstream.Conn) error
	// Ask asks a command on a connection of the store's own.
	Ask(ctx context.Context, args ...string) (upstream.Reply, error)
}

// Config says what a gate stands between.
type Config struct {
	Store Store
	// Guard decides about writes, and about reads of what is on its way here.
	Guard *client.Guard
	// Changed returns a channel that is closed when the guard may decide otherwise, see [client.Session.Changed].
	Changed func() <-chan struct{}
	// Commands says which commands write, and which keys.
	Commands *commands.Checked
	// Slices answers HTTP requests on the same port, those whose method is POST; nil is nobody.
	Slices http.Handler
	// Holds reports whether a slice is being staged, or wiped, under a key: nobody may read or write it, whatever the guard
	// says. Nil is that none is.
	Holds func(key []byte) bool
	// TLS has clients be taken over TLS as well as without, by the first byte that they send; nil is without only. Slices are
	// taken over TLS only, if it is there.
	TLS *tls.Config
	// TLSOnly refuses clients without.
	TLSOnly bool
	Limits  Limits
	// Pipes is how many upstream connections the clients of one version of the protocol share; 0 is 1. One keeps a store of
	// one thread busy.
	Pipes int
	Log   *slog.Logger // nil is nobody
}

// Limits bounds what clients can make a gate hold. The zero value of each stands for its default.
type Limits struct {
	Clients int         // connections; default 10,000
	Request wire.Limits // default [wire.DefaultLimits]
	// Ahead is how many commands of one client may wait for replies; default 16,384. Further ones wait in its socket.
	Ahead int
	// Unsent is how many bytes of replies a client may leave in the gate before no more of its commands are taken; default
	// 1 MiB.
	Unsent int
	// Hoard is how many bytes of replies the gate holds for a client before it ends the connection: replies, and messages of
	// subscriptions, that the client does not take; default 256 MiB. It bounds the longest reply to a slow client too.
	Hoard int
	// Drain is how long commands under way may take at the end; default 10 s.
	Drain time.Duration

	stride int // commands between two looks at Ahead and Unsent
}

// maxStride is how many commands of a client are sent before it is looked whether it takes its replies.
const maxStride = 256

func (l Limits) orDefault() Limits {
	if l.Clients == 0 {
		l.Clients = 10_000
	}
	if l.Request == (wire.Limits{}) {
		l.Request = wire.DefaultLimits()
	}
	if l.Ahead == 0 {
		l.Ahead = 16 << 10
	}
	if l.Unsent == 0 {
		l.Unsent = 1 << 20
	}
	if l.Hoard == 0 {
		l.Hoard = 256 << 20
	}
	if l.Drain == 0 {
		l.Drain = 10 * time.Second
	}
	l.stride = min(l.Ahead, maxStride)
	return l
}
