package fsm

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// Loader builds a State from the records of a snapshot. What there can be a
// million of is collected and put together at the end, see [Loader.State]: as
// one change after the other that would take ten times as long.
type Loader struct {
	tx      txn
	started bool
	ended   bool  // the record that a backup ends with has come
	written int64 // what it says

	scopes     scope.TableBuilder
	tombstones scope.Builder[Tombstone]
	tokens     scope.Builder[*tokenRecord]
	audited    uint64 // number of the newest audit record, as the cluster's record says
	audits     uint64 // how many have come
	heirs      heirBuilder
	unarmed    awaitingBuilder
	retired    awaitingBuilder
	counted    counts
	words      map[string]string // one copy of each id, however many scopes name it
}

// NewLoader returns a Loader that has seen no record.
func NewLoader() *Loader {
	return &Loader{tx: txn{edit: new(edit)}, heirs: heirBuilder{}, counted: counts{}, words: map[string]string{}}
}

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
	l.tx.events = nil
	switch k := r.GetKind().(type) {
	case *pb.Record_Cluster:
		l.cluster(k.Cluster)
	case *pb.Record_Node:
		return l.node(k.Node)
	case *pb.Record_Scope:
		return l.scope(k.Scope)
	case *pb.Record_Tombstone:
		return l.tombstone(k.Tombstone)
	case *pb.Record_Move:
		return l.move(k.Move)
	case *pb.Record_Cleanup:
		c := k.Cleanup
		l.tx.putCleanup(Cleanup{scope.NodeID(c.GetNode()), scope.Prefix(c.GetPrefix()), c.GetEpoch(), c.GetMove(), c.GetSinceIndex()})
	case *pb.Record_Dedup:
		var err error
		l.tx.dedup, err = l.tx.dedup.loadRecord(k.Dedup, l.tx.edit)
		return err
	case *pb.Record_Staged:
		return l.part(k.Staged)
	case *pb.Record_Written:
		l.ended, l.written = true, k.Written.GetTimeMs()
	case *pb.Record_Server:
		l.tx.servers = append(l.tx.servers, loadServer(k.Server)) // Check looks at them
	case *pb.Record_Token:
		return l.token(k.Token)
	case *pb.Record_Audit:
		return l.audit(k.Audit)
	default:
		return fmt.Errorf("the snapshot has a record of no known kind; upgrade this server")
	}
	return nil
}

func (l *Loader) cluster(c *pb.ClusterRecord) {
	l.tx.cluster = Cluster{ID: c.GetId(), Incarnation: c.GetIncarnation(), Tag: c.GetIncarnationTag(), NextEpoch: c.GetNextEpoch(),
		Hold: c.GetHold(), Complete: c.GetComplete()}
	l.tx.base, l.tx.logFormat = c.GetIndexBase(), c.GetLogFormat()
	l.tx.tokens.first, l.tx.tokens.changed, l.audited = c.GetFirstToken(), c.GetTokensChanged(), c.GetAudited()
	l.tx.index, l.tx.configIndex, l.tx.dedup.floor = c.GetIndex(), c.GetConfigIndex(), c.GetDedupFloor()
	if k := c.GetChecked(); k != nil {
		l.tx.checked = Checked{k.GetIndex(), k.GetOf(), k.GetHash()}
	}
}

func (l *Loader) node(r *pb.NodeRecord) error {
	n := nodeRecord{Node: Node{ID: name(l, r.GetId()), Addr: r.GetAddr(), Identity: r.GetIdentity(), Expired: r.GetExpired(), Fenced: r.GetFenced(),
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

// scope takes the record of a scope as protobuf has decoded it.
func (l *Loader) scope(r *pb.ScopeRecord) error {
	return l.policy(scope.Scope{Prefix: scope.Prefix(r.GetPrefix()), Writer: name(l, r.GetWriter()), Fallback: name(l, r.GetFallback()),
		Owner: name(l, r.GetOwner()), Epoch: r.GetEpoch(), Armed: r.GetArmed(), Changed: r.GetChanged(), Quiesced: name(l, r.GetQuiesced()),
		Released: r.GetReleased()}, r.GetFailover(), r.GetLease())
}

// addScope takes the next record if it is that of a scope; false where it is
// another, or has to be looked at by [Loader.Add].
func (l *Loader) addScope(record []byte) (taken bool, err error) {
	f, ok := readScope(record)
	if !ok || !l.started || l.ended {
		return false, nil
	}
	return true, l.policy(scope.Scope{Prefix: scope.Prefix(f.texts[fieldPrefix]), Writer: name(l, f.texts[fieldWriter]), Fallback: name(l, f.texts[fieldFallback]),
		Owner: name(l, f.texts[fieldOwner]), Epoch: f.numbers[fieldEpoch], Armed: f.numbers[fieldArmed] != 0, Changed: f.numbers[fieldChanged],
		Quiesced: name(l, f.texts[fieldQuiesced]), Released: f.numbers[fieldReleased] != 0}, word(l, f.texts[fieldFailover]), word(l, f.texts[fieldLease]))
}

// name is the one copy of a node id.
func name[T string | []byte](l *Loader, id T) scope.NodeID { return scope.NodeID(word(l, id)) }

func word[T string | []byte](l *Loader, text T) string {
	known, ok := l.words[string(text)]
	if !ok {
		known = string(text)
		l.words[known] = known
	}
	return known
}

// policy reads the words of the policy and puts the scope to the others.
func (l *Loader) policy(c scope.Scope, failover, lease string) (err error) {
	if c.Failover, err = scope.ParseFailover(failover); err != nil {
		return err
	}
	if c.Lease, err = scope.ParseLease(lease); err != nil {
		return err
	}
	s, err := l.scopes.Add(c)
	if err != nil {
		return err
	}
	l.counted.scope(s)
	if heritable(s) {
		l.heirs.add(s)
	}
	if s.NeedsLease() && !s.Armed {
		l.unarmed.add(s.Owner, s.Changed, s.Prefix)
	}
	return nil
}

func (l *Loader) tombstone(r *pb.TombstoneRecord) error {
	t := Tombstone{scope.Prefix(r.GetPrefix()), name(l, r.GetOwner()), r.GetEpoch(), r.GetRetiredIndex()}
	if !l.tombstones.Add(t.Prefix, t) {
		return fmt.Errorf("the tombstone of %q does not come after those of the prefixes before it", t.Prefix)
	}
	l.retired.add(t.Owner, t.RetiredIndex, t.Prefix)
	l.counted.of(t.Owner).tombstones++
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

// audit takes the record that follows the one before it.
func (l *Loader) audit(r *AuditRecord) error {
	if before := l.tx.audit.last; r.GetNumber() == 0 || before > 0 && r.GetNumber() != before+1 {
		return fmt.Errorf("audit record %d comes after %d", r.GetNumber(), before)
	}
	l.tx.audit = l.tx.audit.load(r, l.tx.edit)
	l.audits++
	return nil
}

func loadManifest(m *pb.Manifest) *migration.Manifest {
	if m == nil {
		return nil
	}
	return &migration.Manifest{Keys: m.GetKeys(), Bytes: m.GetBytes(), Digest: m.GetDigest()}
}

// State returns what the records have built, once. It refuses records that no log
// can have built, see [State.Check].
func (l *Loader) State() (State, error) {
	if !l.started {
		return State{}, fmt.Errorf("the snapshot holds no cluster record")
	}
	l.tx.scopes, l.tx.tombstones = l.scopes.Table(), l.tombstones.Index()
	l.tx.tokens.byID = l.tokens.Index()
	if want := min(l.audited, MaxAudit); l.tx.audit.last != l.audited || l.audits != want {
		return State{}, fmt.Errorf("the snapshot contradicts itself: it has %d audit records up to %d, and %d up to %d belong there", l.audits, l.tx.audit.last, want, l.audited)
	}
	l.tx.heirs, l.tx.unarmed, l.tx.retired = l.heirs.table(), l.unarmed.awaiting(), l.retired.awaiting()
	for n := range l.tx.Nodes() {
		r, _ := l.tx.node(n.ID)
		u := l.counted.of(n.ID)
		r.uses.scopes, r.uses.owned, r.uses.tombstones = u.scopes, u.owned, u.tombstones // the others are counted already
		l.tx.putNode(r)
	}
	if err := l.tx.Check(); err != nil {
		return State{}, fmt.Errorf("the snapshot contradicts itself: %w", err)
	}
	return l.tx.State, nil
}
