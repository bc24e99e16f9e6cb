package fsm

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Directive is what the leader may propose by itself: to close a move whose
// source has little left to ship, to give a move up, to end a session whose
// lease has ended, to note how far a node's view has come, and to drop a backup
// that nobody goes on restoring. The interface is sealed, so that no leader can
// ever start a move or change an owner of its own accord; a test allows only
// Quiesce, Abort, Expire, Ack and DropBackup in it.
type Directive interface {
	// Command is the command to propose.
	Command() Command
	directive()
}

type (
	quiesceDirective struct{ c *Quiesce }
	abortDirective   struct{ c *Abort }
	expireDirective  struct{ c *Expire }
	ackDirective     struct{ c *Ack }
	dropDirective    struct{ c *DropBackup }
)

func (d quiesceDirective) Command() Command { return d.c }
func (quiesceDirective) directive()         {}
func (d abortDirective) Command() Command   { return d.c }
func (abortDirective) directive()           {}
func (d expireDirective) Command() Command  { return d.c }
func (expireDirective) directive()          {}
func (d ackDirective) Command() Command     { return d.c }
func (ackDirective) directive()             {}
func (d dropDirective) Command() Command    { return d.c }
func (dropDirective) directive()            {}

// sighting is when a leader first saw a running move, when it first saw it
// closed, and what the move's source reported. A new ledger has none, so every
// budget starts anew with it: a move ends within budget × (1 + leader changes).
type sighting struct {
	since    time.Duration
	closedAt time.Duration
	closed   bool
	said     progress
}

// Reconcile says what the leader should propose now. It is pure: now is the
// leader's clock, see [Ledger]. It returns the ledger to go on with, and when to
// call again at the latest; 0 if nothing is due until the state changes. While
// sessions are live that is soon, so that [Ledger.Late] can tell a pause.
//
// What was proposed and did not come about is proposed again by the next call,
// so who could not write a directive pauses first.
func Reconcile(s State, l Ledger, now time.Duration) (Ledger, []Directive, time.Duration) {
	l = l.meet(s, now)
	l.urgent = false
	// In this order none of them makes a later one fail: an expiry ends moves and
	// what the session may say.
	l, out, due := l.drive(s, now)
	l, out = l.acknowledge(s, out)
	l, out = l.expire(now, out)
	l, out, due = l.sweep(s, now, out, due)
	if s.SessionsLen() > 0 {
		due = sooner(due, now+l.times.Late)
		due = sooner(due, l.firstExpiry())
	}
	l.due = due
	return l, out, due
}

// stagedFor is how long a backup may stand still on its way into the log, where
// it takes memory on every server. A part takes some milliseconds.
const stagedFor = time.Minute

// upload is a backup on its way as the leader last saw it grow.
type upload struct {
	id    string
	size  uint64
	since time.Duration
}

// sweep proposes to drop a backup that stands still: who sent it is gone.
func (l Ledger) sweep(s State, now time.Duration, out []Directive, due time.Duration) (Ledger, []Directive, time.Duration) {
	id, size := s.Staged()
	if id == "" {
		l.upload = upload{}
		return l, out, due
	}
	if l.upload.id != id || l.upload.size != size {
		l.upload = upload{id, size, now}
	}
	if end := l.upload.since + stagedFor; now < end {
		return l, out, sooner(due, end)
	}
	return l, append(out, dropDirective{&DropBackup{Id: id, Bytes: size}}), due
}

// firstExpiry is the earliest deadline of a lease; 0 if there is none.
func (l Ledger) firstExpiry() time.Duration {
	for key := range l.expiries.All() {
		return deadlineOf(key)
	}
	return 0
}

// sooner is the earlier of two times of which 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// expire proposes to end every session whose lease has ended, also one that was
// proposed before and lives still. From now on its renewals are refused.
func (l Ledger) expire(now time.Duration, out []Directive) (Ledger, []Directive) {
	for key, session := range l.expiries.All() {
		if deadlineOf(key) > now {
			break
		}
		l.expiries = l.expiries.Without(key)
		l.proposed = l.proposed.With(scope.Prefix(session), struct{}{})
	}
	for id := range l.proposed.All() {
		out = append(out, expireDirective{&Expire{Session: string(id), Term: l.term}})
	}
	return l, out
}

// acknowledge proposes what renewals have brought, each once: if it does not come
// about the next renewal brings it again.
func (l Ledger) acknowledge(s State, out []Directive) (Ledger, []Directive) {
	for id, view := range l.acks.All() {
		if n, live := s.Holder(string(id)); live && s.AwaitsAck(n.ID, view) {
			out = append(out, ackDirective{&Ack{Session: string(id), View: view}})
		}
	}
	l.acks = scope.Index[uint64]{}
	return l, out
}

// drive gives up moves that are over their budgets and closes those that are
// ready for it.
func (l Ledger) drive(s State, now time.Duration) (next Ledger, out []Directive, due time.Duration) {
	for m := range s.moves.Running() {
		g, changed := l.sight(m, now)
		if changed {
			l.moves = l.moves.With(scope.Prefix(m.ID), g)
		}
		deadline, cause := budget(m, g)
		if now >= deadline {
			out = append(out, abortDirective{&Abort{Move: m.ID, Cause: cause, Reason: overdue(m, cause)}})
			continue
		}
		due = sooner(due, deadline)
		if g.mayClose(s, m) {
			out = append(out, quiesceDirective{&Quiesce{Move: m.ID}})
		}
	}
	if l.moves.Len() > s.moves.RunningLen() {
		for id := range l.moves.All() {
			if m, ok := s.moves.Get(string(id)); !ok || !m.Running() {
				l.moves = l.moves.Without(id)
			}
		}
	}
	return l, out, due
}

// sight is what the ledger knows of a running move once it has looked at it, and
// whether that is news.
func (l Ledger) sight(m migration.Move, now time.Duration) (g sighting, changed bool) {
	g, known := l.moves.Get(scope.Prefix(m.ID))
	if !known {
		g.since = now
	}
	closes := m.Quiesced() && !g.closed
	if closes {
		g.closed, g.closedAt = true, now
	}
	return g, !known || closes
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
