package upstream

import (
	"net"
	"syscall"
	"testing"
)

// userTimeout is TCP_USER_TIMEOUT.
const userTimeout = 0x12

// The kernel gives up every connection to the store that is not confirmed any more: clients' and the gate's own.
func TestDeadConnectionsEnd(t *testing.T) {
	f := newFake(t)
	s := f.open(f.config())
	c, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		t.Fatalf("the connection is a %T", c.Conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	var bad error
	if err := raw.Control(func(fd uintptr) { got, bad = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout) }); err != nil || bad != nil {
		t.Fatal(err, bad)
	}
	if want := int(deadAfter.Milliseconds()); got != want {
		t.Errorf("the kernel gives up after %d ms, want %d", got, want)
	}
}
