package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Event is one change of one record. Exactly one record field is set: as it is
// now or, if Deleted, as it last was.
type Event struct {
	Cause     string
	Deleted   bool
	Cluster   *Cluster
	Node      *Node
	Scope     *scope.Scope
	Move      *migration.Move
	Cleanup   *Cleanup
	Tombstone *Tombstone
	Token     *Token
}

// At is where in raft's log a command stands.
type At struct {
	Index  uint64
	Term   uint64
	TimeMS int64 // leader's wall clock when it packed the entry
}

// ApplyEntry applies one log entry. The results are those of its commands, in
// order. An error means that this release cannot know what the entry does: the
// server must stop, as going on would make its state differ from the others'.
func (s State) ApplyEntry(index, term uint64, data []byte) (State, []*Result, []Event, error) {
	timeMS, envelopes, err := decodeEntry(data)
	if err != nil {
		return s, nil, nil, fmt.Errorf("log entry %d %w", index, err)
	}
	at := At{index, term, timeMS}
	tx := &txn{State: s} // one for all commands: most of them change little of a state that is large to copy
	if len(envelopes) > 1 {
		tx.edit = new(edit)
	}
	results, events := make([]*Result, 0, len(envelopes)), []Event(nil) // of what is refused the history keeps nothing
	for i, raw := range envelopes {
		e, err := DecodeEnvelope(raw)
		if err != nil {
			return s, nil, nil, fmt.Errorf("log entry %d, command %d: %w", index, i, err)
		}
		r, err := tx.apply(at, e)
		if err != nil {
			return s, nil, nil, fmt.Errorf("log entry %d, command %d: %w", index, i, err)
		}
		results, events = append(results, r), append(events, tx.events...)
	}
	next := tx.State
	next.index = index + next.base // also for an entry without commands, or waiters would hang
	return next, results, events, nil
}

// Apply is the one transition. It is pure and O(log n), a batch with prune
// excepted. The index advances also when the command is refused; nothing else
// does then, but for the audit, and for a Ready with another manifest, which
// aborts its move. Of a command that is known by its request id nothing is looked
// at again, who asks neither: the answer is the same, and leaves no other record.
func (s State) Apply(at At, e Envelope) (State, *Result, []Event) {
	tx := &txn{State: s}
	r, _ := tx.apply(at, e)
	return tx.State, r, tx.events
}

// apply is Apply with the error of [State.ApplyEntry]. The events are those of this command.
func (tx *txn) apply(at At, e Envelope) (*Result, error) {
	at.Index += tx.base
	tx.index = at.Index
	tx.begin(at, e)
	var hash commandHash
	if e.RequestID != "" {
		hash = tx.hashes.of(e.Command)
		earlier, err := tx.dedup.find(e.RequestID, hash)
		if err != nil {
			return resultOf(nil, err, at.Index), nil
		}
		if earlier != nil {
			return earlier, nil
		}
	}
	before := tx.State
	var done *Result
	d, err := tx.authorize(e.Origin, e.Command)
	if err == nil {
		done, err = tx.run(e.Command)
	}
	if err == nil || tx.keep {
		tx.takeOvers()
		tx.endHold()
	} else {
		tx.State, tx.events = before, tx.events[:0]
	}
	if done != nil {
		done.Warnings = append(done.Warnings, tx.warnings...)
	}
	result := resultOf(done, err, tx.at.Index) // a restore sets it
	if e.RequestID != "" {
		tx.dedup = tx.dedup.with(e.RequestID, hash, result, tx.edit)
	}
	tx.audited(e, d, result)
	return result, tx.unknown
}

// txn builds the next state. Its changes are dropped when the command is
// refused, so a handler may find out late that it must refuse.
type txn struct {
	State
	at     At
	actor  string
	origin *Origin // nil of the leader's own commands
	events []Event
	keep   bool // keep the changes although the command is refused
	kept   []string
	// warnings of the result.
	warnings []string
	// unknown is why this release cannot know what the command does.
	unknown error
	// orphans are scopes that may be without a live owner since this command.
	orphans []scope.Prefix
	hashes  hasher
	edit    *edit // nil for one command
}

// begin forgets the command before. Who wants its events has copied them.
func (tx *txn) begin(at At, e Envelope) {
	tx.at, tx.actor, tx.origin = at, e.Actor, e.Origin
	tx.events, tx.keep, tx.kept, tx.warnings, tx.unknown, tx.orphans = tx.events[:0], false, nil, nil, nil, nil
}

func (tx *txn) run(c Command) (*Result, *api.Error) {
	switch c := c.(type) {
	case *InitCluster:
		return tx.initCluster(c)
	case *SetNode:
		return &Result{}, tx.setNode(c)
	case *RemoveNode:
		return &Result{}, tx.removeNode(c)
	case *Declare:
		return tx.declare(c)
	case *Retire:
		return &Result{}, tx.retire(c)
	case *Batch:
		return tx.batch(c)
	case *StartMove:
		return tx.startMove(c)
	case *Quiesce:
		return tx.quiesce(c)
	case *Shipped:
		return tx.shipped(c)
	case *Ready:
		return tx.ready(c)
	case *Abort:
		return tx.abort(c)
	case *Cleaned:
		return &Result{}, tx.cleaned(c)
	case *Force:
		return tx.force(c)
	case *Release:
		return tx.release(c)
	}
	return tx.runSession(c)
}

func (tx *txn) runSession(c Command) (*Result, *api.Error) {
	switch c := c.(type) {
	case *OpenSession:
		return &Result{}, tx.openSession(c)
	case *CloseSession:
		return &Result{}, tx.closeSession(c)
	case *Expire:
		return &Result{}, tx.expire(c)
	case *Ack:
		return &Result{}, tx.ack(c)
	case *FenceNode:
		return &Result{}, tx.fenceNode(c)
	case *StageBackup:
		return &Result{}, tx.stageBackup(c)
	case *Restore:
		return tx.restore(c)
	case *DropBackup:
		return &Result{}, tx.dropBackup(c)
	case *CheckState:
		return &Result{}, tx.checkState(c)
	case *JoinServer:
		return &Result{}, tx.joinServer(c)
	case *RemoveServer:
		return &Result{}, tx.removeServer(c)
	case *SettleServer:
		return &Result{}, tx.settleServer(c)
	case *CreateToken:
		return &Result{}, tx.createToken(c, tx.origin)
	case *RevokeToken:
		return &Result{}, tx.revokeToken(c, tx.origin)
	}
	return nil, refuse(api.Invalid, "%T is not a command", c)
}

// initCluster names a new cluster, or notes of one that has its name that every
// server knows a newer format of the log by now.
func (tx *txn) initCluster(c *InitCluster) (*Result, *api.Error) {
	raises := c.GetLogFormat() > tx.logFormat
	switch {
	case c.GetId() == "" && (tx.cluster.ID == "" || c.GetLogFormat() == 0):
		return nil, refuse(api.Invalid, "the cluster id is empty")
	case c.GetId() == "" && !raises:
		return nil, refuse(api.Exists, "the log has format %d already, given was %d", tx.logFormat, c.GetLogFormat())
	case c.GetId() != "" && tx.cluster.ID != "":
		return nil, refuse(api.Exists, "the cluster already has the id %s", tx.cluster.ID)
	}
	if tx.logFormat = max(tx.logFormat, c.GetLogFormat()); c.GetId() != "" {
		tx.cluster.ID, tx.cluster.Tag, tx.cluster.Incarnation = c.GetId(), c.GetId(), 1
		tx.emitCluster("init")
	}
	return &Result{}, nil
}

// takeEpoch gives out the next epoch of the cluster. Epochs are never used
// twice, whatever scope they were for.
func (tx *txn) takeEpoch() uint64 {
	epoch := max(1, tx.cluster.NextEpoch)
	tx.cluster.NextEpoch = epoch + 1
	return epoch
}

func (tx *txn) emit(e Event) { tx.events = append(tx.events, e) }

func (tx *txn) warn(format string, args ...any) {
	tx.warnings = append(tx.warnings, fmt.Sprintf(format, args...))
}

// configChanged notes that nodes or scopes changed at this entry.
func (tx *txn) configChanged() { tx.configIndex = tx.at.Index }

// putNode returns the record as the state has it, which is never changed.
func (tx *txn) putNode(n nodeRecord) *nodeRecord {
	id := scope.Prefix(n.ID)
	tx.nodes = tx.nodes.With(id, &n)
	switch _, noted := tx.unmet.Get(id); {
	case noted && tx.Met(n.Node):
		tx.unmet = tx.unmet.Without(id)
	case !noted && !tx.Met(n.Node):
		tx.unmet = tx.unmet.With(id, struct{}{})
	}
	return &n
}

// use changes what is counted for a node. A node that is not declared has no
// counts: records only ever name declared nodes.
func (tx *txn) use(id scope.NodeID, change func(*uses)) {
	if n, ok := tx.node(id); ok {
		change(&n.uses)
		tx.putNode(n)
	}
}

// concern notes that this entry changes what the nodes must know: a scope that
// they may write or might take over, a move, what they retired or have to delete.
// It emits nothing: a node learns of the change itself. A takeover is of many
// scopes, so that a node's record is written once per entry.
func (tx *txn) concern(nodes ...scope.NodeID) {
	for _, id := range nodes {
		if n, ok := tx.node(id); ok && n.Live() && n.Session.Concern < tx.at.Index {
			n.Session.Concern = tx.at.Index
			tx.putNode(n)
		}
	}
}

// parties are the distinct nodes that a scope names.
func parties(s *scope.Scope) []scope.NodeID {
	out := []scope.NodeID{s.Writer}
	if s.Owner != s.Writer {
		out = append(out, s.Owner)
	}
	if s.Fallback != "" && s.Fallback != s.Writer && s.Fallback != s.Owner {
		out = append(out, s.Fallback)
	}
	return out
}

// recount corrects what is counted for the nodes of a scope that was old, or nil,
// and is next, or nil. Most changes of a scope concern none of its nodes, and a
// takeover is of many scopes: a count that stays is not written.
func (tx *txn) recount(old, next *scope.Scope) {
	type change struct{ scopes, owned int }
	var ids []scope.NodeID
	changes := make(map[scope.NodeID]change, 4)
	add := func(s *scope.Scope, by int) {
		if s == nil {
			return
		}
		for _, id := range parties(s) {
			c, known := changes[id]
			if !known {
				ids = append(ids, id) // maps have no order, and Apply must be one
			}
			c.scopes += by
			if id == s.Owner {
				c.owned += by
			}
			changes[id] = c
		}
	}
	add(old, -1)
	add(next, +1)
	for _, id := range ids {
		if c := changes[id]; c != (change{}) {
			tx.use(id, func(u *uses) { u.scopes, u.owned = u.scopes+c.scopes, u.owned+c.owned })
		}
	}
}

// putScope replaces a declared scope, or adds one that is known not to overlap,
// and keeps the counts of its nodes and what is looked up by node.
func (tx *txn) putScope(s scope.Scope, cause string) *api.Error {
	s.Writer, s.Fallback, s.Owner = tx.sameID(s.Writer), tx.sameID(s.Fallback), tx.sameID(s.Owner)
	old, ok := tx.scopes.Get(s.Prefix)
	if ok {
		tx.unindex(old)
		tx.scopes, _ = tx.scopes.Replace(s)
	} else {
		var err error
		if tx.scopes, err = tx.scopes.With(s); err != nil {
			return refuse(api.Overlap, "%v", err)
		}
	}
	tx.recount(old, &s)
	if ok {
		tx.concern(parties(old)...)
	}
	tx.concern(parties(&s)...)
	if heritable(&s) {
		tx.heirs = tx.heirs.with(&s)
		tx.orphans = append(tx.orphans, s.Prefix)
	}
	if s.NeedsLease() && !s.Armed {
		tx.unarmed = tx.unarmed.with(s.Owner, s.Changed, s.Prefix)
	}
	kept, _ := tx.scopes.Get(s.Prefix) // not a second copy, as watchers are kept many changes
	tx.emit(Event{Cause: cause, Scope: kept})
	return nil
}

// sameID is the copy of the id that the node's own record has: each command
// brings one, and a million scopes would keep as many.
func (s State) sameID(id scope.NodeID) scope.NodeID {
	if n, ok := s.nodes.Get(scope.Prefix(id)); ok {
		return n.ID
	}
	return id
}

// unindex takes a scope out of what is looked up by node.
func (tx *txn) unindex(s *scope.Scope) {
	if heritable(s) {
		tx.heirs = tx.heirs.without(s)
	}
	if s.NeedsLease() && !s.Armed {
		tx.unarmed = tx.unarmed.without(s.Owner, s.Changed, s.Prefix)
	}
}

func (tx *txn) putTombstone(t Tombstone) {
	tx.tombstones = tx.tombstones.With(t.Prefix, t)
	tx.retired = tx.retired.with(t.Owner, t.RetiredIndex, t.Prefix)
	tx.use(t.Owner, func(u *uses) { u.tombstones++ })
	tx.concern(t.Owner)
	tx.emit(Event{Cause: "retire", Tombstone: &t})
}

func (tx *txn) dropTombstone(t Tombstone, cause string) {
	tx.tombstones = tx.tombstones.Without(t.Prefix)
	tx.retired = tx.retired.without(t.Owner, t.RetiredIndex, t.Prefix)
	tx.use(t.Owner, func(u *uses) { u.tombstones-- })
	tx.concern(t.Owner)
	tx.emit(Event{Cause: cause, Deleted: true, Tombstone: &t})
}

func (tx *txn) putCleanup(c Cleanup) {
	tx.cleanups = tx.cleanups.with(c)
	tx.use(c.Node, func(u *uses) { u.cleanups++ })
	tx.concern(c.Node)
	tx.emit(Event{Cause: "cleanup", Cleanup: &c})
}

func (tx *txn) dropCleanup(c Cleanup, cause string) {
	tx.cleanups = tx.cleanups.without(c)
	tx.use(c.Node, func(u *uses) { u.cleanups-- })
	tx.concern(c.Node)
	tx.emit(Event{Cause: cause, Deleted: true, Cleanup: &c})
}
