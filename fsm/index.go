package fsm

import (
	"cmp"
	"encoding/binary"
	"iter"
	"slices"

	"github.com/scope-registry/scope-registry/scope"
)

// The tables here find what a change of one session concerns, in time that
// grows with what is found and not with all that is held. They follow from the
// records and are in no snapshot. A node id holds no NUL byte, so that one may
// end it in a key.

// sessionTable holds the live sessions. byID changes only when one opens or ends,
// so that a ledger sees by its identity that none did.
type sessionTable struct {
	byID   scope.Index[scope.NodeID]
	byView scope.Index[struct{}] // view, session id
}

func viewKey(s Session) scope.Prefix {
	return scope.Prefix(binary.BigEndian.AppendUint64(nil, s.View)) + scope.Prefix(s.ID)
}

func (t sessionTable) with(node scope.NodeID, s Session) sessionTable {
	t.byID = t.byID.With(scope.Prefix(s.ID), node)
	t.byView = t.byView.With(viewKey(s), struct{}{})
	return t
}

func (t sessionTable) without(s Session) sessionTable {
	t.byID = t.byID.Without(scope.Prefix(s.ID))
	t.byView = t.byView.Without(viewKey(s))
	return t
}

// acked replaces a session by the same one with a further view.
func (t sessionTable) acked(old, next Session) sessionTable {
	t.byView = t.byView.Without(viewKey(old)).With(viewKey(next), struct{}{})
	return t
}

// seen is the index that all views have reached; false if there is no session.
func (t sessionTable) seen() (view uint64, ok bool) {
	for key := range t.byView.All() {
		return binary.BigEndian.Uint64([]byte(key)), true
	}
	return 0, false
}

// heritable reports whether the scope would go to its fallback if its owner's
// session expired.
func heritable(s *scope.Scope) bool {
	return s.Armed && s.Failover == scope.FailoverAuto && s.Fallback != "" && s.Fallback != s.Owner
}

// heirTable holds the heritable scopes by owner and fallback. Pairs of nodes are
// few, so that all fallbacks of an owner, and all owners of a fallback, are
// found fast.
type heirTable struct {
	byOwner    scope.Index[scope.Index[struct{}]] // owner NUL fallback → prefixes
	byFallback scope.Index[struct{}]              // fallback NUL owner
}

func pairKey(a, b scope.NodeID) scope.Prefix { return scope.Prefix(a) + "\x00" + scope.Prefix(b) }

func (t heirTable) with(s *scope.Scope) heirTable {
	pair := pairKey(s.Owner, s.Fallback)
	prefixes, _ := t.byOwner.Get(pair)
	t.byOwner = t.byOwner.With(pair, prefixes.With(s.Prefix, struct{}{}))
	if prefixes.Len() == 0 {
		t.byFallback = t.byFallback.With(pairKey(s.Fallback, s.Owner), struct{}{})
	}
	return t
}

func (t heirTable) without(s *scope.Scope) heirTable {
	pair := pairKey(s.Owner, s.Fallback)
	prefixes, _ := t.byOwner.Get(pair)
	if prefixes = prefixes.Without(s.Prefix); prefixes.Len() > 0 {
		t.byOwner = t.byOwner.With(pair, prefixes)
		return t
	}
	t.byOwner = t.byOwner.Without(pair)
	t.byFallback = t.byFallback.Without(pairKey(s.Fallback, s.Owner))
	return t
}

// pair is an owner and a fallback.
type pair struct{ owner, fallback scope.NodeID }

// heirBuilder makes a heirTable of scopes in the order of their prefixes.
type heirBuilder map[pair]*scope.Builder[struct{}]

func (b heirBuilder) add(s *scope.Scope) {
	of := pair{s.Owner, s.Fallback}
	prefixes := b[of]
	if prefixes == nil {
		prefixes = &scope.Builder[struct{}]{}
		b[of] = prefixes
	}
	prefixes.Add(s.Prefix, struct{}{})
}

func (b heirBuilder) table() (t heirTable) {
	for of, prefixes := range b { // order-free: they are put into an ordered index
		t.byOwner = t.byOwner.With(pairKey(of.owner, of.fallback), prefixes.Index())
		t.byFallback = t.byFallback.With(pairKey(of.fallback, of.owner), struct{}{})
	}
	return t
}

// fallbacks yields the fallbacks of the scopes that owner owns.
func (t heirTable) fallbacks(owner scope.NodeID) iter.Seq[scope.NodeID] {
	return seconds(t.byOwner, owner)
}

// owners yields the owners of the scopes that fallback would take over.
func (t heirTable) owners(fallback scope.NodeID) iter.Seq[scope.NodeID] {
	return seconds(t.byFallback, fallback)
}

// seconds yields the second nodes of the pairs with this first one.
func seconds[V any](pairs scope.Index[V], first scope.NodeID) iter.Seq[scope.NodeID] {
	return func(yield func(scope.NodeID) bool) {
		under := pairKey(first, "")
		for key := range pairs.From(under, "") {
			if !yield(scope.NodeID(key[len(under):])) {
				return
			}
		}
	}
}

// scopes yields the prefixes of the scopes that go from owner to fallback.
func (t heirTable) scopes(owner, fallback scope.NodeID) iter.Seq[scope.Prefix] {
	prefixes, _ := t.byOwner.Get(pairKey(owner, fallback))
	return keys(prefixes)
}

func keys[V any](x scope.Index[V]) iter.Seq[scope.Prefix] {
	return func(yield func(scope.Prefix) bool) {
		for p := range x.All() {
			if !yield(p) {
				return
			}
		}
	}
}

// awaiting holds prefixes of records that wait for the view of a node to reach
// an index, in the order of these.
type awaiting struct {
	at scope.Index[scope.Prefix] // node NUL index prefix → prefix
}

func awaitKey(node scope.NodeID, index uint64, p scope.Prefix) scope.Prefix {
	return scope.Prefix(binary.BigEndian.AppendUint64([]byte(pairKey(node, "")), index)) + p
}

func (a awaiting) with(node scope.NodeID, index uint64, p scope.Prefix) awaiting {
	return awaiting{a.at.With(awaitKey(node, index, p), p)}
}

func (a awaiting) without(node scope.NodeID, index uint64, p scope.Prefix) awaiting {
	return awaiting{a.at.Without(awaitKey(node, index, p))}
}

// awaitingBuilder makes an awaiting of records in any order.
type awaitingBuilder []awaited

type awaited struct{ key, prefix scope.Prefix }

func (b *awaitingBuilder) add(node scope.NodeID, index uint64, p scope.Prefix) {
	*b = append(*b, awaited{awaitKey(node, index, p), p})
}

func (b awaitingBuilder) awaiting() awaiting {
	slices.SortFunc(b, func(x, y awaited) int { return cmp.Compare(x.key, y.key) })
	var at scope.Builder[scope.Prefix]
	for _, w := range b {
		at.Add(w.key, w.prefix)
	}
	return awaiting{at.Index()}
}

// reached yields the prefixes that waited for the node's view to reach view or
// an index before it.
func (a awaiting) reached(node scope.NodeID, view uint64) iter.Seq[scope.Prefix] {
	return func(yield func(scope.Prefix) bool) {
		last := awaitKey(node, view, "")
		for key, p := range a.at.From(pairKey(node, ""), "") {
			if key[:len(last)] > last || !yield(p) {
				return
			}
		}
	}
}
