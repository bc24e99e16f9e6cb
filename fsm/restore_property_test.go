package fsm

import (
	"fmt"
	"reflect"

	"pgregory.net/rapid"
)

// drawRestore puts both states back as a new incarnation, at the same index,
// and holds the result against what a restore must and must not change.
func drawRestore(t *rapid.T, s, twin State, counts map[string]int) (State, State) {
	r := Restoration{Incarnation: s.Cluster().Incarnation + uint64(rapid.IntRange(1, 3).Draw(t, "raised by")), Tag: fmt.Sprintf("t%d", s.Index()),
		Complete: evenly(t) > 3, TimeMS: 7, Index: s.Index() + uint64(rapid.IntRange(0, 2).Draw(t, "put after"))}
	before := s.Hash()
	next, events, err := s.Restored(r)
	if err != nil {
		t.Fatal(err)
	}
	if s.Hash() != before {
		t.Fatal("a restore changed the state of the backup")
	}
	if err := next.Check(); err != nil {
		t.Fatalf("after a restore: %v", err)
	}
	if back := reload(t, next); back.Hash() != next.Hash() {
		t.Fatal("a restored state comes back otherwise from its records")
	}
	checkRestored(t, s, next, r)
	for _, e := range events {
		counts[e.Cause]++
	}
	if twin, _, err = twin.Restored(r); err != nil {
		t.Fatal(err)
	}
	return next, twin
}

func checkRestored(t *rapid.T, s, next State, r Restoration) {
	c := next.Cluster()
	if c.Incarnation != r.Incarnation || c.Tag != r.Tag || c.ID != s.Cluster().ID || c.NextEpoch != s.Cluster().NextEpoch ||
		next.Index() != r.Index || next.ConfigIndex() != r.Index || !c.Hold && s.NodesLen() > 0 {
		t.Fatalf("%+v became %+v at %d by %+v", s.Cluster(), c, next.Index(), r)
	}
	if next.Moves().RunningLen() > 0 || next.CleanupsLen() > 0 {
		t.Fatalf("%d moves run and %d cleanups are pending", next.Moves().RunningLen(), next.CleanupsLen())
	}
	for n := range s.Nodes() {
		got, _ := next.Node(n.ID)
		if got.Live() || got.Expired || got.Fenced || next.Met(got) {
			t.Fatalf("node %+v became %+v", n, got)
		}
		n.Session, n.Expired, n.Fenced = Session{}, false, false
		if got != n {
			t.Fatalf("more of node %+v changed: %+v", n, got)
		}
	}
	for sc := range s.Scopes().Scopes() {
		want := *sc
		want.Quiesced, want.Released = "", false
		if got, ok := next.Scopes().Get(sc.Prefix); !ok || *got != want {
			t.Fatalf("scope %+v became %+v", *sc, got)
		}
	}
	if next.tokens.byID != s.tokens.byID || next.tokens.first != s.tokens.first || s.tokens.first != 0 && next.TokensChanged() != r.Index || !reflect.DeepEqual(next.audit, s.audit) || next.logFormat != s.logFormat {
		t.Fatalf("a restore changed who may ask: %+v became %+v", s.tokens, next.tokens)
	}
	if next.Scopes().Len() != s.Scopes().Len() || next.NodesLen() != s.NodesLen() || next.tombstones.Len() != s.tombstones.Len() {
		t.Fatal("a restore made or dropped records")
	}
}

// drawOnHold draws what ends a hold: a session of a node that has not met the
// incarnation or the word that it is off, or a release.
func drawOnHold(t *rapid.T, s State, prefix []byte) Command {
	for id := range s.Unmet() {
		switch kind := evenly(t); {
		case kind == 0:
			return &RemoveNode{Id: string(id), SourceFenced: fenced(t, string(id)), SourceFencedIdentity: identityOf(t, s, string(id))}
		case kind < 7:
			n, _ := s.node(id)
			return drawOpen(t, s, n, s.Index())
		}
	}
	return &Release{Prefix: prefix, SourceFenced: evenly(t) > 2, Reason: "off"}
}

// checkHoldRules: a hold ends only when every declared node has met the
// incarnation, and somebody said that there is no other, at the restore or with a
// release; until then held scopes stay, do not move, and are released by a release
// alone.
func checkHoldRules(t *rapid.T, s, next State, c Command) {
	if !s.Cluster().Hold {
		if next.Cluster().Hold {
			t.Fatalf("%T began a hold", c)
		}
		return
	}
	if !next.Cluster().Hold {
		for n := range next.Nodes() {
			if n.Incarnation != next.Cluster().Incarnation || n.Tag != next.Cluster().Tag {
				t.Fatalf("%T ended the hold, and node %+v has not met the incarnation", c, n)
			}
		}
		if _, releasing := c.(*Release); !s.Cluster().Complete && !releasing {
			t.Fatalf("%T ended a hold that does not end by itself", c)
		}
	}
	for old := range s.Scopes().Scopes() {
		sc, ok := next.Scopes().Get(old.Prefix)
		_, releasing := c.(*Release)
		_, forcing := c.(*Force)
		switch {
		case !ok:
			t.Fatalf("%T retired %q while the cluster holds", c, old.Prefix.Text())
		case sc.Released && !old.Released && !releasing:
			t.Fatalf("%T released %q", c, old.Prefix.Text())
		case old.Released && !sc.Released && !forcing:
			t.Fatalf("%T took the release of %q away", c, old.Prefix.Text())
		}
	}
	for m := range next.Moves().Running() {
		if sc, _ := next.Scopes().Get(m.Prefix); next.Held(sc) {
			t.Fatalf("move %s of %q runs, which is held", m.ID, m.Prefix.Text())
		}
	}
	for sc := range next.Scopes().Scopes() {
		if _, ok := s.Scopes().Get(sc.Prefix); !ok && sc.Released {
			t.Fatalf("scope %q is released from the start", sc.Prefix.Text())
		}
	}
}
