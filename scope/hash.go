package scope

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	// meanBucket is how many scopes a bucket has on average, before the one that is
	// next to be split has twice as many. A change copies a bucket, so that larger ones make changes slower;
	// smaller ones make a directory that no longer fits the cache.
	meanBucket = 32
	// segmentSize is how many buckets, and partSize how many segments, of the
	// directory a change copies.
	segmentSize = 16
	partSize    = 32
	partBuckets = partSize * segmentSize
)

// hashTable finds the scope of a key by the hashes of the key's prefixes, of the
// lengths that occur, see [lengths]. The [Index] beside it is the truth: where the
// table has no answer, the index is asked.
//
// It is made by linear hashing (Litwin 1980): the number of buckets grows and
// shrinks by one, so that no change has to move more than two of them. Extendible
// hashing would at times double its directory. A hashTable is never changed.
type hashTable struct {
	parts   []*part
	buckets int    // how many there are
	mask    uint64 // of the hash's bits that number a bucket: the least that can number them all
	n       int    // scopes held
	lengths lengths
}

// part and segment are parts of the directory, in which the buckets stand in order.
type (
	part    [partSize]*segment
	segment [segmentSize]bucket
)

// find returns the scope that key is under, nil if there is none.
//
// It looks for the shortest prefix that the key can have, which it has as a rule, and leaves all
// else to search. What it costs where the table does not fit the cache is decided by
// how few instructions there are between the memory accesses of one look-up and of the next: a processor that waits
// for the one goes on to the other, if it can see as far. So this has no loop, no
// call on its usual way, and no branch but those that are guessed right as a
// rule: none that depends on where in a bucket a scope is.
func (c *contents) find(key []byte) *Scope {
	if c == nil || len(c.hash.lengths.groups) == 0 || len(key) == 0 {
		return c.search(key)
	}
	head, within := words{}, ^uint32(0) // within has the lengths up to the key's
	if len(key) >= headSize {
		head = words{binary.LittleEndian.Uint64(key), binary.LittleEndian.Uint64(key[8:]), binary.LittleEndian.Uint64(key[16:]), binary.LittleEndian.Uint64(key[24:])}
	} else {
		head, within = shortHead(key), 1<<len(key)-1
	}
	g := c.hash.lengths.groups[0]
	ends := zeros(head.b^g.end)<<8 | zeros(head.c^g.end)<<16 | zeros(head.d^g.end)<<24
	if g.early {
		ends |= zeros(head.a ^ g.end)
	}
	size := uint(bits.TrailingZeros32(within&g.first[key[0]]&uint32(ends))) + 1
	if size > inline { // or there is none
		return c.search(key)
	}
	w := head.prefix(size)
	hash := w.shortHash()
	at := c.hash.bucket(c.hash.number(hash)).slot(hash)
	if at.differ(w) {
		return c.search(key)
	}
	return at.scope
}

// search is find for keys of all kinds.
func (c *contents) search(key []byte) *Scope {
	if c == nil {
		return nil
	}
	if c.hash.buckets > 0 {
		if s, sure := c.hash.search(key); sure {
			return s
		}
	}
	p, s, ok := c.index.floor(key) // what lies between a prefix and a key under it would overlap the prefix
	if !ok || !p.Matches(key) {
		return nil
	}
	return s.Scope
}

// search returns the scope that key is under, nil if there is none. It is not sure
// where the index has to be asked.
func (t *hashTable) search(key []byte) (s *Scope, sure bool) {
	for i, probes := 0, 0; i < len(t.lengths.groups) && i*groupSize < len(key); i++ {
		found := t.lengths.groups[i].of(key, key[i*groupSize:])
		if probes += bits.OnesCount32(found); probes > maxProbes {
			return nil, false
		}
		for ; found != 0; found &= found - 1 {
			w := wordsOf(key[:i*groupSize+bits.TrailingZeros32(found)+1])
			h := w.hash()
			b := t.bucket(t.number(h))
			if b.asks(h) {
				return nil, false
			}
			if at := b.slot(h); !at.differ(w) && (w.d != notInline || at.scope.Prefix.Matches(key)) {
				return at.scope, true
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

func (t *hashTable) bucket(i int) *bucket {
	at := uint(i)
	return &t.parts[at/partBuckets][at/segmentSize%partSize][at%segmentSize]
}

// edit is a copy of the table in which buckets may be set.
func (t *hashTable) edit() hashTable {
	out := *t
	out.parts = slices.Clone(t.parts)
	return out
}

// set replaces a bucket, or puts one behind the last, in a copy made by edit.
func (t *hashTable) set(i int, b bucket) {
	var p part
	if at := i / partBuckets; at == len(t.parts) {
		t.parts = append(t.parts, nil)
	} else {
		p = *t.parts[at]
	}
	var s segment
	if old := p[i/segmentSize%partSize]; old != nil {
		s = *old
	}
	s[i%segmentSize] = b
	p[i/segmentSize%partSize] = &s
	t.parts[i/partBuckets] = &p
}

// with returns the table that also holds s.
func (t *hashTable) with(s *Scope) hashTable {
	out := t.edit()
	added := slot{wordsOf([]byte(s.Prefix)), s}
	i := out.number(added.hash())
	out.set(i, t.bucket(i).with(added))
	out.lengths = out.lengths.with(s.Prefix)
	if out.n++; out.n > out.buckets*meanBucket {
		out.split()
	}
	return out
}

// replace returns the table in which s stands for the scope with its prefix.
func (t *hashTable) replace(s *Scope) hashTable {
	out := t.edit()
	w := wordsOf([]byte(s.Prefix))
	i := t.number(w.hash())
	out.set(i, t.bucket(i).replace(s))
	return out
}

// without returns the table that does not hold s, which it holds.
func (t *hashTable) without(s *Scope) hashTable {
	out := t.edit()
	w := wordsOf([]byte(s.Prefix))
	i := out.number(w.hash())
	out.set(i, t.bucket(i).without(s))
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
	for _, at := range []int{i, last} {
		t.set(at, newBucket(old.pilots, old.scopes(func(s *slot) bool { return t.number(s.hash()) == at })))
	}
}

// join gives the last bucket back to the one it was split from.
func (t *hashTable) join() {
	last := t.buckets - 1
	i := last & int(t.mask>>1)
	a, b := t.bucket(i), t.bucket(last)
	pilots := a.pilots
	for g, pilot := range b.pilots {
		if pilot == ask {
			pilots[g] = ask
		}
	}
	t.set(i, newBucket(pilots, append(a.scopes(all), b.scopes(all)...)))
	t.set(last, bucket{})
	t.resize(last)
	t.parts = t.parts[:(last+partBuckets-1)/partBuckets]
}

func (t *hashTable) resize(buckets int) {
	t.buckets, t.mask = buckets, 1<<bits.Len(uint(buckets-1))-1
}

// hashed makes the table of an index in one go.
func hashed(x Index[keyed]) hashTable {
	t := hashTable{n: x.Len()}
	t.resize(max(1, (x.Len()+meanBucket-1)/meanBucket))
	sizes := make([]int, t.buckets)
	var seen tallies
	for _, s := range x.All() {
		w := wordsOf([]byte(s.Prefix))
		sizes[t.number(w.hash())]++
		seen.add(s.Prefix)
	}
	t.lengths = seen.lengths()
	for i, n := range sizes {
		if i%partBuckets == 0 {
			t.parts = append(t.parts, new(part))
		}
		if i%segmentSize == 0 {
			t.parts[i/partBuckets][i/segmentSize%partSize] = new(segment)
		}
		t.bucket(i).slots = make([]slot, 0, n)
	}
	for _, s := range x.All() {
		w := wordsOf([]byte(s.Prefix))
		b := t.bucket(t.number(w.hash()))
		b.slots = append(b.slots, slot{w, s.Scope})
	}
	for i := range sizes {
		b := t.bucket(i)
		*b = newBucket(b.pilots, b.slots)
	}
	return t
}
