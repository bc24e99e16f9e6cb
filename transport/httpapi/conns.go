package httpapi

import (
	"container/list"
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/scope-registry/scope-registry/internal/tcp"
	"net/http"
	"sync"
	"time"
)

// standing is what a connection would lose, the least first: at the limit the oldest one with the least makes room.
type standing int

const (
	silent  standing = iota // never sent the header of a request
	spare                   // between requests, none of which showed who asks; or answered without that
	vouched                 // the same of somebody known
	busy                    // in a request: makes no room

	evictable = int(busy) // standings that make room
)

// door is a listener that bounds its open connections.
type door struct {
	net.Listener
	limit  int
	secure bool // TLS comes on top, so that nothing can be said in plain words

	mu    sync.Mutex // guards all below, and what doorConn says so of
	open  int
	lists [evictable]list.List // of *doorConn, in each the oldest first
}

func newDoor(ln net.Listener, limit int, secure bool) *door {
	return &door{Listener: ln, limit: limit, secure: secure}
}

// under is the door with TLS on top, if there is any.
func (d *door) under(secure *tls.Config) net.Listener {
	if secure == nil {
		return d
	}
	return tls.NewListener(d, secure)
}

// doorConn is a connection in the books of its door.
type doorConn struct {
	net.Conn
	door *door

	// Guarded by door.mu.
	is     standing
	at     *list.Element // in the list of its standing; nil while it is busy, or closed
	known  bool          // it has sent a request of somebody known
	closed bool
}

// Accept returns the next connection. At the limit the oldest of those with the least to lose is closed for it; if none
// makes room, it is told so.
func (d *door) Accept() (net.Conn, error) {
	for {
		nc, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if t, ok := nc.(*net.TCPConn); ok {
			nc = tcp.Raw(t)
		}
		c := &doorConn{Conn: nc, door: d}
		evicted, ok := d.enter(c)
		if evicted != nil {
			_ = evicted.Conn.Close() // who serves it finds out
		}
		if ok {
			return c, nil
		}
		d.refuse(nc)
	}
}

func (d *door) enter(c *doorConn) (evicted *doorConn, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open >= d.limit {
		if evicted = d.least(); evicted == nil {
			return nil, false
		}
		d.remove(evicted)
	}
	d.open++
	d.put(c, silent)
	return evicted, true
}

// least is the oldest connection with the least to lose. d.mu is held.
func (d *door) least() *doorConn {
	for i := range d.lists {
		if front := d.lists[i].Front(); front != nil {
			c, _ := front.Value.(*doorConn)
			return c
		}
	}
	return nil
}

// put gives a connection a standing. d.mu is held.
func (d *door) put(c *doorConn, is standing) {
	if c.at != nil {
		d.lists[c.is].Remove(c.at)
		c.at = nil
	}
	if c.is = is; is < busy {
		c.at = d.lists[is].PushBack(c)
	}
}

// remove takes a connection out of the books; a second time does nothing. d.mu is held.
func (d *door) remove(c *doorConn) {
	if !c.closed {
		c.closed = true
		d.open--
		d.put(c, busy)
	}
}

// refuse answers without reading. All of it is best effort.
func (d *door) refuse(conn net.Conn) {
	if !d.secure {
		body := fmt.Sprintf(`{"type":"urn:scope-registry:error:LIMIT","title":"limit","status":429,"code":"LIMIT","outcome":"not applied",`+
			`"detail":"this server has %d connections, which is the limit; use another server, or close some"}`, d.limit)
		_ = conn.SetWriteDeadline(time.Now().Add(refusalTimeout))
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			problemType, len(body), body)
	}
	_ = conn.Close()
}

// Close closes the connection and gives its place back.
func (c *doorConn) Close() error {
	c.door.mu.Lock()
	c.door.remove(c)
	c.door.mu.Unlock()
	return c.Conn.Close()
}

// idle is its standing where it has nothing to do. door.mu is held.
func (c *doorConn) idle() standing {
	if c.known {
		return vouched
	}
	return spare
}

// note follows what net/http says of a connection.
func (d *door) note(nc net.Conn, state http.ConnState) {
	c := doorConnOf(nc)
	if c == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.closed:
	case state == http.StateActive:
		d.put(c, busy)
	case state == http.StateIdle:
		d.put(c, c.idle())
	}
}

// doorConnOf is the connection that was accepted, below TLS if there is any; nil if it came through no door.
func doorConnOf(nc net.Conn) *doorConn {
	if secured, ok := nc.(*tls.Conn); ok {
		nc = secured.NetConn()
	}
	c, _ := nc.(*doorConn)
	return c
}

type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, doorConnOf(nc))
}

// conn is the connection of the request, nil if it came through no door.
func (r *reply) conn() *doorConn {
	c, _ := r.request.Context().Value(connKey{}).(*doorConn)
	return c
}

// spare lets the connection make room for others while the request is still answered, which may hang for as long as the
// client sends its body: nothing of it is done, and there is nothing to lose. Those of somebody known go last, as between
// requests.
func (r *reply) spare() {
	if c := r.conn(); c != nil {
		c.door.mu.Lock()
		defer c.door.mu.Unlock()
		if !c.closed {
			c.door.put(c, c.idle())
		}
	}
}

// vouch notes that somebody known uses the connection.
func (r *reply) vouch() {
	if c := r.conn(); c != nil {
		c.door.mu.Lock()
		defer c.door.mu.Unlock()
		c.known = true
	}
}

// evicted reports whether the connection has made room already: what it sent last must not be done, as nobody hears of it.
func (r *reply) evicted() bool {
	c := r.conn()
	if c == nil {
		return false
	}
	c.door.mu.Lock()
	defer c.door.mu.Unlock()
	return c.closed
}
