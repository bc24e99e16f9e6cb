package client

import (
	"context"
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Watch is a stream of changes. It is for one goroutine.
type Watch struct {
	c      *Client
	ctx    context.Context
	cancel context.CancelFunc
	from   uint64  // complete up to here: what the next stream begins after
	seen   uint64  // the highest index that was shown, parts of snapshots included
	era    uint64  // the highest incarnation of the cluster that was met, to which seen belongs; 0 is none
	first  uint32  // endpoint to ask first
	stream *stream // nil while there is none
	pause  time.Duration
	part   bool // the last item was a snapshot that goes on
	gap    bool // the next stream begins with a snapshot though the caller has something
}

// Watch follows changes after index from; 0 begins with a snapshot of all
// records. The stream connects on the first Next, and again by itself when it
// breaks, to any endpoint and without a gap. It never goes back: a snapshot from
// before an index that was shown is refused, and another server asked. A restore
// may take indexes back: then a snapshot of the new incarnation comes, and nothing
// of an older one any more. A watch asks another endpoint first than the client's
// watch before it: that one may have been ended since its server stood still.
// Close it when done.
func (c *Client) Watch(ctx context.Context, from uint64) *Watch {
	ctx, cancel := context.WithCancel(ctx)
	return &Watch{c: c, ctx: ctx, cancel: cancel, from: from, seen: from, first: c.watchNext(), pause: firstPause}
}

// Close ends the watch.
func (w *Watch) Close() {
	w.cancel()
	w.drop()
}

// Resynced reports whether the last item begins a snapshot that replaces what
// came before it: the index the watch stood at was no longer kept, so that the
// changes between are not told one by one, or a snapshot broke off half way. It
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
			return api.WatchItem{}, &api.Error{Code: api.Timeout, Detail: fmt.Sprintf("the watch was ended at index %d: %v", w.seen, err)}
		}
		item, err := w.read()
		if err == nil {
			w.pause = firstPause
			w.seen = max(w.seen, item.Index)
			if w.part = item.More; !w.part {
				w.from = item.Index
			}
			return item, nil
		}
		w.drop()
		switch api.CodeOf(err) {
		case api.Compacted:
			w.gap = w.gap || w.from > 0
			w.from = 0
		case api.Slow, api.NoLeader, api.Unavailable, api.OutcomeUnknown, api.Timeout, api.Stale, api.Limit:
			sleep(w.ctx, w.pause)
			w.pause = min(2*w.pause, maxPause)
		default:
			return api.WatchItem{}, err
		}
	}
}

// drop ends the stream. The next one goes to another endpoint, if there is one:
// this one may be the one that is broken.
func (w *Watch) drop() {
	if w.stream == nil {
		return
	}
	w.first = w.stream.at + 1
	w.stream.close()
	w.stream = nil
	w.gap = w.gap || w.part
	w.part = false
}

func (w *Watch) read() (api.WatchItem, error) {
	if w.stream == nil {
		s, err := w.c.openStreamAt(w.ctx, w.first, w.from, silence)
		if err != nil {
			return api.WatchItem{}, err
		}
		w.stream = s
	}
	item, err := w.stream.next()
	if err != nil {
		return item, err
	}
	if err := w.meet(item); err != nil {
		return item, err
	}
	if item.Index < w.seen {
		return item, &api.Error{Code: api.Unavailable, Index: item.Index,
			Detail: fmt.Sprintf("%s is at index %d, and the watch has shown %d already", w.stream.endpoint(), item.Index, w.seen)}
	}
	return item, nil
}

// meet compares the incarnation of an item with that of what was shown. Indexes
// of two of them say nothing about each other.
func (w *Watch) meet(item api.WatchItem) error {
	was := w.era
	switch {
	case item.Incarnation < was:
		return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("%s is in incarnation %d of the cluster, and the watch has met %d", w.stream.endpoint(), item.Incarnation, was)}
	case item.Incarnation > was:
		w.era = item.Incarnation
	}
	if was == 0 || w.era == was {
		return nil
	}
	w.seen = 0
	if item.Type != "snapshot" {
		return &api.Error{Code: api.Compacted, Detail: fmt.Sprintf("%s is in incarnation %d of the cluster, and what was shown is of %d", w.stream.endpoint(), w.era, was)}
	}
	w.gap = true // what was shown does not hold any more
	return nil
}
