package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/pb"
)

func node(id, addr string) *pb.Record {
	return &pb.Record{Kind: &pb.Record_Node{Node: &pb.NodeRecord{Id: id, Addr: addr}}}
}

func scopeOf(prefix []byte, epoch uint64) *pb.Record {
	return &pb.Record{Kind: &pb.Record_Scope{Scope: &pb.ScopeRecord{Prefix: prefix, Epoch: epoch}}}
}

func encode(t interface {
	Helper()
	Fatal(...any)
}, records ...*pb.Record) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decode(data []byte) ([]*pb.Record, error) {
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var out []*pb.Record
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, rec)
	}
}

func sample(t *testing.T) []byte {
	t.Helper()
	return encode(t, node("a", "a:1"), node("b", ""), scopeOf([]byte{0, 0xff}, 7), scopeOf(nil, 1))
}

func mustBeCorrupt(t *testing.T, data []byte, format string, args ...any) {
	t.Helper()
	_, err := Verify(bytes.NewReader(data))
	var c *CorruptError
	if !errors.As(err, &c) {
		t.Fatalf(format+": got error %v, want a CorruptError", append(args, err)...)
	}
	if c.Offset < 0 || c.Offset > int64(len(data)) {
		t.Fatalf(format+": offset %d lies outside", append(args, c.Offset)...)
	}
}

func TestRoundTrip(t *testing.T) {
	record := rapid.Custom(func(t *rapid.T) *pb.Record {
		if rapid.Bool().Draw(t, "node") {
			return node(rapid.String().Draw(t, "id"), rapid.String().Draw(t, "addr"))
		}
		return scopeOf(rapid.SliceOf(rapid.Byte()).Draw(t, "prefix"), rapid.Uint64().Draw(t, "epoch"))
	})
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(record, 0, 50).Draw(t, "records")
		data := encode(t, in...)
		if again := encode(t, in...); !bytes.Equal(data, again) {
			t.Fatal("the same records gave two different streams")
		}
		out, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != len(in) {
			t.Fatalf("%d records in, %d out", len(in), len(out))
		}
		for i := range in {
			if !proto.Equal(in[i], out[i]) {
				t.Fatalf("record %d: %v became %v", i, in[i], out[i])
			}
		}
		if n, err := Verify(bytes.NewReader(data)); err != nil || n != uint64(len(in)) {
			t.Fatalf("Verify: %d, %v", n, err)
		}
	})
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	good := sample(t)
	for i := range good {
		for mask := 1; mask < 256; mask++ {
			bad := bytes.Clone(good)
			bad[i] ^= byte(mask)
			mustBeCorrupt(t, bad, "byte %d xor %#x", i, mask)
		}
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	good := sample(t)
	for n := range good {
		mustBeCorrupt(t, good[:n], "cut to %d of %d bytes", n, len(good))
	}
}

func TestTrailingBytesAreRefused(t *testing.T) {
	good := sample(t)
	mustBeCorrupt(t, append(bytes.Clone(good), 0), "one byte more")
	mustBeCorrupt(t, append(bytes.Clone(good), good...), "the stream twice")
}

// Every frame here is sound by itself, so only the trailer can tell.
func TestMissingDoubledAndSwappedRecordsAreFound(t *testing.T) {
	a, b := node("a", "1"), node("b", "2")
	good := encode(t, a, b)
	size := lengthSize + proto.Size(a) + crc32.Size
	head, fa, fb, tail := good[:headerSize], good[headerSize:headerSize+size],
		good[headerSize+size:headerSize+2*size], good[headerSize+2*size:]
	for name, parts := range map[string][][]byte{
		"missing": {head, fa, tail},
		"doubled": {head, fa, fb, fb, tail},
		"swapped": {head, fb, fa, tail},
		"same":    {head, fa, fa, tail},
	} {
		mustBeCorrupt(t, bytes.Join(parts, nil), "%s", name)
	}
	if _, err := Verify(bytes.NewReader(bytes.Join([][]byte{head, fa, fb, tail}, nil))); err != nil {
		t.Fatalf("the parts in their place: %v", err)
	}
}

// A trailer that is sound by itself but counts other records than there are.
func TestWrongCountIsFound(t *testing.T) {
	good := sample(t)
	body := bytes.Clone(good[:len(good)-sha256.Size])
	binary.BigEndian.PutUint64(body[len(body)-countSize:], 3)
	sum := sha256.Sum256(body)
	mustBeCorrupt(t, append(body, sum[:]...), "count 3 of 4 records")
}

// The damaged record is found before it is handed out, and the error says where
// it begins.
func TestDamageIsFoundAtItsRecord(t *testing.T) {
	a := node("a", "1")
	bad := encode(t, a, node("b", "2"))
	second := headerSize + lengthSize + proto.Size(a) + crc32.Size
	bad[second+lengthSize+proto.Size(a)-1] ^= 1 // the address: decodes all the same
	records, err := decode(bad)
	var c *CorruptError
	if len(records) != 1 || !errors.As(err, &c) || c.Offset != int64(second) {
		t.Fatalf("%d records, %v; want 1 and damage at byte %d", len(records), err, second)
	}
}

func TestFrameLimit(t *testing.T) {
	fits := MaxFrame
	for proto.Size(node("x", strings.Repeat("y", fits))) > MaxFrame {
		fits--
	}
	if out, err := decode(encode(t, node("x", strings.Repeat("y", fits)))); err != nil || len(out) != 1 {
		t.Fatalf("a record of exactly the limit: %d records, %v", len(out), err)
	}
	var buf bytes.Buffer
	w, err := NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []*pb.Record{node("x", strings.Repeat("y", fits+1)), {}} {
		if err := w.Write(bad); !errors.Is(err, ErrRecord) {
			t.Fatalf("got %v, want ErrRecord", err)
		}
	}
	// The refused records left no trace.
	if err := errors.Join(w.Write(node("a", "b")), w.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err := Verify(&buf); n != 1 || err != nil {
		t.Fatalf("after refusals: %d records, %v", n, err)
	}
	huge := binary.BigEndian.AppendUint32(sample(t)[:headerSize], MaxFrame+1)
	mustBeCorrupt(t, append(huge, make([]byte, MaxFrame+100)...), "a length over the limit")
}

// A record whose checksums are right but that is no record.
func TestUndecodablePayload(t *testing.T) {
	frame := append(binary.BigEndian.AppendUint32(nil, 1), 0xff)
	frame = binary.BigEndian.AppendUint32(frame, crc32.Checksum(frame, castagnoli))
	mustBeCorrupt(t, append(sample(t)[:headerSize], frame...), "payload ff")
}

func TestWriterRefusesAfterCloseAndAfterFailure(t *testing.T) {
	w, err := NewWriter(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(node("a", "")); !errors.Is(err, ErrClosed) {
		t.Fatalf("Write after Close: %v", err)
	}
	if err := w.Close(); !errors.Is(err, ErrClosed) {
		t.Fatalf("second Close: %v", err)
	}
	full := sample(t)
	for n := range len(full) {
		if _, err := NewWriter(&short{left: n}); n < headerSize && !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("room for %d bytes: %v", n, err)
		}
	}
	s := &short{left: headerSize}
	if w, err = NewWriter(s); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(node("a", "")); !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("Write to a full disk: %v", err)
	}
	s.left = 1 << 20
	if err := w.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("a trailer was written behind a hole: %v", err)
	}
}

// short is a disk with room for so many bytes.
type short struct{ left int }

func (s *short) Write(b []byte) (int, error) {
	if len(b) > s.left {
		return s.left, io.ErrShortWrite
	}
	s.left -= len(b)
	return len(b), nil
}

var errDisk = errors.New("disk")

// A disk that fails is not a corrupt snapshot.
func TestReadErrorsPassThrough(t *testing.T) {
	good := sample(t)
	for n := range len(good) + 1 {
		_, err := Verify(io.MultiReader(bytes.NewReader(good[:n]), failing{}))
		var c *CorruptError
		if !errors.Is(err, errDisk) || errors.As(err, &c) {
			t.Fatalf("failing after %d bytes: %v", n, err)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errDisk }

func TestNextRepeatsItsLastError(t *testing.T) {
	good := sample(t)
	for _, data := range [][]byte{good, good[:len(good)-1]} {
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = r.Next()
		}
		if rec, again := r.Next(); rec != nil || !errors.Is(again, err) {
			t.Fatalf("first %v, then %v, %v", err, rec, again)
		}
	}
}

// Who codes records himself reads and writes the same stream, and what he leaves
// to the reader is the record that he was given.
func TestEncodedRecords(t *testing.T) {
	data := encode(t, node("a", "h:1"), scopeOf(bytes.Repeat([]byte("p"), 2*bufferSize), 7), scopeOf([]byte("q"), 8))
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	w, err := NewWriter(&copied)
	if err != nil {
		t.Fatal(err)
	}
	for {
		body, err := r.NextEncoded()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteEncoded(body); err != nil {
			t.Fatal(err)
		}
		decoded, err := r.Decoded()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := (proto.MarshalOptions{Deterministic: true}).Marshal(decoded); err != nil || !bytes.Equal(again, body) {
			t.Fatalf("%v was read as %x (%v), encoded it is %x", decoded, body, err, again)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(copied.Bytes(), data) {
		t.Error("what was copied record by record is another stream")
	}
}
