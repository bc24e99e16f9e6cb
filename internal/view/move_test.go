package view

import (
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

func TestMove(t *testing.T) {
	w := moving(t) // closed at second 6, window 2 s, timeout 60 s
	m, _ := w.st.Moves().Get("m1")
	is(t, "quiescing", Move(w.st, m, 6500), `{"id":"m1","prefix":"\\x00:","from":"a","to":"b","phase":"quiescing","mode":"assisted","epoch":1,"window_ms":2000,"timeout_ms":60000,`+
		`"actor":"ann","reason":"why not","stamps":[{"phase":"quiescing","index":6,"time_ms":6000}],"quiesced_ms":500,"waiting":{`+
		`"for":"the operator to close \"\\x00:\" on a, ship it to b and say shipped; nobody accepts writes","since_ms":6000,"deadlines":[`+
		`{"at_ms":8000,"what":"2s after the scope was closed: it is aborted and a keeps the scope; a new leader counts from the start again"},`+
		`{"at_ms":66000,"what":"1m0s after its start: it is aborted and a keeps the scope; a new leader counts from the start again"}],"safe_now":[`+
		`{"do":"wait","then":"the scope takes no writes until the move ends"},{"do":"abort","then":"back to a, nothing is lost"},`+
		`{"do":"force","then":"only if a will not come back; what it accepted and did not ship is lost"}]}}`)
	w = flipped(t)
	m, _ = w.st.Moves().Get("m1")
	is(t, "done", Move(w.st, m, 99_000), `{"id":"m1","prefix":"\\x00:","from":"a","to":"b","phase":"done","mode":"assisted","epoch":1,"new_epoch":2,"window_ms":2000,"timeout_ms":60000,`+
		`"actor":"ann","reason":"why not","shipped":{"keys":1,"bytes":2,"digest":"d"},"ready":{"keys":1,"bytes":2,"digest":"d"},`+
		`"stamps":[{"phase":"quiescing","index":6,"time_ms":6000},{"phase":"shipped","index":7,"time_ms":7000},{"phase":"done","index":8,"time_ms":8000}],`+
		`"quiesced_ms":2000,"cleanup":"pending","waiting":{"for":"node a to delete its old copy of \"\\x00:\"; the scope is served meanwhile","since_ms":8000,"safe_now":[`+
		`{"do":"wait","then":"the scope is served by its owner; there is no deadline"},`+
		`{"do":"cleaned","then":"your word that a is off, runs no agent, or has deleted the copy; if it has not, it still holds old records"}]}}`)
	w.do(fsm.CleanedAfter(m, "off"))
	if got := Move(w.st, m, 99_000); got.Cleanup != "" || got.Waiting != nil {
		t.Errorf("%+v", got)
	}
}

// The cleanup of another move of the same scope is not this move's.
func TestMoveCleanupIsItsOwn(t *testing.T) {
	w := flipped(t)
	w.do(&fsm.StartMove{Id: "m2", Prefix: []byte("\x00:"), From: "b", To: "c", Mode: "assisted"}, &fsm.Shipped{Move: "m2"}, &fsm.Ready{Move: "m2"})
	first, _ := w.st.Moves().Get("m1")
	w.do(fsm.CleanedAfter(first, "off"))
	second, _ := w.st.Moves().Get("m2")
	if got := Move(w.st, first, 0); got.Cleanup != "" || got.Waiting != nil {
		t.Errorf("%+v", got)
	}
	if got := Move(w.st, second, 0); got.Cleanup != "pending" || got.Waiting == nil || !strings.HasPrefix(got.Waiting.For, "node b ") {
		t.Errorf("%+v", got)
	}
}

// Whom a move waits for, in each phase and mode, and what goes on meanwhile.
func TestWaiting(t *testing.T) {
	const open, closed = "a goes on accepting writes", "the scope takes no writes until the move ends"
	for _, c := range []struct {
		mode            migration.Mode
		phase           migration.Phase
		awaits, waiting string
	}{
		{migration.Agent, migration.Copying, `node a to copy "p" to b and report little left; it still accepts writes`, open},
		{migration.Agent, migration.Quiescing, `node a to drain "p" and ship the rest to b; nobody accepts writes`, closed},
		{migration.Agent, migration.Shipped, `node b to make "p" durable and report ready; nobody accepts writes`, closed},
		{migration.Assisted, migration.Copying, `the operator to copy "p" from a to b and to say quiesce; a still accepts writes`, open},
		{migration.Assisted, migration.Quiescing, `the operator to close "p" on a, ship it to b and say shipped; nobody accepts writes`, closed},
		{migration.Assisted, migration.Shipped, `the operator to check "p" on b and say ready; nobody accepts writes`, closed},
	} {
		m := migration.Move{ID: "m", Prefix: "p", From: "a", To: "b", Mode: c.mode}.Enter(c.phase, 3, 1000)
		got := Move(fsm.State{}, m, 0).Waiting
		if got == nil || got.For != c.awaits || got.SinceMS != 1000 || len(got.Safe) != 3 || got.Safe[0] != (api.Choice{Do: "wait", Then: c.waiting}) {
			t.Errorf("%v %v: %+v", c.mode, c.phase, got)
		}
	}
	for _, phase := range []migration.Phase{migration.Done, migration.Aborted} {
		if got := Move(fsm.State{}, migration.Move{ID: "m", Prefix: "p", From: "a", To: "b"}.Enter(phase, 3, 1000), 0).Waiting; got != nil {
			t.Errorf("%v: %+v", phase, got)
		}
	}
}

// The window counts from the closing, not from the start, and only once the
// scope is closed; the deadline that comes first stands first.
func TestDeadlines(t *testing.T) {
	copying := migration.Move{From: "a", Window: 5 * time.Second, Timeout: time.Minute}.Enter(migration.Copying, 1, 10_000)
	closed := copying.Enter(migration.Quiescing, 2, 30_000)
	late := copying.Enter(migration.Quiescing, 2, 69_000)
	for _, c := range []struct {
		name string
		m    migration.Move
		want []int64
	}{
		{"copying", copying, []int64{70_000}},
		{"quiescing", closed, []int64{35_000, 70_000}},
		{"shipped", closed.Enter(migration.Shipped, 3, 31_000), []int64{35_000, 70_000}},
		{"quiescing late", late, []int64{70_000, 74_000}},
	} {
		var at []int64
		for _, d := range deadlines(c.m) {
			at = append(at, d.AtMS)
			if want := map[bool]string{true: "1m0s after its start: ", false: "5s after the scope was closed: "}[d.AtMS == 70_000]; !strings.HasPrefix(d.What, want) {
				t.Errorf("%s: %s", c.name, d.What)
			}
		}
		if len(at) != len(c.want) || at[0] != c.want[0] || at[len(at)-1] != c.want[len(at)-1] {
			t.Errorf("%s: %v, want %v", c.name, at, c.want)
		}
	}
}

func TestMoves(t *testing.T) {
	w := &world{t: t}
	w.do(&fsm.InitCluster{Id: "c1"}, &fsm.SetNode{Id: "a", Addr: "h:1"}, &fsm.SetNode{Id: "b", Addr: "h:2"})
	start := func(id, p string) {
		w.do(&fsm.StartMove{Id: id, Prefix: []byte(p), From: "a", To: "b", Mode: "assisted"})
	}
	for _, p := range []string{"p:1", "p:2", "q\xff"} {
		w.do(&fsm.Declare{Prefix: []byte(p), Writer: "a"})
	}
	start("old", "p:1")
	w.do(&fsm.Abort{Move: "old"})
	start("newer", "p:2")
	w.do(&fsm.Abort{Move: "newer"})
	start("q", "q\xff")
	start("p", "p:1")
	prefix := func(p scope.Prefix) *scope.Prefix { return &p }
	for _, c := range []struct {
		name  string
		f     MoveFilter
		limit int
		want  string
	}{
		{"all: running ones by prefix, then finished ones, newest first", MoveFilter{}, 9, "p q newer old"},
		{"limit", MoveFilter{}, 3, "p q newer"},
		{"limit within the running ones", MoveFilter{}, 1, "p"},
		{"running", MoveFilter{Running: true}, 9, "p q"},
		{"finished", MoveFilter{Finished: true}, 9, "newer old"},
		{"the same prefix", MoveFilter{Prefix: prefix("p:1")}, 9, "p old"},
		{"a prefix above", MoveFilter{Prefix: prefix("p:")}, 9, "p newer old"},
		{"a prefix below", MoveFilter{Prefix: prefix("p:2x")}, 9, "newer"},
		{"the empty prefix", MoveFilter{Prefix: prefix("")}, 9, "p q newer old"},
		{"another prefix", MoveFilter{Prefix: prefix("x")}, 9, ""},
		{"key", MoveFilter{Key: []byte("p:1k")}, 9, "p old"},
		{"key that is no text", MoveFilter{Key: []byte("q\xff\x00")}, 9, "q"},
		{"key above a scope", MoveFilter{Key: []byte("p:")}, 9, ""},
		{"the empty key", MoveFilter{Key: []byte{}}, 9, ""},
		{"key and finished", MoveFilter{Key: []byte("p:2k"), Finished: true}, 9, "newer"},
	} {
		got := Moves(w.st, c.f, c.limit, 0)
		var ids []string
		for _, m := range got {
			ids = append(ids, m.ID)
		}
		if strings.Join(ids, " ") != c.want || got == nil {
			t.Errorf("%s: %v, want %s", c.name, ids, c.want)
		}
	}
}
