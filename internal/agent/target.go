package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/migration"
)

// target is a move of another node's scope to this one, from its seal on.
type target struct {
	move      string
	sealing   bool
	promoting bool
	going     bool // its staging is being discarded
	sayAt     time.Duration
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
