package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// aMove is the move of every test here: scope app: goes from n1 to n2.
var aMove = agent.Slice{Move: "m1", Prefix: "app:"}

func silentLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// sliceTarget is a node n2 around the real state machine, as far as slices need
// one: it takes batches, seals and discards.
type sliceTarget struct {
	t     *testing.T
	store *memStore
	work  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	state agent.State
	adm   *agent.Admission
	recv  *receiver
	watch uint64 // the stream
	index uint64
	life  int
	marks map[string]agent.Mark
	told  []agent.Event
	moves []api.Change // the records of moves, for a snapshot
}

func newSliceTarget(t *testing.T, store *memStore) *sliceTarget {
	n := &sliceTarget{t: t, store: store, index: 10, marks: map[string]agent.Mark{}}
	n.boot()
	return n
}

// boot starts the process, which has a session at once.
func (n *sliceTarget) boot() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life++
	life := n.life
	var held []agent.Mark
	for _, m := range n.marks {
		held = append(held, m)
	}
	n.state = agent.New(agent.Config{Node: "n2", Identity: "disk2", Times: api.DefaultLeases()}, 0, held)
	n.adm = agent.NewAdmission(n.state)
	tell := func(e agent.Event) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.life == life {
			n.step(e)
		}
	}
	var store Store
	if n.store != nil {
		store = n.store
	}
	n.recv = newReceiver("n2", store, n.adm, n.mark, tell, silentLog())
	n.step(agent.Tick{})
	n.index++
	session := fmt.Sprintf("s%d", life)
	changes := append([]api.Change{{Op: "put", Cluster: &api.ClusterRecord{ID: "c", Incarnation: 1, Tag: "x"}},
		{Op: "put", Node: &api.NodeState{Node: api.Node{ID: "n2", Addr: "n2:1"}, Session: &api.Session{ID: session, Opened: n.index}}}}, n.moves...)
	n.step(agent.Watched{Stream: n.watch, Item: api.WatchItem{Type: "snapshot", Index: n.index, Incarnation: 1, Tag: "x", Changes: changes}})
	n.step(agent.Opened{Session: session, Index: n.index, Incarnation: agent.Incarnation{Number: 1, Tag: "x"}})
}

func (n *sliceTarget) mark(move string) (agent.Mark, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, ok := n.marks[move]
	return m, ok
}

// step is called with mu held.
func (n *sliceTarget) step(e agent.Event) {
	n.told = append(n.told, e)
	var effects []agent.Effect
	n.state, effects = agent.Step(n.state, 0, e)
	recv, life := n.recv, n.life
	for _, f := range effects {
		switch f := f.(type) {
		case agent.Publish:
			n.adm.Publish(f.Rules)
		case agent.Watch:
			n.watch = f.Stream
		case agent.Seal:
			n.marks[f.Mark.Move] = f.Mark
			n.work.Go(func() { n.tell(life, agent.Sealed(f)) })
		case agent.Discard:
			n.work.Go(func() {
				if err := recv.discard(context.Background(), f.Move); err != nil {
					return // closed
				}
				n.tell(life, agent.Discarded(f))
			})
		}
	}
}

func (n *sliceTarget) tell(life int, e agent.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != life {
		return
	}
	if d, ok := e.(agent.Discarded); ok {
		delete(n.marks, d.Move)
	}
	n.step(e)
}

// sees shows the node a phase of the move.
func (n *sliceTarget) sees(phase string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	n.moves = []api.Change{{Op: "put", Move: &api.Move{ID: aMove.Move, Prefix: aMove.Prefix.Text(), From: "n1", To: "n2", Phase: phase, Mode: "agent", Epoch: 5}}}
	n.step(agent.Watched{Stream: n.watch, Item: api.WatchItem{Type: "change", Index: n.index, Incarnation: 1, Tag: "x", Changes: n.moves}})
}

// restart ends the process, and starts another one. What was staged is gone, but
// for sealed slices.
func (n *sliceTarget) restart() {
	n.mu.Lock()
	recv := n.recv
	n.life++ // nothing is told any more
	n.mu.Unlock()
	recv.close()
	n.work.Wait()
	if _, sealed := n.mark(aMove.Move); !sealed {
		_ = n.store.Discard(context.Background(), aMove.Move)
	}
	n.boot()
}

func (n *sliceTarget) stop() {
	n.mu.Lock()
	recv := n.recv
	n.mu.Unlock()
	recv.close()
	n.work.Wait()
}

func (n *sliceTarget) take(ctx context.Context, b *Batch) error {
	n.mu.Lock()
	recv := n.recv
	n.mu.Unlock()
	return recv.take(ctx, b)
}

// events are those of one type that the node was told.
func eventsOf[E agent.Event](all []agent.Event) (out []E) {
	for _, e := range all {
		if e, ok := e.(E); ok {
			out = append(out, e)
		}
	}
	return out
}

func (n *sliceTarget) events() []agent.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]agent.Event{}, n.told...)
}

// sliceSource is a shipper with what it has told.
type sliceSource struct {
	*shipper
	mu   sync.Mutex // guards told and when
	told []agent.Event
	when []time.Time
}

func newSliceSource(store Store, send Send) *sliceSource {
	n := &sliceSource{}
	n.shipper = newShipper("n1", store, send, func(id scope.NodeID) string { return string(id) + ":1" }, func(e agent.Event) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.told, n.when = append(n.told, e), append(n.when, time.Now())
	}, silentLog())
	return n
}

func (n *sliceSource) events() []agent.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]agent.Event{}, n.told...)
}

func (n *sliceSource) copySlice(ctx context.Context) { n.copy(ctx, agent.Copy{Slice: aMove, To: "n2"}) }
func (n *sliceSource) shipSlice(ctx context.Context) { n.ship(ctx, agent.Ship{Slice: aMove, To: "n2"}) }

// badWire carries batches to a target, and does to them what networks do. Each is
// encoded and decoded.
type badWire struct {
	target interface {
		take(context.Context, *Batch) error
	}
	late sync.WaitGroup // batches that come a second time, later

	mu      sync.Mutex      // guards what follows
	rng     *rand.Rand      // nil is a good network
	bad     int             // of a hundred batches
	now     int             // sent so far
	streams map[string]bool // that batches were of
}

func (w *badWire) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rng == nil {
		return n - 1
	}
	return w.rng.IntN(n)
}

func (w *badWire) send(ctx context.Context, _ Peer, b *Batch) error {
	pieces, err := b.encoded()
	data := bytes.Join(pieces, nil)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.now++
	if w.streams == nil {
		w.streams = map[string]bool{}
	}
	w.streams[b.Stream] = true
	w.mu.Unlock()
	carry := func(ctx context.Context) error {
		came, err := DecodeBatch(bytes.NewReader(data))
		if err != nil {
			return err
		}
		return w.target.take(ctx, came)
	}
	lost := &api.Error{Code: api.OutcomeUnknown, Detail: "the answer was lost"}
	sleep(ctx, time.Duration(w.draw(2000))*time.Microsecond)
	if w.draw(100) >= w.bad {
		return carry(ctx)
	}
	switch w.draw(7) {
	case 0:
		return &api.Error{Code: api.Unavailable, Detail: "connection refused"}
	case 1:
		_ = carry(ctx)
		return lost
	case 2: // the sender leaves while the batch is taken
		ctx, cancel := context.WithTimeout(ctx, time.Duration(w.draw(500))*time.Microsecond)
		defer cancel()
		_ = carry(ctx)
		return lost
	case 3:
		w.late.Go(func() { _ = carry(ctx) })
		return carry(ctx)
	case 4: // it comes again when the stream has gone on
		w.late.Go(func() {
			sleep(context.Background(), time.Duration(w.draw(30))*time.Millisecond)
			_ = carry(context.Background())
		})
		return carry(ctx)
	case 5: // a black hole
		<-ctx.Done()
		return fmt.Errorf("nobody answered: %w", ctx.Err())
	default:
		data[w.draw(len(data))] ^= 1
		return carry(ctx)
	}
}
