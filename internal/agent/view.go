package agent

import (
	"fmt"
	"iter"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Incarnation tells two histories of the cluster apart. The tag does where a
// number was used twice by mistake.
type Incarnation struct {
	Number uint64
	Tag    string
}

// Token is the fencing token of one tenure. The zero epoch is that of keys which
// no scope holds.
type Token struct {
	Incarnation
	Epoch uint64
}

// Peer is a node as a view has it.
type Peer struct {
	ID      scope.NodeID
	Addr    string
	Session string // id of the live session; "" is none
	Opened  uint64 // log index of its opening
}

// Move is a running move as a view has it.
type Move struct {
	ID       string
	Prefix   scope.Prefix
	From, To scope.NodeID
	Phase    migration.Phase
	Mode     migration.Mode
	Epoch    uint64 // of the source's tenure
	NewEpoch uint64 // of the target's, once done
	Shipped  migration.Manifest
}

// Cleanup is an old copy that a node must delete.
type Cleanup struct {
	Node   scope.NodeID
	Prefix scope.Prefix
	Epoch  uint64 // of the tenure that ended
	Move   string
}

// View is what a node knows of the registry's state at one index. It is an
// immutable value; the zero View knows nothing.
type View struct {
	index       uint64
	incarnation Incarnation
	hold        bool
	scopes      scope.Table
	nodes       scope.Index[Peer]
	moves       scope.Index[Move]    // running, by id
	flips       scope.Index[Move]    // by prefix: the done move that began the scope's present tenure, or gave it to its present owner before
	ended       uint64               // how many moves ever ended
	cleanups    scope.Index[Cleanup] // by node NUL prefix
}

// Index is the log index that the view shows.
func (v View) Index() uint64 { return v.index }

// Incarnation is the history of the cluster that the view is of.
func (v View) Incarnation() Incarnation { return v.incarnation }

// Holds reports whether the cluster serves no scope that is not released, since
// a restore.
func (v View) Holds() bool { return v.hold }

// Scopes is the ownership table.
func (v View) Scopes() scope.Table { return v.scopes }

// Peer returns the node with this id.
func (v View) Peer(id scope.NodeID) (Peer, bool) { return v.nodes.Get(scope.Prefix(id)) }

// Addr is the node's address, or its id if it has none.
func (v View) Addr(id scope.NodeID) string {
	if p, ok := v.Peer(id); ok && p.Addr != "" {
		return p.Addr
	}
	return string(id)
}

// Move returns the running move with this id.
func (v View) Move(id string) (Move, bool) { return v.moves.Get(scope.Prefix(id)) }

// Moves yields the running moves in the order of their ids.
func (v View) Moves() iter.Seq[Move] {
	return func(yield func(Move) bool) {
		for _, m := range v.moves.All() {
			if !yield(m) {
				return
			}
		}
	}
}

// Flip returns the last move that gave the scope to its owner and writer. That was
// the beginning of the present tenure, unless the scope was retired and declared
// anew for the same node since.
func (v View) Flip(p scope.Prefix) (Move, bool) {
	m, ok := v.flips.Get(p)
	if !ok {
		return Move{}, false
	}
	s, declared := v.scopes.Get(p)
	return m, declared && s.Epoch >= m.NewEpoch && s.Owner == m.To && s.Writer == m.To
}

// Cleanup returns what the node must delete of exactly this prefix.
func (v View) Cleanup(node scope.NodeID, p scope.Prefix) (Cleanup, bool) {
	return v.cleanups.Get(cleanupKey(node, p))
}

// Cleanups yields what the node must delete.
func (v View) Cleanups(node scope.NodeID) iter.Seq[Cleanup] {
	return func(yield func(Cleanup) bool) {
		for _, c := range v.cleanups.From(cleanupKey(node, ""), "") {
			if !yield(c) {
				return
			}
		}
	}
}

// A node id holds no NUL byte, so that one ends it.
func cleanupKey(node scope.NodeID, p scope.Prefix) scope.Prefix {
	return scope.Prefix(node) + "\x00" + p
}

// Closed reports whether nobody may write the scope: a move holds it closed, or
// the cluster does since a restore.
func (v View) Closed(s *scope.Scope) bool { return s.Quiesced != "" || v.hold && !s.Released }

// Loaded returns the view with some of the records of a snapshot, the first of
// which is that of the cluster, loaded into the zero View. Those of moves
// that have ended are counted already in that of the cluster.
func (v View) Loaded(index uint64, changes []api.Change) (View, error) {
	ended := v.ended
	for _, c := range changes {
		if c.Cluster != nil {
			ended = c.Cluster.Ended
		}
	}
	v, _, err := v.With(index, changes)
	v.ended = ended
	return v, err
}

// With returns the view in which the changes of one index have happened, and the
// scopes that they are about.
func (v View) With(index uint64, changes []api.Change) (next View, touched []scope.Prefix, err error) {
	v.index = index
	for _, c := range changes {
		switch {
		case c.Cluster != nil:
			v, err = v.withCluster(c.Cluster)
		case c.Node != nil:
			v.nodes = v.withNode(c)
		case c.Scope != nil:
			var p scope.Prefix
			v.scopes, p, err = v.withScope(c)
			v.flips = v.withoutFlip(p)
			touched = append(touched, p)
		case c.Move != nil:
			v, err = v.withMove(c)
		case c.Cleanup != nil:
			v.cleanups, err = v.withCleanup(c)
		}
		if err != nil {
			return v, nil, fmt.Errorf("watch item %d: %w", index, err)
		}
	}
	return v, touched, nil
}

// withCluster refuses another incarnation than the one that the view is of.
func (v View) withCluster(c *api.ClusterRecord) (View, error) {
	its := Incarnation{c.Incarnation, c.Tag}
	if v.incarnation != its && v.incarnation.Number > 0 {
		return v, fmt.Errorf("a record of incarnation %d (%q) in a view of %d (%q)", its.Number, its.Tag, v.incarnation.Number, v.incarnation.Tag)
	}
	v.incarnation, v.hold = its, c.Hold
	return v, nil
}

func (v View) withNode(c api.Change) scope.Index[Peer] {
	key := scope.Prefix(c.Node.ID)
	if c.Op == "delete" {
		return v.nodes.Without(key)
	}
	p := Peer{ID: scope.NodeID(c.Node.ID), Addr: c.Node.Addr}
	if s := c.Node.Session; s != nil {
		p.Session, p.Opened = s.ID, s.Opened
	}
	return v.nodes.With(key, p)
}

func (v View) withScope(c api.Change) (scope.Table, scope.Prefix, error) {
	s, err := readScope(c.Scope)
	if err != nil {
		return v.scopes, "", err
	}
	if c.Op == "delete" {
		return v.scopes.Without(s.Prefix), s.Prefix, nil
	}
	if next, ok := v.scopes.Replace(s); ok {
		return next, s.Prefix, nil
	}
	next, err := v.scopes.With(s)
	return next, s.Prefix, err
}

// withoutFlip forgets the move that began a tenure which is over, unless its target
// has the scope again: flips are no more than scopes.
func (v View) withoutFlip(p scope.Prefix) scope.Index[Move] {
	m, ok := v.flips.Get(p)
	if !ok {
		return v.flips
	}
	if s, declared := v.scopes.Get(p); !declared || s.Epoch > m.NewEpoch && (s.Owner != m.To || s.Writer != m.To) {
		return v.flips.Without(p)
	}
	return v.flips
}

func readScope(a *api.Scope) (s scope.Scope, err error) {
	if s.Prefix, err = scope.ParsePrefix(a.Prefix); err != nil {
		return s, err
	}
	if s.Failover, err = scope.ParseFailover(a.Failover); err != nil {
		return s, err
	}
	if s.Lease, err = scope.ParseLease(a.Lease); err != nil {
		return s, err
	}
	s.Writer, s.Fallback, s.Owner = scope.NodeID(a.Writer), scope.NodeID(a.Fallback), scope.NodeID(a.Owner)
	s.Epoch, s.Armed, s.Changed, s.Released = a.Epoch, a.Armed, a.Changed, a.Released
	if a.State == "quiesced" {
		s.Quiesced = scope.NodeID(a.Target)
	}
	return s, nil
}

// withMove keeps running moves, and of the ended ones that which began the
// scope's present tenure; it counts those that end.
func (v View) withMove(c api.Change) (View, error) {
	m, err := readMove(c.Move)
	if err != nil {
		return v, err
	}
	if m.Phase == migration.Done || m.Phase == migration.Aborted {
		v.ended++
	}
	switch {
	case c.Op == "delete" || m.Phase == migration.Aborted:
		v.moves = v.moves.Without(scope.Prefix(m.ID))
	case m.Phase == migration.Done:
		v.moves = v.moves.Without(scope.Prefix(m.ID))
		if later, ok := v.flips.Get(m.Prefix); !ok || later.NewEpoch < m.NewEpoch {
			v.flips = v.flips.With(m.Prefix, m)
		}
	default:
		v.moves = v.moves.With(scope.Prefix(m.ID), m)
	}
	return v, nil
}

func readMove(a *api.Move) (m Move, err error) {
	if m.Prefix, err = scope.ParsePrefix(a.Prefix); err != nil {
		return m, err
	}
	if m.Phase, err = migration.ParsePhase(a.Phase); err != nil {
		return m, err
	}
	if m.Mode, err = migration.ParseMode(a.Mode); err != nil {
		return m, err
	}
	m.ID, m.From, m.To = a.ID, scope.NodeID(a.From), scope.NodeID(a.To)
	m.Epoch, m.NewEpoch = a.Epoch, a.NewEpoch
	if a.Shipped != nil {
		m.Shipped = migration.Manifest{Keys: a.Shipped.Keys, Bytes: a.Shipped.Bytes, Digest: a.Shipped.Digest}
	}
	return m, nil
}

func (v View) withCleanup(c api.Change) (scope.Index[Cleanup], error) {
	p, err := scope.ParsePrefix(c.Cleanup.Prefix)
	if err != nil {
		return v.cleanups, err
	}
	if err := scope.NodeID(c.Cleanup.Node).Check(); err != nil {
		return v.cleanups, err // with a NUL byte it would be another node's
	}
	key := cleanupKey(scope.NodeID(c.Cleanup.Node), p)
	if c.Op == "delete" {
		return v.cleanups.Without(key), nil
	}
	return v.cleanups.With(key, Cleanup{scope.NodeID(c.Cleanup.Node), p, c.Cleanup.Epoch, c.Cleanup.Move}), nil
}
