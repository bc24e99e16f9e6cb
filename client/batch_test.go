package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

func someBatch() *rapid.Generator[*Batch] {
	return rapid.Custom(func(t *rapid.T) *Batch {
		b := &Batch{Slice: Slice{Move: rapid.StringN(1, 20, maxID).Draw(t, "move"), Prefix: scope.Prefix(rapid.StringN(0, 10, 40).Draw(t, "prefix"))},
			Stream: rapid.StringN(1, 20, maxID).Draw(t, "stream"), Number: rapid.Uint64().Draw(t, "number"),
			Records: rapid.SliceOfN(someRecord(), 0, 20).Draw(t, "records"), Last: rapid.Bool().Draw(t, "last")}
		if b.Last {
			b.Sum = Manifest{Keys: rapid.Uint64().Draw(t, "keys"), Bytes: rapid.Uint64().Draw(t, "bytes"), Digest: rapid.StringN(0, 64, maxDigest).Draw(t, "digest")}
		}
		return b
	})
}

func encode(t interface{ Fatalf(string, ...any) }, b *Batch) []byte {
	var out bytes.Buffer
	if err := b.Encode(&out); err != nil {
		t.Fatalf("%+v: %v", b, err)
	}
	return out.Bytes()
}

func sameBatch(a, b *Batch) bool {
	if a.Slice != b.Slice || a.Stream != b.Stream || a.Number != b.Number || a.Last != b.Last || a.Sum != b.Sum || len(a.Records) != len(b.Records) {
		return false
	}
	for i, r := range a.Records {
		if o := b.Records[i]; !bytes.Equal(r.Key, o.Key) || !bytes.Equal(r.Value, o.Value) || r.Expires != o.Expires || r.Deleted != o.Deleted {
			return false
		}
	}
	return true
}

// TestBatchRoundTrip: what is read is what was written, no more of the reader is
// read, and any byte that is changed, or missing, is noticed.
func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := someBatch().Draw(t, "batch")
		data := encode(t, b)
		r := bytes.NewReader(append(bytes.Clone(data), "rest"...))
		got, err := DecodeBatch(r)
		if err != nil || !sameBatch(b, got) {
			t.Fatalf("%+v came back as %+v (%v)", b, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "rest" {
			t.Fatalf("%q is left", rest)
		}
		at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
		if _, err := DecodeBatch(bytes.NewReader(data[:at])); !errors.Is(err, &api.Error{Code: api.Corrupt}) {
			t.Fatalf("cut off at %d of %d: %v", at, len(data), err)
		}
		data[at] ^= rapid.ByteRange(1, 255).Draw(t, "flip")
		if _, err := DecodeBatch(bytes.NewReader(data)); err == nil {
			t.Fatalf("byte %d of %d was changed, and nobody noticed", at, len(data))
		}
	})
}

func TestBatchBounds(t *testing.T) {
	base := func() *Batch { return &Batch{Slice: Slice{"m", "p"}, Stream: "s"} }
	for name, c := range map[string]struct {
		change func(*Batch)
		code   api.Code
		says   string
	}{
		"no move":             {func(b *Batch) { b.Move = "" }, api.Invalid, "move"},
		"no stream":           {func(b *Batch) { b.Stream = "" }, api.Invalid, "stream"},
		"long move":           {func(b *Batch) { b.Move = strings.Repeat("m", maxID+1) }, api.Invalid, "256"},
		"long prefix":         {func(b *Batch) { b.Prefix = scope.Prefix(strings.Repeat("m", scope.MaxPrefixLen+1)) }, api.Invalid, "513"},
		"sum before the last": {func(b *Batch) { b.Sum.Keys = 1 }, api.Invalid, "manifest"},
		"long digest":         {func(b *Batch) { b.Last, b.Sum.Digest = true, strings.Repeat("0", maxDigest+1) }, api.Invalid, "129"},
		"long key":            {func(b *Batch) { b.Records = []Record{{Key: make([]byte, scope.MaxKeyLen+1)}} }, api.TooLarge, "65537"},
		"long value":          {func(b *Batch) { b.Records = []Record{{Key: []byte("kk"), Value: make([]byte, MaxValue+1)}} }, api.TooLarge, `"kk"`},
		"many records":        {func(b *Batch) { b.Records = make([]Record, MaxBatchRecords+1) }, api.TooLarge, "10001"},
		"many bytes":          {func(b *Batch) { b.Records = []Record{{Value: make([]byte, MaxValue)}, {Value: make([]byte, 1<<20)}} }, api.TooLarge, "batch"},
		"deleted with value":  {func(b *Batch) { b.Records = []Record{{Key: []byte("kk"), Value: []byte("v"), Deleted: true}} }, api.Invalid, `"kk"`},
	} {
		b := base()
		c.change(b)
		var out bytes.Buffer
		err := b.Encode(&out)
		if api.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || out.Len() > 0 {
			t.Errorf("%s: %v, and %d bytes were written", name, err, out.Len())
		}
	}
	// The largest record: it is not copied, and may come.
	b := base()
	b.Records = []Record{{Key: make([]byte, scope.MaxKeyLen), Value: make([]byte, MaxValue), Expires: -1 << 63, was: &former{bytes: 1 << 63}}}
	pieces, err := b.encoded()
	if err != nil || len(pieces) != 3 || &pieces[1][0] != &b.Records[0].Value[0] {
		t.Fatalf("the largest record: %d pieces, %v", len(pieces), err)
	}
	var came []string
	_, err = decodeBatch(bytes.NewReader(pieces[0]), -1, func(move string) (bool, error) {
		came = append(came, move)
		return true, errors.New("not now")
	})
	if err == nil || err.Error() != "not now" || len(came) != 1 || came[0] != "m" {
		t.Errorf("the largest record: %q may come: %v", came, err)
	}
}

// TestLongValues arrive as they were sent, between short ones.
func TestLongValues(t *testing.T) {
	b := &Batch{Slice: Slice{"m", "p"}, Stream: "s"}
	for i, n := range []int{3, ownPiece - 1, ownPiece, 10 * ownPiece, 0, ownPiece} {
		b.Records = append(b.Records, Record{Key: []byte{byte(i)}, Value: bytes.Repeat([]byte{byte(i)}, n), Expires: int64(n)}, Record{Key: []byte{9, byte(i)}, Deleted: true})
	}
	asked := 0
	got, err := decodeBatch(bytes.NewReader(encode(t, b)), -1, func(string) (bool, error) { asked++; return true, nil })
	if err != nil || !sameBatch(b, got) || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}

// sealed is a body with head and checksum as they belong to it.
func sealed(body []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte(batchMagic), uint32(len(body)))
	out = append(out, body...)
	return binary.BigEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

// endless gives zeros for ever, and counts them.
type endless struct {
	head []byte
	n    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	if n == 0 {
		clear(p)
		n = len(p)
	}
	e.n += n
	return n, nil
}

// TestDecodeHostile: well-formed outside, wrong inside.
func TestDecodeHostile(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		code api.Code
	}{
		"another protocol": {[]byte("GET / HTTP/1.1\r\n\r\n"), api.Invalid},
		"a later version":  {append([]byte("SRB\x02"), make([]byte, 100)...), api.Invalid},
		"an empty body":    {sealed(nil), api.Corrupt},
		"a length beyond":  {sealed([]byte{200, 'm'}), api.Corrupt},
		"a huge length":    {sealed([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01m")), api.Corrupt},
		"a huge number":    {sealed([]byte("\x01m\x00\x01s\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")), api.Corrupt},
		"unknown flags":    {sealed([]byte("\x01m\x00\x01s\x00\x02\x00")), api.Corrupt},
		"many records":     {sealed([]byte("\x01m\x00\x01s\x00\x00\xff\xff\xff\xff\x0f")), api.Corrupt},
		"too much":         {sealed([]byte("\x01m\x00\x01s\x00\x00\x00rest")), api.Corrupt},
		"no move":          {sealed([]byte("\x00\x00\x01s\x00\x00\x00")), api.Invalid},
		"too long":         {binary.BigEndian.AppendUint32([]byte(batchMagic), MaxBatchBytes), api.TooLarge},
	} {
		if _, err := DecodeBatch(bytes.NewReader(c.data)); api.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if _, err := DecodeBatch(bytes.NewReader(sealed([]byte("\x01m\x00\x01s\x00\x00\x00")))); err != nil {
		t.Errorf("a batch as it should be: %v", err)
	}
	e := &endless{head: binary.BigEndian.AppendUint32([]byte(batchMagic), 1<<30)}
	if _, err := DecodeBatch(e); err == nil || e.n > 1<<10 {
		t.Errorf("%d bytes of a batch that is too long were read: %v", e.n, err)
	}
}

// TestDecodeAllocates by what has come, not by what is said to come.
func TestDecodeAllocates(t *testing.T) {
	head := binary.BigEndian.AppendUint32([]byte(batchMagic), MaxValue)
	for _, come := range []int{0, 100, 1 << 20} {
		data := append(bytes.Clone(head), make([]byte, come)...)
		got := ^uint64(0)
		for range 5 { // whatever else runs in this process allocates too
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := DecodeBatch(bytes.NewReader(data))
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("it was taken")
			}
			got = min(got, after.TotalAlloc-before.TotalAlloc)
		}
		if most := uint64(6*come + 4*readStep); got > most {
			t.Errorf("%d bytes came, and %d were allocated, want %d at most", come, got, most)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(sealed([]byte("\x01m\x00\x01s\x00\x00\x00"))[headLen:])
	whole := &Batch{Slice: Slice{"m", "p"}, Stream: "s", Number: 7, Last: true, Sum: Manifest{Keys: 1, Bytes: 2, Digest: "00"},
		Records: []Record{{Key: []byte("pk"), Value: []byte("v"), Expires: 5}, {Key: []byte("pl"), Deleted: true}}}
	data := encode(f, whole)
	f.Add(data[headLen : len(data)-sumLen])
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = DecodeBatch(bytes.NewReader(body)) // as it is: nearly always refused
		b, err := DecodeBatch(bytes.NewReader(sealed(body)))
		if err != nil {
			var known *api.Error
			if !errors.As(err, &known) {
				t.Fatalf("an error of no code: %v", err)
			}
			return
		}
		again, err := DecodeBatch(bytes.NewReader(encode(t, b)))
		if err != nil || !sameBatch(b, again) {
			t.Fatalf("%+v came back as %+v (%v)", b, again, err)
		}
	})
}
