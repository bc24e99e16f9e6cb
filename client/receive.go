package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// What a target answers to a batch, and what its source makes of it:
//
//	(none)             the batch is staged, or was already      goes on
//	NOT_FOUND          the target's view does not show the      sends the same again soon: views
//	                   move (yet), or it has no session         differ by milliseconds
//	UNAVAILABLE        it is closing, busy, could not discard   sends the same again soon
//	                   what was staged, was not reached, or
//	                   writes of its own are under way there
//	UNAVAILABLE, with  it has no room now: batches of other     sends the same again for as long
//	a time to retry    moves come or are staged                 as the move goes on
//	OUTCOME_UNKNOWN    its answer was lost                      sends the same again soon
//	CORRUPT            the batch was spoiled on its way         sends the same again soon
//	STALE              it does not know the stream: it was      begins anew with another stream
//	                   restarted, or another one came between
//	WRONG_PHASE        the slice is complete or sealed, and     gives up: the move aborts
//	                   takes no more records
//	MANIFEST_MISMATCH  it is, with other records                gives up
//	INTERNAL           its store failed, or it has none         gives up
//	any other          INVALID, TOO_LARGE: the batch is wrong   gives up
//
// An error that is none of this package's counts as a lost answer.
type answer uint8

const (
	goOn answer = iota
	sendAgain
	waitForRoom
	beginAnew
	giveItUp
)

// answerOf says what a source does about the answer to a batch.
func answerOf(err error) answer {
	var e *Error
	switch {
	case err == nil:
		return goOn
	case !errors.As(err, &e):
		return sendAgain
	}
	switch e.Code {
	case api.Unavailable:
		if e.RetryMS > 0 {
			return waitForRoom
		}
		return sendAgain
	case api.NotFound, api.OutcomeUnknown, api.Timeout, api.Corrupt:
		return sendAgain
	case api.Stale:
		return beginAnew
	default:
		return giveItUp
	}
}

func refusal(code api.Code, move, format string, args ...any) error {
	return &api.Error{Code: code, Move: move, Detail: fmt.Sprintf("move %s: ", move) + fmt.Sprintf(format, args...)}
}

const (
	// maxWaiting bounds the batches of one move that wait for the one before. A source
	// sends one after the other: others are repetitions of which the source has given
	// up the answer, or of somebody who is no source.
	maxWaiting = 8
	// maxReason bounds the reason of a failure in bytes. The registry takes 1,024 of
	// an abort's, and refuses an abort with more.
	maxReason = 900
)

// reasonOf is an error as the reason of an abort.
func reasonOf(err error) string {
	text := strings.ToValidUTF8(err.Error(), "?") // JSON would make three bytes of each that is not
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// receiver takes the slices that come to this node.
type receiver struct {
	node  string
	store Store // nil if the node has none
	rules func() *agent.Rules
	// drained says whether no write of this node counts under a prefix, and none of its deletes runs there.
	drained func(scope.Prefix) bool
	marks   func(move string) (agent.Mark, bool)
	tell    func(agent.Event)
	log     *slog.Logger
	ctx     context.Context // of all work on the store: a sender that leaves must not end it halfway
	stop    context.CancelFunc
	works   sync.WaitGroup

	mu     sync.Mutex       // guards what follows
	areas  map[string]*area // by move: those that are used, or have a stream
	closed bool             // nothing more begins
}

// area is the staging of one move.
type area struct {
	users int // that hold or await the lock; guarded by receiver.mu
	// keys and bytes were staged so far, in all streams, those of which a later one said that they are gone among them.
	keys, bytes atomic.Uint64
	lock        chan struct{} // a mutex that can be waited for with a context; guards what follows
	// stream is the one that is under way, or the last one; "" is none.
	stream string
	next   uint64   // number of the batch that has to come
	taken  tally    // of what was staged; for a Settler
	done   bool     // it was the last one; nothing is staged any more
	sum    Manifest // that it came with
	verify *verification
}

// verification is a running, or past, Verify.
type verification struct {
	stop context.CancelFunc
	done chan struct{}
}

// newReceiver returns a receiver; close it when done. The rules and the counts are those of
// adm. marks are the durable ones that the node has. tell gives an event to the node's state machine and returns
// once it is taken, or the machine has ended for good; what takes the events must
// not wait for a method of the receiver meanwhile.
func newReceiver(node string, store Store, adm *agent.Admission, marks func(move string) (agent.Mark, bool), tell func(agent.Event), log *slog.Logger) *receiver {
	r := &receiver{node: node, store: store, rules: adm.Rules, drained: adm.Drained, marks: marks, tell: tell, log: log, areas: map[string]*area{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// close ends what runs, and waits for it. Afterwards nothing is staged or told.
func (r *receiver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.works.Wait()
}

// enter takes the lock of a move's area, and counts as work until leave. It is
// refused if more than most others hold or await it.
func (r *receiver) enter(ctx context.Context, move string, most int) (*area, error) {
	r.mu.Lock()
	a := r.areas[move]
	switch {
	case r.closed:
		r.mu.Unlock()
		return nil, refusal(api.Unavailable, move, "node %q is shutting down and takes no records", r.node)
	case a == nil:
		a = &area{lock: make(chan struct{}, 1)}
		r.areas[move] = a
	case a.users > most:
		r.mu.Unlock()
		return nil, refusal(api.Unavailable, move, "%d batches wait at node %q for the one before; send one after the other", most, r.node)
	}
	a.users++
	r.works.Add(1)
	r.mu.Unlock()
	select {
	case a.lock <- struct{}{}:
		return a, nil
	case <-ctx.Done():
	case <-r.ctx.Done():
	}
	r.release(move, a)
	return nil, refusal(api.Unavailable, move, "the batch before was still being staged at node %q", r.node)
}

func (r *receiver) leave(move string, a *area) {
	<-a.lock
	r.release(move, a)
}

// release forgets an area that is empty and that nobody uses: the ids come from
// whoever sends batches.
func (r *receiver) release(move string, a *area) {
	r.mu.Lock()
	a.users--
	if a.users == 0 && a.stream == "" {
		delete(r.areas, move)
	}
	r.mu.Unlock()
	r.works.Done()
}

// take stages a batch. It may be called from any goroutine, by whatever carries
// the batches. Errors are in the table above.
func (r *receiver) take(ctx context.Context, b *Batch) error {
	if err := b.check(); err != nil {
		return err
	}
	a, err := r.enter(ctx, b.Move, maxWaiting)
	if err != nil {
		return err
	}
	defer r.leave(b.Move, a)
	if mark, marked := r.marks(b.Move); marked {
		return r.complete(b, Manifest(mark.Manifest))
	}
	if a.done {
		return r.complete(b, a.sum)
	}
	if err := r.admits(b); err != nil {
		return err
	}
	switch {
	case b.Number == 0 && (b.Stream != a.stream || a.next == 0):
		if err := r.begin(a, b); err != nil {
			return err
		}
	case b.Stream != a.stream:
		return refusal(api.Stale, b.Move, "batch %d came of stream %s, of which node %q has not the beginning; begin anew", b.Number, b.Stream, r.node)
	case a.next > 0 && b.Number == a.next-1:
		return nil // the answer was lost
	case b.Number != a.next:
		return refusal(api.Stale, b.Move, "batch %d of stream %s came to node %q, where %d is the next; begin anew", b.Number, b.Stream, r.node, a.next)
	}
	return r.stage(a, b)
}

// complete answers a batch of a slice that takes no more: well if it ends a stream
// of just these records, of which the first answer was lost.
func (r *receiver) complete(b *Batch, sum Manifest) error {
	switch {
	case !b.Last:
		return refusal(api.WrongPhase, b.Move, "its slice is complete on node %q already and takes no more records", r.node)
	case b.Sum != sum:
		return refusal(api.ManifestMismatch, b.Move, "its slice is complete on node %q already, with %d keys, %d bytes, digest %s, and not %d keys, %d bytes, digest %s",
			r.node, sum.Keys, sum.Bytes, sum.Digest, b.Sum.Keys, b.Sum.Bytes, b.Sum.Digest)
	}
	return nil
}

// admits asks the rules in force: for every batch, under the lock, so that none
// comes between the end of a move and the end of its staging.
//
// A store may stage where it serves from, so that a write from before the move, whose
// end is not known yet, would execute between the records, and be taken for one. The
// count is looked at after the rules that have the move: they admit no write and no
// delete under its prefix, so that what is over stays over while the move runs.
func (r *receiver) admits(b *Batch) error {
	rules := r.rules()
	if err := rules.Stages(b.Move); err != nil {
		return &api.Error{Code: api.NotFound, Move: b.Move, Detail: err.Error()}
	}
	m, _ := rules.View().Move(b.Move)
	if m.Prefix != b.Prefix {
		return refusal(api.Invalid, b.Move, "a batch came of scope %q, and the move is of %q", b.Prefix, m.Prefix)
	}
	if r.store == nil {
		return refusal(api.Internal, b.Move, "node %q has no store; give its session one, or NoData if its data is elsewhere", r.node)
	}
	if !r.drained(m.Prefix) {
		return refusal(api.Unavailable, b.Move, "writes or deletes of node %q from before the move are still under way under %q, and nothing is staged there until they are over; send the same again", r.node, m.Prefix)
	}
	return under(b.Prefix, b.Records...)
}

// under refuses records that do not belong to the scope.
func under(p scope.Prefix, records ...Record) error {
	for _, x := range records {
		if !p.Matches(x.Key) {
			return badBatch("key %q is not in scope %q", keyText(x.Key), p)
		}
	}
	return nil
}

// begin makes room for a new stream. The state machine hears of it before any
// record is staged, so that it has them discarded if the move ends.
func (r *receiver) begin(a *area, b *Batch) error {
	a.stream, a.next, a.taken = b.Stream, 0, tally{}
	r.tell(agent.Staging{Move: b.Move})
	if err := r.store.Discard(r.ctx, b.Move); err != nil {
		return refusal(api.Unavailable, b.Move, "node %q could not discard what an earlier stream brought: %v", r.node, err)
	}
	return nil
}

func (r *receiver) stage(a *area, b *Batch) error {
	if o, ok := r.store.(Offerer); ok && len(b.Offer) > 0 {
		if err := o.Take(r.ctx, b.Slice, b.Offer); err != nil {
			return refusal(api.Internal, b.Move, "the slice cannot come to node %q: %v", r.node, err)
		}
	}
	if len(b.Records) > 0 {
		switch err := r.store.Stage(r.ctx, b.Slice, b.Records); {
		case err != nil && r.ctx.Err() != nil:
			return refusal(api.Unavailable, b.Move, "node %q is shutting down and takes no records", r.node)
		case err != nil:
			return refusal(api.Internal, b.Move, "the store of node %q could not stage records: %v", r.node, err)
		}
	}
	if err := r.count(a, b); err != nil {
		return err
	}
	for _, x := range b.Records {
		a.keys.Add(1)
		a.bytes.Add(sizeOf(x))
	}
	a.next++
	if !b.Last {
		return nil
	}
	a.done, a.sum = true, b.Sum
	v := &verification{done: make(chan struct{})}
	ctx, stop := context.WithCancel(r.ctx)
	a.verify, v.stop = v, stop
	r.works.Add(1) // while this batch counts: close still waits for that
	taken := a.taken.manifest()
	go func() {
		defer r.works.Done()
		defer close(v.done)
		defer stop()
		if settler, ok := r.store.(Settler); ok {
			r.settle(ctx, settler, b.Slice, taken)
			return
		}
		r.verify(ctx, b.Slice)
	}()
	return nil
}

// count sums up what a [Settler] has staged.
func (r *receiver) count(a *area, b *Batch) error {
	if _, ok := r.store.(Settler); !ok {
		return nil
	}
	h := newHasher()
	for _, x := range b.Records {
		if x.was != nil {
			a.taken.remove(*x.was)
		}
		if !x.Deleted {
			a.taken.add(x, h.of(x))
		} else if x.was == nil {
			return badBatch("the key %q is gone, and what it was is not told; give both nodes of a move the same kind of store", keyText(x.Key))
		}
	}
	return nil
}

// settle is verify for a store that cannot read back what it was given.
func (r *receiver) settle(ctx context.Context, store Settler, s Slice, taken Manifest) {
	began := time.Now()
	err := store.Settle(ctx, s, taken)
	switch {
	case ctx.Err() != nil: // discarded, or closed
	case err != nil:
		r.log.Warn("slice cannot be settled", "move", s.Move, "scope", s.Prefix.Text(), "error", err)
		r.tell(agent.ShipFailed{Move: s.Move, Reason: reasonOf(fmt.Errorf("the store of node %q could not settle the staged records: %w", r.node, err))})
	default:
		r.log.Info("the slice is staged and settled", "move", s.Move, "scope", s.Prefix.Text(), "keys", taken.Keys, "took", time.Since(began).Round(time.Millisecond))
		r.tell(agent.Received{Move: s.Move, Manifest: migration.Manifest(taken)})
	}
}

// verify sums up what the store has staged. Whether that is what the source sent,
// the registry decides.
func (r *receiver) verify(ctx context.Context, s Slice) {
	var t tally
	h := newHasher()
	began := time.Now()
	err := r.store.Verify(ctx, s, func(x Record) error {
		if err := under(s.Prefix, x); err != nil {
			return err
		}
		t.add(x, h.of(x))
		return ctx.Err()
	})
	switch {
	case ctx.Err() != nil: // discarded, or closed; what came out counts for nothing
	case err != nil:
		r.log.Warn("slice cannot be verified", "move", s.Move, "scope", s.Prefix.Text(), "error", err)
		r.tell(agent.ShipFailed{Move: s.Move, Reason: reasonOf(fmt.Errorf("the store of node %q could not verify the staged records: %w", r.node, err))})
	default:
		r.log.Info("the slice is staged and verified", "move", s.Move, "scope", s.Prefix.Text(), "keys", t.keys, "took", time.Since(began).Round(time.Millisecond))
		r.tell(agent.Received{Move: s.Move, Manifest: migration.Manifest(t.manifest())})
	}
}

// discard deletes what is staged for a move, whose stream is forgotten; a Verify
// that runs is ended first. What it could not delete it can be asked for again.
func (r *receiver) discard(ctx context.Context, move string) error {
	a, err := r.enter(ctx, move, math.MaxInt)
	if err != nil {
		return err
	}
	defer r.leave(move, a)
	a.forget()
	if r.store == nil {
		return nil
	}
	return r.store.Discard(ctx, move)
}

func (a *area) forget() {
	if a.verify != nil {
		a.verify.stop()
		<-a.verify.done
	}
	a.stream, a.next, a.taken, a.done, a.sum, a.verify = "", 0, tally{}, false, Manifest{}, nil
}
