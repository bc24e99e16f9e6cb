package view

import (
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/scope"
)

// Clients parse the reply byte by byte: nothing before and nothing after.
func TestRoute(t *testing.T) {
	rest, closed, moved, held := declared(t), moving(t), flipped(t), restored(t, flipped(t), true)
	for _, c := range []struct {
		w       *world
		key, as string
		want    string
	}{
		{rest, "\x00:1", "a", `{"verdict":"OWNED","reply":"OK","key":"\\x00:1","prefix":"\\x00:","owner":"a","addr":"h:1","epoch":1,"state":"owned","index":5}`},
		{rest, "\x00:1", "b", `{"verdict":"MISDIRECTED","reply":"MISDIRECTED writer is h:1","key":"\\x00:1","prefix":"\\x00:","owner":"a","addr":"h:1","epoch":1,"state":"owned","index":5}`},
		{rest, "\x00:1", "", `{"verdict":"","reply":"","key":"\\x00:1","prefix":"\\x00:","owner":"a","addr":"h:1","epoch":1,"state":"owned","index":5}`},
		{rest, "\\", "a", `{"verdict":"UNKNOWN","reply":"UNKNOWN","key":"\\\\","index":5}`},
		{closed, "\x00:", "a", `{"verdict":"QUIESCED","reply":"QUIESCED migrating to h:2","key":"\\x00:","prefix":"\\x00:","owner":"a","addr":"h:2","epoch":1,"target":"b","state":"quiesced","index":6}`},
		{closed, "\x00:", "b", `{"verdict":"QUIESCED","reply":"QUIESCED migrating to h:2","key":"\\x00:","prefix":"\\x00:","owner":"a","addr":"h:2","epoch":1,"target":"b","state":"quiesced","index":6}`},
		{moved, "\x00:", "a", `{"verdict":"MISDIRECTED","reply":"MISDIRECTED writer is h:2","key":"\\x00:","prefix":"\\x00:","owner":"b","addr":"h:2","epoch":2,"state":"owned","index":8}`},
		{held, "\x00:", "b", `{"verdict":"QUIESCED","reply":"QUIESCED migrating to h:2","key":"\\x00:","prefix":"\\x00:","owner":"b","addr":"h:2","epoch":2,"state":"held","index":9}`},
		{held, "\x00:", "a", `{"verdict":"QUIESCED","reply":"QUIESCED migrating to h:2","key":"\\x00:","prefix":"\\x00:","owner":"b","addr":"h:2","epoch":2,"state":"held","index":9}`},
		{held, "\x00", "a", `{"verdict":"UNKNOWN","reply":"UNKNOWN","key":"\\x00","index":9}`},
		{moved, "\x00", "a", `{"verdict":"UNKNOWN","reply":"UNKNOWN","key":"\\x00","index":8}`},
	} {
		is(t, c.key+" as "+c.as, Route(c.w.st, []byte(c.key), scope.NodeID(c.as)), c.want)
	}
}

func TestExplain(t *testing.T) {
	rest, closed, moved := declared(t), moving(t), flipped(t)
	held, open := restored(t, flipped(t), true), restored(t, declared(t), false)
	held.meets("b")
	open.meets("a", "b", "c")
	copying := declared(t)
	copying.do(&fsm.StartMove{Id: "m1", Prefix: []byte("\x00:"), From: "a", To: "b", Mode: "assisted", Precopy: true})
	for _, c := range []struct {
		w           *world
		key         string
		why         string
		scope, move bool
		changed     uint64
	}{
		{rest, "none", "No declared scope is a prefix of the key, so each node decides for itself, by default in favour.", false, false, 0},
		{rest, "\x00:1", `The longest declared prefix of the key is "\x00:", owned by its writer a at epoch 1.`, true, false, 5},
		{copying, "\x00:1", `The longest declared prefix of the key is "\x00:", owned by a at epoch 1, which accepts writes while move m1 copies it to b.`, true, true, 6},
		{closed, "\x00:1", `The scope "\x00:" takes no writes from anyone while move m1 takes it from a to b (quiescing).`, true, true, 6},
		{held, "\x00:1", `The scope "\x00:" of owner b takes no writes from anyone: the cluster holds since the restore that began incarnation 2, ` +
			`until every declared node has opened a session in it (not yet: a, c); before that an admin's word with source-fenced, ` +
			`that every node which has not met this incarnation is off, releases a scope.`, true, false, 8},
		{open, "\x00:1", `The scope "\x00:" of owner a takes no writes from anyone: the cluster holds since the restore that began incarnation 2; ` +
			`as nobody stated then that no other node was declared since the backup, this does not end by itself (all of them have): an admin's word with source-fenced, ` +
			`that every node which has not met this incarnation is off, releases a scope.`, true, false, 5},
		{moved, "\x00:1", `The longest declared prefix of the key is "\x00:", owned by its writer b at epoch 2.`, true, false, 8},
	} {
		e, changed := Explain(c.w.st, []byte(c.key), "a", 9000)
		if e.Why != c.why || (e.Scope != nil) != c.scope || (e.Move != nil) != c.move || changed != c.changed || e.Lagging != nil {
			t.Errorf("%q: changed at %d: %+v\nwant %s", c.key, changed, e, c.why)
		}
		is(t, "route of "+c.key, e.Route, text(t, Route(c.w.st, []byte(c.key), "a")))
		if e.Scope != nil {
			is(t, "scope of "+c.key, e.Scope, text(t, Scope(c.w.st, c.w.scope("\x00:"))))
		}
		if e.Move != nil {
			m, _ := c.w.st.Moves().Get("m1")
			is(t, "move of "+c.key, e.Move, text(t, Move(c.w.st, m, 9000)))
		}
	}
}

// An owner that is not the writer has taken over.
func TestExplainTakeover(t *testing.T) {
	l := fsm.NewLoader()
	for r := range declared(t).st.Records() {
		if sc := r.GetScope(); sc != nil {
			sc.Owner = "c"
		}
		if err := l.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	st, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := Explain(st, []byte("\x00:"), "", 0)
	if want := `The longest declared prefix of the key is "\x00:"; its writer is a, but c has taken over and owns it at epoch 1 until a move brings it back.`; e.Why != want {
		t.Errorf("%s", e.Why)
	}
}
