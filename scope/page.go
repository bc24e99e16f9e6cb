package scope

// maxPage is how many entries a page has at most. A change copies one page of
// each level, so that larger ones make changes slower; smaller ones make more
// levels.
const maxPage = 32

// page is a part of an [Index], in order: a leaf with entries, or one above them
// with pages. All leaves are at the same depth. A page is never changed in place
// and never empty.
//
// This is a B+ tree and not a radix tree, as one has a node, with allocations of
// its own, for every entry.
type page[V any] struct {
	keys []Prefix   // of the entries, nil if their values have them; or the first key in each of kids
	vals []V        // of a leaf
	kids []*page[V] // nil in a leaf
}

// keyed is the value of an index whose keys are the prefixes of its scopes: a second time they would take 16
// bytes a scope.
type keyed struct{ *Scope }

// hasKeys reports whether values of an index have their keys.
func hasKeys[V any]() bool {
	var v V
	_, ok := any(v).(keyed)
	return ok
}

// newLeaf is a leaf of one entry.
func newLeaf[V any](p Prefix, v V) *page[V] {
	if hasKeys[V]() {
		return &page[V]{vals: []V{v}}
	}
	return &page[V]{keys: []Prefix{p}, vals: []V{v}}
}

// len is how many entries, or pages, the page has.
func (n *page[V]) len() int { return max(len(n.vals), len(n.kids)) }

// key is the one at place i.
func (n *page[V]) key(i int) Prefix {
	if n.keys == nil {
		return any(n.vals[i]).(keyed).Prefix
	}
	return n.keys[i]
}

// parent is the page over kids.
func parent[V any](kids ...*page[V]) *page[V] {
	n := &page[V]{keys: make([]Prefix, len(kids)), kids: joined(kids, nil)}
	for i, k := range kids {
		n.keys[i] = k.key(0)
	}
	return n
}

// upTo is how many of the page's keys are not after key.
func (n *page[V]) upTo(key []byte) int {
	low, high := 0, n.len()
	for low < high {
		mid := int(uint(low+high) >> 1)
		if string(n.key(mid)) <= string(key) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// floor is [Index.floor].
func (n *page[V]) floor(key []byte) (p Prefix, v V, ok bool) {
	i := n.upTo(key)
	for ; i > 0 && n.kids != nil; i = n.upTo(key) {
		n = n.kids[i-1]
	}
	if i == 0 {
		return p, v, false
	}
	return n.key(i - 1), n.vals[i-1], true
}

// with returns the page in which p holds v; where that has become too large, as
// two. added reports whether nothing was held for p.
func (n *page[V]) with(p Prefix, v V) (left, right *page[V], added bool) {
	i := n.upTo([]byte(p))
	if n.kids == nil {
		if i > 0 && n.key(i-1) == p {
			return &page[V]{keys: n.keys, vals: replaced(n.vals, i-1, v)}, nil, false
		}
		left, right = split(n.inserting(i, p, v), i)
		return left, right, true
	}
	i = max(i-1, 0) // what comes before all belongs to the first
	kid, next, added := n.kids[i].with(p, v)
	grown := n.replacing(i, kid)
	if next == nil {
		return grown, nil, added
	}
	left, right = split(&page[V]{keys: inserted(grown.keys, i+1, next.key(0)), kids: inserted(grown.kids, i+1, next)}, i+1)
	return left, right, added
}

// inserting is the leaf with one entry more, at place i.
func (n *page[V]) inserting(i int, p Prefix, v V) *page[V] {
	out := &page[V]{vals: inserted(n.vals, i, v)}
	if n.keys != nil {
		out.keys = inserted(n.keys, i, p)
	}
	return out
}

// removing is the page without what is at place i.
func (n *page[V]) removing(i int) *page[V] {
	out := &page[V]{}
	if n.keys != nil {
		out.keys = removedAt(n.keys, i)
	}
	if n.kids == nil {
		out.vals = removedAt(n.vals, i)
	} else {
		out.kids = removedAt(n.kids, i)
	}
	return out
}

// replacing is the page with another one in the place i of its kids.
func (n *page[V]) replacing(i int, kid *page[V]) *page[V] {
	keys := n.keys
	if first := kid.key(0); keys[i] != first {
		keys = replaced(keys, i, first)
	}
	return &page[V]{keys: keys, kids: replaced(n.kids, i, kid)}
}

// split divides a page that is too large after something was added at place i.
// What is added at the end goes on there, as a rule: so that a table that is
// declared in order has full pages and not half-empty ones.
func split[V any](n *page[V], i int) (left, right *page[V]) {
	if n.len() <= maxPage {
		return n, nil
	}
	at := n.len() / 2
	if i == n.len()-1 {
		at = i
	}
	return n.part(0, at), n.part(at, n.len())
}

// part is a copy of the entries from i up to j.
func (n *page[V]) part(i, j int) *page[V] {
	out := &page[V]{}
	if n.keys != nil {
		out.keys = joined(n.keys[i:j], nil)
	}
	if n.kids == nil {
		out.vals = joined(n.vals[i:j], nil)
	} else {
		out.kids = joined(n.kids[i:j], nil)
	}
	return out
}

// without returns the page that holds nothing for p, nil if nothing is left.
func (n *page[V]) without(p Prefix) (left *page[V], removed bool) {
	i := n.upTo([]byte(p)) - 1
	if i < 0 {
		return n, false
	}
	if n.kids == nil {
		switch {
		case n.key(i) != p:
			return n, false
		case len(n.vals) == 1:
			return nil, true
		}
		return n.removing(i), true
	}
	kid, removed := n.kids[i].without(p)
	switch {
	case !removed:
		return n, false
	case kid != nil:
		return n.replacing(i, kid).merged(i), true
	case len(n.kids) == 1:
		return nil, true
	}
	return n.removing(i), true
}

// merged joins a kid that has become small with the one before or after it.
func (n *page[V]) merged(i int) *page[V] {
	const small, roomy = maxPage / 4, maxPage * 3 / 4 // far apart, or one that is joined would soon be split again
	if n.kids[i].len() > small {
		return n
	}
	for at := max(i-1, 0); at <= min(i, len(n.kids)-2); at++ {
		a, b := n.kids[at], n.kids[at+1]
		if a.len()+b.len() > roomy {
			continue
		}
		both := &page[V]{}
		if a.keys != nil {
			both.keys = joined(a.keys, b.keys)
		}
		if a.kids == nil {
			both.vals = joined(a.vals, b.vals)
		} else {
			both.kids = joined(a.kids, b.kids)
		}
		return n.replacing(at, both).removing(at + 1)
	}
	return n
}

// from yields, in order, the entries that are not before p; false once yield has
// returned that.
func (n *page[V]) from(p Prefix, yield func(Prefix, V) bool) bool {
	i := n.upTo([]byte(p))
	if n.kids == nil {
		if i > 0 && n.key(i-1) == p {
			i--
		}
		for ; i < len(n.vals); i++ {
			if !yield(n.key(i), n.vals[i]) {
				return false
			}
		}
		return true
	}
	for i = max(i-1, 0); i < len(n.kids); i++ {
		if !n.kids[i].from(p, yield) {
			return false
		}
	}
	return true
}

// backward yields the entries in the reverse order; false once yield has returned
// that.
func (n *page[V]) backward(yield func(Prefix, V) bool) bool {
	for i := len(n.kids) - 1; i >= 0; i-- {
		if !n.kids[i].backward(yield) {
			return false
		}
	}
	for i := len(n.vals) - 1; i >= 0; i-- {
		if !yield(n.key(i), n.vals[i]) {
			return false
		}
	}
	return true
}

// The following return a slice of exactly the length it needs.

func inserted[T any](s []T, i int, v T) []T {
	out := make([]T, len(s)+1)
	copy(out, s[:i])
	out[i] = v
	copy(out[i+1:], s[i:])
	return out
}

func replaced[T any](s []T, i int, v T) []T {
	out := joined(s, nil)
	out[i] = v
	return out
}

func removedAt[T any](s []T, i int) []T { return joined(s[:i], s[i+1:]) }

func joined[T any](a, b []T) []T {
	out := make([]T, len(a)+len(b))
	copy(out, a)
	copy(out[len(a):], b)
	return out
}
