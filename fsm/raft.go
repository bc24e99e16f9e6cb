package fsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/api"
)

// FSM puts [State] under Raft and publishes every version of it. Raft calls
// Apply, ApplyBatch, Snapshot and Restore, from one goroutine; everything else
// may be called from any.
type FSM struct {
	now     atomic.Pointer[published]
	history history
	onFatal func(error)
	onCheck func(State)
	// refused is why nothing is applied any more. Only Raft's goroutine uses it.
	refused *api.Error
}

// published is a state with the place in the change list that belongs to it:
// the items after tail are exactly what happens after state.
type published struct {
	state State
	tail  *node
}

var (
	_ raft.FSM         = (*FSM)(nil)
	_ raft.BatchingFSM = (*FSM)(nil)
)

// New returns an FSM with the empty state. onFatal is called once, from Raft's
// goroutine, when an entry cannot be decoded: the server must stop, because
// going on would make it differ from the others. It must not wait for Raft.
func New(onFatal func(error)) *FSM {
	f := &FSM{onFatal: onFatal}
	root := newNode(Item{})
	f.now.Store(&published{tail: root})
	f.history.restart(root)
	return f
}

// OnCheck sets what is called, from Raft's goroutine, with the state after each
// entry that holds a CheckState. It must return soon. Set it before Raft starts.
func (f *FSM) OnCheck(check func(State)) { f.onCheck = check }

// State is the newest state. One atomic load, and a copy of some hundred bytes.
func (f *FSM) State() State { return f.now.Load().state }

// Newest is the same without the copy, for what is asked for every key: read only.
func (f *FSM) Newest() *State { return &f.now.Load().state }

// WaitIndex returns nil once State().Index() is at least index, else the error
// of ctx.
//
// Do not ask for Raft's commit index: no-op, barrier and configuration entries
// never get here, so the state may never reach it. Raft's AppliedIndex does not
// serve instead of this call: it counts what was handed over, not what was
// applied.
func (f *FSM) WaitIndex(ctx context.Context, index uint64) error {
	for {
		p := f.now.Load()
		if p.state.Index() >= index {
			return nil
		}
		if err := p.tail.wait(ctx); err != nil {
			return err
		}
	}
}

// Apply applies one committed entry. The answer is []*Result, one for each
// envelope; an *[api.Error] if the entry was refused because it, or one before
// it, could not be decoded; nil for an entry that is no command.
func (f *FSM) Apply(log *raft.Log) any {
	if log.Type != raft.LogCommand {
		return nil
	}
	if f.refused != nil {
		return f.refused
	}
	before := f.State()
	state, results, events, err := before.ApplyEntry(log.Index, log.Term, log.Data)
	if err != nil {
		f.refused = &api.Error{Code: api.Corrupt, Index: log.Index, Detail: fmt.Sprintf(
			"%v; nothing after it is applied: start a release that knows it, or replace this server's data", err)}
		f.onFatal(f.refused)
		return f.refused
	}
	if before.Cluster().Incarnation != 0 && !before.SameIncarnation(state) {
		f.replace(state)
	} else {
		f.publish(state, Item{Index: state.Index(), Events: events})
	}
	if f.onCheck != nil && state.checked.Index == state.index {
		f.onCheck(state)
	}
	return results
}

// SameIncarnation reports whether the two states are of one history: changes
// lead from the one to the other.
func (s State) SameIncarnation(other State) bool {
	return s.cluster.Incarnation == other.cluster.Incarnation && s.cluster.Tag == other.cluster.Tag
}

// replace makes a state visible that no change leads to, and ends all watchers
// with COMPACTED.
func (f *FSM) replace(state State) {
	root := newNode(Item{Index: state.Index(), Cluster: state.Cluster()})
	f.now.Store(&published{state: state, tail: root})
	f.history.restart(root)
}

// ApplyBatch applies entries in their order. Each is published before the next
// one is applied, so that to a watcher one index is one item, in a batch or not.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	for i, log := range logs {
		answers[i] = f.Apply(log)
	}
	return answers
}

// publish makes the state visible first and wakes waiters second: who wakes
// finds it. An entry whose commands were all refused is published too, or those
// who wait for its index would wait for ever.
func (f *FSM) publish(state State, item Item) {
	item.Cluster = state.Cluster()
	n := newNode(item)
	f.now.Store(&published{state: state, tail: n})
	f.history.link(n)
}

// Snapshot captures the newest state in constant time. After a refused entry it
// fails: Raft would name the snapshot after that entry, and the entry would be
// lost for good.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if f.refused != nil {
		return nil, f.refused
	}
	return captured{f.State()}, nil
}

// Restore replaces the state by that of a snapshot and ends all watchers with
// COMPACTED. On error the state stays what it was.
//
// Nothing is changed before the trailer was verified. This is for raft's own
// snapshots; a backup is put back by the log, see [Restore]: raft.Raft.Restore
// panics when this fails.
func (f *FSM) Restore(source io.ReadCloser) error {
	if f.refused != nil {
		return f.refused
	}
	state, _, err := LoadBackup(source) // raft closes it
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	f.replace(state)
	return nil
}

// captured is a state to be written while others are applied.
type captured struct{ state State }

// Persist writes the snapshot. Cancel is called only on failure: it removes
// what was written, and a sink that was neither closed nor canceled leaves a
// half-written folder behind.
func (c captured) Persist(sink raft.SnapshotSink) error {
	if err := c.state.Encode(sink); err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: %w", sink.ID(), err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("snapshot %s: %w", sink.ID(), err)
	}
	return nil
}

// Release is part of raft.FSMSnapshot. There is nothing to release: the state
// is collected when nobody holds it.
func (c captured) Release() {}
