package httpapi

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/migration"
)

// waiting says for a move that has something left to do whom it waits for,
// since when and what happens at which deadline, and what is safe to do now,
// each with its consequence.
func waiting(m migration.Move, cleanup bool) (waitingFor string, safe []string) {
	if !m.Running() {
		if !cleanup {
			return "", nil
		}
		return fmt.Sprintf("node %s to delete its old copy of %q, since %s; no deadline, and the scope is served meanwhile",
				m.From, m.Prefix.Text(), since(m)),
			[]string{
				"wait: the scope is served by its owner",
				fmt.Sprintf("cleaned: your word that %s is off, runs no agent, or has deleted the copy; if it has not, it still holds old records", m.From),
			}
	}
	return fmt.Sprintf("%s, since %s; %s", awaited(m), since(m), deadline(m)), safeNow(m)
}

// awaited is who has to do what next.
func awaited(m migration.Move) string {
	p := m.Prefix.Text()
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

// deadline is what happens when nothing does.
func deadline(m migration.Move) string {
	const counted = "counted by the leader, and from the start again by a new leader"
	whole := fmt.Sprintf("%v after the start of the move", m.Timeout)
	if s, ok := first(m); ok {
		whole += " (" + at(s.TimeMS+m.Timeout.Milliseconds()) + ")"
	}
	if !m.Quiesced() {
		return fmt.Sprintf("%s it is aborted and %s keeps the scope; %s", whole, m.From, counted)
	}
	window := fmt.Sprintf("%v after the scope was closed", m.Window)
	if s, ok := m.Entered(migration.Quiescing); ok {
		window += " (" + at(s.TimeMS+m.Window.Milliseconds()) + ")"
	}
	return fmt.Sprintf("%s, or %s, it is aborted and %s keeps the scope; both are %s", window, whole, m.From, counted)
}

func safeNow(m migration.Move) []string {
	meanwhile := fmt.Sprintf("%s goes on accepting writes", m.From)
	if m.Quiesced() {
		meanwhile = "the scope takes no writes until the move ends"
	}
	return []string{
		"wait: " + meanwhile,
		fmt.Sprintf("abort: back to %s, nothing is lost", m.From),
		fmt.Sprintf("force: only if %s will not come back; what it accepted and did not ship is lost", m.From),
	}
}

func first(m migration.Move) (migration.Stamp, bool) {
	if len(m.Stamps) == 0 {
		return migration.Stamp{}, false
	}
	return m.Stamps[0], true
}

// since is when the move entered its phase.
func since(m migration.Move) string {
	if len(m.Stamps) == 0 {
		return "its start"
	}
	return at(m.Stamps[len(m.Stamps)-1].TimeMS)
}

func at(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// why is one sentence on how a key routes.
func why(st fsm.State, key []byte) string {
	sc, ok := st.Scopes().Lookup(key)
	if !ok {
		return "No declared scope is a prefix of the key, so each node decides for itself, by default in favour."
	}
	p := sc.Prefix.Text()
	m, moving := st.Moves().MatchMigrating(key)
	switch {
	case sc.Quiesced != "" && moving:
		return fmt.Sprintf("The scope %q takes no writes from anyone while move %s takes it from %s to %s (%s).", p, m.ID, m.From, m.To, m.Phase)
	case sc.Quiesced != "":
		return fmt.Sprintf("The scope %q takes no writes from anyone while it goes to %s.", p, sc.Quiesced)
	case moving:
		return fmt.Sprintf("The longest declared prefix of the key is %q, owned by %s at epoch %d, which accepts writes while move %s copies it to %s.",
			p, sc.Owner, sc.Epoch, m.ID, m.To)
	case sc.Owner != sc.Writer:
		return fmt.Sprintf("The longest declared prefix of the key is %q; its writer is %s, but %s has taken over and owns it at epoch %d until a move brings it back.",
			p, sc.Writer, sc.Owner, sc.Epoch)
	}
	return fmt.Sprintf("The longest declared prefix of the key is %q, owned by its writer %s at epoch %d.", p, sc.Owner, sc.Epoch)
}
