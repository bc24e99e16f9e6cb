package fsm

import (
	"github.com/scope-registry/scope-registry/scope"
)

// orphaned reports whether the scope must go to its fallback now: its owner knew
// that it needs a lease, that lease has ended, and the fallback lives. Never in
// the middle of a move: the slice is between two nodes.
func (s State) orphaned(sc *scope.Scope) bool {
	if !heritable(sc) {
		return false
	}
	if !s.due(pair{sc.Owner, sc.Fallback}) {
		return false
	}
	for range s.moves.RunningOver(sc.Prefix) {
		return false
	}
	return true
}

// due reports whether what the owner has must go to the fallback.
func (s State) due(of pair) bool {
	owner, _ := s.node(of.owner)
	fallback, _ := s.node(of.fallback)
	return owner.Expired && fallback.Live()
}

// takeOvers gives every orphaned scope to its fallback. It runs after every
// command that is applied, whatever it was: what keeps a scope from being taken
// over may end by any of them. The scopes to look at are those that the command
// changed or moved, and those between a node whose session it changed and a
// live or dead partner; nothing else can have become an orphan.
func (tx *txn) takeOvers() {
	n, first := 0, scope.Scope{}
	for i := 0; i < len(tx.orphans); i++ { // a takeover adds to it
		sc, ok := tx.scopes.Get(tx.orphans[i])
		if !ok || !tx.orphaned(sc) {
			continue
		}
		next := tx.newTenure(*sc, sc.Fallback)
		if err := tx.putScope(next, "takeover"); err != nil {
			continue // it replaces a scope, which is never refused
		}
		tx.configChanged()
		if n++; n == 1 {
			first = next
		}
	}
	if n > 0 {
		tx.warn("%d scopes went to their fallbacks, as their owners are down; the first is %q, now of %s at epoch %d", n, first.Prefix, first.Owner, first.Epoch)
	}
}

// ownerDied looks at what an expired node owned and a live fallback may take.
func (tx *txn) ownerDied(owner scope.NodeID) {
	for fallback := range tx.heirs.fallbacks(owner) {
		if n, _ := tx.node(fallback); n.Live() {
			tx.lookAt(owner, fallback)
		}
	}
}

// fallbackCame looks at what a node with a new session may take from dead ones.
func (tx *txn) fallbackCame(fallback scope.NodeID) {
	for owner := range tx.heirs.owners(fallback) {
		if n, _ := tx.node(owner); n.Expired {
			tx.lookAt(owner, fallback)
		}
	}
}

func (tx *txn) lookAt(owner, fallback scope.NodeID) {
	for p := range tx.heirs.scopes(owner, fallback) {
		tx.orphans = append(tx.orphans, p)
	}
}
