package main

import (
	"context"
	"os"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 32 << 20: 400, 64 << 20: 200, 128 << 20: 100, 129 << 20: 100, 1 << 40: 100} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d bytes in use GOGC is %d, want %d", live, got, want)
		}
	}
}

// percent reads GOGC, which can only be read by setting it.
func percent() int {
	p := debug.SetGCPercent(leastPercent)
	debug.SetGCPercent(p)
	return p
}

// It is set while a server runs, and not where somebody has chosen one.
func TestKeepHeadroom(t *testing.T) {
	for _, chosen := range []string{"", "60"} {
		t.Run("GOGC="+chosen, func(t *testing.T) {
			defer debug.SetGCPercent(debug.SetGCPercent(leastPercent))
			var want int
			t.Setenv("GOGC", chosen)
			if want = mostPercent; chosen != "" {
				want = leastPercent
			} else if err := os.Unsetenv("GOGC"); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					keepHeadroom(ctx)
				}()
				<-time.After(time.Second)
				if got := percent(); got < min(want, leastPercent+1) || got > want {
					t.Errorf("GOGC is %d, want up to %d", got, want)
				}
				stop()
				<-ended
				if got := percent(); got != leastPercent {
					t.Errorf("GOGC is %d after the end, want %d", got, leastPercent)
				}
			})
		})
	}
}
