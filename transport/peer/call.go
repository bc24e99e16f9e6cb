package peer

import (
	"context"
	"fmt"
	"net"
)

// dialedLink is a link that may still be in the making. Calls that meet it there wait for it together.
type dialedLink struct {
	ready chan struct{} // closed when link or err is set
	link  *link
	err   error
}

// Call sends a request to the server at addr and returns what its handler answered. addr is compared with that
// server's own, see Config.Advertise. All calls to one address share a connection, which is dialed when it is
// needed; a request that was not sent because that connection turned out to be dead is sent once more over a
// fresh one. At most 1,024 calls and 64 MiB of requests are in flight to one server, more wait.
//
// The error is a *RemoteError when the handler answered one, else ErrNotSent or ErrOutcomeUnknown.
func (m *Mux) Call(ctx context.Context, addr string, kind Kind, payload []byte) ([]byte, error) {
	if byte(kind) == codeAlive || byte(kind) == codeCancel {
		return nil, notSent(addr, kind, fmt.Errorf("kind %d is none of a call", byte(kind)))
	}
	if len(payload) > MaxCallPayload {
		return nil, notSent(addr, kind, fmt.Errorf("a request of %d bytes, at most %d are allowed; split it", len(payload), MaxCallPayload))
	}
	for second := false; ; second = true {
		if err := ctx.Err(); err != nil {
			return nil, notSent(addr, kind, err)
		}
		l, pooled, err := m.linkTo(ctx, addr)
		if err != nil {
			return nil, notSent(addr, kind, err)
		}
		body, again, err := l.call(ctx, kind, payload)
		if err == nil || !again || !pooled || second {
			return body, err
		}
	}
}

// linkTo returns the link to addr and dials it where there is none. pooled is true when it was there before.
func (m *Mux) linkTo(ctx context.Context, addr string) (l *link, pooled bool, err error) {
	m.mu.Lock()
	d := m.links[addr]
	if d == nil {
		if m.closing {
			m.mu.Unlock()
			return nil, false, fmt.Errorf("this server's peer port is closed: %w", net.ErrClosed)
		}
		d = &dialedLink{ready: make(chan struct{})}
		m.links[addr] = d
		m.wg.Go(func() { m.runLink(addr, d) })
	}
	m.mu.Unlock()
	select {
	case <-d.ready:
		return d.link, d.err == nil, d.err
	default:
	}
	select {
	case <-d.ready:
		return d.link, false, d.err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// runLink dials a link and works it until it ends. The dial is bounded by its own timeouts and not by the context
// of the call that happened to come first, since others wait for it too.
func (m *Mux) runLink(addr string, d *dialedLink) {
	drop := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.links, addr)
	}
	conn, err := m.connect(m.ctx, addr, purposeCall)
	if err != nil {
		d.err = err
		drop()
		close(d.ready)
		return
	}
	d.link = newLink(m.ctx, addr, conn)
	close(d.ready)
	d.link.run(drop)
	m.log.Debug("call connection ended", "address", addr, "cause", context.Cause(d.link.wire.ctx))
}
