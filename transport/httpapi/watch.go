package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

const (
	// heartbeatEvery tells a watcher that the stream lives, and its index.
	heartbeatEvery = time.Second
	// snapshotChunk bounds the changes of one snapshot line, so that a reader
	// needs no large buffer.
	snapshotChunk = 1000
	// retryAfter is when an EventSource connects again.
	retryAfter = time.Second
)

// The media types of a watch.
const (
	linesType  = "application/x-ndjson"
	eventsType = "text/event-stream"
)

// lastEventID is the header in which an EventSource says what it has seen.
const lastEventID = "Last-Event-ID"

// watch streams changes, as JSON lines or as server-sent events.
func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	from, err := watchFrom(r)
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	if !take(&s.watchers, MaxWatchers) {
		writeProblem(w, problemOf(&api.Error{Code: api.Limit,
			Detail: fmt.Sprintf("this server has %d watchers, which is the limit; use another server, or close some", MaxWatchers)}))
		return
	}
	defer s.watchers.Add(-1)
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
	st := &stream{server: s, caller: callerOf(ctx), watcher: watcher, control: http.NewResponseController(w), w: w, events: wantsEvents(r.Header)}
	w.Header().Set("Content-Type", map[bool]string{false: linesType, true: eventsType}[st.events])
	startStream(w)
	if r.Method == http.MethodHead {
		return
	}
	if err := st.run(ctx); err != nil {
		s.log.Debug("watch ended", "from", r.RemoteAddr, "by", st.caller.String(), "index", watcher.Index(), "error", err)
	}
}

// take counts one more user of something bounded, or refuses and counts nothing.
func take(users *atomic.Int64, limit int64) bool {
	if users.Add(1) > limit {
		users.Add(-1)
		return false
	}
	return true
}

// watchFrom is the index to watch from. An EventSource that connects again
// repeats the address it was made with, so that what it has seen since goes
// before from.
func watchFrom(r *http.Request) (uint64, error) {
	from, err := indexOf("from", r.URL.Query().Get("from"))
	if err != nil {
		return 0, err
	}
	if seen := r.Header.Get(lastEventID); seen != "" {
		return indexOf(lastEventID, seen)
	}
	return from, nil
}

// indexOf reads an index from the named place; "" is 0.
func indexOf(name, text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	index, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, invalid("%s %s is not an index; give the last index seen, or 0 for a snapshot", name, shown(text))
	}
	return index, nil
}

// wantsEvents reports whether the client asks for server-sent events.
func wantsEvents(h http.Header) bool {
	for kind := range strings.SplitSeq(strings.Join(h.Values("Accept"), ","), ",") {
		kind, _, _ = strings.Cut(kind, ";")
		if strings.EqualFold(strings.TrimSpace(kind), eventsType) {
			return true
		}
	}
	return false
}

// stream is one watcher's connection.
type stream struct {
	server  *server
	caller  *caller
	watcher *fsm.Watcher
	control *http.ResponseController
	w       io.Writer
	events  bool // server-sent events, not lines
}

// send writes one item and hands it to the network.
func (st *stream) send(item api.WatchItem) error {
	out, err := line(item, st.events)
	if err != nil {
		return err
	}
	return st.write(out)
}

func (st *stream) write(line []byte) error {
	if _, err := st.w.Write(line); err != nil {
		return err
	}
	return st.control.Flush()
}

// open begins the stream: the client shall know that it is on before there is
// a first item.
func (st *stream) open() error {
	if st.events {
		if _, err := fmt.Fprintf(st.w, "retry: %d\n\n", retryAfter.Milliseconds()); err != nil {
			return err
		}
	}
	return st.control.Flush()
}

// run sends until the client or the server ends it, the caller is not who it was
// any more, or the watcher fails; of the latter two a last item says why.
// Heartbeats go between the items, so that the index of one is complete when it
// is read.
func (st *stream) run(ctx context.Context) error {
	if err := st.open(); err != nil {
		return err
	}
	if state, ok := st.watcher.Snapshot(); ok {
		if err := st.snapshot(ctx, state); err != nil {
			return st.end(err)
		}
	}
	for {
		beat := time.Now().Add(heartbeatEvery)
		if err := st.items(ctx, st.lookAt(beat)); err != nil {
			return st.end(err)
		}
		if time.Now().Before(beat) {
			continue
		}
		if err := st.send(view.Head("heartbeat", st.watcher.Index(), st.watcher.Cluster())); err != nil {
			return err
		}
	}
}

// items sends what comes until a time, and looks at the caller then. One timer serves for all of it: to make one for each
// item was a part of what an item costs.
func (st *stream) items(ctx context.Context, until time.Time) error {
	wait, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for wait.Err() == nil {
		item, err := st.watcher.Next(wait)
		var ended *api.Error
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &ended):
			return err
		case err == nil:
			if err := st.item(item); err != nil {
				return err
			}
		}
	}
	return errors.Join(ctx.Err(), st.allowed())
}

// lookAt is when the stream looks at its caller next: when a token or certificate ends, it ends too.
func (st *stream) lookAt(beat time.Time) time.Time {
	if ends := st.caller.expires; ends < beat.UnixMilli() {
		return time.UnixMilli(ends)
	}
	return beat
}

// allowed is nil while the caller is who it was when the stream began.
func (st *stream) allowed() error { return st.caller.still(st.server.reg.State()) }

// item sends what an entry changed. An entry that changed tokens alone only makes the stream look at its own.
func (st *stream) item(item fsm.Item) error {
	if err := st.allowed(); err != nil {
		return err
	}
	out, err := st.server.lines.of(item, st.events)
	if err != nil || out == nil {
		return err
	}
	return st.write(out)
}

// end says why the stream ends, if that is not that nobody reads it.
func (st *stream) end(err error) error {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		_ = st.send(api.WatchItem{Type: "error", Index: st.watcher.Index(), Error: e}) // it ends anyway
	}
	return err
}

// snapshot sends the whole state in items of snapshotChunk changes.
func (st *stream) snapshot(ctx context.Context, s fsm.State) error {
	chunk := view.Head("snapshot", s.Index(), s.Cluster())
	chunk.More = true
	incarnation, now := s.Cluster().Incarnation, nowMS()
	for e := range view.Records(s) {
		if len(chunk.Changes) == snapshotChunk {
			if err := errors.Join(ctx.Err(), st.allowed()); err != nil {
				return err
			}
			if err := st.send(chunk); err != nil {
				return err
			}
			chunk.Changes = chunk.Changes[:0]
		}
		chunk.Changes = append(chunk.Changes, view.Change(e, incarnation, now))
	}
	chunk.More = false
	return st.send(chunk)
}
