package registry

import (
	"context"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// following ends what waits for a leader that is not the leader any more, as far as this server knows. A call to a
// server that is paused, or cut off, would else be waited for to its end while the next leader could answer it; asking
// again is safe, since the request id makes a command take effect once.
type following struct {
	now     atomic.Pointer[tenure]
	changes chan raft.Observation
}

// tenure is the time of one leader, or of none.
type tenure struct {
	ctx context.Context
	end context.CancelFunc
}

func newTenure() *tenure {
	ctx, end := context.WithCancel(context.Background())
	return &tenure{ctx, end}
}

func newFollowing() *following {
	f := &following{changes: make(chan raft.Observation, 1)}
	f.now.Store(newTenure())
	return f
}

// observer is what raft reports changes to. It drops those that come while one is still to be looked at, which tells
// the same.
func (f *following) observer() *raft.Observer {
	return raft.NewObserver(f.changes, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
}

// run ends one tenure after the other until done is closed.
func (f *following) run(done <-chan struct{}) {
	for {
		select {
		case <-f.changes:
			f.now.Swap(newTenure()).end()
		case <-done:
			f.now.Load().end()
			return
		}
	}
}

// during is ctx, ended also when the leader changes.
func (f *following) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(f.now.Load().ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
