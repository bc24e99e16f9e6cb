package fsm

import (
	"iter"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/migration"
)

// Records yields the state as the records of a snapshot, in one canonical
// order: equal states yield equal records. [Loader] reverses it.
func (s State) Records() iter.Seq[*pb.Record] {
	return func(yield func(*pb.Record) bool) {
		_ = s.headRecords(yield) && s.scopeRecords(yield) && s.tombstoneRecords(yield) && s.moveRecords(yield) && s.tailRecords(yield)
	}
}

func (s State) clusterRecord() *pb.Record {
	return &pb.Record{Kind: &pb.Record_Cluster{Cluster: &pb.ClusterRecord{
		Id: s.cluster.ID, Incarnation: s.cluster.Incarnation, IncarnationTag: s.cluster.Tag, Index: s.index,
		ConfigIndex: s.configIndex, NextEpoch: s.cluster.NextEpoch, DedupFloor: s.dedup.floor,
		Hold: s.cluster.Hold, Complete: s.cluster.Complete, Checked: s.checked.record(), IndexBase: s.base,
		LogFormat: s.logFormat, FirstToken: s.tokens.first, TokensChanged: s.tokens.changed, Audited: s.audit.last}}}
}

// headRecords yields the cluster and the nodes.
func (s State) headRecords(yield func(*pb.Record) bool) bool {
	if !yield(s.clusterRecord()) {
		return false
	}
	for n := range s.Nodes() {
		if !yield(s.nodeRecord(n)) {
			return false
		}
	}
	return true
}

func (s State) scopeRecords(yield func(*pb.Record) bool) bool {
	for c := range s.scopes.Scopes() {
		r := &pb.ScopeRecord{Prefix: []byte(c.Prefix), Writer: string(c.Writer), Fallback: string(c.Fallback), Owner: string(c.Owner),
			Epoch: c.Epoch, Failover: c.Failover.String(), Lease: c.Lease.String(), Armed: c.Armed, Changed: c.Changed, Quiesced: string(c.Quiesced),
			Released: c.Released}
		if !yield(&pb.Record{Kind: &pb.Record_Scope{Scope: r}}) {
			return false
		}
	}
	return true
}

func (s State) tombstoneRecords(yield func(*pb.Record) bool) bool {
	for _, t := range s.tombstones.All() {
		r := &pb.TombstoneRecord{Prefix: []byte(t.Prefix), Owner: string(t.Owner), Epoch: t.Epoch, RetiredIndex: t.RetiredIndex}
		if !yield(&pb.Record{Kind: &pb.Record_Tombstone{Tombstone: r}}) {
			return false
		}
	}
	return true
}

func (s State) nodeRecord(n Node) *pb.Record {
	r := &pb.NodeRecord{Id: string(n.ID), Addr: n.Addr, Identity: n.Identity, Incarnation: n.Incarnation, IncarnationTag: n.Tag,
		Expired: n.Expired, Fenced: n.Fenced}
	if n.Live() {
		held, _ := s.node(n.ID)
		r.Session = &pb.SessionRecord{Id: n.Session.ID, TokenHash: []byte(held.token), Opened: n.Session.Opened, View: n.Session.View,
			Concern: n.Session.Concern}
	}
	return &pb.Record{Kind: &pb.Record_Node{Node: r}}
}

// moveRecords yields running moves, then finished ones from the oldest on, so
// that loading them in this order builds the same table.
func (s State) moveRecords(yield func(*pb.Record) bool) bool {
	for m := range s.moves.Running() {
		if !yield(moveRecord(m)) {
			return false
		}
	}
	for m := range s.moves.FinishedOldest() {
		if !yield(moveRecord(m)) {
			return false
		}
	}
	return true
}

func moveRecord(m migration.Move) *pb.Record {
	r := &pb.MoveRecord{Id: m.ID, Prefix: []byte(m.Prefix), From: string(m.From), To: string(m.To), Phase: m.Phase.String(), Mode: m.Mode.String(),
		Precopy: m.PreCopy, Epoch: m.Epoch, NewEpoch: m.NewEpoch, WindowMs: uint64(m.Window.Milliseconds()), TimeoutMs: uint64(m.Timeout.Milliseconds()),
		Actor: m.Actor, Reason: m.Reason, Shipped: manifestRecord(m.Shipped), Ready: manifestRecord(m.Ready), Cause: m.Cause, Detail: m.Detail, Finished: m.Finished}
	for _, st := range m.Stamps {
		r.Stamps = append(r.Stamps, &pb.Stamp{Phase: st.Phase.String(), Index: st.Index, TimeMs: st.TimeMS})
	}
	return &pb.Record{Kind: &pb.Record_Move{Move: r}}
}

func manifestRecord(m *migration.Manifest) *pb.Manifest {
	if m == nil {
		return nil
	}
	return &pb.Manifest{Keys: m.Keys, Bytes: m.Bytes, Digest: m.Digest}
}

func (s State) tailRecords(yield func(*pb.Record) bool) bool {
	return s.sideRecords(yield) && s.keptRecords(yield) && s.stagedRecords(yield)
}

// sideRecords yields cleanups, servers and tokens.
func (s State) sideRecords(yield func(*pb.Record) bool) bool {
	for c := range s.cleanups.all() {
		r := &pb.CleanupRecord{Node: string(c.Node), Prefix: []byte(c.Prefix), Epoch: c.Epoch, Move: c.Move, SinceIndex: c.Since}
		if !yield(&pb.Record{Kind: &pb.Record_Cleanup{Cleanup: r}}) {
			return false
		}
	}
	for _, server := range s.servers {
		if !yield(serverRecord(server)) {
			return false
		}
	}
	for _, t := range s.tokens.byID.All() {
		if !yield(t.record()) {
			return false
		}
	}
	return true
}

// keptRecords yields the audit and the remembered results.
func (s State) keptRecords(yield func(*pb.Record) bool) bool {
	for r := range s.Audit(1) {
		if !yield(&pb.Record{Kind: &pb.Record_Audit{Audit: r}}) {
			return false
		}
	}
	for number, c := range s.dedup.all() {
		if !yield(&pb.Record{Kind: &pb.Record_Dedup{Dedup: c.record(number)}}) {
			return false
		}
	}
	return true
}

// stagedRecords yields the parts of a backup that is on its way into the log.
func (s State) stagedRecords(yield func(*pb.Record) bool) bool {
	for _, part := range s.staged.parts {
		if !yield(&pb.Record{Kind: &pb.Record_Staged{Staged: &pb.StagedRecord{Id: s.staged.id, Data: part}}}) {
			return false
		}
	}
	return true
}
