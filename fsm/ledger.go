package fsm

import (
	"encoding/binary"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// Ledger is what one leader counts by its own clock and no log holds: when each
// lease ends, since when each move runs, and what nodes said of their moves. It
// is a value that is never changed in place, so that a renewal costs O(log n)
// and who holds an older one still reads that.
//
// Every time in it is of one clock that goes on while the machine sleeps, from
// any fixed origin that is not negative.
type Ledger struct {
	times api.Leases
	term  uint64
	due   time.Duration // when the last Reconcile asked to be called again at the latest; 0 is never

	known    scope.Index[scope.NodeID] // the live sessions that the leases agree with
	leases   scope.Index[lease]        // by session
	expiries scope.Index[string]       // deadline and session → session, but for those proposed
	proposed scope.Index[struct{}]     // sessions whose expiry was proposed
	acks     scope.Index[uint64]       // session → view that the log should know
	moves    scope.Index[sighting]     // by move
	upload   upload
	urgent   bool
}

// lease is one live session.
type lease struct {
	deadline time.Duration
	view     uint64 // the furthest that a renewal carried; 0 if none came
	// behind is a change that concerns the node and that its view had not
	// reached at since; 0 if there is none.
	behind uint64
	since  time.Duration
}

// NewLedger returns the ledger of a new leader. The term must have been read
// before: an expiry counts only in the term of its ledger, and leadership may
// be lost, and won again, at any moment. The times must be those that nodes go
// by, see [api.Leases.Check].
func NewLedger(times api.Leases, term uint64) Ledger { return Ledger{times: times, term: term} }

// Late reports whether this call comes later than the last [Reconcile] asked
// for, by more than a leader may be late: the process was paused, and renewals
// may have waited all that time. The leader confirms once, then restarts.
func (l Ledger) Late(now time.Duration) bool { return l.due != 0 && now > l.due+l.times.Late }

// Restart returns the ledger in which every deadline and budget begins anew,
// with the next [Reconcile]. What was proposed to expire stays so: the entry may
// be in the log, or come there yet.
func (l Ledger) Restart() Ledger {
	next := NewLedger(l.times, l.term)
	next.proposed = l.proposed
	for id := range l.proposed.All() {
		if held, ok := l.leases.Get(id); ok {
			next.leases = next.leases.With(id, held)
		}
	}
	return next
}

// Urgent reports whether a renewal or a report has brought what [Reconcile]
// would propose, so that it should be called before it is due.
func (l Ledger) Urgent() bool { return l.urgent }

// Renew judges a renewal that arrived before a confirm which was done at now,
// and s is the state since then. An error is an *[api.Error]: SESSION_EXPIRED if
// the session is not live or its expiry was proposed, FORBIDDEN if another node asks,
// STALE if the node does not see what concerns it, INVALID for a view of what is not in the log. The ledger
// returned counts also after an error.
func (l Ledger) Renew(s State, r api.Renewal, now time.Duration) (Ledger, error) {
	n, ok := s.Holder(r.Session)
	if !ok {
		return l, refuse(api.SessionExpired, "session %.*q is not live; stop to admit and open a new one", MaxRandom, r.Session)
	}
	if err := speaksFor(r.As, n); err != nil {
		return l, err
	}
	if r.View > s.Index() {
		return l, refuse(api.Invalid, "a view cannot have reached index %d, as the leader is at %d", r.View, s.Index())
	}
	id := scope.Prefix(r.Session)
	if _, dying := l.proposed.Get(id); dying {
		return l, refuse(api.SessionExpired, "the lease of session %q ended and its expiry is on its way into the log; stop to admit and open a new one", r.Session)
	}
	held, ok := l.leases.Get(id)
	if !ok {
		held.deadline = now + l.times.Deadline
	}
	held.view = max(held.view, r.View)
	held = held.watched(n.Session, now)
	var refusal error
	if held.blind(l.times, now) {
		err := refuse(api.Stale, "the view of node %q is at index %d and for %s has not reached %d, a change that concerns it; "+
			"follow the watch again, of another server if this one's stands still, or the session expires", n.ID, max(held.view, n.Session.View), (now - held.since).Round(100*time.Millisecond), held.behind)
		err.Index = held.behind
		refusal = err
	} else {
		held.deadline = max(held.deadline, now+l.times.Deadline)
	}
	l = l.put(r.Session, held)
	if s.AwaitsAck(n.ID, held.view) {
		l.acks, l.urgent = l.acks.With(id, held.view), true
	}
	return l, refusal
}

// speaksFor refuses the word of one node for the session of another: sessions are shown to everybody.
func speaksFor(as string, holder Node) error {
	if as == "" || as == string(holder.ID) {
		return nil
	}
	return refuse(api.Forbidden, "node %.*q may speak for its own session only, and this one is of node %q", scope.MaxNodeIDLen, as, holder.ID)
}

// watched notes a change that concerns the node and that its view has not
// reached. What was noted stays until the view has passed that very change: a
// node that is always a little behind is not blind.
func (held lease) watched(of Session, now time.Duration) lease {
	view := max(held.view, of.View)
	if view >= held.behind {
		held.behind, held.since = 0, 0
	}
	// The opening concerns the node too: before its view has reached that it admits
	// nothing, and while its session lives nobody takes over from it.
	if last := max(of.Opened, of.Concern); held.behind == 0 && view < last {
		held.behind, held.since = last, now
	}
	return held
}

func (held lease) blind(times api.Leases, now time.Duration) bool {
	return held.behind != 0 && now-held.since >= times.Lease
}

// Leading shows what the ledger holds of the state's sessions, in the order of
// their ids, and the progress of its running moves, by move.
func (l Ledger) Leading(s State, now time.Duration) (leases []api.LeaseState, progress map[string]api.Progress) {
	leases = make([]api.LeaseState, 0, s.SessionsLen())
	for node, of := range s.Sessions() {
		held, ok := l.leases.Get(scope.Prefix(of.ID))
		if !ok {
			held.deadline = now + l.times.Deadline
		}
		leases = append(leases, api.LeaseState{Session: of.ID, Node: string(node), View: held.view,
			LeftMS: max(0, held.deadline-now).Milliseconds(), Blind: held.blind(l.times, now)})
	}
	progress = make(map[string]api.Progress)
	for m := range s.moves.Running() {
		if g, ok := l.moves.Get(scope.Prefix(m.ID)); ok && g.said.session != "" {
			progress[m.ID] = g.said.shown(now)
		}
	}
	return leases, progress
}

// meet makes the leases agree with the live sessions. The table of sessions
// changes only when one opens or ends, so that its identity tells whether there
// is anything to do.
func (l Ledger) meet(s State, now time.Duration) Ledger {
	if l.known == s.sessions.byID {
		return l
	}
	for id := range s.sessions.byID.All() {
		if _, ok := l.leases.Get(id); !ok {
			l = l.put(string(id), lease{deadline: now + l.times.Deadline})
		}
	}
	if l.leases.Len() > s.sessions.byID.Len() {
		for id := range l.leases.All() {
			if _, live := s.sessions.byID.Get(id); !live {
				l = l.drop(id)
			}
		}
	}
	l.known = s.sessions.byID
	return l
}

func (l Ledger) put(session string, next lease) Ledger {
	id := scope.Prefix(session)
	old, ok := l.leases.Get(id)
	l.leases = l.leases.With(id, next)
	if ok && old.deadline == next.deadline {
		return l
	}
	if ok {
		l.expiries = l.expiries.Without(expiryKey(old.deadline, id))
	}
	l.expiries = l.expiries.With(expiryKey(next.deadline, id), session)
	return l
}

func (l Ledger) drop(id scope.Prefix) Ledger {
	if old, ok := l.leases.Get(id); ok {
		l.expiries = l.expiries.Without(expiryKey(old.deadline, id))
	}
	l.leases, l.proposed = l.leases.Without(id), l.proposed.Without(id)
	return l
}

// expiryKey orders sessions by their deadlines.
func expiryKey(deadline time.Duration, id scope.Prefix) scope.Prefix {
	return scope.Prefix(binary.BigEndian.AppendUint64(nil, uint64(deadline))) + id
}

func deadlineOf(key scope.Prefix) time.Duration {
	return time.Duration(binary.BigEndian.Uint64([]byte(key[:8])))
}
