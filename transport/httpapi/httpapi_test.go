package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Registry of one server that applies every command at once.
type memory struct {
	*fsm.FSM
	mu    sync.Mutex // guards all below
	index uint64
	asked []fsm.Envelope
	read  []api.ReadOptions
	moves int
	to    string
	fail  error // of Propose
	down  error // of Read, Ready and Status
	other uint64
}

// entryMS is the leader's wall clock in these tests.
const entryMS = 1_700_000_000_000

// applyLog calls apply with a log entry whose type only the state machine's
// package may import.
func applyLog[L any](apply func(*L) any, index uint64, data []byte) any {
	log := new(L)
	v := reflect.ValueOf(log).Elem()
	v.FieldByName("Index").SetUint(index)
	v.FieldByName("Term").SetUint(1)
	v.FieldByName("Data").SetBytes(data)
	return apply(log)
}

func newMemory(t *testing.T) *memory {
	return &memory{FSM: fsm.New(func(err error) { t.Errorf("fatal: %v", err) }), other: 1 << 40}
}

func (m *memory) Propose(ctx context.Context, e fsm.Envelope) (*fsm.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("a mutation without a bound")
	}
	m.asked = append(m.asked, e)
	if m.fail != nil {
		return nil, m.fail
	}
	return m.commit(e)
}

// commit applies a command. mu is held, or nothing else runs.
func (m *memory) commit(e fsm.Envelope) (*fsm.Result, error) {
	m.moves++
	made := fmt.Sprintf("mv-%d", m.moves)
	if e.RequestID != "" { // as the registry does: a retry must be the same command
		made = "mv-" + e.RequestID
	}
	switch c := e.Command.(type) {
	case *fsm.StartMove:
		if c.Id == "" {
			c.Id = made
		}
	case *fsm.Force:
		if c.Id == "" {
			c.Id = made
		}
	}
	data, err := e.Encode()
	if err != nil {
		return nil, err
	}
	entry, err := fsm.EncodeEntry(entryMS, [][]byte{data})
	if err != nil {
		return nil, err
	}
	m.index++
	results, ok := applyLog(m.Apply, m.index, entry).([]*fsm.Result)
	if !ok || len(results) != 1 {
		return nil, fmt.Errorf("apply gave %v", results)
	}
	return results[0], fsm.ResultError(results[0])
}

func (m *memory) Read(ctx context.Context, o api.ReadOptions) (fsm.State, error) {
	m.mu.Lock()
	m.read = append(m.read, o)
	down := m.down
	m.mu.Unlock()
	if err := m.WaitIndex(ctx, o.MinIndex); err != nil {
		return fsm.State{}, &api.Error{Code: api.Timeout, Detail: err.Error()}
	}
	return m.State(), down
}

func (m *memory) Leader() (string, time.Duration, bool) { return "s1", 7 * time.Millisecond, true }

func (m *memory) Ready() error { return m.down }

func (m *memory) Status(context.Context, bool) (api.Cluster, error) {
	i := m.State().Index()
	return api.Cluster{ID: "c", Self: "s1", Leader: "s1", Index: i, Members: []api.Member{
		{ID: "s1", Role: "leader", Index: i}, {ID: "s2", Role: "follower", Index: min(i, m.other)}, {ID: "s3", Error: "refused"},
	}}, m.down
}

func (m *memory) Transfer(_ context.Context, to string) error {
	m.to = to
	return m.fail
}

func (m *memory) last() fsm.Envelope {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked[len(m.asked)-1]
}

// restart replaces the state by its own snapshot, as a restore does: history
// is gone and watchers end.
func (m *memory) restart(t *testing.T) {
	t.Helper()
	var buf bytes.Buffer
	w, err := snapshot.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	for r := range m.State().Records() {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), m.Restore(io.NopCloser(&buf))); err != nil {
		t.Fatal(err)
	}
}

// bench is a handler over a memory registry.
type bench struct {
	t   *testing.T
	reg *memory
	h   http.Handler
}

func newBench(t *testing.T) *bench {
	reg := newMemory(t)
	metrics := Collector(reg)
	gatherer := prometheus.NewRegistry()
	gatherer.MustRegister(metrics)
	return &bench{t, reg, New(Config{Registry: reg, Gatherer: gatherer, Metrics: metrics, Version: "v0"})}
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
