package fsm

import (
	"fmt"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/scope"
)

// drawSession draws a command about sessions, mostly one that fits the state.
func drawSession(t *rapid.T, s State) Command {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3", "n4"}).Draw(t, "node of session")
	n, _ := s.node(scope.NodeID(node))
	held := n.Session.ID
	if held == "" || evenly(t) == 0 {
		held = rapid.SampledFrom([]string{"s1", "s20", "s40"}).Draw(t, "some session")
	}
	view := rapid.SampledFrom([]uint64{s.Index(), s.Index(), s.Index(), s.Index() / 2, s.Index() + 1}).Draw(t, "view")
	switch kind := evenly(t); {
	case kind < 7 && !n.Live() || kind == 0:
		return drawOpen(t, s, n, view)
	case kind < 9:
		return &Ack{Session: held, View: view}
	case kind < 13:
		return &Expire{Session: held, Term: rapid.SampledFrom([]uint64{1, 1, 1, 2}).Draw(t, "term")}
	case kind < 15:
		return &CloseSession{Session: held}
	}
	return &FenceNode{Node: node, Identity: identityOf(t, s, node)}
}

func drawOpen(t *rapid.T, s State, n nodeRecord, view uint64) Command {
	c := &OpenSession{Node: string(n.ID), Session: fmt.Sprintf("s%d", s.Index()), Identity: n.Identity, View: view, Incarnation: s.cluster.Incarnation,
		IncarnationTag: rapid.SampledFrom([]string{s.cluster.Tag, s.cluster.Tag, s.cluster.Tag, s.cluster.Tag, "c2"}).Draw(t, "tag"), TokenHash: tokenHash(fmt.Sprintf("t%d", s.Index()))}
	if n.ID == "" {
		c.Node = "n1"
	}
	if c.Identity == "" || evenly(t) < 6 {
		c.Identity = rapid.SampledFrom([]string{"i1", "i2"}).Draw(t, "identity")
	}
	if n.Live() && rapid.Bool().Draw(t, "knows the token") {
		c.PreviousTokenHash = []byte(n.token)
	}
	return c
}

// said is the session of a node, or nothing, or that of a node that is no more.
func said(t *rapid.T, s State, id scope.NodeID) string {
	n, _ := s.Node(id)
	return rapid.SampledFrom([]string{n.Session.ID, n.Session.ID, n.Session.ID, "", "s2"}).Draw(t, "session said")
}

// identityOf is the identity that a word about the node must name, mostly.
func identityOf(t *rapid.T, s State, id string) string {
	n, _ := s.Node(scope.NodeID(id))
	return rapid.SampledFrom([]string{n.Identity, n.Identity, n.Identity, "i1"}).Draw(t, "identity named")
}

// checkSessionRules: an owner changes only by a flip, a force or a takeover;
// nobody loses a session but by a command about sessions; what a dead session
// says changes nothing; settled is what a scan says.
func checkSessionRules(t *rapid.T, s, next State, c Command, r *Result) {
	for sc := range next.Scopes().Scopes() {
		old, ok := s.Scopes().Get(sc.Prefix)
		switch c.(type) {
		case *Ready, *Force, *Batch, *Declare: // these name the new owner
		default:
			if ok && old.Owner != sc.Owner {
				checkTakeover(t, next, old, sc)
			}
		}
		if got, want := next.Settled(sc), settledByScan(next, sc); got != want {
			t.Fatalf("scope %q is settled: %v, a scan says %v", sc.Prefix.Text(), got, want)
		}
	}
	for id, held := range s.Sessions() {
		n, _ := next.Node(id)
		switch c.(type) {
		case *OpenSession, *CloseSession, *Expire:
		default:
			if n.Session.ID != held.ID || n.Session.View < held.View || n.Session.Opened != held.Opened {
				t.Fatalf("%T changed session %v to %v", c, held, n.Session)
			}
		}
	}
	if speaker, ok := c.(interface{ GetSession() string }); ok && speaker.GetSession() != "" && r.GetCode() == "" {
		_, opening := c.(*OpenSession)
		if _, live := s.Holder(speaker.GetSession()); !live && !opening {
			t.Fatalf("%v was applied, and its session is not live", c)
		}
	}
}

func settledByScan(s State, sc *scope.Scope) bool {
	for _, held := range s.Sessions() {
		if held.View < sc.Changed {
			return false
		}
	}
	return true
}

// checkTakeover holds a change of owner against every condition of a takeover.
func checkTakeover(t *rapid.T, next State, old, sc *scope.Scope) {
	dead, _ := next.Node(old.Owner)
	fallback, _ := next.Node(sc.Owner)
	if !old.Armed || !dead.Expired || old.Failover != scope.FailoverAuto || sc.Owner != old.Fallback || !fallback.Live() ||
		sc.Writer != old.Writer || sc.Epoch <= old.Epoch || !sc.Armed {
		t.Fatalf("scope %+v went from %+v to %+v: %+v", *old, dead, fallback, *sc)
	}
	for m := range next.Moves().RunningOver(sc.Prefix) {
		t.Fatalf("scope %q was taken over in the middle of move %s", sc.Prefix.Text(), m.ID)
	}
	for c := range next.CleanupsOver(sc.Prefix) {
		if c.Node == sc.Owner {
			t.Fatalf("%q took over %q and owes a cleanup of it", sc.Owner, sc.Prefix.Text())
		}
	}
}
