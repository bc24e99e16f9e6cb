package tcp

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Raw is conn with reads and writes of which Go's scheduler does not know that they are system calls. It waits as conn does,
// with deadlines and Close. It is for a server that makes many small ones, up to some 100,000 a second.
//
// The socket never waits in them, so that they take microseconds. But of a call that takes 20 µs, as one does now and then, the
// scheduler's watcher (sysmon) takes the processor away and wakes a thread for it; and while it finds such calls it looks again every
// 20 µs. With a client that is busy beside the server, both threads are in the way. The price: the garbage collector cannot
// interrupt a call of which nobody was told, and waits for its end.
func Raw(conn *net.TCPConn) net.Conn {
	c := &raw{TCPConn: conn}
	socket, err := conn.SyscallConn()
	if err != nil {
		return conn
	}
	c.in.wait, c.out.wait = socket.Read, socket.Write
	c.in.step, c.out.step = c.in.read, c.out.write
	return c
}

type raw struct {
	*net.TCPConn
	in, out transfer
}

// transfer is one direction.
type transfer struct {
	wait func(step func(fd uintptr) bool) error // calls step, again when more is possible, until it is true
	step func(fd uintptr) bool                  // made once: a closure for each call would be an allocation for each

	mu   sync.Mutex // guards the rest: one call at a time
	p    []byte
	done int
	fail error
}

func (c *raw) Read(p []byte) (int, error) {
	n, err := c.in.do(p)
	return n, c.named("read", err)
}

func (c *raw) Write(p []byte) (int, error) {
	n, err := c.out.do(p)
	return n, c.named("write", err)
}

// named is an error in the words of net.
func (c *raw) named(call string, err error) error {
	if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // it is as the kernel gave it, or of somebody else
		return &net.OpError{Op: call, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(call, errno)}
	}
	return err
}

// do moves bytes between p and the socket.
func (t *transfer) do(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.done, t.fail = p, 0, nil
	err := t.wait(t.step)
	t.p = nil
	if err == nil {
		err = t.fail
	}
	return t.done, err
}

// read reads what is there.
func (t *transfer) read(fd uintptr) (ready bool) {
	if len(t.p) == 0 {
		return true
	}
	n, errno := read(fd, t.p)
	switch {
	case errno == syscall.EAGAIN:
		return false
	case errno != 0:
		t.fail = errno
	case n == 0:
		t.fail = io.EOF
	}
	t.done = n
	return true
}

// write writes all, in as many pieces as the socket takes.
func (t *transfer) write(fd uintptr) (ready bool) {
	for t.done < len(t.p) {
		n, errno := write(fd, t.p[t.done:])
		if errno == syscall.EAGAIN {
			return false
		}
		if errno != 0 {
			t.fail = errno
			return true
		}
		t.done += n
	}
	return true
}
