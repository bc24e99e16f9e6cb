package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

func TestEveryCodeAsProblem(t *testing.T) {
	for _, code := range api.Codes() {
		e := &api.Error{Code: code, Detail: "d", Owner: "o", Epoch: 1, Move: "m", ConflictsWith: "c", Floor: 2, Index: 3, Warnings: []string{"w"}}
		b := newBench(t)
		b.reg.Fail = fmt.Errorf("wrapped: %w", e)
		p := b.refused(code, "DELETE", "/v1/nodes/a", "")
		if p.Detail != "d" || p.Owner != "o" || p.Epoch != 1 || p.Move != "m" || p.ConflictsWith != "c" || p.Floor != 2 || p.Index != 3 || len(p.Warnings) != 1 {
			t.Errorf("%s: %+v", code, p)
		}
	}
}

func TestProblemShape(t *testing.T) {
	data, err := json.Marshal(problemOf(&api.Error{Code: api.StaleEpoch, Detail: "epoch 4, not 3", Epoch: 4, Owner: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"urn:scope-registry:error:STALE_EPOCH","title":"stale epoch","status":409,"detail":"epoch 4, not 3",` +
		`"code":"STALE_EPOCH","outcome":"not applied","owner":"a","epoch":4}`
	if string(data) != want {
		t.Errorf("%s", data)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	b := newBench(t)
	contains(t, b.refused(api.NotFound, "GET", "/v2/route", "").Detail, "/v2/route")
	rec := b.do("POST", "/v1/route", "")
	var p problem
	if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil || rec.Code != 405 || p.Code != api.Invalid || p.Status != 405 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	contains(t, rec.Header().Get("Allow"), "GET")
}

func TestBodyOfAnotherType(t *testing.T) {
	b := newBench(t)
	b.refused(api.Invalid, "PUT", "/v1/nodes/a", `addr=x`, "Content-Type", "application/x-www-form-urlencoded")
	b.refused(api.Invalid, "PUT", "/v1/nodes/a", "")
}

func TestErrorsRepeatLittle(t *testing.T) {
	if got := shown(strings.Repeat("é", 5000)); len(got) > 2*shownLen {
		t.Errorf("%d bytes", len(got))
	}
}

func TestHealth(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		if rec := b.do("GET", path, ""); rec.Code != 200 || !strings.HasPrefix(rec.Body.String(), "ok") {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
	contains(t, b.do("GET", "/readyz", "").Body.String(), "anonymous callers are admitted", "cluster bootstrap-token")
	b.token("admin", &fsm.CreateToken{Role: "admin"})
	if rec := b.do("GET", "/readyz", ""); rec.Body.String() != "ok" {
		t.Errorf("with a token: %s", rec.Body)
	}
	b.reg.Down = &api.Error{Code: api.NoLeader, Detail: "no leader is known"}
	b.refused(api.NoLeader, "GET", "/readyz", "")
	if rec := b.do("GET", "/healthz", ""); rec.Code != 200 {
		t.Errorf("%d", rec.Code)
	}
}

func TestCluster(t *testing.T) {
	b := newBench(t)
	var c api.Cluster
	b.ok(200, &c, "GET", "/v1/cluster?hash=true", "")
	if c.ID != "c" || len(c.Members) != 3 {
		t.Errorf("%+v", c)
	}
	b.ok(200, nil, "POST", "/v1/cluster/transfer", `{"to":"s2"}`)
	if b.reg.To != "s2" {
		t.Errorf("to %q", b.reg.To)
	}
	b.ok(200, nil, "POST", "/v1/cluster/transfer", "")
	if b.reg.To != "" {
		t.Errorf("to %q", b.reg.To)
	}
	b.refused(api.Invalid, "POST", "/v1/cluster/transfer", `{"to":"?"}`)
	b.reg.Fail = &api.Error{Code: api.NotFound, Detail: "no server s9"}
	b.refused(api.NotFound, "POST", "/v1/cluster/transfer", `{"to":"s9"}`)
	b.reg.Down = errors.New("down")
	b.refused(api.Internal, "GET", "/v1/cluster", "")
}

func TestMetrics(t *testing.T) {
	b := newBench(t)
	b.moving()
	b.refused(api.NotFound, "GET", "/v1/nodes/none", "")
	b.do("GET", "/nowhere", "")
	contains(t, b.do("GET", "/metrics", "").Body.String(),
		"scope_registry_index 5", "scope_registry_scopes 1", "scope_registry_scopes_without_fallback 1", "scope_registry_nodes 3",
		"scope_registry_moves_running 1", "scope_registry_cleanups_pending 0", "scope_registry_is_ready 1",
		"scope_registry_has_leader 1", "scope_registry_watchers 0",
		`scope_registry_http_requests_total{code="404",operation="getNode"} 1`,
		`scope_registry_http_requests_total{code="404",operation="none"} 1`,
		`scope_registry_http_request_duration_seconds_count{operation="setNode"} 3`)
}
