package fsm

import (
	"fmt"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

var (
	genPrefix = rapid.SampledFrom([]string{"", "a", "a:", "a:x", "a:x:1", "a:y", "b", "b\x00", "b\xff", "c"})
	genNode   = rapid.SampledFrom([]string{"n1", "n1", "n2", "n2", "n3", "n4", "zz"})
	genMove   = rapid.SampledFrom([]string{"m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"})
	genEpoch  = rapid.SampledFrom([]uint64{0, 0, 0, 0, 1, 2, 3, 4})
)

// drawCommand draws a command over a small alphabet, so that commands meet. Of
// those that need exact values, most take them from the state.
func drawCommand(t *rapid.T, s State) Command {
	prefix, node, other := []byte(genPrefix.Draw(t, "prefix")), genNode.Draw(t, "node"), genNode.Draw(t, "other")
	if sc, ok := pick(t, s); ok && evenly(t) > 3 {
		prefix, node = sc.Prefix.Bytes(), string(sc.Owner)
	}
	if s.Cluster().Hold && evenly(t) < 5 {
		return drawOnHold(t, s, prefix)
	}
	if evenly(t) > 9 {
		return drawSession(t, s)
	}
	if rapid.IntRange(0, 9).Draw(t, "membership") == 0 {
		return drawServer(t, s)
	}
	move := genMove.Draw(t, "move")
	switch evenly(t) {
	case 0:
		return &SetNode{Id: node, Addr: rapid.SampledFrom([]string{"h:1", "h:2", "bad"}).Draw(t, "addr")}
	case 1:
		return &RemoveNode{Id: node, SourceFenced: fenced(t, node), SourceFencedIdentity: identityOf(t, s, node)}
	case 2, 3:
		return drawDeclare(t, s, prefix, node, other)
	case 4:
		return &Retire{Prefix: prefix, ExpectedEpoch: genEpoch.Draw(t, "epoch"), SourceFenced: fenced(t, node), SourceFencedIdentity: identityOf(t, s, node)}
	case 5:
		return drawBatch(t, s)
	case 6, 7:
		return &StartMove{Id: move, Prefix: prefix, From: node, To: other, Mode: rapid.SampledFrom([]string{"assisted", "agent", "agent"}).Draw(t, "mode"),
			Precopy: rapid.Bool().Draw(t, "precopy")}
	case 8:
		epoch := genEpoch.Draw(t, "epoch")
		if sc, ok := s.Scopes().Get(scope.Prefix(prefix)); ok {
			epoch = sc.Epoch
		}
		return &Force{Id: move, Prefix: prefix, To: other, ExpectedEpoch: epoch, AcceptLoss: true, SourceFenced: fenced(t, node),
			SourceFencedIdentity: identityOf(t, s, node)}
	case 9, 10:
		over := scope.Prefix(prefix)
		if evenly(t) < 5 {
			over = "" // any: most prefixes have none
		}
		for c := range s.CleanupsOver(over) {
			by := said(t, s, c.Node)
			if rapid.Bool().Draw(t, "an admin's word") {
				by = ""
			}
			return &Cleaned{Node: string(c.Node), Prefix: c.Prefix.Bytes(), Epoch: c.Epoch, Reason: "off", Session: by}
		}
		return &Cleaned{Node: node, Prefix: prefix, Reason: "off"}
	}
	return drawStep(t, s, move)
}

// evenly draws from 0 to 15, all as often; ranges prefer small numbers, and the
// commands drawn first would crowd out the others.
func evenly(t *rapid.T) (n int) {
	for range 4 {
		n *= 2
		if rapid.Bool().Draw(t, "bit") {
			n++
		}
	}
	return n
}

func drawDeclare(t *rapid.T, s State, prefix []byte, node, other string) *Declare {
	return &Declare{Prefix: prefix, Writer: node, Fallback: rapid.SampledFrom([]string{"", other}).Draw(t, "fallback"),
		Failover: rapid.SampledFrom([]string{"", "auto", "manual"}).Draw(t, "failover"), Lease: rapid.SampledFrom([]string{"", "always", "never"}).Draw(t, "lease"),
		ExpectedEpoch: genEpoch.Draw(t, "epoch"), SourceFenced: fenced(t, other), SourceFencedIdentity: identityOf(t, s, other)}
}

func fenced(t *rapid.T, node string) string {
	return rapid.SampledFrom([]string{"", "", node}).Draw(t, "fenced")
}

func drawBatch(t *rapid.T, s State) *Batch {
	b := &Batch{Prune: rapid.IntRange(0, 4).Draw(t, "prune") == 0, CheckIndex: rapid.IntRange(0, 4).Draw(t, "check") == 0, IfIndex: s.ConfigIndex()}
	for range rapid.IntRange(0, 3).Draw(t, "nodes") {
		b.Nodes = append(b.Nodes, &SetNode{Id: genNode.Draw(t, "node"), Addr: "h:3"})
	}
	for range rapid.IntRange(0, 3).Draw(t, "scopes") {
		b.Scopes = append(b.Scopes, drawDeclare(t, s, []byte(genPrefix.Draw(t, "prefix")), genNode.Draw(t, "writer"), genNode.Draw(t, "other")))
	}
	return b
}

// drawStep draws a step of a move, mostly the one that its phase allows.
func drawStep(t *rapid.T, s State, id string) Command {
	if sc, ok := pick(t, s); ok && s.Moves().RunningLen() == 0 && evenly(t) > 2 {
		return &StartMove{Id: fmt.Sprintf("m-%d", s.Index()), Prefix: sc.Prefix.Bytes(), From: string(sc.Owner), To: genNode.Draw(t, "to"),
			Mode: rapid.SampledFrom([]string{"assisted", "agent"}).Draw(t, "mode"), Precopy: rapid.Bool().Draw(t, "precopy")}
	}
	kind := rapid.IntRange(0, 3).Draw(t, "step")
	source, target := "", ""
	for m := range s.Moves().Running() {
		id = m.ID
		if m.Mode == migration.Agent {
			source, target = said(t, s, m.From), said(t, s, m.To)
		}
		if rapid.Bool().Draw(t, "fitting") {
			kind = int(m.Phase - migration.Copying)
		}
		break
	}
	keys := &Manifest{Keys: uint64(rapid.IntRange(1, 5).Draw(t, "keys") / 5)}
	switch kind {
	case 0:
		return &Quiesce{Move: id}
	case 1:
		return &Shipped{Move: id, Manifest: keys, Session: source}
	case 2:
		return &Ready{Move: id, Manifest: keys, Session: target}
	}
	if rapid.Bool().Draw(t, "a node's abort") {
		return &Abort{Move: id, Session: target}
	}
	return &Abort{Move: id, Cause: rapid.SampledFrom([]string{"", "window", "timeout", "odd"}).Draw(t, "cause")}
}

func pick(t *rapid.T, s State) (*scope.Scope, bool) {
	if s.Scopes().Len() == 0 {
		return nil, false
	}
	n := rapid.IntRange(0, s.Scopes().Len()-1).Draw(t, "scope")
	for sc := range s.Scopes().Scopes() {
		if n == 0 {
			return sc, true
		}
		n--
	}
	return nil, false
}

func founded(t testing.TB) State {
	t.Helper()
	s := applied(t, State{}, &InitCluster{Id: "c1"})
	for _, id := range []string{"n1", "n2", "n3", "n4"} {
		s = applied(t, s, &SetNode{Id: id, Addr: "h:1"})
	}
	return s
}

func applied(t testing.TB, s State, c Command) State {
	t.Helper()
	next, r, _ := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: c})
	if err := ResultError(r); err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	return next
}

// bare is the state without what a refused command may change too.
func bare(s State) string {
	s.index, s.dedup, s.audit = 0, ring{}, auditTrail{}
	return s.Hash()
}

func reload(t *rapid.T, s State) State {
	l := NewLoader()
	for r := range s.Records() {
		raw, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back pb.Record
		if err := proto.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		if err := l.Add(&back); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestAnyLog holds random logs against what must be true of every log: the
// invariants, refusals without effect, purity, unique rising epochs, the routing
// oracle, retries, and that a snapshot taken at any point leads to the same end.
func TestAnyLog(t *testing.T) {
	nodes := founded(t)
	for _, p := range []string{"a:x", "b", "c"} {
		nodes = applied(t, nodes, &Declare{Prefix: []byte(p), Writer: "n1", Fallback: "n4"})
	}
	counts := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s, twin := nodes, nodes
		steps := rapid.IntRange(60, 90).Draw(t, "steps")
		cut := rapid.IntRange(0, steps-1).Draw(t, "snapshot at")
		restoring := rapid.IntRange(-steps/2, steps-1).Draw(t, "restore at") // or not at all
		for i := range steps {
			if i == cut {
				twin = reload(t, s)
			}
			if i == restoring {
				s, twin = drawRestore(t, s, twin, counts)
			}
			e := Envelope{RequestID: fmt.Sprintf("%d-%032x", s.Index(), i), Actor: "ann", Command: drawCommand(t, s)}
			if evenly(t) < 4 {
				e = drawAsked(t, s, e)
			}
			at := At{Index: s.Index() + 1, Term: 1, TimeMS: int64(i)}
			next, r, events := step(t, s, at, e)
			counts[fmt.Sprintf("%T %s", e.Command, r.GetCode())]++
			if i >= cut {
				twin, _, _ = twin.Apply(at, e)
			}
			checkEpochs(t, s, next)
			checkRefusal(t, s, next, r, events)
			checkRoutes(t, next)
			checkAudited(t, s, next, e, r)
			checkSessionRules(t, s, next, e.Command, r)
			checkConcern(t, s, next, events)
			checkHoldRules(t, s, next, e.Command)
			for _, ev := range events {
				counts[ev.Cause]++
			}
			s = checkRetry(t, next, r, e)
			if i >= cut {
				twin, _, _ = twin.Apply(At{Index: s.Index()}, e)
			}
		}
		if s.Hash() != twin.Hash() {
			t.Fatal("a state from a snapshot ends otherwise than one without")
		}
	})
	for _, want := range []string{"*pb.StartMove ", "*pb.StartMove CLEANUP_PENDING", "*pb.Ready ", "*pb.Ready MANIFEST_MISMATCH", "*pb.Force ", "*pb.Retire ",
		"*pb.Cleaned ", "*pb.Batch ", "*pb.Declare OVERLAP", "*pb.RemoveNode NODE_IN_USE", "*pb.Retire MOVE_IN_FLIGHT", "*pb.Abort ",
		"*pb.OpenSession ", "*pb.OpenSession SESSION_BUSY", "*pb.OpenSession IDENTITY_CHANGED", "*pb.OpenSession STALE_EPOCH", "*pb.CloseSession ", "*pb.Expire ",
		"*pb.Expire STALE_EPOCH", "*pb.Ack ", "*pb.Ack SESSION_EXPIRED", "*pb.FenceNode ", "*pb.Force SESSION_BUSY",
		"*pb.StartMove NODE_DOWN", "*pb.Cleaned SESSION_BUSY", "takeover", "armed", "acked",
		"restore", "hold-ended", "*pb.Release ", "*pb.Release NODE_DOWN", "*pb.Release INVALID", "*pb.Retire WRONG_PHASE", "*pb.StartMove WRONG_PHASE",
		"*pb.RemoveNode WRONG_PHASE",
		"*pb.JoinServer ", "*pb.JoinServer MEMBERS_CHANGING", "*pb.JoinServer EXISTS", "*pb.RemoveServer ", "*pb.RemoveServer MEMBERS_CHANGING",
		"*pb.SettleServer ", "*pb.SettleServer WRONG_PHASE", "*pb.SettleServer NOT_FOUND",
		"*pb.CreateToken ", "*pb.CreateToken EXISTS", "*pb.CreateToken FORBIDDEN", "*pb.RevokeToken ", "*pb.RevokeToken WRONG_PHASE", "*pb.RevokeToken NOT_FOUND",
		"*pb.SetNode UNAUTHENTICATED", "*pb.Declare FORBIDDEN", "create-token", "revoke-token", "expire-token"} {
		if counts[want] == 0 {
			t.Errorf("no log reached %q; the generator is too weak: %v", want, counts)
		}
	}
}

// step applies twice to the same state: equal results, and the old state stays.
func step(t *rapid.T, s State, at At, e Envelope) (State, *Result, []Event) {
	before := s.Hash()
	next, r, events := s.Apply(at, e)
	again, r2, events2 := s.Apply(at, e)
	if s.Hash() != before {
		t.Fatalf("%v changed the state it was applied to", e.Command)
	}
	if next.Hash() != again.Hash() || !proto.Equal(r, r2) || len(events) != len(events2) {
		t.Fatalf("%v gave two results: %v and %v", e.Command, r, r2)
	}
	if err := next.Check(); err != nil {
		t.Fatalf("after %v: %v", e.Command, err)
	}
	if next.Index() != at.Index {
		t.Fatalf("the index is %d after entry %d", next.Index(), at.Index)
	}
	return next, r, events
}

func checkRefusal(t *rapid.T, s, next State, r *Result, events []Event) {
	if r.GetCode() == "" || r.GetCode() == string(api.ManifestMismatch) {
		return
	}
	if bare(s) != bare(next) || len(events) > 0 {
		t.Fatalf("refused with %s, yet something changed: %d events", r.GetCode(), len(events))
	}
	if r.GetDetail() == "" || !api.Code(r.GetCode()).Known() {
		t.Fatalf("a refusal without words or of no known code: %v", r)
	}
}

// checkEpochs: whoever has a scope now and had it not before has an epoch that
// nobody ever had.
func checkEpochs(t *rapid.T, s, next State) {
	if next.Cluster().NextEpoch < s.Cluster().NextEpoch {
		t.Fatal("the next epoch went back")
	}
	for sc := range next.Scopes().Scopes() {
		old, ok := s.Scopes().Get(sc.Prefix)
		same := ok && old.Owner == sc.Owner && old.Epoch == sc.Epoch
		if !same && sc.Epoch < max(1, s.Cluster().NextEpoch) {
			t.Fatalf("the tenure of %q has epoch %d, which was given out before", sc.Prefix.Text(), sc.Epoch)
		}
	}
}

// checkRoutes compares verdicts with a linear scan over scopes and moves.
func checkRoutes(t *rapid.T, s State) {
	key, as := genPrefix.Draw(t, "key")+rapid.SampledFrom([]string{"", "k", ":x:1:k"}).Draw(t, "rest"), scope.NodeID(genNode.Draw(t, "as"))
	want, target := scope.Unknown, scope.NodeID("")
	for sc := range s.Scopes().Scopes() {
		if !sc.Prefix.Matches([]byte(key)) {
			continue
		}
		want = scope.Owned
		if sc.Owner != as {
			want, target = scope.Misdirected, sc.Owner
		}
		for m := range s.Moves().Running() {
			if m.Prefix == sc.Prefix && m.Phase != migration.Copying {
				want, target = scope.Quiesced, m.To
			}
		}
		if s.Cluster().Hold && !sc.Released {
			want, target = scope.Quiesced, sc.Owner
		}
	}
	if got := s.Route([]byte(key), as); got.Verdict != want || got.Target() != target {
		t.Fatalf("route %q as %s: %s %s, a scan says %s %s", key, as, got.Verdict, got.Target(), want, target)
	}
}

func checkRetry(t *rapid.T, s State, first *Result, e Envelope) State {
	next, r, events := s.Apply(At{Index: s.Index() + 1}, e)
	if !proto.Equal(first, r) || len(events) > 0 {
		t.Fatalf("a retry of %v answered %v, first was %v", e.Command, r, first)
	}
	s.index++
	if next.Hash() != s.Hash() {
		t.Fatalf("a retry of %v changed more than the index", e.Command)
	}
	return next
}

// TestApplyDoesNotCopyTables counts bytes, not time: with a hundred times the
// scopes a declare may cost a little more, as trees are deeper, never 100 times.
func TestApplyDoesNotCopyTables(t *testing.T) {
	small, large := bytesPerDeclare(t, 1_000), bytesPerDeclare(t, 100_000)
	if large > 4*small {
		t.Fatalf("a declare allocates %d bytes beside 1,000 scopes and %d beside 100,000: a table is copied", small, large)
	}
}

func bytesPerDeclare(t *testing.T, n int) uint64 {
	t.Helper()
	s := founded(t)
	for i := range n {
		s = applied(t, s, &Declare{Prefix: fmt.Appendf(nil, "t%07d:", i), Writer: "n1"})
	}
	const rounds = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range rounds {
		s = applied(t, s, &Declare{Prefix: fmt.Appendf(nil, "u%07d:", i), Writer: "n1"})
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / rounds
}

func TestBatchLimit(t *testing.T) {
	for _, n := range []int{MaxBatch, MaxBatch + 1} {
		b := &Batch{Nodes: []*SetNode{{Id: "n1", Addr: "h:1"}}}
		for i := range n - 1 {
			b.Scopes = append(b.Scopes, &Declare{Prefix: fmt.Appendf(nil, "t%05d:", i), Writer: "n1"})
		}
		s, r, _ := State{}.Apply(At{Index: 1}, Envelope{Command: b})
		if over := n > MaxBatch; over != (r.GetCode() == string(api.Limit)) || over != (s.Scopes().Len() == 0) {
			t.Errorf("%d items: %s, %d scopes", n, r.GetCode(), s.Scopes().Len())
		}
	}
}
