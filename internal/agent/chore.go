package agent

import (
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

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
