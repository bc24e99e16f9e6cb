package sim

import (
	"errors"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

// server is one server of the cluster.
type server struct {
	*proc
	log        *log
	applied    uint64
	state      fsm.State
	floor      uint64 // watchers cannot resume before it
	floorNext  uint64 // an index at which a restore stands
	ready      bool   // has caught up since it started
	belief     *server
	term       uint64 // in which it leads, or led
	lead       *leading
	waiting    []func() bool // each is asked after an entry, until it is true
	streams    []*stream
	countsFrom time.Duration // no deadline that it counts began before: it was elected, or paused for long
	stalled    time.Duration // nothing is committed until then
}

// leading is one term of a leader, the shell around the ledger as the registry
// has it.
type leading struct {
	ledger fsm.Ledger
	on     bool // confirmed: the ledger counts
	busy   bool // directives are being written
	tickAt time.Duration
}

// hasMajority reports whether another server hears this one.
func (s *server) hasMajority() bool {
	n := 1
	for _, o := range s.w.servers {
		if o != s && o.alive && !o.paused && !s.w.cut(s.proc, o.proc) && !s.w.cut(o.proc, s.proc) {
			n++
		}
	}
	return n > len(s.w.servers)/2
}

func (s *server) leads() bool { return s.lead != nil }

// begin has the server start anew with a state, as one of a fresh cluster.
func (s *server) begin(index uint64, state fsm.State) {
	s.applied, s.state, s.floor = index, state, index
	s.lead, s.belief, s.ready, s.waiting = nil, nil, false, nil
	for _, x := range s.streams {
		x.end("")
	}
	s.streams = nil
}

// apply brings the server's state to an index, entry by entry.
func (s *server) apply(to uint64) {
	to = min(to, s.log.index) // it may be from before a restore
	for i := s.applied + 1; i <= to; i++ {
		v, ok := s.log.states[i]
		s.applied = i
		if !ok {
			continue
		}
		s.state = v.state
		if i == s.floorNext {
			s.floor = i
			for _, x := range s.streams {
				x.end(api.Compacted)
			}
			s.streams = nil
		}
		for _, x := range s.streams {
			x.item(i, v)
		}
	}
	keep := s.waiting[:0]
	for _, done := range s.waiting {
		if !done() {
			keep = append(keep, done)
		}
	}
	s.waiting = keep
	if s.leads() {
		s.wakeLeader(0)
	}
}

func (s *server) becomeLeader(term uint64) {
	s.term, s.belief, s.lead, s.countsFrom = term, s, &leading{}, s.w.now
	s.apply(s.log.index)
	s.ready = true
	l := s.lead
	s.confirm(l, func() {
		l.ledger = fsm.NewLedger(s.w.times, term)
		l.on = true
		s.tick(l)
	})
}

// hearOfLeader tells a server that another one leads, once that reaches it.
func (s *server) hearOfLeader(l *server, term uint64) {
	var hear func()
	hear = func() {
		if s.log.term != term || s.log.leader != l || !s.alive || s.paused {
			return // one that is stopped hears a while after it goes on
		}
		if s.w.cut(l.proc, s.proc) || !l.alive {
			s.w.after(200*time.Millisecond, hear)
			return
		}
		s.stepDown()
		s.belief = l
		s.log.feed(s)
	}
	s.w.after(s.rng.between(time.Millisecond, 100*time.Millisecond), hear)
}

func (s *server) stepDown() {
	if s.leads() {
		s.w.note("%s does not lead any more", s.name)
	}
	s.lead = nil
}

// confirm writes a barrier and goes on once it is applied here, if this is still
// the same term of leading.
func (s *server) confirm(l *leading, then func()) {
	if s.lead != l {
		return
	}
	s.log.propose(s, &entry{done: func(uint64, []*fsm.Result) {
		if s.lead == l {
			then()
		}
	}, lost: func() {
		s.after(100*time.Millisecond, func() { s.confirm(l, then) })
	}})
}

// wakeLeader has the leader look at its state in a while.
func (s *server) wakeLeader(d time.Duration) {
	l := s.lead
	at := s.w.now + d
	if l == nil || !l.on || l.tickAt > s.w.now && l.tickAt <= at {
		return
	}
	l.tickAt = at
	s.after(d, func() {
		if s.lead == l && l.tickAt == at {
			s.tick(l)
		}
	})
}

// tick is one turn of the leader's loop.
func (s *server) tick(l *leading) {
	if s.lead != l || l.busy || !l.on {
		return
	}
	now := s.clock()
	if l.ledger.Late(now) {
		s.w.count("leader found its tick late")
		l.busy = true
		s.confirm(l, func() {
			l.busy = false
			l.ledger = l.ledger.Restart()
			s.look(l)
		})
		return
	}
	s.look(l)
}

func (s *server) look(l *leading) {
	var directives []fsm.Directive
	var due time.Duration
	now := s.clock()
	l.ledger, directives, due = fsm.Reconcile(s.state, l.ledger, now)
	commands := make([]fsm.Command, 0, len(directives))
	for _, d := range directives {
		commands = append(commands, d.Command())
	}
	if len(commands) == 0 {
		l.tickAt = 0
		if due > 0 {
			s.wakeLeader(max(s.real(due)-s.w.now, time.Millisecond))
		}
		return
	}
	l.busy = true
	left := len(commands)
	failed := false
	for _, c := range commands {
		s.w.count("directive " + kindOf(c))
		if x, ok := c.(*fsm.Expire); ok {
			s.w.check.proposedToExpire(s, x.GetSession())
		}
		s.submit(fsm.Envelope{RequestID: s.w.draw("dir"), Actor: "registry", Command: c}, func(a answer) {
			failed = failed || a.unknown || a.code != ""
			if left--; left > 0 || s.lead != l {
				return
			}
			l.busy = false
			pause := time.Duration(0)
			if failed {
				pause = 100 * time.Millisecond
			}
			l.tickAt = 0
			s.wakeLeader(pause)
		})
	}
}

// submit writes a command at a server that takes itself for the leader.
func (s *server) submit(e fsm.Envelope, reply func(answer)) {
	if !s.leads() {
		reply(answer{code: api.NoLeader})
		return
	}
	raw, err := e.Encode()
	if err != nil {
		var refusal *api.Error
		errors.As(err, &refusal)
		reply(answer{code: refusal.Code})
		return
	}
	data, err := fsm.EncodeEntry(int64(s.w.now/time.Millisecond)+1_000_000, [][]byte{raw})
	if err != nil {
		s.w.fail("check", "%v", err)
		return
	}
	s.after(s.queued(e), func() {
		if !s.leads() {
			reply(answer{code: api.NoLeader})
			return
		}
		s.log.propose(s, &entry{data: data, commands: []fsm.Envelope{e}, done: func(_ uint64, results []*fsm.Result) {
			if code := api.Code(results[0].GetCode()); code == api.Forbidden || code == api.Unauthenticated {
				s.w.fail("access", "%s was refused %T of its own: %s", e.Actor, e.Command, results[0].GetDetail())
			}
			reply(answer{result: results[0], code: api.Code(results[0].GetCode())})
		}, lost: func() { reply(answer{unknown: true}) }})
	})
}

// queued is how long a command waits for the entry before it. The leader may lose
// its office meanwhile, and win it again.
func (s *server) queued(e fsm.Envelope) time.Duration {
	if x, ok := e.Command.(*fsm.Expire); ok && s.w.trapped(s, x.GetSession()) {
		return s.rng.between(400*time.Millisecond, 3*time.Second)
	}
	if s.rng.oneIn(20) {
		return s.rng.between(0, 100*time.Millisecond)
	}
	return 0
}

// command is what a front end does: to the leader, one hop, and then it waits
// until this server has reached the result.
func (s *server) command(e fsm.Envelope, reply func(any)) {
	settle := func(a answer) {
		if a.result == nil || s.state.Index() >= a.result.GetIndex() {
			reply(a)
			return
		}
		s.waiting = append(s.waiting, func() bool {
			if s.state.Index() < a.result.GetIndex() {
				return false
			}
			reply(a)
			return true
		})
	}
	switch {
	case s.leads():
		s.submit(e, settle)
	case s.belief == nil:
		reply(answer{code: api.NoLeader})
	default:
		l := s.belief
		s.w.call(s.proc, l.proc, 3*time.Second, func(back func(any)) {
			l.submit(e, func(a answer) { back(a) })
		}, func(v any, ok bool) {
			if !ok {
				settle(answer{unknown: true})
				return
			}
			a, _ := v.(answer)
			settle(a)
		})
	}
}

// renewal is the leader's answer to a renewal.
type renewal struct {
	code  api.Code
	index uint64
}

// renew brings a renewal to the leader, which judges it after a confirm that
// began after its arrival.
func (s *server) renew(r api.Renewal, reply func(any)) {
	if l := s.lead; l != nil {
		s.judgeRenewal(l, r, reply)
		return
	}
	if s.belief == nil {
		reply(renewal{code: api.NoLeader})
		return
	}
	l := s.belief
	s.w.call(s.proc, l.proc, 2*time.Second, func(back func(any)) {
		if l.lead == nil {
			back(renewal{code: api.NoLeader})
			return
		}
		l.judgeRenewal(l.lead, r, back)
	}, func(v any, ok bool) {
		if ok {
			reply(v)
		} else {
			reply(renewal{code: api.Timeout})
		}
	})
}

func (s *server) judgeRenewal(l *leading, r api.Renewal, reply func(any)) {
	s.w.trapRenewal(s, l, r)
	s.confirm(l, func() {
		if !l.on {
			reply(renewal{code: api.NoLeader})
			return
		}
		// From here on one critical section with the ledger's expiries.
		var err error
		l.ledger, err = l.ledger.Renew(s.state, r, s.clock())
		out := renewal{index: s.state.Index()}
		if err != nil {
			out.code = api.CodeOf(err)
			s.w.count("renewal refused " + string(out.code))
		} else {
			s.w.count("renewal granted")
		}
		if l.ledger.Urgent() {
			s.wakeLeader(0)
		}
		reply(out)
	})
}

func (s *server) report(r api.Report) {
	to := s
	if !s.leads() {
		to = s.belief
	}
	if to == nil {
		return
	}
	s.w.send(s.proc, to.proc, func() {
		if l := to.lead; l != nil && l.on {
			next, err := l.ledger.Report(to.state, r, to.clock())
			if err != nil {
				to.w.count("report refused")
				return
			}
			l.ledger = next
			to.w.count("report taken")
			to.wakeLeader(0)
		}
	})
}

// stream is one watch of a node.
type stream struct {
	s    *server
	n    *node
	life int
	id   uint64
	from uint64
	last time.Duration // items arrive in their order
	over bool
}

// watch begins a stream to a node.
func (s *server) watch(n *node, id, from uint64) {
	x := &stream{s: s, n: n, life: n.life, id: id, from: from, last: s.w.now}
	switch {
	case !s.ready:
		x.end("")
		return
	case from == 0:
		x.snapshot()
	case from < s.floor:
		x.end(api.Compacted)
		return
	default:
		for i := from + 1; i <= s.applied; i++ {
			if v, ok := s.log.states[i]; ok {
				x.item(i, v)
			}
		}
	}
	s.streams = append(s.streams, x)
	x.beat()
}

func (x *stream) item(index uint64, v version) {
	if len(v.events) == 0 || index <= x.from {
		return
	}
	x.send(projected(index, v))
}

// snapshot sends the whole state, now and then in two lines.
func (x *stream) snapshot() {
	st := x.s.state
	all := snapshotOf(st)
	if cut := x.s.rng.below(2 * (len(all.Changes) + 1)); cut < len(all.Changes) {
		first := all
		first.Changes, first.More = all.Changes[:cut], true
		x.send(first)
		all.Changes = all.Changes[cut:]
	}
	x.from = st.Index()
	x.send(all)
}

func (x *stream) beat() {
	x.s.after(time.Second, func() {
		if x.over {
			return
		}
		if i := x.s.state.Index(); i >= x.from {
			x.send(view.Head("heartbeat", i, x.s.state.Cluster()))
		}
		x.beat()
	})
}

// send delivers in order. A cut breaks the stream, which its node finds out.
func (x *stream) send(item api.WatchItem) {
	if x.over {
		return
	}
	x.last = max(x.last, x.s.w.now) + x.s.w.net.between(100*time.Microsecond, 4*time.Millisecond)
	x.s.w.at(x.last, func() {
		switch {
		case x.n.life != x.life || !x.n.alive:
			x.over = true
		case x.s.w.cut(x.s.proc, x.n.proc):
			x.end("")
		default:
			x.n.do(x.life, func() { x.n.watched(x.id, item) })
		}
	})
}

// end tells the node that the stream is over.
func (x *stream) end(code api.Code) {
	if x.over {
		return
	}
	x.over = true
	x.n.proc.after(x.s.rng.between(time.Millisecond, 1500*time.Millisecond), func() {
		if x.n.life == x.life {
			x.n.watchEnded(x.id, code)
		}
	})
}

func projected(index uint64, v version) api.WatchItem {
	return view.Item(fsm.Item{Index: index, Events: v.events}, v.state.Cluster(), 0)
}

func snapshotOf(st fsm.State) api.WatchItem {
	c := st.Cluster()
	item := view.Head("snapshot", st.Index(), c)
	for e := range view.Records(st) {
		item.Changes = append(item.Changes, view.Change(e, c.Incarnation, 0))
	}
	return item
}
