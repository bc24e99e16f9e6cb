package main

import (
	"runtime"
	"testing"
)

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 12800, 1 << 20: 12800, 3 << 20: 4266, 64 << 20: 200, 128 << 20: 100, 129 << 20: 100, 1 << 40: 100} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d bytes alive GOGC is %d, want %d", live, got, want)
		}
	}
}

// What a collection left alive is told after each of them, not only the first.
func TestAfterEachGC(t *testing.T) {
	const size = 64 << 20
	told := make(chan uint64, 1)
	afterEachGC(func(live uint64) {
		select {
		case told <- live:
		default: // one before it was not taken yet
		}
	})
	collect := func() uint64 {
		for {
			runtime.GC()
			select {
			case live := <-told:
				return live
			default:
			}
		}
	}
	before := collect()
	large := make([]byte, size)
	for collect() < before+size/2 {
	}
	runtime.KeepAlive(large)
	large = nil
	for collect() > before+size/2 {
	}
}
