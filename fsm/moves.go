package fsm

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Budgets of a move. They are the leader's to keep, see [Reconcile].
const (
	AgentWindow    = 5 * time.Second  // programs answer at once
	AssistedWindow = 10 * time.Minute // people do not
	MaxWindow      = time.Hour        // nobody leaves a scope closed for longer on purpose
	DefaultTimeout = 10 * time.Minute
	MaxTimeout     = 24 * time.Hour // a copy that takes longer needs another tool
)

func (tx *txn) startMove(c *StartMove) (*Result, *api.Error) {
	m, refusal := tx.readStart(c)
	if refusal != nil {
		return nil, refusal
	}
	if old, ok := tx.moves.Get(m.ID); ok {
		return sameMove(old, m, c.GetExpectedEpoch())
	}
	s, ok := tx.scopes.Get(m.Prefix)
	if !ok {
		return nil, refuse(api.NotFound, "scope %q is not declared", m.Prefix)
	}
	for met := range tx.moves.RunningOver(m.Prefix) {
		return nil, inFlight(met)
	}
	if err := tx.checkStart(s, m, c.GetExpectedEpoch()); err != nil {
		return nil, err
	}
	m.Epoch = s.Epoch
	first := migration.Quiescing
	if m.PreCopy {
		first = migration.Copying
	}
	m = m.Enter(first, tx.at.Index, tx.at.TimeMS)
	var err error
	if tx.moves, err = tx.moves.Start(m); err != nil {
		return nil, refuse(api.Limit, "move of %q: %v", m.Prefix, err)
	}
	tx.use(m.From, func(u *uses) { u.moves++ })
	tx.use(m.To, func(u *uses) { u.moves++ })
	tx.concern(m.From, m.To)
	tx.emit(Event{Cause: "start", Move: &m})
	return &Result{Move: m.ID, Epoch: m.Epoch}, tx.markQuiesced(m)
}

func inFlight(met migration.Move) *api.Error {
	err := refuse(api.MoveInFlight, "move %s of %q from %q to %q is running (%s); wait for it or abort it: scope-registry move abort %s",
		met.ID, met.Prefix, met.From, met.To, met.Phase, met.ID)
	err.Move, err.ConflictsWith = met.ID, met.Prefix.Text()
	return err
}

// sameMove answers a start that was made before. One of another kind is another
// move: who asked for it would give words, or wait for agents, in vain.
func sameMove(old, m migration.Move, epoch uint64) (*Result, *api.Error) {
	if old.Prefix != m.Prefix || old.From != m.From || old.To != m.To || old.Mode != m.Mode || epoch != 0 && old.Epoch != epoch {
		err := refuse(api.Exists, "move %s exists: %q from %q to %q, mode %s, epoch %d (%s); use another id",
			old.ID, old.Prefix, old.From, old.To, old.Mode, old.Epoch, old.Phase)
		err.Move, err.Epoch = old.ID, old.Epoch
		return nil, err
	}
	return &Result{Move: old.ID, Epoch: old.Epoch}, nil
}

// readStart reads the command's own values, before it is held against the state.
func (tx *txn) readStart(c *StartMove) (m migration.Move, refusal *api.Error) {
	if err := checkPrefix(c.GetPrefix()); err != nil {
		return m, err
	}
	if err := scope.NodeID(c.GetId()).Check(); err != nil {
		return m, refuse(api.Invalid, "the move's id: %v", err)
	}
	mode, err := migration.ParseMode(c.GetMode())
	if err != nil || mode == migration.Forced {
		return m, refuse(api.Invalid, "mode %q is not known; use agent or assisted", c.GetMode())
	}
	if err := checkReason(c.GetReason()); err != nil {
		return m, err
	}
	window, timeout := defaults(mode, c.GetWindowMs(), c.GetTimeoutMs())
	switch {
	case window > MaxWindow || c.GetWindowMs() > uint64(MaxWindow/time.Millisecond):
		return m, refuse(api.Invalid, "the window of %d ms is over the limit of %s", c.GetWindowMs(), MaxWindow)
	case timeout > MaxTimeout || c.GetTimeoutMs() > uint64(MaxTimeout/time.Millisecond):
		return m, refuse(api.Invalid, "the timeout of %d ms is over the limit of %s", c.GetTimeoutMs(), MaxTimeout)
	}
	return migration.Move{ID: c.GetId(), Prefix: scope.Prefix(c.GetPrefix()), From: scope.NodeID(c.GetFrom()), To: scope.NodeID(c.GetTo()),
		Mode: mode, PreCopy: c.GetPrecopy(), Window: window, Timeout: timeout, Actor: tx.actor, Reason: c.GetReason()}, nil
}

func checkReason(text string) *api.Error {
	if len(text) > MaxReason {
		return refuse(api.TooLarge, "the reason has %d bytes, the limit is %d", len(text), MaxReason)
	}
	return nil
}

// defaults fills in what was left out. The timeout is never shorter than the
// window, or the window that was asked for could not be used.
func defaults(mode migration.Mode, windowMS, timeoutMS uint64) (window, timeout time.Duration) {
	window, timeout = time.Duration(windowMS)*time.Millisecond, time.Duration(timeoutMS)*time.Millisecond
	if windowMS == 0 {
		window = AgentWindow
		if mode == migration.Assisted {
			window = AssistedWindow
		}
	}
	if timeoutMS == 0 {
		timeout = max(DefaultTimeout, window)
	}
	return window, timeout
}

func (tx *txn) checkStart(s *scope.Scope, m migration.Move, expected uint64) *api.Error {
	if tx.Held(s) {
		return tx.onHold(fmt.Sprintf("scope %q: moving it", s.Prefix))
	}
	if m.From != s.Owner {
		return notOwner(s, m.From, "from")
	}
	if err := tx.needNode(m.To, "to"); err != nil {
		return err
	}
	if tx.cluster.Hold && !tx.met(m.To) {
		return tx.onHold(fmt.Sprintf("scope %q: moving it to node %q, which has not met this incarnation,", s.Prefix, m.To))
	}
	if m.To == m.From {
		return refuse(api.Invalid, "from and to are both %q; name another target", m.To)
	}
	if expected != 0 {
		if err := checkEpoch(s, m.Prefix, expected); err != nil {
			return err
		}
	}
	for c := range tx.cleanups.overOf(m.To, m.Prefix) {
		err := refuse(api.CleanupPending, "node %q still has to delete its old copy of %q (move %s); %s", c.Node, c.Prefix, c.Move, tx.untilCleaned(c.Node, c.Move))
		err.Move, err.ConflictsWith, err.Owner = c.Move, c.Prefix.Text(), string(c.Node)
		return err
	}
	if m.Mode == migration.Agent {
		for _, id := range []scope.NodeID{m.From, m.To} {
			// Never a silent change of mode: an operator who believes that agents
			// close and ship would leave the source open.
			if n, _ := tx.node(id); !n.Live() {
				return refuse(api.NodeDown, "node %q has no live session, which mode agent needs of %q and %q; "+
					"start that node, or use mode assisted and give their words yourself", id, m.From, m.To)
			}
		}
	}
	return nil
}

// markQuiesced writes into the scope's record whether a move holds it closed, so
// that one lookup gives the verdict.
func (tx *txn) markQuiesced(m migration.Move) *api.Error {
	s, ok := tx.scopes.Get(m.Prefix)
	if !ok {
		return nil
	}
	next := *s
	next.Quiesced = ""
	if m.Quiesced() {
		next.Quiesced = m.To
	}
	if next == *s {
		return nil
	}
	return tx.putScope(next, m.Phase.String())
}

// step finds the running move, and makes sure that it is in phase want and that
// its source still owns the scope in the tenure the move began in.
func (tx *txn) step(id, name string, want migration.Phase) (m migration.Move, s scope.Scope, refusal *api.Error) {
	m, ok := tx.moves.Get(id)
	if !ok {
		return m, s, refuse(api.NotFound, "move %q is not known; list them with: scope-registry move list", id)
	}
	if err := m.Require(name, want); err != nil {
		refusal := refuse(api.WrongPhase, "%v", err)
		refusal.Move = m.ID
		return m, s, refusal
	}
	owned, ok := tx.scopes.Get(m.Prefix)
	if !ok || owned.Owner != m.From || owned.Epoch != m.Epoch {
		refusal := refuse(api.StaleEpoch, "move %s: %q no longer owns %q at epoch %d", m.ID, m.From, m.Prefix, m.Epoch)
		refusal.Move = m.ID
		return m, s, refusal
	}
	return m, *owned, nil
}

func (tx *txn) quiesce(c *Quiesce) (*Result, *api.Error) {
	m, _, err := tx.step(c.GetMove(), "quiesce", migration.Copying)
	if err != nil {
		return nil, err
	}
	return tx.advance(m.Enter(migration.Quiescing, tx.at.Index, tx.at.TimeMS))
}

func (tx *txn) shipped(c *Shipped) (*Result, *api.Error) {
	m, _, err := tx.step(c.GetMove(), "shipped", migration.Quiescing)
	if err != nil {
		return nil, err
	}
	if err := tx.checkWord(m, "shipped", c.GetSession(), m.From); err != nil {
		return nil, err
	}
	if m.Shipped, err = readManifest(c.GetManifest()); err != nil {
		return nil, err
	}
	return tx.advance(m.Enter(migration.Shipped, tx.at.Index, tx.at.TimeMS))
}

func (tx *txn) advance(m migration.Move) (*Result, *api.Error) {
	tx.moves = tx.moves.Update(m)
	tx.concern(m.From, m.To)
	tx.emit(Event{Cause: m.Phase.String(), Move: &m})
	return &Result{Move: m.ID, Epoch: m.Epoch}, tx.markQuiesced(m)
}

func readManifest(c *Manifest) (*migration.Manifest, *api.Error) {
	if len(c.GetDigest()) > MaxDigest {
		return nil, refuse(api.TooLarge, "the manifest's digest has %d bytes, the limit is %d", len(c.GetDigest()), MaxDigest)
	}
	return &migration.Manifest{Keys: c.GetKeys(), Bytes: c.GetBytes(), Digest: c.GetDigest()}, nil
}

// ready is the flip. Both nodes hold the same records, or the move aborts.
func (tx *txn) ready(c *Ready) (*Result, *api.Error) {
	m, s, err := tx.step(c.GetMove(), "ready", migration.Shipped)
	if err != nil {
		return nil, err
	}
	if err := tx.checkWord(m, "ready", c.GetSession(), m.To); err != nil {
		return nil, err
	}
	if m.Ready, err = readManifest(c.GetManifest()); err != nil {
		return nil, err
	}
	if mismatch := m.MatchReady(*m.Ready); mismatch != nil {
		tx.keep = true
		refusal := refuse(api.ManifestMismatch, "move %s is aborted, %q keeps %q: %v", m.ID, m.From, m.Prefix, mismatch)
		refusal.Move, refusal.Owner, refusal.Epoch = m.ID, string(m.From), m.Epoch
		if err := tx.endAborted(m, CauseMismatch, mismatch.Error()); err != nil {
			return nil, err
		}
		return nil, refusal
	}
	from := s.Owner
	s = tx.handOver(s, m.To)
	m.NewEpoch = s.Epoch
	tx.moves, m = tx.moves.Commit(m.Enter(migration.Done, tx.at.Index, tx.at.TimeMS))
	tx.endMove(m)
	if err := tx.putScope(s, "flip"); err != nil {
		return nil, err
	}
	tx.oweCleanup(s, from, m.Epoch, m.ID)
	tx.configChanged()
	return &Result{Move: m.ID, Epoch: s.Epoch, Owner: string(s.Owner)}, nil
}

// checkWord refuses a node's word that is not that of its live session. In mode
// assisted the operator gives every word, and a node none.
func (tx *txn) checkWord(m migration.Move, word, session string, side scope.NodeID) *api.Error {
	switch {
	case m.Mode != migration.Agent && session == "":
		return nil
	case m.Mode != migration.Agent:
		return refuse(api.Invalid, "move %s is in mode %s: %s is the operator's word, without a session", m.ID, m.Mode, word)
	case session == "":
		return refuse(api.Invalid, "move %s is in mode agent: %s is the word of node %q, with its session; wait for it, or abort the move", m.ID, word, side)
	}
	n, err := tx.live(session)
	if err != nil {
		return err
	}
	if n.ID != side {
		return refuse(api.Invalid, "move %s: %s is the word of node %q, and session %q is of node %q", m.ID, word, side, session, n.ID)
	}
	return nil
}

// handOver returns the scope with to as writer and owner. A fallback that becomes
// the writer leaves the scope without one: a node is no fallback for itself.
func (tx *txn) handOver(s scope.Scope, to scope.NodeID) scope.Scope {
	s.Writer = to
	if s.Fallback == to {
		s.Fallback = ""
	}
	return tx.newTenure(s, to)
}

// newTenure returns the scope with owner as its owner under a new epoch. What
// the owner had still to delete of it is cancelled: it is to serve it.
func (tx *txn) newTenure(s scope.Scope, owner scope.NodeID) scope.Scope {
	for owed := range tx.cleanups.overOf(owner, s.Prefix) {
		tx.dropCleanup(owed, "cancelled")
		tx.warn("node %s had been told to delete its copy of %q: it may be gone already", owner, owed.Prefix)
	}
	s.Owner, s.Epoch = owner, tx.takeEpoch()
	s.Quiesced, s.Changed = "", tx.at.Index
	s.Armed = s.NeedsLease()
	s.Released = s.Released && tx.met(owner) // a release is of an owner that has met the incarnation
	return s
}

// oweCleanup records that old holds a copy which it must delete. The scope's
// fallback keeps its copy: it may have to serve it again.
func (tx *txn) oweCleanup(s scope.Scope, old scope.NodeID, epoch uint64, move string) {
	if old == s.Fallback {
		return
	}
	if c, ok := tx.cleanups.get(old, s.Prefix); ok {
		tx.dropCleanup(c, "superseded")
	}
	tx.putCleanup(Cleanup{old, s.Prefix, epoch, move, tx.at.Index})
}

func (tx *txn) endMove(m migration.Move) {
	tx.use(m.From, func(u *uses) { u.moves-- })
	tx.use(m.To, func(u *uses) { u.moves-- })
	tx.concern(m.From, m.To)
	tx.orphans = append(tx.orphans, m.Prefix) // it was not taken over while it moved
	tx.emit(Event{Cause: m.Phase.String(), Move: &m})
}

func (tx *txn) abort(c *Abort) (*Result, *api.Error) {
	m, ok := tx.moves.Get(c.GetMove())
	if !ok {
		return nil, refuse(api.NotFound, "move %q is not known; list them with: scope-registry move list", c.GetMove())
	}
	if !m.Running() {
		err := refuse(api.WrongPhase, "move %s is %s already; nothing is left to abort", m.ID, m.Phase)
		err.Move = m.ID
		return nil, err
	}
	cause, err := tx.abortCause(m, c)
	if err != nil {
		return nil, err
	}
	if err := checkReason(c.GetReason()); err != nil {
		return nil, err
	}
	return &Result{Move: m.ID, Epoch: m.Epoch, Owner: string(m.From)}, tx.endAborted(m, cause, c.GetReason())
}

// abortCause tells who wants the move to end: a node of it, with its session,
// or else the operator or the leader.
func (tx *txn) abortCause(m migration.Move, c *Abort) (string, *api.Error) {
	cause := c.GetCause()
	switch {
	case c.GetSession() != "" && cause != "":
		return "", refuse(api.Invalid, "move %s: a node's abort has a session and no cause, given was %q", m.ID, cause)
	case c.GetSession() != "":
		side, name := m.From, CauseSource
		if n, err := tx.live(c.GetSession()); err == nil && n.ID == m.To {
			side, name = m.To, CauseTarget
		}
		return name, tx.checkWord(m, "abort", c.GetSession(), side)
	case cause == "":
		return CauseOperator, nil
	case cause == CauseOperator || cause == CauseWindow || cause == CauseTimeout:
		return cause, nil
	}
	return "", refuse(api.Invalid, "abort cause %q is not known", cause)
}

// Why a move aborted.
const (
	CauseOperator = "operator"
	CauseSource   = "source"   // the source said so
	CauseTarget   = "target"   // the target said so
	CauseSession  = "session"  // a session expired that the move needed
	CauseWindow   = "window"   // quiescing and shipped took longer than the window
	CauseTimeout  = "timeout"  // the whole move took longer than its timeout
	CauseForced   = "forced"   // a force took the scope
	CauseMismatch = "mismatch" // the target held other records than were shipped
	CauseRestored = "restored" // the cluster was restored from a backup
)

func (tx *txn) endAborted(m migration.Move, cause, detail string) *api.Error {
	m.Cause, m.Detail = cause, detail
	tx.moves, m = tx.moves.Abort(m.Enter(migration.Aborted, tx.at.Index, tx.at.TimeMS))
	tx.endMove(m)
	return tx.markQuiesced(m)
}
