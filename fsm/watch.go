package fsm

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/scope-registry/scope-registry/internal/api"
)

// MaxHistory bounds how many items are kept for watchers that are behind or
// come back. At a thousand commands per second it covers 16 s, longer than a
// reconnect takes; its memory is that of the events of so many entries. A
// watcher that is further behind takes a snapshot, which then costs less than
// catching up.
const MaxHistory = 16_384

// MaxHistoryEvents bounds the events of the items that are kept, as one full
// batch has 10,000 of them: some 300 MiB at most. The newest item is always kept.
const MaxHistoryEvents = 512 << 10

// Item is what one log entry changed.
type Item struct {
	// Index of the entry. Indexes rise but have gaps: entries that Raft keeps
	// for itself take indexes too.
	Index uint64
	// Cluster after the entry. It is kept here, as an index says nothing about
	// another history: by the time an item is sent the state may be that of a restore.
	Cluster Cluster
	// Events in the order of the commands in the entry. Shared: read only.
	Events []Event
}

// node is one item in the list that watchers follow. It holds no State, so that
// a slow watcher keeps no old table alive.
type node struct {
	item Item
	// ready is closed when the list goes on after this node, or ends here.
	ready chan struct{}
	// next is set before ready is closed. It is taken away again when the node
	// leaves the history: a watcher that stands still then holds one node and
	// not all that came after it. A closed ready without next is the end.
	next atomic.Pointer[node]
	// restored is set, before next is taken away, when a restore ended the list.
	restored atomic.Pointer[restored]
}

// restored says where the list goes on after a restore.
type restored struct{ floor uint64 }

func newNode(item Item) *node { return &node{item: item, ready: make(chan struct{})} }

// history remembers the newest nodes, for watchers that resume.
type history struct {
	// mu guards the rest, and that nodes are linked and cut in order.
	mu sync.Mutex
	// nodes[first:] are held, oldest first, up to MaxHistory+1 of them. The
	// oldest is where the one who needs all items after it stands: its index is
	// the floor. Never empty.
	nodes []*node
	first int
	// events counts those of the nodes held, but for the oldest.
	events int
}

// held is how many nodes there are. mu is held.
func (h *history) held() int { return len(h.nodes) - h.first }

// restart begins a list at root and ends the one before. The caller has
// published root already.
func (h *history) restart(root *node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := &restored{floor: root.item.Index}
	for i := range h.held() {
		n := h.at(i)
		n.restored.Store(end)
		n.next.Store(nil)
		if i == h.held()-1 {
			close(n.ready)
		}
	}
	h.nodes, h.first, h.events = []*node{root}, 0, 0
}

// link appends n after the newest node and wakes who waits there. The caller
// has published n already, so whoever wakes finds the state that goes with it.
func (h *history) link(n *node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.at(h.held() - 1)
	last.next.Store(n)
	close(last.ready)
	h.nodes = append(h.nodes, n)
	h.events += len(n.item.Events)
	for h.held() > MaxHistory+1 || h.events > MaxHistoryEvents && h.held() > 2 {
		h.forget()
	}
}

// forget drops the oldest node. Its successor becomes the place to resume after,
// so that its events no longer count. mu is held.
func (h *history) forget() {
	h.nodes[h.first].next.Store(nil)
	h.nodes[h.first] = nil
	h.first++
	h.events -= len(h.nodes[h.first].item.Events)
	if h.first > len(h.nodes)/2 { // seldom enough that each node is copied about once
		h.nodes, h.first = append([]*node(nil), h.nodes[h.first:]...), 0
	}
}

// at is the i-th oldest node. mu is held.
func (h *history) at(i int) *node { return h.nodes[h.first+i] }

// floor is the lowest index a watcher can resume after.
func (h *history) floor() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at(0).item.Index
}

// find returns the newest node with an index of at most from; without one, nil
// and the floor.
func (h *history) find(from uint64) (*node, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	after := sort.Search(h.held(), func(i int) bool { return h.at(i).item.Index > from })
	if after == 0 {
		return nil, h.at(0).item.Index
	}
	return h.at(after - 1), 0
}

// Watcher follows the changes of an [FSM]. It is for one goroutine, but for
// Index. It needs no closing: a watcher that is dropped is collected, and one
// that stands still holds no more than the item it stands at.
type Watcher struct {
	fsm   *FSM
	at    *node         // stands here: this item and all before it were returned
	index atomic.Uint64 // complete up to here; atomic for Index
	err   error         // what ended it

	state    State
	snapshot bool
}

// Watch follows the changes after the index from: every item after it once, in
// order, without a gap. With from 0 the watcher begins with [Watcher.Snapshot].
// An index this server has not reached waits for it. An index below the oldest
// change still held is refused with COMPACTED and the floor: watch from 0.
func (f *FSM) Watch(from uint64) (*Watcher, error) {
	w := &Watcher{fsm: f}
	if from == 0 {
		// State and place in the list come from one load: nothing can fall
		// between them or be in both.
		p := f.now.Load()
		w.at, w.state, w.snapshot = p.tail, p.state, true
		w.index.Store(p.state.Index())
		return w, nil
	}
	at, floor := f.history.find(from)
	if at == nil {
		return nil, compacted(from, floor)
	}
	w.at = at
	w.index.Store(from)
	return w, nil
}

// Snapshot is the state that the items of Next continue, and whether there is
// one: true for a watcher from 0 until its first Next, which lets go of the
// state so that it can be collected.
func (w *Watcher) Snapshot() (State, bool) { return w.state, w.snapshot }

// Index is the index up to which what this watcher returned is complete. It
// also moves over entries that changed nothing, while Next waits. It may be
// called from any goroutine.
func (w *Watcher) Index() uint64 { return w.index.Load() }

// Cluster is that of the history which this watcher follows, at Index. It is
// asked for by who calls Next, and not after that has ended the watcher.
func (w *Watcher) Cluster() Cluster { return w.at.item.Cluster }

// Next waits for the next item that has events. The error of ctx leaves the
// watcher usable. SLOW (it fell behind by more than [MaxHistory] items or [MaxHistoryEvents]) and
// COMPACTED (a restore put other data in place) end it: Floor is where the list
// begins now, and Next returns the same error from then on.
func (w *Watcher) Next(ctx context.Context) (Item, error) {
	w.state, w.snapshot = State{}, false
	for w.err == nil {
		if err := w.at.wait(ctx); err != nil {
			return Item{}, err
		}
		next := w.at.next.Load()
		if next == nil {
			w.err = w.ended()
			break
		}
		w.at = next
		if next.item.Index <= w.index.Load() {
			continue // before the index it was asked to begin after
		}
		w.index.Store(next.item.Index)
		if len(next.item.Events) > 0 {
			return next.item, nil
		}
	}
	w.at = nil
	return Item{}, w.err
}

// wait returns when the list goes on after n or ends at n. What is there
// already is taken even if ctx has ended.
func (n *node) wait(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	default:
	}
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ended tells why there is nothing after w.at.
func (w *Watcher) ended() *api.Error {
	if r := w.at.restored.Load(); r != nil {
		return compacted(w.Index(), r.floor)
	}
	floor := w.fsm.history.floor()
	return &api.Error{Code: api.Slow, Floor: floor, Index: w.Index(), Detail: fmt.Sprintf(
		"the watcher is at index %d and fell too far behind; changes are held from index %d on: watch again from 0",
		w.Index(), floor)}
}

func compacted(index, floor uint64) *api.Error {
	return &api.Error{Code: api.Compacted, Floor: floor, Index: index, Detail: fmt.Sprintf(
		"the changes after index %d cannot be told; they are held from index %d on: watch from 0, which begins with a snapshot",
		index, floor)}
}
