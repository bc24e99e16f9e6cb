package fsm

// growing is a persistent list: with leaves the list as it was that it is called of. The lists that one edit makes share their
// cells. The zero value is empty.
type growing[T any] struct {
	cells *cells[T]
	n     int
}

// cells are written in place by the edit that made them, behind what any list has of them.
type cells[T any] struct {
	at    []T
	taken int // how many of them belong to a list
	by    *edit
}

// edit stands for the making of one state from another, in one goroutine, out of which no list comes before it is over.
type edit struct {
	_ byte // two of no size could be the same
}

// with returns the list with v at its end. An edit makes room for so many cells, nil copies the list.
func (g growing[T]) with(v T, room int, by *edit) growing[T] {
	c := g.cells
	if c == nil || by == nil || c.by != by || c.taken != g.n || g.n == len(c.at) {
		if by == nil {
			room = 0
		}
		c = &cells[T]{at: make([]T, max(room, g.n+1)), by: by}
		copy(c.at, g.all())
	}
	c.at[g.n] = v
	c.taken = g.n + 1
	return growing[T]{c, c.taken}
}

// all is what it holds, in order. It must not be changed.
func (g growing[T]) all() []T {
	if g.cells == nil {
		return nil
	}
	return g.cells.at[:g.n:g.n]
}
