package view

import (
	"fmt"
	"iter"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// MoveFilter says which moves are wanted; the zero value wants all.
type MoveFilter struct {
	Prefix   *scope.Prefix // only moves whose prefix overlaps this one
	Key      []byte        // only moves of the scope that holds this key; nil is any
	Running  bool          // leave out the finished ones
	Finished bool          // leave out the running ones
}

func (f MoveFilter) keeps(m migration.Move) bool {
	return (f.Prefix == nil || m.Prefix.Overlaps(*f.Prefix)) && (f.Key == nil || m.Prefix.Matches(f.Key))
}

// Moves are up to limit moves: running ones in the order of their prefixes,
// then finished ones, newest first. It is never nil.
func Moves(st fsm.State, f MoveFilter, limit int, nowMS int64) []api.Move {
	out := []api.Move{}
	take := func(moves iter.Seq[migration.Move]) {
		for m := range moves {
			if len(out) == limit {
				return
			}
			if f.keeps(m) {
				out = append(out, Move(st, m, nowMS))
			}
		}
	}
	if !f.Finished {
		take(st.Moves().Running())
	}
	if !f.Running {
		take(st.Moves().Finished())
	}
	return out
}

// Move is the move with its cleanup and, if it has something left to do, what
// it waits for and what may be done about it.
func Move(st fsm.State, m migration.Move, nowMS int64) api.Move {
	out := moveRecord(m, nowMS)
	for c := range st.CleanupsOver(m.Prefix) {
		if c.Move == m.ID {
			out.Cleanup = "pending"
		}
	}
	switch {
	case m.Running():
		out.Waiting = waiting(m)
	case out.Cleanup != "":
		out.Waiting = cleaning(st, m)
	}
	return out
}

// moveRecord is the move as its record has it.
func moveRecord(m migration.Move, nowMS int64) api.Move {
	out := api.Move{
		ID: m.ID, Prefix: m.Prefix.Text(), From: string(m.From), To: string(m.To), Phase: m.Phase.String(),
		Mode: m.Mode.String(), PreCopy: m.PreCopy, Epoch: m.Epoch, NewEpoch: m.NewEpoch,
		WindowMS: uint64(m.Window.Milliseconds()), TimeoutMS: uint64(m.Timeout.Milliseconds()),
		Actor: m.Actor, Reason: m.Reason, Shipped: manifest(m.Shipped), Ready: manifest(m.Ready),
		Stamps: make([]api.Stamp, 0, len(m.Stamps)), Cause: m.Cause, Detail: m.Detail, QuiescedMS: m.QuiescedMS(nowMS),
	}
	for _, s := range m.Stamps {
		out.Stamps = append(out.Stamps, api.Stamp{Phase: s.Phase.String(), Index: s.Index, TimeMS: s.TimeMS})
	}
	return out
}

func manifest(m *migration.Manifest) *api.Manifest {
	if m == nil {
		return nil
	}
	return &api.Manifest{Keys: m.Keys, Bytes: m.Bytes, Digest: m.Digest}
}

// waiting is what a running move waits for.
func waiting(m migration.Move) *api.Waiting {
	meanwhile := fmt.Sprintf("%s goes on accepting writes", m.From)
	if m.Quiesced() {
		meanwhile = "the scope takes no writes until the move ends"
	}
	return &api.Waiting{For: awaited(m), SinceMS: since(m), Deadlines: deadlines(m), Safe: []api.Choice{
		{Do: "wait", Then: meanwhile},
		{Do: "abort", Then: fmt.Sprintf("back to %s, nothing is lost", m.From)},
		{Do: "force", Then: fmt.Sprintf("only if %s will not come back; what it accepted and did not ship is lost", m.From)},
	}}
}

// cleaning is what a finished move waits for whose source still has its copy.
func cleaning(st fsm.State, m migration.Move) *api.Waiting {
	out := &api.Waiting{For: fmt.Sprintf("node %s to delete its old copy of %q; the scope is served meanwhile", m.From, m.Prefix), SinceMS: since(m)}
	if n, _ := st.Node(m.From); n.Live() { // anybody else's word is refused
		out.Safe = []api.Choice{{Do: "wait", Then: fmt.Sprintf("the scope is served by its owner; %s has a session, so that it deletes the copy after a grace time and says so itself", m.From)}}
		return out
	}
	out.Safe = []api.Choice{
		{Do: "wait", Then: "the scope is served by its owner; there is no deadline"},
		{Do: "cleaned", Then: fmt.Sprintf("your word that %s is off, runs no agent, or has deleted the copy; if it has not, it still holds old records", m.From)},
	}
	return out
}

// awaited is who has to do what next.
func awaited(m migration.Move) string {
	p := m.Prefix
	assisted := m.Mode == migration.Assisted
	switch m.Phase {
	case migration.Copying:
		if assisted {
			return fmt.Sprintf("the operator to copy %q from %s to %s and to say quiesce; %s still accepts writes", p, m.From, m.To, m.From)
		}
		return fmt.Sprintf("node %s to copy %q to %s and report little left; it still accepts writes", m.From, p, m.To)
	case migration.Quiescing:
		if assisted {
			return fmt.Sprintf("the operator to close %q on %s, ship it to %s and say shipped; nobody accepts writes", p, m.From, m.To)
		}
		return fmt.Sprintf("node %s to drain %q and ship the rest to %s; nobody accepts writes", m.From, p, m.To)
	case migration.Shipped:
		if assisted {
			return fmt.Sprintf("the operator to check %q on %s and say ready; nobody accepts writes", p, m.To)
		}
		return fmt.Sprintf("node %s to make %q durable and report ready; nobody accepts writes", m.To, p)
	case migration.Done, migration.Aborted:
	}
	return "nobody"
}

// deadlines are what happens when nothing does, the first one first. A new
// leader counts its budgets from the start again, so that the times are the
// earliest ones.
func deadlines(m migration.Move) []api.Deadline {
	what := func(budget string) string {
		return fmt.Sprintf("%s: it is aborted and %s keeps the scope; a new leader counts from the start again", budget, m.From)
	}
	whole := api.Deadline{AtMS: m.Stamps[0].TimeMS + m.Timeout.Milliseconds(),
		What: what(fmt.Sprintf("%v after its start", m.Timeout))}
	closed, ok := m.Entered(migration.Quiescing)
	if !ok || !m.Quiesced() {
		return []api.Deadline{whole}
	}
	window := api.Deadline{AtMS: closed.TimeMS + m.Window.Milliseconds(),
		What: what(fmt.Sprintf("%v after the scope was closed", m.Window))}
	if whole.AtMS < window.AtMS {
		return []api.Deadline{whole, window}
	}
	return []api.Deadline{window, whole}
}

// since is when the move entered its phase. A move has a stamp from its start on.
func since(m migration.Move) int64 { return m.Stamps[len(m.Stamps)-1].TimeMS }
