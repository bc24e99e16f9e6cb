package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// cleaned takes a copy off the list: its node deleted it or, in an admin's word
// with a reason, the node is off or runs no agent.
func (tx *txn) cleaned(c *Cleaned) *api.Error {
	if c.GetReason() == "" {
		return refuse(api.Invalid, "a reason is needed: it records why the copy of %q on %q counts as gone", scope.Prefix(c.GetPrefix()), c.GetNode())
	}
	if err := checkReason(c.GetReason()); err != nil {
		return err
	}
	p := scope.Prefix(c.GetPrefix())
	got, ok := tx.cleanups.get(scope.NodeID(c.GetNode()), p)
	if !ok {
		return refuse(api.NotFound, "node %q owes no cleanup of %q", c.GetNode(), p)
	}
	if want := c.GetEpoch(); want != 0 && want != got.Epoch {
		err := refuse(api.StaleEpoch, "node %q owes a cleanup of %q from epoch %d, named was %d", c.GetNode(), p, got.Epoch, want)
		err.Epoch, err.Move = got.Epoch, got.Move
		return err
	}
	if want := c.GetMove(); want != "" && want != got.Move {
		err := refuse(api.WrongPhase, "move %s left no copy of %q on node %q, move %s did; name that one", want, p, c.GetNode(), got.Move)
		err.Epoch, err.Move = got.Epoch, got.Move
		return err
	}
	tx.dropCleanup(got, "cleaned")
	return nil
}

// force gives a scope to another node without its owner. It loses what the
// owner alone holds, so each thing the admin vouches for is asked for by name.
func (tx *txn) force(c *Force) (*Result, *api.Error) {
	s, refusal := tx.checkForce(c)
	if refusal != nil {
		return nil, refusal
	}
	var warnings []string
	for m := range tx.moves.RunningOver(s.Prefix) {
		if err := tx.endAborted(m, CauseForced, c.GetReason()); err != nil {
			return nil, err
		}
		warnings = append(warnings, "move "+m.ID+" is aborted")
	}
	to := scope.NodeID(c.GetTo())
	// The new owner must not delete what it is to serve.
	for owed := range tx.cleanups.overOf(to, s.Prefix) {
		tx.dropCleanup(owed, "cancelled")
		warnings = append(warnings, fmt.Sprintf("node %s had been told to delete its copy of %q: it may be gone already", to, owed.Prefix))
	}
	from, epoch, fallback := s.Owner, s.Epoch, s.Fallback
	s = tx.handOver(s, to)
	if fallback == to {
		warnings = append(warnings, "the scope has no fallback now: "+string(to)+" was it")
	}
	m := migration.Move{ID: c.GetId(), Prefix: s.Prefix, From: from, To: to, Mode: migration.Forced, Epoch: epoch, NewEpoch: s.Epoch,
		Actor: tx.actor, Reason: c.GetReason(), Cause: CauseForced}
	tx.moves, m = tx.moves.Commit(m.Enter(migration.Done, tx.at.Index, tx.at.TimeMS))
	tx.emit(Event{Cause: "force", Move: &m})
	if err := tx.putScope(s, "force"); err != nil {
		return nil, err
	}
	tx.oweCleanup(s, from, epoch, m.ID)
	tx.configChanged()
	return &Result{Move: m.ID, Epoch: s.Epoch, Owner: string(to), Warnings: warnings}, nil
}

func (tx *txn) checkForce(c *Force) (s scope.Scope, refusal *api.Error) {
	if err := checkPrefix(c.GetPrefix()); err != nil {
		return s, err
	}
	p, to := scope.Prefix(c.GetPrefix()), scope.NodeID(c.GetTo())
	if err := scope.NodeID(c.GetId()).Check(); err != nil {
		return s, refuse(api.Invalid, "the id of the force's record: %v", err)
	}
	if _, ok := tx.moves.Get(c.GetId()); ok {
		return s, refuse(api.Exists, "a move with the id %q exists; use another", c.GetId())
	}
	if err := checkReason(c.GetReason()); err != nil {
		return s, err
	}
	got, ok := tx.scopes.Get(p)
	if !ok {
		return s, refuse(api.NotFound, "scope %q is not declared", p)
	}
	if err := checkEpoch(got, p, c.GetExpectedEpoch()); err != nil {
		return s, err // an epoch of 0, which is none, is refused by this too
	}
	if err := tx.needNode(to, "to"); err != nil {
		return s, err
	}
	if to == got.Owner {
		return s, refuse(api.Invalid, "%q owns scope %q already", to, p)
	}
	if !c.GetAcceptLoss() {
		return s, refuse(api.Invalid, "writes that only %q holds are lost by this; say so with accept-loss", got.Owner)
	}
	// No owner has a session that could show it is fenced, so for every scope
	// somebody has to vouch that the owner is off.
	switch fenced := scope.NodeID(c.GetSourceFenced()); fenced {
	case got.Owner:
		return *got, nil
	case "":
		return s, refuse(api.Invalid, "if %q still runs, two nodes will write %q; make sure that it is off and say so with source-fenced %s", got.Owner, p, got.Owner)
	default:
		return s, notOwner(got, fenced, "source-fenced")
	}
}
