package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// headroom is what may be allocated from one collection of garbage to the next at least, in bytes. Go's own measure is as
	// much as there is, which for the small tables of most clusters is a collection several times a second under load. A
	// server's memory is that of its tables and this, and twice that of its tables where those are larger.
	headroom = 128 << 20

	// leastPercent is Go's own measure.
	leastPercent = 100
)

// gcPercent is the GOGC that leaves the headroom on top of a live heap.
func gcPercent(live uint64) int {
	return int(max(leastPercent, headroom*100/max(live, 1<<20)))
}

// keepHeadroom sets GOGC after each collection by what that left alive, for as long as the process runs. It leaves alone what
// the environment sets; GOMEMLIMIT goes on to bound all.
//
// A larger GOGC for good would be the same factor for a large table too. A ballast, an allocation that nobody uses, would count
// against GOMEMLIMIT. And a look now and then, instead of one after each collection, would come too late where a snapshot
// is loaded: a hundred megabytes times the factor that is right for three.
func keepHeadroom() {
	if _, chosen := os.LookupEnv("GOGC"); chosen {
		return
	}
	afterEachGC(func(live uint64) { debug.SetGCPercent(gcPercent(live)) })
	runtime.GC()
}

// afterEachGC calls do with the bytes that a collection left alive, from the goroutine of finalizers.
func afterEachGC(do func(live uint64)) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	type sentinel struct{ self *byte } // with a pointer, or it would share its memory with others
	var watch func(*sentinel)
	watch = func(s *sentinel) {
		metrics.Read(live)
		do(live[0].Value.Uint64())
		runtime.SetFinalizer(s, watch)
	}
	runtime.SetFinalizer(new(sentinel), watch)
}
