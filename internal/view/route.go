package view

import (
	"fmt"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// Route is the verdict for key. Without a node that asks there is none.
func Route(st fsm.State, key []byte, as scope.NodeID) api.Route {
	r := st.Route(key, as)
	out := api.Route{Key: scope.BytesText(string(key)), Index: st.Index()}
	if as != "" {
		out.Verdict = r.Verdict.String()
		out.Reply = ReplyLine(st, r)
	}
	sc := r.Scope
	if sc == nil {
		return out
	}
	out.Prefix, out.Owner, out.Epoch, out.State = sc.Prefix.Text(), string(sc.Owner), sc.Epoch, Owned
	out.Addr = st.Addr(sc.Owner)
	switch {
	case st.Held(sc):
		out.State = Held
	case sc.Quiesced != "":
		out.State, out.Target, out.Addr = Quiesced, string(sc.Quiesced), st.Addr(sc.Quiesced)
	}
	return out
}

// ReplyLine is what a store answers its client. Clients parse it byte for byte.
func ReplyLine(st fsm.State, r scope.Routing) string {
	switch r.Verdict {
	case scope.Owned:
		return "OK"
	case scope.Misdirected:
		return "MISDIRECTED writer is " + st.Addr(r.Target())
	case scope.Quiesced:
		return "QUIESCED migrating to " + st.Addr(r.Target())
	case scope.Unknown:
	}
	return "UNKNOWN"
}

// Explain is why key routes as it does, but for the servers that lag: give
// changed, the index of the last change that matters for the key, to [Lagging]
// with what the servers say of themselves. It is 0 where no scope matches.
func Explain(st fsm.State, key []byte, as scope.NodeID, nowMS int64) (out api.Explain, changed uint64) {
	out = api.Explain{Route: Route(st, key, as), Why: why(st, key)}
	sc, ok := st.Scopes().Lookup(key)
	if !ok {
		return out, 0
	}
	shown := Scope(st, sc)
	out.Scope = &shown
	changed = sc.Changed
	if m, ok := st.Moves().MatchMigrating(key); ok {
		move := Move(st, m, nowMS)
		out.Move = &move
		changed = max(changed, m.Stamps[len(m.Stamps)-1].Index)
	}
	return out, changed
}

// Lagging are the ids of the servers that have not applied the index changed,
// or do not say what they have applied.
func Lagging(members []api.Member, changed uint64) []string {
	var out []string
	for _, m := range members {
		if m.Error != "" || m.Role == "" || m.Index < changed {
			out = append(out, m.ID)
		}
	}
	return out
}

// why is one sentence on how a key routes.
func why(st fsm.State, key []byte) string {
	sc, ok := st.Scopes().Lookup(key)
	if !ok {
		return "No declared scope is a prefix of the key, so each node decides for itself, by default in favour."
	}
	p := sc.Prefix
	m, moving := st.Moves().MatchMigrating(key)
	switch {
	case st.Held(sc):
		return fmt.Sprintf("The scope %q of owner %s takes no writes from anyone: %s.", p, sc.Owner, st.HoldText())
	case sc.Quiesced != "" && moving:
		return fmt.Sprintf("The scope %q takes no writes from anyone while move %s takes it from %s to %s (%s).", p, m.ID, m.From, m.To, m.Phase)
	case sc.Quiesced != "":
		return fmt.Sprintf("The scope %q takes no writes from anyone while it goes to %s.", p, sc.Quiesced)
	case moving:
		return fmt.Sprintf("The longest declared prefix of the key is %q, owned by %s at epoch %d, which accepts writes while move %s copies it to %s.",
			p, sc.Owner, sc.Epoch, m.ID, m.To)
	case sc.Owner != sc.Writer:
		return fmt.Sprintf("The longest declared prefix of the key is %q; its writer is %s, but %s has taken over and owns it at epoch %d until a move brings it back.",
			p, sc.Writer, sc.Owner, sc.Epoch) + ownerGone(st, sc)
	}
	return fmt.Sprintf("The longest declared prefix of the key is %q, owned by its writer %s at epoch %d.", p, sc.Owner, sc.Epoch) + ownerGone(st, sc)
}

// ownerGone says of a scope whose owner's session has expired why nobody takes
// it over, "" of any other.
func ownerGone(st fsm.State, sc *scope.Scope) string {
	owner, _ := st.Node(sc.Owner)
	if !owner.Expired {
		return ""
	}
	// Else it would have gone to the fallback in the entry that expired the owner, or
	// aborted the move.
	reason := fmt.Sprintf("its fallback %s has no live session", sc.Fallback)
	switch {
	case sc.Fallback == "" || sc.Fallback == sc.Owner:
		reason = "it has no other fallback"
	case sc.Failover == scope.FailoverManual:
		reason = "its failover is manual"
	case !sc.Armed:
		reason = fmt.Sprintf("%s was not known to have seen that it needs a lease, and may still write", sc.Owner)
	}
	return fmt.Sprintf(" The session of %s has expired, and nobody takes the scope over: %s. Start %s again, or give the scope to another node with scope force.", sc.Owner, reason, sc.Owner)
}
