package agent

import (
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/migration"
)

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

func (t *step) changeSource(move string, change func(*source)) {
	for i := range t.sources {
		if t.sources[i].Move == move {
			t.sources = slices.Clone(t.sources)
			change(&t.sources[i])
			return
		}
	}
}

// shipFailed has the move aborted. What was shipped already did not fail.
func (t *step) shipFailed(e ShipFailed) {
	if m, running := t.view.Move(e.Move); !running || m.From != t.cfg.Node {
		t.targetFailed(e)
		return
	}
	t.changeSource(e.Move, func(x *source) {
		if !x.shipped && x.failed == "" {
			x.failed, x.sayAt = e.Reason, t.now
		}
	})
}

// serveSources does what the running moves away from this node need. While there
// are none a step does not look through those of others, of which there may be
// many.
func (t *step) serveSources() {
	if len(t.sources) == 0 && t.looked == t.view.moves {
		return
	}
	t.looked = t.view.moves
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
		if _, running := t.view.Move(x.Move); !running && (x.copying || x.draining) {
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
