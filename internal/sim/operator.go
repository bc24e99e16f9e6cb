package sim

import (
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// tell has the operator's command decided.
func (w *world) tell(c fsm.Command, then func(*fsm.Result)) {
	w.certain(w.operator, c, then)
}

// later has the operator do something in a while.
func (w *world) later(d time.Duration, f func()) { w.operator.after(d, f) }

// retried has a command decided again and again, while it is refused with one of
// the codes, at most for a time.
func (w *world) retried(c func() fsm.Command, patience time.Duration, codes []api.Code, then func(*fsm.Result)) {
	end := w.now + patience
	var try func()
	try = func() {
		if w.healing {
			return // nobody is switched off any more
		}
		w.tell(c(), func(r *fsm.Result) {
			for _, code := range codes {
				if api.Code(r.GetCode()) == code && w.now < end && !w.healing {
					w.later(time.Second, try)
					return
				}
			}
			then(r)
		})
	}
	try()
}

func ignore(*fsm.Result) {}

// scopeAt is one of the declared scopes.
func (w *world) scopeAt(i int) (*scope.Scope, bool) {
	st := w.log.last
	if st.Scopes().Len() == 0 {
		return nil, false
	}
	i %= st.Scopes().Len()
	for s := range st.Scopes().Scopes() {
		if i == 0 {
			return s, true
		}
		i--
	}
	return nil, false
}

func (w *world) idAt(i int) scope.NodeID { return nodeIDs[i%len(nodeIDs)] }

// move starts a move of a scope to a node, or to the next one where that owns it.
func (w *world) move(p scope.Prefix, to int, mode string, precopy bool) {
	s, ok := w.log.last.Scopes().Get(p)
	if !ok {
		return
	}
	if w.idAt(to) == s.Owner {
		to++
	}
	c := &fsm.StartMove{Id: w.draw("mv"), Prefix: p.Bytes(), From: string(s.Owner), To: string(w.idAt(to)), Mode: mode, Precopy: precopy,
		WindowMs: 4000, TimeoutMs: 15000}
	w.tell(c, func(r *fsm.Result) {
		if r.GetCode() == "" && mode == "assisted" {
			w.assist(c.GetId())
		}
	})
}

// assist is an operator's own tool. It gives only words that are true: it waits
// until the source has closed and drained, copies, and says shipped and ready.
func (w *world) assist(id string) {
	m, ok := w.log.last.Moves().Get(id)
	if !ok || !m.Running() {
		return
	}
	from, to := w.nodeNamed(m.From), w.nodeNamed(m.To)
	v := from.st.View()
	// Closed for this move: it may have closed for an earlier one, and be about to
	// hear that that was aborted.
	seen, sees := v.Move(id)
	closed := sees && seen.Phase == migration.Quiescing && from.st.Ready() && from.adm.Drained(m.Prefix)
	// And its store holds the scope: the slice of a move just before may not be in it yet.
	for _, mark := range from.disk.held() {
		closed = closed && (mark.Promoted || !mark.Prefix.Overlaps(m.Prefix))
	}
	// A target that does not know of the scope may take its keys as those of none.
	_, knows := to.st.View().Move(id)
	if m.Phase != migration.Quiescing || !from.alive || !to.alive || !to.st.Ready() || !closed || !knows {
		w.later(200*time.Millisecond, func() { w.assist(id) })
		return
	}
	slice := from.disk.store.data.slice(m.Prefix)
	to.disk.store.replace(m.Prefix, slice)
	sum := slice.manifest()
	manifest := &fsm.Manifest{Keys: sum.Keys, Bytes: sum.Bytes, Digest: sum.Digest}
	w.tell(&fsm.Shipped{Move: id, Manifest: manifest}, func(r *fsm.Result) {
		if r.GetCode() == "" {
			w.tell(&fsm.Ready{Move: id, Manifest: manifest}, ignore)
		}
	})
}

// abort ends a running move.
func (w *world) abort(i int) {
	for m := range w.log.last.Moves().Running() {
		if i--; i <= 0 {
			w.tell(&fsm.Abort{Move: m.ID, Reason: "operator"}, ignore)
			return
		}
	}
}

// options changes the policy of a scope.
func (w *world) options(p scope.Prefix, failover, lease string, fallback scope.NodeID) {
	s, ok := w.log.last.Scopes().Get(p)
	if !ok || s.Writer == fallback {
		return
	}
	w.tell(&fsm.Declare{Prefix: p.Bytes(), Writer: string(s.Writer), Fallback: string(fallback), Failover: failover, Lease: lease}, ignore)
}

// fenced stops every machine of a node for good, so that the word that it is off
// is true until the world heals.
func (w *world) fenced(id scope.NodeID) (node, identity string) {
	for _, n := range w.nodes {
		if n.id == id {
			n.off = true
			if n.alive {
				w.count("fault: node off for good")
				w.note("%s is off", n.name)
				n.crash()
			}
		}
	}
	known, _ := w.log.last.Node(id)
	return string(id), known.Identity
}

// force gives a scope to another node while its owner is off.
func (w *world) force(p scope.Prefix, to int) {
	s, ok := w.log.last.Scopes().Get(p)
	if !ok {
		return
	}
	owner := s.Owner
	w.fenced(owner)
	w.retried(func() fsm.Command {
		c := &fsm.Force{Prefix: p.Bytes(), To: string(w.idAt(to)), AcceptLoss: true, Id: w.draw("mv")}
		if s, ok := w.log.last.Scopes().Get(p); ok {
			c.ExpectedEpoch = s.Epoch
			if s.Owner == owner {
				c.SourceFenced, c.SourceFencedIdentity = w.fenced(owner)
			}
		}
		return c
	}, 15*time.Second, []api.Code{api.SessionBusy}, ignore)
}

// redeclare retires a scope and declares its keys anew for a node, as the same
// prefix, a narrower or a wider one. Only where the operator is told that the last
// owner may not know, and fences it, does that one stop.
func (w *world) redeclare(p scope.Prefix, to, shape int, fence bool) {
	w.tell(&fsm.Retire{Prefix: p.Bytes()}, func(r *fsm.Result) {
		if r.GetCode() != "" {
			return
		}
		w.later(w.operator.rng.between(0, 3*time.Second), func() { w.declareAnew(p, to, shape, fence) })
	})
}

func (w *world) declareAnew(p scope.Prefix, to, shape int, fence bool) {
	q := p
	switch shape % 4 {
	case 1:
		q += "x:"
	case 2:
		q = p[:1]
	}
	d := &fsm.Declare{Prefix: q.Bytes(), Writer: string(w.idAt(to)), Fallback: string(w.idAt(to + 1))}
	codes := []api.Code{api.Overlap, api.SessionBusy, api.CleanupPending, api.MoveInFlight}
	w.retried(func() fsm.Command {
		if fence {
			for t := range w.log.last.TombstonesOver(q) {
				if string(t.Owner) != d.Writer {
					d.SourceFenced, d.SourceFencedIdentity = w.fenced(t.Owner)
				}
			}
		}
		return d
	}, 20*time.Second, codes, func(r *fsm.Result) {
		if r.GetCode() == "" || w.healing {
			return
		}
		// The keys go on with their last owner.
		for t := range w.log.last.TombstonesOver(p) {
			w.tell(&fsm.Declare{Prefix: p.Bytes(), Writer: string(t.Owner)}, ignore)
			return
		}
	})
}

// restore puts a backup in place. Complete is the statement that no node was
// declared since.
func (w *world) restore(backup fsm.State, number uint64, complete, fresh bool) {
	if w.log.leader == nil || backup.Cluster().ID == "" {
		return
	}
	tag := w.draw("tag")
	if err := w.log.restore(backup, fsm.Restoration{Incarnation: number, Tag: tag, Complete: complete, TimeMS: 1}, fresh); err != nil {
		w.count("restore refused")
		return
	}
	if !complete {
		w.later(8*time.Second, func() { w.releaseAll(tag) })
	}
}

// releaseAll releases every scope after a restore: the operator switches off what
// has not met the incarnation, and says so.
func (w *world) releaseAll(tag string) {
	if w.log.last.Cluster().Tag != tag || !w.log.last.Cluster().Hold {
		return
	}
	if !w.healing {
		for id := range w.log.last.Unmet() {
			w.fenced(id)
		}
	}
	for _, n := range w.nodes { // also machines that no record names
		known, _ := w.log.last.Node(n.id)
		if !w.healing && n.alive && known.Identity != n.disk.identity {
			w.fenced(n.id)
		}
	}
	for s := range w.log.last.Scopes().Scopes() {
		p := s.Prefix
		w.later(w.operator.rng.between(0, time.Second), func() {
			if w.log.last.Cluster().Tag == tag && w.truthful() {
				w.tell(&fsm.Release{Prefix: p.Bytes(), SourceFenced: true, Reason: "the others are off", Incarnation: w.log.last.Cluster().Incarnation}, ignore)
			}
		})
	}
	w.later(5*time.Second, func() { w.releaseAll(tag) })
}

// truthful: every machine that runs has met the incarnation.
func (w *world) truthful() bool {
	st := w.log.last
	for _, n := range w.nodes {
		known, ok := st.Node(n.id)
		if n.alive && (!ok || !st.Met(known) || known.Identity != n.disk.identity) {
			return false
		}
	}
	return true
}
