package view

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// world is a state with the events of its last command.
type world struct {
	t      *testing.T
	st     fsm.State
	index  uint64
	events []fsm.Event
}

// do applies commands, one per second of the leader's clock.
func (w *world) do(commands ...fsm.Command) {
	w.t.Helper()
	for _, c := range commands {
		w.index++
		var r *fsm.Result
		w.st, r, w.events = w.st.Apply(fsm.At{Index: w.index, Term: 1, TimeMS: int64(w.index) * 1000}, fsm.Envelope{Actor: "ann", Command: c})
		if err := fsm.ResultError(r); err != nil {
			w.t.Fatalf("%T at %d: %v", c, w.index, err)
		}
	}
}

// declared is a world with the nodes a, b and c and the scope of a under \x00
// (index 5), which is no text.
func declared(t *testing.T) *world {
	w := &world{t: t}
	w.do(&fsm.InitCluster{Id: "c1"}, &fsm.SetNode{Id: "a", Addr: "h:1"}, &fsm.SetNode{Id: "b", Addr: "h:2"}, &fsm.SetNode{Id: "c", Addr: "h:3"},
		&fsm.Declare{Prefix: []byte("\x00:"), Writer: "a", Fallback: "c"})
	return w
}

// moving has the move m1 of that scope to b too, since index 6.
func moving(t *testing.T) *world {
	w := declared(t)
	w.do(&fsm.StartMove{Id: "m1", Prefix: []byte("\x00:"), From: "a", To: "b", Mode: "assisted", Reason: "why not", WindowMs: 2000, TimeoutMs: 60_000})
	return w
}

// flipped has it done, at index 8, and its cleanup pending.
func flipped(t *testing.T) *world {
	w := moving(t)
	w.do(&fsm.Shipped{Move: "m1", Manifest: &fsm.Manifest{Keys: 1, Bytes: 2, Digest: "d"}}, &fsm.Ready{Move: "m1", Manifest: &fsm.Manifest{Keys: 1, Bytes: 2, Digest: "d"}})
	return w
}

// restored puts a world back as incarnation 2: the cluster holds.
func restored(t *testing.T, w *world, complete bool) *world {
	t.Helper()
	w.index++
	var err error
	if w.st, w.events, err = w.st.Restored(fsm.Restoration{Incarnation: 2, Tag: "t2", Complete: complete, Index: w.index, TimeMS: 9000}); err != nil {
		t.Fatal(err)
	}
	return w
}

// meets opens the node's first session in incarnation 2.
func (w *world) meets(nodes ...string) {
	w.t.Helper()
	for _, id := range nodes {
		w.do(&fsm.OpenSession{Node: id, Session: id + "-s", Identity: id + "-disk", TokenHash: make([]byte, fsm.TokenHashLen), Incarnation: 2, IncarnationTag: "t2"})
	}
}

// is compares v, as JSON, with want byte by byte.
func is(t *testing.T, what string, v any, want string) {
	t.Helper()
	if got := text(t, v); got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// text is v as JSON.
func text(t *testing.T, v any) string {
	t.Helper()
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func (w *world) scope(p scope.Prefix) *scope.Scope {
	w.t.Helper()
	sc, ok := w.st.Scopes().Get(p)
	if !ok {
		w.t.Fatalf("no scope %s", p)
	}
	return sc
}

func TestScope(t *testing.T) {
	w := declared(t)
	is(t, "at rest", Scope(w.st, w.scope("\x00:")), `{"prefix":"\\x00:","writer":"a","fallback":"c","owner":"a","owner_addr":"h:1","epoch":1,"incarnation":1,`+
		`"failover":"auto","lease":"auto","armed":true,"state":"owned","changed_index":5}`)
	w = restored(t, w, true)
	is(t, "held", Scope(w.st, w.scope("\x00:")), `{"prefix":"\\x00:","writer":"a","fallback":"c","owner":"a","owner_addr":"h:1","epoch":1,"incarnation":2,`+
		`"failover":"auto","lease":"auto","armed":true,"state":"held","changed_index":5}`)
	w.meets("a")
	w.do(&fsm.Release{Prefix: []byte("\x00:"), SourceFenced: true, Reason: "off"})
	is(t, "released", Scope(w.st, w.scope("\x00:")), `{"prefix":"\\x00:","writer":"a","fallback":"c","owner":"a","owner_addr":"h:1","epoch":1,"incarnation":2,`+
		`"failover":"auto","lease":"auto","armed":true,"state":"owned","released":true,"changed_index":5}`)
	w = moving(t)
	is(t, "moving", Scope(w.st, w.scope("\x00:")), `{"prefix":"\\x00:","writer":"a","fallback":"c","owner":"a","owner_addr":"h:1","epoch":1,"incarnation":1,`+
		`"failover":"auto","lease":"auto","armed":true,"state":"quiesced","target":"b","move":"m1","changed_index":5}`)
	w = flipped(t)
	is(t, "moved", Scope(w.st, w.scope("\x00:")), `{"prefix":"\\x00:","writer":"b","fallback":"c","owner":"b","owner_addr":"h:2","epoch":2,"incarnation":1,`+
		`"failover":"auto","lease":"auto","armed":true,"state":"owned","changed_index":8,"cleanups":[{"node":"a","prefix":"\\x00:","epoch":1,"move":"m1"}]}`)
}

func TestAppliedAndPlan(t *testing.T) {
	is(t, "applied", Applied(&fsm.Result{Index: 7, Epoch: 2, Move: "m", Changed: 3, Warnings: []string{"w"}}),
		`{"index":7,"epoch":2,"move":"m","changed":3,"warnings":["w"]}`)
	is(t, "nothing to do", Plan(4, fsm.Plan{}), `{"index":4,"changes":[]}`)
	is(t, "plan", Plan(4, fsm.Plan{Changes: []fsm.PlanChange{{Op: "~", Kind: "node", Name: "a", Before: "h:1", After: "h:2"}}, Kept: []string{"k"}}),
		`{"index":4,"changes":[{"op":"~","kind":"node","name":"a","before":"h:1","after":"h:2"}],"kept":["k"]}`)
}

// Each kind of record, as it is told when it is put and when it is deleted.
func TestChange(t *testing.T) {
	move := migration.Move{ID: "m", Prefix: "p", From: "a", To: "b", Mode: migration.Assisted, Epoch: 3}.Enter(migration.Quiescing, 9, 1000)
	for _, c := range []struct {
		event fsm.Event
		want  string
	}{
		{fsm.Event{Cause: "restore", Cluster: &fsm.Cluster{ID: "c1", Incarnation: 2, Tag: "t2", NextEpoch: 3, Hold: true}},
			`{"cause":"restore","op":"put","cluster":{"id":"c1","incarnation":2,"incarnation_tag":"t2","hold":true}}`},
		{fsm.Event{Cause: "hold-ended", Cluster: &fsm.Cluster{ID: "c1", Incarnation: 2, Tag: "t2", Ended: 7}},
			`{"cause":"hold-ended","op":"put","cluster":{"id":"c1","incarnation":2,"incarnation_tag":"t2","moves_ended":7}}`},
		{fsm.Event{Cause: "set", Node: &fsm.Node{ID: "a", Addr: "h:1"}}, `{"cause":"set","op":"put","node":{"id":"a","addr":"h:1"}}`},
		{fsm.Event{Cause: "remove", Deleted: true, Node: &fsm.Node{ID: "a", Addr: "h:1"}}, `{"cause":"remove","op":"delete","node":{"id":"a","addr":"h:1"}}`},
		{fsm.Event{Cause: "quiescing", Scope: &scope.Scope{Prefix: "\xff", Writer: "a", Owner: "a", Epoch: 3, Quiesced: "b", Changed: 9}},
			`{"cause":"quiescing","op":"put","scope":{"prefix":"\\xff","writer":"a","owner":"a","epoch":3,"incarnation":4,"failover":"auto","lease":"auto","armed":false,` +
				`"state":"quiesced","target":"b","changed_index":9}}`},
		{fsm.Event{Cause: "start", Move: &move}, `{"cause":"start","op":"put","move":{"id":"m","prefix":"p","from":"a","to":"b","phase":"quiescing","mode":"assisted","epoch":3,` +
			`"window_ms":0,"timeout_ms":0,"stamps":[{"phase":"quiescing","index":9,"time_ms":1000}],"quiesced_ms":500}}`},
		{fsm.Event{Cause: "cleanup", Cleanup: &fsm.Cleanup{Node: "a", Prefix: "p", Epoch: 3, Move: "m"}},
			`{"cause":"cleanup","op":"put","cleanup":{"node":"a","prefix":"p","epoch":3,"move":"m"}}`},
		{fsm.Event{Cause: "fenced", Deleted: true, Tombstone: &fsm.Tombstone{Prefix: "p", Owner: "a", Epoch: 3, RetiredIndex: 8}},
			`{"cause":"fenced","op":"delete","tombstone":{"prefix":"p","owner":"a","epoch":3,"retired_index":8}}`},
	} {
		is(t, c.event.Cause, Change(c.event, 4, 1500), c.want)
	}
}

func TestItem(t *testing.T) {
	w := declared(t)
	w.do(&fsm.Retire{Prefix: []byte("\x00:")})
	is(t, "retire", Item(fsm.Item{Index: 6, Events: w.events}, fsm.Cluster{Incarnation: 1, Tag: "t"}, 0), `{"type":"change","index":6,"incarnation":1,"incarnation_tag":"t","changes":[`+
		`{"cause":"retire","op":"delete","scope":{"prefix":"\\x00:","writer":"a","fallback":"c","owner":"a","epoch":1,"incarnation":1,"failover":"auto","lease":"auto","armed":true,"state":"owned","changed_index":5}},`+
		`{"cause":"retire","op":"put","tombstone":{"prefix":"\\x00:","owner":"a","epoch":1,"retired_index":6}}]}`)
}

// What a watcher needs is there once, in the order of kinds. Of the finished moves
// only those are among it that began the present tenure of a scope: not m2, which
// was aborted, not m3, after which m4 moved the scope on, and not the force of v:, which was
// declared anew since.
func TestRecords(t *testing.T) {
	w := flipped(t)
	w.do(&fsm.Declare{Prefix: []byte("r:"), Writer: "c"}, &fsm.Retire{Prefix: []byte("r:")}, &fsm.Declare{Prefix: []byte("s:"), Writer: "c"},
		&fsm.Declare{Prefix: []byte("u:"), Writer: "a"})
	move := func(id, prefix, from, to string, then ...fsm.Command) {
		w.do(&fsm.StartMove{Id: id, Prefix: []byte(prefix), From: from, To: to, Mode: "assisted"})
		w.do(then...)
	}
	done := func(id, node string) []fsm.Command {
		return []fsm.Command{&fsm.Shipped{Move: id}, &fsm.Ready{Move: id}, &fsm.Cleaned{Node: node, Prefix: []byte("u:"), Reason: "off"}}
	}
	move("m2", "u:", "a", "b", &fsm.Abort{Move: "m2"})
	move("m3", "u:", "a", "b", done("m3", "a")...)
	move("m4", "u:", "b", "c", done("m4", "b")...)
	w.do(&fsm.Declare{Prefix: []byte("v:"), Writer: "a"}, &fsm.Force{Id: "f1", Prefix: []byte("v:"), To: "b", ExpectedEpoch: w.scope("u:").Epoch + 1, AcceptLoss: true, SourceFenced: "a"},
		&fsm.Cleaned{Node: "a", Prefix: []byte("v:"), Reason: "off"}, &fsm.Retire{Prefix: []byte("v:")}, &fsm.Declare{Prefix: []byte("v:"), Writer: "b"})
	move("m5", "s:", "c", "a")
	var got []string
	for e := range Records(w.st) {
		c := Change(e, 1, 0)
		if c.Cause != "snapshot" || c.Op != "put" {
			t.Errorf("%+v", c)
		}
		switch {
		case c.Cluster != nil:
			got = append(got, "cluster "+c.Cluster.ID)
		case c.Node != nil:
			got = append(got, "node "+c.Node.ID)
		case c.Scope != nil:
			got = append(got, "scope "+c.Scope.Prefix)
		case c.Move != nil:
			got = append(got, "move "+c.Move.ID)
		case c.Cleanup != nil:
			got = append(got, "cleanup "+c.Cleanup.Node)
		case c.Tombstone != nil:
			got = append(got, "tombstone "+c.Tombstone.Prefix)
		}
	}
	if want := `cluster c1, node a, node b, node c, scope \x00:, scope s:, scope u:, scope v:, move m5, move m1, move m4, cleanup a, tombstone r:`; strings.Join(got, ", ") != want {
		t.Errorf("%s", strings.Join(got, ", "))
	}
	for stop := range got { // a reader may end anywhere
		n := 0
		for range Records(w.st) {
			if n++; n > stop {
				break
			}
		}
	}
}

// A target that has its scope again, under another epoch and by no move, learns
// that the move was done: p: was retired and declared anew. It does not of those
// after which another move is known (q:), that an operator made (r:), or that left
// the scope to somebody else (s:). The record of the cluster counts them all.
func TestRecordsOfAScopeThatCameAgain(t *testing.T) {
	w := declared(t)
	w.open("a", 1)
	w.open("b", 1)
	again := func(prefix, writer string) []fsm.Command {
		return []fsm.Command{&fsm.Retire{Prefix: []byte(prefix)}, &fsm.Declare{Prefix: []byte(prefix), Writer: writer}}
	}
	moved := func(id, prefix, mode, from, to string) {
		start := &fsm.StartMove{Id: id, Prefix: []byte(prefix), From: from, To: to, Mode: mode}
		shipped, ready, cleaned := &fsm.Shipped{Move: id}, &fsm.Ready{Move: id}, &fsm.Cleaned{Node: from, Prefix: []byte(prefix), Epoch: w.scope(scope.Prefix(prefix)).Epoch, Session: "s-" + from}
		if mode == "agent" {
			shipped.Session, ready.Session = "s-"+from, "s-"+to
		}
		w.do(start, shipped, ready, cleaned)
	}
	for _, p := range []string{"p:", "q:", "r:", "s:"} {
		w.do(&fsm.Declare{Prefix: []byte(p), Writer: "a"})
	}
	moved("m1", "p:", "agent", "a", "b")
	w.do(again("p:", "b")...)
	moved("m2", "q:", "agent", "a", "b")
	moved("m3", "q:", "agent", "b", "a")
	w.do(again("q:", "a")...)
	moved("m4", "q:", "assisted", "a", "b")
	w.do(again("q:", "b")...)
	moved("m5", "r:", "assisted", "a", "b")
	w.do(again("r:", "b")...)
	moved("m6", "s:", "agent", "a", "b")
	w.do(&fsm.Retire{Prefix: []byte("s:")}, &fsm.Ack{Session: "s-b", View: w.index + 1}, &fsm.Declare{Prefix: []byte("s:"), Writer: "a"})
	w.do(&fsm.StartMove{Id: "m7", Prefix: []byte("s:"), From: "a", To: "b"}, &fsm.Abort{Move: "m7"})
	var moves []string
	for e := range Records(w.st) {
		switch c := Change(e, 1, 0); {
		case c.Cluster != nil:
			is(t, "cluster", c.Cluster, `{"id":"c1","incarnation":1,"incarnation_tag":"c1","moves_ended":7}`)
		case c.Move != nil:
			moves = append(moves, c.Move.ID)
		}
	}
	if got := strings.Join(moves, " "); got != "m1" {
		t.Errorf("moves %s, want m1", got)
	}
}

func TestLagging(t *testing.T) {
	members := []api.Member{{ID: "s1", Role: "leader", Index: 9}, {ID: "s2", Role: "follower", Index: 8}, {ID: "s3", Index: 9}, {ID: "s4", Role: "follower", Index: 9, Error: "refused"}}
	if got := fmt.Sprint(Lagging(members, 9), Lagging(members, 8), Lagging(nil, 1)); got != "[s2 s3 s4] [s3 s4] []" {
		t.Error(got)
	}
}

func TestRefusalsShowPrefixesAsTheyAreWritten(t *testing.T) {
	w := moving(t)
	_, r, _ := w.st.Apply(fsm.At{Index: 9}, fsm.Envelope{Command: &fsm.Retire{Prefix: []byte("\x00:")}})
	var e *api.Error
	if err := fsm.ResultError(r); !errors.As(err, &e) || !strings.Contains(e.Detail, `"\x00:"`) {
		t.Errorf("%v", err)
	}
}
