package agent

import (
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Mark is what a node keeps on disk about the staged slice of one move, before it
// says anything about it. A marked move takes no stream again: not after the seal,
// which the registry was told of, nor after the promotion, when a view from before
// the flip would bring old records over newer ones. How many are kept, and why
// others may go, is said at keptPromoted.
type Mark struct {
	Move     string
	Prefix   scope.Prefix
	Manifest migration.Manifest
	Promoted bool // the slice has replaced what the store held; else it is sealed only
	// Incarnation and Ended are those of the view when it was sealed, and so before
	// the move ended: by them it shows later whether the registry may have forgotten
	// how it did.
	Incarnation Incarnation
	Ended       uint64
}

// marks are in the order of move ids, and never changed in place.
type marks []Mark

func (l marks) find(move string) (int, bool) {
	return slices.BinarySearchFunc(l, move, func(m Mark, id string) int { return strings.Compare(m.Move, id) })
}

func (l marks) of(move string) (Mark, bool) {
	i, ok := l.find(move)
	if !ok {
		return Mark{}, false
	}
	return l[i], true
}

func (l marks) with(m Mark) marks {
	i, ok := l.find(m.Move)
	out := slices.Clone(l)
	if ok {
		out[i] = m
		return out
	}
	return slices.Insert(out, i, m)
}

func (l marks) without(move string) marks {
	i, ok := l.find(move)
	if !ok {
		return l
	}
	return slices.Delete(slices.Clone(l), i, i+1)
}

// awaited returns the sealed slice under or over p that is not in the store yet.
func (l marks) awaited(p scope.Prefix) (Mark, bool) {
	for _, m := range l {
		if !m.Promoted && m.Prefix.Overlaps(p) {
			return m, true
		}
	}
	return Mark{}, false
}
