package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Beyond those that are told that they are too many, connections are closed without a word: a flood costs no more.
func TestRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, connect := startMux(t)
		for range maxHandshakes {
			connect() // silent
		}
		for range maxRefusals {
			connect() // does not read why it is refused
		}
		synctest.Wait()
		conn := connect()
		if said, err := io.ReadAll(conn); err != nil || len(said) > 0 {
			t.Errorf("one too many was told %q, %v", said, err)
		}
		if took := lifetime(conn); took != 0 {
			t.Errorf("one too many lived for %v", took)
		}
	})
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
