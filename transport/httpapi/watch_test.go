package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/apitest"
	"github.com/scope-registry/scope-registry/internal/view"
)

// tap is a ResponseWriter whose lines come out of a channel. Like a connection
// it can refuse to take more.
type tap struct {
	header http.Header
	lines  chan []byte
	part   []byte // of the line that has not ended
	broken error
}

func (w *tap) Header() http.Header { return w.header }
func (w *tap) WriteHeader(int)     {}
func (w *tap) Flush()              {}
func (w *tap) Write(p []byte) (int, error) {
	if w.broken != nil {
		return 0, w.broken
	}
	if w.part = append(w.part, p...); p[len(p)-1] == '\n' {
		w.lines <- w.part
		w.part = nil
	}
	return len(p), nil
}

// stream starts a watch inside a bubble and returns what reads its next line.
// The channel of lines is closed when the stream ends.
func (b *bench) stream(ctx context.Context, query string) *tap {
	w := &tap{header: http.Header{}, lines: make(chan []byte, 64)}
	req := httptest.NewRequestWithContext(ctx, "GET", "/v1/watch"+query, nil)
	go func() {
		defer close(w.lines)
		b.h.ServeHTTP(w, req)
	}()
	return w
}

func (w *tap) next(t *testing.T) api.WatchItem {
	t.Helper()
	line, ok := <-w.lines
	if !ok {
		t.Fatal("the stream ended")
	}
	var item api.WatchItem
	if err := json.Unmarshal(line, &item); err != nil || line[len(line)-1] != '\n' {
		t.Fatalf("%v in %q", err, line)
	}
	return item
}

func (w *tap) ended(t *testing.T) {
	t.Helper()
	if line, ok := <-w.lines; ok {
		t.Fatalf("the stream goes on: %s", line)
	}
}

func TestWatchSnapshotThenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(t)
		b.moving()
		w := b.stream(ctx, "")
		snap := w.next(t)
		if snap.Type != "snapshot" || snap.More || snap.Index != b.reg.Index || len(snap.Changes) != 6 {
			t.Fatalf("%+v", snap)
		}
		if got := snap.Changes[4].Scope; got == nil || got.State != view.Quiesced || got.Target != "b" {
			t.Errorf("%+v", snap.Changes[4])
		}
		if got := snap.Changes[5].Move; got == nil || got.ID != "m1" {
			t.Errorf("%+v", snap.Changes[5])
		}
		b.ok(200, nil, "POST", "/v1/moves/m1/shipped", "")
		b.ok(200, nil, "POST", "/v1/moves/m1/ready", "")
		b.ok(200, nil, "DELETE", "/v1/nodes/c", "")
		shipped, flip, gone := w.next(t), w.next(t), w.next(t)
		if shipped.Type != "change" || shipped.Index+1 != flip.Index || len(shipped.Changes) == 0 || shipped.Changes[0].Move == nil {
			t.Errorf("%+v", shipped)
		}
		kinds := map[string]bool{}
		for _, c := range flip.Changes {
			kinds["scope"] = kinds["scope"] || c.Scope != nil && c.Scope.Owner == "b"
			kinds["move"] = kinds["move"] || c.Move != nil && c.Move.Phase == "done"
			kinds["cleanup"] = kinds["cleanup"] || c.Cleanup != nil && c.Cleanup.Node == "a"
		}
		if !kinds["scope"] || !kinds["move"] || !kinds["cleanup"] {
			t.Errorf("%+v", flip)
		}
		if c := gone.Changes[0]; c.Op != "delete" || c.Node == nil || c.Node.ID != "c" {
			t.Errorf("%+v", gone)
		}
		cancel()
		w.ended(t)
	})
}

func TestWatchResumesAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(t)
		b.declared() // indexes 1 to 4
		w, future := b.stream(ctx, "?from=2"), b.stream(ctx, "?from=4")
		for _, want := range []uint64{3, 4} {
			if item := w.next(t); item.Type != "change" || item.Index != want {
				t.Errorf("%+v, want index %d", item, want)
			}
		}
		b.ok(200, nil, "PUT", "/v1/nodes/d", `{"addr":"h:1"}`)
		if item := future.next(t); item.Index != 5 {
			t.Errorf("%+v", item)
		}
		cancel()
		future.ended(t)
		for range w.lines {
		}
	})
}

func TestWatchHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(t)
		b.declared()
		w := b.stream(ctx, "?from=4")
		start := time.Now()
		if item := w.next(t); item.Type != "heartbeat" || item.Index != 4 || time.Since(start) != heartbeatEvery {
			t.Errorf("%+v after %v", item, time.Since(start))
		}
		// A refused command changes nothing, but the index goes on.
		b.refused(api.NotFound, "DELETE", "/v1/nodes/none", "")
		if item := w.next(t); item.Type != "heartbeat" || item.Index != 5 || time.Since(start) != 2*heartbeatEvery {
			t.Errorf("%+v after %v", item, time.Since(start))
		}
		cancel()
		w.ended(t)
	})
}

func TestWatchCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.declared()
		w := b.stream(t.Context(), "?from=4")
		synctest.Wait()
		b.reg.Restart(t)
		item := w.next(t)
		if item.Type != "error" || item.Error == nil || item.Error.Code != api.Compacted || item.Error.Floor != 4 {
			t.Errorf("%+v", item)
		}
		w.ended(t)
		if p := b.refused(api.Compacted, "GET", "/v1/watch?from=2", ""); p.Floor != 4 {
			t.Errorf("%+v", p)
		}
	})
}

func TestWatchSnapshotInChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(t)
		b.many(2 * snapshotChunk) // and the record of the cluster, which is the first
		w := b.stream(ctx, "?from=0")
		seen := map[string]bool{}
		for _, want := range []int{snapshotChunk, snapshotChunk, 1} {
			item := w.next(t)
			if item.Type != "snapshot" || len(item.Changes) != want || item.More != (want > 1) || item.Index != 1 {
				t.Errorf("%s with %d changes, more %v", item.Type, len(item.Changes), item.More)
			}
			for _, c := range item.Changes {
				if c.Node != nil {
					seen[c.Node.ID] = true
				}
			}
		}
		if len(seen) != 2*snapshotChunk {
			t.Errorf("%d nodes", len(seen))
		}
		cancel()
		w.ended(t)
	})
}

func TestWatchEmptySnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := newBench(t).stream(ctx, "")
		if item := w.next(t); item.Type != "snapshot" || item.More || len(item.Changes) != 1 || item.Changes[0].Cluster == nil {
			t.Errorf("%+v", item)
		}
		cancel()
		w.ended(t)
	})
}

func TestWatchOfClientThatIsGone(t *testing.T) {
	b := newBench(t)
	w := &tap{header: http.Header{}, broken: fmt.Errorf("broken pipe")}
	b.h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/watch", nil)) // returns
}

func TestWatchRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where a stream that should not be ends at once
		b := newBench(t)
		contains(t, b.refused(api.Invalid, "GET", "/v1/watch?from=-1", "").Detail, "from", "-1")
		s := b.h.(*server)
		s.watchers.Store(MaxWatchers)
		contains(t, b.refused(api.Limit, "GET", "/v1/watch", "").Detail, "10000")
		if n := s.watchers.Load(); n != MaxWatchers {
			t.Errorf("%d watchers are counted after a refusal", n)
		}
	})
}

// restoredSince is a registry whose state is that of a restore, while its watchers
// still stand in what was before.
type restoredSince struct {
	*apitest.Memory
	t *testing.T
}

func (r restoredSince) State() fsm.State {
	was := r.Memory.State()
	st, _, err := was.Restored(fsm.Restoration{Incarnation: was.Cluster().Incarnation + 1, Tag: "later", Index: was.Index() + 1})
	if err != nil {
		r.t.Error(err)
	}
	return st
}

// An item is of the history that its watcher follows, whatever the state is by
// the time it is sent.
func TestWatchNamesTheHistoryOfItsItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(t)
		b.propose(&fsm.InitCluster{Id: "c1"})
		b.moving()
		was := b.reg.State().Cluster()
		b.h = New(Config{Registry: restoredSince{b.reg, t}, Version: "v0"})
		w := b.stream(ctx, fmt.Sprintf("?from=%d", b.reg.Index))
		if beat := w.next(t); beat.Type != "heartbeat" || beat.Incarnation != was.Incarnation || beat.Tag != was.Tag {
			t.Errorf("%+v, the watcher is in %+v", beat, was)
		}
		b.ok(200, nil, "POST", "/v1/moves/m1/abort", "")
		if item := w.next(t); item.Type != "change" || item.Incarnation != was.Incarnation || item.Tag != was.Tag {
			t.Errorf("%+v, the watcher is in %+v", item, was)
		}
		cancel()
		w.ended(t)
	})
}
