package fsm

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// drawAsked makes the command, or one about tokens in its place, that of somebody.
func drawAsked(t *rapid.T, s State, e Envelope) Envelope {
	id := rapid.SampledFrom([]string{"t1", "t2", "t3"}).Draw(t, "token")
	switch evenly(t) {
	case 0, 1, 2, 3:
		c := &CreateToken{Id: id, Role: rapid.SampledFrom([]string{"admin", "admin", "operator", "viewer"}).Draw(t, "role"), Hash: tokenHash(id),
			ExpiresMs: rapid.SampledFrom([]int64{0, 0, 20, 50}).Draw(t, "end"), First: evenly(t) == 0}
		if c.GetRole() == "operator" && rapid.Bool().Draw(t, "restricted") {
			c.Prefix = []byte("a")
		}
		e.Command = c
	case 4, 5:
		e.Command = &RevokeToken{Id: id}
	}
	who := rapid.SampledFrom(principals).Draw(t, "who").who
	if token, ok := s.tokens.byID.Get(scope.Prefix(id)); ok && rapid.Bool().Draw(t, "by token") {
		who = token.Who()
	} else if evenly(t) < 6 {
		who = access.Who{Role: access.Admin, ID: "ann"}
	} else if evenly(t) < 4 {
		who = access.Who{Role: access.Anonymous}
	}
	e.Origin = OriginOf(who, "10.0.0.1", "")
	return e
}

// checkAudited: what somebody asks leaves one record, the leader's own none, and nothing changes what is there.
func checkAudited(t *rapid.T, s, next State, e Envelope, r *Result) {
	want := s.audit.last
	c, part := e.Command.(*StageBackup)
	if e.Origin != nil && !(part && c.GetOffset() > 0 && r.GetCode() == "") {
		want++
	}
	if next.audit.last != want {
		t.Fatalf("%T of %v: the audit ends at %d, want %d", e.Command, e.Origin, next.audit.last, want)
	}
	for a := range next.AuditNewest() {
		if want > s.audit.last && (a.GetNumber() != want || a.GetIndex() != r.GetIndex() || a.GetCode() != r.GetCode() || a.GetAction() == "" || a.GetActor() == "") {
			t.Fatalf("%T of %v left %v", e.Command, e.Origin, a)
		}
		break
	}
}

// The newest records are kept, whatever number there were, and they come back from a snapshot.
func TestAuditIsBounded(t *testing.T) {
	s, who := founded(t), access.Who{Role: access.Operator, ID: "bob"}
	if n := s.AuditOldest(); n != 0 {
		t.Fatalf("the oldest record of none is %d", n)
	}
	for i := range MaxAudit + 100 {
		s, _, _ = s.Apply(At{Index: s.Index() + 1, TimeMS: int64(i)}, Envelope{Origin: OriginOf(who, "", ""), Command: &RemoveNode{Id: fmt.Sprintf("x%d", i)}})
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	l := NewLoader()
	for r := range s.Records() {
		if err := l.Add(proto.CloneOf(r)); err != nil {
			t.Fatal(err)
		}
	}
	back, err := l.State()
	if err != nil || back.Hash() != s.Hash() {
		t.Fatalf("the state comes back otherwise: %v", err)
	}
	numbers := func(s State, from uint64) (first, last uint64, n int) {
		for r := range s.Audit(from) {
			if n++; n == 1 {
				first = r.GetNumber()
			}
			last = r.GetNumber()
		}
		return first, last, n
	}
	for _, s := range []State{s, back} {
		if first, last, n := numbers(s, 0); first != 101 || last != MaxAudit+100 || n != MaxAudit || s.AuditOldest() != 101 {
			t.Errorf("kept are %d records, %d to %d, the oldest %d", n, first, last, s.AuditOldest())
		}
		if first, _, n := numbers(s, MaxAudit+99); first != MaxAudit+99 || n != 2 {
			t.Errorf("from the one before the last on there are %d, from %d", n, first)
		}
		want := uint64(MaxAudit + 100)
		for r := range s.AuditNewest() {
			if r.GetNumber() != want {
				t.Fatalf("record %d comes where %d belongs", r.GetNumber(), want)
			}
			want--
		}
	}
}

// What a record quotes of a command that was refused may be as large as the command.
func TestAuditRecordsAreBounded(t *testing.T) {
	huge := strings.Repeat("é", 64<<10)
	s := founded(t)
	o := &Origin{Role: "anonymous", Source: huge, Reason: huge}
	for _, c := range []Command{&SetNode{Id: huge}, &StartMove{Id: huge, To: huge, Prefix: []byte(huge), Reason: huge}, &Abort{Move: huge, Session: huge, Reason: huge},
		&RevokeToken{Id: huge}, &JoinServer{Id: huge}, &OpenSession{Node: huge}, &Cleaned{Node: huge, Session: huge, Move: huge}} {
		for _, o := range []*Origin{o, {Role: "admin", Id: huge, Reason: huge}, {Role: huge, Token: huge}, {Role: "operator", Token: huge}} {
			var r *Result
			if s, r, _ = s.Apply(At{Index: s.Index() + 1}, Envelope{Actor: strings.Repeat("a", MaxActor), Origin: o, Command: c}); r.GetCode() == "" {
				t.Errorf("%T is not refused", c)
			}
		}
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	for r := range s.Audit(0) {
		if n := proto.Size(r); n > 6*MaxAuditText+MaxReason+scope.MaxPrefixLen+100 {
			t.Errorf("record %d has %d bytes", r.GetNumber(), n)
		}
	}
}

// The parts of an upload are one deed, unless one is refused.
func TestUploadsAreOneDeed(t *testing.T) {
	s, o := founded(t), OriginOf(access.Who{Role: access.Admin, ID: "ann"}, "10.0.0.1", "drill")
	for _, c := range []*StageBackup{{Id: "u", Data: []byte("ab")}, {Id: "u", Offset: 2, Data: []byte("cd")}, {Id: "u", Offset: 9, Data: []byte("ef")}} {
		s, _, _ = s.Apply(At{Index: s.Index() + 1}, Envelope{Origin: o, Command: c})
	}
	var got []string
	for r := range s.Audit(0) {
		got = append(got, fmt.Sprintf("%s %s %s %s", r.GetAction(), r.GetSubject(), r.GetReason(), r.GetCode()))
	}
	if want := "restore u drill |restore u drill WRONG_PHASE"; strings.Join(got, "|") != want {
		t.Errorf("the audit has %q, want %q", got, want)
	}
}

// TestAccessRecordsAreChecked: a snapshot whose tokens or audit no log can have built is refused.
func TestAccessRecordsAreChecked(t *testing.T) {
	good := guarded(t)
	good, _ = asked(good, access.Who{Role: access.Admin, ID: "ann"}, &SetNode{Id: "n1", Addr: "h:5"})
	token := func(change func(*pb.TokenRecord)) func(*pb.Record) {
		return func(r *pb.Record) {
			if k := r.GetToken(); k.GetId() == "part-a" {
				change(k)
			}
		}
	}
	cluster := func(change func(*pb.ClusterRecord)) func(*pb.Record) {
		return func(r *pb.Record) {
			if r.GetCluster() != nil {
				change(r.GetCluster())
			}
		}
	}
	audit := func(change func(*pb.AuditRecord)) func(*pb.Record) {
		return func(r *pb.Record) {
			if r.GetAudit() != nil {
				change(r.GetAudit())
			}
		}
	}
	for what, change := range map[string]func(*pb.Record){
		"a hash of 3 bytes":       token(func(r *pb.TokenRecord) { r.Hash = []byte("abc") }),
		"no role":                 token(func(r *pb.TokenRecord) { r.Role = "" }),
		"another role":            token(func(r *pb.TokenRecord) { r.Role = "server" }),
		"a node with an operator": token(func(r *pb.TokenRecord) { r.Node = "n1" }),
		"a node without a name":   token(func(r *pb.TokenRecord) { r.Role, r.Prefix = "node", nil }),
		"a long prefix":           token(func(r *pb.TokenRecord) { r.Prefix = make([]byte, scope.MaxPrefixLen+1) }),
		"an id that is none":      token(func(r *pb.TokenRecord) { r.Id = "PART" }),
		"an end before time":      token(func(r *pb.TokenRecord) { r.ExpiresMs = -1 }),
		"made after the last":     token(func(r *pb.TokenRecord) { r.Created = 1 << 40 }),
		"made before the first":   token(func(r *pb.TokenRecord) { r.Created = 1 }),
		"made by a long name":     token(func(r *pb.TokenRecord) { r.CreatedBy = strings.Repeat("a", MaxActor+1) }),
		"the same id twice":       token(func(r *pb.TokenRecord) { r.Id = "n1" }),
		"no first":                cluster(func(r *pb.ClusterRecord) { r.FirstToken = 0 }),
		"changed before first":    cluster(func(r *pb.ClusterRecord) { r.TokensChanged = r.GetFirstToken() - 1 }),
		"changed in time to come": cluster(func(r *pb.ClusterRecord) { r.TokensChanged = r.GetIndex() + 1 }),
		"one record too few":      cluster(func(r *pb.ClusterRecord) { r.Audited++ }),
		"none said":               cluster(func(r *pb.ClusterRecord) { r.Audited = 0 }),
		"another number":          audit(func(r *pb.AuditRecord) { r.Number = 7 }),
		"an index to come":        audit(func(r *pb.AuditRecord) { r.Index = 1 << 40 }),
		"a long actor":            audit(func(r *pb.AuditRecord) { r.Actor = strings.Repeat("a", MaxAuditText+1) }),
		"a long reason":           audit(func(r *pb.AuditRecord) { r.Reason = strings.Repeat("a", MaxReason+1) }),
		"no action":               audit(func(r *pb.AuditRecord) { r.Action = "" }),
		"nothing":                 func(*pb.Record) {},
	} {
		l, err := NewLoader(), error(nil)
		for r := range good.Records() {
			r = proto.CloneOf(r)
			if change(r); err == nil {
				err = l.Add(r)
			}
		}
		if err == nil {
			_, err = l.State()
		}
		if (err != nil) != (what != "nothing") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A state without any of it has the records that it had before there was any.
func TestStatesWithoutAccessAreAsBefore(t *testing.T) {
	s := applied(t, founded(t), &Declare{Prefix: []byte("a:"), Writer: "n1"})
	for r := range s.Records() {
		if c := r.GetCluster(); r.GetToken() != nil || r.GetAudit() != nil || c.GetLogFormat()+c.GetFirstToken()+c.GetTokensChanged()+c.GetAudited() != 0 {
			t.Errorf("record %v", r)
		}
	}
}

// Two states that are made from one do not see what the other adds, at every place in a page; and a snapshot whose records
// are not exactly those that the newest number says is refused.
func TestAuditOfTwoFutures(t *testing.T) {
	for _, by := range []*edit{nil, new(edit)} {
		var a auditTrail
		for n := range uint64(2*auditPage + 3) {
			left, right := a.with(&AuditRecord{Subject: "left"}, by), a.with(&AuditRecord{Subject: "right"}, by)
			if l, r := left.at(n+1), right.at(n+1); l.GetSubject() != "left" || r.GetSubject() != "right" || l.GetNumber() != n+1 || left.check(0) != nil {
				t.Fatalf("record %d is %v, and in the other %v", n+1, l, r)
			}
			a = left
		}
	}
	for _, c := range []struct {
		numbers []uint64
		audited uint64
	}{{nil, 1}, {[]uint64{1}, 0}, {[]uint64{0}, 0}, {[]uint64{1, 3}, 3}, {[]uint64{2, 1}, 2}, {[]uint64{2, 3}, 3}, {[]uint64{1 << 63}, 1 << 63}} {
		l := NewLoader()
		err := l.Add(&pb.Record{Kind: &pb.Record_Cluster{Cluster: &pb.ClusterRecord{Id: "c1", Incarnation: 1, Audited: c.audited}}})
		for _, n := range c.numbers {
			if err == nil {
				err = l.Add(&pb.Record{Kind: &pb.Record_Audit{Audit: &AuditRecord{Number: n, Action: "set_node"}}})
			}
		}
		if err == nil {
			_, err = l.State()
		}
		if err == nil || !strings.Contains(err.Error(), "audit") {
			t.Errorf("records %d of an audit up to %d are taken: %v", c.numbers, c.audited, err)
		}
	}
}
