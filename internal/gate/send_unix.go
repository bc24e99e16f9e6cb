//go:build unix

package gate

import (
	"errors"
	"net"
	"syscall"
)

// sender writes to a socket as much as fits at once. It never waits: one client that does not read must not hold up the
// replies of others, and a goroutine of its own for each would cost every reply a switch.
type sender struct {
	raw  syscall.RawConn // nil: cannot
	step func(fd uintptr) bool
	data []byte
	n    int
	err  error
}

// of prepares a sender for a connection; over TLS, and for anything that is no socket, it sends nothing.
func (s *sender) of(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	s.raw = raw
	s.step = func(fd uintptr) bool { // made once: a closure for each would be an allocation for each
		s.n, s.err = syscall.Write(int(fd), s.data)
		return true
	}
}

// send returns how much was taken of data. An error is for good.
func (s *sender) send(data []byte) (int, error) {
	if s.raw == nil {
		return 0, nil
	}
	s.data, s.n, s.err = data, 0, nil
	err := s.raw.Write(s.step)
	s.data = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(s.err, syscall.EAGAIN) || errors.Is(s.err, syscall.EINTR):
		return 0, nil
	case s.err != nil:
		return 0, s.err
	}
	return s.n, nil
}
