package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A true server gets in whatever is silent before it: it ends the oldest handshake of where the most come from.
func TestHandshakesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, connect := startMux(t)
		oldest := connect()
		var silent []net.Conn
		for range maxHandshakes - 1 {
			silent = append(silent, connect())
		}
		synctest.Wait()
		conn := connect()
		if took := lifetime(oldest); took != 0 {
			t.Errorf("the oldest lived for %v", took)
		}
		if _, err := conn.Write(hello{purpose: purposeCall, from: "s2"}.encode()); err != nil {
			t.Fatal(err)
		}
		if a, err := readAnswer(conn); err != nil || a.code != answerOK {
			t.Errorf("%+v, %v", a, err)
		}
		if took := lifetime(silent[0]); took != handshakeTimeout {
			t.Errorf("the second oldest lived for %v", took)
		}
		synctest.Wait()
		if n := m.greeting.size(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// from is a connection of which the other side is somewhere.
type from struct {
	net.Conn
	addr string
}

func (f from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.addr)) }

// Those who open the most connections end their own, also when they have many addresses of one network.
func TestCrowdIsFair(t *testing.T) {
	var c crowd
	socketOf := func(addr string) *socket { return &socket{Conn: from{addr: addr}} }
	first := socketOf("10.0.0.1:1")
	c.enter(first)
	greedy := socketOf("[2001:db8::1]:1")
	c.enter(greedy)
	for i := range maxHandshakes - 3 {
		c.enter(socketOf(fmt.Sprintf("[2001:db8::%x:2]:1", i)))
	}
	second := socketOf("[::ffff:10.0.0.1]:2")
	if out := c.enter(second); out != nil {
		t.Fatal("one went while there was room")
	}
	if out := c.enter(socketOf("10.0.0.9:1")); out != greedy {
		t.Errorf("the one from %v went", out.RemoteAddr())
	}
	c.leave(first)
	c.leave(greedy) // gone already
	if c.size() != maxHandshakes-1 {
		t.Errorf("%d are in", c.size())
	}
	if first.network() != second.network() {
		t.Errorf("%v and %v are one address", first.network(), second.network())
	}
}

func TestErrorTextLimit(t *testing.T) {
	s1 := openMux(t, "s1", nil)
	s2 := openMux(t, "s2", func(c *Config) {
		c.Handler = func(context.Context, string, Kind, []byte) ([]byte, error) {
			return nil, errors.New(strings.Repeat("x", 2*maxErrorText))
		}
	})
	_, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil)
	var remote *RemoteError
	if !errors.As(err, &remote) || len(remote.Text) != maxErrorText {
		t.Errorf("an error text of %d bytes arrived, the limit is %d", len(err.Error()), maxErrorText)
	}
}

func TestNameLimits(t *testing.T) {
	long := strings.Repeat("n", maxString)
	for says, edit := range map[string]func(*Config){
		"1 to 512 are needed": func(c *Config) { c.Identity.ID = long + "n" },
		"advertised address":  func(c *Config) { c.Advertise = long + ":1" },
	} {
		cfg := Config{Listen: "127.0.0.1:0", Identity: Identity{ID: "s1", Cluster: cluster("")}, Handler: echo}
		edit(&cfg)
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want it to say %q", err, says)
		}
	}
	s1, s2 := openMux(t, long, nil), openMux(t, "s2", nil)
	if _, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil); err != nil {
		t.Errorf("the longest id: %v", err)
	}
}

// broken is a listener that has no file descriptor left.
type broken struct {
	pipes
	tries *atomic.Int64
}

func (b broken) Accept() (net.Conn, error) {
	select {
	case <-b.ended:
		return nil, net.ErrClosed
	default:
		b.tries.Add(1)
		return nil, errors.New("too many open files")
	}
}

// Accepting is tried again soon, then less often, and at least once a second: the port comes back by itself.
func TestAcceptIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := broken{pipes: pipes{ended: make(chan struct{})}, tries: new(atomic.Int64)}
		cfg := Config{Identity: Identity{ID: "s1", Cluster: cluster("c1")}, Handler: echo, Logger: quiet(), DialTimeout: time.Second}
		m, err := start(cfg, ln, new(fickle))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.Close() }()
		<-time.After(time.Minute)
		if n := ln.tries.Load(); n < 60 || n > 70 {
			t.Errorf("%d tries in a minute, want one a second and a few at first", n)
		}
	})
}
