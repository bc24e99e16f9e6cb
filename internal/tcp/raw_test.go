package tcp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pair is a connection with its other end. Both hold little, so that a large piece does not fit.
func pair(t *testing.T) (conn net.Conn, other *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*net.TCPConn{dialed.(*net.TCPConn), (<-accepted).(*net.TCPConn)}
	for _, end := range ends {
		if err := errors.Join(end.SetReadBuffer(16<<10), end.SetWriteBuffer(16<<10), end.SetLinger(0)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { end.Close() })
	}
	conn = Raw(ends[0])
	if _, ok := conn.(*net.TCPConn); ok == (runtime.GOOS == "linux") {
		t.Fatalf("it is a %T", conn)
	}
	return conn, ends[1]
}

// waiting is a reader that must not come back with nothing.
type waiting struct{ io.Reader }

func (w waiting) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	return n, err
}

// What does not fit comes whole, in both directions at once.
func TestRawMovesAll(t *testing.T) {
	conn, other := pair(t)
	text := make([]byte, 4<<20)
	for i := range text {
		text[i] = byte(i * i >> 8)
	}
	var all sync.WaitGroup
	for _, end := range []net.Conn{conn, other} {
		all.Go(func() {
			n, err := end.Write(text)
			if n != len(text) || err != nil {
				t.Errorf("%T wrote %d of %d bytes: %v", end, n, len(text), err)
			}
		})
		all.Go(func() {
			got := make([]byte, len(text))
			if n, err := io.ReadFull(waiting{end}, got); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%T read %d bytes, the same: %v, %v", end, n, bytes.Equal(got, text), err)
			}
		})
	}
	all.Wait()
}

// Each of many writes comes in one piece, as net.Conn promises.
func TestRawWritesOneAfterTheOther(t *testing.T) {
	const size, each = 100_000, 20
	conn, other := pair(t)
	var all sync.WaitGroup
	for _, letter := range []byte("abcd") {
		all.Go(func() {
			for range each {
				if _, err := conn.Write(bytes.Repeat([]byte{letter}, size)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	got := make([]byte, size)
	for i := range 4 * each {
		if _, err := io.ReadFull(other, got); err != nil {
			t.Fatal(err)
		}
		if first := got[0]; slices.ContainsFunc(got, func(b byte) bool { return b != first }) {
			t.Fatalf("piece %d is of several writes", i)
		}
	}
	all.Wait()
}

// The end is io.EOF, for those who come again too, and bytes before it are not lost with it.
func TestRawEnd(t *testing.T) {
	conn, other := pair(t)
	if _, err := other.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := other.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "last" {
		t.Errorf("%q, %v", got, err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	if half, ok := conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		t.Errorf("the sending side of a %T cannot be closed", conn)
	}
	if got, err := io.ReadAll(other); err != nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// What waits ends with its deadline and with Close, whether that comes before or while it waits.
func TestRawWaitsEnd(t *testing.T) {
	read := func(c net.Conn) error {
		_, err := c.Read(make([]byte, 1))
		return err
	}
	write := func(c net.Conn) error {
		_, err := c.Write(make([]byte, 1))
		return err
	}
	writeMuch := func(c net.Conn) error {
		n, err := c.Write(make([]byte, 64<<20)) // more than any socket holds
		if n == 0 || n == 64<<20 {
			t.Errorf("%d bytes were written", n)
		}
		return err
	}
	past := time.Unix(1, 0)
	for name, wait := range map[string]struct {
		call, end, again func(net.Conn) error
		want             error
	}{
		"read, deadline":  {read, func(c net.Conn) error { return c.SetReadDeadline(past) }, read, os.ErrDeadlineExceeded},
		"read, close":     {read, net.Conn.Close, read, net.ErrClosed},
		"write, deadline": {writeMuch, func(c net.Conn) error { return c.SetWriteDeadline(past) }, write, os.ErrDeadlineExceeded},
		"write, close":    {writeMuch, net.Conn.Close, write, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			conn, other := pair(t)
			ended := make(chan error, 1)
			go func() { ended <- wait.call(conn) }()
			if strings.HasPrefix(name, "write") {
				if _, err := other.Read(make([]byte, 1)); err != nil { // it has begun
					t.Fatal(err)
				}
			}
			if err := wait.end(conn); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, wait.want) {
				t.Errorf("%v, want %v", err, wait.want)
			}
			if err := wait.again(conn); !errors.Is(err, wait.want) {
				t.Errorf("once more: %v, want %v", err, wait.want)
			}
		})
	}
}

// A deadline that was taken back does not end what comes behind it.
func TestRawGoesOnBehindADeadline(t *testing.T) {
	conn, other := pair(t)
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// An error of the kernel says what was done with which connection.
func TestRawErrorsAreThoseOfNet(t *testing.T) {
	conn, other := pair(t)
	other.Close() // with nothing lingering it is reset
	_, err := conn.Read(make([]byte, 1))
	if want := "read tcp " + conn.LocalAddr().String() + "->" + conn.RemoteAddr().String() + ": read: connection reset by peer"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	_, err = conn.Write([]byte("x"))
	if want := ": write: broken pipe"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// Neither nothing nor something is paid for with an allocation.
func TestRawAllocatesNothing(t *testing.T) {
	conn, other := pair(t)
	text, room := []byte("a command and its answer"), make([]byte, 100)
	if allocs := testing.AllocsPerRun(100, func() {
		if _, err := conn.Write(text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(other, room[:len(text)]); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Write(text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, room[:len(text)]); err != nil {
			t.Fatal(err)
		}
		for _, do := range []func([]byte) (int, error){conn.Read, conn.Write} {
			if n, err := do(nil); n != 0 || err != nil {
				t.Fatal(n, err)
			}
		}
	}); allocs > 2 { // the two methods as functions
		t.Errorf("%v allocations", allocs)
	}
}
