package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// headroom is how many bytes may be allocated from one collection of garbage to the next at least. Go's own measure is as
	// many as are in use, which for the small tables of most clusters is a collection several times a second under load.
	headroom = 128 << 20

	// leastPercent is Go's own GOGC. mostPercent bounds what the memory can be for a moment, where that of a small heap still
	// holds when a large one has come in: so many percent more than is in use, once.
	leastPercent, mostPercent = 100, 400

	// headroomEvery is for how long it can hold: a snapshot of a million scopes takes longer to load.
	headroomEvery = 250 * time.Millisecond
)

// gcPercent is the GOGC that leaves the headroom on top of what is in use.
func gcPercent(live uint64) int {
	return int(min(max(leastPercent, headroom*100/max(live, 1)), mostPercent))
}

// keepHeadroom sets GOGC by what the last collection left in use, until ctx ends. It leaves alone what the environment sets.
//
// A larger GOGC for good would be the same factor for a large table too; a ballast, an allocation that nobody uses, counts
// against GOMEMLIMIT; and a finalizer, which would run after each collection, does so when its object is swept, late.
func keepHeadroom(ctx context.Context) {
	if _, chosen := os.LookupEnv("GOGC"); chosen {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	last := 0
	every := time.NewTicker(headroomEvery)
	defer every.Stop()
	for {
		metrics.Read(live)
		if p := gcPercent(live[0].Value.Uint64()); p < last || p > last+last/8 { // it stops the world, for little
			debug.SetGCPercent(p)
			last = p
		}
		select {
		case <-ctx.Done():
			debug.SetGCPercent(leastPercent)
			return
		case <-every.C:
		}
	}
}
