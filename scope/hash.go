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
	meanBucket = 32
	// maxBucket is how many scopes a bucket has at most: as many as one byte can
	// number. Chance does not bring so many together, prefixes made to collide do. A
	// bucket with more would make look-ups and changes as slow as somebody wants
	// them to be.
	maxBucket = 255
	// bucketGroups is how many groups a bucket has. With fewer, a group's tags would
	// no longer be in one word as a rule.
	bucketGroups = 16
	// segmentSize is how many buckets of the directory a change copies.
	segmentSize = 32
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

// bucket has its slots without gaps, in [bucketGroups] groups by the hash. A
// look-up compares the tags of one group, and then the slot whose tag is equal: so
// it does not read a slot in vain, but for one in a hundred or so. That is what
// makes it fast: bucket and tags are in the cache also when the slots are not, and
// what the processor guesses wrong, it knows before it waits for the slot.
//
// Open addressing read slot after slot, where no guess of the end was good, and
// left a seventh of the memory free.
type bucket struct {
	slots  []slot
	tags   string                  // of each slot, followed by tagsTail
	starts [bucketGroups + 1]uint8 // where each group begins; the last is the number of slots
	// crowded: too many scopes belong here, and it holds none of them; the index
	// has them. It stays so, also in both halves of a split, until the table is
	// built anew, as only the index could say what is left.
	crowded bool
}

// slot is one scope.
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

// number is that of the bucket in which a hash belongs: it is not there yet if the
// number is too high, and still one with its lower half. It is no branch, as the
// processor could not guess it.
func (t *hashTable) number(h uint64) int {
	i := h & t.mask
	there := uint64(int64(i-uint64(t.buckets)) >> 63) // all ones, or 0
	return int(i & (t.mask>>1 | there))
}

func (t *hashTable) bucket(i int) *bucket { return &t.segments[i/segmentSize][i%segmentSize] }

// groupOf is that of a hash in its bucket, which is of other bits than the bucket's
// number, and tag has bits of neither.
func groupOf(h uint64) int { return int(h >> 60) }
func tag(h uint64) uint8   { return uint8(h >> 52) }

// find returns the place of the slot with these words, -1 if there is none.
func (b *bucket) find(w words, h uint64, key []byte) int {
	g := groupOf(h)
	at, end := int(b.starts[g]), int(b.starts[g+1])
	for ; at < end; at += len(tagsTail) + 1 {
		for same := equal(tagsAt(b.tags, at), tag(h), end-at); same != 0; same &= same - 1 {
			i := at + bits.TrailingZeros64(same)/8
			if s := &b.slots[i]; s.a == w.a && s.b == w.b && s.c == w.c && (w.c != notInline || s.scope.Prefix.Matches(key)) {
				return i
			}
		}
	}
	return -1
}

// tagsTail stands behind the tags, so that eight can be read from each on.
const tagsTail = "\x00\x00\x00\x00\x00\x00\x00"

// tagsAt reads eight tags from a place on.
func tagsAt(tags string, at int) uint64 {
	t := tags[at : at+8]
	return uint64(t[0]) | uint64(t[1])<<8 | uint64(t[2])<<16 | uint64(t[3])<<24 |
		uint64(t[4])<<32 | uint64(t[5])<<40 | uint64(t[6])<<48 | uint64(t[7])<<56
}

// equal has the highest bit of those of the first n tags that are t.
func equal(tags uint64, t uint8, n int) uint64 {
	const ones, low = 0x0101010101010101, 0x7f7f7f7f7f7f7f7f
	x := tags ^ uint64(t)*ones
	return ^(x&low + low | x | low) & first(n)
}

// arranged makes a bucket of slots, which it takes over.
func arranged(slots []slot) bucket {
	switch {
	case len(slots) == 0:
		return bucket{}
	case len(slots) > maxBucket:
		return bucket{crowded: true}
	}
	b := bucket{slots: slots}
	var hashes [maxBucket]uint64
	for i := range slots {
		hashes[i] = slots[i].hash()
		b.starts[groupOf(hashes[i])+1]++
	}
	for g := range bucketGroups {
		b.starts[g+1] += b.starts[g]
	}
	next := b.starts
	for g := range bucketGroups {
		for next[g] < b.starts[g+1] { // what stands here goes to the next place of its group
			i := next[g]
			to := groupOf(hashes[i])
			j := next[to]
			slots[i], slots[j], hashes[i], hashes[j] = slots[j], slots[i], hashes[j], hashes[i]
			next[to]++
		}
	}
	tags := make([]byte, len(slots), maxBucket+len(tagsTail))
	for i := range tags {
		tags[i] = tag(hashes[i])
	}
	b.tags = string(append(tags, tagsTail...))
	return b
}

// with returns the bucket that also has s.
func (b bucket) with(s slot) bucket {
	if b.crowded || len(b.slots) == maxBucket {
		return bucket{crowded: true}
	}
	h := s.hash()
	i := int(b.starts[groupOf(h)])
	if b.tags == "" {
		b.tags = tagsTail
	}
	b.slots = inserted(b.slots, i, s)
	b.tags = b.tags[:i] + string([]byte{tag(h)}) + b.tags[i:]
	b.count(h, 1)
	return b
}

// replacing returns the bucket with another scope in the place i.
func (b bucket) replacing(i int, s *Scope) bucket {
	b.slots = replaced(b.slots, i, slot{b.slots[i].words, s})
	return b
}

// without returns the bucket that does not have the slot in the place i, which is one of h.
func (b bucket) without(i int, h uint64) bucket {
	b.slots = removedAt(b.slots, i)
	b.tags = b.tags[:i] + b.tags[i+1:]
	b.count(h, -1)
	return b
}

// count moves the starts of the groups behind that of h.
func (b *bucket) count(h uint64, d int) {
	for g := groupOf(h) + 1; g < len(b.starts); g++ {
		b.starts[g] += uint8(d)
	}
}

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
	out.set(i, out.bucket(i).with(added))
	out.lengths = out.lengths.with(s.Prefix)
	if out.n++; out.n > out.buckets*meanBucket {
		out.split()
	}
	return out
}

// replace returns the table in which s stands for the scope with its prefix.
func (t *hashTable) replace(s *Scope) *hashTable {
	i, at, _ := t.find(s.Prefix)
	if at < 0 {
		return t // the bucket is crowded
	}
	out := t.edit()
	out.set(i, out.bucket(i).replacing(at, s))
	return out
}

// without returns the table that does not hold p, which it holds.
func (t *hashTable) without(p Prefix) *hashTable {
	out := t.edit()
	if i, at, h := t.find(p); at >= 0 {
		out.set(i, out.bucket(i).without(at, h))
	}
	out.lengths = out.lengths.without(p)
	if out.n--; out.n < out.buckets*meanBucket/2 && out.buckets > 1 { // far from where it would be split again
		out.join()
	}
	return out
}

// find returns the bucket of a prefix, its place there, -1 if it has none, and its hash.
func (t *hashTable) find(p Prefix) (i, at int, h uint64) {
	w := wordsOf(p)
	h = w.hash()
	i = t.number(h)
	return i, t.bucket(i).find(w, h, []byte(p)), h
}

// split makes one bucket more, of a part of an earlier one.
func (t *hashTable) split() {
	last := t.buckets
	t.resize(last + 1)
	i := last & int(t.mask>>1)
	old := *t.bucket(i)
	if old.crowded {
		t.set(last, old)
		return
	}
	var moves [maxBucket]bool
	n := 0
	for j := range old.slots {
		if moves[j] = t.number(old.slots[j].hash()) == last; moves[j] {
			n++
		}
	}
	stay, move := make([]slot, 0, len(old.slots)-n), make([]slot, 0, n)
	for j, s := range old.slots {
		if moves[j] {
			move = append(move, s)
		} else {
			stay = append(stay, s)
		}
	}
	t.set(i, arranged(stay))
	t.set(last, arranged(move))
}

// join gives the last bucket back to the one it was split from.
func (t *hashTable) join() {
	last := t.buckets - 1
	i := last & int(t.mask>>1)
	if a, b := t.bucket(i), t.bucket(last); a.crowded || b.crowded {
		t.set(i, bucket{crowded: true})
	} else {
		t.set(i, arranged(joined(a.slots, b.slots)))
	}
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
			b.slots = make([]slot, 0, n)
		}
	}
	for _, s := range x.All() {
		w := wordsOf(s.Prefix)
		if b := t.bucket(t.number(w.hash())); !b.crowded {
			b.slots = append(b.slots, slot{w, s})
		}
	}
	for i := range sizes {
		if b := t.bucket(i); !b.crowded {
			*b = arranged(b.slots)
		}
	}
	return t
}
