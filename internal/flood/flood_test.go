package main

import (
	"net"
	"strings"
	"testing"
	"time"
)

// The crowd arrives, comes back after it was closed, and ends.
func TestCrowd(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	c := newCrowd(ln.Addr().String(), ln.Addr().String(), 8)
	if err := c.wait(t.Context()); err != nil {
		t.Error(err)
	}
	c.close()
	if c.made.Load() < 8 || !strings.Contains(c.String(), "connections were made") {
		t.Error(c)
	}
}

func TestReport(t *testing.T) {
	one := []time.Duration{3 * time.Millisecond, time.Millisecond, 2 * time.Millisecond}
	if quantile(one, 0.5) != 2*time.Millisecond || quantile(one, 1) != 3*time.Millisecond || quantile(nil, 0.5) != 0 {
		t.Error("the quantiles are others")
	}
	if err := report(figures{moves: one, renewals: one}, figures{moves: one, renewals: one}); err != nil {
		t.Error(err)
	}
	if report(figures{}, figures{moves: one, renewals: one}) == nil {
		t.Error("a turn without figures is taken for good")
	}
	if report(figures{moves: one, renewals: one}, figures{moves: one, renewals: one, failed: 1, last: net.ErrClosed}) == nil {
		t.Error("renewals that were shut out are taken for good")
	}
}
