package resp

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// pieces returns its bytes in pieces of the given sizes, in turn; the last may come together with io.EOF.
type pieces struct {
	rest    []byte
	sizes   []int
	i       int
	withEOF bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(len(p.rest), p.sizes[p.i%len(p.sizes)])])
	p.i++
	p.rest = p.rest[n:]
	if p.withEOF && len(p.rest) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// sameError compares types, fields and texts.
func sameError(a, b error) bool {
	var x, y *LimitError
	if errors.As(a, &x) && errors.As(b, &y) {
		return *x == *y
	}
	return a.Error() == b.Error()
}

// quoted is an argument as redis-cli would quote it in a line.
func quoted(arg string) string {
	const digits = "0123456789abcdef"
	b := []byte{'"'}
	for _, c := range []byte(arg) {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = append(b, '\\', 'x', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

func inline(args []string) []byte {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = quoted(a)
	}
	return []byte(strings.Join(words, " ") + "\r\n")
}

func genArgs() *rapid.Generator[[]string] {
	return rapid.SliceOfN(rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 10), func(b []byte) string { return string(b) }), 1, 5)
}

// Whatever commands were sent as arrays or quoted lines are read, in whatever pieces they come.
func TestCommandsSurviveSplits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		commands := rapid.SliceOf(genArgs()).Draw(t, "commands")
		var stream []byte
		for _, c := range commands {
			if rapid.Bool().Draw(t, "inline") {
				stream = append(stream, inline(c)...)
			} else {
				stream = append(stream, array(c...)...)
			}
		}
		sizes := rapid.SliceOfN(rapid.IntRange(1, 40), 1, 5).Draw(t, "sizes")
		got, err := readAll(&pieces{rest: stream, sizes: sizes}, DefaultLimits())
		if err != io.EOF || !slices.EqualFunc(got, commands, slices.Equal) {
			t.Fatalf("%q in pieces of %v: %q, %v", stream, sizes, got, err)
		}
	})
}

// genStream makes streams with everything in them: commands within and over the limits, what is refused, and noise.
func genStream() *rapid.Generator[[]byte] {
	refused := slices.Sorted(maps.Keys(refusals()))
	noise := rapid.SliceOfN(rapid.SampledFrom([]byte("*$-+0123456789\r\n\r\n\"'\\x aPOSTHost:\x00\xff")), 0, 20)
	piece := rapid.OneOf(
		rapid.Map(genArgs(), func(a []string) []byte { return array(a...) }),
		rapid.Map(genArgs(), inline),
		rapid.Map(rapid.SampledFrom(refused), func(s string) []byte { return []byte(s) }),
		noise,
	)
	return rapid.Map(rapid.SliceOfN(piece, 0, 6), func(p [][]byte) []byte { return slices.Concat(p...) })
}

// Commands and the error depend on the bytes, not on how they were cut.
func TestAnySplitReadsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := genStream().Draw(t, "stream")
		want, wantErr := readAll(bytes.NewReader(stream), tight())
		in := &pieces{rest: stream, sizes: rapid.SliceOfN(rapid.IntRange(1, 12), 1, 6).Draw(t, "sizes"), withEOF: rapid.Bool().Draw(t, "with EOF")}
		got, err := readAll(in, tight())
		if !sameError(err, wantErr) || !slices.EqualFunc(got, want, slices.Equal) {
			t.Fatalf("%q in pieces of %v:\n%q, %v\nwhole:\n%q, %v", stream, in.sizes, got, err, want, wantErr)
		}
	})
}

// Who looks ahead reads the same commands and the same error, and has seen arrays before.
func TestAheadChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := genStream().Draw(t, "stream")
		want, wantErr := readAll(bytes.NewReader(stream), tight())
		r := NewReader(&pieces{rest: stream, sizes: rapid.SliceOfN(rapid.IntRange(1, 60), 1, 6).Draw(t, "sizes")}, tight())
		var shown [][]string
		for _, w := range want {
			got, err := r.Next()
			if err != nil || !slices.Equal(texts(got), w) {
				t.Fatalf("%q: read %q, %v, want %q", stream, got, err, w)
			}
			if len(shown) > 0 {
				if !slices.Equal(shown[0], w) {
					t.Fatalf("%q: shown %q, then read %q", stream, shown[0], w)
				}
				shown = shown[1:]
			}
			if rapid.Bool().Draw(t, "limits") {
				r.SetLimits(DefaultLimits())
				r.SetLimits(tight())
				shown = nil // it is parsed again
			}
			r.Ahead(rapid.IntRange(0, 3).Draw(t, "most"), func(args [][]byte) { shown = append(shown, texts(args)) })
		}
		if _, err := r.Next(); !sameError(err, wantErr) || len(shown) > 0 {
			t.Fatalf("%q: ended with %v, want %v; shown and not read: %q", stream, err, wantErr, shown)
		}
	})
}

func TestAheadShowsWholeArrays(t *testing.T) {
	long := array(make([]string, fewArgs+1)...)
	for _, c := range []struct {
		behind []byte
		most   int
		want   int
	}{
		{slices.Concat(array("a"), array("b", "c"), []byte("*0\r\n"), array("d")), 9, 3},
		{slices.Concat(array("a"), array("b", "c")), 1, 1},
		{slices.Concat(array("a"), array("b")[:9]), 9, 1},
		{slices.Concat(array("a"), inline([]string{"b"}), array("c")), 9, 1},
		{slices.Concat(array("a"), long, array("c")), 9, 1},
		{nil, 9, 0},
	} {
		r := NewReader(bytes.NewReader(slices.Concat(array("first"), c.behind)), DefaultLimits())
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time nothing new is shown
			shown := 0
			r.Ahead(c.most, func([][]byte) { shown++ })
			if shown != c.want {
				t.Errorf("%q behind a command: %d shown, want %d", c.behind, shown, c.want)
			}
			if c.want > 0 {
				c.want = 0
			}
		}
	}
}

func texts(args [][]byte) (out []string) {
	for _, a := range args {
		out = append(out, string(a))
	}
	return out
}

// FuzzReader: no panic; a bounded buffer; any pieces read alike; what was read is within the limits and, written as
// arrays, is read again. A large argument in front makes the buffer grow and shrink while the input stays small.
func FuzzReader(f *testing.F) {
	for in := range refusals() {
		f.Add([]byte("PING\r\n"+in), uint16(0), byte(3))
	}
	f.Add(slices.Concat(array("SCOPE", "ROUTE", "app:x"), inline([]string{"a \"b'", "\x00\r\n"}), array("")), uint16(5_000), byte(0))
	f.Add([]byte("*0\r\n*-1\r\n\r\n\n*1\r\n$0\r\n\r\n"), uint16(40_000), byte(255))
	l := Limits{Args: 8, ArgLen: 40_000, Command: 40_100, Inline: 5_000}
	f.Fuzz(func(t *testing.T, raw []byte, large uint16, size byte) {
		if large > 0 {
			raw = slices.Concat(array(strings.Repeat("x", int(large))), raw)
		}
		want, wantErr := readAll(bytes.NewReader(raw), l)
		in := &counting{r: &pieces{rest: raw, sizes: []int{int(size) + 1}}}
		r := NewReader(in, l)
		in.each = func(before int) {
			if len(r.buf) > max(minBuffer, min(2*before, l.most())) {
				t.Fatalf("a buffer of %d bytes after %d came", len(r.buf), before)
			}
		}
		var again []byte
		for _, command := range want {
			got, err := r.Next()
			if err != nil || len(got) == 0 || len(got) > l.Args {
				t.Fatalf("%q: %q, %v", command, got, err)
			}
			r.Ahead(int(size)%4, func([][]byte) {})
			total := 0
			for i, a := range got {
				total += len(a)
				if string(a) != command[i] || len(a) > l.ArgLen || total > l.Command {
					t.Fatalf("%q: %q", command, got)
				}
			}
			again = append(again, array(command...)...)
		}
		if _, err := r.Next(); !sameError(err, wantErr) {
			t.Fatalf("%v, whole %v", err, wantErr)
		}
		if got, err := readAll(bytes.NewReader(again), l); err != io.EOF || !slices.EqualFunc(got, want, slices.Equal) {
			t.Fatalf("%q was read again as %q, %v", want, got, err)
		}
	})
}
