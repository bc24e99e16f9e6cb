package rig

import (
	"errors"
	"net"
	"sync"
)

// cable carries connections to an address until it is cut. Then it takes
// connections and bytes and keeps them back, as a network does whose packets are
// lost, and delivers them late when it is mended. Close it when done.
type cable struct {
	to   string
	ln   net.Listener
	mu   sync.Mutex // guards the rest
	open chan struct{}
	cut  bool
	ends map[net.Conn]bool
	gone bool
	all  sync.WaitGroup
}

// cables are those of one node.
type cables []*cable

func (all cables) each(do func(*cable)) {
	for _, c := range all {
		do(c)
	}
}

// lay lays a cable to an address. Its own is that of the listener.
func lay(to string) (*cable, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &cable{to: to, ln: ln, open: make(chan struct{}), ends: map[net.Conn]bool{}}
	close(c.open)
	c.all.Go(c.accept)
	return c, nil
}

func (c *cable) addr() string { return c.ln.Addr().String() }

func (c *cable) accept() {
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
func (c *cable) keep(end net.Conn) bool {
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
func (c *cable) drop(ends ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range ends {
		_ = end.Close()
		delete(c.ends, end)
	}
}

func (c *cable) carry(near net.Conn) {
	c.wait()
	far, err := net.Dial("tcp", c.to)
	if err != nil || !c.keep(far) {
		c.drop(near)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.copy(far, near) })
	both.Go(func() { c.copy(near, far) })
	both.Wait()
	c.drop(near, far)
}

// copy carries bytes one way. When one way ends the connection does: nobody here
// closes one half of one.
func (c *cable) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.wait()
		if n > 0 {
			if _, failed := to.Write(buf[:n]); err == nil {
				err = failed
			}
		}
		if err != nil {
			_ = to.Close() // so that the other way ends
			_ = from.Close()
			return
		}
	}
}

// wait returns when the cable is whole, or closed.
func (c *cable) wait() {
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	<-open
}

// sever cuts the cable.
func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cut && !c.gone {
		c.cut, c.open = true, make(chan struct{})
	}
}

// mend ends sever.
func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		c.cut = false
		close(c.open)
	}
}

// close ends all connections.
func (c *cable) close() error {
	c.mu.Lock()
	c.gone = true
	for end := range c.ends {
		_ = end.Close()
	}
	c.mu.Unlock()
	c.mend()
	err := c.ln.Close()
	c.all.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
