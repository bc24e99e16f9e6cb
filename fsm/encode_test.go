package fsm

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

var anyScope = rapid.Custom(func(t *rapid.T) *scope.Scope {
	id := func(label string) scope.NodeID {
		return scope.NodeID(rapid.StringMatching(`([a-z0-9]{1,70})?`).Draw(t, label))
	}
	prefix := string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "prefix"))
	return &scope.Scope{Prefix: scope.Prefix(prefix), Writer: id("writer"), Fallback: id("fallback"), Owner: id("owner"), Quiesced: id("quiesced"),
		Epoch: rapid.Uint64().Draw(t, "epoch"), Changed: rapid.Uint64().Draw(t, "changed"), Armed: rapid.Bool().Draw(t, "armed"), Released: rapid.Bool().Draw(t, "released"),
		Failover: rapid.SampledFrom([]scope.Failover{scope.FailoverAuto, scope.FailoverManual}).Draw(t, "failover"),
		Lease:    rapid.SampledFrom([]scope.Lease{scope.LeaseAuto, scope.LeaseAlways, scope.LeaseNever}).Draw(t, "lease")}
})

// What is encoded by hand are the bytes of protobuf, on which the hash of a state
// rests.
func TestScopesAreEncodedAsByProtobuf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyScope.Draw(t, "scope")
		var b scope.TableBuilder
		if _, err := b.Add(*c); err != nil {
			t.Fatal(err)
		}
		s := State{scopes: b.Table()}
		var want, got [][]byte
		for r := range s.Records() {
			body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, body)
		}
		if err := s.encodings(func(body []byte) error {
			got = append(got, bytes.Clone(body))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if w, g := bytes.Join(want, []byte("|")), bytes.Join(got, []byte("|")); !bytes.Equal(w, g) {
			t.Fatalf("encoded %x\nwant    %x", g, w)
		}
		agreeOn(t, want[len(want)-1], true)
	})
}

var (
	anyText   = rapid.OneOf(rapid.String(), rapid.Just(""), rapid.SampledFrom([]string{"n1", "é\xff", strings.Repeat("x", 200)}))
	anyBytes  = rapid.SliceOfN(rapid.Byte(), 0, 200)
	anyNumber = rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 1, 127, 128, 1<<64 - 1}))
)

var anyKept = rapid.Custom(func(t *rapid.T) *pb.Record {
	text := func(label string) string { return anyText.Draw(t, label) }
	number := func(label string) uint64 { return anyNumber.Draw(t, label) }
	if rapid.Bool().Draw(t, "audit") {
		return &pb.Record{Kind: &pb.Record_Audit{Audit: &pb.AuditRecord{Number: number("number"), Index: number("index"), TimeMs: int64(number("time")), Actor: text("actor"),
			Source: text("source"), Action: text("action"), Prefix: anyBytes.Draw(t, "prefix"), Subject: text("subject"), Move: text("move"), Reason: text("reason"), Code: text("code")}}}
	}
	d := &pb.DedupRecord{Chunk: number("chunk"), RequestId: text("id"), CommandHash: rapid.SliceOfN(rapid.Byte(), len(commandHash{}), len(commandHash{})).Draw(t, "hash")}
	if rapid.IntRange(0, 9).Draw(t, "with result") > 0 {
		d.Result = &pb.Result{Code: text("code"), Detail: text("detail"), Index: number("index"), Epoch: number("epoch"), Move: text("move"), Owner: text("owner"),
			ConflictsWith: anyBytes.Draw(t, "conflict"), Floor: number("floor"), Changed: number("changed"), Warnings: rapid.SliceOfN(anyText, 0, 3).Draw(t, "warnings")}
	}
	return &pb.Record{Kind: &pb.Record_Dedup{Dedup: d}}
})

func TestKeptRecordsAreEncodedAsByProtobuf(t *testing.T) {
	var k keptEncoder // what was encoded before must not show
	rapid.Check(t, func(t *rapid.T) {
		r := anyKept.Draw(t, "record")
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		got, ok := []byte(nil), false
		if d := r.GetDedup(); d != nil {
			got, ok = k.dedup(d.GetChunk(), command{d.GetRequestId(), remembered{commandHash(d.GetCommandHash()), d.GetResult()}})
		} else {
			got, ok = k.audit(r.GetAudit())
		}
		if ok != (err == nil) {
			t.Fatalf("%v is encoded: %v; protobuf says %v", r, ok, err)
		}
		if ok && !bytes.Equal(got, want) {
			t.Fatalf("%v is encoded as %x\nwant %x", r, got, want)
		}
	})
}

// Every field of what is encoded by hand is one that the test above fills.
func TestKeptRecordsAreKnownWhole(t *testing.T) {
	for want, m := range map[int]proto.Message{11: &pb.AuditRecord{}, 4: &pb.DedupRecord{}, 10: &pb.Result{}} {
		if got := m.ProtoReflect().Descriptor().Fields().Len(); got != want {
			t.Errorf("%T has %d fields, and %d are encoded by hand: add them to encode_kept.go and to anyKept", m, got, want)
		}
	}
}

// agreeOn compares what is read by hand with what protobuf reads. Where must is
// set it has to be read by hand.
func agreeOn(t testFailer, record []byte, must bool) {
	byHand, generic := NewLoader(), NewLoader()
	byHand.started, generic.started = true, true
	taken, errByHand := byHand.addScope(record)
	if !taken {
		if must {
			t.Fatalf("record %x of a scope is not taken", record)
		}
		return
	}
	r := new(pb.Record)
	if err := proto.Unmarshal(record, r); err != nil {
		t.Fatalf("record %x is taken, and protobuf says: %v", record, err)
	}
	err := generic.Add(r)
	if (err == nil) != (errByHand == nil) {
		t.Fatalf("record %x: %v, by protobuf %v", record, errByHand, err)
	}
	for want := range generic.scopes.Table().Scopes() {
		if got, ok := byHand.scopes.Table().Get(want.Prefix); !ok || *got != *want {
			t.Fatalf("record %x is read as %+v, by protobuf as %+v", record, got, want)
		}
	}
}

type testFailer interface {
	Fatalf(format string, args ...any)
}

func FuzzScopeRecord(f *testing.F) {
	for _, r := range []*pb.ScopeRecord{{}, {Prefix: []byte("a:"), Writer: "n1", Owner: "n1", Epoch: 7, Failover: "manual", Lease: "never", Changed: 1 << 63},
		{Prefix: []byte("\xff"), Writer: "n1", Fallback: "n2", Owner: "n2", Epoch: 1, Armed: true, Quiesced: "n3", Released: true}} {
		body, err := proto.Marshal(&pb.Record{Kind: &pb.Record_Scope{Scope: r}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
		f.Add(append(body, body...))                     // a field that is there twice
		f.Add(append(body[:1:1], "\x02\x12\xff"...))     // a text that ends early
		f.Add(append(body[:1:1], "\x03\x12\x01\xff"...)) // one that is not UTF-8
		f.Add(append(body[:1:1], "\x02\x60\x01"...))     // a field of a later release
	}
	f.Fuzz(func(t *testing.T, record []byte) { agreeOn(t, record, false) })
}

// A snapshot in which a scope or a tombstone is out of its place was not written
// by a server, and the error says which.
func TestRecordsOutOfOrderAreRefused(t *testing.T) {
	scopeOf := func(prefix string) *pb.Record {
		return &pb.Record{Kind: &pb.Record_Scope{Scope: &pb.ScopeRecord{Prefix: []byte(prefix), Writer: "n1", Owner: "n1", Epoch: 1}}}
	}
	tombstoneOf := func(prefix string) *pb.Record {
		return &pb.Record{Kind: &pb.Record_Tombstone{Tombstone: &pb.TombstoneRecord{Prefix: []byte(prefix), Owner: "n1", Epoch: 1}}}
	}
	for _, c := range []struct {
		first, second *pb.Record
		want          string
	}{
		{scopeOf("b:"), scopeOf("a:"), `scope "a:" comes after "b:"`},
		{scopeOf("a:"), scopeOf("a:"), `duplicate scope prefix "a:"`},
		{scopeOf("a:"), scopeOf("a:b:"), `"a:b:" is contained by "a:"`},
		{scopeOf("a:b:"), scopeOf("a:"), `scope "a:" comes after "a:b:"`},
		{tombstoneOf("b:"), tombstoneOf("a:"), `the tombstone of "a:"`},
		{tombstoneOf("a:"), tombstoneOf("a:"), `the tombstone of "a:"`},
	} {
		l := NewLoader()
		var err error
		for _, r := range []*pb.Record{{Kind: &pb.Record_Cluster{Cluster: &pb.ClusterRecord{Id: "c1"}}}, c.first, c.second} {
			if err != nil {
				t.Fatalf("%v is refused too early: %v", c.second, err)
			}
			err = l.Add(r)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v after %v: %v, want %q", c.second, c.first, err, c.want)
		}
	}
}
