package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// errRaftStopped ends connections of raft after its transport was closed.
var errRaftStopped = errors.New("raft's transport on this server is closed")

// stream is the raft side of a Mux, a raft.StreamLayer. It is shut until Mux.StreamLayer is called, so that a
// server which has yet to find out whether it may take part in votes does not receive any, and shut again by
// Close, which leaves the calls alone.
type stream struct {
	mux      *Mux
	incoming chan net.Conn // handed over, never stored: an accepted connection that nobody serves would stay open

	mu    sync.Mutex // guards open
	open  bool
	ended chan struct{} // closed by Close
	once  sync.Once     // Close
}

func newStream(m *Mux) *stream {
	return &stream{mux: m, incoming: make(chan net.Conn), ended: make(chan struct{})}
}

// advertised is a net.Addr that is just the "host:port" peers know a server by. It is never resolved: raft stores
// its text in the log and in votes, and an IP address in there would outlive the container that had it.
type advertised string

// Network implements net.Addr.
func (advertised) Network() string { return "tcp" }

// String implements net.Addr.
func (a advertised) String() string { return string(a) }

// Addr implements net.Listener: the address peers dial, as configured.
func (s *stream) Addr() net.Addr { return advertised(s.mux.advertise) }

// Accept implements net.Listener. The connection is past its handshake. The error is net.ErrClosed after Close.
func (s *stream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.incoming:
		return conn, nil
	case <-s.ended:
		return nil, fmt.Errorf("%w: %w", errRaftStopped, net.ErrClosed)
	}
}

// Dial implements raft.StreamLayer. A timeout of 0 leaves it at the bounds of the Mux.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx := s.mux.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	conn, err := s.mux.connect(ctx, string(address), purposeRaft)
	if err != nil {
		return nil, err
	}
	conn.setRaft()
	if s.isEnded() { // after setRaft, so that Close finds it if it comes now
		_ = conn.Close()
		return nil, fmt.Errorf("dialing %s: %w: %w", address, errRaftStopped, net.ErrClosed)
	}
	return conn, nil
}

// Close implements net.Listener: raft's connections end, no more are accepted or dialed. Raft's NetworkTransport
// calls it, and closes neither the connections it accepted nor those in its pool itself.
func (s *stream) Close() error {
	s.once.Do(func() {
		close(s.ended)
		s.mux.closeRaft()
	})
	return nil
}

// deliver hands an accepted connection to raft.
func (s *stream) deliver(conn *raftConn) {
	conn.setRaft()
	if s.isEnded() { // after setRaft, as in Dial
		_ = conn.Close()
		return
	}
	patience := time.NewTimer(handshakeTimeout)
	defer patience.Stop()
	select {
	case s.incoming <- conn:
		return
	case <-s.ended:
	case <-patience.C: // raft's accept loop has nothing to wait for, unless it is gone
	}
	_ = conn.Close()
}

func (s *stream) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = true
}

// isOpen says whether raft takes connections.
func (s *stream) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open && !s.isEnded()
}

func (s *stream) isEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// slowestRate is the least that a request must come in by once it has begun, in bytes a second after the first silentFor:
// what raft itself gives a snapshot, 256 KiB in each 5 s. Raft reads a snapshot in its main loop, which one that trickles in
// would hold.
const slowestRate = 256 << 10 / 5

// raftConn is an accepted connection of raft whose requests pass the check before raft decodes a byte of them. Between
// requests it may be silent for as long as it likes.
type raftConn struct {
	*socket
	refused func(error) // told of the first violation

	mu    sync.Mutex // guards the rest
	check *precheck
	began time.Time // of the present request
	got   int64     // bytes of it
}

// Read implements net.Conn. After a violation it fails, and the connection is closed.
func (c *raftConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.socket.Read(p)
	if n == 0 {
		if isTimeout(err) {
			err = fmt.Errorf("%w (%v) within a request", errSilent, silentFor)
			c.refused(err)
		}
		return n, err
	}
	c.mu.Lock()
	if !c.check.midway() {
		c.began, c.got = time.Now(), 0
	}
	c.got += int64(n)
	bad := c.check.feed(p[:n])
	c.mu.Unlock()
	if bad == nil {
		return n, err
	}
	c.refused(bad)
	_ = c.Close()
	return 0, bad
}

// deadline is when the next bytes have to be there, zero while nothing has begun.
func (c *raftConn) deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.check.midway() {
		return time.Time{}
	}
	silent, slow := time.Now().Add(silentFor), c.began.Add(silentFor+time.Duration(c.got)*(time.Second/slowestRate))
	if slow.Before(silent) {
		return slow
	}
	return silent
}

// Write implements net.Conn. Raft writes nothing on such a connection but answers, and reads nothing from it
// between the end of a request and its answer but what it had asked for before.
func (c *raftConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.check.answered()
	c.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return 0, err
	}
	return c.socket.Write(p)
}
