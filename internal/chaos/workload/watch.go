package workload

import (
	"context"
	"sync/atomic"

	library "github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/direct"
)

// follow records a server's watch from the start until ctx ends. The client
// library takes it up again where it broke off.
func follow(ctx context.Context, s *direct.Server, secure library.TLS, log *history.Log, reached *atomic.Uint64) {
	c := library.New([]string{s.URL()}, library.WithTLS(secure))
	defer c.Close()
	watch := c.Watch(ctx, 0)
	defer watch.Close()
	for {
		item, err := watch.Next()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			continue // the checkers miss what it does not tell
		}
		if watch.Resynced() {
			log.Watch(history.Seen{Server: s.ID(), At: log.Now(), Resync: true})
		}
		log.Watch(history.Seen{Server: s.ID(), At: log.Now(), Item: item})
		if !item.More {
			reached.Store(item.Index)
		}
	}
}
