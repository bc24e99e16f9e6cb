package link

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// chunk is how much is carried at once, and ahead how many of them may be under way in one direction: what a network
	// takes that delays them, and small enough that a sender notices one that does not carry.
	chunk, ahead = 16 << 10, 64

	// dialTime bounds reaching the other end, on the same machine.
	dialTime = 5 * time.Second
)

// Who reads what a caller says first, and returns its name and what it has read, which is delivered as well.
type Who func(io.Reader) (name string, read []byte, err error)

// Named is a caller that the cable was laid for alone.
func Named(name string) Who {
	return func(io.Reader) (string, []byte, error) { return name, nil, nil }
}

// Cable carries connections to one address. Close it when done.
type Cable struct {
	net      *Net
	who      Who
	to, addr string
	ln       net.Listener
	gone     chan struct{}

	mu   sync.Mutex // guards the rest
	ends map[net.Conn]bool
	all  sync.WaitGroup
}

// Lay lays a cable to somebody's address, host:port. Addr is where to dial instead.
func (n *Net) Lay(who Who, to, addr string) (*Cable, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return n.LayOn(ln, who, to, addr), nil
}

// LayOn is Lay with a listener, which Close closes.
func (n *Net) LayOn(ln net.Listener, who Who, to, addr string) *Cable {
	c := &Cable{net: n, who: who, to: to, addr: addr, ln: ln, gone: make(chan struct{}), ends: map[net.Conn]bool{}}
	c.all.Go(c.accept)
	return c
}

// Addr is the cable's own address, host:port.
func (c *Cable) Addr() string { return c.ln.Addr().String() }

func (c *Cable) accept() {
	for {
		near, err := c.ln.Accept()
		if err != nil {
			return
		}
		if !c.keep(near) {
			return
		}
		c.all.Go(func() { c.carry(near) })
	}
}

// keep notes an end of a connection, and closes it if the cable is closed.
func (c *Cable) keep(end net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gone:
		_ = end.Close()
		return false
	default:
	}
	c.ends[end] = true
	return true
}

// drop closes the ends of a connection.
func (c *Cable) drop(ends ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range ends {
		_ = end.Close()
		delete(c.ends, end)
	}
}

// carry carries one connection. To reach the other end takes a packet each way.
func (c *Cable) carry(near net.Conn) {
	name, first, err := c.who(near)
	forth := Way{name, c.to}
	sent := time.Now()
	if err != nil || !c.net.pass(forth, sent, c.gone) || !c.net.pass(forth.Back(), time.Now(), c.gone) {
		c.drop(near)
		return
	}
	far, err := net.DialTimeout("tcp", c.addr, dialTime)
	if err != nil || !c.keep(far) {
		c.drop(near)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.copy(forth, far, near, first) })
	both.Go(func() { c.copy(forth.Back(), near, far, nil) })
	both.Wait()
	c.drop(near, far)
}

// sent is what was read, when, and by how much it comes late because it is lost on the way.
type sent struct {
	data []byte
	at   time.Time
	late time.Duration
}

// copy carries bytes one way. When one way ends the connection does, once that would be heard of at the other end: nobody
// here closes one half of one.
func (c *Cable) copy(w Way, to, from net.Conn, first []byte) {
	under := make(chan sent, ahead)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(under)
		if len(first) > 0 {
			under <- sent{first, time.Now(), c.net.lost(w)}
		}
		for {
			buf := make([]byte, chunk)
			n, err := from.Read(buf)
			if n > 0 {
				under <- sent{buf[:n], time.Now(), c.net.lost(w)}
			}
			if err != nil {
				return
			}
		}
	})
	whole := true
	for s := range under {
		if whole = whole && c.net.pass(w, s.at.Add(s.late), c.gone); !whole {
			continue // so that the reader ends
		}
		c.net.delivered(w, len(s.data), s.at) // before somebody can have it
		if _, err := to.Write(s.data); err != nil {
			whole = false
			_ = from.Close()
		}
	}
	if whole {
		c.net.pass(w, time.Now(), c.gone) // the end takes as long as what came before
	}
	_ = to.Close() // so that the other way ends
	_ = from.Close()
	reading.Wait()
}

// Close ends all connections.
func (c *Cable) Close() error {
	c.mu.Lock()
	select {
	case <-c.gone:
		c.mu.Unlock()
		return nil
	default:
		close(c.gone)
	}
	for end := range c.ends {
		_ = end.Close()
	}
	c.mu.Unlock()
	err := c.ln.Close()
	c.all.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
