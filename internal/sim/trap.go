package sim

import (
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// Some traces need two things within milliseconds of each other, which no plan of
// actions brings about. A trap waits for the one and then does the other.

var traps = [...]string{"expiry", "renewal", "answer", "word", "stream"}

// trapped: when a leader proposes to expire a session, its node is heard again at
// once, and the leader loses its office, wins it again and writes the proposal then.
func (w *world) trapped(s *server, session string) bool {
	n, known := w.check.sessions[session]
	if w.trap != "expiry" || !known {
		return false
	}
	w.trap = ""
	w.count("trap: leadership lost and won again between an expiry and its entry")
	w.mend(n.proc, w.serverProcs())
	other := w.servers[(s.log.rng.below(2)+1+w.placeOf(s))%len(w.servers)]
	w.after(20*time.Millisecond, func() { w.transfer(other) })
	w.after(150*time.Millisecond, func() { w.transfer(s) })
	return true
}

// trapRenewal: a renewal comes so late that the deadline passes while its confirm
// is on the way.
func (w *world) trapRenewal(s *server, l *leading, r api.Renewal) {
	if w.trap != "renewal" || !l.on {
		return
	}
	leases, _ := l.ledger.Leading(s.state, s.clock())
	for _, x := range leases {
		if left := time.Duration(x.LeftMS) * time.Millisecond; x.Session == r.Session && left < 3*time.Second {
			w.trap = ""
			w.count("trap: a deadline passes while a renewal is being confirmed")
			s.stalled = w.now + left*5/4 + 100*time.Millisecond
		}
	}
}

// trapAnswer: a node asks for its lease and is stopped before it hears.
func (n *node) trapAnswer() {
	if n.w.trap != "answer" || !n.rng.oneIn(3) {
		return
	}
	n.w.trap = ""
	n.w.count("trap: a node is stopped between a renewal and its answer")
	d := n.w.trapFor
	n.w.after(500*time.Microsecond, func() { n.w.pauseNode(n, d) })
}

// trapWord: a target says ready, closes its session and gets an empty disk; the word
// arrives when its next process has opened another.
func (n *node) trapWord(e fsm.Envelope) bool {
	if n.w.trap != "word" {
		return false
	}
	n.w.trap = ""
	n.w.count("trap: a word comes after its node has got an empty disk")
	n.w.after(0, func() { n.w.shutdown(n, 0, true) })
	n.late = &e
	return true
}

// sayLate has that word arrive when the next process has just opened its session,
// and has not said yet that it does not have what was staged.
func (n *node) sayLate() {
	if n.late == nil {
		return
	}
	e := *n.late
	n.late = nil
	s := n.w.servers[n.rng.below(len(n.w.servers))]
	n.w.send(n.w.operator, s.proc, func() { s.command(e, func(any) {}) })
}

// trapShip: from now on one server learns nothing more, and so sees the move run
// for ever.
func (n *node) trapShip() {
	if n.w.trap != "stream" {
		return
	}
	n.w.trap = "stream again"
	for _, s := range n.w.servers {
		if s != n.w.log.leader && s.alive && !s.paused {
			n.w.behind = s
		}
	}
	if s := n.w.behind; s != nil {
		n.w.after(15*time.Millisecond, func() { n.w.cutOff(s.proc, n.w.serverProcs(), false, 14*time.Second) })
	}
}

// trapStream: a node has promoted a slice and starts anew; it sees only the server
// that lags, and the stream comes again.
func (n *node) trapStream(move string) {
	last, known := n.w.streams[move]
	if n.w.trap != "stream again" || !known {
		return
	}
	n.w.trap = ""
	n.w.count("trap: a stream comes again after its promotion")
	var others []*proc
	for _, s := range n.w.servers {
		if s != n.w.behind {
			others = append(others, s.proc)
		}
	}
	n.w.after(time.Second, func() {
		n.w.crashNode(n, 100*time.Millisecond)
		n.w.cutOff(n.proc, others, false, 8*time.Second)
	})
	for i := range 14 {
		n.w.after(2*time.Second+time.Duration(i)*500*time.Millisecond, func() {
			n.w.send(n.w.operator, n.proc, func() { n.stage(move, last.stream+i*100_000, true, last.data, true, last.data.manifest()) })
		})
	}
}

func (w *world) placeOf(s *server) int {
	for i, o := range w.servers {
		if o == s {
			return i
		}
	}
	return 0
}

// transfer hands leadership over.
func (w *world) transfer(to *server) {
	from := w.log.leader
	if to == from || !to.alive || to.paused || !to.hasMajority() || from == nil || !from.alive || from.paused {
		return
	}
	w.count("leadership transferred")
	from.stepDown()
	w.log.elect(to)
}
