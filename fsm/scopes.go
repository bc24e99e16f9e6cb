package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// declared is a Declare whose values have been read.
type declared struct {
	prefix           scope.Prefix
	writer, fallback scope.NodeID
	failover         scope.Failover
	lease            scope.Lease
}

func readDeclare(c *Declare) (d declared, refusal *api.Error) {
	if err := checkPrefix(c.GetPrefix()); err != nil {
		return d, err
	}
	d.prefix, d.writer, d.fallback = scope.Prefix(c.GetPrefix()), scope.NodeID(c.GetWriter()), scope.NodeID(c.GetFallback())
	var err error
	if d.failover, err = scope.ParseFailover(c.GetFailover()); err != nil {
		return d, refuse(api.Invalid, "scope %q: %v", d.prefix, err)
	}
	if d.lease, err = scope.ParseLease(c.GetLease()); err != nil {
		return d, refuse(api.Invalid, "scope %q: %v", d.prefix, err)
	}
	if d.lease == scope.LeaseNever && d.failover == scope.FailoverAuto {
		return d, refuse(api.Invalid, "scope %q: lease never with failover auto would let two nodes write; use failover manual or another lease", d.prefix)
	}
	if d.fallback == d.writer {
		return d, refuse(api.Invalid, "scope %q: %q is both writer and fallback; name another fallback, or none", d.prefix, d.writer)
	}
	return d, nil
}

func checkPrefix(p []byte) *api.Error {
	if len(p) > scope.MaxPrefixLen {
		return refuse(api.TooLarge, "the prefix starting with %q has %d bytes, the limit is %d", scope.Prefix(p[:32]), len(p), scope.MaxPrefixLen)
	}
	return nil
}

func (tx *txn) declare(c *Declare) (*Result, *api.Error) {
	d, refusal := readDeclare(c)
	if refusal != nil {
		return nil, refusal
	}
	old, exists := tx.scopes.Get(d.prefix)
	if want := c.GetExpectedEpoch(); want != 0 {
		if err := checkEpoch(old, d.prefix, want); err != nil {
			return nil, err
		}
	}
	if exists {
		return tx.redeclare(*old, d)
	}
	if err := tx.checkFree(d); err != nil {
		return nil, err
	}
	uncleared, err := tx.passTombstones(d, fencedWord(c))
	if err != nil {
		return nil, err
	}
	s := scope.Scope{Prefix: d.prefix, Writer: d.writer, Fallback: d.fallback, Owner: d.writer, Epoch: tx.takeEpoch(),
		Failover: d.failover, Lease: d.lease, Changed: tx.at.Index}
	// A node without a session learns the policy before it may write. One that
	// has a session, or may hold an older view of these keys, has not learnt it.
	writer, _ := tx.node(d.writer)
	s.Armed = s.NeedsLease() && !writer.Live() && !uncleared
	if err := tx.putScope(s, "declare"); err != nil {
		return nil, err
	}
	tx.configChanged()
	return &Result{Epoch: s.Epoch, Changed: 1}, nil
}

// redeclare changes the options of a scope that stays with its writer.
func (tx *txn) redeclare(old scope.Scope, d declared) (*Result, *api.Error) {
	if old.Writer != d.writer {
		err := refuse(api.Exists, "scope %q belongs to writer %q, and a declare never changes the owner; "+
			"to give it to %q: scope-registry move start %q --from %s --to %s",
			d.prefix, old.Writer, d.writer, d.prefix, old.Owner, d.writer)
		err.Owner, err.Epoch, err.ConflictsWith = string(old.Owner), old.Epoch, d.prefix.Text()
		return nil, err
	}
	s := old
	s.Fallback, s.Failover, s.Lease = d.fallback, d.failover, d.lease
	if s == old {
		return &Result{Epoch: old.Epoch}, nil
	}
	if err := tx.checkStill(d.prefix, "changing its options"); err != nil {
		return nil, err
	}
	if err := tx.checkNodes(d); err != nil {
		return nil, err
	}
	if s.Owner != s.Writer && s.Owner != s.Fallback {
		err := refuse(api.NodeInUse, "scope %q is owned by %q, its fallback until now; move it first: scope-registry move start %q --from %s --to %s",
			d.prefix, s.Owner, d.prefix, s.Owner, s.Writer)
		err.Owner, err.Epoch = string(s.Owner), s.Epoch
		return nil, err
	}
	s.Armed = false // the owner does not know the new policy yet
	s.Changed = tx.at.Index
	if err := tx.putScope(s, "options"); err != nil {
		return nil, err
	}
	tx.configChanged()
	return &Result{Epoch: s.Epoch, Changed: 1}, nil
}

func checkEpoch(s *scope.Scope, p scope.Prefix, want uint64) *api.Error {
	if s == nil {
		return refuse(api.StaleEpoch, "scope %q is not declared, expected was epoch %d", p, want)
	}
	if s.Epoch == want {
		return nil
	}
	err := refuse(api.StaleEpoch, "scope %q has epoch %d (owner %q), expected was %d; look at it again and decide anew",
		p, s.Epoch, s.Owner, want)
	err.Epoch, err.Owner = s.Epoch, string(s.Owner)
	return err
}

// checkFree refuses a prefix that overlaps a declared one.
func (tx *txn) checkFree(d declared) *api.Error {
	if met, ok := tx.scopes.Overlapping(d.prefix); ok {
		err := refuse(api.Overlap, "prefix %q overlaps the declared scope %q of writer %q: part of the keys would have two writers; retire that scope first, or choose another prefix",
			d.prefix, met.Prefix, met.Writer)
		err.ConflictsWith, err.Owner = met.Prefix.Text(), string(met.Owner)
		return err
	}
	if err := checkRoom(d.prefix, tx.scopes.Len()+tx.tombstones.Len()); err != nil {
		return err
	}
	if err := tx.checkStill(d.prefix, "declaring it"); err != nil {
		return err
	}
	return tx.checkNodes(d)
}

// checkRoom refuses one more scope beside those that are held.
func checkRoom(p scope.Prefix, held int) *api.Error {
	if held < MaxScopes {
		return nil
	}
	return refuse(api.Limit, "scope %q would be one more than the limit of %d scopes, retired ones that are not cleared included; "+
		"retire some, and clear what is retired with source-fenced once its node is off", p, MaxScopes)
}

func (tx *txn) checkNodes(d declared) *api.Error {
	if err := tx.needNode(d.writer, "writer"); err != nil {
		return err
	}
	if d.fallback == "" {
		return nil
	}
	return tx.needNode(d.fallback, "fallback")
}

// checkStill refuses to change anything that a running move or a pending
// cleanup overlaps. By overlap, not by equal prefix: a slice in motion covers
// every key under it.
func (tx *txn) checkStill(p scope.Prefix, what string) *api.Error {
	for m := range tx.moves.RunningOver(p) {
		err := refuse(api.MoveInFlight, "scope %q: %s must wait for move %s of %q from %q to %q (%s); wait for it or abort it",
			p, what, m.ID, m.Prefix, m.From, m.To, m.Phase)
		err.Move, err.ConflictsWith = m.ID, m.Prefix.Text()
		return err
	}
	for c := range tx.cleanups.over(p) {
		err := refuse(api.CleanupPending, "scope %q: %s must wait until node %q has deleted its old copy of %q (move %s); %s",
			p.Text(), what, c.Node, c.Prefix.Text(), c.Move, tx.untilCleaned(c.Node, c.Move))
		err.Move, err.ConflictsWith, err.Owner = c.Move, c.Prefix.Text(), string(c.Node)
		return err
	}
	return nil
}

// untilCleaned says what ends the wait for the deletion of an old copy.
func (tx *txn) untilCleaned(node scope.NodeID, move string) string {
	if n, _ := tx.node(node); n.Live() {
		return "it does that itself when the grace time is over that it was started with; wait, or start it again with a shorter one"
	}
	return fmt.Sprintf("when it has: scope-registry move cleaned %s --reason TEXT", move)
}

// passTombstones refuses a declare that overlaps what another node may still
// believe to own, unless the admin says that this node is off. It drops the
// tombstones that are cleared that way, or that the new scope of the same owner
// covers: from now on that scope's record protects those keys. It reports
// whether the owner itself may still hold an older view.
func (tx *txn) passTombstones(d declared, fenced fencing) (uncleared bool, refusal *api.Error) {
	for t := range tx.TombstonesOver(d.prefix) {
		switch {
		case t.Owner == fenced.node:
			if err := tx.checkFenced(fenced); err != nil {
				return false, err
			}
			tx.dropTombstone(t, "fenced")
		case t.Owner != d.writer:
			err := refuse(api.Overlap, "prefix %q overlaps the retired scope %q, whose last owner %q may not know yet that it was retired; "+
				"declare it with writer %s, or, once that node is off, add %s",
				d.prefix.Text(), t.Prefix.Text(), t.Owner, t.Owner, tx.fencedFlags(t.Owner))
			err.ConflictsWith, err.Owner, err.Epoch = t.Prefix.Text(), string(t.Owner), t.Epoch
			return false, err
		default:
			uncleared = true
			if d.prefix.Contains(t.Prefix) {
				tx.dropTombstone(t, "declare")
			}
		}
	}
	return uncleared, nil
}

func (tx *txn) retire(c *Retire) *api.Error {
	if err := checkPrefix(c.GetPrefix()); err != nil {
		return err
	}
	p, fenced := scope.Prefix(c.GetPrefix()), fencedWord(c)
	s, ok := tx.scopes.Get(p)
	if !ok {
		return tx.clearTombstone(p, fenced, c.GetExpectedEpoch())
	}
	// Without its scope a key is under no scope, and nodes accept it.
	if tx.cluster.Hold {
		return tx.onHold(fmt.Sprintf("scope %q: retiring it", p))
	}
	if want := c.GetExpectedEpoch(); want != 0 {
		if err := checkEpoch(s, p, want); err != nil {
			return err
		}
	}
	if fenced.node != "" {
		if fenced.node != s.Owner {
			return notOwner(s, fenced.node, "source-fenced")
		}
		if err := tx.checkFenced(fenced); err != nil {
			return err
		}
	}
	if err := tx.checkStill(p, "retiring it"); err != nil {
		return err
	}
	tx.unindex(s)
	tx.recount(s, nil)
	tx.concern(parties(s)...)
	tx.scopes = tx.scopes.Without(p)
	tx.emit(Event{Cause: "retire", Deleted: true, Scope: s})
	if fenced.node == "" {
		tx.putTombstone(Tombstone{p, s.Owner, s.Epoch, tx.at.Index})
	}
	tx.configChanged()
	return nil
}

func notOwner(s *scope.Scope, named scope.NodeID, field string) *api.Error {
	err := refuse(api.NotOwner, "%s names %q, but the owner of scope %q is %q (epoch %d)", field, named, s.Prefix, s.Owner, s.Epoch)
	err.Owner, err.Epoch = string(s.Owner), s.Epoch
	return err
}

func (tx *txn) clearTombstone(p scope.Prefix, fenced fencing, want uint64) *api.Error {
	t, ok := tx.tombstones.Get(p)
	switch {
	case !ok:
		return refuse(api.NotFound, "scope %q is not declared", p)
	case fenced.node == "":
		err := refuse(api.NotFound, "scope %q is retired already; to clear what its last owner %q left, once that node is off, add %s",
			p, t.Owner, tx.fencedFlags(t.Owner))
		err.Owner, err.Epoch = string(t.Owner), t.Epoch
		return err
	case fenced.node != t.Owner:
		err := refuse(api.NotOwner, "source-fenced names %q, but the last owner of the retired scope %q was %q", fenced.node, p, t.Owner)
		err.Owner, err.Epoch = string(t.Owner), t.Epoch
		return err
	case want != 0 && want != t.Epoch:
		err := refuse(api.StaleEpoch, "the retired scope %q had epoch %d (owner %q), expected was %d; look at it again and decide anew", p, t.Epoch, t.Owner, want)
		err.Owner, err.Epoch = string(t.Owner), t.Epoch
		return err
	}
	if err := tx.checkFenced(fenced); err != nil {
		return err
	}
	tx.dropTombstone(t, "fenced")
	tx.configChanged()
	return nil
}
