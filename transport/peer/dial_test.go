package peer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fickle is a resolver whose only answer can be taken away; then it is silent, as for a stopped container.
type fickle struct {
	gone atomic.Bool
	ips  []netip.Addr
	err  error
}

func (f *fickle) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	if f.gone.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return f.ips, f.err
}

var loopback = netip.MustParseAddr("127.0.0.1")

func TestDialFallsBackToTheLastGoodAddress(t *testing.T) {
	names := &fickle{ips: []netip.Addr{loopback}}
	s2 := openMux(t, "s2", func(c *Config) { c.Advertise = "s2.example:0" })
	_, port, _ := net.SplitHostPort(s2.addr())
	addr := net.JoinHostPort("s2.example", port)
	s1, err := open(Config{
		Listen: "127.0.0.1:0", Identity: Identity{ID: "s1", Cluster: cluster("c1")}, Handler: echo,
		DialTimeout: 200 * time.Millisecond,
	}, names)
	if err != nil {
		t.Fatal(err)
	}
	defer s1.Close()
	names.gone.Store(true)
	_, err = s1.Call(t.Context(), addr, KindStatus, nil)
	wantErr(t, err, ErrNotSent, context.DeadlineExceeded)
	if !strings.Contains(err.Error(), `resolving "s2.example"`) {
		t.Errorf("%v", err)
	}
	for _, gone := range []bool{false, true, true} { // once good, it is dialed without the resolver's help
		names.gone.Store(gone)
		if _, err := s1.Call(t.Context(), addr, KindStatus, nil); err != nil {
			t.Fatalf("gone %v: %v", gone, err)
		}
		for _, s := range s1.pick(func(*socket) bool { return true }) {
			_ = s.Close()
		}
		eventually(t, "the connection is dropped", func() bool {
			s1.mu.Lock()
			defer s1.mu.Unlock()
			return len(s1.links) == 0
		})
	}
}

// A name nobody answers for costs the dial timeout and no more, however long the resolver would take.
func TestResolvingIsWithinTheDialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := new(fickle)
		names.gone.Store(true)
		d := &dialer{timeout: maxDialTimeout, resolver: names, lastGood: make(map[string]netip.Addr)}
		start := time.Now()
		_, _, err := d.dial(t.Context(), "gone.example:7000")
		if took := time.Since(start); took != maxDialTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("took %v: %v", took, err)
		}
		d.lastGood["gone.example"] = loopback
		start = time.Now()
		ips, err := d.resolve(t.Context(), "gone.example")
		if took := time.Since(start); took != maxDialTimeout/2 || err != nil || len(ips) != 1 || ips[0] != loopback {
			t.Errorf("took %v: %v, %v", took, ips, err)
		}
	})
}

func TestDialErrors(t *testing.T) {
	names := &fickle{}
	d := &dialer{timeout: maxDialTimeout, resolver: names, lastGood: make(map[string]netip.Addr)}
	for addr, says := range map[string]string{
		"no-port":        "is not host:port",
		"empty.example:": "the name has no address",
	} {
		if _, _, err := d.dial(t.Context(), addr); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	// Every address is tried: here the second one listens.
	m := openMux(t, "s1", nil)
	_, port, _ := net.SplitHostPort(m.addr())
	names.ips = []netip.Addr{netip.MustParseAddr("127.0.0.2"), loopback}
	conn, ip, err := d.dial(t.Context(), net.JoinHostPort("two.example", port))
	if err != nil || ip != loopback {
		t.Fatalf("%v, %v", ip, err)
	}
	_ = conn.Close()
}
