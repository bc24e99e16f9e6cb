package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/apitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a handler over a memory registry.
type bench struct {
	t   *testing.T
	reg *apitest.Memory
	h   http.Handler
}

func newBench(t *testing.T) *bench { return benchOf(t, func(*Config) {}) }

func benchOf(t *testing.T, with func(cfg *Config)) *bench {
	reg := apitest.New(t)
	reg.Reached = math.MaxUint64
	metrics := Collector(reg)
	gatherer := prometheus.NewRegistry()
	gatherer.MustRegister(metrics)
	cfg := Config{Registry: reg, Gatherer: gatherer, Metrics: metrics, Version: "v0"}
	with(&cfg)
	return &bench{t, reg, New(cfg)}
}

// endless is longer than any request but a stream takes, the longest wait included.
const endless = 2 * time.Minute

func (b *bench) do(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), endless)
	defer cancel()
	req := httptest.NewRequestWithContext(ctx, method, target, r)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	b.h.ServeHTTP(rec, req)
	return rec
}

// ok does a request that has to succeed and reads the reply into out.
func (b *bench) ok(status int, out any, method, target, body string, headers ...string) http.Header {
	b.t.Helper()
	rec := b.do(method, target, body, headers...)
	if rec.Code != status {
		b.t.Fatalf("%s %s: status %d, want %d: %s", method, target, rec.Code, status, rec.Body)
	}
	if rec.Header().Get(api.HeaderIndex) == "" {
		b.t.Fatalf("%s %s: no %s", method, target, api.HeaderIndex)
	}
	if out != nil {
		if err := json.Unmarshal(rec.Body.Bytes(), out); err != nil {
			b.t.Fatalf("%s %s: %v in %s", method, target, err, rec.Body)
		}
	}
	return rec.Header()
}

// refused does a request that has to fail with code, and returns the problem.
func (b *bench) refused(code api.Code, method, target, body string, headers ...string) problem {
	b.t.Helper()
	rec := b.do(method, target, body, headers...)
	var p problem
	if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil {
		b.t.Fatalf("%s %s: no problem: %d %s", method, target, rec.Code, rec.Body)
	}
	if p.Code != code || rec.Code != code.HTTPStatus() || p.Status != rec.Code || p.Outcome != code.Outcome() ||
		p.Detail == "" || p.Type == "" || p.Title == "" || rec.Header().Get("Content-Type") != problemType {
		b.t.Fatalf("%s %s: status %d, %s, want %s: %s", method, target, rec.Code, rec.Header().Get("Content-Type"), code, rec.Body)
	}
	if rec.Header().Get(api.HeaderIndex) == "" {
		b.t.Fatalf("%s %s: no %s", method, target, api.HeaderIndex)
	}
	return p
}

// nodes declares a, b and c.
func (b *bench) nodes() {
	b.t.Helper()
	for i, id := range []string{"a", "b", "c"} {
		b.ok(200, nil, "PUT", "/v1/nodes/"+id, fmt.Sprintf(`{"addr":"10.0.0.%d:6004"}`, i+1))
	}
}

// declared declares the nodes and the scope app: of a.
func (b *bench) declared() {
	b.t.Helper()
	b.nodes()
	b.ok(200, nil, "PUT", "/v1/scope?prefix=app:", `{"writer":"a"}`)
}

// moving starts the assisted move m1 of app: from a to b.
func (b *bench) moving() {
	b.t.Helper()
	b.declared()
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m1","prefix":"app:","from":"a","to":"b","mode":"assisted"}`)
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q does not contain %q", text, p)
		}
	}
}

// secretOf is the token of an id.
func secretOf(id string) access.Token {
	t, err := access.NewToken(id, sha256.Sum256([]byte(id)))
	if err != nil {
		panic(err)
	}
	return t
}

// token makes one, as the leader's own command, which nobody is asked about.
func (b *bench) token(id string, c *fsm.CreateToken) {
	b.t.Helper()
	c.Id, c.Hash = id, secretOf(id).Hash()
	b.propose(c)
}

// bearing is the header that shows a token.
func bearing(id string) []string { return []string{"Authorization", "Bearer " + secretOf(id).Text()} }
