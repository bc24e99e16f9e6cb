package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// maxStreams bounds how often a slice is sent from the beginning: each time the
	// target has lost what it had, and a target that keeps losing it will not seal it.
	maxStreams = 5

	// reportEvery is the least time between two reports while records are sent: enough
	// for somebody who looks on, and for the leader's rates.
	reportEvery = 250 * time.Millisecond

	// minRest and maxRest bound the rest between two passes of a copy, which is as
	// long as the last pass took: the store is read half of the time at most, a small
	// slice is not gone through, and told of, all the time, and a large one is told of
	// often enough to be closed soon once it may be.
	minRest = 500 * time.Millisecond
	maxRest = 5 * time.Second
)

// shipper sends the slices that go from this node.
type shipper struct {
	node  string
	store Store // nil if the node has none
	send  Send
	addr  func(scope.NodeID) string
	tell  func(agent.Event)
	log   *slog.Logger

	memory atomic.Int64 // of what all moves have copied, see copiedMemory

	mu    sync.Mutex           // guards what follows
	moves map[string]*shipment // those that were not forgotten
}

// shipment is what one move sends. Its copy uses it, and then its ship, which
// waits for the end of the copy.
type shipment struct {
	*shipper
	Slice
	to scope.NodeID

	// Guarded by shipper.mu.
	stopCopy  context.CancelCauseFunc // nil before a copy began
	copyEnded chan struct{}
	shipping  bool // asked for
	running   int  // of copy and ship
	forgotten bool

	stream   *delivery     // nil if a new one is to be begun
	have     *copied       // what it has brought; nil if that is not kept
	feed     Tracking      // nil if the store does not tell what changes
	fed      bool          // all that was there is in have since the feed began
	tracks   bool          // the store is a Tracker
	compared time.Duration // how long it took to compare keys; 0 if it was not done
	missed   bool          // the feed was lost once
	reported time.Time
	total    atomic.Pointer[count] // of the slice, about; nil if not known

	// For those who look on.
	keys, bytes atomic.Uint64         // sent so far, in all streams
	left        atomic.Pointer[count] // as reported last; nil is nothing yet
}

// count is a number of records with their bytes.
type count struct{ keys, bytes uint64 }

func (c *count) add(r Record) {
	c.keys++
	c.bytes += sizeOf(r)
}

func (c count) plus(d count) count { return count{c.keys + d.keys, c.bytes + d.bytes} }

// minus is not below 0: what it is computed from are estimates.
func (c count) minus(d count) count {
	return count{c.keys - min(c.keys, d.keys), c.bytes - min(c.bytes, d.bytes)}
}

// errAsked ends a copy whose move's scope was closed.
var errAsked = errors.New("the scope is closed, and is shipped now")

// newShipper returns a shipper. copy and ship run as long as their contexts do;
// whoever calls them waits for them. tell gives an event to the node's state
// machine and returns once it is taken, or the machine has ended for good.
func newShipper(node string, store Store, send Send, addr func(node scope.NodeID) string, tell func(agent.Event), log *slog.Logger) *shipper {
	return &shipper{node: node, store: store, send: send, addr: addr, tell: tell, log: log, moves: map[string]*shipment{}}
}

// copy sends the records of a scope that is still written, and goes on to send
// what has changed, until ship is asked for or ctx ends. It tells
//
//   - while it sends everything for the first time, if the store is a [Sizer] or [Offerer], as
//     left what is still to be sent, and the whole slice once more: each record may
//     have changed meanwhile, and has to be looked at again, which is all that is
//     known before the next pass. So the leader does not close a scope in the middle
//     of its first copy, unless going through it twice takes no time that counts;
//   - after that pass, as left the whole slice; with a [Tracker] all this with the
//     word that it is early, as the next pass looks only at what has changed, and
//     compares the keys, which need not be done again while the scope is closed;
//   - before and after every other pass, as left what the last one has found
//     changed: as many records change during a pass that takes as long. The rate
//     between the two reports is that of the pass, and what the leader computes from
//     both is how long the pass took: what closing the scope now would take.
//
// There is no last pass, as no report is known to arrive: while nothing changes, each
// pass tells again that nothing is left.
func (s *shipper) copy(ctx context.Context, f agent.Copy) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	x := s.beginCopy(ctx, f, stop)
	if x == nil {
		return
	}
	defer s.end(x, x.copyEnded)
	err := x.failure()
	if err == nil {
		err = x.copyAll(ctx)
	}
	if ctx.Err() == nil {
		s.log.Warn("slice cannot be copied", "move", x.Move, "scope", x.Prefix.Text(), "to", x.to, "error", err)
		s.tell(agent.ShipFailed{Move: x.Move, Reason: reasonOf(err)})
	}
}

// ship sends what the target lacks of a scope that is closed and drained: in the
// stream that a copy of the same move has begun, if it was not lost, else all.
func (s *shipper) ship(ctx context.Context, f agent.Ship) {
	x := s.beginShip(ctx, f)
	if x == nil {
		return
	}
	defer s.end(x, nil)
	if x.stopCopy != nil {
		x.stopCopy(errAsked)
		<-x.copyEnded
	}
	var m Manifest
	began := time.Now()
	err := x.failure()
	if err == nil {
		m, err = x.shipAll(ctx)
	}
	switch {
	case ctx.Err() != nil: // the move has ended
	case err != nil:
		s.log.Warn("slice cannot be shipped", "move", x.Move, "scope", x.Prefix.Text(), "to", x.to, "error", err)
		s.tell(agent.ShipFailed{Move: x.Move, Reason: reasonOf(err)})
	default:
		x.left.Store(&count{})
		s.log.Info("the slice is shipped", "move", x.Move, "scope", x.Prefix.Text(), "to", x.to, "keys", m.Keys, "bytes", m.Bytes, "took", time.Since(began).Round(time.Millisecond))
		s.tell(agent.Shipped{Move: x.Move, Manifest: migration.Manifest(m)})
	}
}

// forget lets go of a move that has ended. The contexts of its copy and ship have
// ended before.
func (s *shipper) forget(move string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.moves[move]; x != nil {
		x.forgotten = true
		delete(s.moves, move)
		x.release()
	}
}

// release gives memory back once nobody uses it. The caller holds s.mu.
func (x *shipment) release() {
	if x.running == 0 && (x.forgotten || x.shipping) {
		x.drop()
	}
}

func (s *shipper) of(f agent.Slice, to scope.NodeID) *shipment {
	x := s.moves[f.Move]
	if x == nil {
		x = &shipment{shipper: s, Slice: Slice(f), to: to}
		_, x.tracks = s.store.(Tracker)
		s.moves[f.Move] = x
	}
	return x
}

// beginCopy returns nil if the move's ship was faster, or it was copied before, or
// has ended: that is looked at under the lock, as whoever ends it calls forget only
// afterwards.
func (s *shipper) beginCopy(ctx context.Context, f agent.Copy, stop context.CancelCauseFunc) *shipment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	x := s.of(f.Slice, f.To)
	if x.shipping || x.stopCopy != nil {
		return nil
	}
	x.stopCopy, x.copyEnded = stop, make(chan struct{})
	x.running++
	return x
}

// beginShip returns nil if the move was shipped before, or has ended.
func (s *shipper) beginShip(ctx context.Context, f agent.Ship) *shipment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	x := s.of(f.Slice, f.To)
	if x.shipping {
		return nil
	}
	x.shipping = true
	x.running++
	return x
}

func (s *shipper) end(x *shipment, ended chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.running--
	x.release()
	if ended != nil {
		close(ended)
	}
}

// failure is what keeps the node from sending anything.
func (x *shipment) failure() error {
	if x.store == nil {
		return fmt.Errorf("node %q has no store; give its session one, or NoData if its data is elsewhere", x.node)
	}
	return nil
}

// begin starts another stream, and forgets what the one before has brought.
func (x *shipment) begin(patience time.Duration) {
	x.drop()
	x.stream = &delivery{slice: x.Slice, to: x.to, send: x.send, addr: x.addr, patience: patience, id: newStreamID()}
}

// drop forgets the stream and what it has brought.
func (x *shipment) drop() {
	if x.have != nil {
		x.have.free()
	}
	x.stream, x.have = nil, nil
	x.untrack()
}

// copyAll goes through the slice again and again, and ends with the cause of ctx,
// or with why it failed. Its stream is left if it can be gone on with.
func (x *shipment) copyAll(ctx context.Context) error {
	defer x.estimate(ctx)()
	first := true
	for streams := 0; ; first = false {
		if x.stream == nil {
			x.begin(copyPatience)
			x.have = newCopied(&x.memory)
			first = true
			streams++
		}
		x.track(ctx)
		began := time.Now()
		did, err := x.openPass(ctx, first)
		var broken brokenStream
		switch {
		case ctx.Err() != nil:
			return x.interrupted(ctx)
		case errors.Is(err, ErrTrackingLost):
			x.log.Info("slice is read as a whole again", "move", x.Move, "to", x.to, "error", err)
			x.untrack()
			x.missed = true
			if !sleep(ctx, minRest) { // whatever ends it may do so again
				return x.interrupted(ctx)
			}
			continue
		case errors.As(err, &broken) && streams < maxStreams:
			x.log.Info("slice is copied anew", "move", x.Move, "to", x.to, "error", err)
			x.drop()
			continue
		case err != nil:
			x.drop()
			return err
		}
		x.total.Store(&did.met)
		if first {
			x.report(did.met)
			continue // what changes in a pass is less, which only the next one tells
		}
		left := did.sent.plus(did.skipped)
		x.report(left)
		if !sleep(ctx, min(max(time.Since(began), minRest), maxRest)) {
			return x.interrupted(ctx)
		}
		x.report(left)
	}
}

// interrupted keeps the stream for the ship, if that is what comes next: with the
// batches of which it is not known that they got there, and one that is not full.
func (x *shipment) interrupted(ctx context.Context) error {
	cause := context.Cause(ctx)
	if x.stream.dead != nil || !errors.Is(cause, errAsked) {
		x.drop()
	}
	return cause
}

// shipAll sends the closed slice, and returns the manifest of its records.
func (x *shipment) shipAll(ctx context.Context) (Manifest, error) {
	if x.total.Load() == nil {
		defer x.estimate(ctx)()
	}
	for streams := 1; ; streams++ {
		if x.stream == nil {
			x.begin(giveUp)
		}
		x.stream.patience = giveUp
		did, err := x.closing(ctx)
		var broken brokenStream
		switch {
		case err == nil:
			return did.tally.manifest(), nil
		case ctx.Err() != nil:
			return Manifest{}, context.Cause(ctx)
		case !errors.As(err, &broken):
			return Manifest{}, err
		case streams == maxStreams:
			return Manifest{}, fmt.Errorf("node %q lost what it had received %d times, last: %w", x.to, maxStreams, err)
		}
		x.log.Info("slice is shipped anew", "move", x.Move, "to", x.to, "error", err)
		x.drop()
	}
}
