package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Calls over net.Pipe in virtual time: what takes seconds of silence takes none here.

// runLink runs a link over conn until the test ends.
func runLink(t *testing.T, conn net.Conn) *link {
	l := newLink(t.Context(), "s2:7000", conn)
	var wg sync.WaitGroup
	wg.Go(func() { l.run(func() {}) })
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	return l
}

func runSession(t *testing.T, conn net.Conn, handle func(context.Context, string, Kind, []byte) ([]byte, error)) *session {
	s := newSession(t.Context(), conn, "s1", handle)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.run() })
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	return s
}

func echo(_ context.Context, from string, kind Kind, payload []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s %v %s", from, kind, payload), nil
}

// wantErr checks that err is exactly one of the outcomes, beside what else it is.
func wantErr(t *testing.T, err error, outcome error, also ...error) {
	t.Helper()
	for _, o := range []error{ErrNotSent, ErrOutcomeUnknown} {
		if errors.Is(err, o) != (o == outcome) {
			t.Errorf("want %v, got %v", outcome, err)
		}
	}
	for _, a := range also {
		if !errors.Is(err, a) {
			t.Errorf("%v is not %v", err, a)
		}
	}
}

func TestIdleConnectionStaysUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		l := runLink(t, a)
		runSession(t, b, echo)
		for range 3 {
			<-time.After(time.Hour)
			body, _, err := l.call(t.Context(), KindStatus, []byte("x"))
			if err != nil || string(body) != "s1 status x" {
				t.Fatalf("%s, %v", body, err)
			}
		}
	})
}

// A peer that takes the request and then is silent: the call ends after silentFor, without a deadline of its own.
func TestSilentPeerEndsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		l := runLink(t, a)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, b) })
		start := time.Now()
		_, again, err := l.call(t.Context(), KindPropose, []byte("x"))
		wantErr(t, err, ErrOutcomeUnknown, errSilent)
		if took := time.Since(start); took != silentFor || again {
			t.Errorf("took %v, again %v", took, again)
		}
		_ = a.Close()
		wg.Wait()
		_, again, err = l.call(t.Context(), KindPropose, []byte("x"))
		wantErr(t, err, ErrNotSent)
		if !again {
			t.Error("a call on a dead link is not tried on another")
		}
	})
}

// A peer that does not read: the write gives up after writeWithin. Nothing was handed over, so nothing was sent.
func TestPeerThatDoesNotReadEndsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		l := runLink(t, a)
		start := time.Now()
		_, again, err := l.call(t.Context(), KindPropose, []byte("x"))
		wantErr(t, err, ErrNotSent)
		if took := time.Since(start); took > writeWithin || !again {
			t.Errorf("took %v, again %v", took, again)
		}
	})
}

// halfway is a connection whose kernel takes a number of bytes and then fails.
type halfway struct {
	net.Conn
	left int
}

func (h *halfway) Write(p []byte) (int, error) {
	if n := h.left; n < len(p) {
		h.left = 0
		return n, io.ErrClosedPipe
	}
	h.left -= len(p)
	return len(p), nil
}

// Two calls go out in one write, which breaks off: the one that was handed over whole may have arrived, the other
// cannot have.
func TestHalfSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		payload := make([]byte, 100)
		whole := frameHeadSize + len(payload)
		for _, tc := range []struct {
			left          int
			first, second error
		}{
			{0, ErrNotSent, ErrNotSent},
			{whole - 1, ErrNotSent, ErrNotSent},
			{whole, ErrOutcomeUnknown, ErrNotSent},
			{2*whole - 1, ErrOutcomeUnknown, ErrNotSent},
		} {
			a, b := net.Pipe()
			l := newLink(t.Context(), "s2:7000", &halfway{Conn: a, left: tc.left})
			var wg sync.WaitGroup
			errs := make([]error, 2)
			for i := range errs { // before the link runs, so that they share a write
				wg.Go(func() { _, _, errs[i] = l.call(t.Context(), KindPropose, payload) })
				synctest.Wait()
			}
			l.run(func() {})
			wg.Wait()
			wantErr(t, errs[0], tc.first)
			wantErr(t, errs[1], tc.second)
			_ = b.Close()
		}
	})
}

// The context of a call ends: before the request is written it was not sent, afterwards nobody knows.
func TestCallGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		l := newLink(t.Context(), "s2:7000", a)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := l.call(ctx, KindPropose, nil) // the link does not run yet
		wantErr(t, err, ErrNotSent, context.DeadlineExceeded)
		if l.wire.queue.Len() != 0 || len(l.pending) != 0 || l.gates.common.calls != 0 {
			t.Errorf("a call given up left something behind: queue %d, pending %d, gate %d", l.wire.queue.Len(), len(l.pending), l.gates.common.calls)
		}

		var wg sync.WaitGroup
		wg.Go(func() { l.run(func() {}) })
		var ended atomic.Int32
		s := runSession(t, b, func(ctx context.Context, _ string, _ Kind, _ []byte) ([]byte, error) {
			<-ctx.Done()
			ended.Add(1)
			return nil, ctx.Err()
		})
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err = l.call(ctx, KindPropose, nil)
		wantErr(t, err, ErrOutcomeUnknown, context.DeadlineExceeded)
		synctest.Wait()
		if ended.Load() != 1 {
			t.Error("the handler goes on for a caller that gave up")
		}
		if l.gates.common.calls != 0 || s.gates.common.calls != 0 || s.gates.common.bytes != 0 {
			t.Errorf("slots in use: caller %d, server %d", l.gates.common.calls, s.gates.common.calls)
		}
		_ = a.Close()
		wg.Wait()
	})
}

// The calling side keeps to the bound; one more call waits until another is done.
func TestCallsInFlightAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		l := runLink(t, a)
		release := make(chan struct{})
		var running atomic.Int32
		runSession(t, b, func(context.Context, string, Kind, []byte) ([]byte, error) {
			running.Add(1)
			<-release
			return nil, nil
		})
		var wg sync.WaitGroup
		for range maxCalls {
			wg.Go(func() {
				if _, _, err := l.call(t.Context(), KindPropose, []byte("x")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err := l.call(ctx, KindPropose, []byte("x"))
		wantErr(t, err, ErrNotSent, context.DeadlineExceeded)
		if n := running.Load(); n != maxCalls {
			t.Errorf("%d handlers run", n)
		}
		close(release)
		wg.Wait()
		if _, _, err := l.call(t.Context(), KindPropose, []byte("x")); err != nil {
			t.Error(err)
		}
	})
}

// A caller that does not keep to the bound is not read on, and stays connected.
func TestServerStopsReadingOverTheBound(t *testing.T) {
	for name, size := range map[string]int{"calls": 1, "bytes": 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			release := make(chan struct{})
			var running atomic.Int32
			s := runSession(t, b, func(context.Context, string, Kind, []byte) ([]byte, error) {
				running.Add(1)
				<-release
				return nil, nil
			})
			want := min(maxCalls, maxCallBytes/size)
			frame := appendFrame(nil, 0, byte(KindPropose), make([]byte, size))
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = io.Copy(io.Discard, a) })
			wg.Go(func() {
				for i := range want + 10 {
					frame[11] = byte(i)
					frame[10] = byte(i >> 8)
					if _, err := a.Write(frame); err != nil {
						t.Error(err)
						return
					}
				}
				for _, err := a.Write(appendFrame(nil, 0, codeAlive, nil)); err == nil; {
					<-time.After(aliveEvery)
					_, err = a.Write(appendFrame(nil, 0, codeAlive, nil))
				}
			})
			<-time.After(time.Hour)
			if n := running.Load(); int(n) != want {
				t.Errorf("%s: %d handlers run, want %d", name, n, want)
			}
			if s.wire.ctx.Err() != nil {
				t.Errorf("%s: the connection ended: %v", name, context.Cause(s.wire.ctx))
			}
			close(release)
			synctest.Wait()
			if n := running.Load(); int(n) != want+10 {
				t.Errorf("%s: %d handlers ran, want %d", name, n, want+10)
			}
			_ = a.Close()
			wg.Wait()
		})
	}
}

// What no honest caller sends ends the connection, and with it the contexts of its handlers.
func TestSessionEndsOnNonsense(t *testing.T) {
	for name, raw := range map[string][]byte{
		"too large":  appendFrame(nil, 1, byte(KindPropose), make([]byte, MaxCallPayload+1))[:frameHeadSize],
		"same id":    appendFrame(appendFrame(nil, 1, byte(KindPropose), nil), 1, byte(KindPropose), nil),
		"cut":        appendFrame(nil, 1, byte(KindPropose), make([]byte, 100))[:50],
		"only alive": appendFrame(nil, 0, codeAlive, nil),
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			s := newSession(t.Context(), b, "s1", func(ctx context.Context, _ string, _ Kind, _ []byte) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			var wg sync.WaitGroup
			var ended error
			wg.Go(func() { ended = s.run() })
			wg.Go(func() { _, _ = io.Copy(io.Discard, a) })
			wg.Go(func() { _, _ = a.Write(raw) })
			<-time.After(2 * silentFor)
			_ = a.Close()
			wg.Wait()
			if !errors.Is(ended, errBadFrame) && !errors.Is(ended, errSilent) {
				t.Errorf("%s: ended with %v", name, ended)
			}
		})
	}
}

func TestLinkEndsOnNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		l := runLink(t, a)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = readFrameHead(b)
			_, _ = b.Write(appendFrame(nil, 99, codeResult, []byte("to a call nobody made")))
			_, _ = b.Write(appendFrame(nil, 1, 77, nil))
			_, _ = io.Copy(io.Discard, b)
		})
		_, _, err := l.call(t.Context(), KindPropose, nil)
		wantErr(t, err, ErrOutcomeUnknown, errBadFrame)
		wg.Wait()
	})
}
