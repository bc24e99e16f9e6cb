package fsm

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/pb"
)

// samples are one command of every type.
func samples() []Command {
	return []Command{
		&InitCluster{Id: "c"}, &SetNode{Id: "n1", Addr: "h:1"}, &RemoveNode{Id: "n4"},
		&Declare{Prefix: []byte("a\xff"), Writer: "n1", Fallback: "n2"}, &Retire{Prefix: []byte("a\xff")},
		&Batch{Nodes: []*SetNode{{Id: "n1", Addr: "h:2"}}, Scopes: []*Declare{{Prefix: []byte("b"), Writer: "n1"}}},
		&StartMove{Id: "m1", Prefix: []byte("b"), From: "n1", To: "n2", Mode: "assisted", Precopy: true},
		&Quiesce{Move: "m1"}, &Shipped{Move: "m1", Manifest: &Manifest{Keys: 1}}, &Ready{Move: "m1", Manifest: &Manifest{Keys: 1}},
		&Abort{Move: "m1"}, &Cleaned{Node: "n1", Prefix: []byte("b"), Reason: "off"},
		&Force{Id: "f1", Prefix: []byte("b"), To: "n3", ExpectedEpoch: 1, AcceptLoss: true, SourceFenced: "n1"},
		&OpenSession{Node: "n1", Session: "s1", Identity: "i1", TokenHash: tokenHash("t1"), Incarnation: 1, IncarnationTag: "c1", View: 3},
		&OpenSession{Node: "n2", Session: "s2", Identity: "i2", TokenHash: tokenHash("t2"), Incarnation: 1, IncarnationTag: "c1"},
		&OpenSession{Node: "n2", Session: "s3", Identity: "i2", TokenHash: tokenHash("t3"), PreviousTokenHash: tokenHash("t2"), Incarnation: 1, IncarnationTag: "c1"},
		&Declare{Prefix: []byte("s"), Writer: "n1", Fallback: "n2"}, &Ack{Session: "s1", View: 4},
		&StartMove{Id: "m2", Prefix: []byte("s"), From: "n1", To: "n2"}, &Shipped{Move: "m2", Session: "s1"}, &Abort{Move: "m2", Session: "s3"},
		&Expire{Session: "s1"}, &CloseSession{Session: "s3"}, &FenceNode{Node: "n1", Identity: "i1"},
		&Release{Prefix: []byte("s"), SourceFenced: true, Reason: "off"},
		&StageBackup{Id: "u1", Data: []byte("part")}, &StageBackup{Id: "u1", Offset: 4, Data: []byte("more")},
		&Restore{Id: "u1", Bytes: 8, Sha256: []byte("sum"), Incarnation: 2, Tag: "t2"}, &DropBackup{Id: "u1", Bytes: 8},
		&JoinServer{Id: "s4", Addr: "h:1", Instance: "i4"}, &SettleServer{Id: "s4", Phase: "member", Addr: "h:1"},
		&RemoveServer{Id: "s4", AcceptNoMajority: true},
		&CreateToken{Id: "t1", Role: "admin", Hash: tokenHash("t1"), First: true}, &CreateToken{Id: "t2", Role: "operator", Prefix: []byte("a"), Hash: tokenHash("t2"), ExpiresMs: 9},
		&RevokeToken{Id: "t2"}, &CheckState{},
	}
}

func encoded(t testing.TB, c Command) []byte {
	t.Helper()
	return encodedAs(t, Envelope{RequestID: "0-00000000000000000000000000000001", Actor: "ann", Command: c})
}

// askedFor is the command of an admin.
func askedFor(t testing.TB, c Command) []byte {
	t.Helper()
	return encodedAs(t, Envelope{RequestID: "0-00000000000000000000000000000001", Actor: "ann", Command: c,
		Origin: &Origin{Role: "admin", Id: "ann", Source: "10.0.0.1", Reason: "why"}})
}

func entryOf(t testing.TB, envelopes ...[]byte) []byte {
	t.Helper()
	entry, err := EncodeEntry(7, envelopes)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

// strange is a field that no message of this release has.
func strange() []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)
}

// TestUnknownFieldsStopTheServer puts an unknown field into every message at
// every depth. A release that skipped it would build another state than the
// release that wrote it.
func TestUnknownFieldsStopTheServer(t *testing.T) {
	s := founded(t)
	check := func(what string, entry []byte) {
		t.Helper()
		if _, _, _, err := s.ApplyEntry(6, 1, entry); err == nil {
			t.Errorf("an unknown field in %s was skipped", what)
		}
	}
	check("the entry", append(entryOf(t), strange()...))
	for _, c := range samples() {
		check("the envelope", entryOf(t, append(encoded(t, c), strange()...)))
		c.ProtoReflect().SetUnknown(strange())
		check(string(c.ProtoReflect().Descriptor().Name()), entryOf(t, encoded(t, c)))
	}
	odd := &Manifest{}
	odd.ProtoReflect().SetUnknown(strange())
	check("Shipped's manifest", entryOf(t, encoded(t, &Shipped{Move: "m1", Manifest: odd})))
	check("Ready's manifest", entryOf(t, encoded(t, &Ready{Move: "m1", Manifest: odd})))
	node, declare := &SetNode{Id: "n1", Addr: "h:1"}, &Declare{Prefix: []byte("z"), Writer: "n1"}
	node.ProtoReflect().SetUnknown(strange())
	declare.ProtoReflect().SetUnknown(strange())
	check("a batch's node", entryOf(t, encoded(t, &Batch{Nodes: []*SetNode{node}})))
	check("a batch's scope", entryOf(t, encoded(t, &Batch{Scopes: []*Declare{declare}})))
	who := &Origin{Role: "admin"}
	who.ProtoReflect().SetUnknown(strange())
	check("the origin", entryOf(t, encodedAs(t, Envelope{Origin: who, Command: &SetNode{Id: "n1", Addr: "h:1"}})))
	check("no command at all", entryOf(t, []byte{}))
	check("garbage", []byte("\xff\xff\xff"))
}

// Messages that stand around a command are looked into by hand, these and no others.
func TestMessagesAroundACommandAreKnown(t *testing.T) {
	messages := func(m proto.Message, visit func(protoreflect.FieldDescriptor)) {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if fields.Get(i).Message() != nil {
				visit(fields.Get(i))
			}
		}
	}
	var around []string
	messages(&pb.Envelope{}, func(f protoreflect.FieldDescriptor) { around = append(around, string(f.Name())) })
	messages(&pb.Origin{}, func(f protoreflect.FieldDescriptor) { around = append(around, string(f.FullName())) })
	if got := strings.Join(around, " "); got != "command origin" {
		t.Errorf("an envelope and an origin hold the messages %s: look for unknown fields in them in unknownAround", got)
	}
	messages(&pb.Command{}, func(f protoreflect.FieldDescriptor) {
		if f.ContainingOneof() == nil || f.ContainingOneof().Name() != "kind" {
			t.Errorf("a command holds %s beside what it is: look for unknown fields in it in unknownAround", f.Name())
		}
	})
}

// agreeOnEntry compares what is decoded by hand with what protobuf decodes.
func agreeOnEntry(t *testing.T, data []byte) {
	timeMS, envelopes, err := decodeEntry(data)
	var want pb.Entry
	known := proto.Unmarshal(data, &want) == nil && len(want.ProtoReflect().GetUnknown()) == 0
	if (err == nil) != known {
		t.Fatalf("entry %x is decoded: %v; protobuf knows it: %v", data, err, known)
	}
	if known && (timeMS != want.GetTimeMs() || !slices.EqualFunc(envelopes, want.GetEnvelopes(), bytes.Equal)) {
		t.Fatalf("entry %x is %d, %x; protobuf has %v", data, timeMS, envelopes, &want)
	}
}

// TestEntriesWithoutCommands: the index must move on, or waiters would hang.
func TestEntriesWithoutCommands(t *testing.T) {
	s := founded(t)
	next, results, events, err := s.ApplyEntry(9, 1, nil)
	if err != nil || next.Index() != 9 || len(results)+len(events) != 0 {
		t.Fatalf("index %d, %d results, %d events, %v", next.Index(), len(results), len(events), err)
	}
	// The history counts events, and keeps what is made for them: nothing where there are none.
	refused := encoded(t, &SetNode{Id: "n1", Addr: "nowhere"})
	if _, results, events, err := s.ApplyEntry(9, 1, entryOf(t, refused, refused)); err != nil || len(results) != 2 || cap(events) != 0 {
		t.Errorf("%d results, room for %d events, %v", len(results), cap(events), err)
	}
}

func FuzzApplyEntry(f *testing.F) {
	for _, c := range samples() {
		f.Add(entryOf(f, encoded(f, c)))
		f.Add(entryOf(f, askedFor(f, c)))
		f.Add(append(entryOf(f, encoded(f, c)), strange()...))
	}
	var all [][]byte
	for _, c := range samples() {
		all = append(all, encoded(f, c))
	}
	f.Add(entryOf(f, all...))
	base := applied(f, founded(f), &Declare{Prefix: []byte("b"), Writer: "n1"}) // index 6
	f.Fuzz(func(t *testing.T, data []byte) {
		agreeOnEntry(t, data)
		before := base.Hash()
		next, results, _, err := base.ApplyEntry(7, 1, data)
		if base.Hash() != before {
			t.Fatal("the old state changed")
		}
		if err != nil {
			if next.Hash() != before || results != nil {
				t.Fatal("an entry that cannot be decoded changed something")
			}
			return
		}
		if next.Index() != 7 {
			t.Fatalf("index %d", next.Index())
		}
		if err := next.Check(); err != nil {
			t.Fatal(err)
		}
		if next.Hash() == "" {
			t.Fatal("no hash")
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	for _, c := range samples() {
		f.Add(encoded(f, c))
		f.Add(askedFor(f, c))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := DecodeEnvelope(data)
		if err != nil {
			return
		}
		raw, err := e.Encode()
		if err != nil {
			return // longer than a server would ever have let in
		}
		back, err := DecodeEnvelope(raw)
		if err != nil {
			t.Fatalf("own bytes do not decode: %v", err)
		}
		if back.RequestID != e.RequestID || back.Actor != e.Actor || !proto.Equal(back.Command, e.Command) || !proto.Equal(back.Origin, e.Origin) {
			t.Fatalf("%v came back as %v", e, back)
		}
		again, err := back.Encode()
		if err != nil || !bytes.Equal(raw, again) {
			t.Fatalf("encoded twice, %x and %x: %v", raw, again, err)
		}
	})
}

// FuzzLoader feeds records, each after its length in one byte pair. What loads
// satisfies every invariant and yields records that load to the same state.
func FuzzLoader(f *testing.F) {
	s := founded(f)
	for i, c := range samples() {
		s, _, _ = s.Apply(At{Index: s.Index() + 1, TimeMS: int64(i)}, Envelope{RequestID: requestID(s.Index(), i), Command: c})
		s, _ = asked(s, access.Who{Role: access.Admin, ID: "ann"}, &SetNode{Id: "n1", Addr: "h:1"})
		f.Add(recordBytes(f, s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := NewLoader()
		for len(data) >= 2 {
			n := min(int(data[0])<<8|int(data[1]), len(data)-2)
			var r pb.Record
			if err := proto.Unmarshal(data[2:2+n], &r); err != nil {
				return
			}
			if err := l.Add(&r); err != nil {
				return
			}
			data = data[2+n:]
		}
		s, err := l.State()
		if err != nil {
			return
		}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		again := NewLoader()
		for r := range s.Records() {
			if err := again.Add(r); err != nil {
				t.Fatalf("own record %v is refused: %v", r, err)
			}
		}
		if back, err := again.State(); err != nil || back.Hash() != s.Hash() {
			t.Fatalf("own records load to another state: %v", err)
		}
	})
}

func recordBytes(t testing.TB, s State) []byte {
	t.Helper()
	var out []byte
	for r := range s.Records() {
		raw, err := proto.Marshal(r)
		if err != nil || len(raw) > 0xffff {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		out = append(append(out, byte(len(raw)>>8), byte(len(raw))), raw...)
	}
	return out
}
