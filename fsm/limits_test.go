package fsm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
)

// wantLimit applies a command that is one too many: it is refused in words that name the limit, and nothing changes.
func wantLimit(t *testing.T, s State, c Command, code api.Code, limit int) {
	t.Helper()
	before := bare(s)
	next, r, events := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: c})
	if r.GetCode() != string(code) || !strings.Contains(r.GetDetail(), fmt.Sprint(limit)) {
		t.Fatalf("got %s: %.300s; want %s and the limit of %d", r.GetCode(), r.GetDetail(), code, limit)
	}
	if bare(next) != before || len(events) > 0 {
		t.Fatalf("refused with %s, yet something changed", code)
	}
}

func TestEnvelopeLimits(t *testing.T) {
	size := len(encodedAs(t, Envelope{Command: &RemoveNode{Id: strings.Repeat("n", 1<<16)}})) - 1<<16
	fits := Envelope{Command: &RemoveNode{Id: strings.Repeat("n", MaxEnvelope-size-4)}} // room for longer lengths
	for len(encodedAs(t, fits)) < MaxEnvelope {
		fits.Command = &RemoveNode{Id: fits.Command.(*RemoveNode).GetId() + "n"}
	}
	if n := len(entryOf(t, encodedAs(t, fits))); n > MaxEntry {
		t.Errorf("the largest command makes an entry of %d bytes, the limit is %d", n, MaxEntry)
	}
	one := &SetNode{Id: "n1", Addr: "h:1"}
	for _, c := range []struct {
		e     Envelope
		code  api.Code
		limit int
	}{
		{Envelope{Command: &RemoveNode{Id: fits.Command.(*RemoveNode).GetId() + "n"}}, api.TooLarge, MaxEnvelope},
		{Envelope{RequestID: strings.Repeat("r", MaxRequestID+1), Command: one}, api.Invalid, MaxRequestID},
		{Envelope{Actor: strings.Repeat("a", MaxActor+1), Command: one}, api.Invalid, MaxActor},
	} {
		_, err := c.e.Encode()
		if err == nil || api.CodeOf(err) != c.code || !strings.Contains(err.Error(), fmt.Sprint(c.limit)) {
			t.Errorf("got %.300v; want %s and the limit of %d", err, c.code, c.limit)
		}
	}
	encodedAs(t, Envelope{RequestID: strings.Repeat("r", MaxRequestID), Actor: strings.Repeat("a", MaxActor), Command: one})
}

func encodedAs(t testing.TB, e Envelope) []byte {
	t.Helper()
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestNodeLimit(t *testing.T) {
	s := State{}
	for s.NodesLen() < MaxNodes {
		b := &Batch{}
		for i := range min(MaxBatch, MaxNodes-s.NodesLen()) {
			b.Nodes = append(b.Nodes, &SetNode{Id: fmt.Sprintf("n%d", s.NodesLen()+i), Addr: "h:1"})
		}
		s = applied(t, s, b)
	}
	wantLimit(t, s, &SetNode{Id: "more", Addr: "h:1"}, api.Limit, MaxNodes)
	s = applied(t, s, &SetNode{Id: "n1", Addr: "h:2"}) // one that is there already
	s = applied(t, s, &RemoveNode{Id: "n2"})
	applied(t, s, &SetNode{Id: "more", Addr: "h:1"})
}

// Four million scopes take too long for a test, so this one asks for the number alone.
func TestScopeLimit(t *testing.T) {
	if err := checkRoom("a:", MaxScopes-1); err != nil {
		t.Error(err)
	}
	if err := checkRoom("a:", MaxScopes); err == nil || err.Code != api.Limit || !strings.Contains(err.Detail, fmt.Sprint(MaxScopes)) {
		t.Errorf("got %v, want LIMIT and the limit of %d", err, MaxScopes)
	}
}

func TestAddressLimit(t *testing.T) {
	host := strings.Repeat("h", MaxAddr-2)
	s := applied(t, State{}, &SetNode{Id: "n1", Addr: host + ":1"})
	wantLimit(t, s, &SetNode{Id: "n1", Addr: host + "h:1"}, api.Invalid, MaxAddr)
}

// What a process makes up is bounded, at exactly the limit.
func TestSessionLimits(t *testing.T) {
	s := founded(t)
	open := func(session, identity string, token int) *OpenSession {
		return &OpenSession{Node: "n1", Session: session, Identity: identity, TokenHash: make([]byte, token), Incarnation: 1, IncarnationTag: "c1"}
	}
	long := strings.Repeat("x", MaxRandom)
	wantLimit(t, s, open(long+"x", "i", TokenHashLen), api.Invalid, MaxRandom)
	wantLimit(t, s, open("s", long+"x", TokenHashLen), api.Invalid, MaxRandom)
	wantLimit(t, s, open("s", "i", TokenHashLen+1), api.Invalid, TokenHashLen)
	applied(t, s, open(long, long, TokenHashLen))
}

func TestRunningMovesLimit(t *testing.T) {
	s := founded(t)
	for i := range migration.MaxRunning + 1 {
		s = applied(t, s, &Declare{Prefix: fmt.Appendf(nil, "t%04d:", i), Writer: "n1"})
	}
	move := func(i int) Command {
		return &StartMove{Id: fmt.Sprintf("m%d", i), Prefix: fmt.Appendf(nil, "t%04d:", i), From: "n1", To: "n2", Mode: "assisted"}
	}
	for i := range migration.MaxRunning {
		s = applied(t, s, move(i))
	}
	wantLimit(t, s, move(migration.MaxRunning), api.Limit, migration.MaxRunning)
	s = applied(t, s, &Abort{Move: "m7"})
	applied(t, s, move(migration.MaxRunning))
}

func TestProblemsOfABatchAreBounded(t *testing.T) {
	b := &Batch{}
	for i := range 2 * maxProblems {
		b.Nodes = append(b.Nodes, &SetNode{Id: fmt.Sprintf("n%d", i), Addr: "bad"})
	}
	_, r, _ := State{}.Apply(At{Index: 1}, Envelope{Command: b})
	if got := 1 + strings.Count(r.GetDetail(), "\n"); r.GetCode() != string(api.Invalid) || got != maxProblems {
		t.Fatalf("%s with %d problems, want %d", r.GetCode(), got, maxProblems)
	}
}

// A refusal is kept in the ring of results and in every snapshot. One that quoted all of a huge value could make them too
// large to be written, and the log behind them would grow without end.
func TestRefusalsAreBounded(t *testing.T) {
	const size = 64 << 10
	text, prefix := strings.Repeat("\x01", size), []byte(strings.Repeat("\xff", size))
	largest := strings.Repeat("\x01", 900<<10) // quoted in full, its refusal alone would be over the frame of a snapshot
	f := newFSM(t)
	commands := []Command{&SetNode{Id: "n1", Addr: "h:1"}, &SetNode{Id: "n2", Addr: "h:1"}, &Declare{Prefix: []byte("a:"), Writer: "n1"},
		&JoinServer{Id: "s0", Addr: "h:1", Instance: "i"}}
	huge := []Command{
		&SetNode{Id: text, Addr: "h:1"}, &SetNode{Id: "n1", Addr: text}, &RemoveNode{Id: text},
		&Declare{Prefix: prefix, Writer: "n1"}, &Declare{Prefix: []byte("a:"), Writer: largest}, &Declare{Prefix: []byte("b:"), Writer: "n1", Fallback: text},
		&Declare{Prefix: []byte("b:"), Writer: "n1", Failover: text}, &Declare{Prefix: []byte("b:"), Writer: "n1", Lease: text},
		&Retire{Prefix: prefix}, &Retire{Prefix: []byte("a:"), SourceFenced: text},
		&Batch{Nodes: []*SetNode{{Id: "n1", Addr: text}}, Scopes: []*Declare{{Prefix: []byte("a:"), Writer: "n2"}}},
		&StartMove{Id: text}, &StartMove{Id: "m", Mode: text}, &StartMove{Id: "m", Prefix: prefix},
		&StartMove{Id: "m", Prefix: []byte("a:"), From: text}, &StartMove{Id: "m", Prefix: []byte("a:"), From: "n1", To: text, Mode: "assisted"},
		&StartMove{Id: "m", Prefix: []byte("a:"), From: "n1", To: "n2", Mode: "assisted", Reason: text},
		&Quiesce{Move: text}, &Shipped{Move: text}, &Ready{Move: text}, &Abort{Move: text}, &Abort{Move: "m", Reason: text},
		&Cleaned{Node: text, Reason: "off"}, &Cleaned{Node: "n1", Prefix: prefix, Reason: "off"}, &Cleaned{Node: "n1", Prefix: prefix},
		&Force{Id: text}, &Force{Id: "f", Prefix: prefix}, &Force{Id: "f", Prefix: []byte("a:"), ExpectedEpoch: 1, To: text},
		&Force{Id: "f", Prefix: []byte("a:"), ExpectedEpoch: 1, To: "n2", AcceptLoss: true, SourceFenced: text},
		&Force{Id: "f", Prefix: []byte("a:"), ExpectedEpoch: 1, To: "n2", AcceptLoss: true, SourceFenced: "n1", SourceFencedIdentity: text},
		&OpenSession{Node: text}, &OpenSession{Node: "n1", Identity: text}, &OpenSession{Node: "n1", Identity: "i", Session: text},
		&OpenSession{Node: "n1", Identity: "i", Session: "s", TokenHash: prefix}, &OpenSession{Node: "n1", Identity: "i", Session: "s", TokenHash: tokenHash("t"), Incarnation: 1, IncarnationTag: text},
		&CloseSession{Session: text}, &Expire{Session: text}, &Expire{Session: text, Term: 1}, &Ack{Session: text}, &FenceNode{Node: text}, &FenceNode{Node: "n1", Identity: text},
		&Cleaned{Node: "n1", Prefix: []byte("a:"), Session: text}, &Release{Prefix: prefix}, &Release{Prefix: []byte("a:"), Reason: text},
		&JoinServer{Id: text}, &JoinServer{Id: "s1", Addr: text}, &JoinServer{Id: "s1", Addr: "h:1", Instance: text},
		&RemoveServer{Id: text}, &RemoveServer{Id: "s1", Addr: text}, &RemoveServer{Id: "s1", Addr: "h:1", Instance: text},
		&SettleServer{Id: text}, &SettleServer{Id: "s0", Phase: text}, &SettleServer{Id: "s0", Phase: "gone", Addr: text},
	}
	for i, c := range append(commands, huge...) {
		results, ok := f.Apply(commandAt(t, uint64(i)+1, c)).([]*Result)
		if refused := i >= len(commands); !ok || refused == (results[0].GetCode() == "") || len(results[0].GetDetail()) > MaxDetail {
			t.Errorf("command %d: %s with a detail of %d bytes, the limit is %d", i, results[0].GetCode(), len(results[0].GetDetail()), MaxDetail)
		}
	}
	data := persist(t, f)
	if err := restore(newFSM(t), data); err != nil {
		t.Fatal(err)
	}
	if len(data) > 2*MaxDetail*len(huge) {
		t.Errorf("a snapshot of %d refusals has %d bytes", len(huge), len(data))
	}
}

// What a batch kept is told for the first nodes only, for the same reason.
func TestWarningsAreBounded(t *testing.T) {
	s, b := State{}, &Batch{}
	for i := range 2 * maxWarnings {
		id := fmt.Sprintf("n%d", i)
		b.Nodes = append(b.Nodes, &SetNode{Id: id, Addr: "h:1"})
		b.Scopes = append(b.Scopes, &Declare{Prefix: fmt.Appendf(nil, "t%03d:", i), Writer: id})
	}
	s = applied(t, s, b)
	next, r, _ := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: &Batch{Prune: true, Nodes: []*SetNode{{Id: "n0", Addr: "h:1"}}}})
	want := fmt.Sprintf("and %d more", 2*maxWarnings-1-maxWarnings)
	if w := r.GetWarnings(); r.GetCode() != "" || len(w) != maxWarnings+1 || w[maxWarnings] != want {
		t.Fatalf("%s with %d warnings, the last %q; want %q", r.GetCode(), len(w), w[len(w)-1], want)
	}
	if next.NodesLen() != 2*maxWarnings {
		t.Fatalf("%d nodes are left, all are in use", next.NodesLen())
	}
}
