package fsm

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/scope-registry/scope-registry/internal/access"
)

// manyScopes is a state with n scopes that have one of four nodes as writer and
// the next one as fallback.
func manyScopes(b *testing.B, n int) State {
	b.Helper()
	s := applied(b, State{}, &InitCluster{Id: "c1"})
	node := func(i int) string { return fmt.Sprintf("node-%d", i%4) }
	for i := range 4 {
		s = applied(b, s, &SetNode{Id: node(i), Addr: "h:1"})
	}
	for i := 0; i < n; {
		batch := &Batch{}
		for ; i < n && len(batch.Scopes) < MaxBatch; i++ {
			batch.Scopes = append(batch.Scopes, &Declare{Prefix: fmt.Appendf(nil, "app:%06d:", i), Writer: node(i), Fallback: node(i + 1)})
		}
		s = applied(b, s, batch)
	}
	return s
}

// benchScopes is how many scopes there are.
const benchScopes = 100_000

// BenchmarkLoad reads a snapshot into a state and checks it.
func BenchmarkLoad(b *testing.B) {
	var stream bytes.Buffer
	if err := manyScopes(b, benchScopes).Encode(&stream); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := LoadBackup(bytes.NewReader(stream.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck looks at the invariants of a state.
func BenchmarkCheck(b *testing.B) {
	s := manyScopes(b, benchScopes)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Check(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncode writes a snapshot to nowhere.
func BenchmarkEncode(b *testing.B) {
	s := manyScopes(b, benchScopes)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Encode(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHash is one check of the state.
func BenchmarkHash(b *testing.B) {
	s := manyScopes(b, benchScopes)
	b.ReportAllocs()
	for b.Loop() {
		s.Hash()
	}
}

// BenchmarkHashKept is one of a state that has few scopes, and after many changes.
func BenchmarkHashKept(b *testing.B) {
	s, o := founded(b), OriginOf(access.Who{Role: access.Operator, ID: "bob"}, "10.0.0.1", "")
	for i := range keptAtLeast + 2*ringChunk {
		s, _, _ = s.Apply(At{Index: s.Index() + 1, TimeMS: int64(i)}, Envelope{RequestID: requestID(s.Index(), i), Origin: o, Command: &SetNode{Id: fmt.Sprintf("n%d", i%1000), Addr: fmt.Sprintf("h:%d", 1+i%60000)}})
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Hash()
	}
}

// BenchmarkDeclare is one scope more in a state that has many.
func BenchmarkDeclare(b *testing.B) {
	s := manyScopes(b, benchScopes)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		applied(b, s, &Declare{Prefix: fmt.Appendf(nil, "app:%06d:", benchScopes+i), Writer: "node-1", Fallback: "node-2"})
	}
}

// BenchmarkDecodeEnvelope is a small command as each server decodes it.
func BenchmarkDecodeEnvelope(b *testing.B) {
	data, err := Envelope{RequestID: requestID(1000, 1), Origin: &Origin{Role: "anonymous", Source: "127.0.0.1"}, Command: &SetNode{Id: "n1", Addr: "h:1"}}.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeEnvelope(data); err != nil {
			b.Fatal(err)
		}
	}
}
