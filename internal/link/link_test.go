package link

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// echo answers each line with itself until the listener is closed.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// caller is somebody who sends lines and reads them again.
type caller struct {
	net.Conn
	in *bufio.Reader
}

func laid(t *testing.T, n *Net, who Who, addr string) (*Cable, *caller) {
	t.Helper()
	c, err := n.Lay(who, "b", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", c.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return c, &caller{conn, bufio.NewReader(conn)}
}

func (c *caller) says(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatal(err)
	}
}

func (c *caller) hears(t *testing.T, want string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := c.in.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != want {
		t.Fatalf("heard %q (%v), want %q", got, err, want)
	}
}

// silent makes sure that nothing is heard for a moment.
func (c *caller) silent(t *testing.T) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if got, err := c.in.ReadString('\n'); !errors.Is(err, errTimeout(err)) || got != "" {
		t.Fatalf("heard %q (%v) of a link that is cut", got, err)
	}
}

// errTimeout is err if it is a timeout, else another one.
func errTimeout(err error) error {
	var e net.Error
	if errors.As(err, &e) && e.Timeout() {
		return err
	}
	return errors.New("no timeout")
}

// Either direction can be cut without the other, and what was kept back comes late.
func TestCut(t *testing.T) {
	there, back := Way{"a", "b"}, Way{"b", "a"}
	for _, cut := range []Way{there, back} {
		n := New()
		_, c := laid(t, n, Named("a"), echo(t))
		c.says(t, "one")
		c.hears(t, "one")
		n.Set(cut, State{Cut: true})
		came, went := n.Carried(there), n.Carried(back)
		c.says(t, "two")
		c.silent(t)
		if arrived := n.Carried(there) > came; arrived != (cut == back) || n.Carried(back) != went {
			t.Errorf("%v was cut, and %d and %d bytes were carried, %d and %d before", cut, n.Carried(there), n.Carried(back), came, went)
		}
		n.Heal()
		c.hears(t, "two")
	}
}

// Of two who cut a direction, neither mends it for the other.
func TestSetByTwo(t *testing.T) {
	n := New()
	w := Way{"a", "b"}
	_, c := laid(t, n, Named("a"), echo(t))
	n.SetFor(1, w, State{Cut: true, Delay: time.Nanosecond})
	n.SetFor(2, w, State{Cut: true, Loss: 0.5})
	n.SetFor(3, w, State{Delay: 2 * time.Nanosecond})
	n.SetFor(1, w, State{})
	c.says(t, "one")
	c.silent(t)
	if s, _ := n.at(w); s != (State{Cut: true, Delay: 2, Loss: 0.5}) {
		t.Errorf("all together are %+v", s)
	}
	n.SetFor(2, w, State{})
	c.hears(t, "one")
}

// A connection that is dialed while the link is cut is taken, and stays silent.
func TestDialWhileCut(t *testing.T) {
	n := New()
	n.Set(Way{"b", "a"}, State{Cut: true})
	_, c := laid(t, n, Named("a"), echo(t))
	c.says(t, "one")
	c.silent(t)
	n.Set(Way{"b", "a"}, State{})
	c.hears(t, "one")
}

// An end that dies while the link is cut is not heard of before it is mended.
func TestHalfOpen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := New()
	_, c := laid(t, n, Named("a"), ln.Addr().String())
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	n.Set(Way{"b", "a"}, State{Cut: true})
	if err := errors.Join(far.Close(), ln.Close()); err != nil {
		t.Fatal(err)
	}
	c.silent(t)
	n.Heal()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.in.ReadString('\n'); !errors.Is(err, io.EOF) {
		t.Errorf("after the link was mended: %v", err)
	}
}

// What passes is late by the delay, in virtual time.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, w := New(), Way{"a", "b"}
		n.Set(w, State{Delay: 80 * time.Millisecond})
		began, gone := time.Now(), make(chan struct{})
		if !n.pass(w, began, gone) || time.Since(began) != 80*time.Millisecond {
			t.Errorf("it took %v", time.Since(began))
		}
		if !n.pass(w.Back(), time.Now(), gone) || time.Since(began) != 80*time.Millisecond {
			t.Error("the other way is slow too")
		}
		close(gone)
		n.Set(w, State{Cut: true})
		if n.pass(w, time.Now(), gone) {
			t.Error("a cable that is gone carries")
		}
	})
}

// The name of a server is taken from what it says first, which is delivered.
func TestServer(t *testing.T) {
	hello := "scrg\x01\x02\x00\x09\x00\x02s7\x00\x00rest of it"
	r := strings.NewReader(hello)
	name, read, err := Server(r)
	if err != nil || name != "s7" || string(read) != hello[:17] {
		t.Errorf("%q, %q, %v", name, read, err)
	}
	for _, bad := range []string{"", "GET / HTTP/1.1\r\n\r\n", "scrg\x01\x02\x00\x03\x00\x02s", "scrg\x01\x02\x00\x04\x00\x09s1"} {
		if name, _, err := Server(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is %q", bad, name)
		}
	}
	n := New()
	n.Set(Way{"b", "s7"}, State{Cut: true})
	_, c := laid(t, n, Server, echo(t))
	if _, err := io.WriteString(c, hello[:17]+"one\n"); err != nil {
		t.Fatal(err)
	}
	c.silent(t)
	n.Heal()
	c.hears(t, strings.TrimSpace(hello[:17]+"one"))
}

// What is lost comes late, all of it in the end, and in order.
func TestLoss(t *testing.T) {
	n, w := New(), Way{"a", "b"}
	n.Set(w, State{Loss: 1})
	if late := n.lost(w); late != 15*Resend { // 1, 2, 4 and 8 of them
		t.Errorf("late by %v", late)
	}
	n.Set(w, State{Loss: 0.5})
	_, c := laid(t, n, Named("a"), echo(t))
	for i := range 5 {
		c.says(t, fmt.Sprint(i))
		c.hears(t, fmt.Sprint(i))
	}
	n.Set(w, State{})
	if late := n.lost(w); late != 0 {
		t.Errorf("late by %v on a link that loses nothing", late)
	}
}
