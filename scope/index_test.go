package scope

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// sound says which promise of its pages an index breaks.
func sound[V any](x Index[V]) error {
	if x.root == nil {
		if x.n != 0 {
			return fmt.Errorf("empty, and Len is %d", x.n)
		}
		return nil
	}
	depths, n := map[int]bool{}, 0
	var look func(p *page[V], depth int) error
	look = func(p *page[V], depth int) error {
		if p.len() == 0 || p.len() > maxPage || !slices.IsSorted(p.keys) {
			return fmt.Errorf("page of keys %q", p.keys)
		}
		if p.kids == nil {
			depths[depth] = true
			n += len(p.vals)
			if len(p.vals) != len(p.keys) {
				return fmt.Errorf("%d values for keys %q", len(p.vals), p.keys)
			}
			return nil
		}
		for i, k := range p.kids {
			if k.key(0) != p.keys[i] {
				return fmt.Errorf("page %d of %q begins with %q", i, p.keys, k.key(0))
			}
			if err := look(k, depth+1); err != nil {
				return err
			}
		}
		if len(p.kids) != len(p.keys) || len(p.vals) > 0 {
			return fmt.Errorf("%d pages and %d values for keys %q", len(p.kids), len(p.vals), p.keys)
		}
		return nil
	}
	if err := look(x.root, 0); err != nil {
		return err
	}
	if n != x.n || len(depths) != 1 {
		return fmt.Errorf("%d entries at depths %v, Len is %d", n, depths, x.n)
	}
	if len(x.root.kids) == 1 {
		return fmt.Errorf("the root has one page")
	}
	return nil
}

// listed is the index as a list of its keys and values.
func listed(x Index[int]) (out []string) {
	for p, v := range x.All() {
		out = append(out, fmt.Sprintf("%q=%d", string(p), v))
	}
	return out
}

func modelled(m map[Prefix]int) (out []string) {
	for _, p := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%q=%d", string(p), m[p]))
	}
	return out
}

// run is a stretch of keys, as they are declared or retired together.
var run = rapid.Custom(func(t *rapid.T) []Prefix {
	first, n, step := rapid.IntRange(0, 4000).Draw(t, "first"), rapid.IntRange(1, 150).Draw(t, "n"), rapid.SampledFrom([]int{-3, -1, 1, 7}).Draw(t, "step")
	keys := make([]Prefix, 0, n)
	for i := range n {
		keys = append(keys, Prefix(strings.TrimRight(fmt.Sprintf("%04d", (first+i*step+9999)%9999), "0"))) // some contain others, one is empty
	}
	return keys
})

// An index of many pages is a sorted map, and what was made of it does not change it.
func TestIndexAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x, old Index[int]
		m, was, stamp := map[Prefix]int{}, []string(nil), 0
		t.Repeat(map[string]func(*rapid.T){
			"with": func(t *rapid.T) {
				for _, p := range run.Draw(t, "keys") {
					stamp++
					x, m[p] = x.With(p, stamp), stamp
				}
			},
			"without": func(t *rapid.T) {
				for _, p := range run.Draw(t, "keys") {
					before := x
					x = x.Without(p)
					if _, held := m[p]; !held && x != before {
						t.Fatalf("Without(%q), which it does not hold, is another index", string(p))
					}
					delete(m, p)
				}
			},
			"keep": func(*rapid.T) { old, was = x, modelled(m) },
			"look": func(t *rapid.T) { findAgainst(t, x, m) },
			"": func(t *rapid.T) {
				if err := sound(x); err != nil {
					t.Fatal(err)
				}
				if got, want := listed(x), modelled(m); !slices.Equal(got, want) || x.Len() != len(m) {
					t.Fatalf("holds %v (Len %d)\nwant %v", got, x.Len(), want)
				}
				if got := listed(old); !slices.Equal(got, was) {
					t.Fatalf("the one before has become %v\nit was %v", got, was)
				}
			},
		})
	})
}

// findAgainst asks for one key in every way.
func findAgainst(t *rapid.T, x Index[int], m map[Prefix]int) {
	key, after := rapid.StringMatching(`[0-9]{0,5}`).Draw(t, "key"), Prefix(rapid.StringMatching(`[0-9]{0,4}`).Draw(t, "after"))
	p := Prefix(key)
	if got, ok := x.Get(p); got != m[p] || ok != (got != 0) {
		t.Fatalf("Get(%q) = %d, %v, want %d", key, got, ok, m[p])
	}
	best := 0
	var over, under []Prefix
	for _, q := range slices.Sorted(maps.Keys(m)) {
		if q.Matches([]byte(key)) {
			best = m[q] // the last is the longest
		}
		if q.Overlaps(p) {
			over = append(over, q)
		}
		if p.Contains(q) && (after == "" || q > after) {
			under = append(under, q)
		}
	}
	if got, ok := x.Match([]byte(key)); got != best || ok != (best != 0) {
		t.Fatalf("Match(%q) = %d, %v, want %d", key, got, ok, best)
	}
	if got := keysOf(x.Overlapping(p)); !slices.Equal(got, over) {
		t.Fatalf("Overlapping(%q) = %q, want %q", key, got, over)
	}
	if got := keysOf(x.From(p, after)); !slices.Equal(got, under) {
		t.Fatalf("From(%q, %q) = %q, want %q", key, string(after), got, under)
	}
	back := keysOf(x.Backward())
	slices.Reverse(back)
	if want := keysOf(x.All()); !slices.Equal(back, want) {
		t.Fatalf("Backward, turned round, is %q, want %q", back, want)
	}
}

func keysOf(seq func(func(Prefix, int) bool)) (keys []Prefix) {
	for p := range seq {
		keys = append(keys, p)
	}
	return keys
}

// Who stops in the middle gets no more.
func TestIndexStops(t *testing.T) {
	var x Index[int]
	for i := range 5000 {
		x = x.With(Prefix(fmt.Sprintf("%04d", i)), i)
	}
	x = x.With("", -1).With("00", -2)
	for name, seq := range map[string]func(func(Prefix, int) bool){"All": x.All(), "Backward": x.Backward(), "Overlapping": x.Overlapping("0042")} {
		for stop := 1; stop <= 3; stop++ {
			n := 0
			for range seq {
				if n++; n == stop {
					break
				}
			}
			if n != stop {
				t.Errorf("%s yields %d after a break at %d", name, n, stop)
			}
		}
	}
}

// What a builder makes is what one change after the other makes, and can be
// changed like it.
func TestBuilderAgainstWith(t *testing.T) {
	for _, n := range []int{0, 1, maxPage - 1, maxPage, maxPage + 1, maxPage*maxPage + 1, 5000} {
		var b Builder[int]
		want := map[Prefix]int{}
		for i := range n {
			p := Prefix(fmt.Sprintf("%06d", 2*i))
			if !b.Add(p, i) || b.Add(p, i) || i > 0 && b.Add("000000", i) {
				t.Fatalf("entry %d: refused, or taken twice", i)
			}
			want[p] = i
		}
		x := b.Index()
		for range 2 {
			if err := sound(x); err != nil {
				t.Fatalf("of %d: %v", n, err)
			}
			if got, want := listed(x), modelled(want); !slices.Equal(got, want) {
				t.Fatalf("of %d: %v, want %v", n, got, want)
			}
			for i := range n {
				p, q := Prefix(fmt.Sprintf("%06d", 2*i)), Prefix(fmt.Sprintf("%06d", 2*i+1))
				x = x.With(q, -i)
				want[q] = -i
				if i%3 == 0 {
					x = x.Without(p)
					delete(want, p)
				}
			}
		}
	}
}

// A table that was built is the one that was declared, and is refused what that
// is refused.
func TestTableBuilderAgainstWith(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b TableBuilder
		var want Table
		for i, p := range rapid.SliceOfN(rapid.StringMatching(`[ab]{0,4}`), 1, 40).Draw(t, "prefixes") {
			s := New(p, "x")
			if i%2 == 0 {
				s = s.WithFallback("y")
			}
			ordered := b.last == nil || b.last.Prefix < s.Prefix
			next, refused := want.With(s)
			got, err := b.Add(s)
			switch {
			case (err == nil) != (ordered && refused == nil):
				t.Fatalf("Add(%q): %v, declared it gives %v", p, err, refused)
			case err == nil && *got != s:
				t.Fatalf("Add(%q) returns %+v", p, got)
			case err == nil:
				want = next
			}
		}
		table := b.Table()
		if got := slices.Collect(table.Scopes()); table.Len() != want.Len() || table.NoFallbackLen() != want.NoFallbackLen() || len(got) != want.Len() {
			t.Fatalf("built %v (Len %d, without fallback %d), declared were %d, %d", got, table.Len(), table.NoFallbackLen(), want.Len(), want.NoFallbackLen())
		}
		for s := range want.Scopes() {
			if got, ok := table.Get(s.Prefix); !ok || *got != *s {
				t.Fatalf("built %+v, declared was %+v", got, s)
			}
		}
	})
}

// Emptying a large index leaves small ones behind that are sound, and not a
// row of pages with one entry each.
func TestIndexShrinks(t *testing.T) {
	var x Index[int]
	for i := range 20_000 {
		x = x.With(Prefix(fmt.Sprintf("%05d", i)), i)
	}
	for i := range 20_000 {
		if i%16 != 0 {
			x = x.Without(Prefix(fmt.Sprintf("%05d", i)))
		}
	}
	if err := sound(x); err != nil {
		t.Fatal(err)
	}
	pages := 0
	var count func(*page[int])
	count = func(p *page[int]) {
		pages++
		for _, k := range p.kids {
			count(k)
		}
	}
	count(x.root)
	if at := x.Len() / (maxPage / 8); pages > at {
		t.Errorf("%d entries are in %d pages, want at most %d", x.Len(), pages, at)
	}
	for i := 0; i < 20_000; i += 16 {
		x = x.Without(Prefix(fmt.Sprintf("%05d", i)))
	}
	if x.root != nil || x.Len() != 0 {
		t.Errorf("emptied, it is %+v", x)
	}
}

// BenchmarkLookup routes keys under the prefixes of tables of several sizes, nine
// of ten of them under a scope.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var tb TableBuilder
			for i := range n {
				if _, err := tb.Add(New(fmt.Sprintf("app:%06d:", i), "node-1")); err != nil {
					b.Fatal(err)
				}
			}
			table, keys := tb.Table(), make([][]byte, 8192)
			for i := range keys {
				keys[i] = fmt.Appendf(nil, "app:%06d:user:42", i*7919%n)
				if i%10 == 0 {
					keys[i][4] = 'x'
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				table.Route(keys[i%len(keys)], "node-1")
			}
		})
	}
}
