package gate

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

const (
	// dialAgain is the pause between two tries to reach the store.
	dialAgain = 100 * time.Millisecond
	// tryTime bounds how long a client's command waits for such a try: a store that is there answers far sooner.
	tryTime = 3 * time.Second
)

// place is where a shared pipe is, or will be.
type place struct {
	g     *Gate
	proto int
	now   atomic.Pointer[pipe] // the last one; it may be broken

	mu    sync.Mutex    // guards what follows
	tried chan struct{} // closed after the first try to replace the last one; nil: nobody tries
}

// errNotYet is why there is no shared pipe.
var errNotYet = errors.New("it does not answer")

// pipe returns one in place of old, which is broken, or nil.
func (l *place) pipe(old *pipe) (*pipe, error) {
	if p := l.now.Load(); p != old {
		return p, nil
	}
	l.mu.Lock()
	if p := l.now.Load(); p != old {
		l.mu.Unlock()
		return p, nil
	}
	if l.tried == nil {
		l.tried = make(chan struct{})
		l.g.run(func() { l.reach(old) })
	}
	tried := l.tried
	l.mu.Unlock()
	late := time.NewTimer(tryTime)
	defer late.Stop()
	select {
	case <-tried:
	case <-late.C:
	}
	if p := l.now.Load(); p != old {
		return p, nil
	}
	return nil, errNotYet
}

// reach tries until there is a pipe. The one that broke must be gone first: what it had sent, and nobody knows the end of,
// must not execute behind what is acknowledged over the next.
func (l *place) reach(old *pipe) {
	first := true
	for {
		up, err := l.g.redial(old)
		l.mu.Lock()
		if err == nil {
			l.now.Store(l.g.newShared(up, l.proto))
		}
		if first || err == nil {
			if first {
				close(l.tried)
			}
			first = false
		}
		if err == nil {
			l.tried = nil
		}
		l.mu.Unlock()
		if err == nil || !l.g.pause(l.g.life, "the store cannot be reached", err) {
			return
		}
	}
}

func (g *Gate) redial(old *pipe) (*upstream.Conn, error) {
	if old != nil {
		if err := g.store.Gone(g.life, old.up); err != nil {
			return nil, err
		}
	}
	return g.store.Dial(g.life)
}

// newShared begins a shared pipe. The version of the protocol is the first thing that is said on it.
func (g *Gate) newShared(up *upstream.Conn, proto int) *pipe {
	p := g.newPipe(up, nil)
	if proto == 3 {
		_ = p.push(&batch{own: appendCommand(nil, []byte("HELLO"), []byte("3")), slots: []slot{{note: &note{swallow: true}}}})
	}
	return p
}

// place is where the pipe is that a client shares with others.
func (g *Gate) place(c *conn) *place {
	of := g.pool[c.proto-2]
	return of[c.id%uint64(len(of))]
}

// closePool breaks all shared pipes.
func (g *Gate) closePool() {
	for _, of := range g.pool {
		for _, l := range of {
			if p := l.now.Load(); p != nil {
				_ = p.up.Close()
			}
		}
	}
}
