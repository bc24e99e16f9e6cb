package peer

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRenewalsPassACrowd: as many other calls as there may be, and more that wait, are not in the way of a renewal.
func TestRenewalsPassACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		l := runLink(t, a)
		release := make(chan struct{})
		runSession(t, b, func(_ context.Context, _ string, kind Kind, _ []byte) ([]byte, error) {
			if !slices.Contains([]Kind{KindRenew, KindHandsTo}, kind) {
				<-release
			}
			return nil, nil
		})
		var wg sync.WaitGroup
		for range 2 * maxCalls {
			wg.Go(func() {
				if _, _, err := l.call(t.Context(), KindConfirm, []byte("x")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, kind := range []Kind{KindRenew, KindHandsTo} {
			if _, _, err := l.call(ctx, kind, []byte("x")); err != nil {
				t.Errorf("%v: %v", kind, err)
			}
		}
		close(release)
		wg.Wait()
	})
}

// TestGateKeepsTheOrder: who came first passes first, and who gives up, a large one too, is in nobody's way.
func TestGateKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		for range maxCalls {
			if err := g.enter(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex // guards passed
		var passed []int
		gone, cancel := context.WithCancel(t.Context())
		for i, size := range []int{1, maxCallBytes, 1, 1} {
			ctx := t.Context()
			if size > 1 {
				ctx = gone
			}
			go func() {
				if g.enter(ctx, size) == nil {
					mu.Lock()
					defer mu.Unlock()
					passed = append(passed, i)
				}
			}()
			synctest.Wait()
		}
		want := func(what string, order ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(passed, order) {
				t.Errorf("%s: %v passed, want %v", what, passed, order)
			}
		}
		want("full")
		g.leave(1)
		want("one left", 0)
		g.leave(1)
		g.leave(1)
		want("behind a large one", 0)
		cancel()
		synctest.Wait()
		mu.Lock()
		slices.Sort(passed) // both have room at once
		mu.Unlock()
		want("it gave up", 0, 2, 3)
		if g.calls != maxCalls || g.bytes != maxCalls || g.waiting.Len() != 0 {
			t.Errorf("%d calls, %d bytes, %d waiting", g.calls, g.bytes, g.waiting.Len())
		}
	})
}
