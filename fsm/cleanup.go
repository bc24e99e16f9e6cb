package fsm

import (
	"iter"

	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// cleanupTable holds pending cleanups so that overlap is found in O(log n) both
// for one node and for all: a node id holds no NUL byte, so "node NUL prefix"
// keeps the order of prefixes within a node, and byPrefix says which nodes have
// one at a prefix.
type cleanupTable struct {
	byNode   scope.Index[Cleanup]
	byPrefix scope.Index[scope.Index[Cleanup]] // prefix → node id → cleanup
}

func cleanupKey(node scope.NodeID, p scope.Prefix) scope.Prefix {
	return scope.Prefix(node) + "\x00" + p
}

func (t cleanupTable) len() int { return t.byNode.Len() }

func (t cleanupTable) get(node scope.NodeID, p scope.Prefix) (Cleanup, bool) {
	return t.byNode.Get(cleanupKey(node, p))
}

func (t cleanupTable) with(c Cleanup) cleanupTable {
	t.byNode = t.byNode.With(cleanupKey(c.Node, c.Prefix), c)
	nodes, _ := t.byPrefix.Get(c.Prefix)
	t.byPrefix = t.byPrefix.With(c.Prefix, nodes.With(scope.Prefix(c.Node), c))
	return t
}

func (t cleanupTable) without(c Cleanup) cleanupTable {
	t.byNode = t.byNode.Without(cleanupKey(c.Node, c.Prefix))
	nodes, _ := t.byPrefix.Get(c.Prefix)
	if nodes = nodes.Without(scope.Prefix(c.Node)); nodes.Len() == 0 {
		t.byPrefix = t.byPrefix.Without(c.Prefix)
	} else {
		t.byPrefix = t.byPrefix.With(c.Prefix, nodes)
	}
	return t
}

// over yields the cleanups whose prefix overlaps p.
func (t cleanupTable) over(p scope.Prefix) iter.Seq[Cleanup] {
	return func(yield func(Cleanup) bool) {
		for _, nodes := range t.byPrefix.Overlapping(p) {
			for _, c := range nodes.All() {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// overOf yields the cleanups of one node whose prefix overlaps p.
func (t cleanupTable) overOf(node scope.NodeID, p scope.Prefix) iter.Seq[Cleanup] {
	return values(t.byNode.Overlapping(cleanupKey(node, p)))
}

// all yields every cleanup in the order of node ids, then prefixes.
func (t cleanupTable) all() iter.Seq[Cleanup] { return values(t.byNode.All()) }

// CleanedAfter is the command that ends the cleanup which a move left at its
// source. The epoch keeps it from ending that of a later tenure, and the move that
// of a later move of the same tenure, where this one was aborted.
func CleanedAfter(m migration.Move, reason string) *Cleaned {
	return &Cleaned{Node: string(m.From), Prefix: m.Prefix.Bytes(), Epoch: m.Epoch, Move: m.ID, Reason: reason}
}
