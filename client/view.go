package client

import (
	"iter"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/scope"
)

// View is what a [Mirror] or a [Session] knows of the registry at one index: an
// immutable value. The zero View knows nothing.
type View struct{ agent agent.View }

// Token is the fencing token of one tenure of a scope: of two tokens of a scope
// the later tenure has the one with the higher incarnation, then epoch. Epoch 0 is
// that of keys which no scope holds.
type Token struct {
	Incarnation uint64
	Epoch       uint64
}

// Route says who may write a key.
type Route struct {
	Verdict scope.Verdict
	Prefix  scope.Prefix // of the scope; "" for Unknown
	Node    scope.NodeID // to turn to: the owner, or, while the scope moves, where it goes; "" for Unknown
	Addr    string       // its host:port, or its id if it has none
	Token   Token
}

// Index is the log index that the view shows; 0 is none.
func (v View) Index() uint64 { return v.agent.Index() }

// Incarnation is the number of the cluster's history that the view is of: a
// restore begins another one, and indexes of two say nothing about each other.
func (v View) Incarnation() uint64 { return v.agent.Incarnation().Number }

// Holds reports whether the cluster serves no scope that is not Released, since a
// restore.
func (v View) Holds() bool { return v.agent.Holds() }

// Addr is the host:port of a node, or its id if it has none.
func (v View) Addr(node scope.NodeID) string { return v.agent.Addr(node) }

// Len is the number of scopes.
func (v View) Len() int { return v.agent.Scopes().Len() }

// Scope is the one declared with exactly this prefix.
func (v View) Scope(p scope.Prefix) (scope.Scope, bool) {
	s, ok := v.agent.Scopes().Get(p)
	if !ok {
		return scope.Scope{}, false
	}
	return *s, true
}

// Scopes yields the scopes whose prefix starts with under, "" for all, in the order
// of prefix bytes.
func (v View) Scopes(under scope.Prefix) iter.Seq[scope.Scope] {
	return func(yield func(scope.Scope) bool) {
		for s := range v.agent.Scopes().Under(under, "") {
			if !yield(*s) {
				return
			}
		}
	}
}

// Owner is the address of the node that owns key, or its id if it has none: also
// while the scope moves and nobody may write it, as reads go there. It is "" if no
// scope holds the key.
func (v View) Owner(key []byte) (addr string) {
	s, ok := v.agent.Scopes().Lookup(key)
	if !ok {
		return ""
	}
	return v.agent.Addr(s.Owner)
}

// Route gives the verdict for key as seen from the node as. It takes no lock and
// does not allocate.
func (v View) Route(key []byte, as scope.NodeID) Route {
	r := v.agent.Scopes().Route(key, as)
	if v.agent.Holds() {
		r = r.OnHold()
	}
	if r.Scope == nil {
		return Route{}
	}
	node := r.Target()
	if node == "" {
		node = r.Scope.Owner
	}
	return Route{Verdict: r.Verdict, Prefix: r.Scope.Prefix, Node: node, Addr: v.agent.Addr(node),
		Token: Token{Incarnation: v.agent.Incarnation().Number, Epoch: r.Scope.Epoch}}
}
