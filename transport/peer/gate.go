package peer

import (
	"context"
	"sync"
)

const (
	// maxCalls bounds the calls in flight on one connection, that is the handlers it can occupy.
	maxCalls = 1024
	// maxCallBytes bounds the request bytes in flight on one connection, since 1024 largest requests would be 2 GiB.
	maxCallBytes = 64 << 20
)

// gate bounds the calls in flight on one connection, in number and in bytes. The calling side waits at its gate
// before it sends, the serving side before it reads on; as both are alike, the serving side waits only for a
// caller that does not keep to it, and never with the cancellation of a call unread behind a new one.
type gate struct {
	mu     sync.Mutex // guards the rest
	calls  int
	bytes  int
	opened chan struct{} // closed at the next release
}

func newGate() *gate { return &gate{opened: make(chan struct{})} }

// enter waits until one more call of size bytes fits, or ctx ends. A single call always fits into an empty gate.
func (g *gate) enter(ctx context.Context, size int) error {
	for {
		g.mu.Lock()
		if g.calls == 0 || (g.calls < maxCalls && g.bytes+size <= maxCallBytes) {
			g.calls++
			g.bytes += size
			g.mu.Unlock()
			return nil
		}
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leave gives back what enter took.
func (g *gate) leave(size int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls--
	g.bytes -= size
	close(g.opened)
	g.opened = make(chan struct{})
}
