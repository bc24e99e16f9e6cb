package sim

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// seedsTested is how many seeds `make test` runs; `make sim` runs more.
const seedsTested = 2000

// TestSeeds runs the simulation. A seed that fails is shrunk and told with its
// trace; run it again with: go run ./internal/sim/run -seed N
func TestSeeds(t *testing.T) {
	const parts = 20
	var mu sync.Mutex // guards counts
	counts := map[string]int{}
	t.Run("seeds", func(t *testing.T) {
		for part := range parts {
			t.Run(fmt.Sprint(part), func(t *testing.T) {
				t.Parallel()
				sum := map[string]int{}
				for i := range seedsTested / parts {
					seed := uint64(1 + part + i*parts)
					o := Run(seed)
					if o.Violation != nil {
						s := Shrink(seed)
						t.Fatalf("seed %d: %s\nshrunk to %q\n%s", seed, s.Violation, s.Plan, strings.Join(s.Outcome.Trace, "\n"))
					}
					if o.Events < 500 {
						t.Errorf("seed %d has %d events, 500 are the least that tell something", seed, o.Events)
					}
					for what, n := range o.Counts {
						sum[what] += n
					}
				}
				mu.Lock()
				defer mu.Unlock()
				for what, n := range sum {
					counts[what] += n
				}
			})
		}
	})
	if missing := Missing(counts); len(missing) > 0 && !t.Failed() {
		t.Errorf("in %d seeds these never happened: %q", seedsTested, missing)
	}
}

// The same seed is the same run, or a failure could not be looked at again; with a
// trace too, or the trace would tell of another run.
func TestSameSeedSameRun(t *testing.T) {
	for seed := range uint64(60) {
		a, b, c := Run(seed), Run(seed), Trace(seed)
		if a.Hash != b.Hash || a.Events != b.Events || a.Hash != c.Hash || a.Events != c.Events {
			t.Fatalf("seed %d: %d events and hash %x, again %d and %x, with a trace %d and %x", seed, a.Events, a.Hash, b.Events, b.Hash, c.Events, c.Hash)
		}
		if other := Run(seed + 1); other.Hash == a.Hash {
			t.Fatalf("seeds %d and %d have the same hash", seed, seed+1)
		}
	}
}

// What does not matter is left out; what does stays.
func TestShrinkKeepsWhatMatters(t *testing.T) {
	plan := planFor(53) // a walk of eighteen actions
	bad := action{at: 20 * time.Second, kind: "no such action"}
	plan = slices.Insert(plan, len(plan)/2, bad)
	s := shrink(53, plan)
	if s.Violation == nil || len(s.Plan) != 1 || s.Plan[0] != bad.String() || s.From != len(plan) || len(s.Outcome.Trace) == 0 {
		t.Errorf("of %d actions these stayed: %q (%v), with %d lines of trace", s.From, s.Plan, s.Violation, len(s.Outcome.Trace))
	}
	if s := Shrink(53); s.Violation != nil || s.Runs != 0 {
		t.Errorf("a seed without a violation: %v after %d runs", s.Violation, s.Runs)
	}
}

// With the registry stopped altogether a scope that needs no lease keeps its
// owner, and one with automatic fallback is refused by its owner a lease after the
// last renewal that was sent, on the owner's clock.
func TestRegistryStopped(t *testing.T) {
	for seed := range uint64(40) {
		w := newWorld(seed)
		w.found()
		w.run(4 * time.Second)
		for _, s := range w.servers {
			w.crashServer(s, time.Hour)
		}
		stopped := w.now
		lastLeased, lastFree := time.Duration(0), time.Duration(0)
		for w.now < stopped+30*time.Second {
			w.write("a:1", w.nodeNamed("n1"), func(acked bool) {
				if acked {
					lastLeased = w.now
				}
			})
			w.write("b:1", w.nodeNamed("n2"), func(acked bool) {
				if acked {
					lastFree = w.now
				}
			})
			w.run(w.now + 100*time.Millisecond)
		}
		// A renewal sent at the last moment, on a clock that is 10 % slow.
		if limit := stopped + w.times.Lease*10/9; lastLeased > limit || lastLeased < stopped+4*time.Second {
			t.Errorf("seed %d: the registry stopped at %s, and the leased scope took its last write at %s", seed, stopped, lastLeased)
		}
		if lastFree < stopped+20*time.Second {
			t.Errorf("seed %d: the registry stopped at %s, and the scope without a lease took its last write at %s", seed, stopped, lastFree)
		}
		if w.violation != nil {
			t.Errorf("seed %d: %s", seed, w.violation)
		}
	}
}

func TestQueueIsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		for _, at := range rapid.SliceOf(rapid.IntRange(0, 50)).Draw(t, "at") {
			q.push(&event{at: time.Duration(at), tie: rapid.Uint64().Draw(t, "tie")})
		}
		var last *event
		for len(q) > 0 {
			e := q.pop()
			if last != nil && e.before(last) {
				t.Fatalf("%v comes after %v", *e, *last)
			}
			last = e
		}
	})
}

// A store gives back what was synced, and of the rest the oldest part.
func TestStoreAfterACrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &store{data: records{}}
		states := []records{{}} // after each write that was not synced
		for i := range rapid.IntRange(0, 12).Draw(t, "writes") {
			s.put(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), rapid.SampledFrom([]int{0, i + 1}).Draw(t, "value"))
			if rapid.IntRange(0, 3).Draw(t, "sync") == 0 {
				s.sync()
				states = nil
			}
			states = append(states, s.data.slice(""))
		}
		s.crash(newRng(rapid.Uint64().Draw(t, "seed"), 1))
		if !slices.ContainsFunc(states, func(r records) bool { return r.manifest() == s.data.manifest() }) {
			t.Fatalf("the store has %v, which is none of %v", s.data, states)
		}
	})
}
