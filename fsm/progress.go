package fsm

import (
	"math"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// littleOfWindow is which part of its window a move's remaining records may take
// for its source to be closed: the rest is for draining, the target's seal, and
// a rate that falls.
const littleOfWindow = 4

// progress is the newest report of a move's source, with the rates between it and
// the one before; session is "" if none came.
type progress struct {
	session             string
	keys, bytes         uint64 // shipped so far
	keysLeft, bytesLeft uint64
	early               bool // as in api.Report
	at                  time.Duration
	keyRate, byteRate   float64 // per second; 0 if not known
}

// Report takes what the source of a move says of its copying. An error is an
// *[api.Error]: NOT_FOUND, WRONG_PHASE unless the move is copying or quiescing,
// SESSION_EXPIRED, FORBIDDEN if another node asks, or INVALID if the session is
// not of the move's source.
func (l Ledger) Report(s State, r api.Report, now time.Duration) (Ledger, error) {
	m, ok := s.moves.Get(r.Move)
	if !ok {
		return l, refuse(api.NotFound, "move %.*q is not known; list them with: scope-registry move list", scope.MaxNodeIDLen, r.Move)
	}
	if m.Phase != migration.Copying && m.Phase != migration.Quiescing {
		err := refuse(api.WrongPhase, "move %s is %s; its source has nothing to report any more", m.ID, m.Phase)
		err.Move = m.ID
		return l, err
	}
	n, ok := s.Holder(r.Session)
	if !ok {
		return l, refuse(api.SessionExpired, "session %.*q is not live; nothing that it says counts any more, open a new one", MaxRandom, r.Session)
	}
	if err := speaksFor(r.As, n); err != nil {
		return l, err
	}
	if n.ID != m.From {
		return l, refuse(api.Invalid, "move %s: a report is the word of node %q, and session %q is of node %q", m.ID, m.From, r.Session, n.ID)
	}
	g, _ := l.sight(m, now)
	g.said = g.said.next(r, now)
	l.moves = l.moves.With(scope.Prefix(m.ID), g)
	l.urgent = l.urgent || g.mayClose(s, m)
	return l, nil
}

// next is the progress after one more report. Reports that do not follow from the
// one before, as another process made them or it began anew, give no rate.
func (p progress) next(r api.Report, now time.Duration) progress {
	n := progress{session: r.Session, keys: r.Keys, bytes: r.Bytes, keysLeft: r.KeysLeft, bytesLeft: r.BytesLeft, early: r.Early, at: now}
	if p.session != r.Session || r.Keys < p.keys || r.Bytes < p.bytes {
		return n
	}
	n.keyRate, n.byteRate = p.keyRate, p.byteRate
	if now > p.at {
		took := (now - p.at).Seconds()
		n.keyRate, n.byteRate = float64(r.Keys-p.keys)/took, float64(r.Bytes-p.bytes)/took
	}
	return n
}

// left is how long what is left takes at the measured rates; false if that is not
// known.
func (p progress) left() (time.Duration, bool) {
	keys, known := lasting(p.keysLeft, p.keyRate)
	bytes, both := lasting(p.bytesLeft, p.byteRate)
	return max(keys, bytes), known && both
}

func lasting(n uint64, rate float64) (time.Duration, bool) {
	switch seconds := float64(n) / rate; {
	case n == 0:
		return 0, true
	case rate <= 0:
		return 0, false
	case seconds >= MaxTimeout.Seconds(): // and beyond what a Duration holds
		return MaxTimeout, true
	default:
		return time.Duration(math.Round(seconds * float64(time.Second))), true
	}
}

func (p progress) shown(now time.Duration) api.Progress {
	out := api.Progress{Keys: p.keys, Bytes: p.bytes, KeysLeft: p.keysLeft, BytesLeft: p.bytesLeft,
		BytesPerSec: uint64(p.byteRate), LeftMS: -1, AgeMS: (now - p.at).Milliseconds()}
	if left, known := p.left(); known {
		out.LeftMS = left.Milliseconds()
	}
	return out
}

// mayClose reports whether a move's source can be closed: it copies by itself, and
// its process says that little is left. A move of which nothing was reported is
// never closed: nobody knows for how long. Nor is one whose source says that it is
// early: what is left may be little then, and will soon be next to nothing.
func (g sighting) mayClose(s State, m migration.Move) bool {
	if m.Mode != migration.Agent || m.Phase != migration.Copying {
		return false
	}
	if n, live := s.Holder(g.said.session); !live || n.ID != m.From {
		return false
	}
	left, known := g.said.left()
	return known && !g.said.early && left <= m.Window/littleOfWindow
}
