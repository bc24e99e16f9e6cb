package peer

import (
	"container/list"
	"context"
	"sync"
)

const (
	// maxCalls bounds the calls in flight in one lane of a connection, that is the handlers they can occupy.
	maxCalls = 1024
	// maxCallBytes bounds the request bytes in flight in it, since 1024 largest requests would be 2 GiB.
	maxCallBytes = 64 << 20
)

// gates are the two lanes of a connection. Renewals of leases, and the question whether a leader hands over, are of use for
// moments only and have one of their own: whoever floods the other with reads and changes takes no time from them.
type gates struct{ common, urgent gate }

// of is the lane of a call.
func (g *gates) of(k Kind) *gate {
	if k == KindRenew || k == KindHandsTo {
		return &g.urgent
	}
	return &g.common
}

// gate bounds the calls in flight in one lane, in number and in bytes. The calling side waits at its gate
// before it sends, the serving side before it reads on; as both are alike, the serving side waits only for a
// caller that does not keep to it, and never with the cancellation of a call unread behind a new one. Calls pass in the order
// in which they came, and each that leaves wakes only those that have room then: thousands that wait would else do nothing
// but look. The zero value is ready for use.
type gate struct {
	mu      sync.Mutex // guards the rest
	calls   int
	bytes   int
	waiting list.List // of *turn, the oldest first
}

// turn is a call that waits at a gate.
type turn struct {
	size int
	due  chan struct{} // closed when the call has passed
}

// enter waits until one more call of size bytes fits, or ctx ends. A single call always fits into an empty gate.
func (g *gate) enter(ctx context.Context, size int) error {
	t := &turn{size: size, due: make(chan struct{})}
	g.mu.Lock()
	at := g.waiting.PushBack(t)
	g.admit()
	g.mu.Unlock()
	select {
	case <-t.due:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-t.due: // both at once
		return nil
	default:
	}
	g.waiting.Remove(at)
	g.admit() // smaller ones may have waited behind it
	return context.Cause(ctx)
}

// admit lets those pass that have room, as long as the first one has. g.mu is held.
func (g *gate) admit() {
	for front := g.waiting.Front(); front != nil; front = g.waiting.Front() {
		t, _ := front.Value.(*turn)
		if g.calls > 0 && (g.calls >= maxCalls || g.bytes+t.size > maxCallBytes) {
			return
		}
		g.waiting.Remove(front)
		g.calls++
		g.bytes += t.size
		close(t.due)
	}
}

// leave gives back what enter took.
func (g *gate) leave(size int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls--
	g.bytes -= size
	g.admit()
}
