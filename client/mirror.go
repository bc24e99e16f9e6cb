package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/boottime"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// mirrorQuiet is how long a mirror's stream may send nothing: some heartbeats, which come every second. It is
	// shorter than that of a Watch, as writers are routed by what the mirror has.
	mirrorQuiet = 5 * time.Second
	// behindFor is how long a view may be behind an index that the registry has reached, as its client knows, before
	// another server is asked: a server that is cut off from the others sends heartbeats all the same.
	behindFor = 4 * time.Second
	// refusedPause bounds the wait after answers that another try will hardly change: an operator has to do something.
	refusedPause = 5 * time.Second
)

// Mirror is a copy of the registry's table in this process, which a watch keeps
// up to date. It has a goroutine and a connection, and is safe for use by many
// goroutines. Routing reads the copy: it takes no lock, does not allocate and works
// while no server can be reached; how old the copy is, Age says. What a mirror says
// is advice: only the [Guard] of the owner decides whether a write is accepted.
type Mirror struct {
	c       *Client
	clock   func() time.Duration // that goes on while the machine sleeps
	now     atomic.Pointer[mirrored]
	heard   atomic.Int64  // on the clock, when a server last confirmed the view
	awaited atomic.Uint64 // the highest index that was waited for
	err     atomic.Pointer[error]
	end     context.CancelFunc
	done    chan struct{}
}

// mirrored is one version of the copy.
type mirrored struct {
	view View
	next chan struct{} // closed when there is a newer one
}

// NewMirror returns a mirror that has a view already: ctx bounds the wait for it,
// and nothing afterwards. What the client was told of before, by the answer to a change above all, the view shows: a server
// that is behind it is left for another one after some seconds. It fails with TIMEOUT, which names the last error, when
// ctx ends first, and at once when a server refuses the request itself. From then
// on the mirror goes on by itself, over any endpoint, until it is closed, and
// whatever happens its view is a whole one, and never of an earlier index or of an
// older incarnation of the cluster than before. Close it when done.
func (c *Client) NewMirror(ctx context.Context) (*Mirror, error) {
	return c.newMirror(ctx, boottime.Now)
}

func (c *Client) newMirror(ctx context.Context, clock func() time.Duration) (*Mirror, error) {
	if len(c.endpoints) == 0 {
		return nil, noEndpoint()
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	m := &Mirror{c: c, clock: clock, end: end, done: make(chan struct{})}
	m.now.Store(&mirrored{next: make(chan struct{})})
	refused := make(chan error, 1)
	f := &following{mirror: m, first: c.watchNext(), begins: c.Index(), begun: make(chan struct{})}
	go m.run(life, f, refused)
	select {
	case <-f.begun:
		return m, nil
	case err := <-refused:
		m.Close()
		return nil, err
	case <-ctx.Done():
		m.Close()
		return nil, m.late(fmt.Sprintf("has no view yet of index %d, which the client has been told of, or a later one", f.begins), context.Cause(ctx))
	}
}

// Close ends the mirror. Its last view stays.
func (m *Mirror) Close() {
	m.end()
	<-m.done
}

// View is the newest view: one that stays as it is.
func (m *Mirror) View() View { return m.now.Load().view }

// Route says who may write key, as seen from the node as; "" is a client, which
// owns nothing. It takes no lock and does not allocate.
func (m *Mirror) Route(key []byte, as scope.NodeID) Route { return m.now.Load().view.Route(key, as) }

// Owner is the address of the node that owns key, also while its scope moves and
// nobody may write it: reads go there. It is "" if no scope holds the key.
func (m *Mirror) Owner(key []byte) (addr string) { return m.now.Load().view.Owner(key) }

// Changed is closed as soon as there is a newer view than that which View returned
// before or at the call; it may show just the same at a later index. Take the
// channel, then look at the view, then wait. Closing the mirror does not close it.
func (m *Mirror) Changed() <-chan struct{} { return m.now.Load().next }

// WaitIndex waits until the view shows index or a later one, as a change that
// returned this index is seen then. It fails with TIMEOUT when ctx ends first, and
// with UNAVAILABLE when the mirror is closed.
func (m *Mirror) WaitIndex(ctx context.Context, index uint64) error {
	for {
		now := m.now.Load()
		if now.view.Index() >= index {
			return nil
		}
		for old := m.awaited.Load(); old < index && !m.awaited.CompareAndSwap(old, index); old = m.awaited.Load() {
		}
		select {
		case <-now.next:
		case <-m.done:
			return &api.Error{Code: api.Unavailable, Index: now.view.Index(),
				Detail: fmt.Sprintf("the mirror was closed at index %d, before it reached %d", now.view.Index(), index)}
		case <-ctx.Done():
			return m.late(fmt.Sprintf("has not reached index %d", index), context.Cause(ctx))
		}
	}
}

// Age is how long ago a server last said that it knows nothing newer than the
// view: about a second at most while all is well. The time that the machine slept
// counts. The server may be behind the others itself.
func (m *Mirror) Age() time.Duration { return m.clock() - time.Duration(m.heard.Load()) }

// Err is why the mirror does not follow the registry now, or nil if it does. It
// tries again by itself, whatever the error. STALE_EPOCH stays until an operator
// has acted: the cluster was restored twice under one incarnation number.
func (m *Mirror) Err() error {
	if err := m.err.Load(); err != nil {
		return *err
	}
	return nil
}

// late is what a wait gets that was in vain.
func (m *Mirror) late(what string, cause error) error {
	index, why := m.View().Index(), ""
	if err := m.Err(); err != nil {
		why = fmt.Sprintf("; it does not follow the registry: %v", err)
	}
	return &api.Error{Code: api.Timeout, Index: index, Detail: fmt.Sprintf("the mirror is at index %d and %s: %v%s", index, what, cause, why)}
}

// run follows one stream after the other. Of an error that another try will
// hardly change it tells refused, if there is no view yet.
func (m *Mirror) run(ctx context.Context, f *following, refused chan<- error) {
	defer close(m.done)
	pause := firstPause
	for {
		confirmed, err := f.stream(ctx)
		if ctx.Err() != nil {
			if m.Err() == nil {
				m.fail(err)
			}
			return
		}
		m.fail(err)
		longest := maxPause
		switch passes := passing(err); {
		case passes && confirmed:
			pause = firstPause
		case !passes && m.View().Index() == 0:
			refused <- err // which nobody reads twice: the mirror is closed then
			<-ctx.Done()
			return
		case !passes:
			longest = refusedPause
		}
		// Many mirrors lose the same server at the same time, and shall not all come back at the same time.
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return
		}
		pause = min(2*pause, longest)
	}
}

// passing says whether an error goes away by itself, or with another server.
func passing(err error) bool {
	switch api.CodeOf(err) {
	case api.Compacted, api.Slow, api.NoLeader, api.Unavailable, api.OutcomeUnknown, api.Timeout, api.Stale, api.Limit:
		return true
	default:
		return false
	}
}

// fail notes why the mirror does not follow. What only an operator can change
// stays until the mirror follows again.
func (m *Mirror) fail(err error) {
	const operator = api.StaleEpoch
	if api.CodeOf(m.Err()) != operator || api.CodeOf(err) == operator {
		m.err.Store(&err)
	}
}

// show puts a view in force, if it is another one, and notes that a server has
// confirmed it at the time heard.
func (m *Mirror) show(v View, heard time.Duration) {
	m.heard.Store(int64(heard))
	if m.err.Load() != nil {
		m.err.Store(nil)
	}
	was := m.now.Load()
	if was.view.Index() == v.Index() && was.view.agent.Incarnation() == v.agent.Incarnation() {
		return
	}
	m.now.Store(&mirrored{view: v, next: make(chan struct{})})
	close(was.next)
}

// following is what a mirror's goroutine knows.
type following struct {
	mirror *Mirror
	fold   fold
	goal   goal
	first  uint32 // endpoint to ask first

	begins uint64        // what the client knew of before the mirror
	begun  chan struct{} // closed when the view has reached that, or it is not waited for any more
	isSo   bool          // begun is closed
}

// stream follows one stream to its end, and reports whether it confirmed the view.
func (f *following) stream(ctx context.Context) (confirmed bool, err error) {
	s, err := f.mirror.c.openStreamAt(ctx, f.first, f.fold.from(), mirrorQuiet)
	if err != nil {
		f.first++ // perhaps only the first one that is asked refuses
		f.fold.ended(err)
		return false, err
	}
	defer s.close()
	f.first = s.at + 1
	f.goal.since = f.mirror.clock()
	for {
		item, err := s.next()
		if err == nil {
			err = f.fold.take(item)
		}
		if err != nil {
			f.fold.ended(err)
			return confirmed, said(s.endpoint(), err)
		}
		now := f.mirror.clock() // once: each look at it is a system call
		if f.fold.partial != nil {
			f.goal.since = now // a snapshot takes its time
			continue
		}
		confirmed = true
		f.mirror.show(View{f.fold.view}, now)
		behind := f.behind(now)
		if !f.isSo && max(f.fold.view.Index(), f.goal.floor) >= f.begins {
			f.isSo = true
			close(f.begun)
		}
		if behind {
			return confirmed, &api.Error{Code: api.Unavailable, Index: f.fold.view.Index(),
				Detail: fmt.Sprintf("%s has stood at index %d for %v, and the registry has been at a later one", s.endpoint(), f.fold.view.Index(), behindFor)}
		}
	}
}

// said names the server in an error that does not.
func said(endpoint string, err error) error {
	var e *api.Error
	if !errors.As(err, &e) || strings.Contains(e.Detail, endpoint) {
		return err
	}
	named := *e
	named.Detail = endpoint + ": " + e.Detail
	return &named
}

// goal is an index that the registry is known to have reached, and the view has
// not. It is looked at whenever the server says something.
type goal struct {
	index  uint64            // 0 is none
	since  time.Duration     // that the stream could have brought it
	left   int               // how many servers were left for it
	floor  uint64            // what is known up to here is not waited for
	within agent.Incarnation // that it is an index of
}

// behind reports whether the server is to be left: it is cut off from the others,
// perhaps. When all have been left for the same index it is not waited for any
// more: it may be that of another history of the cluster, or of somebody's dream.
func (f *following) behind(now time.Duration) bool {
	g, index := &f.goal, f.fold.view.Index()
	known := max(f.mirror.c.Index(), f.mirror.awaited.Load())
	if was, is := g.within, f.fold.view.Incarnation(); was != is {
		*g = goal{within: is}
		if was.Number > 0 {
			g.floor = known
		}
	}
	switch {
	case g.index <= index:
		g.index, g.left = 0, 0
		if known > max(index, g.floor) {
			g.index, g.since = known, now
		}
	case now-g.since >= behindFor:
		if g.left++; g.left >= len(f.mirror.c.endpoints) {
			g.floor, g.index = max(g.floor, g.index), 0
		}
		return true
	}
	return false
}
