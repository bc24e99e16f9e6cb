package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/snapshot"
)

// populated has records of every kind: nodes a to d, the scopes app: (move m1
// waits for shipped), pre: (m2 copies), sent: (m3 waits for ready), was: (m0 is
// done, its cleanup pending) and jobs: (at rest), and a tombstone. Nodes with
// sessions are x, y and z; x copies live: to y (m4), left: has gone from x to z
// (m5), and the session of w has expired.
func (b *bench) populated() {
	b.t.Helper()
	b.moving()
	b.ok(200, nil, "PUT", "/v1/nodes/d", `{"addr":"10.0.0.4:6004"}`)
	for _, p := range []string{"pre:", "sent:", "was:", "gone:"} {
		b.ok(200, nil, "PUT", "/v1/scope?prefix="+p, `{"writer":"a"}`)
	}
	b.ok(200, nil, "PUT", "/v1/scope?prefix=jobs:", `{"writer":"c","fallback":"b"}`)
	b.ok(200, nil, "DELETE", "/v1/scope?prefix=gone:", "")
	for id, p := range map[string]string{"m0": "was:", "m2": "pre:", "m3": "sent:"} {
		b.ok(202, nil, "POST", "/v1/moves", fmt.Sprintf(`{"id":%q,"prefix":%q,"from":"a","to":"b","mode":"assisted","precopy":%v,"reason":"r"}`, id, p, id == "m2"))
	}
	b.ok(200, nil, "POST", "/v1/moves/m3/shipped", manifest)
	b.ok(200, nil, "POST", "/v1/moves/m0/shipped", manifest)
	b.ok(200, nil, "POST", "/v1/moves/m0/ready", manifest)
	for _, id := range []string{"w", "x", "y", "z"} {
		b.ok(200, nil, "PUT", "/v1/nodes/"+id, `{"addr":"10.0.1.1:6004"}`)
	}
	b.ok(200, nil, "PUT", "/v1/scope?prefix=live:", `{"writer":"x","fallback":"z"}`)
	b.ok(200, nil, "PUT", "/v1/scope?prefix=left:", `{"writer":"x"}`)
	b.live("w", "x", "y", "z")
	b.propose(&fsm.Expire{Session: "s-w", Term: 1})
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m4","prefix":"live:","from":"x","to":"y","precopy":true}`)
	b.ok(200, nil, "POST", "/v1/moves/m4/progress", strings.Replace(report, "s-a", "s-x", 1))
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m5","prefix":"left:","from":"x","to":"z"}`)
	b.ok(200, nil, "POST", "/v1/moves/m5/shipped", `{"session":"s-x"}`)
	b.ok(200, nil, "POST", "/v1/moves/m5/ready", `{"session":"s-z"}`)
}

// exchange is one request with what has to come of it: a good reply, or the
// refusal code.
type exchange struct {
	method, target, body string
	header               [2]string
	code                 api.Code
	before, during       func(b *bench)
}

func get(target string) exchange { return exchange{method: "GET", target: target} }
func send(method, target, body string) exchange {
	return exchange{method: method, target: target, body: body}
}

func (e exchange) refused(code api.Code) exchange { e.code = code; return e }
func (e exchange) accept(kind string) exchange    { e.header = [2]string{"Accept", kind}; return e }
func (e exchange) broken() exchange {
	e.before = func(b *bench) { b.reg.Down = &api.Error{Code: e.code, Detail: "down"} }
	return e
}

// restarted ends a stream by an error.
func (e exchange) restarted() exchange {
	e.during = func(b *bench) { b.reg.Restart(b.t) }
	return e
}

// newToken asks for a token that may be the first.
var newToken = `{"id":"first","role":"admin","hash":"` + strings.Repeat("0", 64) + `"}`

// having has a token besides one of an admin, whose certificate asks.
func (e exchange) having(id string) exchange {
	e.before = func(b *bench) {
		b.token("admin", &fsm.CreateToken{Role: "admin"})
		b.token(id, &fsm.CreateToken{Role: "viewer"})
	}
	e.header = [2]string{"Authorization", "Bearer " + secretOf("admin").Text()}
	return e
}

// exchanges are those of each operation, over populated.
func exchanges() map[string][]exchange {
	const target, events = "10.0.0.9:1", "text/event-stream"
	const opening = `{"identity":"disk-w","session":"s-new","token":"0123456789abcdef0123456789abcdef","incarnation":1,"incarnation_tag":"c1","view_index":3}`
	invalid := get("/v1/nodes?form=1").refused(api.Invalid)
	return map[string][]exchange{
		"healthz": {get("/healthz"), send("POST", "/healthz", "").refused(api.Invalid)},
		"readyz":  {get("/readyz"), get("/readyz").refused(api.NoLeader).broken()},
		"metrics": {get("/metrics"), send("POST", "/metrics", "").refused(api.Invalid)},
		"watch": {get("/v1/watch"), get("/v1/watch?from=0").accept(events), get("/v1/watch?from=1"), get("/v1/watch?from=1").accept(events),
			get("/v1/watch").restarted(), get("/v1/watch").accept(events).restarted(),
			get("/v1/watch?from=x").refused(api.Invalid), get("/v1/watch?form=1").refused(api.Invalid).accept(events)},
		"backup": {get("/v1/backup"), get("/v1/backup?at=1").refused(api.Invalid), get("/v1/backup").refused(api.NoLeader).broken()},
		"restore": {send("POST", "/v1/restore?incarnation=2", savedBackup()), send("POST", "/v1/restore?incarnation=1", savedBackup()).refused(api.StaleEpoch),
			send("POST", "/v1/restore?incarnation=2", "none").refused(api.Corrupt), send("POST", "/v1/restore", savedBackup()).refused(api.Invalid)},
		"releaseScope": {send("POST", "/v1/release", `{"prefix":"app:","source_fenced":true,"reason":"off"}`).held(),
			send("POST", "/v1/release", `{"prefix":"app:","source_fenced":false,"reason":""}`).refused(api.Invalid).held(),
			send("POST", "/v1/release", `{"prefix":"app:","source_fenced":true,"reason":"off"}`).refused(api.WrongPhase)},
		"route": {get("/v1/route?key=app:1&as=a"), get("/v1/route?key=jobs:1"), get("/v1/route?key=none&as=a"),
			get("/v1/route").refused(api.Invalid), get("/v1/route?key=a&max_stale=1ms").refused(api.Stale).broken()},
		"explain":    {get("/v1/explain?key=app:1&as=a"), get("/v1/explain?key=was:1"), get("/v1/explain?key=live:1"), get("/v1/explain?key=none"), get("/v1/explain").refused(api.Invalid)},
		"listScopes": {get("/v1/scopes"), get("/v1/scopes?limit=1"), get("/v1/scopes?under=zz"), get("/v1/scopes?limit=-1").refused(api.Invalid)},
		"getScope":   {get("/v1/scope?prefix=app:"), get("/v1/scope?prefix=was:"), get("/v1/scope?prefix=live:"), get("/v1/scope?prefix=a").refused(api.NotFound), get("/v1/scope").refused(api.Invalid)},
		"declareScope": {send("PUT", "/v1/scope?prefix=new:", `{"writer":"a"}`), send("PUT", "/v1/scope?prefix=app:x", `{"writer":"a"}`).refused(api.Overlap),
			send("PUT", "/v1/scope", `{"writer":"a"}`).refused(api.Invalid)},
		"retireScope": {send("DELETE", "/v1/scope?prefix=jobs:", ""), send("DELETE", "/v1/scope?prefix=app:", "").refused(api.MoveInFlight),
			send("DELETE", "/v1/scope", "").refused(api.Invalid)},
		"apply": {send("POST", "/v1/apply", `{"nodes":[{"id":"d","addr":"10.0.0.4:7"}],"scopes":[{"prefix":"n:","writer":"d"}]}`),
			send("POST", "/v1/apply", `{"nodes":[{"id":"d","addr":"10.0.0.4:7"}],"dry_run":true}`),
			send("POST", "/v1/apply", `{"dry_run":true}`), send("POST", "/v1/apply", `{"if_index":1}`).refused(api.IndexChanged)},
		"listNodes":    {get("/v1/nodes"), invalid},
		"getNode":      {get("/v1/nodes/a"), get("/v1/nodes/w"), get("/v1/nodes/x"), get("/v1/nodes/zz").refused(api.NotFound)},
		"setNode":      {send("PUT", "/v1/nodes/e", `{"addr":"`+target+`"}`), send("PUT", "/v1/nodes/e", `{"addr":"e"}`).refused(api.Invalid)},
		"removeNode":   {send("DELETE", "/v1/nodes/d", ""), send("DELETE", "/v1/nodes/a", "").refused(api.NodeInUse)},
		"startMove":    {send("POST", "/v1/moves", `{"prefix":"jobs:","from":"c","to":"a","mode":"assisted"}`), send("POST", "/v1/moves", `{"prefix":"jobs:","from":"a","to":"c","mode":"assisted"}`).refused(api.NotOwner)},
		"listMoves":    {get("/v1/moves"), get("/v1/moves?prefix=none"), get("/v1/moves?state=odd").refused(api.Invalid)},
		"getMove":      {get("/v1/moves/m0"), get("/v1/moves/m1"), get("/v1/moves/m2"), get("/v1/moves/m3"), get("/v1/moves/m4"), get("/v1/moves/zz").refused(api.NotFound)},
		"quiesceMove":  {send("POST", "/v1/moves/m2/quiesce", ""), send("POST", "/v1/moves/m0/quiesce", "").refused(api.WrongPhase)},
		"shippedMove":  {send("POST", "/v1/moves/m1/shipped", manifest), send("POST", "/v1/moves/m2/shipped", "").refused(api.WrongPhase)},
		"readyMove":    {send("POST", "/v1/moves/m3/ready", manifest), send("POST", "/v1/moves/m3/ready", `{}`).refused(api.ManifestMismatch)},
		"abortMove":    {send("POST", "/v1/moves/m1/abort", `{"reason":"r"}`), send("POST", "/v1/moves/m0/abort", "").refused(api.WrongPhase)},
		"cleanedMove":  {send("POST", "/v1/moves/m0/cleaned", `{"reason":"off"}`), send("POST", "/v1/moves/m5/cleaned", `{"session":"s-x","node":"x","prefix":"left:","epoch":9}`), send("POST", "/v1/moves/m0/cleaned", `{}`).refused(api.Invalid)},
		"force":        {send("POST", "/v1/force", `{"prefix":"jobs:","to":"b","expected_epoch":6,"accept_loss":true,"source_fenced":"c"}`), send("POST", "/v1/force", `{"prefix":"jobs:","to":"b","expected_epoch":99,"accept_loss":true}`).refused(api.StaleEpoch)},
		"listSessions": {get("/v1/sessions"), get("/v1/sessions?node=x").refused(api.Invalid)},
		"openSession": {send("POST", "/v1/nodes/w/session", opening), send("POST", "/v1/nodes/x/session", opening).refused(api.SessionBusy),
			send("POST", "/v1/nodes/w/session", `{"token":"short"}`).refused(api.Invalid)},
		"renewSession": {send("PUT", "/v1/sessions/s-x", `{"view_index":7}`), send("PUT", "/v1/sessions/s-w", `{"view_index":7}`).refused(api.SessionExpired)},
		"closeSession": {send("DELETE", "/v1/sessions/s-x", ""), send("DELETE", "/v1/sessions/s-w", "").refused(api.SessionExpired)},
		"fenceNode":    {send("POST", "/v1/nodes/w/fence", `{"identity":"disk-w"}`), send("POST", "/v1/nodes/x/fence", `{"identity":"disk-x"}`).refused(api.SessionBusy)},
		"reportMove": {send("POST", "/v1/moves/m4/progress", `{"session":"s-x","keys":1,"bytes":1,"keys_left":0,"bytes_left":0}`),
			send("POST", "/v1/moves/m5/progress", `{"session":"s-x","keys":1,"bytes":1,"keys_left":0,"bytes_left":0}`).refused(api.WrongPhase)},
		"clusterStatus": {get("/v1/cluster?hash=true"), get("/v1/cluster").refused(api.Unavailable).broken()},
		"joinServer":    {send("POST", "/v1/cluster/members", `{"id":"s4","addr":"h:1"}`), send("POST", "/v1/cluster/members", `{"id":"-","addr":"h:1"}`).refused(api.Invalid)},
		"removeServer": {send("DELETE", "/v1/cluster/members/s3", ""), send("DELETE", "/v1/cluster/members/s2?accept_no_majority=true", ""),
			send("DELETE", "/v1/cluster/members/s2", "").refused(api.NoMajority)},
		"listTokens": {get("/v1/tokens"), get("/v1/tokens?id=ci").refused(api.Invalid)},
		"createToken": {send("POST", "/v1/tokens", newToken), send("POST", "/v1/tokens", strings.Replace(newToken, "}", `,"first":true}`, 1)), send("POST", "/v1/tokens", strings.Replace(newToken, "admin", "viewer", 1)).refused(api.Invalid),
			send("POST", "/v1/tokens", strings.Replace(newToken, "00", "0", 1)).refused(api.Invalid)},
		"revokeToken":    {send("DELETE", "/v1/tokens/ci", "").having("ci"), send("DELETE", "/v1/tokens/ci", "").refused(api.NotFound), send("DELETE", "/v1/tokens/CI", "").refused(api.Invalid)},
		"listAudit":      {get("/v1/audit"), get("/v1/audit?newest=true&from=7&limit=3&prefix=&move=m1"), get("/v1/audit?limit=-1").refused(api.Invalid), get("/v1/audit?prefix=%5Cx4").refused(api.Invalid)},
		"transferLeader": {send("POST", "/v1/cluster/transfer", `{"to":"s2"}`), send("POST", "/v1/cluster/transfer", `{"to":"-"}`).refused(api.Invalid)},
	}
}

// Every operation of the description is called, and answers as it is described.
func TestRepliesAreAsDescribed(t *testing.T) {
	calls := exchanges()
	for path, methods := range newBench(t).description().Paths {
		for method, op := range methods {
			good, refused := 0, 0
			for _, e := range calls[op.OperationID] {
				if e.code == "" {
					good++
				} else {
					refused++
				}
				t.Run(op.OperationID+" "+e.target+" "+string(e.code), func(t *testing.T) { e.check(t, method, op) })
			}
			if good == 0 || refused == 0 {
				t.Errorf("%s %s (%s) has %d calls that succeed and %d that are refused; add what lacks to exchanges", method, path, op.OperationID, good, refused)
			}
			delete(calls, op.OperationID)
		}
	}
	for id := range calls {
		t.Errorf("there is no operation %s", id)
	}
}

// streamed is how long a stream is read, in virtual time: past a heartbeat.
const streamed = 1500 * time.Millisecond

func (e exchange) check(t *testing.T, method string, op *operation) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.populated()
		d := b.description()
		if e.before != nil {
			e.before(b)
		}
		if e.during != nil {
			defer time.AfterFunc(streamed/2, func() { e.during(b) }).Stop()
		}
		ctx, cancel := context.WithTimeout(t.Context(), streamed)
		defer cancel()
		req := httptest.NewRequestWithContext(ctx, e.method, e.target, strings.NewReader(e.body))
		if e.header[0] != "" {
			req.Header.Set(e.header[0], e.header[1])
		}
		rec := httptest.NewRecorder()
		b.h.ServeHTTP(rec, req)
		reply := op.Responses[strconv.Itoa(rec.Code)]
		if reply == nil && rec.Code/100 != 2 {
			reply = op.Responses["default"]
		}
		kind, _, err := mime.ParseMediaType(rec.Header().Get("Content-Type"))
		if reply == nil || err != nil || reply.Content[kind] == nil {
			t.Fatalf("status %d with %s is not described: %s", rec.Code, kind, rec.Body)
		}
		for name := range reply.Headers {
			if len(rec.Header().Values(name)) == 0 && strings.EqualFold(e.method, method) {
				t.Errorf("the reply has no %s", name)
			}
		}
		items := bodies(t, kind, rec.Body.Bytes())
		for _, v := range items {
			if wrong := d.breaches(reply.Content[kind].Schema, "body", v); len(wrong) > 0 {
				t.Errorf("%v: %s", wrong, v)
			}
		}
		if e.code == "" && rec.Code/100 != 2 || e.code != "" && (kind != problemType || items[0].(map[string]any)["code"] != string(e.code)) {
			t.Errorf("status %d, want %q: %s", rec.Code, e.code, rec.Body)
		}
	})
}

// bodies are the values of a body that its schema speaks of.
func bodies(t *testing.T, kind string, body []byte) []any {
	t.Helper()
	var texts []string
	switch kind {
	case "text/plain":
		return []any{string(body)}
	case backupType:
		if _, err := snapshot.Verify(bytes.NewReader(body)); err != nil {
			t.Error(err)
		}
		return []any{""} // bytes are a string to a schema
	case linesType:
		texts = strings.SplitAfter(strings.TrimSuffix(string(body), "\n"), "\n")
	case eventsType:
		for _, e := range events(t, body) {
			texts = append(texts, e.data)
		}
	default:
		texts = []string{string(body)}
	}
	var out []any
	for _, text := range texts {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		t.Fatal("the body is empty")
	}
	return out
}

// event is one server-sent event as a browser hands it out.
type event struct{ name, data, id string }

// events reads a stream as browsers do: an id holds until another one comes.
func events(t *testing.T, stream []byte) []event {
	t.Helper()
	text, ok := strings.CutPrefix(string(stream), "retry: 1000\n\n")
	if !ok || !strings.HasSuffix(text, "\n\n") {
		t.Fatalf("the stream begins or ends otherwise: %.80q", stream)
	}
	var out []event
	id := ""
	for block := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		e := event{}
		for line := range strings.SplitSeq(block, "\n") {
			field, value, _ := strings.Cut(line, ":")
			value = strings.TrimPrefix(value, " ")
			switch field {
			case "event":
				e.name = value
			case "id":
				id = value
			case "data":
				e.data = value
			default:
				t.Errorf("field %q", field)
			}
		}
		e.id = id
		out = append(out, e)
	}
	return out
}

// The state that the calls are made over has what they are to show.
func TestPopulated(t *testing.T) {
	b := newBench(t)
	b.populated()
	st := b.reg.State()
	tombstones := 0
	for range st.TombstonesOver("") {
		tombstones++
	}
	if got := fmt.Sprint(st.NodesLen(), st.Scopes().Len(), st.Moves().RunningLen(), st.CleanupsLen(), tombstones); got != "8 7 4 2 1" {
		t.Errorf("nodes, scopes, moves, cleanups, tombstones: %s", got)
	}
}
