package scope

import "slices"

const (
	// classes is how many parts the scopes of a bucket are in by their hashes, each
	// with a pilot: one or two scopes in each, as meanBucket is. With more in each,
	// no pilot is found where few slots are free.
	classes = 32
	// maxClass is how many scopes a class has at most. Chance does not bring so many
	// together, prefixes made to collide do.
	maxClass = 16
	// maxBucket is how many scopes a bucket has at most, three times what one has on average
	// before it is split: so that nobody can make changes as slow as he likes.
	maxBucket = 6 * meanBucket
	// ask is the pilot of a class that has no scopes in the bucket, as they do not fit:
	// the index has them. It stays so, also in both halves of a split, until the
	// table is built anew, as only the index could say what is left.
	ask = 255
)

// bucket is a table of scopes in which a hash has one place, so that a look-up reads one
// slot: there is no search whose end the processor would have to guess. It is a
// perfect hash of its scopes, by displacement (Fox et al. 1992; Belazzougui et al.
// 2009): each class of scopes has a pilot, a number that was found by trial, with
// which each of the class has a slot for itself. A bucket is never changed.
//
// It has 64 bytes, and a look-up reads one cache line of it: before the segment the allocator puts
// a word, which moves held, and nothing else, into the next line.
type bucket struct {
	pilots [classes]uint8
	slots  []slot
	held   int // scopes in the slots
}

// slot is free if it has no scope.
type slot struct {
	words
	scope *Scope
}

// classOf is the class in which a hash belongs. It is of other bits than the bucket's number.
func classOf(h uint64) int { return int(h >> 59) }

// place is the one of n slots that a hash has with a pilot.
func place(h uint64, pilot uint8, n int) uint64 {
	return (h ^ uint64(pilot)*salt) * salt >> 32 * uint64(n) >> 32
}

// slot returns the one in which a hash is, if it is in the bucket. There is at least one.
func (b *bucket) slot(h uint64) *slot { return &b.slots[place(h, b.pilots[classOf(h)], len(b.slots))] }

// asks reports whether it is not known if the bucket has a hash: the index has to be asked.
func (b *bucket) asks(h uint64) bool { return b.pilots[classOf(h)] == ask }

// find returns the slot of s, nil if it is not in the bucket.
func (b *bucket) find(s *Scope) *slot {
	w := wordsOf([]byte(s.Prefix))
	at := b.slot(w.hash())
	if at.differ(w) || at.scope.Prefix != s.Prefix {
		return nil
	}
	return at
}

// with returns the bucket that also holds what is in added.
func (b *bucket) with(added slot) bucket {
	g := classOf(added.hash())
	if b.pilots[g] == ask {
		return *b
	}
	if b.held < min(len(b.slots), maxBucket) {
		out := b.copied()
		if out.put(g, append(out.take(g), added)) {
			return out
		}
	}
	return newBucket(b.pilots, append(b.scopes(all), added))
}

// without returns the bucket that does not hold s.
func (b *bucket) without(s *Scope) bucket {
	at := b.find(s)
	if at == nil {
		return *b // the index has it
	}
	if b.held-1 < len(b.slots)*3/4 {
		return newBucket(b.pilots, b.scopes(func(o *slot) bool { return o != at }))
	}
	out := b.copied()
	*out.find(s) = slot{}
	out.held--
	return out
}

// replace returns the bucket in which s stands for the scope with its prefix.
func (b *bucket) replace(s *Scope) bucket {
	out := b.copied()
	if at := out.find(s); at != nil {
		at.scope = s
	}
	return out
}

// copied is one whose slots may be set.
func (b *bucket) copied() bucket { return bucket{b.pilots, slices.Clone(b.slots), b.held} }

// scopes are the slots of b for which keep is true.
func (b *bucket) scopes(keep func(*slot) bool) []slot {
	out := make([]slot, 0, b.held+1)
	for i := range b.slots {
		if s := &b.slots[i]; s.scope != nil && keep(s) {
			out = append(out, *s)
		}
	}
	return out
}

func all(*slot) bool { return true }

// newBucket returns the bucket of these scopes, but for classes that are not in it
// by their pilots, or that cannot be.
func newBucket(pilots [classes]uint8, of []slot) bucket {
	for room := roomFor(len(of)); ; room += room/4 + 1 {
		b := bucket{pilots: pilots, slots: roomy(room)}
		if b.fill(of, room > 2*min(len(of), maxBucket)+classes) {
			return b
		}
	}
}

// roomFor is in how many slots n scopes are put: in more than there are, and in one at least.
func roomFor(n int) int {
	n = min(n, maxBucket)
	return n + n/32 + 1
}

// roomy makes slots, those of the allocator's rounding too.
func roomy(n int) []slot {
	s := slices.Grow([]slot(nil), n)
	return s[:cap(s)]
}

// fill puts scopes into the slots of a new bucket. The largest classes come first: a
// single scope has a place wherever a slot is free. It reports false if there are too few
// slots, which a last attempt makes the index's matter.
func (b *bucket) fill(of []slot, last bool) bool {
	var sizes [classes]int
	for i := range of {
		sizes[classOf(of[i].hash())]++
	}
	var ends [classes]int
	end, largest, total := 0, 0, 0
	for g, n := range sizes {
		if n > maxClass || total+n > maxBucket {
			b.pilots[g] = ask
		} else if b.pilots[g] != ask {
			total += n
		}
		ends[g], end = end, end+n
		largest = max(largest, n)
	}
	sorted := make([]slot, len(of))
	for i := range of {
		g := classOf(of[i].hash())
		sorted[ends[g]] = of[i]
		ends[g]++
	}
	for size := min(largest, maxClass); size > 0; size-- {
		for g, n := range sizes {
			if n != size || b.pilots[g] == ask || b.put(g, sorted[ends[g]-n:ends[g]]) {
				continue
			}
			if !last {
				return false
			}
			b.pilots[g] = ask
		}
	}
	return true
}

// take removes the scopes of a class and returns them.
func (b *bucket) take(g int) []slot {
	var taken []slot
	for i := range b.slots {
		if s := &b.slots[i]; s.scope != nil && classOf(s.hash()) == g {
			taken = append(taken, *s)
			*s = slot{}
		}
	}
	b.held -= len(taken)
	return taken
}

// put gives the scopes of a class, which are not in b, slots of their own. It reports false, and
// leaves b as it is, if it finds none.
func (b *bucket) put(g int, of []slot) bool {
	if len(of) > maxClass {
		return false
	}
	var hashes [maxClass]uint64
	for i := range of {
		hashes[i] = of[i].hash()
	}
	for pilot := range uint8(ask) {
		n := 0
		for ; n < len(of); n++ {
			s := &b.slots[place(hashes[n], pilot, len(b.slots))]
			if s.scope != nil {
				break
			}
			*s = of[n]
		}
		if n == len(of) {
			b.pilots[g] = pilot
			b.held += n
			return true
		}
		for _, h := range hashes[:n] {
			b.slots[place(h, pilot, len(b.slots))] = slot{}
		}
	}
	return false
}
