package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/migration"
)

// keptPromoted bounds the marks of promoted slices. A mark keeps old records from
// coming again, by a stream, over newer ones; but a stream is taken only while a
// session is open and the view, which has reached its opening, shows the move
// running. A promoted slice was flipped before its mark was made, and any session
// of a later process is opened after that, so that no view which counts shows the
// move running again, in this incarnation; in a later one it was aborted or is
// done. So any of them may go, and those that are kept are a second line, for a
// runner that asks too little. All of them would grow without end, and each step
// looks at them. Kept for ever they would also refuse a new move whose id the
// registry has forgotten.
const keptPromoted = 64

// doing is the effect of a move to this node that is under way: never two at once,
// as each of them touches the staged slice.
type doing uint8

const (
	nothing    doing = iota
	sealing          // Seal
	draining         // AwaitDrain, before Promote
	promoting        // Promote
	discarding       // Discard
)

// target is a move of another node's scope to this one, from its seal on, or one
// that failed.
type target struct {
	Slice
	doing  doing
	failed string
	sayAt  time.Duration
}

func (t *step) targetOf(move string) target {
	if at := slices.IndexFunc(t.targets, func(o target) bool { return o.Move == move }); at >= 0 {
		return t.targets[at]
	}
	return target{Slice: Slice{Move: move}}
}

func (t *step) putTarget(x target) {
	t.dropTarget(x.Move) // which makes a list of its own
	t.targets = append(t.targets, x)
}

func (t *step) dropTarget(move string) {
	t.targets = slices.DeleteFunc(slices.Clone(t.targets), func(o target) bool { return o.Move == move })
}

// sealingMoves are those whose slices are being sealed, in the order of ids.
func (t *step) sealingMoves() []string {
	var out []string
	for _, x := range t.targets {
		if x.doing == sealing {
			out = append(out, x.Move)
		}
	}
	slices.Sort(out)
	return out
}

// stagingBegan notes what is to be discarded if its move ends unsealed. Of a move
// with a mark there is nothing: what comes late is about a stream before the seal.
func (t *step) stagingBegan(e Staging) {
	_, marked := t.marks.of(e.Move)
	if at, known := slices.BinarySearch(t.staging, e.Move); !known && !marked {
		t.staging = slices.Insert(slices.Clone(t.staging), at, e.Move)
	}
}

// received seals the slice, if its move still runs.
func (t *step) received(e Received) {
	m, running := t.view.Move(e.Move)
	_, marked := t.marks.of(e.Move)
	x := t.targetOf(e.Move)
	if !running || marked || x.doing != nothing || x.failed != "" || m.To != t.cfg.Node || m.Mode != migration.Agent {
		return
	}
	x.Prefix, x.doing = m.Prefix, sealing
	t.putTarget(x)
	t.marked = true // the rules must refuse a second stream from here on
	t.do(Seal{Mark{Move: m.ID, Prefix: m.Prefix, Manifest: e.Manifest, Incarnation: t.view.incarnation, Ended: t.view.ended}})
}

// sealed takes a mark once: said twice it would undo a promotion, and the slice
// would come over what was written since.
func (t *step) sealed(e Sealed) {
	x := t.targetOf(e.Mark.Move)
	if x.doing != sealing {
		return
	}
	t.unstage(e.Mark.Move)
	t.setMark(e.Mark)
	x.doing, x.sayAt = nothing, t.now
	t.putTarget(x)
}

func (t *step) unstage(move string) {
	t.staging = slices.DeleteFunc(slices.Clone(t.staging), func(id string) bool { return id == move })
}

func (t *step) setMark(m Mark) {
	t.marks = t.marks.with(m)
	t.touchMarked(m)
}

// touchMarked has the scopes judged again that a mark keeps closed.
func (t *step) touchMarked(m Mark) {
	t.marked = true
	for s := range t.view.scopes.Under(m.Prefix, "") {
		t.touched = append(t.touched, s.Prefix)
	}
	if s, ok := t.view.scopes.Overlapping(m.Prefix); ok {
		t.touched = append(t.touched, s.Prefix)
	}
}

// targetFailed has the move aborted: the slice cannot be received or sealed.
func (t *step) targetFailed(e ShipFailed) {
	m, running := t.view.Move(e.Move)
	_, marked := t.marks.of(e.Move)
	x := t.targetOf(e.Move)
	if marked || x.doing != nothing && x.doing != sealing {
		return // it was sealed: what comes late is about a stream that was not needed
	}
	t.marked = t.marked || x.doing == sealing // that is over
	t.dropTarget(e.Move)
	if running && m.To == t.cfg.Node {
		t.putTarget(target{Slice: Slice{m.ID, m.Prefix}, failed: e.Reason, sayAt: t.now})
	}
}

// drainedTarget promotes a slice when no write of an earlier tenure counts any
// more and no delete runs. Another end of the move may have come meanwhile.
func (t *step) drainedTarget(move string) {
	x := t.targetOf(move)
	mark, marked := t.marks.of(move)
	if x.doing != draining || !marked {
		return
	}
	x.doing = nothing
	if t.gained(mark) {
		x.doing = promoting
		t.do(Promote{Slice{mark.Move, mark.Prefix}})
	}
	t.putTarget(x)
}

func (t *step) promoted(e Promoted) {
	m, marked := t.marks.of(e.Move)
	if !marked || t.targetOf(e.Move).doing != promoting {
		return
	}
	m.Promoted = true
	t.setMark(m)
	t.dropTarget(e.Move)
}

func (t *step) discarded(e Discarded) {
	if t.targetOf(e.Move).doing != discarding {
		return
	}
	t.unstage(e.Move)
	if m, marked := t.marks.of(e.Move); marked {
		t.marks = t.marks.without(e.Move)
		t.touchMarked(m)
	}
	t.dropTarget(e.Move)
}

// gained reports whether a sealed slice is what this node is to serve of the
// scope: its move gave the scope to it, or may have.
func (t *step) gained(m Mark) bool {
	flip, ok := t.view.Flip(m.Prefix)
	return ok && flip.ID == m.Move && flip.To == t.cfg.Node || t.unrecorded(m)
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
		case m.Promoted || running:
		case t.gained(m):
			t.promote(m)
		default:
			t.discard(m.Move)
		}
	}
	t.forgetPromoted()
}

// promote begins with waiting for the drain. A promotion of the same keys that a
// force overtook goes first, or it would come over this one.
func (t *step) promote(m Mark) {
	x := t.targetOf(m.Move)
	if x.doing != nothing {
		return
	}
	for _, other := range t.targets {
		if other.doing == promoting && other.Prefix.Overlaps(m.Prefix) {
			return
		}
	}
	x.Prefix, x.doing = m.Prefix, draining
	t.putTarget(x)
	t.do(AwaitDrain{Slice{m.Move, m.Prefix}})
}

// discard never meets a promotion that is under way, which would then go on with
// half a slice: it waits for that, and the mark keeps the scope closed.
func (t *step) discard(move string) {
	x := t.targetOf(move)
	if x.doing == nothing || x.doing == draining {
		x.doing = discarding
		t.putTarget(x)
		t.do(Discard{move})
	}
}

// forgetPromoted keeps to the bound.
func (t *step) forgetPromoted() {
	over := -keptPromoted
	for _, m := range t.marks {
		if m.Promoted && t.targetOf(m.Move).doing == nothing {
			over++
		}
	}
	for _, m := range t.marks {
		if _, running := t.view.Move(m.Move); over > 0 && m.Promoted && !running && t.targetOf(m.Move).doing == nothing {
			over--
			t.discard(m.Move)
		}
	}
}

// unrecorded reports whether the node owns and writes the scope of a slice by what
// the registry does not remember: it may have forgotten how the move ended, or a
// restore may have lost it. The slice is newer then than anything else the node has
// of the scope, of which it was not the owner when the move began, and which it has
// kept closed since the seal. Else, what is not known was aborted.
func (t *step) unrecorded(m Mark) bool {
	s, ok := t.view.scopes.Get(m.Prefix)
	if !ok || s.Owner != t.cfg.Node || s.Writer != t.cfg.Node {
		return false
	}
	if _, known := t.view.flips.Get(m.Prefix); known {
		return false
	}
	return m.Incarnation != t.view.incarnation || t.view.ended > m.Ended+migration.MaxFinished
}

// missSlices has moves aborted of which the source has shipped everything and this
// process has nothing: an earlier one took the records and died before they were
// sealed. Nobody sends them again, and the scope would stay closed for its window.
func (t *step) missSlices() {
	if !t.Ready() || t.missed == t.view.moves {
		return
	}
	t.missed = t.view.moves
	for m := range t.view.Moves() {
		if m.To != t.cfg.Node || m.Mode != migration.Agent || m.Phase != migration.Shipped {
			continue
		}
		_, marked := t.marks.of(m.ID)
		_, stages := slices.BinarySearch(t.staging, m.ID)
		if x := t.targetOf(m.ID); !marked && !stages && x.doing == nothing && x.failed == "" {
			t.putTarget(target{Slice: Slice{m.ID, m.Prefix}, sayAt: t.now,
				failed: fmt.Sprintf("node %q began anew and has lost what was staged of the move; start the move again", t.cfg.Node)})
		}
	}
}

// serveTargets says ready for what is sealed, once the source has said shipped,
// and abort for what failed.
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
	for _, x := range t.targets {
		if x.failed == "" || x.doing != nothing {
			continue
		}
		if _, running := t.view.Move(x.Move); !running {
			t.dropTarget(x.Move)
			continue
		}
		t.sayAt(&x.sayAt, Word{Kind: SayAbort, Move: x.Move, Reason: x.failed})
		t.putTarget(x)
	}
}
