package view

import (
	"fmt"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Sessions are the live sessions with what the leader says of their leases;
// nothing of that if it did not answer, which is nil. It is never nil.
func Sessions(st fsm.State, l *api.Leading) []api.SessionState {
	leases := leasesOf(l)
	out := []api.SessionState{}
	for node, s := range st.Sessions() {
		shown := api.SessionState{Node: string(node), Session: api.Session{ID: s.ID, Opened: s.Opened, View: s.View}}
		if lease, ok := leases[s.ID]; ok {
			shown.View = max(s.View, lease.View)
			shown.LeftMS, shown.Blind = &lease.LeftMS, lease.Blind
		}
		out = append(out, shown)
	}
	return out
}

// AskLeader asks the leader for what only it knows. It is asked only where the
// log does not tell.
type AskLeader func() (*api.Leading, error)

// Settled is whether the view of every live session has reached the scope's last
// change; nil if only the leader could tell and did not answer.
func Settled(st fsm.State, sc *scope.Scope, ask AskLeader) *bool {
	settled := st.Settled(sc)
	if !settled {
		l, err := ask()
		if err != nil {
			return nil
		}
		settled = len(unseen(st, l, sc.Changed)) == 0
	}
	return &settled
}

// ExplainNodes adds to the explanation of key, which has a scope, what the nodes
// have seen of it and how far its move is.
func ExplainNodes(st fsm.State, key []byte, out *api.Explain, ask AskLeader) {
	sc, ok := st.Scopes().Lookup(key)
	if !ok {
		return
	}
	settled := st.Settled(sc)
	if settled {
		out.Scope.Settled = &settled
	}
	if settled && (out.Move == nil || !Reported(*out.Move)) {
		return
	}
	l, err := ask()
	if err != nil {
		out.Why += fmt.Sprintf(" The leader could not be asked how far the nodes are (%v).", err)
		return
	}
	out.Unseen = unseen(st, l, sc.Changed)
	settled = len(out.Unseen) == 0
	out.Scope.Settled = &settled
	if out.Move != nil {
		Progress(out.Move, l)
	}
}

// unseen are the nodes with a live session whose view has not reached the index
// changed, as far as the log and the leader know, in the order of session ids.
func unseen(st fsm.State, l *api.Leading, changed uint64) []string {
	leases := leasesOf(l)
	var out []string
	for node, s := range st.Sessions() {
		if max(s.View, leases[s.ID].View) < changed {
			out = append(out, string(node))
		}
	}
	return out
}

func leasesOf(l *api.Leading) map[string]api.LeaseState {
	if l == nil {
		return nil
	}
	out := make(map[string]api.LeaseState, len(l.Leases))
	for _, lease := range l.Leases {
		out[lease.Session] = lease
	}
	return out
}

// Reported reports whether the source of a move tells the leader how far it is.
func Reported(m api.Move) bool {
	return m.Mode == migration.Agent.String() && m.Phase != migration.Done.String() && m.Phase != migration.Aborted.String()
}

// Progress adds to the move what the leader last heard of it.
func Progress(m *api.Move, l *api.Leading) {
	if l == nil || !Reported(*m) {
		return
	}
	if p, ok := l.Progress[m.ID]; ok {
		m.Progress = &p
	}
}
