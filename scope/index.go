package scope

import (
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Index is an ordered persistent map from prefix to V. A change returns a new
// Index in O(length of the prefix) and shares the rest with the old one, which
// stays valid. The zero value is empty.
type Index[V any] struct {
	tree *iradix.Tree[V]
}

func (x Index[V]) orEmpty() *iradix.Tree[V] {
	if x.tree == nil {
		return iradix.New[V]()
	}
	return x.tree
}

// Len is the number of prefixes held.
func (x Index[V]) Len() int {
	if x.tree == nil {
		return 0
	}
	return x.tree.Len()
}

// Get returns what is held for exactly p.
func (x Index[V]) Get(p Prefix) (v V, ok bool) {
	if x.tree == nil {
		return v, false
	}
	return x.tree.Get([]byte(p))
}

// With returns the index in which p holds v.
func (x Index[V]) With(p Prefix, v V) Index[V] {
	t, _, _ := x.orEmpty().Insert([]byte(p), v)
	return Index[V]{t}
}

// Without returns the index that holds nothing for p.
func (x Index[V]) Without(p Prefix) Index[V] {
	if x.tree == nil {
		return x
	}
	t, _, _ := x.tree.Delete([]byte(p))
	return Index[V]{t}
}

// Match returns what is held for the longest prefix of key. It does not
// allocate.
func (x Index[V]) Match(key []byte) (v V, ok bool) {
	if x.tree == nil {
		return v, false
	}
	_, v, ok = x.tree.Root().LongestPrefix(key)
	return v, ok
}

// All yields everything in the order of prefix bytes.
func (x Index[V]) All() iter.Seq2[Prefix, V] { return x.From("", "") }

// From yields, in the order of prefix bytes, everything under the prefix under
// that comes after the prefix after. An empty after leaves nothing out.
func (x Index[V]) From(under, after Prefix) iter.Seq2[Prefix, V] {
	return func(yield func(Prefix, V) bool) {
		if x.tree == nil {
			return
		}
		it := x.tree.Root().Iterator()
		if after > under {
			it.SeekLowerBound([]byte(after))
		} else {
			it.SeekPrefix([]byte(under))
		}
		for k, v, ok := it.Next(); ok; k, v, ok = it.Next() {
			p := Prefix(k)
			if !under.Contains(p) {
				return // in order, so nothing under it follows
			}
			if after != "" && p <= after {
				continue
			}
			if !yield(p, v) {
				return
			}
		}
	}
}

// Overlapping yields everything whose prefix overlaps p: first those that
// contain p or equal it, shortest first, then those that p contains, in order.
func (x Index[V]) Overlapping(p Prefix) iter.Seq2[Prefix, V] {
	return func(yield func(Prefix, V) bool) {
		if x.tree == nil {
			return
		}
		stopped := false
		x.tree.Root().WalkPath([]byte(p), func(k []byte, v V) bool {
			stopped = !yield(Prefix(k), v)
			return stopped
		})
		if stopped {
			return
		}
		for q, v := range x.From(p, p) {
			if q != p && !yield(q, v) {
				return
			}
		}
	}
}
