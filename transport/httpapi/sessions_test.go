package httpapi

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/apitest"
)

// token is one that a node may have drawn; n tells it from others.
func token(n string) string { return strings.Repeat("0", MinToken-len(n)) + n }

// open is the body of an open of the node's data by the session.
func (b *bench) open(node, session string) string {
	c := b.reg.State().Cluster()
	return fmt.Sprintf(`{"identity":"disk-%s","session":%q,"token":%q,"incarnation":%d,"incarnation_tag":%q,"view_index":0}`,
		node, session, token(session), c.Incarnation, c.Tag)
}

// live opens the session s-ID for each of the nodes.
func (b *bench) live(nodes ...string) {
	b.t.Helper()
	if b.reg.State().Cluster().ID == "" {
		b.propose(&fsm.InitCluster{Id: "c1"})
	}
	for _, id := range nodes {
		b.ok(200, nil, "POST", "/v1/nodes/"+id+"/session", b.open(id, "s-"+id))
	}
}

// reaching is the body of a renewal at the index of now, which the log notes.
func (b *bench) reaching() string {
	return fmt.Sprintf(`{"view_index":%d}`, b.reg.State().Index())
}

func (b *bench) node(id string) api.NodeState {
	b.t.Helper()
	var n api.NodeState
	b.ok(200, &n, "GET", "/v1/nodes/"+id, "")
	return n
}

func TestSessionLife(t *testing.T) {
	b := newBench(t)
	b.declared()
	b.propose(&fsm.InitCluster{Id: "c1"})
	var got api.Opened
	h := b.ok(200, &got, "POST", "/v1/nodes/a/session", b.open("a", "s1"))
	index := b.reg.State().Index()
	if got.Session != "s1" || got.Opened != index || got.RenewMS != 2000 || got.LeaseMS != 8000 || h.Get(api.HeaderIndex) != fmt.Sprint(index) {
		t.Errorf("%+v at index %d, header %s", got, index, h.Get(api.HeaderIndex))
	}
	cmd := b.reg.Last().Command.(*fsm.OpenSession)
	if hash := sha256.Sum256([]byte(token("s1"))); !bytes.Equal(cmd.TokenHash, hash[:]) || len(cmd.PreviousTokenHash) != 0 {
		t.Errorf("the log has the token as %x", cmd.TokenHash)
	}
	n := b.node("a")
	if n.Session == nil || n.Session.ID != "s1" || n.Session.Opened != index || n.Identity != "disk-a" || n.Incarnation != 1 || n.Expired {
		t.Errorf("%+v", n)
	}
	b.refused(api.SessionBusy, "POST", "/v1/nodes/a/session", b.open("a", "s2"))
	over := strings.TrimSuffix(b.open("a", "s2"), "}") + fmt.Sprintf(`,"previous_token":%q}`, token("s1"))
	b.ok(200, &got, "POST", "/v1/nodes/a/session", over)
	var renewed api.Renewed
	b.ok(200, &renewed, "PUT", "/v1/sessions/s2", b.reaching())
	if renewed.LeaseMS != 8000 || renewed.Index == 0 {
		t.Errorf("%+v", renewed)
	}
	contains(t, b.refused(api.SessionExpired, "PUT", "/v1/sessions/s1", `{"view_index":1}`).Detail, "s1")
	b.ok(200, nil, "DELETE", "/v1/sessions/s2", "")
	b.refused(api.SessionExpired, "DELETE", "/v1/sessions/s2", "")
	if n := b.node("a"); n.Session != nil || n.Expired || n.Identity != "disk-a" {
		t.Errorf("%+v", n)
	}
	metrics := b.do("GET", "/metrics", "").Body.String()
	contains(t, metrics, `session_renewals_total{outcome="SESSION_EXPIRED"} 1`, `session_renewals_total{outcome="ok"} 1`, "scope_registry_sessions 0")
}

// Whose answer was lost sends the same again, and gets the same answer, with
// the same request id or another. Nobody else does.
func TestOpenAgain(t *testing.T) {
	b := newBench(t)
	b.nodes()
	b.propose(&fsm.InitCluster{Id: "c1"})
	body := b.open("a", "s1")
	var first api.Opened
	b.ok(200, &first, "POST", "/v1/nodes/a/session", body, "Idempotency-Key", "0-k")
	b.ok(200, nil, "PUT", "/v1/nodes/c", `{"addr":"h:9"}`)
	for _, key := range []string{"0-k", "0-other", ""} {
		var again api.Opened
		h := b.ok(200, &again, "POST", "/v1/nodes/a/session", body, "Idempotency-Key", key)
		if fmt.Sprint(again) != fmt.Sprint(first) || h.Get(api.HeaderIndex) != fmt.Sprint(b.reg.State().Index()) {
			t.Errorf("key %q: %+v, first %+v", key, again, first)
		}
	}
	b.refused(api.Exists, "POST", "/v1/nodes/b/session", b.open("b", "s1"))
	b.refused(api.Exists, "POST", "/v1/nodes/a/session", strings.Replace(body, "disk-a", "disk-x", 1))
	b.refused(api.SessionBusy, "POST", "/v1/nodes/a/session", b.open("a", "s2"))
	b.ok(200, nil, "DELETE", "/v1/sessions/s1", "")
	b.refused(api.IdentityChanged, "POST", "/v1/nodes/a/session", b.identityOfOwner())
}

// identityOfOwner makes a an owner and opens with other data.
func (b *bench) identityOfOwner() string {
	b.t.Helper()
	b.ok(200, nil, "PUT", "/v1/scope?prefix=own:", `{"writer":"a"}`)
	return strings.Replace(b.open("a", "s3"), "disk-a", "disk-x", 1)
}

func TestOpenRefusals(t *testing.T) {
	b := newBench(t)
	b.nodes()
	b.propose(&fsm.InitCluster{Id: "c1"})
	asked := len(b.reg.Asked)
	good := b.open("a", "s1")
	for from, to := range map[string]string{
		token("s1"): "short", `"session":"s1"`: `"session":""`, "disk-a": "disk a",
		`"s1"`: `"` + strings.Repeat("s", fsm.MaxRandom+1) + `"`, `"view_index":0`: `"view_index":0,"previous_token":"x"`,
	} {
		b.refused(api.Invalid, "POST", "/v1/nodes/a/session", strings.Replace(good, from, to, 1))
	}
	contains(t, b.refused(api.Invalid, "POST", "/v1/nodes/a/session", strings.Replace(good, token("s1"), token("s1")[1:], 1)).Detail, "31 bytes", "32")
	b.refused(api.Invalid, "POST", "/v1/nodes/-/session", good)
	if len(b.reg.Asked) != asked {
		t.Errorf("%d commands were proposed", len(b.reg.Asked)-asked)
	}
	b.refused(api.NotFound, "POST", "/v1/nodes/zz/session", good)
	b.refused(api.StaleEpoch, "POST", "/v1/nodes/a/session", strings.Replace(good, `"incarnation":1`, `"incarnation":2`, 1))
	b.refused(api.Invalid, "POST", "/v1/nodes/a/session", strings.Replace(good, `"view_index":0`, `"view_index":99`, 1))
}

// Neither a reply nor the log of requests repeats a token, whatever is wrong
// with the body or goes wrong after it.
func TestTokensAreNotRepeated(t *testing.T) {
	b := newBench(t)
	b.nodes()
	b.propose(&fsm.InitCluster{Id: "c1"})
	var said strings.Builder
	b.h = New(Config{Registry: b.reg, Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &said})})
	secret := token("secret")
	good := strings.Replace(b.open("a", "s1"), token("s1"), secret, 1)
	for _, body := range []string{
		good, `{"token":"` + secret + `"}`, `{"token":["` + secret + `"]}`, `{"token":"` + secret, good + secret, `"` + secret + `"`,
		strings.Replace(good, `"identity"`, `"identy"`, 1), strings.Replace(good, `"token"`, `"tokn"`, 1),
		strings.Replace(good, secret, secret[:MinToken-1], 1), strings.Replace(good, secret, strings.Repeat(secret, MaxToken), 1),
		strings.Replace(good, `"incarnation":1`, `"incarnation":2`, 1), strings.Replace(good, `"incarnation":1`, `"incarnation":"1"`, 1),
		strings.Replace(good, `"view_index":0`, `"view_index":0,"previous_token":"`+secret[1:]+`"`, 1),
		strings.Replace(good, `"view_index":0`, `"view_index":-1`, 1), strings.Replace(good, `"s1"`, `"s2"`, 1),
	} {
		rec := b.do("POST", "/v1/nodes/a/session", body)
		said.WriteString(rec.Body.String())
	}
	b.reg.Fail = fmt.Errorf("a plain error")
	said.WriteString(b.do("POST", "/v1/nodes/a/session", good).Body.String())
	said.WriteString(b.do("GET", "/v1/nodes/a", "").Body.String() + b.do("GET", "/v1/sessions", "").Body.String())
	if text := said.String(); strings.Contains(text, "secre") || !strings.Contains(text, "opened_index") || !strings.Contains(text, "openSession") {
		t.Errorf("said\n%s", text)
	}
}

func TestRenewRefusals(t *testing.T) {
	b := newBench(t)
	b.nodes()
	b.live("a")
	long := strings.Repeat("s", fsm.MaxRandom+1)
	contains(t, b.refused(api.Invalid, "PUT", "/v1/sessions/"+long, `{"view_index":1}`).Detail, "65", "64")
	contains(t, b.refused(api.Invalid, "DELETE", "/v1/sessions/"+long, "").Detail, "65", "64")
	contains(t, b.refused(api.Invalid, "PUT", "/v1/sessions/s-a", `{}`).Detail, "view_index")
	contains(t, b.refused(api.Invalid, "PUT", "/v1/sessions/s-a", `{"session":"s-b","view_index":1}`).Detail, "s-b", "s-a")
	contains(t, b.refused(api.Invalid, "PUT", "/v1/sessions/s-a", `{"view_index":999}`).Detail, "999")
	b.reg.Down = &api.Error{Code: api.NoLeader, Detail: "down"}
	b.refused(api.NoLeader, "PUT", "/v1/sessions/s-a", `{"view_index":1}`)
}

// The leader's counting is added to what the log has; without the leader that
// is shown alone, after a second.
func TestListSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.nodes()
		b.live("b", "a")
		b.ok(200, nil, "PUT", "/v1/sessions/s-b", b.reaching())
		var out api.Sessions
		b.ok(200, &out, "GET", "/v1/sessions", "")
		if len(out.Sessions) != 2 || out.Leader != "s1" || out.NoLeases != "" || out.Index != b.reg.Index {
			t.Fatalf("%+v", out)
		}
		first, second := out.Sessions[0], out.Sessions[1]
		if first.Node != "a" || first.ID != "s-a" || first.View != 0 || *first.LeftMS != apitest.LeaseLeftMS || second.Node != "b" || second.View != b.reg.Index {
			t.Errorf("%+v", out)
		}
		b.reg.Deaf = make(chan struct{})
		start := time.Now()
		out = api.Sessions{}
		b.ok(200, &out, "GET", "/v1/sessions", "")
		if took := time.Since(start); took != leaderTimeout || len(out.Sessions) != 2 || out.Sessions[1].LeftMS != nil || out.Sessions[1].View != 0 || out.Leader != "" {
			t.Errorf("after %v %+v", took, out)
		}
		contains(t, out.NoLeases, "TIMEOUT", "leader")
		start = time.Now()
		b.ok(200, &out, "GET", "/v1/sessions", "", api.HeaderPatience, "400")
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("a client that waits 400 ms is answered after %v", took)
		}
		close(b.reg.Deaf)
	})
}

// A change is settled when every session's view has passed it.
func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.nodes()
		settled := func() string {
			t.Helper()
			var s api.Scope
			b.ok(200, &s, "GET", "/v1/scope?prefix=app:", "")
			var e api.Explain
			b.ok(200, &e, "GET", "/v1/explain?key=app:1", "")
			if fmt.Sprint(show(s.Settled)) != fmt.Sprint(show(e.Scope.Settled)) {
				t.Errorf("the scope says %v, explain %v", show(s.Settled), show(e.Scope.Settled))
			}
			return fmt.Sprint(show(s.Settled), e.Unseen)
		}
		b.ok(200, nil, "PUT", "/v1/scope?prefix=app:", `{"writer":"a"}`)
		if got := settled(); got != "true []" {
			t.Errorf("without a session: %s", got)
		}
		b.live("a", "b")
		if got := settled(); got != "false [a b]" {
			t.Errorf("opened before the change: %s", got)
		}
		b.ok(200, nil, "PUT", "/v1/sessions/s-b", b.reaching())
		if got := settled(); got != "false [a]" {
			t.Errorf("b has seen it: %s", got)
		}
		b.ok(200, nil, "PUT", "/v1/sessions/s-a", b.reaching())
		if got := settled(); got != "true []" {
			t.Errorf("both have: %s", got)
		}
		b.ok(200, nil, "PUT", "/v1/scope?prefix=app:", `{"writer":"a","fallback":"b"}`)
		if got := settled(); got != "false [a b]" {
			t.Errorf("after a change of options: %s", got)
		}
		b.reg.Deaf = make(chan struct{})
		defer close(b.reg.Deaf)
		start := time.Now()
		if got := settled(); got != "unknown[]" || time.Since(start) != 2*leaderTimeout {
			t.Errorf("without the leader: %s after %v", got, time.Since(start))
		}
		contains(t, b.do("GET", "/v1/explain?key=app:1", "").Body.String(), "The leader could not be asked")
	})
}

func show(b *bool) any {
	if b == nil {
		return "unknown"
	}
	return *b
}

// agentMove starts the move m1 of app: from a to b, who have sessions.
func (b *bench) agentMove() {
	b.t.Helper()
	b.declared()
	b.live("a", "b", "c")
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m1","prefix":"app:","from":"a","to":"b","precopy":true}`)
}

const report = `{"session":"s-a","keys":10,"bytes":1048576,"keys_left":20,"bytes_left":2097152}`

func TestAgentMove(t *testing.T) {
	b := newBench(t)
	b.agentMove()
	b.ok(200, nil, "POST", "/v1/moves/m1/progress", report)
	want := api.Progress{Keys: 10, Bytes: 1 << 20, KeysLeft: 20, BytesLeft: 2 << 20, BytesPerSec: 1 << 20, LeftMS: 2000}
	var e api.Explain
	b.ok(200, &e, "GET", "/v1/explain?key=app:1", "")
	if m := b.move("m1"); m.Progress == nil || *m.Progress != want || *e.Move.Progress != want {
		t.Errorf("%+v, %+v", m.Progress, e.Move.Progress)
	}
	step := func(session, more string) string {
		return fmt.Sprintf(`{"session":%q%s}`, session, more)
	}
	b.ok(200, nil, "POST", "/v1/moves/m1/quiesce", "")
	sums := `,"manifest":{"keys":2,"bytes":9,"digest":"d"}`
	b.refused(api.Invalid, "POST", "/v1/moves/m1/shipped", manifest)
	b.refused(api.Invalid, "POST", "/v1/moves/m1/shipped", step("s-b", sums))
	b.refused(api.SessionExpired, "POST", "/v1/moves/m1/shipped", step("s-x", sums))
	b.refused(api.Invalid, "POST", "/v1/moves/m1/shipped", step("s s", sums))
	b.ok(200, nil, "POST", "/v1/moves/m1/shipped", step("s-a", sums))
	b.refused(api.Invalid, "POST", "/v1/moves/m1/ready", step("s-a", sums))
	b.refused(api.Invalid, "POST", "/v1/moves/m1/ready", step("s b", sums))
	b.ok(200, nil, "POST", "/v1/moves/m1/ready", step("s-b", sums))
	m := b.move("m1")
	if m.Phase != "done" || m.Mode != "agent" || m.Cleanup != "pending" || m.Progress != nil {
		t.Errorf("%+v", m)
	}
	b.refused(api.WrongPhase, "POST", "/v1/moves/m1/progress", report)
	b.refused(api.SessionBusy, "POST", "/v1/moves/m1/cleaned", `{"reason":"off"}`)
	named := func(node string, epoch uint64) string {
		return fmt.Sprintf(`{"session":"s-%s","node":%q,"prefix":"app:","epoch":%d}`, node, node, epoch)
	}
	contains(t, b.refused(api.Invalid, "POST", "/v1/moves/m1/cleaned", `{"session":"s-a","node":"a","epoch":1}`).Detail, "prefix")
	contains(t, b.refused(api.Invalid, "POST", "/v1/moves/m1/cleaned", `{"session":"s-a","node":"a","prefix":"app:"}`).Detail, "epoch")
	contains(t, b.refused(api.Invalid, "POST", "/v1/moves/m1/cleaned", `{"session":"s-a","prefix":"app:","epoch":1}`).Detail, "node")
	contains(t, b.refused(api.Invalid, "POST", "/v1/moves/m1/cleaned", `{"node":"a","reason":"off"}`).Detail, "session")
	b.refused(api.NotFound, "POST", "/v1/moves/m1/cleaned", named("c", m.Epoch))
	b.refused(api.StaleEpoch, "POST", "/v1/moves/m1/cleaned", named("a", m.Epoch+5))
	b.refused(api.WrongPhase, "POST", "/v1/moves/m9/cleaned", named("a", m.Epoch))
	b.ok(200, nil, "POST", "/v1/moves/m1/cleaned", named("a", m.Epoch))
	if m = b.move("m1"); m.Cleanup != "" {
		t.Errorf("%+v", m)
	}
}

func TestAgentAbort(t *testing.T) {
	b := newBench(t)
	b.agentMove()
	b.refused(api.Invalid, "POST", "/v1/moves/m1/abort", `{"session":"s-c"}`)
	b.refused(api.Invalid, "POST", "/v1/moves/m1/abort", `{"session":"s "}`)
	b.ok(200, nil, "POST", "/v1/moves/m1/abort", `{"session":"s-b","reason":"disk full"}`)
	if m := b.move("m1"); m.Phase != "aborted" || m.Cause != fsm.CauseTarget || m.Detail != "disk full" {
		t.Errorf("%+v", m)
	}
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m2","prefix":"app:","from":"a","to":"b"}`)
	b.propose(&fsm.Expire{Session: "s-b", Term: 1})
	if m := b.move("m2"); m.Phase != "aborted" || m.Cause != fsm.CauseSession {
		t.Errorf("%+v", m)
	}
	if n := b.node("b"); !n.Expired || n.Session != nil {
		t.Errorf("%+v", n)
	}
}

// Without the leader a move is shown as the log has it, after a second: also
// where a wait has just ended.
func TestMoveWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agentMove()
		b.ok(200, nil, "POST", "/v1/moves/m1/progress", report)
		if m := b.move("m1?wait=3"); m.Progress == nil {
			t.Errorf("after a wait: %+v", m)
		}
		b.reg.Deaf = make(chan struct{})
		defer close(b.reg.Deaf)
		start := time.Now()
		if m := b.move("m1?wait=3"); m.Progress != nil || m.Phase != "copying" || time.Since(start) != 3*time.Second+leaderTimeout {
			t.Errorf("%+v after %v", m, time.Since(start))
		}
	})
}

func TestReportRefusals(t *testing.T) {
	b := newBench(t)
	b.agentMove()
	contains(t, b.refused(api.Invalid, "POST", "/v1/moves/m1/progress", strings.Replace(report, "s-a", "", 1)).Detail, "session")
	contains(t, b.refused(api.Invalid, "POST", "/v1/moves/m1/progress", strings.Replace(report, "{", `{"move":"m2",`, 1)).Detail, "m2", "m1")
	b.refused(api.Invalid, "POST", "/v1/moves/m1/progress", `{"session":"s-a"}`)
	b.refused(api.SessionExpired, "POST", "/v1/moves/m1/progress", strings.Replace(report, "s-a", "s-x", 1))
	b.refused(api.NotFound, "POST", "/v1/moves/m9/progress", report)
}

// The admin's word about a node names its data, in every command that takes it.
func TestFencedIdentity(t *testing.T) {
	b := newBench(t)
	b.declared()
	b.ok(200, nil, "PUT", "/v1/scope?prefix=old:", `{"writer":"a"}`)
	b.live("a")
	fence := func(identity string) string { return fmt.Sprintf(`{"identity":%q}`, identity) }
	b.refused(api.SessionBusy, "POST", "/v1/nodes/a/fence", fence("disk-a"))
	b.propose(&fsm.Expire{Session: "s-a", Term: 1})
	b.refused(api.IdentityChanged, "POST", "/v1/nodes/a/fence", fence("disk-x"))
	b.refused(api.Invalid, "POST", "/v1/nodes/a/fence", `{}`)
	b.refused(api.Invalid, "POST", "/v1/nodes/a/fence", fence(strings.Repeat("x", fsm.MaxRandom+1)))
	b.refused(api.Invalid, "POST", "/v1/nodes/-/fence", fence("disk-a"))
	b.refused(api.NotFound, "POST", "/v1/nodes/zz/fence", fence("disk-a"))
	b.ok(200, nil, "POST", "/v1/nodes/a/fence", fence("disk-a"))
	if n := b.node("a"); !n.Fenced {
		t.Errorf("%+v", n)
	}
	force := `{"prefix":"app:","to":"b","expected_epoch":1,"accept_loss":true,"source_fenced":"a"%s}`
	b.refused(api.IdentityChanged, "POST", "/v1/force", fmt.Sprintf(force, ""))
	b.refused(api.Invalid, "POST", "/v1/force", fmt.Sprintf(force, `,"source_fenced_identity":"disk a"`))
	b.ok(200, nil, "POST", "/v1/force", fmt.Sprintf(force, `,"source_fenced_identity":"disk-a"`))
	b.refused(api.IdentityChanged, "DELETE", "/v1/scope?prefix=old:&source_fenced=a", "")
	contains(t, b.refused(api.Invalid, "DELETE", "/v1/scope?prefix=old:&source_fenced_identity=disk-a", "").Detail, "source_fenced")
	b.ok(200, nil, "DELETE", "/v1/scope?prefix=old:", "")
	declare := `{"writer":"b","source_fenced":"a"%s}`
	b.refused(api.IdentityChanged, "PUT", "/v1/scope?prefix=old:", fmt.Sprintf(declare, ""))
	b.refused(api.Invalid, "PUT", "/v1/scope?prefix=old:", `{"writer":"b","source_fenced_identity":"disk-a"}`)
	b.ok(200, nil, "PUT", "/v1/scope?prefix=old:", fmt.Sprintf(declare, `,"source_fenced_identity":"disk-a"`))
}
