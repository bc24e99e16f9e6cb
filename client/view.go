package client

import (
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
