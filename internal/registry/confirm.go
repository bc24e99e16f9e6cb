package registry

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/api"
)

// renewalsOfOne bounds the renewals of one session that wait to be confirmed: a holder sends one after the other, and may
// give up on some. So their room is that of four for each of fsm.MaxNodes sessions at most, and nobody else takes it.
const renewalsOfOne = 4

// confirmed answers one waiting call.
type confirmed struct {
	index uint64
	err   error
}

// confirmer finds, on the leader, an index that is at least that of everything acknowledged before the call.
//
// It writes a barrier. VerifyLeader would be cheaper and is not linearizable (RAFT trap 2): any answer to a heartbeat
// counts as a vote there, also to one sent before the call, and a leader that was stopped and resumed has been seen to
// serve stale reads by it. AppliedIndex is not the index to return (RAFT trap 1): it counts what was handed to the
// state machine, not what it applied.
type confirmer struct {
	barrier func(timeout time.Duration) raft.Future
	index   func() uint64 // of the state
	wake    chan struct{}

	mu       sync.Mutex // guards the rest
	waiting  []*waiter
	renewals map[string]int // how many of those are of which session
	reads    int            // how many of them are of none
	closed   bool
	led      time.Time // when the last barrier that was answered began: this server led then
}

func newConfirmer(barrier func(time.Duration) raft.Future, index func() uint64) *confirmer {
	return &confirmer{barrier: barrier, index: index, wake: make(chan struct{}, 1), renewals: map[string]int{}}
}

// waiter is a call that waits: of a renewal of a live session, or, where that is "", of anything else.
type waiter struct {
	session string
	done    chan confirmed // buffered, so that nobody waits for a caller that left
}

// confirm waits for a barrier that began after the call. The error is raft's, that of ctx, or an *api.Error with LIMIT.
func (c *confirmer) confirm(ctx context.Context) (uint64, error) { return c.confirmFor(ctx, "") }

// confirmFor is confirm for a renewal of a live session: it has room of its own, so that a flood of reads ends no session. One
// barrier serves all that wait, whatever for.
func (c *confirmer) confirmFor(ctx context.Context, session string) (uint64, error) {
	w := &waiter{session, make(chan confirmed, 1)}
	if err := c.enqueue(w); err != nil {
		return 0, err
	}
	select {
	case got := <-w.done:
		return got.index, got.err
	case <-ctx.Done():
		c.giveUp(w)
		return 0, ctx.Err()
	}
}

// giveUp takes a call out of the queue, if it is still there.
func (c *confirmer) giveUp(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := slices.Index(c.waiting, w)
	if at < 0 {
		return
	}
	c.waiting = slices.Delete(c.waiting, at, at+1)
	if w.session == "" {
		c.reads--
	} else if c.renewals[w.session]--; c.renewals[w.session] == 0 {
		delete(c.renewals, w.session)
	}
}

func (c *confirmer) enqueue(w *waiter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return &definite{errClosing}
	case w.session != "":
		if c.renewals[w.session] >= renewalsOfOne {
			return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("%d renewals of session %q are waiting to be confirmed, which is the limit; wait for them", renewalsOfOne, w.session)}
		}
		c.renewals[w.session]++
	case c.reads >= maxWaiting:
		return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("%d reads are waiting to be confirmed, the limit is %d; try again later", c.reads, maxWaiting)}
	default:
		c.reads++
	}
	c.waiting = append(c.waiting, w)
	signal(c.wake)
	return nil
}

// run serves until ctx ends. As with the committer, raft must still run then.
func (c *confirmer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			c.answer(c.take(true), confirmed{err: errClosing})
			return
		case <-c.wake:
		}
		// Taken before the barrier starts: who comes while it runs shares the next one.
		waiting := c.take(false)
		if len(waiting) == 0 {
			continue
		}
		began := time.Now()
		if err := c.barrier(enqueueTimeout).Error(); err != nil {
			c.answer(waiting, confirmed{err: err})
			continue
		}
		c.mu.Lock()
		c.led = began
		c.mu.Unlock()
		c.answer(waiting, confirmed{index: c.index()})
	}
}

// age is for how long nothing has shown that this server leads.
func (c *confirmer) age() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.led)
}

func (c *confirmer) take(last bool) []*waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := c.waiting
	c.waiting, c.reads, c.closed = nil, 0, last
	clear(c.renewals)
	return waiting
}

func (c *confirmer) answer(waiting []*waiter, with confirmed) {
	for _, w := range waiting {
		w.done <- with
	}
}

// Confirm returns an index that every change acknowledged before the call is at or below, once the state of this
// server has reached it. Reading the state after it is a linearizable read. The error is NO_LEADER, TIMEOUT,
// UNAVAILABLE when this server stops, or LIMIT when 4,096 calls wait on the leader already.
func (r *Registry) Confirm(ctx context.Context) (uint64, error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	var index uint64
	err := r.onLeader(ctx, "reading a confirmed index", func(ctx context.Context, l leader) (err error) {
		if l.self {
			index, err = r.confirms.confirm(ctx)
			return err
		}
		index, err = r.askConfirm(ctx, l)
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := r.WaitIndex(ctx, index); err != nil {
		return 0, err
	}
	return index, nil
}
