package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// again is how soon a connection that was closed is made again, at the earliest, and up to twice that: thousands at
	// the same instant would be a flood of connects, not of connections.
	again = 5 * time.Second
	// crowdTime bounds the gathering of the crowd.
	crowdTime = 60 * time.Second
	// garblers send garbage, a piece each garbleEvery, so that a slow machine does something else too.
	garblers    = 8
	garbleEvery = 20 * time.Millisecond
	garbage     = 4 << 10 // bytes of a piece
)

// crowd is connections that do nothing, and some that send garbage. Every second one that does nothing has asked for
// something before that anybody may ask for.
type crowd struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	conns                     int
	made, lost, refused, sent atomic.Int64
	arrived                   chan struct{} // one for each connection that was made first
}

func newCrowd(http, resp string, conns int) *crowd {
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{cancel: cancel, conns: conns, arrived: make(chan struct{}, conns)}
	for i := range conns {
		addr, greeting := http, "GET /healthz HTTP/1.1\r\nHost: flood\r\n\r\n"
		if i%2 == 1 {
			addr, greeting = resp, "PING\r\n"
		}
		if i/2%2 == 1 {
			greeting = ""
		}
		c.running.Go(func() { c.idle(ctx, addr, greeting) })
	}
	for i := range garblers {
		addr := http
		if i%2 == 1 {
			addr = resp
		}
		c.running.Go(func() { c.garble(ctx, addr) })
	}
	return c
}

// String is what the crowd was.
func (c *crowd) String() string {
	return fmt.Sprintf("%d connections were made, %d could not be; the servers closed %d; %d pieces of garbage", c.made.Load(), c.refused.Load(), c.lost.Load(), c.sent.Load())
}

// wait returns when every connection was made once.
func (c *crowd) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, crowdTime)
	defer cancel()
	for n := range c.conns {
		select {
		case <-c.arrived:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d connections came about: %w", n, c.conns, ctx.Err())
		}
	}
	return nil
}

func (c *crowd) close() {
	c.cancel()
	c.running.Wait()
}

// idle holds a connection, and makes it again some time after the server closed it.
func (c *crowd) idle(ctx context.Context, addr, greeting string) {
	first := true
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			c.refused.Add(1)
		} else {
			c.made.Add(1)
			if first {
				first = false
				c.arrived <- struct{}{}
			}
			end := context.AfterFunc(ctx, func() { _ = conn.Close() })
			if _, err := io.WriteString(conn, greeting); err == nil {
				_, _ = io.Copy(io.Discard, conn) // until one of the two sides ends it
			}
			end()
			_ = conn.Close()
			if ctx.Err() == nil {
				c.lost.Add(1)
			}
		}
		pause(ctx, again+mathrand.N(again))
	}
}

// garble sends random bytes on one connection after the other.
func (c *crowd) garble(ctx context.Context, addr string) {
	piece := make([]byte, garbage)
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			_, _ = rand.Read(piece)
			if _, err := conn.Write(piece); err == nil {
				c.sent.Add(1)
			}
			_ = conn.Close()
		}
		pause(ctx, garbleEvery)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
