package client

import (
	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// MoveStatus is how far a running move is of which a node is the source or the target.
type MoveStatus struct {
	Move     string // id
	Prefix   scope.Prefix
	From, To scope.NodeID
	Phase    string // copying, quiescing or shipped
	// Keys and Bytes count the records that this process has sent, or staged, so far. A key that changes while it is copied
	// counts again, and so does one that is gone.
	Keys, Bytes uint64
	// KeysLeft and BytesLeft are at the source what is still to be looked at, about, as it has told the registry last. They
	// hold if LeftKnown: never at a target.
	KeysLeft, BytesLeft uint64
	LeftKnown           bool
}

// Moves are the running moves of mode agent from or to this node, in the order of their ids. It goes through all running
// moves of the registry.
func (s *Session) Moves() (all []MoveStatus) {
	for m := range s.now.Load().state.View().Moves() {
		if m.Mode != migration.Agent || string(m.From) != s.cfg.Node && string(m.To) != s.cfg.Node {
			continue
		}
		is := MoveStatus{Move: m.ID, Prefix: m.Prefix, From: m.From, To: m.To, Phase: m.Phase.String()}
		if string(m.From) == s.cfg.Node {
			s.ship.progress(m, &is)
		} else {
			s.receive.progress(m, &is)
		}
		all = append(all, is)
	}
	return all
}

// progress fills in what a move has sent.
func (s *shipper) progress(m agent.Move, is *MoveStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.moves[m.ID]
	if x == nil {
		return
	}
	is.Keys, is.Bytes = x.keys.Load(), x.bytes.Load()
	if left := x.left.Load(); left != nil {
		is.KeysLeft, is.BytesLeft, is.LeftKnown = left.keys, left.bytes, true
	}
}

// progress fills in what was staged of a move.
func (r *receiver) progress(m agent.Move, is *MoveStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.areas[m.ID]; a != nil {
		is.Keys, is.Bytes = a.keys.Load(), a.bytes.Load()
	}
}
