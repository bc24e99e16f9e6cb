package gate

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

// firstWait is what a client of TLS or HTTP gets for its first words.
const firstWait = 10 * time.Second

// idleWait is how long a connection over HTTP may have no request. It is longer than a sender keeps one, 30 s: who sends closes
// first, and meets none that is just being closed.
const idleWait = time.Minute

var errPlain = errors.New("NOPERM this gate takes clients over TLS only")

// welcome finds out what a client speaks, by the first bytes that it sends, and serves it.
func (g *Gate) welcome(nc net.Conn, id uint64) {
	c := g.newConn(nc, id)
	if !g.enter(c) {
		_, _ = nc.Write(errorLine(&client.Error{Code: client.CodeUnavailable, Detail: fmt.Sprintf("the gate has %d clients, as many as it takes, or is shutting down", g.limits.Clients)}))
		_ = nc.Close()
		return
	}
	defer g.leave(c)
	for secured := false; ; {
		n, err := c.nc.Read(c.in[c.end:])
		c.end += n
		if err != nil || c.end == 0 {
			_ = nc.Close()
			return
		}
		if c.in[0] == 0x16 && g.tls != nil && !secured {
			over := tls.Server(&headed{Conn: nc, head: bytes.Clone(c.in[:c.end])}, g.tls)
			c.nc, c.end, secured = over, 0, true
			c.box.init(nc, over, g.limits.Hoard, g.run)
			_ = nc.SetReadDeadline(time.Now().Add(firstWait))
			if err := over.Handshake(); err != nil {
				_ = nc.Close()
				return
			}
			_ = nc.SetReadDeadline(time.Time{})
			if g.ending.Load() {
				_ = nc.SetReadDeadline(time.Unix(1, 0))
			}
			continue
		}
		if mayBePost(c.in[:c.end]) && g.slices != nil {
			if c.end < len(post) {
				continue
			}
			if g.tls != nil && !secured {
				_ = nc.Close() // gates with certificates send over TLS, also where clients need none
				return
			}
			g.http.give(&headed{Conn: c.nc, head: c.in[:c.end]})
			return
		}
		if g.tlsOnly && !secured {
			_, _ = nc.Write(errorLine(errPlain))
			_ = nc.Close()
			return
		}
		break
	}
	c.began = time.Now()
	c.serve()
}

const post = "POST /"

func mayBePost(b []byte) bool { return bytes.HasPrefix([]byte(post), b[:min(len(b), len(post))]) }

// headed is a connection of which the beginning has been read.
type headed struct {
	net.Conn
	head []byte
}

func (h *headed) Read(p []byte) (int, error) {
	if len(h.head) > 0 {
		n := copy(p, h.head)
		h.head = h.head[n:]
		return n, nil
	}
	return h.Conn.Read(p)
}

// httpEnd serves what comes over HTTP on the gate's port.
type httpEnd struct {
	srv    *http.Server
	given  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHTTPEnd(h http.Handler, log *slog.Logger) *httpEnd {
	return &httpEnd{given: make(chan net.Conn), closed: make(chan struct{}), srv: &http.Server{Handler: overTLS(h), ReadHeaderTimeout: firstWait, IdleTimeout: idleWait,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug)}}
}

// connKey is where a request has its connection.
type connKey struct{}

// overTLS tells a handler of the connection's TLS, and so who sends: the server sees a connection whose beginning was read,
// and takes it for one without.
func overTLS(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*headed); ok {
			if over, ok := c.Conn.(*tls.Conn); ok {
				state := over.ConnectionState()
				r.TLS = &state
			}
		}
		h.ServeHTTP(w, r)
	})
}

func (e *httpEnd) serve() { _ = e.srv.Serve(e) }

func (e *httpEnd) give(c net.Conn) {
	select {
	case e.given <- c:
	case <-e.closed:
		_ = c.Close()
	}
}

// Accept makes it the listener of its server.
func (e *httpEnd) Accept() (net.Conn, error) {
	select {
	case c := <-e.given:
		return c, nil
	case <-e.closed:
		return nil, net.ErrClosed
	}
}

// Close is the listener's.
func (e *httpEnd) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

// Addr is the listener's; nobody connects to it.
func (e *httpEnd) Addr() net.Addr { return &net.TCPAddr{} }

func (e *httpEnd) close() { _ = e.srv.Close(); _ = e.Close() }
