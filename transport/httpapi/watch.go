package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

const (
	// heartbeatEvery tells an idle watcher that the stream lives, and its index.
	heartbeatEvery = time.Second
	// lineTimeout ends the stream of a watcher that does not read, whose queue
	// would else hold changes for it.
	lineTimeout = 10 * time.Second
	// snapshotChunk bounds the changes of one snapshot line, so that a reader
	// needs no large buffer.
	snapshotChunk = 1000
)

// watch streams changes as JSON lines.
func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	from, err := watchFrom(r)
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	defer s.watchers.Add(-1)
	if s.watchers.Add(1) > MaxWatchers {
		writeProblem(w, problemOf(&api.Error{Code: api.Limit,
			Detail: fmt.Sprintf("this server has %d watchers, which is the limit; use another server, or close some", MaxWatchers)}))
		return
	}
	s.metrics.watchers.Inc()
	defer s.metrics.watchers.Dec()
	watcher, err := s.reg.Watch(from)
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer untilShutdown(ctx, cancel)()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	st := &stream{server: s, watcher: watcher, control: http.NewResponseController(w), out: json.NewEncoder(w)}
	st.out.SetEscapeHTML(false)
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	defer st.control.SetWriteDeadline(time.Time{}) //nolint:errcheck // the connection may serve other requests after an error line
	if err := st.run(ctx); err != nil {
		s.log.Debug("watch ended", "from", r.RemoteAddr, "index", watcher.Index(), "error", err)
	}
}

func watchFrom(r *http.Request) (uint64, error) {
	text := r.URL.Query().Get("from")
	if text == "" {
		return 0, nil
	}
	from, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, invalid("from %s is not an index; give the last index seen, or 0 for a snapshot", shown(text))
	}
	return from, nil
}

// stream is one watcher's connection.
type stream struct {
	server  *server
	watcher *fsm.Watcher
	control *http.ResponseController
	out     *json.Encoder
}

// line writes one line and hands it to the network.
func (st *stream) line(item api.WatchItem) error {
	// A writer without deadlines is one of a test.
	if err := st.control.SetWriteDeadline(time.Now().Add(lineTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if err := st.out.Encode(item); err != nil {
		return err
	}
	return st.control.Flush()
}

// run sends until the client or the server ends it, or the watcher fails,
// which it says in a last line.
func (st *stream) run(ctx context.Context) error {
	if state, ok := st.watcher.Snapshot(); ok {
		if err := st.snapshot(ctx, state); err != nil {
			return err
		}
	} else if err := st.control.Flush(); err != nil { // the client shall know that it is on
		return err
	}
	for {
		wait, cancel := context.WithTimeout(ctx, heartbeatEvery)
		item, err := st.watcher.Next(wait)
		idle := wait.Err() != nil
		cancel()
		var known *api.Error
		switch {
		case err == nil:
			err = st.line(view.Item(item, st.server.reg.State().Cluster().Incarnation, nowMS()))
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &known) && (known.Code == api.Slow || known.Code == api.Compacted || !idle):
			_ = st.line(api.WatchItem{Type: "error", Index: st.watcher.Index(), Error: known}) // it ends anyway
			return err
		case idle:
			err = st.line(api.WatchItem{Type: "heartbeat", Index: st.watcher.Index()})
		}
		if err != nil {
			return err
		}
	}
}

// snapshot sends the whole state in lines of snapshotChunk changes.
func (st *stream) snapshot(ctx context.Context, s fsm.State) error {
	chunk := api.WatchItem{Type: "snapshot", Index: s.Index(), More: true}
	incarnation, now := s.Cluster().Incarnation, nowMS()
	for e := range view.Records(s) {
		if len(chunk.Changes) == snapshotChunk {
			if err := errors.Join(ctx.Err(), st.line(chunk)); err != nil {
				return err
			}
			chunk.Changes = chunk.Changes[:0]
		}
		chunk.Changes = append(chunk.Changes, view.Change(e, incarnation, now))
	}
	chunk.More = false
	return st.line(chunk)
}
