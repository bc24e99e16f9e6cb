package main

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// generator makes prefixes that do not overlap.
type generator struct {
	rng  *rand.Rand
	draw func(rng *rand.Rand, i int) string // the prefix number i
}

// declared is a set of prefixes, with keys that are to be asked for.
type declared struct {
	prefixes []string
	others   []string // of the same kind, and not declared
	rng      *rand.Rand
}

// crowd draws n prefixes, and a tenth as many others.
func (g generator) crowd(n int) declared {
	var all []string
	for drawn := 0; len(all) < n+n/10+1; {
		for range n + n/10 + 1 - len(all) {
			all = append(all, g.draw(g.rng, drawn))
			drawn++
		}
		slices.Sort(all)
		kept := all[:1]
		for _, p := range all[1:] {
			if !strings.HasPrefix(p, kept[len(kept)-1]) {
				kept = append(kept, p)
			}
		}
		all = kept
	}
	g.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return declared{all[:n], all[n:], g.rng}
}

// families begin the prefixes as services name theirs.
var families = []string{"app", "cart", "order", "tenant", "session", "billing"}

// dotted is such a prefix: a family and an id. They have 12 to 26 bytes, 19.5 on average.
func dotted(rng *rand.Rand, _ int) string {
	b := append([]byte(families[rng.IntN(len(families))]), ':')
	return string(append(letters(rng, b, 8+rng.IntN(10)), ':'))
}

// ofLengths draws prefixes of n lengths, in turn: from 1, where those of one and of two bytes begin with what no other
// does.
func ofLengths(n int, colon bool) func(*rand.Rand, int) string {
	return func(rng *rand.Rand, i int) string {
		switch size := 1 + i%n; {
		case size < 3:
			return []string{"0", "1:"}[size-1]
		case colon:
			return string(append(letters(rng, nil, size-1), ':'))
		default:
			return string(letters(rng, nil, size))
		}
	}
}

func letters(rng *rand.Rand, b []byte, n int) []byte {
	for range n {
		b = append(b, byte('a'+rng.IntN(26)))
	}
	return b
}

// questions are keys in one piece of memory, in the order in which they are asked: what is measured is the look-up, and
// not the way to the key.
type questions struct {
	bytes []byte
	ends  []uint32
	hits  int
}

// ask draws n keys, nine of ten under a scope.
func (c declared) ask(n int) *questions {
	q := &questions{}
	for i := range n {
		of := c.prefixes
		if i%10 == 0 {
			of = c.others
		} else {
			q.hits++
		}
		q.bytes = append(q.bytes, of[c.rng.IntN(len(of))]...)
		q.bytes = append(letters(c.rng, append(q.bytes, "user:"...), 6), ":cart"...)
		q.ends = append(q.ends, uint32(len(q.bytes)))
	}
	return q
}

func (q *questions) key(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = q.ends[i-1]
	}
	return q.bytes[from:q.ends[i]]
}
