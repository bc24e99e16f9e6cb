package scope

import (
	"maps"
	"math/bits"
	"slices"
)

const (
	// maxProbes is how many prefixes of a key are looked for by hash. With more, each
	// a cache miss that the others do not need, the index is as fast.
	maxProbes = 8
	// groupSize is how many lengths are looked at together: as many as the bytes that are looked
	// at in registers.
	groupSize = headSize
	// maxEnds is with how many last bytes it is faster to look for each of them in a key than
	// for the byte at each length.
	maxEnds = 4
)

// lengths says at which lengths a key can have a prefix that is declared: at those
// that occur, if the first and the last byte occur there.
type lengths struct {
	groups  []*group // of the lengths 1 to 32, 33 to 64, …
	tallies []*tally // of each length, the short ones first
}

// group is of [groupSize] lengths that follow each other; they are bits, the lowest is the
// shortest. Most changes leave it as it is.
type group struct {
	// The lengths at which a byte is the first, or the last, of a prefix.
	first, last [256]uint32
	end         uint64 // the last byte that most prefixes had when the group was made, in each byte: a guess
	early       bool   // it ends prefixes of up to 8 bytes
	ends        []byte // the last bytes, none if they are more than maxEnds
}

// of returns the lengths at which a scope may hold key, whose bytes at the group's lengths are part.
func (g *group) of(key, part []byte) (found uint32) {
	left := g.first[key[0]]
	if len(part) < groupSize {
		left &= 1<<len(part) - 1
	}
	if len(g.ends) == 0 {
		for ; left != 0; left &= left - 1 {
			found |= g.last[part[bits.TrailingZeros32(left)]] & (left & -left)
		}
		return found
	}
	w := shortHead(part)
	for _, end := range g.ends {
		all := uint64(end) * lowBits
		ends := zeros(w.a^all) | zeros(w.b^all)<<8 | zeros(w.c^all)<<16 | zeros(w.d^all)<<24
		found |= g.last[end] & uint32(ends)
	}
	return found & left
}

// tally counts the prefixes of a length.
type tally struct {
	size, n     int
	first, last [256]int32
}

// with returns the lengths with one prefix more.
func (l lengths) with(p Prefix) lengths { return l.counted(p, 1) }

// without returns the lengths with one prefix less, which was counted.
func (l lengths) without(p Prefix) lengths { return l.counted(p, -1) }

func (l lengths) counted(p Prefix, d int32) lengths {
	i, found := slices.BinarySearchFunc(l.tallies, len(p), bySize)
	t := tally{size: len(p)}
	if found {
		t = *l.tallies[i]
	}
	t.count(p, d)
	switch {
	case t.n == 0:
		l.tallies = removedAt(l.tallies, i)
	case !found:
		l.tallies = inserted(l.tallies, i, &t)
	default:
		l.tallies = replaced(l.tallies, i, &t)
	}
	if edge := max(d, 0); t.first[p[0]] == edge || t.last[p[len(p)-1]] == edge { // the first of its kind came, or the last one went
		l.groups = l.marked(&t, p)
	}
	return l
}

// marked returns the groups, in which it is looked anew what p is the first of, or was the last.
func (l lengths) marked(t *tally, p Prefix) []*group {
	out := make([]*group, (l.tallies[len(l.tallies)-1].size-1)/groupSize+1)
	for i := copy(out, l.groups); i < len(out); i++ {
		out[i] = &group{}
	}
	if at := (len(p) - 1) / groupSize; at < len(out) {
		g := *out[at]
		g.mark(t, p[0])
		g.mark(t, p[len(p)-1])
		g.summarise(l.tallies, at)
		out[at] = &g
	}
	return out
}

func (t *tally) count(p Prefix, d int32) {
	t.n += int(d)
	t.first[p[0]] += d
	t.last[p[len(p)-1]] += d
}

// grouped makes the groups of tallies.
func grouped(of []*tally) lengths {
	l := lengths{tallies: of}
	for _, t := range of {
		for len(l.groups) <= (t.size-1)/groupSize {
			l.groups = append(l.groups, &group{})
		}
		for b := range 256 {
			l.groups[len(l.groups)-1].mark(t, byte(b))
		}
	}
	for i, g := range l.groups {
		g.summarise(l.tallies, i)
	}
	return l
}

// mark says whether b is the first or the last byte of a prefix of the length that t counts.
func (g *group) mark(t *tally, b byte) {
	bit := uint32(1) << ((t.size - 1) % groupSize)
	g.first[b] &^= bit
	g.last[b] &^= bit
	if t.first[b] > 0 {
		g.first[b] |= bit
	}
	if t.last[b] > 0 {
		g.last[b] |= bit
	}
}

// summarise lists the last bytes of the group with number i, and chooses one of them.
func (g *group) summarise(of []*tally, i int) {
	from, _ := slices.BinarySearchFunc(of, i*groupSize+1, bySize)
	to, _ := slices.BinarySearchFunc(of, (i+1)*groupSize+1, bySize)
	g.ends, g.end, g.early = nil, 0, false
	most := int32(0)
	for b, at := range g.last {
		if at == 0 {
			continue
		}
		g.ends = append(g.ends, byte(b))
		n := int32(0)
		for _, t := range of[from:to] {
			n += t.last[b]
		}
		if n > most {
			most, g.end, g.early = n, uint64(b)*lowBits, at&0xff != 0
		}
	}
	if len(g.ends) > maxEnds {
		g.ends = nil
	}
}

func bySize(t *tally, size int) int { return t.size - size }

// tallies collects the prefixes of many scopes. Its zero value has seen none.
type tallies struct {
	bySize map[int]*tally
	last   *tally // of prefixes as long as the last one, size bytes
	size   int
}

func (ts *tallies) add(p Prefix) {
	if ts.last == nil || ts.size != len(p) {
		if ts.bySize == nil {
			ts.bySize = map[int]*tally{}
		}
		if ts.bySize[len(p)] == nil {
			ts.bySize[len(p)] = &tally{size: len(p)}
		}
		ts.last, ts.size = ts.bySize[len(p)], len(p)
	}
	ts.last.count(p, 1)
}

func (ts *tallies) lengths() lengths {
	var all []*tally
	for _, size := range slices.Sorted(maps.Keys(ts.bySize)) {
		all = append(all, ts.bySize[size])
	}
	return grouped(all)
}
