// Package cable carries connections between processes on this machine, and does
// to them what a network does: it cuts them, and it delays what they carry.
package cable

import (
	"errors"
	"net"
	"sync"
	"time"
)

// pieces is how many reads may be on their way in a cable: what is sent beyond waits with the sender.
const pieces = 1024

// Cable carries connections to an address until it is cut. Then it takes
// connections and bytes and keeps them back, as a network does whose packets are
// lost, and delivers them late when it is mended. It is safe for use by many
// goroutines. Close it when done.
type Cable struct {
	to    string
	ln    net.Listener // nil if it is one of a Junction
	mu    sync.Mutex   // guards the rest
	open  chan struct{}
	cut   bool
	delay time.Duration
	ends  map[net.Conn]bool
	gone  bool
	done  chan struct{} // closed with gone
	all   sync.WaitGroup
}

// Lay lays a cable to an address. Its own is Addr.
func Lay(to string) (*Cable, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := lay(to)
	c.ln = ln
	c.all.Go(c.accept)
	return c, nil
}

func lay(to string) *Cable {
	c := &Cable{to: to, open: make(chan struct{}), ends: map[net.Conn]bool{}, done: make(chan struct{})}
	close(c.open)
	return c
}

// Addr is where the cable takes connections, host:port.
func (c *Cable) Addr() string { return c.ln.Addr().String() }

func (c *Cable) accept() {
	for {
		near, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.take(near, nil)
	}
}

// take carries a connection, of which head was read already.
func (c *Cable) take(near net.Conn, head []byte) {
	if c.keep(near) {
		c.all.Go(func() { c.carry(near, head) })
	}
}

// keep notes an end of a connection, and closes it if the cable is closed.
func (c *Cable) keep(end net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		_ = end.Close()
		return false
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

func (c *Cable) carry(near net.Conn, head []byte) {
	c.wait()
	far, err := net.Dial("tcp", c.to)
	if err != nil || !c.keep(far) {
		c.drop(near)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.copy(far, near, head) })
	both.Go(func() { c.copy(near, far, nil) })
	both.Wait()
	c.drop(near, far)
}

// piece is bytes on their way.
type piece struct {
	data []byte
	due  time.Time
}

// copy carries bytes one way, head first. When one way ends the connection does:
// nobody here closes one half of one.
func (c *Cable) copy(to, from net.Conn, head []byte) {
	way := make(chan piece, pieces)
	var out sync.WaitGroup
	out.Go(func() { c.deliver(to, from, way) })
	data, err := head, error(nil)
	for buf := make([]byte, 32<<10); err == nil; {
		if len(data) > 0 {
			way <- piece{data, time.Now().Add(c.lag())}
		}
		var n int
		n, err = from.Read(buf)
		data = append([]byte(nil), buf[:n]...)
	}
	if len(data) > 0 {
		way <- piece{data, time.Now().Add(c.lag())}
	}
	close(way)
	out.Wait()
	_ = to.Close() // so that the other way ends
	_ = from.Close()
}

// deliver writes pieces when they are due, in their order.
func (c *Cable) deliver(to, from net.Conn, way <-chan piece) {
	var failed error
	for p := range way {
		if failed != nil {
			continue // so that who reads does not wait
		}
		timer := time.NewTimer(time.Until(p.due))
		select {
		case <-timer.C:
		case <-c.done:
			timer.Stop()
		}
		c.wait()
		if _, failed = to.Write(p.data); failed != nil {
			_ = from.Close()
		}
	}
}

func (c *Cable) lag() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delay
}

// wait returns when the cable is whole, or closed.
func (c *Cable) wait() {
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	<-open
}

// Delay has what is sent from now on, either way, take so long.
func (c *Cable) Delay(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delay = d
}

// Sever cuts the cable.
func (c *Cable) Sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cut && !c.gone {
		c.cut, c.open = true, make(chan struct{})
	}
}

// Mend ends Sever.
func (c *Cable) Mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		c.cut = false
		close(c.open)
	}
}

// Close ends all connections.
func (c *Cable) Close() error {
	c.mu.Lock()
	if !c.gone {
		c.gone = true
		close(c.done)
	}
	for end := range c.ends {
		_ = end.Close()
	}
	c.mu.Unlock()
	c.Mend()
	var err error
	if c.ln != nil {
		err = c.ln.Close()
	}
	c.all.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
