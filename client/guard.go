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
	paces atomic.Uint32 // made so far: each counts in a stripe of its own, as far as there are
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

// Admitted is a write that the guard has let in, whose execution the caller follows
// itself: it counts until Done. A value, made by [Guard.Admit], that may be copied
// and finished on another goroutine; exactly one copy is.
type Admitted struct {
	guard  *Guard
	ticket agent.Ticket
}

// Admit is [Guard.Write] for a caller that sends the write away and hears of its end
// later: it lets the write in and counts it, or returns the refusal. Nothing is
// allocated for what it admits.
//
// The caller owes what Write does by itself: Check before the write is acknowledged,
// and then Done. As long as the write may still execute anywhere, a buffer of a
// broken connection included, it is not done.
func (g *Guard) Admit(key []byte) (Admitted, error) {
	lane, _ := g.lanes.Get().(*uint32)
	t, err := g.adm.Enter(key, g.clock, *lane)
	g.lanes.Put(lane)
	return Admitted{g, t}, err
}

// AdmitKeys is Admit for one write of several keys, which must all be in one scope,
// or in none: [ErrCrossScope] otherwise. The slice is not kept.
func (g *Guard) AdmitKeys(keys [][]byte) (Admitted, error) {
	lane, _ := g.lanes.Get().(*uint32)
	t, err := g.adm.EnterKeys(keys, g.clock, *lane)
	g.lanes.Put(lane)
	return Admitted{g, t}, err
}

// Scoped reports whether a scope holds the keys.
func (a *Admitted) Scoped() bool { return a.ticket.Scoped() }

// Token is the fencing token of the write's scope.
func (a *Admitted) Token() Token { return token(&a.ticket) }

// Check says whether the write, which has executed, may be acknowledged: nil, or
// [ErrOutcomeUnknown]. keys are those that it was admitted with. Of a write that is
// Scoped they are not looked at, so that nobody has to keep them.
func (a *Admitted) Check(keys ...[]byte) error {
	if a.ticket.Scoped() {
		return a.guard.adm.CheckScope(&a.ticket, a.guard.clock)
	}
	return a.guard.adm.CheckKeys(&a.ticket, keys, a.guard.clock)
}

// Done takes the write out of the count: the store has answered, or it is certain
// that the write cannot execute any more.
func (a *Admitted) Done() { a.guard.adm.Leave(&a.ticket) }

// Serves says why a read of key would not see one tenure's data here, or nil: a
// slice of the scope is on its way into this node's store. Before the flip that is
// [ErrMisdirected], naming the source, and after it [ErrQuiesced]. Other reads it
// leaves to the store: also those of what another node owns, see [Guard.Owns].
func (g *Guard) Serves(key []byte) error { return g.adm.Rules().Serves(key) }

func (g *Guard) leave(t *agent.Ticket, lane *uint32) {
	g.adm.Leave(t)
	g.lanes.Put(lane)
}

func token(t *agent.Ticket) Token {
	full := t.Token()
	return Token{Incarnation: full.Number, Epoch: full.Epoch}
}
