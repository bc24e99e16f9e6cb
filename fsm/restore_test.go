package fsm

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// heldSince is the state as incarnation 2 with the tag "t2", on hold.
func heldSince(t testing.TB, s State, complete bool) State {
	t.Helper()
	s, _, err := s.Restored(Restoration{Incarnation: 2, Tag: "t2", Complete: complete, Index: s.Index() + 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// met opens sessions in incarnation 2.
func met(t testing.TB, s State, nodes ...string) State {
	t.Helper()
	for _, id := range nodes {
		s = applied(t, s, &OpenSession{Node: id, Session: id + "-s", Identity: id + "-disk", TokenHash: tokenHash(id), Incarnation: 2, IncarnationTag: "t2"})
	}
	return s
}

func TestRouteDoesNotAllocate(t *testing.T) {
	served := applied(t, founded(t), &Declare{Prefix: []byte("a:"), Writer: "n1"})
	held := heldSince(t, served, true)
	released := applied(t, met(t, held, "n1"), &Release{Prefix: []byte("a:"), SourceFenced: true, Reason: "off"})
	key := []byte("a:1")
	for want, s := range map[scope.Verdict]State{scope.Misdirected: served, scope.Quiesced: held} {
		if r := s.Route(key, "n2"); r.Verdict != want || r.Target() != "n1" {
			t.Errorf("%s %s, want %s n1", r.Verdict, r.Target(), want)
		}
	}
	for _, s := range []State{served, held, released} {
		if n := testing.AllocsPerRun(100, func() { s.Route(key, "n1") }); n != 0 {
			t.Errorf("Route allocates %v times", n)
		}
	}
}

// A restored state comes back from its records as it is.
func TestHoldIsInTheRecords(t *testing.T) {
	s := applied(t, founded(t), &Declare{Prefix: []byte("a:"), Writer: "n1"})
	hashes := map[string]bool{s.Hash(): true}
	for _, complete := range []bool{false, true} {
		held := met(t, heldSince(t, s, complete), "n1")
		for _, s := range []State{held, applied(t, held, &Release{Prefix: []byte("a:"), SourceFenced: true, Reason: "off"})} {
			f := newFSM(t)
			f.publish(s, Item{Index: s.Index()})
			g := newFSM(t)
			if err := restore(g, persist(t, f)); err != nil {
				t.Fatal(err)
			}
			was, _ := s.Scopes().Get("a:")
			if sc, _ := g.State().Scopes().Get("a:"); *sc != *was {
				t.Errorf("%+v came back as %+v", *was, *sc)
			}
			if back := g.State(); back.Hash() != s.Hash() || back.Cluster() != s.Cluster() || back.unmetText() != s.unmetText() {
				t.Errorf("%+v came back as %+v", s.Cluster(), back.Cluster())
			}
			hashes[s.Hash()] = true
		}
	}
	// The word of a release completes the restore that was not said to be complete.
	if len(hashes) != 4 {
		t.Errorf("%d hashes of 4 states", len(hashes))
	}
}

// A snapshot that no log can have led to is refused.
func TestLoaderRefusesContradictingHolds(t *testing.T) {
	s := met(t, heldSince(t, applied(t, founded(t), &Declare{Prefix: []byte("a:"), Writer: "n1"}), true), "n1")
	load := func(change func(*pb.Record)) error {
		l := NewLoader()
		for r := range s.Records() {
			change(r)
			if err := l.Add(r); err != nil {
				return err
			}
		}
		_, err := l.State()
		return err
	}
	if err := load(func(*pb.Record) {}); err != nil {
		t.Fatalf("what is right is refused: %v", err)
	}
	for name, change := range map[string]func(*pb.Record){
		"complete without a hold": func(r *pb.Record) {
			if c := r.GetCluster(); c != nil {
				c.Hold = false
			}
		},
		"all have met it": func(r *pb.Record) {
			if n := r.GetNode(); n != nil && n.GetId() != "n1" {
				n.Identity, n.Incarnation, n.IncarnationTag = "i", 2, "t2"
			}
		},
		"released of one that has not": func(r *pb.Record) {
			if sc := r.GetScope(); sc != nil {
				sc.Writer, sc.Owner, sc.Released = "n2", "n2", true
			}
		},
		"a later incarnation": func(r *pb.Record) {
			if n := r.GetNode(); n != nil && n.GetId() == "n2" {
				n.Identity, n.Incarnation, n.IncarnationTag = "i", 3, "t3"
			}
		},
		"the same with another tag": func(r *pb.Record) {
			if n := r.GetNode(); n != nil && n.GetId() == "n2" {
				n.Identity, n.Incarnation, n.IncarnationTag = "i", 2, "other"
			}
		},
	} {
		if err := load(change); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	l := NewLoader()
	moving := applied(t, applied(t, founded(t), &Declare{Prefix: []byte("a:"), Writer: "n1"}), &StartMove{Id: "m1", Prefix: []byte("a:"), From: "n1", To: "n2", Mode: "assisted"})
	for r := range moving.Records() {
		if c := r.GetCluster(); c != nil {
			c.Hold, c.Incarnation, c.IncarnationTag = true, 2, "t2"
		}
		if err := l.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.State(); err == nil {
		t.Error("a move of a held scope: loaded")
	}
}

// Only the restore itself costs by the size of the state: what ends the hold of
// a hundred times the scopes allocates little more.
func TestEndOfHoldCostsLittle(t *testing.T) {
	cost := func(scopes int) uint64 {
		s := founded(t)
		for i := range scopes {
			s = applied(t, s, &Declare{Prefix: fmt.Appendf(nil, "t%07d:", i), Writer: "n1"})
		}
		s = met(t, heldSince(t, s, true), "n1", "n2", "n3")
		s = applied(t, s, &Release{Prefix: []byte("t0000007:"), SourceFenced: true, Reason: "off"})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s = met(t, s, "n4")
		runtime.ReadMemStats(&after)
		if s.Cluster().Hold {
			t.Fatal("the hold goes on")
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	small, large := cost(300), cost(30_000)
	if large > 4*small {
		t.Fatalf("the end of a hold allocates %d bytes beside 300 scopes and %d beside 30,000: it looks at all of them", small, large)
	}
}

// A refusal names few of the nodes that a hold waits for.
func TestHoldTextIsBounded(t *testing.T) {
	s := founded(t)
	for i := range 100 {
		s = applied(t, s, &SetNode{Id: fmt.Sprintf("x%03d", i), Addr: "h:1"})
	}
	text := heldSince(t, s, true).HoldText()
	if want := fmt.Sprintf("n1, n2, n3, n4, x000, and %d more", 104-maxNamed); !strings.Contains(text, want) || strings.Contains(text, "x001") {
		t.Errorf("%s\nwant %q in it", text, want)
	}
}

// The record of the cluster in an event is as it was then.
func TestEventsOfTheClusterStay(t *testing.T) {
	_, _, events := State{}.Apply(At{Index: 1}, Envelope{Command: &InitCluster{Id: "c1"}})
	if len(events) != 1 || events[0].Cause != "init" || *events[0].Cluster != (Cluster{ID: "c1", Incarnation: 1, Tag: "c1"}) {
		t.Fatalf("%+v", events)
	}
	s := met(t, heldSince(t, founded(t), true), "n1", "n2", "n3")
	was := s.Cluster()
	next, _, events := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: &OpenSession{Node: "n4", Session: "s", Identity: "i", TokenHash: tokenHash("t"), Incarnation: 2, IncarnationTag: "t2"}})
	last := events[len(events)-1]
	if last.Cause != "hold-ended" || last.Cluster.Hold || *last.Cluster != next.Cluster() || s.Cluster() != was {
		t.Errorf("%+v from %+v", last, was)
	}
}
