package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

// chore is an old copy that this node has to delete.
type chore struct {
	Cleanup
	at      time.Duration // when to go on
	running bool
	done    bool
}

// chores are the old copies that the view says this node has, in the order of
// prefixes. There may be as many as scopes that were moved away within a grace
// time, so that a step looks at them only when something about them has changed.
type chores struct {
	list  []chore
	of    scope.Index[Cleanup] // that the list was made from
	next  time.Duration        // when the next one is due, later than it was looked; 0 is none
	ready bool                 // there was a session when it was looked
}

// serveChores deletes old copies, a grace time after the node learnt of them, one
// after the other: the latch is one, and what is deleted loads the store.
func (t *step) serveChores() {
	c := &t.chores
	due := c.next > 0 && t.now >= c.next
	if c.of == t.view.cleanups && c.ready == t.Ready() && !t.chored && !t.marked && !due {
		return
	}
	c.list, c.of, c.ready, c.next = t.renewedChores(), t.view.cleanups, t.Ready(), 0
	busy := slices.ContainsFunc(c.list, func(x chore) bool { return x.running })
	for i := range c.list {
		x := &c.list[i]
		switch {
		case x.running || t.now < x.at:
		case x.done:
			t.sayAt(&x.at, Word{Kind: SayCleaned, Prefix: x.Prefix, Epoch: x.Epoch, Move: x.Move})
		case !busy && t.mayDelete(x.Prefix):
			x.running, busy = true, true
			t.do(Delete{x.Prefix, x.Epoch})
		}
		if !x.running && x.at > t.now && (c.next == 0 || x.at < c.next) {
			c.next = x.at
		}
	}
}

// mayDelete is asked again, under the latch, for every batch.
func (t *step) mayDelete(p scope.Prefix) bool {
	_, waits := t.marks.awaited(p)
	return !waits && t.Ready()
}

// renewedChores are those of the view, with what was known of each of them.
func (t *step) renewedChores() []chore {
	old := t.chores.list
	if t.chores.of == t.view.cleanups {
		return slices.Clone(old)
	}
	var next []chore
	for c := range t.view.Cleanups(t.cfg.Node) {
		for len(old) > 0 && old[0].Prefix < c.Prefix {
			old = old[1:]
		}
		x := chore{Cleanup: c, at: t.now + t.cfg.Grace}
		if len(old) > 0 && old[0].Prefix == c.Prefix && old[0].Epoch == c.Epoch {
			x = old[0]
		}
		next = append(next, x)
	}
	return next
}

func (t *step) deleted(e Deleted) {
	at, known := slices.BinarySearchFunc(t.chores.list, e.Prefix, func(x chore, p scope.Prefix) int {
		return strings.Compare(string(x.Prefix), string(p))
	})
	if !known || t.chores.list[at].Epoch != e.Epoch || !t.chores.list[at].running {
		return
	}
	t.chored = true
	t.chores.list = slices.Clone(t.chores.list)
	x := &t.chores.list[at]
	x.running, x.done, x.at = false, e.Done, t.now
	if !e.Done {
		x.at = t.now + again
	}
}
