package scope

import (
	"maps"
	"math/bits"
	"slices"
)

// maxProbes is how many prefixes of a key are looked for by hash. With more, each
// a cache miss that the others do not need, the index is as fast.
const maxProbes = 8

// groupSize is how many lengths are looked at together: as many as a word has bits.
const groupSize = 64

// lengths says at which lengths a key can have a prefix that is declared: at those
// that occur, if the first and the last byte occur there.
type lengths struct {
	groups  []*group
	tallies []*tally // of each length, the short ones first
}

// group is up to [groupSize] lengths that follow each other. Most changes leave it
// as it is.
type group struct {
	n     int
	sizes [groupSize]uint32
	// The lengths at which a byte is the first, or the last, of a prefix.
	first, last [256]uint64
}

// tally counts the prefixes of a length.
type tally struct {
	size, n     int
	first, last [256]int32
}

// of returns the lengths at which a scope may hold key, which is not empty, as bits:
// the lowest is the shortest. Nothing in it depends on a guess of the processor but
// the number of lengths.
func (g *group) of(key []byte) (found uint64) {
	for left := g.first[key[0]]; left != 0; left &= left - 1 {
		end := uint(g.sizes[bits.TrailingZeros64(left)%groupSize] - 1) // unsigned: then one comparison checks it and the bounds
		if end >= uint(len(key)) {
			break
		}
		found |= g.last[key[end]] & (left & -left)
	}
	return found
}

// with returns the lengths with one prefix more.
func (l lengths) with(p Prefix) lengths { return l.counted(p, 1) }

// without returns the lengths with one prefix less, which was counted.
func (l lengths) without(p Prefix) lengths { return l.counted(p, -1) }

func (l lengths) counted(p Prefix, d int32) lengths {
	i, found := slices.BinarySearchFunc(l.tallies, len(p), func(t *tally, size int) int { return t.size - size })
	t := tally{size: len(p)}
	if found {
		t = *l.tallies[i]
	}
	t.count(p, d)
	switch {
	case t.n == 0:
		return grouped(removedAt(l.tallies, i))
	case !found:
		return grouped(inserted(l.tallies, i, &t))
	}
	l.tallies = replaced(l.tallies, i, &t)
	if edge := max(d, 0); t.first[p[0]] == edge || t.last[p[len(p)-1]] == edge { // the first of its kind came, or the last one went
		g := *l.groups[i/groupSize]
		g.mark(i%groupSize, &t, p[0])
		g.mark(i%groupSize, &t, p[len(p)-1])
		l.groups = replaced(l.groups, i/groupSize, &g)
	}
	return l
}

func (t *tally) count(p Prefix, d int32) {
	t.n += int(d)
	t.first[p[0]] += d
	t.last[p[len(p)-1]] += d
}

// grouped makes the groups of tallies.
func grouped(of []*tally) lengths {
	l := lengths{tallies: of}
	for i, t := range of {
		if i%groupSize == 0 {
			l.groups = append(l.groups, &group{})
		}
		l.groups[i/groupSize].add(t)
	}
	return l
}

func (g *group) add(t *tally) {
	g.sizes[g.n] = uint32(t.size)
	for b := range 256 {
		g.mark(g.n, t, byte(b))
	}
	g.n++
}

// mark says of the length number i whether b is the first or the last byte of a
// prefix.
func (g *group) mark(i int, t *tally, b byte) {
	bit := uint64(1) << i
	g.first[b] &^= bit
	g.last[b] &^= bit
	if t.first[b] > 0 {
		g.first[b] |= bit
	}
	if t.last[b] > 0 {
		g.last[b] |= bit
	}
}

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
