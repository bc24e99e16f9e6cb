package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/scope"
)

// Check says which of the state's own invariants does not hold, or returns nil.
// Tests call it after every step; a snapshot is refused that fails it.
func (s State) Check() error {
	counted := make(map[scope.NodeID]uses, s.NodesLen())
	count := func(id scope.NodeID, change func(*uses)) {
		u := counted[id]
		change(&u)
		counted[id] = u
	}
	if err := s.checkScopes(count); err != nil {
		return err
	}
	if err := s.checkMoves(count); err != nil {
		return err
	}
	for _, t := range s.tombstones.All() {
		count(t.Owner, func(u *uses) { u.tombstones++ })
		if sc, ok := s.scopes.Get(t.Prefix); ok {
			return fmt.Errorf("scope %q is declared (epoch %d) and retired (epoch %d)", t.Prefix, sc.Epoch, t.Epoch)
		}
	}
	for c := range s.cleanups.all() {
		count(c.Node, func(u *uses) { u.cleanups++ })
		if sc, ok := s.scopes.Get(c.Prefix); ok && sc.Owner == c.Node {
			return fmt.Errorf("node %q owes a cleanup of %q and owns it", c.Node, c.Prefix)
		}
	}
	return s.checkUses(counted)
}

func (s State) checkUses(counted map[scope.NodeID]uses) error {
	known := 0
	for n := range s.Nodes() {
		r, _ := s.node(n.ID)
		u, used := counted[n.ID]
		if used {
			known++
		}
		if r.uses != u {
			return fmt.Errorf("node %q counts uses %+v, its records say %+v", n.ID, r.uses, u)
		}
	}
	if known != len(counted) {
		return fmt.Errorf("%d nodes are named by records, only %d of them are declared", len(counted), known)
	}
	return nil
}

func (s State) checkScopes(count func(scope.NodeID, func(*uses))) error {
	epochs, none := make(map[uint64]scope.Prefix, s.scopes.Len()), 0
	var last *scope.Scope
	for sc := range s.scopes.Scopes() {
		if last != nil && last.Prefix.Overlaps(sc.Prefix) {
			return fmt.Errorf("scopes %q and %q overlap", last.Prefix, sc.Prefix)
		}
		last = sc
		if sc.Epoch == 0 || sc.Epoch >= max(1, s.cluster.NextEpoch) {
			return fmt.Errorf("scope %q has epoch %d, the next is %d", sc.Prefix, sc.Epoch, s.cluster.NextEpoch)
		}
		if other, twice := epochs[sc.Epoch]; twice {
			return fmt.Errorf("scopes %q and %q share epoch %d", other, sc.Prefix, sc.Epoch)
		}
		epochs[sc.Epoch] = sc.Prefix
		if sc.Owner != sc.Writer && sc.Owner != sc.Fallback {
			return fmt.Errorf("scope %q is owned by %q, neither its writer nor its fallback", sc.Prefix, sc.Owner)
		}
		if m, moving := s.moves.LookupMigrating(sc.Prefix); sc.Quiesced != "" && (!moving || !m.Quiesced() || m.To != sc.Quiesced) {
			return fmt.Errorf("scope %q is closed for %q without such a move", sc.Prefix, sc.Quiesced)
		}
		if sc.Fallback == "" {
			none++
		}
		for _, id := range parties(sc) {
			count(id, func(u *uses) { u.scopes++ })
		}
	}
	if none != s.scopes.NoFallbackLen() {
		return fmt.Errorf("%d scopes have no fallback, counted are %d", none, s.scopes.NoFallbackLen())
	}
	return nil
}

func (s State) checkMoves(count func(scope.NodeID, func(*uses))) error {
	for m := range s.moves.Running() {
		count(m.From, func(u *uses) { u.moves++ })
		count(m.To, func(u *uses) { u.moves++ })
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
	if s.dedup.cur.byID.Len() > ringChunk || len(s.dedup.full) > ringChunks {
		return fmt.Errorf("the dedup ring is over its bound")
	}
	return nil
}
