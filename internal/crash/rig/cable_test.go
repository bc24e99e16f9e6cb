package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// echo is a server that answers each line with itself, and tells of each before.
func echo(t *testing.T) (addr string, came chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	came = make(chan string, 100)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					came <- lines.Text()
					fmt.Fprintln(conn, lines.Text())
				}
			}()
		}
	}()
	return ln.Addr().String(), came
}

// line is the next line of a connection, or "" if none comes for a moment.
func line(t *testing.T, conn net.Conn, patience time.Duration) string {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	var got []byte
	one := make([]byte, 1)
	for {
		if _, err := conn.Read(one); err != nil {
			return string(got)
		}
		if got = append(got, one[0]); one[0] == '\n' {
			return strings.TrimSpace(string(got))
		}
	}
}

// TestCable: nothing passes a cable that is cut, neither on old nor on new
// connections, and all of it does when it is mended.
func TestCable(t *testing.T) {
	const soon, long = 50 * time.Millisecond, 10 * time.Second
	to, came := echo(t)
	c, err := lay(to)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", c.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	old := dial()
	fmt.Fprintln(old, "one")
	if got := line(t, old, long); got != "one" {
		t.Fatalf("got %q through a whole cable", got)
	}
	<-came
	c.sever()
	fresh := dial()
	fmt.Fprintln(old, "two")
	fmt.Fprintln(fresh, "three")
	if got := line(t, old, soon) + line(t, fresh, soon); got != "" || len(came) > 0 {
		t.Errorf("%q came back through a cable that is cut, and %d lines came in", got, len(came))
	}
	c.mend()
	if got := line(t, old, long) + line(t, fresh, long); got != "twothree" {
		t.Errorf("got %q through a mended cable", got)
	}
	c.sever()
	fmt.Fprintln(old, "four")
	if err := c.close(); err != nil {
		t.Error(err)
	}
	_ = old.SetReadDeadline(time.Now().Add(long))
	if rest, err := io.ReadAll(old); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v from a closed cable", rest, err)
	}
}
