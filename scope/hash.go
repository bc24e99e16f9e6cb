package scope

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	// meanBucket is how many scopes a bucket has on average. A change copies a
	// bucket, so that larger ones make changes slower; smaller ones make a
	// directory that no longer fits the cache.
	meanBucket = 64
	// maxBucket is how many scopes a bucket has at most. Chance does not bring so
	// many together, prefixes made to collide do. A bucket with more would make
	// look-ups and changes as slow as somebody wants them to be.
	maxBucket = 8 * meanBucket
	// segmentSize is how many buckets of the directory a change copies.
	segmentSize = 64
	// inline is how many bytes of a prefix stand in its slot: a look-up of such a
	// one reads nothing else.
	inline = 23
	// notInline stands in the slot of a longer one, where no slot of a shorter one
	// has it: the highest byte of that is the length.
	notInline = ^uint64(0)
)

// hashTable finds the scope of a key by the hashes of the key's prefixes, of the
// lengths that occur, see [lengths]. The [Index] beside it is the truth: where the
// table has no answer, the index is asked.
//
// It is made by linear hashing (Litwin 1980): the number of buckets grows and
// shrinks by one, so that no change has to move more than two of them. Extendible
// hashing would at times double its directory. A hashTable is never changed.
type hashTable struct {
	segments []*segment
	buckets  int    // how many there are
	mask     uint64 // of the hash's bits that number a bucket: the least that can number them all
	n        int    // scopes held
	lengths  lengths
}

// segment is a part of the directory, in which the buckets stand in order.
type segment [segmentSize]bucket

// bucket is an open-addressing hash table of its own, with linear probing. At
// least one slot is free, unless it has none.
type bucket struct {
	slots []slot
	// crowded: too many scopes belong here, and it holds none of them; the index
	// has them. It stays so, also in both halves of a split, until the table is
	// built anew, as only the index could say what is left.
	crowded bool
}

// slot is free if it has no scope.
type slot struct {
	words
	scope *Scope
}

// words are what a slot is compared by: the bytes of the prefix, followed by zeros,
// and in the highest byte of the last its length; for a prefix that is longer than
// [inline] its hash, its length and [notInline].
//
// They have names as the compiler keeps no array in registers.
type words struct{ a, b, c uint64 }

// hash is the one of the prefix. It has no secret in it, as equal states are to be
// made in equal ways everywhere: who makes prefixes collide is stopped by [maxBucket].
func (w words) hash() uint64 {
	if w.c == notInline {
		return w.a
	}
	return mix(mix(w.a^salt0, w.b^salt1)^w.c, salt2)
}

// Odd numbers with as many ones as zeros in no order, as of wyhash.
const (
	salt0 = 0xa0761d6478bd642f
	salt1 = 0xe7037ed1a0b428db
	salt2 = 0x8ebc6af09c88c6e3
)

// mix multiplies to 128 bits, so that each bit of the result depends on all.
func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// prober makes the words of a key's prefixes, one after the other, each longer than
// the last: what they have in common is hashed once.
type prober struct {
	key    []byte
	head   words  // its first 24 bytes, followed by zeros
	sum    uint64 // the hash of its first summed bytes
	summed int
}

func probe(key []byte) prober {
	p := prober{key: key, sum: salt0}
	if len(key) < 24 {
		var padded [24]byte
		copy(padded[:], key)
		key = padded[:]
	}
	p.head = words{binary.LittleEndian.Uint64(key), binary.LittleEndian.Uint64(key[8:]), binary.LittleEndian.Uint64(key[16:])}
	return p
}

// prefix returns the words of the key's first size bytes.
func (p *prober) prefix(size int) words {
	if size <= inline {
		return words{p.head.a & first(size), p.head.b & first(size-8), p.head.c&first(size-16) | uint64(size)<<56}
	}
	return p.long(size)
}

// long is prefix of more than [inline] bytes.
func (p *prober) long(size int) words {
	for ; p.summed+8 <= size; p.summed += 8 {
		p.sum = mix(p.sum^binary.LittleEndian.Uint64(p.key[p.summed:]), salt1)
	}
	last := binary.LittleEndian.Uint64(p.key[size-8:])
	return words{mix(p.sum^last, salt2^uint64(size)), uint64(size), notInline}
}

// first has the bits of a word's first n bytes.
func first(n int) uint64 { return 1<<(8*uint(max(n, 0))) - 1 }

// wordsOf are those of a whole prefix.
func wordsOf(p Prefix) words {
	of := probe([]byte(p))
	return of.prefix(len(p))
}

// lookup returns the scope that key is under, nil if there is none. It is not sure
// where the index has to be asked.
func (t *hashTable) lookup(key []byte) (s *Scope, sure bool) {
	if len(key) == 0 {
		return nil, true // no table of several scopes has the empty prefix
	}
	p, probes := probe(key), 0
	for _, g := range t.lengths.groups {
		found := g.of(key)
		if probes += bits.OnesCount64(found); probes > maxProbes {
			return nil, false
		}
		for ; found != 0; found &= found - 1 {
			w := p.prefix(int(g.sizes[bits.TrailingZeros64(found)]))
			h := w.hash()
			b := t.bucket(t.number(h))
			if b.crowded {
				return nil, false
			}
			if i := b.find(w, h, key); i >= 0 {
				return b.slots[i].scope, true
			}
		}
	}
	return nil, true
}

// number is that of the bucket in which a hash belongs.
func (t *hashTable) number(h uint64) int {
	i := h & t.mask
	if i >= uint64(t.buckets) { // which is not there yet: it is still one with its lower half
		i &= t.mask >> 1
	}
	return int(i)
}

func (t *hashTable) bucket(i int) *bucket { return &t.segments[i/segmentSize][i%segmentSize] }

// find returns the place of the slot with these words, -1 if there is none.
func (b *bucket) find(w words, h uint64, key []byte) int {
	if len(b.slots) == 0 {
		return -1
	}
	for i := place(h, len(b.slots)); b.slots[i].scope != nil; {
		if s := &b.slots[i]; s.a == w.a && s.b == w.b && s.c == w.c && (w.c != notInline || s.scope.Prefix.Matches(key)) {
			return i
		}
		if i++; i == len(b.slots) {
			i = 0
		}
	}
	return -1
}

// place is where a hash is looked for first in n slots. It is of other bits than the
// bucket's number.
func place(h uint64, n int) int { return int(h >> 32 * uint64(n) >> 32) }

// newBucket has room for n scopes, with a seventh of the slots left free or more: a
// fifth made a table that was declared in a random order larger than 200 B a scope.
func newBucket(n int) bucket {
	if n == 0 {
		return bucket{}
	}
	slots := slices.Grow([]slot(nil), n+n/6+1)
	return bucket{slots: slots[:cap(slots)]} // the allocator's rounding is of use
}

// add puts a slot into a new bucket.
func (b *bucket) add(s slot) {
	i := place(s.hash(), len(b.slots))
	for b.slots[i].scope != nil {
		if i++; i == len(b.slots) {
			i = 0
		}
	}
	b.slots[i] = s
}

// merge returns a bucket of the slots of others for which keep is true.
func merge(keep func(*slot) bool, of ...bucket) bucket {
	n := 0
	for _, b := range of {
		if b.crowded {
			return b
		}
		for i := range b.slots {
			if s := &b.slots[i]; s.scope != nil && keep(s) {
				n++
			}
		}
	}
	if n > maxBucket {
		return bucket{crowded: true}
	}
	out := newBucket(n)
	for _, b := range of {
		for i := range b.slots {
			if s := &b.slots[i]; s.scope != nil && keep(s) {
				out.add(*s)
			}
		}
	}
	return out
}

func all(*slot) bool { return true }

// edit is a copy of the table in which buckets may be set.
func (t *hashTable) edit() *hashTable {
	out := *t
	out.segments = slices.Clone(t.segments)
	return &out
}

// set replaces a bucket, or puts one behind the last, in a copy made by edit.
func (t *hashTable) set(i int, b bucket) {
	at := i / segmentSize
	if at == len(t.segments) {
		t.segments = append(t.segments, new(segment))
	}
	s := *t.segments[at]
	s[i%segmentSize] = b
	t.segments[at] = &s
}

// with returns the table that also holds s.
func (t *hashTable) with(s *Scope) *hashTable {
	out := t.edit()
	added := slot{wordsOf(s.Prefix), s}
	i := out.number(added.hash())
	out.set(i, merge(all, *t.bucket(i), bucket{slots: []slot{added}}))
	out.lengths = out.lengths.with(s.Prefix)
	if out.n++; out.n > out.buckets*meanBucket {
		out.split()
	}
	return out
}

// replace returns the table in which s stands for the scope with its prefix.
func (t *hashTable) replace(s *Scope) *hashTable {
	w := wordsOf(s.Prefix)
	h := w.hash()
	i := t.number(h)
	b := *t.bucket(i)
	at := b.find(w, h, []byte(s.Prefix))
	if at < 0 {
		return t // the bucket is crowded
	}
	b.slots = slices.Clone(b.slots)
	b.slots[at].scope = s
	out := t.edit()
	out.set(i, b)
	return out
}

// without returns the table that does not hold s, which it holds.
func (t *hashTable) without(s *Scope) *hashTable {
	out := t.edit()
	w := wordsOf(s.Prefix)
	i := out.number(w.hash())
	out.set(i, merge(func(o *slot) bool { return o.scope != s }, *t.bucket(i)))
	out.lengths = out.lengths.without(s.Prefix)
	if out.n--; out.n < out.buckets*meanBucket/2 && out.buckets > 1 { // far from where it would be split again
		out.join()
	}
	return out
}

// split makes one bucket more, of a part of an earlier one.
func (t *hashTable) split() {
	last := t.buckets
	t.resize(last + 1)
	i := last & int(t.mask>>1)
	old := *t.bucket(i)
	t.set(i, merge(func(s *slot) bool { return t.number(s.hash()) == i }, old))
	t.set(last, merge(func(s *slot) bool { return t.number(s.hash()) == last }, old))
}

// join gives the last bucket back to the one it was split from.
func (t *hashTable) join() {
	last := t.buckets - 1
	i := last & int(t.mask>>1)
	t.set(i, merge(all, *t.bucket(i), *t.bucket(last)))
	t.set(last, bucket{})
	t.resize(last)
	t.segments = t.segments[:(last+segmentSize-1)/segmentSize]
}

func (t *hashTable) resize(buckets int) {
	t.buckets, t.mask = buckets, 1<<bits.Len(uint(buckets-1))-1
}

// hashed makes the table of an index in one go.
func hashed(x Index[*Scope]) *hashTable {
	t := &hashTable{n: x.Len()}
	t.resize(max(1, (x.Len()+meanBucket-1)/meanBucket))
	sizes := make([]int, t.buckets)
	var seen tallies
	for _, s := range x.All() {
		w := wordsOf(s.Prefix)
		sizes[t.number(w.hash())]++
		seen.add(s.Prefix)
	}
	t.lengths = seen.lengths()
	for i, n := range sizes {
		if i%segmentSize == 0 {
			t.segments = append(t.segments, new(segment))
		}
		if b := t.bucket(i); n > maxBucket {
			b.crowded = true
		} else {
			*b = newBucket(n)
		}
	}
	for _, s := range x.All() {
		w := wordsOf(s.Prefix)
		if b := t.bucket(t.number(w.hash())); !b.crowded {
			b.add(slot{w, s})
		}
	}
	return t
}
