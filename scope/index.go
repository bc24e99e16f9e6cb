package scope

import (
	"iter"
)

// Index is an ordered persistent map from prefix to V. A change returns a new
// Index in O(log n) and shares the rest with the old one, which stays valid. The
// zero value is empty. Two of them are equal (==) only if the one was made from
// the other without any change.
type Index[V any] struct {
	root *page[V] // nil if it is empty
	n    int
}

// Len is the number of prefixes held.
func (x Index[V]) Len() int { return x.n }

// Get returns what is held for exactly p.
func (x Index[V]) Get(p Prefix) (v V, ok bool) {
	if k, v, ok := x.floor([]byte(p)); ok && k == p {
		return v, true
	}
	return v, false
}

// floor returns the last prefix that is not after key, with what is held for it.
// It does not allocate.
func (x Index[V]) floor(key []byte) (p Prefix, v V, ok bool) {
	if x.root == nil {
		return p, v, false
	}
	return x.root.floor(key)
}

// With returns the index in which p holds v.
func (x Index[V]) With(p Prefix, v V) Index[V] {
	if x.root == nil {
		return Index[V]{newLeaf(p, v), 1}
	}
	left, right, added := x.root.with(p, v)
	if right != nil {
		left = parent(left, right)
	}
	if added {
		x.n++
	}
	return Index[V]{left, x.n}
}

// Without returns the index that holds nothing for p.
func (x Index[V]) Without(p Prefix) Index[V] {
	if x.root == nil {
		return x
	}
	root, removed := x.root.without(p)
	if !removed {
		return x
	}
	for root != nil && len(root.kids) == 1 {
		root = root.kids[0]
	}
	return Index[V]{root, x.n - 1}
}

// Match returns what is held for the longest prefix of key. It does not
// allocate.
func (x Index[V]) Match(key []byte) (v V, ok bool) {
	_, v, ok = x.match(key)
	return v, ok
}

// match also returns the prefix. A prefix of key comes before key, and whatever
// lies between the two begins with it: so it is also one of what key has in
// common with the last entry that is not after key.
func (x Index[V]) match(key []byte) (p Prefix, v V, ok bool) {
	for {
		p, v, ok = x.floor(key)
		if !ok || p.Matches(key) {
			return p, v, ok
		}
		key = key[:common(p, key)]
	}
}

// common is how many bytes the two have in common at their beginning.
func common(p Prefix, key []byte) int {
	n := min(len(p), len(key))
	for i := range n {
		if p[i] != key[i] {
			return i
		}
	}
	return n
}

// All yields everything in the order of prefix bytes.
func (x Index[V]) All() iter.Seq2[Prefix, V] { return x.From("", "") }

// From yields, in the order of prefix bytes, everything under the prefix under
// that comes after the prefix after. An empty after leaves nothing out.
func (x Index[V]) From(under, after Prefix) iter.Seq2[Prefix, V] {
	return func(yield func(Prefix, V) bool) {
		if x.root == nil {
			return
		}
		x.root.from(max(under, after), func(p Prefix, v V) bool {
			if !under.Contains(p) {
				return false // in order, so nothing under it follows
			}
			if after != "" && p <= after {
				return true
			}
			return yield(p, v)
		})
	}
}

// Backward yields everything in the reverse order of prefix bytes.
func (x Index[V]) Backward() iter.Seq2[Prefix, V] {
	return func(yield func(Prefix, V) bool) {
		if x.root != nil {
			x.root.backward(yield)
		}
	}
}

// Overlapping yields everything whose prefix overlaps p: first those that
// contain p or equal it, shortest first, then those that p contains, in order.
func (x Index[V]) Overlapping(p Prefix) iter.Seq2[Prefix, V] {
	return func(yield func(Prefix, V) bool) {
		if !x.containing([]byte(p), yield) {
			return
		}
		for q, v := range x.From(p, p) {
			if q != p && !yield(q, v) {
				return
			}
		}
	}
}

// containing yields what contains p or equals it, shortest first; false once
// yield has returned that.
func (x Index[V]) containing(p []byte, yield func(Prefix, V) bool) bool {
	q, v, ok := x.match(p)
	if !ok {
		return true
	}
	if q != "" && !x.containing(p[:len(q)-1], yield) {
		return false
	}
	return yield(q, v)
}

// Builder makes an [Index] of entries that come in the order of their prefixes.
// That is many times faster than one [Index.With] after the other, and the index
// takes less memory. Its zero value is one that has seen none.
type Builder[V any] struct {
	full []*page[V]
	last *page[V] // being filled
	n    int
}

// Add takes the next entry. It reports false, and takes nothing, if the prefix
// does not come after that of the entry before.
func (b *Builder[V]) Add(p Prefix, v V) bool {
	switch {
	case b.last == nil:
		b.begin()
	case p <= b.last.key(b.last.len()-1):
		return false
	case b.last.len() == maxPage:
		b.full = append(b.full, b.last)
		b.begin()
	}
	if b.last.keys != nil {
		b.last.keys = append(b.last.keys, p)
	}
	b.last.vals = append(b.last.vals, v)
	b.n++
	return true
}

func (b *Builder[V]) begin() {
	b.last = &page[V]{vals: make([]V, 0, maxPage)}
	if !hasKeys[V]() {
		b.last.keys = make([]Prefix, 0, maxPage)
	}
}

// Index returns the index of all that was added. The builder is not to be used
// after that.
func (b *Builder[V]) Index() Index[V] {
	if b.last == nil {
		return Index[V]{}
	}
	b.last = b.last.part(0, b.last.len()) // without what it has to spare
	level := joined(b.full, []*page[V]{b.last})
	for len(level) > 1 {
		above := make([]*page[V], 0, len(level)/maxPage+1)
		for len(level) > 0 {
			n := min(maxPage, len(level))
			above = append(above, parent(level[:n]...))
			level = level[n:]
		}
		level = above
	}
	return Index[V]{level[0], b.n}
}
