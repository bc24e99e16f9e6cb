package workload

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// world is a registry and three nodes that answer from one memory. A move is done when somebody asks for it.
type world struct {
	mu      sync.Mutex // guards the rest
	scopes  map[string]*api.Scope
	moves   map[string]*api.Move
	records map[string]map[string]writes.Record // by scope, at its owner
	done    int                                 // moves
	aborted int
	flapped int      // fallbacks that were declared anew
	back    int      // scopes that were taken over and moved back
	astray  []string // moves that should not have been started
	written int
	enough  chan struct{} // closed when there were some moves and writes
	ready   bool
	staged  []string
	patient int    // questions that are still answered before
	tired   func() // is called
}

// asked counts a question.
func (d *world) asked() {
	if d.patient--; d.patient == 0 {
		d.tired()
	}
}

func refuse(w http.ResponseWriter, e api.Error) {
	w.WriteHeader(e.Code.HTTPStatus())
	_ = json.NewEncoder(w).Encode(e)
}

// registry answers as a server does.
func (d *world) registry(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked()
	w.Header().Set(api.HeaderIndex, "5")
	prefix := r.URL.Query().Get("prefix")
	id, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/moves/"), "/")
	var out any
	switch {
	case r.URL.Path == "/v1/scope" && r.Method == http.MethodPut:
		var decl api.Declare
		_ = json.NewDecoder(r.Body).Decode(&decl)
		if s := d.scopes[prefix]; s != nil {
			if s.Fallback != "" || decl.Writer != s.Owner || decl.Fallback == s.Owner {
				refuse(w, api.Error{Code: api.Invalid, Detail: fmt.Sprintf("%+v of %+v", decl, s)})
				return
			}
			d.flapped++
			s.Fallback = decl.Fallback
			out = api.Applied{Index: 5, Epoch: s.Epoch, Changed: 1}
			break
		}
		d.scopes[prefix] = &api.Scope{Prefix: prefix, Writer: decl.Writer, Owner: decl.Writer, Fallback: decl.Fallback, Epoch: 1}
		d.records[prefix] = map[string]writes.Record{}
		out = api.Applied{Index: 5, Epoch: 1, Changed: 1}
	case r.URL.Path == "/v1/scope":
		out = d.scopes[prefix]
	case r.URL.Path == "/v1/moves" && r.Method == http.MethodGet: // a client that asks for an index
		out = struct{}{}
	case r.URL.Path == "/v1/moves":
		var m api.StartMove
		_ = json.NewDecoder(r.Body).Decode(&m)
		s := d.scopes[m.Prefix]
		if s.Move != "" || m.From != s.Owner || m.To == s.Owner || m.Mode != "agent" || s.Owner != s.Writer && m.To != s.Writer {
			d.astray = append(d.astray, fmt.Sprintf("%+v of %+v", m, s))
			refuse(w, api.Error{Code: api.MoveInFlight, Detail: fmt.Sprintf("%+v", m)})
			return
		}
		s.Move, s.Target = m.ID, m.To
		d.moves[m.ID] = &api.Move{ID: m.ID, Prefix: m.Prefix, From: m.From, To: m.To, Phase: "copying"}
		out = d.moves[m.ID]
	default:
		out = d.end(id, verb == "abort")
	}
	_ = json.NewEncoder(w).Encode(out)
}

// end ends a move.
func (d *world) end(id string, abort bool) *api.Move {
	m := d.moves[id]
	if m.Phase != "copying" {
		return m
	}
	s := d.scopes[m.Prefix]
	s.Move, s.Target = "", ""
	if abort {
		m.Phase = "aborted"
		d.aborted++
		return m
	}
	if s.Owner != s.Writer {
		d.back++
	}
	if m.Phase, s.Owner, s.Writer = "done", m.To, m.To; s.Fallback == m.To {
		s.Fallback = ""
	}
	s.Epoch++
	if d.done++; d.done%3 == 0 && s.Fallback != "" { // its new owner dies
		s.Owner = s.Fallback
		s.Epoch++
	}
	d.count()
	return m
}

func (d *world) count() {
	if d.done >= 20 && d.written >= 200 && d.flapped > 0 && d.back > 0 {
		select {
		case <-d.enough:
		default:
			close(d.enough)
		}
	}
}

// node answers as the store of a node does.
func (d *world) node(id string, w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.URL.Path {
	case "/readyz":
		d.asked()
		if !d.ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/v1/status":
		_ = json.NewEncoder(w).Encode(map[string][]string{"staged": d.staged})
	case "/v1/dump":
		prefix := r.URL.Query().Get("prefix")
		s := d.scopes[prefix]
		for _, rec := range d.records[prefix] {
			if id == s.Owner || id == s.Fallback {
				_ = json.NewEncoder(w).Encode(rec)
			}
		}
	case "/v1/value":
		key := r.URL.Query().Get("key")
		prefix := key[:len("data:00:")]
		s := d.scopes[prefix]
		if s.Owner != id {
			refuse(w, api.Error{Code: api.Misdirected, Owner: s.Owner, Addr: "elsewhere"})
			return
		}
		value, _ := io.ReadAll(r.Body)
		if d.records[prefix][key] = (writes.Record{Key: key, Value: string(value), Epoch: s.Epoch}); r.Method == http.MethodDelete {
			delete(d.records[prefix], key)
		}
		d.written++
		d.count()
		now := time.Now().UnixNano()
		fmt.Fprintf(w, `{"node":%q,"epoch":%d,"incarnation":1,"began_ns":%d,"ended_ns":%d}`, id, s.Epoch, now, now)
	}
}

func newWorld(t *testing.T) (*world, DataConfig) {
	t.Helper()
	d := &world{scopes: map[string]*api.Scope{}, moves: map[string]*api.Move{}, records: map[string]map[string]writes.Record{}, enough: make(chan struct{}), ready: true}
	log, err := history.Create(filepath.Join(t.TempDir(), "history.jsonl"), history.Setup{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	registry := httptest.NewServer(http.HandlerFunc(d.registry))
	t.Cleanup(registry.Close)
	cfg := DataConfig{Nodes: []string{"d1", "d2", "d3"}, Addrs: map[string]string{}, Servers: []string{registry.URL}, Log: log, Seed: 7}
	for _, id := range cfg.Nodes {
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.node(id, w, r) }))
		t.Cleanup(ts.Close)
		cfg.Addrs[id] = ts.Listener.Addr().String()
	}
	return d, cfg
}

// begun is work that goes on until there were some moves and writes.
func begun(t *testing.T) (*Data, *world) {
	t.Helper()
	d, cfg := newWorld(t)
	data, err := BeginData(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(data.Close)
	<-d.enough
	return data, d
}

// TestDataIsMovedAndLookedAt: scopes move while they are written to, and at the end what every node has is in the history.
func TestDataIsMovedAndLookedAt(t *testing.T) {
	data, d := begun(t)
	data.Stop()
	d.mu.Lock()
	moved := d.done + d.aborted
	d.mu.Unlock()
	if owner, to, err := data.Owner(t.Context(), dataScopes+3); err != nil || owner != d.scopes["data:03:"].Owner || to != d.scopes["data:03:"].Target {
		t.Errorf("data:03: is of %q and moves to %q (%v), and it is %+v", owner, to, err, d.scopes["data:03:"])
	}
	for id := range d.moves { // those that nobody waited for any more
		d.mu.Lock()
		d.end(id, false)
		d.mu.Unlock()
	}
	if err := data.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.aborted == 0 && moved > 100 || d.done == 0 {
		t.Errorf("%d moves done, %d aborted", d.done, d.aborted)
	}
	if len(d.astray) > 0 {
		t.Errorf("moves were started that are refused, or of a scope that was taken over elsewhere than back: %q", d.astray)
	}
	run := data.cfg.Log.Run()
	acked := map[string]string{} // value by key, of the last write
	for _, op := range run.Writes {
		if op.Outcome == writes.Acknowledged {
			acked[op.Key] = op.Value
		}
	}
	owners := map[string]bool{}
	for _, dump := range run.Dumps {
		s := d.scopes[dump.Prefix]
		if dump.Owner != (dump.Node == s.Owner) || dump.Epoch != s.Epoch || !dump.Owner && (!dump.Spare || dump.Node != s.Fallback) {
			t.Errorf("%s has %d records of %+v: %+v", dump.Node, len(dump.Records), s, dump)
		}
		if !dump.Owner {
			continue
		}
		owners[dump.Prefix] = true
		for _, rec := range dump.Records {
			if acked[rec.Key] != rec.Value {
				t.Errorf("%s has %+v, and clients were told %q", dump.Node, rec, acked[rec.Key])
			}
		}
	}
	if len(owners) != dataScopes {
		t.Errorf("the owners of %v were looked at", owners)
	}
}

// TestDataThatDoesNotSettle: what is still under way when time is over is told.
func TestDataThatDoesNotSettle(t *testing.T) {
	// So many questions that each is asked for more than once.
	for want, c := range map[string]struct {
		left func(*world)
		asks int
	}{
		"move ship-9 of \"data:02:\" has not ended":     {func(d *world) { d.scopes["data:02:"].Move = "ship-9" }, 12},
		"d3 has not deleted its copy of \"data:02:\"":   {func(d *world) { d.scopes["data:02:"].Cleanups = []api.Cleanup{{Node: "d3"}} }, 12},
		"d1 has slices of the moves ship-7":             {func(d *world) { d.staged = []string{"ship-7"} }, 30},
		"a node is not ready 30s after all faults were": {func(d *world) { d.ready = false }, 2},
	} {
		data, d := begun(t)
		data.Stop()
		ctx, cancel := context.WithCancel(t.Context())
		d.mu.Lock()
		for id := range d.moves {
			d.end(id, false)
		}
		c.left(d)
		d.patient, d.tired = c.asks, cancel
		d.mu.Unlock()
		if err := data.Finish(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		cancel()
		if n := len(data.cfg.Log.Run().Dumps); n != 0 {
			t.Errorf("%d dumps of what was not calm", n)
		}
	}
}

func TestDataNeedsItsNodes(t *testing.T) {
	d, cfg := newWorld(t)
	d.ready = false
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d.patient, d.tired = 2, cancel
	if data, err := BeginData(ctx, cfg); err == nil || !strings.Contains(err.Error(), "did not begin to serve: d1 is not ready") || data != nil {
		t.Errorf("nodes that are not ready: %v", err)
	}
	if len(d.scopes) > 0 || slices.ContainsFunc(cfg.Log.Run().Writes, func(op writes.Op) bool { return op.Outcome == writes.Acknowledged }) {
		t.Errorf("declared %v", d.scopes)
	}
}
