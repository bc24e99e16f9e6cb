package sim

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// log is what Raft promises, without its messages: one sequence of entries that
// a majority has. Who is leader, which entries of an old leader live on, and how
// late each server learns of them, is drawn.
type log struct {
	w       *world
	rng     *rng
	index   uint64 // of the last committed entry, also one that is no command
	states  map[uint64]version
	last    fsm.State
	term    uint64
	leader  *server // the real one, or nil
	flight  []*entry
	silent  int               // how often in a row the leader was not heard
	applied map[string]uint64 // request id → index at which it took effect
}

// version is the state after an entry.
type version struct {
	state  fsm.State
	events []fsm.Event
	data   []byte
	term   uint64
}

// entry was handed to Raft by a leader and is not committed yet.
type entry struct {
	data     []byte // nil is a barrier
	commands []fsm.Envelope
	term     uint64
	done     func(index uint64, results []*fsm.Result) // at the leader that proposed it, if it lives on as leader
	lost     func()
}

func newLog(w *world) *log {
	return &log{w: w, rng: newRng(w.seed, 2), states: map[uint64]version{}, applied: map[string]uint64{}}
}

// propose hands an entry to Raft at a server that takes itself for the leader.
func (g *log) propose(s *server, e *entry) {
	e.term = s.term
	if g.leader != s || g.term != s.term {
		// A leader that was deposed and does not know: nothing comes of it, or
		// rather nobody will ever know at this server.
		g.w.count("proposal at a stale leader")
		s.after(g.rng.between(100*time.Millisecond, 2*time.Second), e.lost)
		return
	}
	g.flight = append(g.flight, e)
	s.after(g.rng.between(time.Millisecond, 12*time.Millisecond), func() { g.commit(s, e) })
}

// commit is the leader's: a majority has the entry, and so all before it.
func (g *log) commit(s *server, e *entry) {
	if g.leader != s || g.term != e.term {
		return // its fate was decided when the next leader came
	}
	if !s.hasMajority() || g.w.now < s.stalled {
		s.after(g.rng.between(50*time.Millisecond, 150*time.Millisecond), func() { g.commit(s, e) })
		return
	}
	for len(g.flight) > 0 {
		head := g.flight[0]
		g.flight = g.flight[1:]
		index, results := g.append(head)
		s.after(0, func() {
			s.apply(index)
			head.done(index, results)
		})
		if head == e {
			break
		}
	}
	g.replicate()
}

// append commits one entry.
func (g *log) append(e *entry) (uint64, []*fsm.Result) {
	g.index++
	if e.data == nil {
		return g.index, nil
	}
	before := g.last
	state, results, events, err := before.ApplyEntry(g.index, e.term, e.data)
	if err != nil {
		g.w.fail("I6", "entry %d does not apply: %v", g.index, err)
		return g.index, nil
	}
	if state.Index() != g.index {
		g.w.fail("I5", "after entry %d the state says that it is at index %d: who waits for it waits for ever", g.index, state.Index())
	}
	g.put(version{state, events, e.data, e.term})
	g.w.check.applied(before, state, e, results, events)
	return g.index, results
}

// put makes a state that of the newest index.
func (g *log) put(v version) {
	g.last = v.state
	g.states[g.index] = v
	if err := v.state.Check(); err != nil {
		g.w.fail("check", "at index %d: %v", g.index, err)
	}
}

// elect makes a server the leader. Of what the one before had under way, the
// first few entries are with the new one; the rest is gone.
func (g *log) elect(s *server) {
	keep := g.rng.below(len(g.flight) + 1)
	for i, e := range g.flight {
		if i < keep {
			g.w.count("entry of a deposed leader committed")
			g.append(e)
		} else {
			g.w.count("entry of a deposed leader lost")
		}
	}
	old := g.leader
	for _, e := range g.flight {
		if old != nil {
			old.after(g.rng.between(0, time.Second), e.lost)
		}
	}
	g.flight = nil
	g.term++
	g.leader = s
	g.index++ // the new leader's no-op
	g.w.count("election")
	g.w.note("%s leads in term %d", s.name, g.term)
	s.becomeLeader(g.term)
	for _, o := range g.w.servers {
		if o != s {
			o.hearOfLeader(s, g.term)
		}
	}
	g.replicate()
}

// replicate has every server that the leader reaches learn of all entries.
func (g *log) replicate() {
	for _, s := range g.w.servers {
		if s != g.leader {
			g.feed(s)
		}
	}
}

func (g *log) feed(s *server) {
	l := g.leader
	if l == nil || !l.alive || !s.alive || g.w.cut(l.proc, s.proc) {
		return
	}
	index := g.index
	s.after(g.rng.between(2*time.Millisecond, 25*time.Millisecond), func() {
		s.apply(index)
		s.ready = true
	})
}

// restore puts a backup in place of the newest state: at the next index, or where
// a fresh cluster that was founded on the backup goes on, at an index that was used
// before.
func (g *log) restore(backup fsm.State, r fsm.Restoration, fresh bool) error {
	r.Index = g.index + 1
	if fresh {
		r.Index = backup.Index() + 1
	}
	state, events, err := backup.Restored(r)
	if err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	if fresh {
		g.w.count("restore into a fresh cluster")
		for i := r.Index; i <= g.index; i++ {
			delete(g.states, i)
		}
	}
	g.index = r.Index
	g.put(version{state: state})
	g.w.check.restored(state, events)
	g.w.note("restored index %d as incarnation %d %s at %d, in a fresh cluster: %v", backup.Index(), r.Incarnation, r.Tag, g.index, fresh)
	for _, s := range g.w.servers {
		s.floorNext = g.index
		if fresh {
			s.begin(g.index, state)
		}
	}
	if fresh {
		g.flight, g.leader, g.silent = nil, nil, 2
		return nil
	}
	g.replicate()
	if g.leader != nil {
		g.leader.apply(g.index)
	}
	return nil
}

// answer is what a server says to a command.
type answer struct {
	result  *fsm.Result
	code    api.Code // of a refusal; "" is applied
	unknown bool
}
