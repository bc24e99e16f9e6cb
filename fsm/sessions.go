package fsm

import (
	"fmt"
	"iter"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Sessions yields the live sessions with their nodes, in the order of session
// ids.
func (s State) Sessions() iter.Seq2[scope.NodeID, Session] {
	return func(yield func(scope.NodeID, Session) bool) {
		for _, id := range s.sessions.byID.All() {
			if n, _ := s.node(id); !yield(id, n.Session) {
				return
			}
		}
	}
}

// SessionsLen is the number of live sessions.
func (s State) SessionsLen() int { return s.sessions.byID.Len() }

// AwaitsAck reports whether the log should know that the node's view has reached
// view: a scope of it can be armed then, or a tombstone be cleared. It is false of
// a view that the log knows: nothing waits for that any more.
func (s State) AwaitsAck(node scope.NodeID, view uint64) bool {
	for range s.unarmed.reached(node, view) {
		return true
	}
	for range s.retired.reached(node, view) {
		return true
	}
	return false
}

// Holder returns the node that holds this session, while it is live.
func (s State) Holder(session string) (Node, bool) {
	id, ok := s.sessions.byID.Get(scope.Prefix(session))
	if !ok {
		return Node{}, false
	}
	return s.Node(id)
}

// Settled reports whether the view of every live session is known to have
// reached the last change of the scope's options or owner.
func (s State) Settled(sc *scope.Scope) bool {
	view, ok := s.sessions.seen()
	return !ok || view >= sc.Changed
}

// live returns the node whose live session this is.
func (tx *txn) live(session string) (nodeRecord, *api.Error) {
	id, ok := tx.sessions.byID.Get(scope.Prefix(session))
	if !ok {
		return nodeRecord{}, refuse(api.SessionExpired, "session %q is not live; nothing that it says counts any more, open a new one", session)
	}
	n, _ := tx.node(id)
	return n, nil
}

// openSession gives the right to speak for a node to one process. Two of them
// must never have it: not a second process with a copy of the data, which lacks
// the token, nor one on other data while the old data may still be written.
func (tx *txn) openSession(c *OpenSession) *api.Error {
	n, refusal := tx.readOpen(c)
	if refusal != nil {
		return refusal
	}
	if n.Live() {
		if n.Identity != c.GetIdentity() || n.token != string(c.GetPreviousTokenHash()) {
			return refuse(api.SessionBusy, "node %q has a live session, opened at index %d, and identity and token are not those of its holder; "+
				"stop that process, or wait until its session has expired", n.ID, n.Session.Opened)
		}
		if n.token == string(c.GetTokenHash()) {
			return refuse(api.Invalid, "a session that is taken over needs a new token, given was that of the session before")
		}
	} else if err := tx.checkIdentity(n, c.GetIdentity()); err != nil {
		return err
	}
	if n.Live() {
		tx.sessions = tx.sessions.without(n.Session)
	}
	n.Session = Session{ID: c.GetSession(), Opened: tx.at.Index, View: c.GetView()}
	n.Identity, n.token = c.GetIdentity(), string(c.GetTokenHash())
	n.Incarnation, n.Tag = tx.cluster.Incarnation, tx.cluster.Tag
	n.Expired, n.Fenced = false, false // an admin's word was about the node before this
	tx.sessions = tx.sessions.with(n.ID, n.Session)
	tx.putNode(n)
	tx.emit(Event{Cause: "open", Node: &n.Node})
	tx.fallbackCame(n.ID)
	return tx.viewReached(n.ID, c.GetView())
}

// readOpen reads the command's own values and those it must agree with.
func (tx *txn) readOpen(c *OpenSession) (n nodeRecord, refusal *api.Error) {
	id := scope.NodeID(c.GetNode())
	n, err := tx.subject(id)
	if err != nil {
		return n, err
	}
	if err := checkRandom("identity", c.GetIdentity()); err != nil {
		return n, err
	}
	if err := checkRandom("session", c.GetSession()); err != nil {
		return n, err
	}
	if had := len(c.GetPreviousTokenHash()); len(c.GetTokenHash()) != TokenHashLen || had != 0 && had != TokenHashLen {
		return n, refuse(api.Invalid, "a token's hash has %d bytes, given were %d and, of the token before, %d", TokenHashLen, len(c.GetTokenHash()), had)
	}
	if c.GetIncarnation() == 0 || c.GetIncarnation() != tx.cluster.Incarnation || c.GetIncarnationTag() != tx.cluster.Tag {
		return n, refuse(api.StaleEpoch, "node %q knows incarnation %d (%.64q) of the cluster, which is in %d (%q); it must drop its view and follow the watch anew",
			id, c.GetIncarnation(), c.GetIncarnationTag(), tx.cluster.Incarnation, tx.cluster.Tag)
	}
	if err := tx.checkView(c.GetView()); err != nil {
		return n, err
	}
	if held, ok := tx.Holder(c.GetSession()); ok {
		return n, refuse(api.Exists, "session %q is live already, of node %q; every session needs a new id", c.GetSession(), held.ID)
	}
	return n, nil
}

// checkRandom refuses what could not stand in a record or log line.
func checkRandom(what, text string) *api.Error {
	if text == "" || len(text) > MaxRandom {
		return refuse(api.Invalid, "the %s has %d bytes; it needs 1 to %d", what, len(text), MaxRandom)
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' {
			return refuse(api.Invalid, "the %s %q holds a blank or a byte that is not printable ASCII", what, text)
		}
	}
	return nil
}

// checkView refuses a view of what is not in the log yet: believing it would
// arm scopes, and clear tombstones, that the node knows nothing of.
func (tx *txn) checkView(view uint64) *api.Error {
	if view >= tx.at.Index {
		return refuse(api.Invalid, "a view cannot have reached index %d, as this command is at %d", view, tx.at.Index)
	}
	return nil
}

// checkIdentity refuses another identity than the last one while what the last
// one may still do would contradict it.
func (tx *txn) checkIdentity(n nodeRecord, identity string) *api.Error {
	if n.Identity == "" || n.Identity == identity || n.Fenced {
		return nil
	}
	var why string
	switch {
	case n.uses.owned > 0:
		why = fmt.Sprintf("it owns scopes (%d)", n.uses.owned)
	case n.uses.tombstones > 0:
		why = fmt.Sprintf("it may not know yet that scopes of it are retired (%d)", n.uses.tombstones)
	case !tx.Met(n.Node):
		why = "it has not met this incarnation of the cluster"
	default:
		return nil
	}
	return refuse(api.IdentityChanged, "node %q had a session with the data of identity %q, and this is %q: another process or an empty disk. While %s "+
		"the old data counts; start the node on it, or, once that is off for good, say so: scope-registry node fence %s --identity %s", n.ID, n.Identity, identity, why, n.ID, n.Identity)
}

// endSession takes the session from its node.
func (tx *txn) endSession(n nodeRecord, cause string) {
	tx.sessions = tx.sessions.without(n.Session)
	n.Session, n.token, n.Expired = Session{}, "", cause == "expire"
	tx.putNode(n)
	tx.emit(Event{Cause: cause, Node: &n.Node})
}

// closeSession is the holder's: it has stopped to admit and has drained. That is
// no failure, so that nobody takes over and no move ends.
func (tx *txn) closeSession(c *CloseSession) *api.Error {
	n, err := tx.live(c.GetSession())
	if err != nil {
		return err
	}
	tx.endSession(n, "close")
	return nil
}

// expire is the leader's, whose clock has passed the end of the lease. A leader
// that lost and regained its office counts anew, so what an earlier term has
// found does not count.
func (tx *txn) expire(c *Expire) *api.Error {
	if c.GetTerm() != tx.at.Term {
		return refuse(api.StaleEpoch, "the lease of session %q was counted in term %d, and this is term %d", c.GetSession(), c.GetTerm(), tx.at.Term)
	}
	n, err := tx.live(c.GetSession())
	if err != nil {
		return err
	}
	tx.endSession(n, "expire")
	if n.uses.moves > 0 {
		for m := range tx.moves.Running() {
			// After shipped the source has given all it has: the move goes on.
			if m.To == n.ID || m.From == n.ID && m.Phase != migration.Shipped {
				if err := tx.endAborted(m, CauseSession, fmt.Sprintf("the session of node %s expired", n.ID)); err != nil {
					return err
				}
			}
		}
	}
	tx.ownerDied(n.ID)
	return nil
}

// ack notes how far a node's view has come. An older one that comes late is no
// news.
func (tx *txn) ack(c *Ack) *api.Error {
	n, err := tx.live(c.GetSession())
	if err != nil {
		return err
	}
	if err := tx.checkView(c.GetView()); err != nil {
		return err
	}
	if c.GetView() <= n.Session.View {
		return nil
	}
	seen := n.Session
	seen.View = c.GetView()
	tx.sessions = tx.sessions.acked(n.Session, seen)
	n.Session = seen
	tx.putNode(n)
	tx.emit(Event{Cause: "ack", Node: &n.Node})
	return tx.viewReached(n.ID, c.GetView())
}

// viewReached arms the scopes whose policy the node has seen, and clears the
// tombstones that it has seen. Since Changed the owner is the same and so is the
// policy: a change of either sets it.
func (tx *txn) viewReached(id scope.NodeID, view uint64) *api.Error {
	for p := range tx.unarmed.reached(id, view) {
		s, _ := tx.scopes.Get(p)
		next := *s
		next.Armed = true
		if err := tx.putScope(next, "armed"); err != nil {
			return err
		}
	}
	for p := range tx.retired.reached(id, view) {
		t, _ := tx.tombstones.Get(p)
		tx.dropTombstone(t, "acked")
	}
	return nil
}

// fenceNode is an admin's word for the next session of a node. It speaks of one
// identity, and a later session makes it void.
func (tx *txn) fenceNode(c *FenceNode) *api.Error {
	n, err := tx.subject(scope.NodeID(c.GetNode()))
	if err != nil {
		return err
	}
	if c.GetIdentity() == "" {
		return refuse(api.Invalid, "the word that node %q is off must name the identity of its data", c.GetNode())
	}
	if err := tx.checkFenced(fencing{n.ID, c.GetIdentity()}); err != nil {
		return err
	}
	if !n.Fenced {
		n.Fenced = true
		tx.putNode(n)
		tx.emit(Event{Cause: "fence", Node: &n.Node})
	}
	return nil
}
