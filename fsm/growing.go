package fsm

import "sync/atomic"

// growing is a persistent list: with leaves the list as it was that it is called of. Lists that came of each other share their
// cells: the first to go on after so many takes the next cell, which none of the others has, and who comes second, as two states
// may be made from one, copies what it goes on from. The zero value is empty.
type growing[T any] struct {
	cells *cells[T]
	n     int
}

type cells[T any] struct {
	taken atomic.Int64 // how many of them belong to a list
	at    []T
}

// with returns the list with v at its end. room is how many cells it shares with what comes of it.
func (g growing[T]) with(v T, room int) growing[T] {
	c, n := g.cells, int64(g.n)
	if c == nil || g.n == len(c.at) || !c.taken.CompareAndSwap(n, n+1) {
		c = &cells[T]{at: make([]T, max(room, g.n+1))}
		copy(c.at, g.all())
		c.taken.Store(n + 1)
	}
	c.at[g.n] = v
	return growing[T]{c, g.n + 1}
}

// all is what it holds, in order. It must not be changed.
func (g growing[T]) all() []T {
	if g.cells == nil {
		return nil
	}
	return g.cells.at[:g.n:g.n]
}
