package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// source watches as a browser's EventSource does, for a second and a half of
// virtual time, and returns what it was told.
func (b *bench) source(ctx context.Context, query, lastID string) []event {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, streamed)
	defer cancel()
	req := httptest.NewRequestWithContext(ctx, "GET", "/v1/watch"+query, nil)
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	rec := httptest.NewRecorder()
	b.h.ServeHTTP(rec, req)
	if rec.Code != 200 || rec.Header().Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return events(b.t, rec.Body.Bytes())
}

func (e event) item(t *testing.T) api.WatchItem {
	t.Helper()
	var item api.WatchItem
	if err := json.Unmarshal([]byte(e.data), &item); err != nil || item.Type != e.name {
		t.Fatalf("%v in %+v", err, e)
	}
	return item
}

func TestEventsSnapshotAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.declared() // indexes 1 to 4
		all := b.source(t.Context(), "", "")
		if len(all) != 2 || all[0].name != "snapshot" || all[0].id != "4" || all[1].name != "heartbeat" || all[1].id != "4" {
			t.Fatalf("%+v", all)
		}
		if item := all[0].item(t); len(item.Changes) != 5 || item.Changes[0].Cluster == nil || item.Index != 4 {
			t.Errorf("%+v", item)
		}
		b.ok(200, nil, "PUT", "/v1/nodes/d", `{"addr":"h:1"}`)
		b.ok(200, nil, "PUT", "/v1/nodes/e", `{"addr":"h:1"}`)
		for _, c := range []struct{ query, id, want string }{
			{"?from=4", "", "change 5 change 6 heartbeat 6"},
			{"?from=2", "5", "change 6 heartbeat 6"}, // the browser repeats its address
			{"", "6", "heartbeat 6"},
			{"?from=6", "4", "change 5 change 6 heartbeat 6"},
		} {
			var got []string
			for _, e := range b.source(t.Context(), c.query, c.id) {
				got = append(got, e.name, e.id)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s with %q: %v", c.query, c.id, got)
			}
		}
		contains(t, b.refused(api.Invalid, "GET", "/v1/watch", "", "Last-Event-ID", "4x").Detail, "Last-Event-ID", "4x")
		b.refused(api.Invalid, "GET", "/v1/watch?from=x", "", "Last-Event-ID", "4")
	})
}

// Both forms carry the same items.
func TestEventsAreTheLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.populated()
		var data strings.Builder
		for _, e := range b.source(t.Context(), "?from=1", "") {
			data.WriteString(e.data + "\n")
		}
		ctx, cancel := context.WithTimeout(t.Context(), streamed)
		defer cancel()
		lines := httptest.NewRecorder()
		b.h.ServeHTTP(lines, httptest.NewRequestWithContext(ctx, "GET", "/v1/watch?from=1", nil))
		// The time of the view is the only thing that may differ, and no move of the history is running at it.
		if data.String() != lines.Body.String() {
			t.Errorf("events %s\nlines %s", data.String(), lines.Body)
		}
	})
}

// Who breaks off inside a snapshot has no id to resume from: all but the last
// chunk of it leave none.
func TestEventsInsideSnapshotHaveNoID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.many(2*snapshotChunk + 1)
		got := ""
		for _, e := range b.source(t.Context(), "", "") {
			got += fmt.Sprintf("%s %q %v; ", e.name, e.id, e.item(t).More)
		}
		if got != `snapshot "" true; snapshot "" true; snapshot "1" false; heartbeat "1" false; ` {
			t.Error(got)
		}
	})
}

// many declares n nodes in one entry.
func (b *bench) many(n int) {
	b.t.Helper()
	batch := fsm.Batch{}
	for i := range n {
		batch.Nodes = append(batch.Nodes, &fsm.SetNode{Id: fmt.Sprintf("n%05d", i), Addr: "h:1"})
	}
	b.propose(&batch)
}

// After an error an EventSource has no id any more: connecting again by
// itself, it gets a snapshot.
func TestEventsAfterErrorBeginAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.declared()
		defer time.AfterFunc(streamed/2, func() { b.reg.Restart(t) }).Stop()
		all := b.source(t.Context(), "?from=3", "")
		last := all[len(all)-1]
		if e := last.item(t).Error; last.name != "error" || last.id != "" || e == nil || e.Code != api.Compacted || e.Floor != 4 {
			t.Fatalf("%+v", all)
		}
		if all := b.source(t.Context(), "", last.id); all[0].name != "snapshot" {
			t.Errorf("%+v", all)
		}
		if p := b.refused(api.Compacted, "GET", "/v1/watch", "", "Accept", "text/event-stream", "Last-Event-ID", "3"); p.Floor != 4 {
			t.Errorf("%+v", p)
		}
	})
}

func TestWhoWantsEvents(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/x-ndjson": false, "text/event-streams": false, "text/event-stream": true,
		"application/json, Text/Event-Stream;q=0.9": true,
	} {
		if got := wantsEvents(map[string][]string{"Accept": {accept}}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// Heartbeats come every second, also while changes do, and their index is that
// of what was told before.
func TestHeartbeatsBetweenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(t)
		b.declared()
		w := b.stream(ctx, "?from=4")
		synctest.Wait()
		start, told, beats := time.Now(), uint64(4), 0
		for i := range 30 { // a change every 300 ms
			time.Sleep(300 * time.Millisecond)
			b.ok(200, nil, "PUT", "/v1/nodes/d", fmt.Sprintf(`{"addr":"h:%d"}`, i+1))
			synctest.Wait()
			for len(w.lines) > 0 {
				item := w.next(t)
				if item.Type == "change" {
					told = item.Index
					continue
				}
				if beats++; item.Type != "heartbeat" || item.Index != told || time.Since(start) > time.Duration(beats)*heartbeatEvery+300*time.Millisecond {
					t.Errorf("%+v after %v, with %d told", item, time.Since(start), told)
				}
			}
		}
		if told != 34 || beats != 9 {
			t.Errorf("told up to %d, with %d heartbeats", told, beats)
		}
		cancel()
		for range w.lines {
		}
	})
}
