package client

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/scope-registry/scope-registry/internal/agent"
)

// Guard stands between the writes of a node and its store. Each write is admitted
// if this node owns the key now, counted while it executes, so that a move waits
// for it, and checked once more before it counts as done. It takes no lock and,
// for what it admits, allocates nothing.
type Guard struct {
	adm   *agent.Admission
	clock agent.Clock
	// lanes holds *uint32, the stripe of the counters to use. A pool hands a
	// goroutine what was last used on its core, so that cores do not share one.
	lanes sync.Pool
}

func newGuard(adm *agent.Admission, clock agent.Clock) *Guard {
	g := &Guard{adm: adm, clock: clock}
	var last atomic.Uint32
	g.lanes.New = func() any {
		lane := last.Add(1) % uint32(runtime.GOMAXPROCS(0))
		return &lane
	}
	return g
}

// Write runs fn if this node may write key now. fn executes the write and returns
// when it is durable; it gets the fencing token, which a store may keep beside the
// value, and must not go on with the write after it has returned or panicked.
//
// Of nil the write is done. An error of fn is returned as it is. All others are an
// [*Error]: [ErrMisdirected], [ErrQuiesced] and [ErrLeaseLost] say that fn did not
// run, [ErrOutcomeUnknown] that it did and the client must not be told so: this
// node has lost the scope, its session or its lease meanwhile. If ctx is done
// before fn begins, its error is returned; later Write waits for fn, whatever ctx
// says, since a write that may still execute must be counted.
func (g *Guard) Write(ctx context.Context, key []byte, fn func(context.Context, Token) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lane, _ := g.lanes.Get().(*uint32)
	t, err := g.adm.Enter(key, g.clock, *lane)
	if err != nil {
		g.lanes.Put(lane)
		return err
	}
	defer g.leave(&t, lane)
	if err := fn(ctx, token(&t)); err != nil {
		return err
	}
	return g.adm.Check(&t, key, g.clock)
}

// Owns says whether this node would admit a write of key now: nil, or the refusal
// that [Guard.Write] would return. It is for reads, which are not counted: a store
// that answers them only of nil has no copy that is older than its tenure, and none
// whose slice is not in force yet. What has changed by the time of the answer it
// does not tell.
func (g *Guard) Owns(key []byte) error { return g.adm.Owns(key, g.clock) }

// WriteKeys is Write for one write of several keys, which must all be in one
// scope, or in none: [ErrCrossScope] otherwise.
func (g *Guard) WriteKeys(ctx context.Context, keys [][]byte, fn func(context.Context, Token) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lane, _ := g.lanes.Get().(*uint32)
	t, err := g.adm.EnterKeys(keys, g.clock, *lane)
	if err != nil {
		g.lanes.Put(lane)
		return err
	}
	defer g.leave(&t, lane)
	if err := fn(ctx, token(&t)); err != nil {
		return err
	}
	return g.adm.CheckKeys(&t, keys, g.clock)
}

func (g *Guard) leave(t *agent.Ticket, lane *uint32) {
	g.adm.Leave(t)
	g.lanes.Put(lane)
}

func token(t *agent.Ticket) Token {
	full := t.Token()
	return Token{Incarnation: full.Number, Epoch: full.Epoch}
}
