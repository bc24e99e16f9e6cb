package client

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
)

// fold makes views of the items of streams, one stream after the other. A view is
// a whole one always, and never goes back: not to an earlier index within an
// incarnation of the cluster, nor to an earlier incarnation than was met.
type fold struct {
	view    agent.View        // the last whole one
	partial *agent.View       // a snapshot of this stream that goes on
	met     agent.Incarnation // the latest that was met; the view may be of an earlier one
	fresh   bool              // only a snapshot takes the view on
}

// from is what the next stream begins after.
func (f *fold) from() uint64 {
	if f.fresh {
		return 0
	}
	return f.view.Index()
}

// ended says that the stream has, and why. What came of a snapshot is dropped:
// another server's is of another index.
func (f *fold) ended(why error) {
	f.partial = nil
	switch api.CodeOf(why) {
	case api.Compacted, api.Slow:
		f.fresh = true
	}
}

// take takes the next item. The view is confirmed by it unless there is a partial
// one. After an error the stream is of no use: UNAVAILABLE is that of a server
// which is behind, COMPACTED asks for a snapshot, STALE_EPOCH tells of two
// histories that cannot be told apart, INTERNAL of something that is no watch.
func (f *fold) take(item api.WatchItem) error {
	its := agent.Incarnation{Number: item.Incarnation, Tag: item.Tag}
	if err := f.meet(its); err != nil {
		return err
	}
	known := f.view.Incarnation() == its
	if known && item.Index < f.view.Index() {
		return &api.Error{Code: api.Unavailable, Index: item.Index,
			Detail: fmt.Sprintf("the server is at index %d, and this mirror at %d", item.Index, f.view.Index())}
	}
	switch item.Type {
	case "snapshot":
		return f.takeSnapshot(item)
	case "change", "heartbeat":
		switch {
		case f.partial != nil:
			return f.noWatch("a %s of index %d came within a snapshot of %d", item.Type, item.Index, f.partial.Index())
		case !known:
			return &api.Error{Code: api.Compacted, Index: item.Index,
				Detail: fmt.Sprintf("the cluster is in incarnation %d, and this mirror has a view of %d: a snapshot is taken", its.Number, f.view.Incarnation().Number)}
		case item.Index == f.view.Index():
			return nil
		}
		v, _, err := f.view.With(item.Index, item.Changes)
		if err != nil {
			return f.noWatch("%v", err)
		}
		f.view = v
		return nil
	default: // of a later version: whatever it means, a snapshot says it too
		return &api.Error{Code: api.Compacted, Index: item.Index, Detail: fmt.Sprintf("an item of type %q came, which this mirror does not know: a snapshot is taken", item.Type)}
	}
}

// meet compares the incarnation of an item with those that were met.
func (f *fold) meet(its agent.Incarnation) error {
	switch was := f.met; {
	case its.Number == 0:
		return f.noWatch("an item names no incarnation of the cluster")
	case its.Number < was.Number:
		return &api.Error{Code: api.Unavailable,
			Detail: fmt.Sprintf("the server is in incarnation %d of the cluster, and this mirror has met %d", its.Number, was.Number)}
	case its.Number > was.Number:
		f.met, f.partial = its, nil
		f.fresh = f.fresh || was.Number > 0
	case its.Tag != was.Tag:
		return &api.Error{Code: api.StaleEpoch,
			Detail: fmt.Sprintf("the server is in incarnation %d of the cluster with the tag %q, and this mirror met it with the tag %q: it was used for two restores, "+
				"and no index says which is the later one; restore again under a number never used before", its.Number, its.Tag, was.Tag)}
	}
	return nil
}

func (f *fold) takeSnapshot(item api.WatchItem) error {
	var v agent.View
	if f.partial != nil {
		if v = *f.partial; v.Index() != item.Index {
			return f.noWatch("a snapshot of index %d goes on with one of %d", v.Index(), item.Index)
		}
	}
	v, err := v.Loaded(item.Index, item.Changes)
	switch {
	case err != nil:
		return f.noWatch("%v", err)
	case v.Incarnation() != f.met: // the record of the cluster comes first
		return f.noWatch("a snapshot in incarnation %d (%q) of the cluster has the record of %d (%q)",
			f.met.Number, f.met.Tag, v.Incarnation().Number, v.Incarnation().Tag)
	case item.More:
		f.partial = &v
	default:
		f.view, f.partial, f.fresh = v, nil, false
	}
	return nil
}

// noWatch refuses what cannot be a registry's, or is not understood: a snapshot may
// be.
func (f *fold) noWatch(format string, args ...any) error {
	f.fresh = true
	return &api.Error{Code: api.Internal, Detail: "the watch cannot be made sense of: " + fmt.Sprintf(format, args...)}
}
