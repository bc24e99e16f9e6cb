package fsm

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// opened is the state in which the nodes hold sessions, that of n1 being "n1-s".
func opened(t testing.TB, s State, nodes ...string) State {
	t.Helper()
	for _, id := range nodes {
		s = applied(t, s, &OpenSession{Node: id, Session: id + "-s", Identity: id + "-disk", TokenHash: tokenHash(id), Incarnation: 1, IncarnationTag: "c1", View: s.Index()})
	}
	return s
}

// A takeover cancels what the fallback had still to delete, and says that the
// copy may be gone. Commands keep a fallback from owing one, so that the record
// is put in place here.
func TestTakeoverCancelsTheCleanupOfTheFallback(t *testing.T) {
	for _, owed := range []scope.Prefix{"a:", "a", "a:1:"} {
		s := opened(t, applied(t, founded(t), &Declare{Prefix: []byte("a:"), Writer: "n1", Fallback: "n2"}), "n1", "n2")
		tx := &txn{State: s}
		tx.putCleanup(Cleanup{Node: "n2", Prefix: owed, Epoch: 1, Move: "m1", Since: 1})
		next, r, events := tx.Apply(At{Index: s.Index() + 1}, Envelope{Command: &Expire{Session: "n1-s"}})
		sc, _ := next.Scopes().Get("a:")
		if r.GetCode() != "" || sc.Owner != "n2" || next.CleanupsLen() != 0 {
			t.Fatalf("%s, owner %s, %d cleanups pending", r.GetCode(), sc.Owner, next.CleanupsLen())
		}
		cancelled := slices.IndexFunc(events, func(e Event) bool { return e.Cause == "cancelled" && e.Deleted })
		taken := slices.IndexFunc(events, func(e Event) bool { return e.Cause == "takeover" })
		if cancelled < 0 || taken < cancelled {
			t.Errorf("cancelled at event %d, taken over at %d: it must be cancelled first", cancelled, taken)
		}
		if w := r.GetWarnings(); len(w) == 0 || !strings.Contains(w[0], "may be gone") {
			t.Errorf("warnings %q", w)
		}
	}
}

// TestSessionsCostWhatTheyConcern counts bytes: beside a hundred times the
// scopes that a session does not concern, its commands cost a little more, as
// trees are deeper.
func TestSessionsCostWhatTheyConcern(t *testing.T) {
	small, large := bytesPerSession(t, 300), bytesPerSession(t, 30_000)
	if large > 4*small {
		t.Fatalf("a session's life allocates %d bytes beside 300 scopes and %d beside 30,000: it looks at all of them", small, large)
	}
}

func bytesPerSession(t *testing.T, n int) uint64 {
	t.Helper()
	s := opened(t, founded(t), "n3")
	for i := range n { // half of them of the node itself, with a fallback that is down
		writer := []string{"n1", "n3"}[i%2]
		s = applied(t, s, &Declare{Prefix: fmt.Appendf(nil, "t%07d:", i), Writer: writer, Fallback: "n4"})
	}
	const rounds = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		s = opened(t, s, "n1", "n2")
		s = applied(t, s, &Ack{Session: "n1-s", View: s.Index()})
		s = applied(t, s, &Expire{Session: "n1-s"})
		s = applied(t, s, &CloseSession{Session: "n2-s"})
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / rounds
}

// Everybody may see the records and events; a token's hash would let others
// guess at tokens.
func TestEventsHoldNoToken(t *testing.T) {
	s := founded(t)
	for _, c := range []Command{
		&OpenSession{Node: "n1", Session: "s1", Identity: "i", TokenHash: []byte(strings.Repeat("T", TokenHashLen)), Incarnation: 1, IncarnationTag: "c1"},
		&OpenSession{Node: "n1", Session: "s2", Identity: "i", TokenHash: tokenHash("new"), PreviousTokenHash: []byte(strings.Repeat("U", TokenHashLen)), Incarnation: 1, IncarnationTag: "c1"},
		&Ack{Session: "s1", View: 6},
	} {
		next, r, events := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: c})
		if text := fmt.Sprintf("%+v %v", r, events); strings.Contains(text, "TTT") || strings.Contains(text, "UUU") {
			t.Errorf("a token's hash is shown: %s", text)
		}
		for _, e := range events {
			if text := fmt.Sprintf("%+v", *e.Node); strings.Contains(text, "TTT") || !e.Node.Live() {
				t.Errorf("%s: %s", e.Cause, text)
			}
		}
		s = next
	}
}

// A snapshot that no log can have led to is refused.
func TestLoaderRefusesContradictingSessions(t *testing.T) {
	good := func() *pb.NodeRecord {
		return &pb.NodeRecord{Id: "n1", Addr: "h:1", Identity: "i", Incarnation: 1, IncarnationTag: "c1",
			Session: &pb.SessionRecord{Id: "s1", TokenHash: tokenHash("t"), Opened: 4, View: 3}}
	}
	load := func(nodes ...*pb.NodeRecord) error {
		l := NewLoader()
		records := []*pb.Record{{Kind: &pb.Record_Cluster{Cluster: &pb.ClusterRecord{Id: "c1", Incarnation: 1, IncarnationTag: "c1", Index: 9, NextEpoch: 2}}}}
		for _, n := range nodes {
			records = append(records, &pb.Record{Kind: &pb.Record_Node{Node: n}})
		}
		for _, scopeOf := range []string{"n1"} {
			records = append(records, &pb.Record{Kind: &pb.Record_Scope{Scope: &pb.ScopeRecord{Prefix: []byte("a"), Writer: scopeOf, Owner: scopeOf, Fallback: "n2", Epoch: 1, Armed: true}}})
		}
		for _, r := range records {
			if err := l.Add(r); err != nil {
				return err
			}
		}
		_, err := l.State()
		return err
	}
	fallback := func() *pb.NodeRecord {
		n := good()
		n.Id, n.Session.Id = "n2", "s2"
		return n
	}
	if err := load(good(), fallback()); err != nil {
		t.Fatalf("what is right is refused: %v", err)
	}
	for name, change := range map[string]func(n, fallback *pb.NodeRecord){
		"expired and live":         func(n, _ *pb.NodeRecord) { n.Expired = true },
		"fenced and live":          func(n, _ *pb.NodeRecord) { n.Fenced = true },
		"no identity":              func(n, _ *pb.NodeRecord) { n.Identity = "" },
		"no token":                 func(n, _ *pb.NodeRecord) { n.Session.TokenHash = nil },
		"no session id":            func(n, _ *pb.NodeRecord) { n.Session.Id = "" },
		"another incarnation":      func(n, _ *pb.NodeRecord) { n.Incarnation = 2 },
		"another tag":              func(n, _ *pb.NodeRecord) { n.IncarnationTag = "x" },
		"opened later":             func(n, _ *pb.NodeRecord) { n.Session.Opened = 10 },
		"has seen what is to come": func(n, _ *pb.NodeRecord) { n.Session.View = 9 },
		"concerned by the future":  func(n, _ *pb.NodeRecord) { n.Session.Concern = 10 },
		"concerned by the past":    func(n, _ *pb.NodeRecord) { n.Session.Concern = 3 },
		"one session of two nodes": func(n, f *pb.NodeRecord) { f.Session.Id = n.Session.Id },
		"expired without identity": func(n, _ *pb.NodeRecord) {
			n.Identity, n.Session, n.Incarnation, n.IncarnationTag, n.Expired = "", nil, 0, "", true
		},
		"not taken over": func(n, _ *pb.NodeRecord) { n.Session, n.Expired = nil, true },
	} {
		n, f := good(), fallback()
		change(n, f)
		if err := load(n, f); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

// After a restore the cluster has another incarnation. Until the node has met it
// another identity is refused, although it owns nothing: what it owned may be in
// what the restore lost.
func TestAnotherIdentityMustHaveMetTheIncarnation(t *testing.T) {
	s := applied(t, opened(t, founded(t), "n1"), &CloseSession{Session: "n1-s"})
	s, _, err := s.Restored(Restoration{Incarnation: 2, Tag: "c1-restored", Index: s.Index() + 1})
	if err != nil {
		t.Fatal(err)
	}
	open := func(identity string) Command {
		return &OpenSession{Node: "n1", Session: "of-" + identity, Identity: identity, TokenHash: tokenHash("t"), Incarnation: 2, IncarnationTag: "c1-restored"}
	}
	_, r, _ := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: open("new")})
	if r.GetCode() != string(api.IdentityChanged) {
		t.Fatalf("another identity in an incarnation that the node has not met: %q", r.GetCode())
	}
	vouched := applied(t, s, &FenceNode{Node: "n1", Identity: "n1-disk"})
	applied(t, vouched, open("new"))
	s = applied(t, applied(t, s, open("n1-disk")), &CloseSession{Session: "of-n1-disk"})
	applied(t, s, open("new"))
}

func TestHolder(t *testing.T) {
	s := opened(t, founded(t), "n1")
	if n, ok := s.Holder("n1-s"); !ok || n.ID != "n1" || n.Session.Opened != s.Index() {
		t.Errorf("%+v, %v", n, ok)
	}
	s = applied(t, s, &CloseSession{Session: "n1-s"})
	for _, id := range []string{"n1-s", ""} {
		if n, ok := s.Holder(id); ok {
			t.Errorf("session %q is held by %+v", id, n)
		}
	}
	if api.CodeOf(ResultError(second(s.Apply(At{Index: s.Index() + 1}, Envelope{Command: &Ack{Session: ""}})))) != api.SessionExpired {
		t.Error("no session at all is live")
	}
}

func second(_ State, r *Result, _ []Event) *Result { return r }
