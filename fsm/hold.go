package fsm

import (
	"fmt"
	"iter"
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// maxNamed bounds how many nodes a text names that waits for all of them.
const maxNamed = 5

// Met reports whether the node has met this incarnation of the cluster: it has
// opened a session in it, and so has stopped to act on anything older.
func (s State) Met(n Node) bool {
	return n.Incarnation != 0 && n.Incarnation == s.cluster.Incarnation && n.Tag == s.cluster.Tag
}

// met is that of a node by its id; a node that is not declared has met nothing.
func (s State) met(id scope.NodeID) bool {
	n, _ := s.node(id)
	return s.Met(n.Node)
}

// Unmet yields, in the order of ids, the declared nodes that have not met this
// incarnation.
func (s State) Unmet() iter.Seq[scope.NodeID] {
	return func(yield func(scope.NodeID) bool) {
		for id := range s.unmet.All() {
			if !yield(scope.NodeID(id)) {
				return
			}
		}
	}
}

// Held reports whether the scope takes no writes because the cluster holds.
func (s State) Held(sc *scope.Scope) bool { return s.cluster.Hold && !sc.Released }

// HoldText says, while the cluster holds, since when and what ends it.
func (s State) HoldText() string {
	const word = "an admin's word with source-fenced, that every node which has not met this incarnation is off, releases a scope"
	since := fmt.Sprintf("the cluster holds since the restore that began incarnation %d", s.cluster.Incarnation)
	waits := s.unmetText()
	if s.cluster.Complete {
		return since + ", until every declared node has opened a session in it (" + waits + "); before that " + word
	}
	return since + "; as nobody stated then that no other node was declared since the backup, this does not end by itself (" + waits + "): " + word
}

func (s State) unmetText() string {
	var names []string
	for id := range s.Unmet() {
		if len(names) == maxNamed {
			names = append(names, fmt.Sprintf("and %d more", s.unmet.Len()-maxNamed))
			break
		}
		names = append(names, string(id))
	}
	if len(names) == 0 {
		return "all of them have"
	}
	return "not yet: " + strings.Join(names, ", ")
}

// onHold refuses what must wait until the hold ends. Not with UNAVAILABLE, upon
// which clients ask again with the same request id: this refusal is remembered.
func (tx *txn) onHold(what string) *api.Error {
	return refuse(api.WrongPhase, "%s must wait: %s", what, tx.HoldText())
}

// endHold ends the hold when nothing is left that it waits for. It is asked
// after every command that is applied, as takeovers are: whichever may be the
// last node to meet the incarnation, or the last to go. It costs O(1). The marks
// of released scopes stay: without a hold they mean nothing, the next restore
// takes them away, and looking for them now would cost O(scopes).
func (tx *txn) endHold() {
	if !tx.cluster.Complete || tx.unmet.Len() > 0 { // complete is only what holds
		return
	}
	tx.cluster.Hold, tx.cluster.Complete = false, false
	tx.emitCluster("hold-ended")
}

func (tx *txn) emitCluster(cause string) {
	c := tx.Cluster()
	tx.emit(Event{Cause: cause, Cluster: &c})
}

// release serves one scope while the others are held. The word is about all
// nodes and not about the owner of the backup alone: since then the scope may
// have gone to any of them.
func (tx *txn) release(c *Release) (*Result, *api.Error) {
	if err := checkPrefix(c.GetPrefix()); err != nil {
		return nil, err
	}
	p := scope.Prefix(c.GetPrefix())
	if err := tx.checkRelease(c, p); err != nil {
		return nil, err
	}
	s, ok := tx.scopes.Get(p)
	if !ok {
		return nil, refuse(api.NotFound, "scope %q is not declared", p)
	}
	if !tx.met(s.Owner) {
		err := refuse(api.NodeDown, "the owner %q of scope %q has not met incarnation %d and may act on what it knew before; start it, so that it opens a session, "+
			"or force the scope to a node that has, and release it then", s.Owner, p, tx.cluster.Incarnation)
		err.Owner, err.Epoch = string(s.Owner), s.Epoch
		return nil, err
	}
	done := &Result{Epoch: s.Epoch, Owner: string(s.Owner)}
	// The word is about every node that has not met the incarnation, also those
	// that the backup does not know: so nothing but the declared ones is left to
	// wait for, and the hold ends with the last of them.
	tx.cluster.Complete = true
	if s.Released {
		return done, nil
	}
	next := *s
	next.Released = true
	done.Changed = 1
	return done, tx.putScope(next, "release")
}

func (tx *txn) checkRelease(c *Release, p scope.Prefix) *api.Error {
	if !tx.cluster.Hold {
		return refuse(api.WrongPhase, "the cluster does not hold; scope %q needs no release", p)
	}
	if want := c.GetIncarnation(); want != 0 && want != tx.cluster.Incarnation {
		return refuse(api.StaleEpoch, "the word is about incarnation %d of the cluster, which is in %d; see which nodes have met that one and decide anew", want, tx.cluster.Incarnation)
	}
	if !c.GetSourceFenced() {
		return refuse(api.Invalid, "if a node that has not met incarnation %d still runs, two nodes may write %q; make sure that all of them are off (%s) and say so with source-fenced",
			tx.cluster.Incarnation, p, tx.unmetText())
	}
	if c.GetReason() == "" {
		return refuse(api.Invalid, "a reason is needed: it records why every node that has not met incarnation %d counts as off", tx.cluster.Incarnation)
	}
	return checkReason(c.GetReason())
}
