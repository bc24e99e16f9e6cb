package fsm

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/migration"
)

// Directive is what the leader may propose by itself: to give a move up. The
// interface is sealed, so that no leader can ever start a move or change an
// owner of its own accord; a test allows only Quiesce, Abort and Expire in it.
type Directive interface {
	// Command is the command to propose.
	Command() Command
	directive()
}

type abortDirective struct{ c *Abort }

func (d abortDirective) Command() Command { return d.c }
func (abortDirective) directive()         {}

// Ledger is when this leader first saw each running move, and first saw it
// closed. A new leader begins with an empty one, so every budget starts anew
// with it: a move ends within budget × (1 + leader changes). The zero value is
// empty; it is never changed in place.
type Ledger struct {
	seen []sighting // in the order of the moves' prefixes
}

type sighting struct {
	id       string
	since    time.Duration
	closedAt time.Duration
	closed   bool
}

// Reconcile says what the leader should propose now. It is pure: now is the
// leader's monotonic clock, from any origin that stays the same. It returns the
// ledger to call it with next time, and when to call it again at the latest,
// counted from the same origin; 0 if nothing is due until the state changes.
func Reconcile(s State, l Ledger, now time.Duration) (Ledger, []Directive, time.Duration) {
	known := make(map[string]sighting, len(l.seen))
	for _, g := range l.seen {
		known[g.id] = g
	}
	next := Ledger{seen: make([]sighting, 0, s.moves.RunningLen())}
	var out []Directive
	var due time.Duration
	for m := range s.moves.Running() {
		g, ok := known[m.ID]
		if !ok {
			g = sighting{id: m.ID, since: now}
		}
		if m.Quiesced() && !g.closed {
			g.closed, g.closedAt = true, now
		}
		next.seen = append(next.seen, g)
		deadline, cause := budget(m, g)
		if now >= deadline {
			out = append(out, abortDirective{&Abort{Move: m.ID, Cause: cause, Reason: overdue(m, cause)}})
		} else if due == 0 || deadline < due {
			due = deadline
		}
	}
	return next, out, due
}

// budget is the first deadline of a move and why it is one.
func budget(m migration.Move, g sighting) (deadline time.Duration, cause string) {
	deadline, cause = g.since+m.Timeout, CauseTimeout
	if g.closed && g.closedAt+m.Window <= deadline {
		deadline, cause = g.closedAt+m.Window, CauseWindow
	}
	return deadline, cause
}

func overdue(m migration.Move, cause string) string {
	if cause == CauseWindow {
		return fmt.Sprintf("%s for longer than its window of %s", m.Phase, m.Window)
	}
	return fmt.Sprintf("not finished within its timeout of %s", m.Timeout)
}
