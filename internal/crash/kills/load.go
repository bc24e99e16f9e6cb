package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	clients = 4
	// clientPause keeps the load from taking the processor away from the elections that it should disturb.
	clientPause = 5 * time.Millisecond
	// retryPause is the pause before a request is sent again.
	retryPause = 20 * time.Millisecond
	// progressTime bounds the wait for an answer that says how it ended: many elections of the fast timing.
	progressTime = 30 * time.Second
	// Of ten mutations so many declare a scope, and so many change an address. The rest retire a scope.
	declaresOfTen, addressesOfTen = 5, 3
	// readOf mutations one is followed by a linearizable read.
	readOf = 4
)

// load is clients that change what is their own, through any server, all the time.
type load struct {
	*ledger
	c        *crash.Cluster
	gate     sync.RWMutex  // held by whoever wants that nothing is under way
	progress chan struct{} // gets a value for an acknowledged mutation if it is empty
	cancel   context.CancelFunc
	all      sync.WaitGroup
}

// newLoad declares a node for each client and starts the clients. Stop it.
func newLoad(ctx context.Context, c *crash.Cluster, seed uint64) (*load, error) {
	l := &load{ledger: newLedger(), c: c, progress: make(chan struct{}, 1)}
	following, cancel := context.WithCancel(ctx)
	l.cancel = cancel
	var workers []*worker
	for i := range clients {
		w := &worker{load: l, node: fmt.Sprintf("c%d", i+1), rnd: rand.New(rand.NewPCG(seed, uint64(i)+1))}
		l.nodes[w.node] = &register{}
		if _, err := c.Do(ctx, c.IDs()[i%crash.Size], w.addressed(0), nil); err != nil {
			cancel()
			return nil, fmt.Errorf("declaring node %s: %w", w.node, err)
		}
		workers = append(workers, w)
	}
	for _, w := range workers { // not before all nodes are in the ledger, whose map they read
		l.all.Go(func() { w.work(following) })
	}
	return l, nil
}

// stop ends all clients when each has its answer.
func (l *load) stop() {
	l.gate.Lock()
	l.cancel()
	l.gate.Unlock()
	l.all.Wait()
}

// wait waits for a mutation that is acknowledged from now on.
func (l *load) wait(ctx context.Context) error {
	select {
	case <-l.progress: // of before
	default:
	}
	timer := time.NewTimer(progressTime)
	defer timer.Stop()
	select {
	case <-l.progress:
		return nil
	case <-timer.C:
		l.find(ruleStands, "no mutation was acknowledged for %v, and all servers were started", progressTime)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// worker is one client. Its node, and the scopes whose names begin with that of the
// node, are changed by nobody else.
type worker struct {
	*load
	node  string
	rnd   *rand.Rand
	index uint64   // of the last acknowledged mutation
	seq   uint64   // of the last address
	made  int      // scopes
	own   []string // scopes that were acknowledged, oldest first
}

func (w *worker) work(ctx context.Context) {
	for ctx.Err() == nil {
		w.gate.RLock()
		if ctx.Err() == nil {
			w.one(ctx)
		}
		w.gate.RUnlock()
		_ = process.Sleep(ctx, clientPause) // the loop sees that it ends
	}
}

// one makes one mutation, and a read now and then.
func (w *worker) one(ctx context.Context) {
	switch dice := w.rnd.IntN(10); {
	case dice < declaresOfTen || len(w.own) == 0:
		w.declare(ctx)
	case dice < declaresOfTen+addressesOfTen:
		w.address(ctx)
	default:
		w.retire(ctx)
	}
	if w.rnd.IntN(readOf) == 0 {
		w.read(ctx)
	}
}

func (w *worker) declare(ctx context.Context) {
	w.made++
	prefix := fmt.Sprintf("%s:%06d:", w.node, w.made)
	r := &record{}
	w.note(func() { w.scopes[prefix] = r })
	applied, ok := w.mutate(ctx, crash.Ask{Method: http.MethodPut, Path: "/v1/scope", Query: url.Values{"prefix": {prefix}}, Body: api.Declare{Writer: w.node}})
	if !ok {
		return
	}
	w.own = append(w.own, prefix)
	w.note(func() { r.epoch = applied.Epoch })
	if applied.Epoch == 0 {
		w.find(writes.RuleEpoch, "the declare of %s was acknowledged without an epoch", prefix)
	}
}

func (w *worker) retire(ctx context.Context) {
	prefix := w.own[0]
	w.own = w.own[1:]
	var r *record
	w.note(func() { r = w.scopes[prefix]; r.retires = true })
	_, ok := w.mutate(ctx, crash.Ask{Method: http.MethodDelete, Path: "/v1/scope", Query: url.Values{"prefix": {prefix}, "source_fenced": {w.node}}})
	w.note(func() { r.retired = ok })
}

// addressed gives the node an address with a number.
func (w *worker) addressed(seq uint64) crash.Ask {
	return crash.Ask{Method: http.MethodPut, Path: "/v1/nodes/" + w.node, Body: api.Node{ID: w.node, Addr: numbered(seq)}}
}

func (w *worker) address(ctx context.Context) {
	w.seq++
	r := w.nodes[w.node]
	w.note(func() { r.tried = w.seq })
	if _, ok := w.mutate(ctx, w.addressed(w.seq)); ok {
		w.note(func() { r.acked = w.seq })
	}
}

// read reads the node's address, linearizable, which has to be as new as the last
// that was acknowledged.
func (w *worker) read(ctx context.Context) {
	r := w.nodes[w.node]
	var n api.NodeState
	id := w.any()
	_, err := w.c.Get(ctx, id, "/v1/nodes/"+w.node, &n, "consistency", "linearizable")
	w.note(func() { w.counts.reads++ })
	if w.backwards(err) || err != nil {
		w.note(func() { w.counts.readsFailed++ })
		return
	}
	if seq, err := numberOf(n.Addr); err != nil || seq < r.acked {
		w.find(ruleStale, "%s read node %s linearizably at %q, and %s had been acknowledged", id, w.node, n.Addr, numbered(r.acked))
	}
}

// any is a server, drawn.
func (w *worker) any() string { return w.c.IDs()[w.rnd.IntN(crash.Size)] }

// mutate asks again with the same request id, a server at a time, until one
// acknowledges or progressTime is over.
func (w *worker) mutate(ctx context.Context, ask crash.Ask) (applied api.Applied, ok bool) {
	ask.RequestID = fmt.Sprintf("%d-%016x%016x", w.index, w.rnd.Uint64(), w.rnd.Uint64())
	give, cancel := context.WithTimeout(ctx, progressTime)
	defer cancel()
	for {
		_, err := w.c.Do(give, w.any(), ask, &applied)
		w.note(func() { w.counts.tries++ })
		switch code := api.CodeOf(err); {
		case err == nil:
			w.index = max(w.index, applied.Index)
			w.note(func() { w.counts.acknowledged++ })
			select {
			case w.progress <- struct{}{}:
			default:
			}
			return applied, true
		case w.backwards(err):
			return applied, false
		case code == api.OutcomeUnknown:
			w.note(func() { w.counts.triedAgain++; w.counts.doubts++ })
		case code == api.Unavailable, code == api.NoLeader, code == api.Limit, code == api.Timeout:
			w.note(func() { w.counts.triedAgain++ })
		case code == api.NotFound: // what is asked about was acknowledged
			w.find(writes.RuleLost, "%s %s of %v: %v", ask.Method, ask.Path, ask.Query, err)
			return applied, false
		default:
			w.find(ruleRefused, "%s %s of %v: %v", ask.Method, ask.Path, ask.Query, err)
			return applied, false
		}
		if process.Sleep(give, retryPause) != nil {
			w.note(func() { w.counts.unknown++ })
			return applied, false
		}
	}
}

// backwards says whether a server answered from an older state than before, and notes it.
func (l *load) backwards(err error) bool {
	if !errors.Is(err, crash.ErrBackwards) {
		return false
	}
	l.find(ruleBackwards, "%v", err)
	return true
}
