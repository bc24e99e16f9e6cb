package agent

import (
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// DefaultGrace passes between a flip and the deletion of the source's copy, so
	// that an operator who finds the move was a mistake still has it.
	DefaultGrace = time.Hour

	// again is how long an unanswered or refused step is left alone before it is
	// tried again.
	again = time.Second
)

// Config is what a node is.
type Config struct {
	Node     scope.NodeID
	Identity string // of its data dir, random, as old as the data
	Times    api.Leases
	Grace    time.Duration // between a flip and the deletion of the old copy; 0 is [DefaultGrace]
	Stripes  int           // of each count of writes; about the number of cores
	// RefuseUnknown refuses keys that no scope holds, which are accepted otherwise.
	RefuseUnknown bool
}

// State is the node's side at one time. It is an immutable value; [New] makes the
// first one, [Step] every other.
type State struct {
	cfg     Config
	now     time.Duration
	view    View
	partial *View // a snapshot of which more lines follow
	stream  uint64
	on      bool          // the stream is
	watchAt time.Duration // when to watch again, while none is
	fresh   bool          // watch from a snapshot
	stale   bool          // the view is of another incarnation than the cluster is in
	heard   time.Duration // when a server last confirmed the view; before the first, when the state began
	goal    goal
	session session
	lost    string // the session before
	lease   lease
	marks   marks
	staging []string // moves that have unsealed records here, sorted
	targets []target
	sources []source
	looked  scope.Index[Move] // the running moves when sources were last served
	missed  scope.Index[Move] // and when this process last looked for slices that it does not have
	chores  chores
	closing closing
	fault   string
	rules   *Rules
	parted  scope.Index[struct{}] // prefixes of gates that the node does not own now
	// published is the stamp of what rules were made from.
	published stamp
}

// stamp is what the rules were last made from, where it is cheap to compare.
type stamp struct {
	index   uint64
	session string
	closing bool
	until   time.Duration
}

// Event is something that happened to the node: one of the types below.
type Event interface{ event() }

// Effect is something to be done, by whoever runs the node. Effects of one step
// are begun in their order; but for [Publish], which is done at once, they take
// their time and report back by an [Event].
type Effect interface{ effect() }

// Tick says that time has passed, see [State.Due].
type Tick struct{}

// Step returns the state after an event and what is to be done. now is the node's
// CLOCK_BOOTTIME, from any origin that stays the same for the process.
func Step(s State, now time.Duration, e Event) (State, []Effect) {
	t := &step{State: s}
	t.now = max(s.now, now)
	switch e := e.(type) {
	case Watched:
		t.watched(e)
	case Opened:
		t.opened(e)
	case OpenFailed:
		t.openFailed(e)
	case Renewed:
		t.renewed(e)
	case RenewFailed:
		t.renewFailed(e)
	case Shutdown:
		t.closing.asked = true
	case Closed:
		t.closed(e)
	case Tick:
	default:
		t.moveEvent(e)
	}
	t.decide()
	return t.State, t.effects
}

func (Tick) event() {}

// step builds the next state.
type step struct {
	State
	effects  []Effect
	touched  []scope.Prefix // scopes of which the record, or a mark, changed in this step
	replaced bool           // all scopes did: another view was installed
	marked   bool           // what is sealed, or being sealed, changed
	chored   bool           // a deletion ended
}

func (t *step) do(e Effect) { t.effects = append(t.effects, e) }

// decide looks at everything the node has to do. The rules are made first, and
// published before anything else begins: who asks for a drain must have closed the
// scope.
func (t *step) decide() {
	asked := t.effects // by the event itself; this waits for the rules too
	t.effects = nil
	t.checkSession()
	t.publish()
	t.effects = append(t.effects, asked...)
	t.follow()
	t.watch()
	t.open()
	t.renew()
	t.settleMarks()
	t.serveSources()
	t.missSlices()
	t.serveTargets()
	t.serveChores()
	t.close()
}

// New returns the state of a process that has just started, with what its data
// dir holds of earlier moves. Unsealed staging of an earlier process is deleted
// before: its streams are gone. The first Step, of any event, begins to watch.
func New(cfg Config, now time.Duration, held []Mark) State {
	cfg.Stripes = max(1, cfg.Stripes)
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	// Nothing was looked at yet at this time, so that the watch is due.
	s := State{cfg: cfg, now: now - 1, watchAt: now, heard: now, fresh: true}
	for _, m := range held {
		s.marks = s.marks.with(m)
	}
	s.rules = &Rules{node: cfg.Node, marks: s.marks, unknown: newGate(cfg.Stripes), refuseUnknown: cfg.RefuseUnknown,
		arriving: arriving(cfg.Node, View{}, s.marks)}
	return s
}

// View is what the node knows of the registry.
func (s State) View() View { return s.view }

// Session is the id of the open session, "" if there is none.
func (s State) Session() string { return s.session.id }

// Ready reports whether the node may admit writes, leases aside: its session is
// open, its own view shows it, and the node is not closing.
func (s State) Ready() bool {
	return s.session.id != "" && s.session.seen && !s.closing.asked && s.fault == ""
}

// Heard is when a server last said that it knows nothing newer than the view, on the clock of [Step]; when the state began
// if none has yet.
func (s State) Heard() time.Duration { return s.heard }

// LeaseUntil is when the lease ends on the node's clock; 0 if it has none.
func (s State) LeaseUntil() time.Duration { return s.lease.valid(s.view.index) }

// Fault says what keeps the node from serving although it could, "" if nothing
// does.
func (s State) Fault() string { return s.fault }

// Stopped reports whether a shutdown is complete.
func (s State) Stopped() bool { return s.closing.done }

// Due is when the next [Tick] has something to do, on the node's clock; 0 is not
// before the next event. It is later than the last step: that one did whatever
// was due, and what it left waits for an event, such as a session, not for time.
func (s State) Due() time.Duration {
	due := time.Duration(0)
	at := func(d time.Duration) {
		if d > s.now && (due == 0 || d < due) {
			due = max(d, 1) // 0 is none
		}
	}
	if !s.on {
		at(s.watchAt)
	} else if s.goal.index > 0 {
		at(s.goal.overdue(s.cfg.Times))
	}
	if !s.closing.asked {
		at(s.session.tryAt)
	}
	if !s.closing.said {
		at(s.lease.renewAt)
	} else if !s.closing.done {
		at(s.closing.sayAt)
	}
	for _, x := range s.sources {
		at(x.sayAt)
	}
	for _, x := range s.targets {
		at(x.sayAt)
	}
	at(s.chores.next)
	return due
}

// publish makes new rules when something that they rest on has changed.
func (t *step) publish() {
	now := stamp{index: t.view.index, closing: t.closing.asked, until: t.lease.valid(t.view.index)}
	if t.session.seen && t.fault == "" && !t.closing.said {
		now.session = t.session.id
	}
	if now == t.published && len(t.touched) == 0 && !t.replaced && !t.marked {
		return
	}
	t.published = now
	r := *t.rules
	t.forgetGates(&r)
	t.renewUnknown(&r)
	t.noteRetired(&r)
	if t.replaced {
		t.placeAll(&r)
	}
	for _, p := range t.touched {
		t.place(&r, p)
	}
	if t.replaced || t.marked || r.view.moves != t.view.moves {
		r.arriving = arriving(t.cfg.Node, t.view, t.marks)
	}
	r.view, r.marks, r.sealing = t.view, t.marks, t.sealingMoves()
	r.session, r.closing, r.until = now.session, now.closing, now.until
	t.rules = &r
	t.do(Publish{&r})
}

// arriving are the prefixes of slices that come to this node, from the begin of
// their move until they are in force, or discarded.
func arriving(node scope.NodeID, v View, held marks) (out scope.Index[struct{}]) {
	for m := range v.Moves() {
		if m.To == node && m.Mode == migration.Agent {
			out = out.With(m.Prefix, struct{}{})
		}
	}
	for _, m := range held {
		if !m.Promoted {
			out = out.With(m.Prefix, struct{}{})
		}
	}
	return out
}

// placeAll begins anew with another view. Writes that entered before count on: a
// scope keeps its gate while any is under way.
func (t *step) placeAll(r *Rules) {
	r.places = scope.Index[*place]{}
	for s := range t.view.scopes.Scopes() {
		if s.Owner == t.cfg.Node {
			t.place(r, s.Prefix)
		}
	}
	for p := range r.gates.All() {
		if _, owned := r.places.Get(p); !owned {
			t.parted = t.parted.With(p, struct{}{})
		}
	}
}

// forgetGates lets go of the counts of scopes that the node does not own any more,
// once no write counts there. That it reads a count does not make Step less of a
// function: a gate that is let go is idle for good, so that no answer and no effect
// depends on when that happens. The rules in force are looked at, not those that
// are being made: only in a scope that they do not place nobody can enter and stay.
func (t *step) forgetGates(r *Rules) {
	for p := range t.parted.All() {
		_, owned := t.rules.places.Get(p)
		g, counts := r.gates.Get(p)
		switch {
		case owned || !counts:
			t.parted = t.parted.Without(p)
		case g.idle():
			t.parted, r.gates = t.parted.Without(p), r.gates.Without(p)
		}
	}
}

// place notes whether and how the node owns a scope.
func (t *step) place(r *Rules, p scope.Prefix) {
	s, declared := t.view.scopes.Get(p)
	if !declared || s.Owner != t.cfg.Node {
		r.places = r.places.Without(p)
		if _, counts := r.gates.Get(p); counts {
			t.parted = t.parted.With(p, struct{}{})
		}
		return
	}
	g, known := r.gates.Get(p)
	if !known {
		g = newGate(t.cfg.Stripes)
		r.gates = r.gates.With(p, g)
	}
	_, waits := t.marks.awaited(p)
	r.places = r.places.With(p, &place{scope: s, token: Token{t.view.incarnation, s.Epoch}, gate: g,
		needsLease: s.NeedsLease(), closed: t.view.Closed(s) || waits})
}

// noteRetired notes that a scope went, or may have: a view that was installed
// whole does not tell what was between.
func (t *step) noteRetired(r *Rules) {
	if t.replaced {
		r.retired = t.view.index
	}
	for _, p := range t.touched {
		if _, declared := t.view.scopes.Get(p); !declared {
			r.retired = t.view.index
		}
	}
}

// renewUnknown counts writes of keys that no scope holds in another gate when
// other prefixes are declared: those under way may be of keys that a scope holds
// now, which then waits for them. Once for all changes of a step: the gate that is
// still in force may be entered until the rules are published, so that it must not
// be looked at, and dropped as idle, before.
func (t *step) renewUnknown(r *Rules) {
	declared := t.replaced
	for _, p := range t.touched {
		_, known := r.view.scopes.Get(p)
		declared = declared || !known
	}
	if declared && r.view.index > 0 && !t.cfg.RefuseUnknown {
		r.older = append(busy(r.older), r.unknown)
		r.unknown = newGate(t.cfg.Stripes)
	}
}
