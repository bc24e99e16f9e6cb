package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Drained answers an [AwaitDrain].
type Drained struct{ Move string }

// Progressed says how far the source's copying or shipping is.
type Progressed struct {
	Move                string
	Keys, Bytes         uint64 // sent so far
	KeysLeft, BytesLeft uint64 // estimated
}

// Shipped says that the target holds all records of the closed scope.
type Shipped struct {
	Move     string
	Manifest migration.Manifest // of the records sent, not of the live store
}

// ShipFailed says that the slice cannot be shipped, and why.
type ShipFailed struct{ Move, Reason string }

// Staging says that a stream of records for the move was accepted.
type Staging struct{ Move string }

// Received says that the last stream of a move is complete.
type Received struct {
	Move     string
	Manifest migration.Manifest // of the records received
}

// Sealed says that the staged slice and its [Mark] are durable.
type Sealed struct{ Mark Mark }

// Promoted says that the staged slice has replaced what the store held of the
// prefix, and that its mark says so, durably.
type Promoted struct{ Move string }

// Discarded says that the staging of a move is gone.
type Discarded struct{ Move string }

// Deleted says how the deletion of an old copy went.
type Deleted struct {
	Prefix scope.Prefix
	Epoch  uint64
	Done   bool // no record is left; else the rules in force did not allow to go on
}

func (Drained) event()    {}
func (Progressed) event() {}
func (Shipped) event()    {}
func (ShipFailed) event() {}
func (Staging) event()    {}
func (Received) event()   {}
func (Sealed) event()     {}
func (Promoted) event()   {}
func (Discarded) event()  {}
func (Deleted) event()    {}

// Slice is what moves: the records of a prefix, for one move.
type Slice struct {
	Move   string
	Prefix scope.Prefix
}

// AwaitDrain is answered once no write counts under the prefix and no delete runs
// there, see [Admission.Drained]. Without a move it is about all writes, see
// [Admission.Idle].
type AwaitDrain struct{ Slice }

// Copy sends the records to the target while the source goes on writing.
type Copy struct {
	Slice
	To scope.NodeID
}

// Ship sends what the target lacks of the scope, which is closed and drained.
type Ship struct {
	Slice
	To scope.NodeID
}

// StopShipping ends what Copy or Ship began.
type StopShipping struct{ Move string }

// Seal makes the staged slice, and the mark, durable.
type Seal struct{ Mark Mark }

// Promote replaces what the store holds of the prefix by the staged slice.
type Promote struct{ Slice }

// Discard deletes the staging of a move that ended without it, and its mark.
type Discard struct{ Move string }

// Delete deletes the old copy, each batch between [Admission.BeginDelete] and
// [Admission.EndDelete].
type Delete struct {
	Prefix scope.Prefix
	Epoch  uint64
}

// Tell reports progress to the registry.
type Tell struct{ Report api.Report }

// Say is something that goes into the log. It is repeated until the view shows
// what came of it.
type Say struct{ Word Word }

// Kind is what a word says.
type Kind uint8

// The words of a node.
const (
	SayShipped Kind = iota + 1
	SayReady
	SayAbort
	SayCleaned
	SayClose
)

// Word is what a node says, with the session it speaks by. What is empty does not
// belong to its kind.
type Word struct {
	Kind     Kind
	Session  string
	Move     string
	Manifest migration.Manifest // SayShipped, SayReady
	Reason   string             // SayAbort
	Prefix   scope.Prefix       // SayCleaned
	Epoch    uint64             // SayCleaned
}

func (AwaitDrain) effect()   {}
func (Copy) effect()         {}
func (Ship) effect()         {}
func (StopShipping) effect() {}
func (Seal) effect()         {}
func (Promote) effect()      {}
func (Discard) effect()      {}
func (Delete) effect()       {}
func (Tell) effect()         {}
func (Say) effect()          {}

// source is a move of a scope of this node to another one.
type source struct {
	Slice
	copying  bool
	draining bool
	shipping bool
	shipped  bool
	manifest migration.Manifest
	failed   string
	sayAt    time.Duration
}

// target is a move of another node's scope to this one, from its seal on.
type target struct {
	move      string
	sealing   bool
	promoting bool
	going     bool // its staging is being discarded
	sayAt     time.Duration
}

// moveEvent takes what became of the effects of a move.
func (t *step) moveEvent(e Event) {
	switch e := e.(type) {
	case WatchEnded:
		t.watchEnded(e)
	case Drained:
		t.drained(e)
	case Progressed:
		if t.Ready() {
			t.do(Tell{api.Report{Move: e.Move, Session: t.session.id, Keys: e.Keys, Bytes: e.Bytes, KeysLeft: e.KeysLeft, BytesLeft: e.BytesLeft}})
		}
	case Shipped:
		t.changeSource(e.Move, func(x *source) { x.shipped, x.manifest, x.sayAt = true, e.Manifest, t.now })
	case ShipFailed:
		t.changeSource(e.Move, func(x *source) { x.failed, x.sayAt = e.Reason, t.now })
	case Staging:
		if at, known := slices.BinarySearch(t.staging, e.Move); !known {
			t.staging = slices.Insert(slices.Clone(t.staging), at, e.Move)
		}
	case Received:
		t.received(e)
	case Sealed:
		t.sealed(e)
	case Promoted:
		t.promoted(e)
	case Discarded:
		t.discarded(e)
	case Deleted:
		t.deleted(e)
	}
}

// drained goes on with what waited. A scope that was opened again meanwhile does
// not come here: its wait ended with its move.
func (t *step) drained(e Drained) {
	if e.Move == "" {
		t.closing.said, t.closing.sayAt = t.closing.asked, t.now
		return
	}
	if mark, ok := t.marks.of(e.Move); ok && !mark.Promoted && t.flipped(mark) {
		t.do(Promote{Slice{mark.Move, mark.Prefix}})
		return
	}
	m, running := t.view.Move(e.Move)
	t.changeSource(e.Move, func(x *source) {
		if running && m.Phase == migration.Quiescing && x.draining && !x.shipping {
			x.shipping = true
			t.do(Ship{x.Slice, m.To})
		}
	})
}

func (t *step) changeSource(move string, change func(*source)) {
	for i := range t.sources {
		if t.sources[i].Move == move {
			t.sources = slices.Clone(t.sources)
			change(&t.sources[i])
			return
		}
	}
}

// serveSources does what the running moves away from this node need.
func (t *step) serveSources() {
	var next []source
	for m := range t.view.Moves() {
		if m.From != t.cfg.Node || m.Mode != migration.Agent {
			continue
		}
		x := source{Slice: Slice{m.ID, m.Prefix}}
		if at := slices.IndexFunc(t.sources, func(o source) bool { return o.Move == m.ID }); at >= 0 {
			x = t.sources[at]
		}
		t.serveSource(m, &x)
		next = append(next, x)
	}
	for _, x := range t.sources {
		if _, running := t.view.Move(x.Move); !running && (x.copying || x.shipping) {
			t.do(StopShipping{x.Move})
		}
	}
	t.sources = next
}

func (t *step) serveSource(m Move, x *source) {
	if _, waits := t.marks.awaited(m.Prefix); waits {
		return // what this node holds of the scope is not complete yet
	}
	switch {
	case x.failed != "":
		t.sayAt(&x.sayAt, Word{Kind: SayAbort, Move: m.ID, Reason: x.failed})
	case m.Phase == migration.Copying && !x.copying:
		x.copying = true
		t.do(Copy{x.Slice, m.To})
	case m.Phase == migration.Quiescing && !x.draining:
		x.draining = true
		t.do(AwaitDrain{x.Slice})
	case m.Phase == migration.Quiescing && x.shipped:
		t.sayAt(&x.sayAt, Word{Kind: SayShipped, Move: m.ID, Manifest: x.manifest})
	default:
		x.sayAt = 0
	}
}

// sayAt says a word when its time has come, and sets the time to repeat it.
func (t *step) sayAt(at *time.Duration, w Word) {
	if t.now < *at || !t.Ready() {
		return
	}
	*at = t.now + again
	w.Session = t.session.id
	t.do(Say{w})
}

func (t *step) targetOf(move string) target {
	if at := slices.IndexFunc(t.targets, func(o target) bool { return o.move == move }); at >= 0 {
		return t.targets[at]
	}
	return target{move: move}
}

func (t *step) putTarget(x target) {
	out := slices.DeleteFunc(slices.Clone(t.targets), func(o target) bool { return o.move == x.move })
	t.targets = append(out, x)
}

func (t *step) dropTarget(move string) {
	t.targets = slices.DeleteFunc(slices.Clone(t.targets), func(o target) bool { return o.move == move })
}

// received seals the slice, if its move still runs.
func (t *step) received(e Received) {
	m, running := t.view.Move(e.Move)
	_, marked := t.marks.of(e.Move)
	x := t.targetOf(e.Move)
	if !running || marked || x.sealing || m.To != t.cfg.Node {
		return
	}
	x.sealing = true
	t.putTarget(x)
	t.do(Seal{Mark{Move: m.ID, Prefix: m.Prefix, Manifest: e.Manifest}})
}

func (t *step) sealed(e Sealed) {
	t.staging = slices.DeleteFunc(slices.Clone(t.staging), func(id string) bool { return id == e.Mark.Move })
	t.setMark(e.Mark)
	t.putTarget(target{move: e.Mark.Move, sayAt: t.now})
}

func (t *step) setMark(m Mark) {
	t.marks = t.marks.with(m)
	t.touchMarked(m)
}

// touchMarked has the scopes judged again that a mark keeps closed.
func (t *step) touchMarked(m Mark) {
	for s := range t.view.scopes.Under(m.Prefix, "") {
		t.touched = append(t.touched, s.Prefix)
	}
	if s, ok := t.view.scopes.Overlapping(m.Prefix); ok {
		t.touched = append(t.touched, s.Prefix)
	}
}

func (t *step) promoted(e Promoted) {
	if m, ok := t.marks.of(e.Move); ok {
		m.Promoted = true
		t.setMark(m)
	}
	t.dropTarget(e.Move)
}

func (t *step) discarded(e Discarded) {
	t.staging = slices.DeleteFunc(slices.Clone(t.staging), func(id string) bool { return id == e.Move })
	if m, ok := t.marks.of(e.Move); ok && !m.Promoted {
		t.marks = t.marks.without(e.Move)
		t.touchMarked(m)
	}
	t.dropTarget(e.Move)
}

// flipped reports whether the move of a sealed slice gave this node the tenure
// that it has now.
func (t *step) flipped(m Mark) bool {
	flip, ok := t.view.Flip(m.Prefix)
	return ok && flip.ID == m.Move && flip.To == t.cfg.Node
}

// settleMarks decides what becomes of sealed slices whose move has ended. It
// waits for a session: a view from before the seal knows nothing of its move, and
// the slice may be the only copy.
func (t *step) settleMarks() {
	for _, id := range t.staging {
		if _, running := t.view.Move(id); !running {
			t.discard(id)
		}
	}
	if !t.Ready() {
		return
	}
	for _, m := range t.marks {
		_, running := t.view.Move(m.Move)
		switch {
		case m.Promoted || running || t.doubtful(m):
		case t.flipped(m):
			if x := t.targetOf(m.Move); !x.promoting {
				x.promoting, x.sayAt = true, 0
				t.putTarget(x)
				t.do(AwaitDrain{Slice{m.Move, m.Prefix}})
			}
		default:
			t.discard(m.Move)
		}
	}
}

// doubtful reports whether the registry may have forgotten how the move ended: the
// node is owner and writer of the scope, and nothing that is kept gave it to it.
// Then the scope stays closed here until somebody decides.
func (t *step) doubtful(m Mark) bool {
	s, ok := t.view.scopes.Get(m.Prefix)
	_, known := t.view.flips.Get(m.Prefix)
	return ok && s.Owner == t.cfg.Node && s.Writer == t.cfg.Node && !known
}

// Doubtful yields the moves whose sealed slices keep their scopes closed, since
// the registry does not remember how they ended.
func (s State) Doubtful() []string {
	t := &step{State: s}
	var out []string
	for _, m := range s.marks {
		if _, running := s.view.Move(m.Move); !m.Promoted && !running && s.Ready() && t.doubtful(m) {
			out = append(out, m.Move)
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}

func (t *step) discard(move string) {
	if x := t.targetOf(move); !x.going && !x.sealing {
		x.going, x.sayAt = true, 0
		t.putTarget(x)
		t.do(Discard{move})
	}
}

// serveTargets says ready for what is sealed, once the source has said shipped.
func (t *step) serveTargets() {
	for _, mark := range t.marks {
		m, running := t.view.Move(mark.Move)
		if !running || m.Phase != migration.Shipped || m.To != t.cfg.Node || mark.Promoted {
			continue
		}
		x := t.targetOf(mark.Move)
		t.sayAt(&x.sayAt, Word{Kind: SayReady, Move: mark.Move, Manifest: mark.Manifest})
		t.putTarget(x)
	}
}

// chore is an old copy that this node has to delete.
type chore struct {
	prefix  scope.Prefix
	epoch   uint64
	at      time.Duration // when to go on; 0 while it is being deleted
	running bool
	done    bool
}

// serveChores deletes old copies, a grace time after the node learnt of them.
func (t *step) serveChores() {
	var next []chore
	for c := range t.view.Cleanups(t.cfg.Node) {
		x := chore{prefix: c.Prefix, epoch: c.Epoch, at: t.now + t.cfg.Grace}
		if at := slices.IndexFunc(t.chores, func(o chore) bool { return o.prefix == c.Prefix && o.epoch == c.Epoch }); at >= 0 {
			x = t.chores[at]
		}
		_, waits := t.marks.awaited(c.Prefix)
		switch {
		case x.done:
			t.sayAt(&x.at, Word{Kind: SayCleaned, Prefix: c.Prefix, Epoch: c.Epoch, Move: c.Move})
		case !x.running && t.now >= x.at && !waits && t.Ready():
			x.running, x.at = true, 0
			t.do(Delete{c.Prefix, c.Epoch})
		}
		next = append(next, x)
	}
	t.chores = next
}

func (t *step) deleted(e Deleted) {
	t.chores = slices.Clone(t.chores)
	for i := range t.chores {
		if x := &t.chores[i]; x.prefix == e.Prefix && x.epoch == e.Epoch {
			x.running, x.done, x.at = false, e.Done, t.now
			if !e.Done {
				x.at = t.now + again
			}
		}
	}
}
