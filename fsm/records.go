package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/snapshot"
)

// Records yields the state as the records of a snapshot, in one canonical
// order: equal states yield equal records. [Loader] reverses it.
func (s State) Records() iter.Seq[*pb.Record] {
	return func(yield func(*pb.Record) bool) {
		_ = yield(s.clusterRecord()) && s.configRecords(yield) && s.moveRecords(yield) && s.tailRecords(yield)
	}
}

// Encode writes the state as a snapshot stream, see package snapshot. The error
// is that of to.
func (s State) Encode(to io.Writer) error { return s.encode(to, nil) }

// encode also writes the record that only a backup ends with.
func (s State) encode(to io.Writer, last *pb.Record) error {
	w, err := snapshot.NewWriter(to)
	if err != nil {
		return err
	}
	for record := range s.Records() {
		if err := w.Write(record); err != nil {
			return err
		}
	}
	if last != nil {
		if err := w.Write(last); err != nil {
			return err
		}
	}
	return w.Close()
}

func (s State) clusterRecord() *pb.Record {
	return &pb.Record{Kind: &pb.Record_Cluster{Cluster: &pb.ClusterRecord{
		Id: s.cluster.ID, Incarnation: s.cluster.Incarnation, IncarnationTag: s.cluster.Tag, Index: s.index,
		ConfigIndex: s.configIndex, NextEpoch: s.cluster.NextEpoch, DedupFloor: s.dedup.floor,
		Hold: s.cluster.Hold, Complete: s.cluster.Complete, Checked: s.checked.record(), IndexBase: s.base}}}
}

func (s State) configRecords(yield func(*pb.Record) bool) bool {
	for n := range s.Nodes() {
		if !yield(s.nodeRecord(n)) {
			return false
		}
	}
	for c := range s.scopes.Scopes() {
		r := &pb.ScopeRecord{Prefix: []byte(c.Prefix), Writer: string(c.Writer), Fallback: string(c.Fallback), Owner: string(c.Owner),
			Epoch: c.Epoch, Failover: c.Failover.String(), Lease: c.Lease.String(), Armed: c.Armed, Changed: c.Changed, Quiesced: string(c.Quiesced),
			Released: c.Released}
		if !yield(&pb.Record{Kind: &pb.Record_Scope{Scope: r}}) {
			return false
		}
	}
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
	for d := range s.dedup.records() {
		if !yield(&pb.Record{Kind: &pb.Record_Dedup{Dedup: d}}) {
			return false
		}
	}
	for _, part := range s.staged.parts {
		if !yield(&pb.Record{Kind: &pb.Record_Staged{Staged: &pb.StagedRecord{Id: s.staged.id, Data: part}}}) {
			return false
		}
	}
	return true
}

// Hash is the SHA-256, in hex, over the encoded records. Equal states have
// equal hashes. It costs O(size of the state).
func (s State) Hash() string {
	h := sha256.New()
	var buf []byte
	for r := range s.Records() {
		body, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(buf[:0], r)
		if err != nil {
			panic(fmt.Sprintf("record %v of state %d cannot be encoded: %v", r, s.index, err)) // it came from a decoded command
		}
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(body))))
		h.Write(body)
		buf = body
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Loader builds a State from the records of a snapshot.
type Loader struct {
	tx      txn
	started bool
	ended   bool  // the record that a backup ends with has come
	written int64 // what it says
}

// NewLoader returns a Loader that has seen no record.
func NewLoader() *Loader { return &Loader{} }

// Add takes the next record, in the order of [State.Records]. An error means
// that the snapshot cannot be used.
func (l *Loader) Add(r *pb.Record) error {
	if hasUnknown(r.ProtoReflect()) {
		return fmt.Errorf("the snapshot has a record this release does not know; upgrade this server")
	}
	if _, first := r.GetKind().(*pb.Record_Cluster); first == l.started {
		return fmt.Errorf("the snapshot does not begin with exactly one cluster record")
	}
	if l.ended {
		return fmt.Errorf("the backup goes on after its end")
	}
	l.started = true
	l.tx.events, l.tx.orphans = nil, nil
	switch k := r.GetKind().(type) {
	case *pb.Record_Cluster:
		l.cluster(k.Cluster)
	case *pb.Record_Node:
		return l.node(k.Node)
	case *pb.Record_Scope:
		return l.scope(k.Scope)
	case *pb.Record_Tombstone:
		t := k.Tombstone
		l.tx.putTombstone(Tombstone{scope.Prefix(t.GetPrefix()), scope.NodeID(t.GetOwner()), t.GetEpoch(), t.GetRetiredIndex()})
	case *pb.Record_Move:
		return l.move(k.Move)
	case *pb.Record_Cleanup:
		c := k.Cleanup
		l.tx.putCleanup(Cleanup{scope.NodeID(c.GetNode()), scope.Prefix(c.GetPrefix()), c.GetEpoch(), c.GetMove(), c.GetSinceIndex()})
	case *pb.Record_Dedup:
		l.tx.dedup = l.tx.dedup.loadRecord(k.Dedup)
	case *pb.Record_Staged:
		return l.part(k.Staged)
	case *pb.Record_Written:
		l.ended, l.written = true, k.Written.GetTimeMs()
	case *pb.Record_Server:
		l.tx.servers = append(l.tx.servers, loadServer(k.Server)) // Check looks at them
	default:
		return fmt.Errorf("the snapshot has a record of no known kind; upgrade this server")
	}
	return nil
}

func (l *Loader) cluster(c *pb.ClusterRecord) {
	l.tx.cluster = Cluster{ID: c.GetId(), Incarnation: c.GetIncarnation(), Tag: c.GetIncarnationTag(), NextEpoch: c.GetNextEpoch(),
		Hold: c.GetHold(), Complete: c.GetComplete()}
	l.tx.base = c.GetIndexBase()
	l.tx.index, l.tx.configIndex, l.tx.dedup.floor = c.GetIndex(), c.GetConfigIndex(), c.GetDedupFloor()
	if k := c.GetChecked(); k != nil {
		l.tx.checked = Checked{k.GetIndex(), k.GetOf(), k.GetHash()}
	}
}

func (l *Loader) node(r *pb.NodeRecord) error {
	n := nodeRecord{Node: Node{ID: scope.NodeID(r.GetId()), Addr: r.GetAddr(), Identity: r.GetIdentity(), Expired: r.GetExpired(), Fenced: r.GetFenced(),
		Incarnation: r.GetIncarnation(), Tag: r.GetIncarnationTag()}}
	if h := r.GetSession(); h != nil {
		n.Session, n.token = Session{h.GetId(), h.GetOpened(), h.GetView(), h.GetConcern()}, string(h.GetTokenHash())
		if other, twice := l.tx.Holder(h.GetId()); twice || h.GetId() == "" {
			return fmt.Errorf("nodes %q and %q hold session %q", other.ID, n.ID, h.GetId())
		}
		l.tx.sessions = l.tx.sessions.with(n.ID, n.Session)
	}
	l.tx.putNode(n)
	return nil
}

func (l *Loader) scope(r *pb.ScopeRecord) error {
	failover, err := scope.ParseFailover(r.GetFailover())
	if err != nil {
		return err
	}
	lease, err := scope.ParseLease(r.GetLease())
	if err != nil {
		return err
	}
	if refusal := l.tx.putScope(scope.Scope{Prefix: scope.Prefix(r.GetPrefix()), Writer: scope.NodeID(r.GetWriter()), Fallback: scope.NodeID(r.GetFallback()),
		Owner: scope.NodeID(r.GetOwner()), Epoch: r.GetEpoch(), Failover: failover, Lease: lease, Armed: r.GetArmed(), Changed: r.GetChanged(),
		Quiesced: scope.NodeID(r.GetQuiesced()), Released: r.GetReleased()}, ""); refusal != nil {
		return refusal
	}
	return nil
}

func (l *Loader) move(r *pb.MoveRecord) error {
	phase, err := migration.ParsePhase(r.GetPhase())
	if err != nil {
		return err
	}
	mode, err := migration.ParseMode(r.GetMode())
	if err != nil {
		return err
	}
	m := migration.Move{ID: r.GetId(), Prefix: scope.Prefix(r.GetPrefix()), From: scope.NodeID(r.GetFrom()), To: scope.NodeID(r.GetTo()), Phase: phase, Mode: mode,
		PreCopy: r.GetPrecopy(), Epoch: r.GetEpoch(), NewEpoch: r.GetNewEpoch(), Window: time.Duration(r.GetWindowMs()) * time.Millisecond,
		Timeout: time.Duration(r.GetTimeoutMs()) * time.Millisecond, Actor: r.GetActor(), Reason: r.GetReason(), Shipped: loadManifest(r.GetShipped()),
		Ready: loadManifest(r.GetReady()), Cause: r.GetCause(), Detail: r.GetDetail(), Finished: r.GetFinished()}
	for _, st := range r.GetStamps() {
		p, err := migration.ParsePhase(st.GetPhase())
		if err != nil {
			return err
		}
		m.Stamps = append(m.Stamps, migration.Stamp{Phase: p, Index: st.GetIndex(), TimeMS: st.GetTimeMs()})
	}
	if l.tx.moves, err = l.tx.moves.Load(m); err != nil {
		return err
	}
	if m.Running() {
		l.tx.use(m.From, func(u *uses) { u.moves++ })
		l.tx.use(m.To, func(u *uses) { u.moves++ })
	}
	return nil
}

func loadManifest(m *pb.Manifest) *migration.Manifest {
	if m == nil {
		return nil
	}
	return &migration.Manifest{Keys: m.GetKeys(), Bytes: m.GetBytes(), Digest: m.GetDigest()}
}

// State returns what the records have built. It refuses records that no log can
// have built, see [State.Check].
func (l *Loader) State() (State, error) {
	if !l.started {
		return State{}, fmt.Errorf("the snapshot holds no cluster record")
	}
	if err := l.tx.Check(); err != nil {
		return State{}, fmt.Errorf("the snapshot contradicts itself: %w", err)
	}
	return l.tx.State, nil
}
