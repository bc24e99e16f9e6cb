package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
)

// Gate is a proxy in front of one store.
type Gate struct {
	store    Store
	guard    *client.Guard
	changed  func() <-chan struct{}
	commands *commands.Checked
	slices   http.Handler
	holds    func(key []byte) bool
	tls      *tls.Config
	tlsOnly  bool
	limits   Limits
	log      *slog.Logger
	// wholeNames: the store looks at all bytes of a client's name. Stores that have CLIENT SETINFO end at a zero byte, as they
	// look at names and at what SETINFO is given by the same function.
	wholeNames bool

	// life ends when nothing is waited for any more.
	life    context.Context
	end     context.CancelFunc
	ending  atomic.Bool // no more commands are taken
	works   sync.WaitGroup
	clients sync.WaitGroup
	lookNow chan struct{} // holds one: see look
	pipes   atomic.Int64
	rounds  atomic.Uint64 // of all pipes' readers, so that no two are the same
	count   counters

	pool [2][]*place // shared pipes, of RESP2 and RESP3
	http *httpEnd

	mu     sync.Mutex         // guards what follows
	conns  map[*conn]struct{} // clients
	parked map[*pipe]*parked
}

// New returns a gate. [Gate.Serve] begins.
func New(cfg Config) *Gate {
	g := &Gate{store: cfg.Store, guard: cfg.Guard, changed: cfg.Changed, commands: cfg.Commands, slices: cfg.Slices, holds: cfg.Holds, tls: cfg.TLS, tlsOnly: cfg.TLSOnly,
		limits: cfg.Limits.orDefault(), log: cfg.Log, lookNow: make(chan struct{}, 1),
		conns: map[*conn]struct{}{}, parked: map[*pipe]*parked{}}
	setInfo, _ := g.commands.Find([][]byte{[]byte("CLIENT"), []byte("SETINFO")})
	g.wholeNames = setInfo.Missing
	if g.holds == nil {
		g.holds = func([]byte) bool { return false }
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	for i := range g.pool {
		for range max(1, cfg.Pipes) {
			g.pool[i] = append(g.pool[i], &place{g: g, proto: i + 2})
		}
	}
	g.life, g.end = context.WithCancel(context.Background())
	g.http = newHTTPEnd(g.slices, g.log)
	return g
}

// run starts a goroutine that Serve waits for.
func (g *Gate) run(f func()) { g.works.Go(f) }

// Serve takes clients from l until ctx ends. Then it takes no more commands, gives those under way the time of
// [Limits].Drain, and returns when none of its goroutines is left. A write whose end is still not known then stays in the
// guard's count. It is called once, and closes l.
func (g *Gate) Serve(ctx context.Context, l net.Listener) error {
	g.run(g.watch)
	g.run(func() { g.http.serve() })
	stop := context.AfterFunc(ctx, func() {
		g.ending.Store(true)
		_ = l.Close()
	})
	defer stop()
	err := g.accept(ctx, l)
	g.ending.Store(true)
	_ = l.Close()
	g.drain()
	return err
}

func (g *Gate) accept(ctx context.Context, l net.Listener) error {
	var id uint64
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) || !g.pause(ctx, "a client could not be taken", err) {
				return err
			}
			continue
		}
		id++
		g.clients.Add(1)
		this := id
		go func() {
			defer g.clients.Done()
			g.welcome(nc, this)
		}()
	}
}

// pause logs a failure that passes, and waits; false: ctx has ended.
func (g *Gate) pause(ctx context.Context, what string, err error) bool {
	if ctx.Err() == nil {
		g.log.Warn(what, "error", err)
	}
	t := time.NewTimer(dialAgain)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// enter registers a client; false: there are too many, or the gate ends.
func (g *Gate) enter(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) >= g.limits.Clients || g.ending.Load() {
		return false
	}
	g.conns[c] = struct{}{}
	return true
}

func (g *Gate) leave(c *conn) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
}

// drain ends what goes on. Clients that have nothing under way are closed at once.
func (g *Gate) drain() {
	late := time.AfterFunc(g.limits.Drain, g.cut)
	g.eachConn(func(c *conn) { _ = c.sock.SetReadDeadline(time.Unix(1, 0)) })
	g.http.close()
	g.look()
	g.clients.Wait()
	late.Stop()
	g.end()
	g.closePool()
	g.works.Wait()
}

// cut ends what has not ended in time.
func (g *Gate) cut() {
	g.end()
	g.eachConn(func(c *conn) {
		c.box.close()
		if p := c.mine.Load(); p != nil {
			_ = p.up.Close()
		}
	})
	g.closePool()
}

func (g *Gate) eachConn(do func(*conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		do(c)
	}
}
