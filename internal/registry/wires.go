package registry

import (
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// wires are raft's connections to other servers, and tell when something was written to one. A nil *wires is those of a
// transport that has none, of which nothing is told.
type wires struct {
	raft.StreamLayer

	mu    sync.Mutex                             // guards first
	first map[raft.ServerAddress]chan<- struct{} // told of the next write to an address
}

func newWires(inner raft.StreamLayer) *wires {
	return &wires{StreamLayer: inner, first: map[raft.ServerAddress]chan<- struct{}{}}
}

// Dial implements raft.StreamLayer.
func (w *wires) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, err := w.StreamLayer.Dial(to, timeout)
	if err != nil {
		return nil, err
	}
	return &wire{conn, w, to}, nil
}

// next is told of the next write to a server that is over, in place of whom was to be told before; nil is never.
func (w *wires) next(to raft.ServerAddress) <-chan struct{} {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := make(chan struct{}, 1)
	w.first[to] = c
	return c
}

func (w *wires) wrote(to raft.ServerAddress) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.first[to]; c != nil {
		c <- struct{}{}
		delete(w.first, to)
	}
}

// wire is one of the connections.
type wire struct {
	net.Conn
	of *wires
	to raft.ServerAddress
}

// Write implements net.Conn.
func (c *wire) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.of.wrote(c.to)
	return n, err
}
