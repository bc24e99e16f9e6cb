package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// errLinkDown is the cause of calls that found their connection already over.
var errLinkDown = errors.New("the connection was over before the request went out")

// link is the calling side of one connection: many calls at once, told apart by their ids.
type link struct {
	addr  string
	wire  *wire
	gates gates

	mu      sync.Mutex // guards nextID, pending and down
	nextID  uint64
	pending map[uint64]*pendingCall
	down    bool
}

// pendingCall is a call whose answer has not come.
type pendingCall struct {
	out  *outgoing
	done chan struct{} // closed when body and err are set
	body []byte
	err  error // nil, a *RemoteError, or a bare cause when the link went down
	lost bool  // the link went down
}

func newLink(ctx context.Context, addr string, conn net.Conn) *link {
	return &link{addr: addr, wire: newWire(ctx, conn), pending: make(map[uint64]*pendingCall)}
}

// run works until the connection ends. drop is called before any waiting call learns of it, so that a call that
// tries again does not meet the same link.
func (l *link) run(drop func()) {
	cause := l.wire.run(l.onFrame)
	drop()
	l.mu.Lock()
	l.down = true
	left := l.pending
	l.pending = nil
	l.mu.Unlock()
	for _, c := range left {
		c.err, c.lost = cause, true
		close(c.done)
	}
}

// onFrame takes an answer. One to a call that was given up meanwhile is read and dropped.
func (l *link) onFrame(h frameHead, r *bufio.Reader) error {
	if h.code != codeResult && h.code != codeFailure {
		return fmt.Errorf("%w: code %d in an answer", errBadFrame, h.code)
	}
	payload, err := readPayload(r, h)
	if err != nil {
		return err
	}
	l.mu.Lock()
	c := l.pending[h.id]
	delete(l.pending, h.id)
	l.mu.Unlock()
	if c == nil {
		return nil
	}
	if h.code == codeResult {
		c.body = payload
	} else {
		c.err = &RemoteError{Addr: l.addr, Text: printable(string(payload))}
	}
	close(c.done)
	return nil
}

// start sends a request.
func (l *link) start(kind Kind, payload []byte) (*pendingCall, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, false
	}
	l.nextID++
	c := &pendingCall{done: make(chan struct{}), out: &outgoing{id: l.nextID, code: byte(kind), payload: payload}}
	if !l.wire.push(c.out) {
		return nil, false
	}
	l.pending[c.out.id] = c
	return c, true
}

// call sends one request and waits for its answer. again is true when the request was not sent because this
// connection turned out to be dead, so that another one may be tried.
func (l *link) call(ctx context.Context, kind Kind, payload []byte) (body []byte, again bool, err error) {
	// The wait for room ends with the call or with the link.
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(l.wire.ctx, func() { cancel(errLinkDown) })
	defer stop()
	gate := l.gates.of(kind)
	if err := gate.enter(wait, len(payload)); err != nil {
		if ctx.Err() != nil { // the context's own error and not only its cause, for errors.Is
			return nil, false, notSent(l.addr, kind, ctx.Err())
		}
		return nil, true, notSent(l.addr, kind, err)
	}
	defer gate.leave(len(payload))
	c, ok := l.start(kind, payload)
	if !ok {
		return nil, true, notSent(l.addr, kind, errLinkDown)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		select {
		case <-c.done: // both at once: the answer is worth more
		default:
			return nil, false, l.giveUp(ctx, c, kind)
		}
	}
	if !c.lost {
		return c.body, false, c.err
	}
	if l.wire.reached(c.out) {
		return nil, false, outcomeUnknown(l.addr, kind, c.err)
	}
	return nil, true, notSent(l.addr, kind, c.err)
}

// giveUp ends a call whose context ended first. Where the request may have gone out, the other side is told that
// nobody waits any more, so that its handler does not go on for nothing.
func (l *link) giveUp(ctx context.Context, c *pendingCall, kind Kind) error {
	l.mu.Lock()
	delete(l.pending, c.out.id)
	l.mu.Unlock()
	if l.wire.withdraw(c.out) {
		return notSent(l.addr, kind, ctx.Err())
	}
	l.wire.push(&outgoing{id: c.out.id, code: codeCancel})
	return outcomeUnknown(l.addr, kind, ctx.Err())
}
