package scope_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/scope"
)

// model is the dumb table: a list, scanned from end to end.
type model []scope.Scope

func (m model) lookup(key string) (best *scope.Scope) {
	for i := range m {
		if strings.HasPrefix(key, string(m[i].Prefix)) && (best == nil || len(m[i].Prefix) > len(best.Prefix)) {
			best = &m[i]
		}
	}
	return best
}

func (m model) overlaps(p scope.Prefix) bool {
	return slices.ContainsFunc(m, func(s scope.Scope) bool { return s.Prefix.Overlaps(p) })
}

var shortBytes = rapid.StringMatching(`[ab\x00:]{0,5}`)

func TestTableAgainstScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table scope.Table
		var m model
		t.Repeat(map[string]func(*rapid.T){
			"declare": func(t *rapid.T) {
				s := scope.New(shortBytes.Draw(t, "prefix"), scope.NodeID(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "writer")))
				next, err := table.With(s)
				if (err != nil) != m.overlaps(s.Prefix) {
					t.Fatalf("With(%q): %v", s.Prefix, err)
				}
				if err == nil {
					table, m = next, append(slices.Clone(m), s)
				}
			},
			"retire": func(t *rapid.T) {
				p := scope.Prefix(shortBytes.Draw(t, "prefix"))
				table = table.Without(p)
				m = slices.DeleteFunc(slices.Clone(m), func(s scope.Scope) bool { return s.Prefix == p })
			},
			"": func(t *rapid.T) { agree(t, table, m) },
		})
	})
}

func agree(t *rapid.T, table scope.Table, m model) {
	if table.Len() != len(m) || table.NoFallbackLen() != len(m) {
		t.Fatalf("Len %d, NoFallbackLen %d, want %d", table.Len(), table.NoFallbackLen(), len(m))
	}
	key := shortBytes.Draw(t, "key")
	got, ok := table.Lookup([]byte(key))
	if want := m.lookup(key); ok != (want != nil) || ok && got.Prefix != want.Prefix {
		t.Fatalf("Lookup(%q) = %+v, want %+v", key, got, want)
	}
	under, after := scope.Prefix(shortBytes.Draw(t, "under")), scope.Prefix(shortBytes.Draw(t, "after"))
	var listed, want []scope.Prefix
	for s := range table.Under(under, after) {
		listed = append(listed, s.Prefix)
	}
	for _, s := range m {
		if under.Contains(s.Prefix) && (after == "" || s.Prefix > after) {
			want = append(want, s.Prefix)
		}
	}
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Fatalf("Under(%q, %q) = %q, want %q", under, after, listed, want)
	}
	if _, ok := table.Overlapping(under); ok != m.overlaps(under) {
		t.Fatalf("Overlapping(%q) = %v", under, ok)
	}
}

// Overlapping must find nested entries too, which a Table never holds but the
// indexes of tombstones and cleanups do.
func TestIndexOverlappingAgainstScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x scope.Index[int]
		held := rapid.SliceOfDistinct(shortBytes, rapid.ID[string]).Draw(t, "held")
		for i, p := range held {
			x = x.With(scope.Prefix(p), i)
		}
		p := scope.Prefix(shortBytes.Draw(t, "p"))
		var got, want []string
		for q := range x.Overlapping(p) {
			got = append(got, string(q))
		}
		for _, q := range held {
			if p.Overlaps(scope.Prefix(q)) {
				want = append(want, q)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("Overlapping(%q) = %q, want %q", p, got, want)
		}
	})
}

func FuzzBytesText(f *testing.F) {
	for _, s := range []string{"", "app:billing:", `a\b`, "\x00\xff", "é漢\u200b", `\x41`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := scope.BytesText(s)
		if back, err := scope.ParseBytes(text); err != nil || back != s {
			t.Fatalf("%q → %q → %q, %v", s, text, back, err)
		}
		// Read as text, it is either refused or means exactly one byte string.
		if raw, err := scope.ParseBytes(s); err == nil {
			again, err := scope.ParseBytes(scope.BytesText(raw))
			if err != nil || again != raw {
				t.Fatalf("%q means %q, which comes back as %q, %v", s, raw, again, err)
			}
		}
	})
}
