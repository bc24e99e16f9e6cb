package httpapi

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

const manifest = `{"manifest":{"keys":2,"bytes":9,"digest":"d"}}`

func (b *bench) move(id string) api.Move {
	b.t.Helper()
	var m api.Move
	b.ok(200, &m, "GET", "/v1/moves/"+id, "")
	return m
}

func TestMoveToItsEnd(t *testing.T) {
	b := newBench(t)
	b.declared()
	var m api.Move
	b.ok(202, &m, "POST", "/v1/moves", `{"prefix":"app:","from":"a","to":"b","mode":"assisted","precopy":true,"window_ms":2000,"reason":"r"}`)
	if m.ID == "" || m.Phase != "copying" || m.Mode != "assisted" || m.WindowMS != 2000 || m.Reason != "r" || len(m.Stamps) != 1 || !m.PreCopy {
		t.Fatalf("%+v", m)
	}
	contains(t, m.Waiting.For, "operator", "quiesce", "still accepts")
	if d := m.Waiting.Deadlines; m.Waiting.SinceMS != m.Stamps[0].TimeMS || len(d) != 1 || d[0].AtMS != m.Stamps[0].TimeMS+int64(m.TimeoutMS) {
		t.Errorf("%+v", m.Waiting)
	}
	step := "/v1/moves/" + m.ID
	if p := b.refused(api.WrongPhase, "POST", step+"/ready", manifest); p.Move != m.ID {
		t.Errorf("%+v", p)
	}
	b.ok(200, nil, "POST", step+"/quiesce", "")
	m = b.move(m.ID)
	contains(t, m.Waiting.For, "shipped", "nobody accepts")
	if d := m.Waiting.Deadlines; len(d) != 2 || d[0].AtMS != m.Waiting.SinceMS+2000 || d[1].AtMS <= d[0].AtMS {
		t.Errorf("%+v", d)
	}
	contains(t, m.Waiting.Deadlines[0].What, "2s after", "a keeps", "leader")
	b.ok(200, nil, "POST", step+"/shipped", manifest)
	m = b.move(m.ID)
	contains(t, m.Waiting.For, "ready")
	contains(t, fmt.Sprint(m.Waiting.Safe), "wait", "abort back to a, nothing is lost", "force", "lost")
	var done api.Move
	b.ok(200, &done, "POST", step+"/ready", manifest)
	m = b.move(m.ID)
	if m.Phase != "done" || m.NewEpoch <= m.Epoch || done.Phase != "done" || m.Cleanup != "pending" || m.Ready.Keys != 2 || done.ID != m.ID {
		t.Fatalf("%+v %+v", m, done)
	}
	contains(t, m.Waiting.For, "node a", "delete")
	var s api.Scope
	b.ok(200, &s, "GET", "/v1/scope?prefix=app:", "")
	if s.Owner != "b" || len(s.Cleanups) != 1 || s.Cleanups[0].Node != "a" || s.Cleanups[0].Move != m.ID {
		t.Fatalf("%+v", s)
	}
	contains(t, b.refused(api.Invalid, "POST", step+"/cleaned", `{"reason":""}`).Detail, "reason")
	b.ok(200, nil, "POST", step+"/cleaned", `{"reason":"off"}`)
	if m = b.move(m.ID); m.Cleanup != "" || m.Waiting != nil {
		t.Fatalf("%+v", m)
	}
	b.refused(api.NotFound, "POST", step+"/cleaned", `{"reason":"off"}`)
	b.refused(api.NotFound, "POST", "/v1/moves/nope/cleaned", `{"reason":"off"}`)
}

func TestMoveWithoutManifest(t *testing.T) {
	b := newBench(t)
	b.moving()
	b.ok(200, nil, "POST", "/v1/moves/m1/shipped", "")
	b.ok(200, nil, "POST", "/v1/moves/m1/ready", `{}`)
	if m := b.move("m1"); m.Phase != "done" {
		t.Errorf("%+v", m)
	}
}

func TestMoveMismatchAndAbort(t *testing.T) {
	b := newBench(t)
	b.moving()
	b.ok(200, nil, "POST", "/v1/moves/m1/shipped", manifest)
	b.refused(api.ManifestMismatch, "POST", "/v1/moves/m1/ready", `{"manifest":{"keys":1,"bytes":9}}`)
	if m := b.move("m1"); m.Phase != "aborted" {
		t.Errorf("%+v", m)
	}
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m2","prefix":"app:","from":"a","to":"b","mode":"assisted"}`)
	b.ok(200, nil, "POST", "/v1/moves/m2/abort", `{"reason":"changed my mind"}`)
	if m := b.move("m2"); m.Phase != "aborted" || m.Detail != "changed my mind" || m.Cause != "operator" || m.Waiting != nil {
		t.Errorf("%+v", m)
	}
}

func TestMoveRefusals(t *testing.T) {
	b := newBench(t)
	b.moving()
	start := func(code api.Code, body string) problem { return b.refused(code, "POST", "/v1/moves", body) }
	if p := start(api.MoveInFlight, `{"prefix":"app:","from":"a","to":"c","mode":"assisted"}`); p.Move != "m1" {
		t.Errorf("%+v", p)
	}
	b.ok(200, nil, "PUT", "/v1/scope?prefix=j:", `{"writer":"a"}`)
	if p := start(api.NotOwner, `{"prefix":"j:","from":"b","to":"c","mode":"assisted"}`); p.Owner != "a" {
		t.Errorf("%+v", p)
	}
	contains(t, start(api.Invalid, `{"prefix":"j:","from":"a","to":"c","mode":"magic"}`).Detail, "magic")
	contains(t, start(api.Invalid, `{"prefix":"\\j","from":"a","to":"c"}`).Detail, "prefix")
	contains(t, start(api.Invalid, `{"prefix":"j:","from":"a a","to":"c"}`).Detail, "from", "a a")
	contains(t, start(api.Invalid, `{"prefix":"j:","from":"a","to":""}`).Detail, "to")
	contains(t, start(api.Invalid, `{"prefix":"j:","to":"a"}`).Detail, "from")
	b.refused(api.NotFound, "GET", "/v1/moves/none", "")
	b.refused(api.NotFound, "POST", "/v1/moves/none/abort", "")
	contains(t, b.refused(api.Invalid, "GET", "/v1/moves/m1?wait=61", "").Detail, "61", "60")
	b.refused(api.Invalid, "GET", "/v1/moves?state=odd", "")
	b.refused(api.Invalid, "GET", "/v1/moves?limit=10001", "")
}

func TestListMoves(t *testing.T) {
	b := newBench(t)
	b.moving()
	b.ok(200, nil, "PUT", "/v1/scope?prefix=j:", `{"writer":"a"}`)
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m2","prefix":"j:","from":"a","to":"b","mode":"assisted"}`)
	b.ok(200, nil, "POST", "/v1/moves/m1/abort", "")
	for query, want := range map[string]string{
		"": "m2 m1", "state=all": "m2 m1", "state=running": "m2", "state=finished": "m1", "prefix=app:": "m1",
		"prefix=app:long": "m1", "key=j:9": "m2", "key=x": "", "limit=1": "m2", "prefix=": "m2 m1",
	} {
		var out struct{ Moves []api.Move }
		b.ok(200, &out, "GET", "/v1/moves?"+query, "")
		var got []string
		for _, m := range out.Moves {
			got = append(got, m.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
}

// In a bubble time is virtual: the wait ends at its bound, not before.
func TestMoveWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.moving()
		start := time.Now()
		var m api.Move
		b.ok(200, &m, "GET", "/v1/moves/m1?wait=30", "")
		if took := time.Since(start); took != 30*time.Second || m.Phase != "quiescing" {
			t.Errorf("%v, %s", took, m.Phase)
		}
		go func() {
			time.Sleep(5 * time.Second)
			b.ok(200, nil, "PUT", "/v1/nodes/d", `{"addr":"h:1"}`)
			b.ok(200, nil, "POST", "/v1/moves/m1/abort", "")
		}()
		start = time.Now()
		h := b.ok(200, &m, "GET", "/v1/moves/m1?wait=60", "")
		if took := time.Since(start); took != 5*time.Second || m.Phase != "aborted" || h.Get(api.HeaderIndex) != fmt.Sprint(b.reg.Index) {
			t.Errorf("%v, %s", took, m.Phase)
		}
	})
}

func TestForce(t *testing.T) {
	b := newBench(t)
	b.declared()
	var s api.Scope
	b.ok(200, &s, "GET", "/v1/scope?prefix=app:", "")
	body := func(epoch uint64, loss bool) string {
		return fmt.Sprintf(`{"prefix":"app:","to":"b","expected_epoch":%d,"accept_loss":%v,"source_fenced":"a","reason":"dead"}`, epoch, loss)
	}
	b.refused(api.StaleEpoch, "POST", "/v1/force", body(s.Epoch+7, true))
	b.refused(api.Invalid, "POST", "/v1/force", body(s.Epoch, false))
	b.refused(api.Invalid, "POST", "/v1/force", `{"prefix":"app:","to":"*","expected_epoch":1,"accept_loss":true}`)
	var done api.Applied
	b.ok(200, &done, "POST", "/v1/force", body(s.Epoch, true))
	if m := b.move(done.Move); m.Mode != "forced" || m.To != "b" || done.Epoch <= s.Epoch {
		t.Errorf("%+v %+v", m, done)
	}
}

func TestNodes(t *testing.T) {
	b := newBench(t)
	b.declared()
	var n api.Node
	b.ok(200, &n, "GET", "/v1/nodes/b", "")
	if n.ID != "b" || n.Addr != "10.0.0.2:6004" {
		t.Errorf("%+v", n)
	}
	var all struct{ Nodes []api.Node }
	b.ok(200, &all, "GET", "/v1/nodes", "")
	if len(all.Nodes) != 3 || all.Nodes[0].ID != "a" {
		t.Errorf("%+v", all)
	}
	b.refused(api.NotFound, "GET", "/v1/nodes/zz", "")
	b.refused(api.Invalid, "GET", "/v1/nodes/-", "")
	b.refused(api.Invalid, "PUT", "/v1/nodes/-", `{"addr":"h:1"}`)
	b.refused(api.Invalid, "PUT", "/v1/nodes/a", `{"id":"b","addr":"h:1"}`)
	b.refused(api.Invalid, "PUT", "/v1/nodes/a", `{}`)
	b.refused(api.NodeInUse, "DELETE", "/v1/nodes/a", "")
	b.ok(200, nil, "DELETE", "/v1/nodes/c", "")
	b.refused(api.NotFound, "DELETE", "/v1/nodes/c", "")
}

func TestHeadersOfMutations(t *testing.T) {
	b := newBench(t)
	var first, again api.Applied
	b.ok(200, &first, "PUT", "/v1/nodes/a", `{"addr":"h:1"}`, "Idempotency-Key", "key 1", "X-Registry-Actor", "ann")
	if e := b.reg.Last(); e.RequestID != "key 1" || e.Actor != "ann" {
		t.Errorf("%+v", e)
	}
	b.ok(200, &again, "PUT", "/v1/nodes/a", `{"addr":"h:1"}`, "Idempotency-Key", "key 1")
	if again.Index != first.Index {
		t.Errorf("a retry was applied at %d, the first try at %d", again.Index, first.Index)
	}
	if e := b.reg.Last(); e.Actor != "anonymous@192.0.2.1" {
		t.Errorf("actor %q", e.Actor)
	}
	long := strings.Repeat("k", MaxHeaderText+1)
	contains(t, b.refused(api.Invalid, "DELETE", "/v1/nodes/a", "", "Idempotency-Key", long).Detail, "Idempotency-Key", "129", "128")
	contains(t, b.refused(api.Invalid, "DELETE", "/v1/nodes/a", "", "Idempotency-Key", "a\tb").Detail, "Idempotency-Key")
	contains(t, b.refused(api.Invalid, "DELETE", "/v1/nodes/a", "", "X-Registry-Actor", "é").Detail, "X-Registry-Actor")
	b.reg.Fail = &api.Error{Code: api.OutcomeUnknown, Detail: "gone"}
	if p := b.refused(api.OutcomeUnknown, "DELETE", "/v1/nodes/a", ""); p.Outcome != api.Unknown {
		t.Errorf("%+v", p)
	}
	b.reg.Fail = fmt.Errorf("a plain error")
	contains(t, b.refused(api.Internal, "DELETE", "/v1/nodes/a", "").Detail, "a plain error")
}

// The server that gets the retry makes the same id, or it would be another
// command under the same request id.
func TestRetryOfStartWithoutID(t *testing.T) {
	b := newBench(t)
	b.declared()
	var first, again api.Move
	for _, out := range []*api.Move{&first, &again} {
		b.ok(202, out, "POST", "/v1/moves", `{"prefix":"app:","from":"a","to":"b","mode":"assisted"}`, "Idempotency-Key", "0-k")
	}
	if first.ID == "" || again.ID != first.ID {
		t.Errorf("%q, then %q", first.ID, again.ID)
	}
}

func TestCleanedNamesTheTenure(t *testing.T) {
	b := newBench(t)
	b.moving()
	b.ok(200, nil, "POST", "/v1/moves/m1/shipped", "")
	b.ok(200, nil, "POST", "/v1/moves/m1/ready", "")
	epoch := b.move("m1").Epoch
	for range 2 {
		b.ok(200, nil, "POST", "/v1/moves/m1/cleaned", `{"reason":"off"}`, "Idempotency-Key", "c1")
	}
	if c := b.reg.Last().Command.(*fsm.Cleaned); c.Epoch != epoch || c.Node != "a" || string(c.Prefix) != "app:" {
		t.Errorf("%v", c)
	}
}
