package migration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/scope-registry/scope-registry/scope"
)

// MaxFinished bounds the finished moves that are kept, the newest ones: enough
// for an operator's history, small beside the scopes.
const MaxFinished = 10_000

// MaxRunning bounds the moves that run at once: each holds a scope closed, and
// the leader looks at all of them on every tick.
const MaxRunning = 1_024

// Errors of [Table.Start].
var (
	ErrAlreadyMigrating = errors.New("a move is already running")
	ErrTooManyMoves     = errors.New("too many moves are running")
	ErrMoveExists       = errors.New("a move with this id exists")
)

// Table holds the running moves and the last [MaxFinished] finished ones. It is
// a persistent value; its zero value is empty. Changes cost O(log n).
type Table struct {
	byID    scope.Index[*Move]
	running scope.Index[string] // prefix of a running move → id
	flipped scope.Index[string] // prefix → id of the last kept move that was done
	order   scope.Index[string] // position of finishing → id
	ended   uint64              // how many moves ever finished
}

// Get returns the move with this id, running or kept.
func (t Table) Get(id string) (Move, bool) {
	if m, ok := t.byID.Get(scope.Prefix(id)); ok {
		return *m, true
	}
	return Move{}, false
}

// Start returns the table in which m runs. It refuses an id that exists and a
// prefix that overlaps a running move's.
func (t Table) Start(m Move) (Table, error) {
	if _, ok := t.Get(m.ID); ok {
		return t, fmt.Errorf("%w: %s", ErrMoveExists, m.ID)
	}
	for met := range t.RunningOver(m.Prefix) {
		return t, fmt.Errorf("%w: move %s of %q", ErrAlreadyMigrating, met.ID, met.Prefix)
	}
	if t.RunningLen() >= MaxRunning {
		return t, fmt.Errorf("%w: the limit is %d; wait for one to end", ErrTooManyMoves, MaxRunning)
	}
	t.running = t.running.With(m.Prefix, m.ID)
	return t.put(m), nil
}

func (t Table) put(m Move) Table {
	t.byID = t.byID.With(scope.Prefix(m.ID), &m)
	return t
}

// Update returns the table in which the running move m.ID is m, still running.
func (t Table) Update(m Move) Table { return t.put(m) }

// Commit returns the table in which the running move m.ID has ended as m says,
// in phase Done. It also returns m as it is kept.
func (t Table) Commit(m Move) (Table, Move) {
	t, m = t.finish(m)
	t.flipped = t.flipped.With(m.Prefix, m.ID)
	return t, m
}

// Abort returns the table in which the running move m.ID has ended as m says,
// in phase Aborted. It also returns m as it is kept.
func (t Table) Abort(m Move) (Table, Move) { return t.finish(m) }

func (t Table) finish(m Move) (Table, Move) {
	t.running = t.running.Without(m.Prefix)
	t.ended++
	m.Finished = t.ended
	return t.keep(m), m
}

// keep adds a finished move at its position and drops the one that falls out.
func (t Table) keep(m Move) Table {
	t = t.put(m)
	t.order = t.order.With(position(m.Finished), m.ID)
	for old := range t.FinishedOldest() {
		if t.order.Len() <= MaxFinished {
			break
		}
		t = t.forget(old)
	}
	return t
}

func (t Table) forget(m Move) Table {
	t.order = t.order.Without(position(m.Finished))
	t.byID = t.byID.Without(scope.Prefix(m.ID))
	if id, ok := t.flipped.Get(m.Prefix); ok && id == m.ID {
		t.flipped = t.flipped.Without(m.Prefix)
	}
	return t
}

func position(n uint64) scope.Prefix {
	return scope.Prefix(binary.BigEndian.AppendUint64(nil, n))
}

// Load returns the table with m as a snapshot holds it. Finished moves are
// loaded in the order of their positions.
func (t Table) Load(m Move) (Table, error) {
	if m.Running() {
		return t.Start(m)
	}
	t.ended = max(t.ended, m.Finished)
	t = t.keep(m)
	if m.Phase == Done {
		t.flipped = t.flipped.With(m.Prefix, m.ID)
	}
	return t, nil
}

// Ended is how many moves ever finished, also those no longer kept.
func (t Table) Ended() uint64 { return t.ended }

// RunningLen is the number of running moves.
func (t Table) RunningLen() int { return t.running.Len() }

// Running yields the running moves in the order of their prefixes.
func (t Table) Running() iter.Seq[Move] { return t.each(t.running.All()) }

// RunningOver yields the running moves whose prefix overlaps p.
func (t Table) RunningOver(p scope.Prefix) iter.Seq[Move] { return t.each(t.running.Overlapping(p)) }

// Finished yields the finished moves that are kept, newest first.
func (t Table) Finished() iter.Seq[Move] { return t.each(t.order.Backward()) }

// FinishedOldest yields the finished moves that are kept, oldest first.
func (t Table) FinishedOldest() iter.Seq[Move] { return t.each(t.order.All()) }

// each yields the moves with these ids.
func (t Table) each(ids iter.Seq2[scope.Prefix, string]) iter.Seq[Move] {
	return func(yield func(Move) bool) {
		for _, id := range ids {
			if m, _ := t.Get(id); !yield(m) {
				return
			}
		}
	}
}

// LookupMigrating returns the running move of exactly p.
func (t Table) LookupMigrating(p scope.Prefix) (Move, bool) { return t.lookup(t.running.Get(p)) }

// LookupMigrated returns the last kept move of exactly p that flipped it. A
// move of p that runs again does not hide it.
func (t Table) LookupMigrated(p scope.Prefix) (Move, bool) { return t.lookup(t.flipped.Get(p)) }

// MatchMigrating returns the running move with the longest prefix of key.
func (t Table) MatchMigrating(key []byte) (Move, bool) { return t.lookup(t.running.Match(key)) }

// MatchMigrated returns, of the kept moves that flipped a prefix of key, the
// last one of the longest prefix.
func (t Table) MatchMigrated(key []byte) (Move, bool) { return t.lookup(t.flipped.Match(key)) }

func (t Table) lookup(id string, ok bool) (Move, bool) {
	if !ok {
		return Move{}, false
	}
	return t.Get(id)
}
