package scope

import (
	"encoding/binary"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// shapes make prefix number i of a kind. No two of them overlap, of one kind or of two.
var shapes = map[string]func(i int) string{
	"short":   func(i int) string { return fmt.Sprintf("s%05d:", i) },
	"23":      func(i int) string { return fmt.Sprintf("t%018d%04d", 7, i) },
	"24":      func(i int) string { return fmt.Sprintf("u%019d%04d", 7, i) },
	"long":    func(i int) string { return fmt.Sprintf("long:%030d:%c", i, 'a'+i%26) },
	"lengths": func(i int) string { return "n" + strings.Repeat("y", i%700) + fmt.Sprintf("%05d:", i) },
	"collide": colliding,
	"collide when long": func(i int) string {
		return longColliding(i) + "and so on"
	},
}

// colliding makes prefixes that all have one hash, as somebody can who reads this
// repository: 0 times the second word is 0.
func colliding(i int) string {
	return string(binary.LittleEndian.AppendUint64(nil, salt0)) + fmt.Sprintf("%08d", i)
}

// longColliding does the same for those whose hash takes word after word: the second
// makes what the first has left 0.
func longColliding(i int) string {
	b := binary.LittleEndian.AppendUint64(nil, uint64(i))
	return string(binary.LittleEndian.AppendUint64(b, mix(salt0^uint64(i), salt1)))
}

func TestCollidingCollide(t *testing.T) {
	for _, kind := range []string{"collide", "collide when long"} {
		if a, b := wordsOf(Prefix(shapes[kind](1))), wordsOf(Prefix(shapes[kind](2))); a == b && kind == "collide" || a.hash() != b.hash() {
			t.Errorf("%s: %x and %x have hashes %x and %x; the tests need them equal", kind, a, b, a.hash(), b.hash())
		}
	}
}

// hashSound says which promise of its hash table a table breaks.
func hashSound(t Table) error {
	h := t.hash
	if h == nil {
		if t.Len() >= minHashed {
			return fmt.Errorf("no hash table of %d scopes", t.Len())
		}
		return nil
	}
	if h.n != t.Len() || t.Len() < minHashed/2 || h.buckets < 1 || h.n > h.buckets*meanBucket || h.buckets > 1 && h.n < h.buckets*meanBucket/2 ||
		len(h.segments) != (h.buckets+segmentSize-1)/segmentSize {
		return fmt.Errorf("%d scopes counted, %d held, in %d buckets of %d segments", h.n, t.Len(), h.buckets, len(h.segments))
	}
	if fresh := hashed(t.index); !reflect.DeepEqual(fresh.lengths, h.lengths) {
		return fmt.Errorf("lengths are %+v, made anew %+v", h.lengths.tallies, fresh.lengths.tallies)
	}
	belong, stand := make([]int, h.buckets), make([]int, h.buckets)
	for s := range t.Scopes() {
		w := wordsOf(s.Prefix)
		i := h.number(w.hash())
		belong[i]++
		if b := h.bucket(i); !b.crowded {
			if at := b.find(w, w.hash(), []byte(s.Prefix)); at < 0 || b.slots[at].scope != s {
				return fmt.Errorf("%q is not in bucket %d", s.Prefix, i)
			}
		}
	}
	for i := range h.buckets {
		b := h.bucket(i)
		for _, s := range b.slots {
			if s.scope != nil {
				stand[i]++
			}
		}
		if b.crowded && len(b.slots) > 0 || !b.crowded && stand[i] != belong[i] || stand[i] > maxBucket || stand[i] > 0 && stand[i] == len(b.slots) {
			return fmt.Errorf("bucket %d holds %d in %d slots, crowded %v; %d belong there", i, stand[i], len(b.slots), b.crowded, belong[i])
		}
	}
	return nil
}

// version is a table with what it has to hold.
type version struct {
	table Table
	model map[Prefix]NodeID
}

// check asks for each scope, by a key of its own and by its prefix, and for keys
// beside it.
func (v version) check() error {
	if err := hashSound(v.table); err != nil {
		return err
	}
	if v.table.Len() != len(v.model) {
		return fmt.Errorf("%d scopes, want %d", v.table.Len(), len(v.model))
	}
	for p, writer := range v.model {
		for _, key := range []string{string(p), string(p) + "x", string(p) + strings.Repeat(":y", 40)} {
			if s, ok := v.table.Lookup([]byte(key)); !ok || s.Prefix != p || s.Writer != writer {
				return fmt.Errorf("Lookup(%q) = %+v, want %q of %q", key, s, p, writer)
			}
		}
		for _, key := range []string{string(p[:len(p)-1]), string(p[:len(p)-1]) + "\x00", "x" + string(p), string(p[len(p)/2:])} {
			if s, ok := v.table.Lookup([]byte(key)); ok {
				return fmt.Errorf("Lookup(%q) = %+v, want none", key, s)
			}
		}
	}
	return nil
}

// A table of many scopes, of all lengths and also of prefixes that collide, is a map;
// and what was made of it does not change it.
func TestHashedAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := version{model: map[Prefix]NodeID{}}
		var old []version
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			kind := rapid.SampledFrom(slices.Sorted(maps.Keys(shapes))).Draw(t, "kind")
			first, n := rapid.IntRange(0, 200).Draw(t, "first"), rapid.SampledFrom([]int{1, 10, 70, 300, 700}).Draw(t, "n")
			what := rapid.SampledFrom([]string{"declare", "declare", "replace", "retire", "load"}).Draw(t, "what")
			old = append(old[max(0, len(old)-2):], version{now.table, maps.Clone(now.model)})
			for i := first; i < first+n; i++ {
				now.change(what, New(shapes[kind](i), NodeID(fmt.Sprint(step))))
			}
			if what == "load" {
				now.load()
			}
			if err := now.check(); err != nil {
				t.Fatalf("after %s of %d %s: %v", what, n, kind, err)
			}
		}
		for _, v := range old {
			if err := v.check(); err != nil {
				t.Fatalf("an old version, after all: %v", err)
			}
		}
	})
}

func (v *version) change(what string, s Scope) {
	_, held := v.model[s.Prefix]
	switch what {
	case "declare":
		if next, err := v.table.With(s); err == nil {
			v.table, v.model[s.Prefix] = next, s.Writer
		}
	case "replace":
		if next, ok := v.table.Replace(s); ok || held {
			v.table, v.model[s.Prefix] = next, s.Writer
		}
	case "retire":
		v.table = v.table.Without(s.Prefix)
		delete(v.model, s.Prefix)
	}
}

// load makes the table anew, as a snapshot's load does.
func (v *version) load() {
	var b TableBuilder
	for s := range v.table.Scopes() {
		if _, err := b.Add(*s); err != nil {
			panic(err)
		}
	}
	v.table = b.Table()
}

// Prefixes that are made to collide do not make a bucket large, nor a split endless,
// nor keys of others slow: the index answers for their bucket, and only for it.
func TestCrowdedBucket(t *testing.T) {
	for _, kind := range []string{"collide", "collide when long"} {
		v := version{model: map[Prefix]NodeID{}}
		declare := func(shape string, n int) {
			for i := range n {
				v.change("declare", New(shapes[shape](i), "x"))
			}
			if err := v.check(); err != nil {
				t.Fatalf("%s, %d of %s: %v", kind, n, shape, err)
			}
		}
		crowded := func() (n int) {
			for i := range v.table.hash.buckets {
				if v.table.hash.bucket(i).crowded {
					n++
				}
			}
			return n
		}
		declare("short", 1000)
		declare(kind, maxBucket)
		if n := crowded(); n != 0 && n != 1 {
			t.Fatalf("%s: %d buckets are crowded, want those that collide to be in one", kind, n)
		}
		declare(kind, 3*maxBucket)
		if n := crowded(); n == 0 || n > v.table.hash.buckets/4 {
			t.Fatalf("%s: %d of %d buckets are crowded", kind, n, v.table.hash.buckets)
		}
		declare("short", 20_000)
		for i := range 3 * maxBucket {
			v.change("retire", New(shapes[kind](i), ""))
		}
		v.load()
		if err := v.check(); err != nil {
			t.Fatal(err)
		}
		if n := crowded(); n != 0 {
			t.Errorf("%s: loaded without them, %d buckets are crowded", kind, n)
		}
	}
}

// A table that shrinks gives its buckets, and then its hash table, back.
func TestHashShrinks(t *testing.T) {
	v := version{model: map[Prefix]NodeID{}}
	for i := range 20_000 {
		v.change("declare", New(shapes["short"](i), "x"))
	}
	full := v.table.hash.buckets
	for i := range 20_000 {
		if v.change("retire", New(shapes["short"](i), "")); i%1000 == 0 {
			if err := v.check(); err != nil {
				t.Fatal(err)
			}
		}
		if n := v.table.Len(); n == 1000 && v.table.hash.buckets > full/8 {
			t.Errorf("of %d buckets %d are left with %d scopes", full, v.table.hash.buckets, n)
		}
	}
	if v.table != (Table{}) {
		t.Errorf("emptied, it is %+v", v.table)
	}
}

// A look-up takes no memory, whichever way it goes.
func TestLookupDoesNotAllocate(t *testing.T) {
	var table Table
	for kind := range shapes {
		for i := range 1000 {
			table, _ = table.With(New(shapes[kind](i), "x"))
		}
	}
	for kind, shape := range shapes {
		for _, key := range [][]byte{[]byte(shape(500)), []byte(shape(500) + "more"), []byte(shape(5000))} {
			if n := testing.AllocsPerRun(20, func() { table.Route(key, "x") }); n != 0 {
				t.Errorf("%s: a look-up of %q makes %v allocations", kind, key, n)
			}
		}
	}
}

// A bucket finds its slots from the first place to the last and around its end.
func TestPlace(t *testing.T) {
	for _, n := range []int{1, 2, 81, 640} {
		if low, high := place(0, n), place(^uint64(0), n); low != 0 || high != n-1 {
			t.Errorf("hashes have places %d to %d of %d", low, high, n)
		}
	}
}
