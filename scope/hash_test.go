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
	"short":             func(i int) string { return fmt.Sprintf("s%05d:", i) },
	"zeros":             func(i int) string { return fmt.Sprintf("z%05d\x00\x00\x00", i) },
	"ends":              func(i int) string { return fmt.Sprintf("e%05d%c", i, ":/|"[i%3]) },
	"31":                func(i int) string { return fmt.Sprintf("t%026d%04d", 7, i) },
	"32":                func(i int) string { return fmt.Sprintf("u%027d%04d", 7, i) },
	"long":              func(i int) string { return fmt.Sprintf("long:%038d:%c", i, 'a'+i%26) },
	"lengths":           func(i int) string { return "n" + strings.Repeat("y", i%700) + fmt.Sprintf("%05d:", i) },
	"collide":           colliding,
	"collide when long": longColliding,
}

// colliding makes prefixes that all have one hash, as somebody can who reads this
// repository: their second word takes away what the first adds.
func colliding(i int) string {
	first := binary.LittleEndian.Uint64(fmt.Appendf(nil, "%08d", i))
	return fmt.Sprintf("%08d", i) + string(binary.LittleEndian.AppendUint64(nil, -first*salt))
}

// longColliding does the same for those whose hash takes word after word: the second
// makes what the first has left 0.
func longColliding(i int) string {
	const rest = "and so on, and so on"
	b := binary.LittleEndian.AppendUint64(nil, uint64(i))
	return string(binary.LittleEndian.AppendUint64(b, mix(uint64(i)^uint64(16+len(rest)), salt))) + rest
}

func TestCollidingCollide(t *testing.T) {
	for _, kind := range []string{"collide", "collide when long"} {
		if a, b := wordsOf([]byte(shapes[kind](1))), wordsOf([]byte(shapes[kind](2))); a == b && kind == "collide" || a.hash() != b.hash() {
			t.Errorf("%s: %x and %x have hashes %x and %x; the tests need them equal", kind, a, b, a.hash(), b.hash())
		}
	}
}

// hashSound says which promise of its hash table a table breaks.
func hashSound(t Table) error {
	if t.held == nil {
		return nil
	}
	h := &t.held.hash
	if t.Len() == 1 && h.buckets == 0 {
		return nil
	}
	if h.n != t.Len() || t.Len() < 2 || h.n > h.buckets*meanBucket || h.buckets > 1 && h.n < h.buckets*meanBucket/2 ||
		len(h.parts) != (h.buckets+partBuckets-1)/partBuckets {
		return fmt.Errorf("%d scopes counted, %d held, in %d buckets of %d parts", h.n, t.Len(), h.buckets, len(h.parts))
	}
	fresh := hashed(t.held.index)
	for i, g := range h.lengths.groups { // all is that of a table made anew but for the guess, which is one of the last bytes
		if i < len(fresh.lengths.groups) {
			now := *g
			if end := byte(g.end); g.last[end] != 0 && g.early == (g.last[end]&0xff != 0) && g.end == uint64(end)*lowBits {
				now.end, now.early = fresh.lengths.groups[i].end, fresh.lengths.groups[i].early
			}
			if !reflect.DeepEqual(now, *fresh.lengths.groups[i]) {
				return fmt.Errorf("group %d is %+v, made anew %+v", i, now, *fresh.lengths.groups[i])
			}
		}
	}
	if len(h.lengths.groups) != len(fresh.lengths.groups) || !reflect.DeepEqual(fresh.lengths.tallies, h.lengths.tallies) {
		return fmt.Errorf("lengths are %+v, made anew %+v", h.lengths.tallies, fresh.lengths.tallies)
	}
	belong, stand := make([]int, h.buckets), make([]int, h.buckets)
	for s := range t.Scopes() {
		hash := wordsOf([]byte(s.Prefix)).hash()
		i := h.number(hash)
		b := h.bucket(i)
		if b.asks(hash) {
			continue
		}
		belong[i]++
		if at := b.find(s); at == nil || at.scope != s {
			return fmt.Errorf("%q is not in bucket %d", s.Prefix, i)
		}
	}
	for i := range h.buckets {
		b := h.bucket(i)
		for _, s := range b.slots {
			if s.scope != nil {
				stand[i]++
			}
		}
		if stand[i] != belong[i] || stand[i] != b.held || stand[i] > maxBucket || len(b.slots) == 0 {
			return fmt.Errorf("bucket %d holds %d in %d slots, counted %d; %d belong there", i, stand[i], len(b.slots), b.held, belong[i])
		}
	}
	return nil
}

// asking is how many classes of a table's buckets leave their scopes to the index.
func asking(t Table) (n int) {
	h := &t.held.hash
	for i := range h.buckets {
		for _, pilot := range h.bucket(i).pilots {
			if pilot == ask {
				n++
			}
		}
	}
	return n
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
		for _, key := range []string{string(p[:len(p)-1]), string(p[:len(p)-1]) + string([]byte{p[len(p)-1] ^ 0x80}), "x" + string(p), string(p[len(p)/2:])} {
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
// nor others slow but the few of their class: the index answers for these, and only for them.
func TestCollisions(t *testing.T) {
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
		declare("short", 1000)
		declare(kind, 1)
		if n := asking(v.table); n != 0 {
			t.Fatalf("%s: %d classes ask the index, want none where no hashes are equal", kind, n)
		}
		if s, ok := v.table.Lookup([]byte(shapes[kind](256))); ok {
			t.Fatalf("%s: a key that begins as the scope %+v, and has its hash, is found to be under it", kind, s)
		}
		declare(kind, 2)
		if n := asking(v.table); n != 1 {
			t.Fatalf("%s: %d classes ask the index, want that of the two that collide", kind, n)
		}
		declare(kind, 3*maxBucket)
		if n := asking(v.table); n > v.table.held.hash.buckets {
			t.Fatalf("%s: %d classes of %d buckets ask the index, want one in a bucket at most", kind, n, v.table.held.hash.buckets)
		}
		declare("short", 20_000)
		for i := range 3 * maxBucket {
			v.change("retire", New(shapes[kind](i), ""))
		}
		v.load()
		if err := v.check(); err != nil {
			t.Fatal(err)
		}
		if n := asking(v.table); n != 0 {
			t.Errorf("%s: loaded without them, %d classes ask the index", kind, n)
		}
	}
}

// A table that shrinks gives its buckets, and then its hash table, back.
func TestHashShrinks(t *testing.T) {
	v := version{model: map[Prefix]NodeID{}}
	for i := range 20_000 {
		v.change("declare", New(shapes["short"](i), "x"))
	}
	full := v.table.held.hash.buckets
	for i := range 20_000 {
		if v.change("retire", New(shapes["short"](i), "")); i%1000 == 0 {
			if err := v.check(); err != nil {
				t.Fatal(err)
			}
			if n := asking(v.table); n != 0 {
				t.Fatalf("%d classes ask the index, and nobody made anything collide", n)
			}
		}
		if n := v.table.Len(); n == 1000 && v.table.held.hash.buckets > full/8 {
			t.Errorf("of %d buckets %d are left with %d scopes", full, v.table.held.hash.buckets, n)
		}
	}
	if v.table != (Table{}) {
		t.Errorf("emptied, it is %+v", v.table)
	}
}

// What is retired leaves no length, first or last byte behind.
func TestLengthsShrink(t *testing.T) {
	v := version{model: map[Prefix]NodeID{}}
	kinds := slices.Sorted(maps.Keys(shapes))
	each := func(what string, of []string) {
		for _, kind := range of {
			for i := range 60 {
				v.change(what, New(shapes[kind](i), "x"))
				if i%20 != 19 {
					continue
				}
				if err := v.check(); err != nil {
					t.Fatalf("%s of %s: %v", what, kind, err)
				}
			}
		}
	}
	each("declare", kinds)
	slices.Reverse(kinds)
	each("retire", kinds)
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

// A hash has a place in slots from the first to the last, by the pilot.
func TestPlace(t *testing.T) {
	for _, n := range []int{1, 2, 41, 1100} {
		seen := map[uint64]bool{}
		for i := range 40 * n {
			at := place(mix(uint64(i), salt), uint8(i), n)
			if at >= uint64(n) {
				t.Fatalf("place %d of %d", at, n)
			}
			seen[at] = true
		}
		if len(seen) < n*9/10 {
			t.Errorf("%d of %d places are taken", len(seen), n)
		}
	}
}

// Scopes of which nobody has made two collide have slots, nearly as few as they are: up to as many
// as are in a bucket before it is split, by a good margin.
func TestBucketsAreFull(t *testing.T) {
	for n := range 3 * meanBucket {
		for round := range 20 {
			var of []slot
			for i := range n {
				s := New(fmt.Sprintf("tenant:%d:%d:%d:", n, round, i), "x")
				of = append(of, slot{wordsOf([]byte(s.Prefix)), &s})
			}
			b := newBucket([classes]uint8{}, of)
			for i := range of {
				if b.find(of[i].scope) == nil {
					t.Fatalf("of %d scopes, %q is not found", n, of[i].scope.Prefix)
				}
			}
			if n <= 2*meanBucket && len(b.slots) > n+n/4+2 {
				t.Errorf("%d scopes have %d slots", n, len(b.slots))
			}
		}
	}
}

// Somebody who brings more scopes into a bucket than it holds, all with hashes of their own, gets them
// into the index, and the bucket does not grow.
func TestBucketIsBounded(t *testing.T) {
	v := version{model: map[Prefix]NodeID{}}
	for i := 0; len(v.model) < 2*maxBucket; i++ {
		if p := fmt.Sprintf("app:%d:", i); wordsOf([]byte(p)).hash()%256 == 3 {
			v.change("declare", New(p, "x"))
		}
	}
	if err := v.check(); err != nil {
		t.Fatal(err)
	}
	b := v.table.held.hash.bucket(3)
	if n := asking(v.table); n == 0 || b.held == 0 || len(b.slots) > 3*maxBucket {
		t.Errorf("%d classes ask the index, %d scopes in %d slots", n, b.held, len(b.slots))
	}
}

// The head of a key of any length has its bytes and zeros.
func TestShortHead(t *testing.T) {
	key := []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ")
	for n := range key {
		var padded [headSize]byte
		copy(padded[:], key[:n])
		w := shortHead(key[:n])
		for i, word := range []uint64{w.a, w.b, w.c, w.d} {
			if want := binary.LittleEndian.Uint64(padded[8*i:]); word != want {
				t.Errorf("word %d of %q is %x, want %x", i, key[:n], word, want)
			}
		}
	}
}

// Bytes that are 0 are found where they are, and hardly any others.
func TestZeros(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 0x7f, 0x80, 0x81, 0xff}), 8, 8).Draw(t, "bytes")
		var must, may uint64
		for i, x := range b {
			if x == 0 {
				must |= 1 << i
			}
			if x == 1 && i > 0 && may&(1<<(i-1)) != 0 || x == 0 {
				may |= 1 << i
			}
		}
		if got := zeros(binary.LittleEndian.Uint64(b)); got&must != must || got&^may != 0 {
			t.Fatalf("zeros(%x) = %08b, want %08b, or of %08b", b, got, must, may)
		}
	})
}

// What most prefixes end in is what is tried first, whatever else a few end in.
func TestMostFrequentEnd(t *testing.T) {
	scopes := []Scope{New("x!", "a"), New("y-", "a"), New("z", "a"), New("w~", "a"), New("v\x00", "a")}
	for i := range 100 {
		scopes = append(scopes, New(fmt.Sprintf("tenant-%d/", i), "a"))
	}
	table, err := NewTable(scopes...)
	if err != nil {
		t.Fatal(err)
	}
	if got := byte(table.held.hash.lengths.groups[0].end); got != '/' {
		t.Errorf("%q is tried first, want '/'", got)
	}
}
