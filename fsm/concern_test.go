package fsm

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/scope"
)

// concernedBy is whom an entry's events concern, from scratch: who is named by a
// record that it changed, as it was before or is after.
func concernedBy(before State, events []Event) map[scope.NodeID]bool {
	out := map[scope.NodeID]bool{}
	for _, e := range events {
		switch {
		case e.Scope != nil:
			named := parties(e.Scope)
			if old, ok := before.Scopes().Get(e.Scope.Prefix); ok {
				named = append(named, parties(old)...)
			}
			for _, id := range named {
				out[id] = true
			}
		case e.Move != nil:
			out[e.Move.From], out[e.Move.To] = true, true
		case e.Cleanup != nil:
			out[e.Cleanup.Node] = true
		case e.Tombstone != nil:
			out[e.Tombstone.Owner] = true
		}
	}
	return out
}

// checkConcern holds what sessions note as their concern against the events.
func checkConcern(t *rapid.T, before, after State, events []Event) {
	concerned := concernedBy(before, events)
	for id, held := range after.Sessions() {
		want := uint64(0)
		if old, _ := before.Node(id); old.Session.ID == held.ID && old.Session.Opened == held.Opened {
			want = old.Session.Concern
		}
		if concerned[id] {
			want = after.Index()
		}
		if held.Concern != want {
			t.Fatalf("node %q: concern %d, want %d after %d events at %d", id, held.Concern, want, len(events), after.Index())
		}
	}
}

// Each kind of change concerns the nodes that it names, and nobody else.
func TestConcern(t *testing.T) {
	s := opened(t, founded(t), "n1", "n2", "n3", "n4")
	for _, step := range []struct {
		command   Command
		concerned string
	}{
		{&SetNode{Id: "n1", Addr: "h:9"}, ""},
		{&Declare{Prefix: []byte("a"), Writer: "n1", Fallback: "n2"}, "n1 n2"},
		{&Ack{Session: "n1-s", View: 11}, "n1 n2"}, // it arms the scope
		{&Ack{Session: "n4-s", View: 11}, ""},
		{&Declare{Prefix: []byte("a"), Writer: "n1", Fallback: "n3"}, "n1 n2 n3"}, // n2 was its fallback
		{&StartMove{Id: "m1", Prefix: []byte("a"), From: "n1", To: "n4", Mode: "agent", Precopy: true}, "n1 n4"},
		{&Quiesce{Move: "m1"}, "n1 n3 n4"}, // the scope is closed now
		{&Abort{Move: "m1"}, "n1 n3 n4"},
		{&StartMove{Id: "m2", Prefix: []byte("a"), From: "n1", To: "n4", Mode: "agent"}, "n1 n3 n4"},
		{&Shipped{Move: "m2", Session: "n1-s"}, "n1 n4"},
		{&Ready{Move: "m2", Session: "n4-s"}, "n1 n3 n4"},
		{&Cleaned{Node: "n1", Prefix: []byte("a"), Epoch: 1, Session: "n1-s"}, "n1"},
		{&Retire{Prefix: []byte("a")}, "n3 n4"},
		{&Ack{Session: "n4-s", View: 22}, "n4"}, // it clears the tombstone
		{&Declare{Prefix: []byte("b"), Writer: "n1", Fallback: "n2"}, "n1 n2"},
		{&Ack{Session: "n1-s", View: 24}, "n1 n2"},
		{&Expire{Session: "n1-s", Term: 1}, "n2"}, // which takes over
	} {
		next, r, _ := s.Apply(At{Index: s.Index() + 1, Term: 1}, Envelope{Command: step.command})
		if err := ResultError(r); err != nil {
			t.Fatalf("%v: %v", step.command, err)
		}
		got := map[string]bool{}
		for id, held := range next.Sessions() {
			if held.Concern == next.Index() {
				got[string(id)] = true
			}
		}
		if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); names != step.concerned {
			t.Errorf("%T at %d concerns %q, want %q", step.command, next.Index(), names, step.concerned)
		}
		s = next
	}
	if n, _ := opened(t, applied(t, s, &CloseSession{Session: "n2-s"}), "n2").Node("n2"); n.Session.Concern != 0 {
		t.Errorf("a session that was opened just now is concerned by %d", n.Session.Concern)
	}
}

// A takeover of many scopes of one node is one write of that node's record: the
// second change of an entry leaves the tree of nodes alone.
func TestConcernIsWrittenOncePerEntry(t *testing.T) {
	tx := &txn{State: opened(t, founded(t), "n1"), at: At{Index: 100}}
	before := tx.nodes
	tx.concern("n1", "n2", "nobody")
	once := tx.nodes
	tx.concern("n1", "n2", "nobody")
	if once == before || tx.nodes != once {
		t.Errorf("written by the first change: %v, by the second: %v", once != before, tx.nodes != once)
	}
}

// A leader that starts from a snapshot judges nodes by the same concerns, and
// servers that differ in one have different hashes.
func TestConcernIsInSnapshotAndHash(t *testing.T) {
	s := applied(t, opened(t, founded(t), "n1"), &Declare{Prefix: []byte("a"), Writer: "n1"})
	l := NewLoader()
	for r := range s.Records() {
		if err := l.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	loaded, err := l.State()
	want, _ := s.Node("n1")
	if got, _ := loaded.Node("n1"); err != nil || got != want || want.Session.Concern != s.Index() {
		t.Errorf("node %+v was loaded as %+v: %v", want, got, err)
	}
	tx := &txn{State: s, at: At{Index: s.Index() + 1}}
	tx.concern("n1")
	if tx.Hash() == s.Hash() {
		t.Error("the hash does not tell another concern")
	}
}
