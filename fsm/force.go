package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// cleaned takes a copy off the list: its node deleted it or, in an operator's word
// with a reason, the node is off or runs no agent.
func (tx *txn) cleaned(c *Cleaned) *api.Error {
	if err := checkReason(c.GetReason()); err != nil {
		return err
	}
	p := scope.Prefix(c.GetPrefix())
	got, ok := tx.cleanups.get(scope.NodeID(c.GetNode()), p)
	if err := tx.checkCleaner(c, ok); err != nil {
		return err
	}
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

// checkCleaner refuses a word that is not the node's own, unless it is an
// operator's about a node that is off or runs no agent. Whether that node is off
// does not matter where it owes nothing.
func (tx *txn) checkCleaner(c *Cleaned, owed bool) *api.Error {
	node, p := scope.NodeID(c.GetNode()), scope.Prefix(c.GetPrefix())
	if c.GetSession() != "" {
		n, err := tx.live(c.GetSession())
		switch {
		case err != nil:
			return err
		case n.ID != node:
			return refuse(api.Invalid, "session %q is of node %q and cannot say what node %q deleted", c.GetSession(), n.ID, node)
		case c.GetEpoch() == 0:
			return refuse(api.Invalid, "node %q must say which cleanup of %q it has done; give its epoch", node, p)
		}
		return nil
	}
	if c.GetReason() == "" {
		return refuse(api.Invalid, "a reason is needed: it records why the copy of %q on %q counts as gone", p, c.GetNode())
	}
	if n, _ := tx.node(node); owed && n.Live() {
		return refuse(api.SessionBusy, "node %q has a live session and deletes its copy of %q itself; wait for it, or stop its process", node, p)
	}
	return nil
}

// force gives a scope to another node without its owner. It loses what the
// owner alone holds, so each thing the admin vouches for is asked for by name.
func (tx *txn) force(c *Force) (*Result, *api.Error) {
	s, refusal := tx.checkForce(c)
	if refusal != nil {
		return nil, refusal
	}
	for m := range tx.moves.RunningOver(s.Prefix) {
		if err := tx.endAborted(m, CauseForced, c.GetReason()); err != nil {
			return nil, err
		}
		tx.warn("move %s is aborted", m.ID)
	}
	to := scope.NodeID(c.GetTo())
	from, epoch, fallback, released := s.Owner, s.Epoch, s.Fallback, s.Released
	s = tx.handOver(s, to)
	if released && !s.Released {
		tx.warn("the scope is held again: %s has not met incarnation %d", to, tx.cluster.Incarnation)
	}
	if fallback == to {
		tx.warn("the scope has no fallback now: %s was it", to)
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
	return &Result{Move: m.ID, Epoch: s.Epoch, Owner: string(to)}, nil
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
	return *got, tx.checkOwnerOff(got, fencedWord(c))
}

// checkOwnerOff refuses to take a scope from an owner that may still write. A
// lease that is known to have ended speaks for itself: that of an armed scope
// whose owner had a session in this incarnation and has none. Of one that it had
// before a restore nothing is known, and a node that never had one runs no agent
// that would heed a lease, so that somebody must vouch for it.
func (tx *txn) checkOwnerOff(s *scope.Scope, fenced fencing) *api.Error {
	owner, _ := tx.node(s.Owner)
	switch {
	case fenced.node != "" && fenced.node != s.Owner:
		return notOwner(s, fenced.node, "source-fenced")
	case fenced.node != "":
		return tx.checkFenced(fenced)
	case owner.Live():
		return stillLive(owner.Node)
	case s.Armed && tx.Met(owner.Node):
		return nil
	}
	return refuse(api.Invalid, "if %q still runs, two nodes will write %q; make sure that it is off and say so with %s", s.Owner, s.Prefix, tx.fencedFlags(s.Owner))
}

// fencing is an admin's word that a node is off, as it stands in a command, with
// the identity of the data that the word is about.
type fencing struct {
	node     scope.NodeID
	identity string
}

func fencedWord(c interface {
	GetSourceFenced() string
	GetSourceFencedIdentity() string
}) fencing {
	return fencing{scope.NodeID(c.GetSourceFenced()), c.GetSourceFencedIdentity()}
}

// checkFenced refuses a word about a node that is not off, or about other data
// than the node last held a session with.
func (tx *txn) checkFenced(f fencing) *api.Error {
	n, _ := tx.node(f.node)
	if n.Live() {
		return stillLive(n.Node)
	}
	if n.Identity != f.identity {
		return refuse(api.IdentityChanged, "%s; make sure which data is meant, and that it is off", otherData(f, n.Identity))
	}
	return nil
}

// otherData says how the word differs from what the node last was.
func otherData(f fencing, last string) string {
	switch {
	case last == "":
		return fmt.Sprintf("the word that node %q is off names identity %q, but it never had a session: name none", f.node, f.identity)
	case f.identity == "":
		return fmt.Sprintf("the word that node %q is off must name the identity of its data, which was %q", f.node, last)
	}
	return fmt.Sprintf("the word that node %q is off names identity %q, its last session was of %q", f.node, f.identity, last)
}

// fencedFlags is how the word about this node is given. It names the data too if
// the node ever had a session, since the word is refused without.
func (s State) fencedFlags(id scope.NodeID) string {
	n, _ := s.node(id)
	if n.Identity == "" {
		return "--source-fenced " + string(id)
	}
	return fmt.Sprintf("--source-fenced %s --source-fenced-identity %s", id, n.Identity)
}

func stillLive(n Node) *api.Error {
	return refuse(api.SessionBusy, "node %q has a live session, opened at index %d, and so may still write; stop its process and wait until the session has expired, or move its scopes", n.ID, n.Session.Opened)
}
