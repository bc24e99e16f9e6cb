package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/scope"
)

// Check says which of the state's own invariants does not hold, or returns nil.
// Tests call it after every step; a snapshot is refused that fails it.
func (s State) Check() error {
	counted := make(counts, s.NodesLen())
	if err := s.checkScopes(counted); err != nil {
		return err
	}
	if err := s.checkMoves(counted); err != nil {
		return err
	}
	if err := s.checkTombstones(counted); err != nil {
		return err
	}
	for c := range s.cleanups.all() {
		counted.of(c.Node).cleanups++
		if sc, ok := s.scopes.Get(c.Prefix); ok && sc.Owner == c.Node {
			return fmt.Errorf("node %q owes a cleanup of %q and owns it", c.Node, c.Prefix)
		}
	}
	if err := s.checkUses(counted); err != nil {
		return err
	}
	if err := s.checkSessions(); err != nil {
		return err
	}
	if s.base > s.index {
		return fmt.Errorf("the index is %d, and %d above that of the log", s.index, s.base)
	}
	if s.staged.size > MaxBackup || (s.staged.id == "") != (s.staged.size == 0) {
		return fmt.Errorf("backup %q on its way has %d bytes", s.staged.id, s.staged.size)
	}
	if err := s.checkServers(); err != nil {
		return err
	}
	if err := s.checkTokens(); err != nil {
		return err
	}
	if err := s.checkAudit(); err != nil {
		return err
	}
	return s.checkHold()
}

// checkHold makes sure that who has met the incarnation is known, that a hold
// ends when it must, and that what it holds stays as it is.
func (s State) checkHold() error {
	c, unmet := s.cluster, 0
	for n := range s.Nodes() {
		if _, noted := s.unmet.Get(scope.Prefix(n.ID)); noted == s.Met(n) {
			return fmt.Errorf("node %q has met incarnation %d (%q): %v, noted is otherwise", n.ID, c.Incarnation, c.Tag, s.Met(n))
		}
		if n.Incarnation > c.Incarnation || n.Incarnation == c.Incarnation && n.Tag != c.Tag {
			return fmt.Errorf("node %q has met incarnation %d (%q), the cluster is in %d (%q)", n.ID, n.Incarnation, n.Tag, c.Incarnation, c.Tag)
		}
		if !s.Met(n) {
			unmet++
		}
	}
	switch {
	case unmet != s.unmet.Len():
		return fmt.Errorf("%d nodes have not met the incarnation, noted are %d", unmet, s.unmet.Len())
	case c.Complete && !c.Hold:
		return fmt.Errorf("a complete restore is noted without a hold")
	case c.Hold && c.Complete && unmet == 0:
		return fmt.Errorf("the cluster holds, and every node has met incarnation %d", c.Incarnation)
	case !c.Hold:
		return nil
	}
	for sc := range s.scopes.Scopes() {
		if sc.Released && !s.met(sc.Owner) {
			return fmt.Errorf("scope %q is released, and its owner %q has not met incarnation %d", sc.Prefix, sc.Owner, c.Incarnation)
		}
	}
	for m := range s.moves.Running() {
		if sc, _ := s.scopes.Get(m.Prefix); s.Held(sc) {
			return fmt.Errorf("move %s runs, and scope %q is held", m.ID, m.Prefix)
		}
	}
	return nil
}

func (s State) checkTombstones(counted counts) error {
	for _, t := range s.tombstones.All() {
		counted.of(t.Owner).tombstones++
		if sc, ok := s.scopes.Get(t.Prefix); ok {
			return fmt.Errorf("scope %q is declared (epoch %d) and retired (epoch %d)", t.Prefix, sc.Epoch, t.Epoch)
		}
		if _, waits := s.retired.at.Get(awaitKey(t.Owner, t.RetiredIndex, t.Prefix)); !waits {
			return fmt.Errorf("the tombstone of %q does not wait for its owner %q", t.Prefix, t.Owner)
		}
	}
	if n := s.retired.at.Len(); n != s.tombstones.Len() {
		return fmt.Errorf("%d tombstones, %d wait for their owners", s.tombstones.Len(), n)
	}
	return nil
}

// checkSessions holds every node's session against the others', and the tables
// that follow from them against the nodes.
func (s State) checkSessions() error {
	live := 0
	for n := range s.Nodes() {
		r, _ := s.node(n.ID)
		holder, held := s.Holder(n.Session.ID)
		switch {
		case n.Live() && (!held || holder.ID != n.ID):
			return fmt.Errorf("session %q of node %q is that of %q", n.Session.ID, n.ID, holder.ID)
		case n.Live() && (n.Expired || n.Fenced || n.Identity == "" || len(r.token) != TokenHashLen):
			return fmt.Errorf("node %q has session %q, and is expired (%v), off (%v), of no identity (%q) or without a token", n.ID, n.Session.ID, n.Expired, n.Fenced, n.Identity)
		case n.Live() && (n.Incarnation != s.cluster.Incarnation || n.Tag != s.cluster.Tag):
			return fmt.Errorf("session %q of node %q is of incarnation %d (%q)", n.Session.ID, n.ID, n.Incarnation, n.Tag)
		case n.Live() && (n.Session.Opened > s.index || n.Session.View >= max(1, s.index)):
			return fmt.Errorf("session %q was opened at %d and has seen %d, the state is at %d", n.Session.ID, n.Session.Opened, n.Session.View, s.index)
		case n.Session.Concern != 0 && (n.Session.Concern < n.Session.Opened || n.Session.Concern > s.index):
			return fmt.Errorf("session %q was opened at %d and is concerned by %d, the state is at %d", n.Session.ID, n.Session.Opened, n.Session.Concern, s.index)
		case !n.Live() && (r.token != "" || n.Session != Session{}):
			return fmt.Errorf("node %q has no session, but something of one", n.ID)
		case n.Identity == "" && (n.Expired || n.Fenced || n.Incarnation != 0 || n.Tag != ""):
			return fmt.Errorf("node %q never had a session, but something of one", n.ID)
		}
		if n.Live() {
			live++
		}
	}
	if s.sessions.byID.Len() != live || s.sessions.byView.Len() != live {
		return fmt.Errorf("%d nodes hold sessions, counted are %d and %d", live, s.sessions.byID.Len(), s.sessions.byView.Len())
	}
	return nil
}

func (s State) checkUses(counted counts) error {
	known := 0
	for n := range s.Nodes() {
		r, _ := s.node(n.ID)
		u, used := counted[n.ID]
		if used {
			known++
		}
		if !used {
			u = &uses{}
		}
		if r.uses != *u {
			return fmt.Errorf("node %q counts uses %+v, its records say %+v", n.ID, r.uses, *u)
		}
	}
	if known != len(counted) {
		return fmt.Errorf("%d nodes are named by records, only %d of them are declared", len(counted), known)
	}
	return nil
}

func (s State) checkMoves(counted counts) error {
	for m := range s.moves.Running() {
		counted.of(m.From).moves++
		counted.of(m.To).moves++
		sc, ok := s.scopes.Get(m.Prefix)
		switch {
		case !ok || sc.Owner != m.From || sc.Epoch != m.Epoch:
			return fmt.Errorf("move %s runs, but %q does not own %q at epoch %d", m.ID, m.From, m.Prefix, m.Epoch)
		case m.Quiesced() != (sc.Quiesced != ""):
			return fmt.Errorf("move %s is %s, but scope %q is closed for %q", m.ID, m.Phase, m.Prefix, sc.Quiesced)
		}
		for c := range s.cleanups.overOf(m.To, m.Prefix) {
			return fmt.Errorf("move %s runs to %q, which owes a cleanup of %q", m.ID, m.To, c.Prefix)
		}
	}
	if s.dedup.cur.len() > ringChunk || len(s.dedup.full) > ringChunks {
		return fmt.Errorf("the dedup ring is over its bound")
	}
	return nil
}
