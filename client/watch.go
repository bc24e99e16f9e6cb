package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// maxLine bounds one line of a watch: a snapshot is cut into lines far below it.
	maxLine = 16 << 20
	// silence is how long a watch may say nothing: heartbeats come every second.
	silence = 45 * time.Second
)

// Watch is a stream of changes. It is for one goroutine.
type Watch struct {
	c      *Client
	ctx    context.Context
	cancel context.CancelFunc
	from   uint64
	body   io.ReadCloser
	lines  *bufio.Reader
	alive  *time.Timer
	pause  time.Duration
	gap    bool // the next stream begins with a snapshot though the caller had an index
}

// Watch follows changes after index from; 0 begins with a snapshot of all
// records. The stream connects on the first Next, and again by itself when it
// breaks, to any endpoint and without a gap. Close it when done.
func (c *Client) Watch(ctx context.Context, from uint64) *Watch {
	ctx, cancel := context.WithCancel(ctx)
	return &Watch{c: c, ctx: ctx, cancel: cancel, from: from, pause: firstPause}
}

// Close ends the watch.
func (w *Watch) Close() {
	w.cancel()
	w.drop()
}

// Resynced reports whether the index the watch stood at was no longer kept, so
// that a snapshot follows and the changes between are not told one by one. It
// is reset by the call.
func (w *Watch) Resynced() bool {
	was := w.gap
	w.gap = false
	return was
}

// Next returns the next item: changes, a part of a snapshot, or a heartbeat. It
// blocks, and fails only when the context ends or the request itself is refused.
func (w *Watch) Next() (api.WatchItem, error) {
	for {
		if err := w.ctx.Err(); err != nil {
			return api.WatchItem{}, &api.Error{Code: api.Timeout, Detail: fmt.Sprintf("the watch was ended at index %d: %v", w.from, err)}
		}
		item, err := w.read()
		if err == nil {
			w.pause = firstPause
			if !item.More && item.Index > 0 {
				w.from = item.Index
			}
			return item, nil
		}
		w.drop()
		switch api.CodeOf(err) {
		case api.Compacted:
			w.gap = w.from > 0 || w.gap
			w.from = 0
		case api.Slow, api.NoLeader, api.Unavailable, api.OutcomeUnknown, api.Timeout, api.Stale, api.Limit:
			sleep(w.ctx, w.pause)
			w.pause = min(2*w.pause, maxPause)
		default:
			return api.WatchItem{}, err
		}
	}
}

func (w *Watch) drop() {
	if w.body != nil {
		w.alive.Stop()
		_ = w.body.Close()
		w.body = nil
	}
}

func (w *Watch) read() (api.WatchItem, error) {
	if w.body == nil {
		if err := w.connect(); err != nil {
			return api.WatchItem{}, err
		}
	}
	line, err := w.line()
	if err != nil {
		return api.WatchItem{}, &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("the watch broke off: %v", err)}
	}
	w.alive.Reset(silence)
	var item api.WatchItem
	if err := json.Unmarshal(line, &item); err != nil {
		return item, &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the watch sent a line that is not its JSON: %v", err)}
	}
	if item.Error != nil {
		return item, item.Error
	}
	return item, nil
}

func (w *Watch) line() ([]byte, error) {
	var all []byte
	for {
		part, err := w.lines.ReadSlice('\n')
		if err == nil && all == nil {
			return part, nil
		}
		all = append(all, part...)
		switch {
		case err == nil:
			return all, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(all) > maxLine:
			return nil, fmt.Errorf("a line has more than %d bytes", maxLine)
		}
	}
}

func (w *Watch) connect() error {
	var last error = &api.Error{Code: api.Invalid, Detail: "no endpoint is given; name at least one server, like http://127.0.0.1:7481"}
	start := w.c.next.Load()
	for i := range w.c.endpoints {
		at := (start + uint32(i)) % uint32(len(w.c.endpoints))
		last = w.dial(w.c.endpoints[at])
		if last == nil || !again(last, false) {
			return last
		}
	}
	w.c.next.Store(start + 1)
	return last
}

func (w *Watch) dial(endpoint string) error {
	q := call{method: http.MethodGet, path: "/v1/watch", query: url.Values{"from": {strconv.FormatUint(w.from, 10)}}}
	ctx, cancel := context.WithCancel(w.ctx)
	alive := time.AfterFunc(silence, cancel)
	req, err := w.c.request(ctx, endpoint, q, "", nil)
	if err != nil {
		cancel()
		return err
	}
	resp, err := w.c.http.Do(req)
	if err != nil {
		alive.Stop()
		cancel()
		return transportError(endpoint, err)
	}
	if resp.StatusCode/100 != 2 {
		data, _ := io.ReadAll(io.LimitReader(resp.Body, maxLine))
		_ = resp.Body.Close()
		alive.Stop()
		cancel()
		return problem(endpoint, resp.StatusCode, data)
	}
	w.body, w.alive = stream{resp.Body, cancel}, alive
	w.lines = bufio.NewReaderSize(resp.Body, 64<<10)
	return nil
}

// stream is a reply body whose request ends with it.
type stream struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (s stream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}
