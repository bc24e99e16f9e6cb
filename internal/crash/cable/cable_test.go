package cable

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
	c, err := Lay(to)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", c.Addr())
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
	c.Sever()
	fresh := dial()
	fmt.Fprintln(old, "two")
	fmt.Fprintln(fresh, "three")
	if got := line(t, old, soon) + line(t, fresh, soon); got != "" || len(came) > 0 {
		t.Errorf("%q came back through a cable that is cut, and %d lines came in", got, len(came))
	}
	c.Mend()
	if got := line(t, old, long) + line(t, fresh, long); got != "twothree" {
		t.Errorf("got %q through a mended cable", got)
	}
	c.Sever()
	fmt.Fprintln(old, "four")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	_ = old.SetReadDeadline(time.Now().Add(long))
	if rest, err := io.ReadAll(old); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v from a closed cable", rest, err)
	}
}

// TestDelay: what is sent while there is a delay comes later, in its order, both ways.
func TestDelay(t *testing.T) {
	const lag, long = 100 * time.Millisecond, 10 * time.Second
	to, _ := echo(t)
	c, err := Lay(to)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", c.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c.Delay(lag)
	sent := time.Now()
	fmt.Fprintln(conn, "one")
	fmt.Fprintln(conn, "two")
	if got := line(t, conn, long) + line(t, conn, long); got != "onetwo" {
		t.Errorf("got %q", got)
	}
	if took := time.Since(sent); took < 2*lag {
		t.Errorf("the answer came after %v, and each way takes %v", took, lag)
	}
	c.Delay(time.Hour) // Close does not wait for it
	fmt.Fprintln(conn, "three")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// hello is what a server says first.
func hello(id string) string {
	return "scrg\x01\x01\x00\x00" + string([]byte{0, byte(len(id))}) + id + "\n"
}

// TestJunction: each server that dials has its own cable, and others have none.
func TestJunction(t *testing.T) {
	const soon, long = 50 * time.Millisecond, 10 * time.Second
	to, came := echo(t)
	j, err := Join(to, []string{"s1", "s2"})
	if err != nil {
		t.Fatal(err)
	}
	says := func(what string) net.Conn {
		conn, err := net.Dial("tcp", j.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		fmt.Fprint(conn, what)
		return conn
	}
	j.From("s2").Sever()
	first, second, third := says(hello("s1")), says(hello("s2")), says(hello("s3"))
	if got, want := line(t, first, long), strings.TrimSpace(hello("s1")); got != want || <-came != want {
		t.Errorf("got %q from s1, want %q", got, want)
	}
	if got := line(t, second, soon); got != "" {
		t.Errorf("got %q through a cable that is cut", got)
	}
	j.From("s2").Mend()
	if got, want := line(t, second, long), strings.TrimSpace(hello("s2")); got != want {
		t.Errorf("got %q from s2, want %q", got, want)
	}
	_ = third.SetReadDeadline(time.Now().Add(long))
	if rest, err := io.ReadAll(third); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v for a server that has no cable", rest, err)
	}
	silent := says("scrg")
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	_ = silent.SetReadDeadline(time.Now().Add(long))
	if rest, err := io.ReadAll(silent); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v from a closed junction", rest, err)
	}
}
