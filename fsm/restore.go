package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Restoration is how the state of a backup becomes the beginning of a new
// incarnation.
type Restoration struct {
	Incarnation uint64 // above any that the cluster was ever in
	Tag         string // random, 1 to [MaxRandom] bytes: tells two restores of the same number apart
	Complete    bool   // the admin states that no other node was declared since the backup
	TimeMS      int64  // leader's wall clock, milliseconds since 1970
	Index       uint64 // at which the state is put, at least its own
	// What a restore into a cluster that exists knows beside; the zero values keep
	// what the backup says.
	Base      uint64 // by how much Index is above that of the raft log
	Cluster   string // id of the cluster that the state is put into
	NextEpoch uint64 // that of the cluster: the higher one counts
}

// Restored returns the state of a backup as the beginning of a new incarnation,
// and what that changed. The error is an *[api.Error]; the state is then the old
// one.
//
// A backup is the past: since then scopes may have moved and nodes may have been
// declared. So no session lives on, nothing that was under way goes on, and the
// cluster holds: no scope is served until the nodes have met the incarnation, or
// somebody vouches for those that have not.
//
// It costs O(size of the state).
func (s State) Restored(r Restoration) (State, []Event, error) {
	next, events, err := s.restored(r)
	if err != nil {
		return s, nil, err
	}
	return next, events, nil
}

func (s State) restored(r Restoration) (State, []Event, *api.Error) {
	if err := s.checkRestoration(r); err != nil {
		return s, nil, err
	}
	tx := &txn{State: s, at: At{Index: r.Index, TimeMS: r.TimeMS}}
	tx.index, tx.staged = r.Index, staging{}
	tx.checked = Checked{} // nobody has kept a state of before
	tx.servers = nil       // they have other data directories, and maybe another cluster
	if r.Cluster != "" {
		tx.base, tx.cluster.ID = r.Base, r.Cluster
	}
	if tx.tokens.first != 0 {
		tx.tokens.changed = r.Index // whoever was authenticated before is looked at again
	}
	tx.cluster.NextEpoch = max(tx.cluster.NextEpoch, r.NextEpoch)
	tx.cluster.Incarnation, tx.cluster.Tag = r.Incarnation, r.Tag
	tx.cluster.Hold, tx.cluster.Complete = true, r.Complete
	tx.configChanged() // a plan that was made before must be made anew
	tx.emitCluster("restore")
	if err := tx.stopAll(); err != nil {
		return s, nil, err
	}
	for n := range s.Nodes() {
		tx.forgetSession(n)
	}
	for sc := range tx.scopes.Scopes() { // the table as it is now: it is a value
		if sc.Released {
			next := *sc
			next.Released = false
			if err := tx.putScope(next, "restore"); err != nil {
				return s, nil, err
			}
		}
	}
	tx.endHold() // a cluster without nodes waits for nobody
	return tx.State, tx.events, nil
}

func (s State) checkRestoration(r Restoration) *api.Error {
	switch c := s.cluster; {
	case c.ID == "":
		return refuse(api.Invalid, "the backup is of a cluster that has no id yet: there is nothing to restore")
	case r.Incarnation <= c.Incarnation:
		return refuse(api.StaleEpoch, "a restore begins a new incarnation, above %d, which is that of the backup, and above any since then; given was %d", c.Incarnation, r.Incarnation)
	case r.Tag == c.Tag:
		return refuse(api.Invalid, "the incarnation needs a tag of its own; %q is that of the backup", r.Tag)
	case r.Index < s.index:
		return refuse(api.Invalid, "the backup is of index %d and cannot be put at index %d, before it", s.index, r.Index)
	}
	return checkRandom("tag", r.Tag)
}

// stopAll ends what was under way. Nodes may have gone on with it in what the
// restore has lost: a move may have flipped, and a copy that was to be deleted
// may be the only one now.
func (tx *txn) stopAll() *api.Error {
	for m := range tx.moves.Running() {
		if err := tx.endAborted(m, CauseRestored, fmt.Sprintf("the cluster was restored, as incarnation %d", tx.cluster.Incarnation)); err != nil {
			return err
		}
	}
	for c := range tx.cleanups.all() {
		tx.dropCleanup(c, "cancelled")
	}
	return nil
}

// forgetSession takes from the node what it had in the last incarnation, but for
// its identity and for which incarnation it has met. That is no expiry: nothing
// is known of whether the node lives, so that nobody may take over from it. A
// word that it is off was about the past.
func (tx *txn) forgetSession(was Node) {
	n, _ := tx.node(was.ID)
	if n.Live() {
		tx.sessions = tx.sessions.without(n.Session)
	}
	n.Session, n.token, n.Expired, n.Fenced = Session{}, "", false, false
	tx.putNode(n)
	if n.Node != was {
		tx.emit(Event{Cause: "restore", Node: &n.Node})
	}
}
