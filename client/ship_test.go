package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
)

// only is the one event of its type.
func only[E agent.Event](t *testing.T, all []agent.Event) (e E) {
	t.Helper()
	got := eventsOf[E](all)
	if len(got) != 1 {
		t.Fatalf("%d times %T, want once; told: %+v", len(got), e, all)
	}
	return got[0]
}

// TestShip: a closed slice goes over as it is, whatever its size, in as few batches
// as the bounds allow.
func TestShip(t *testing.T) {
	for _, c := range []struct{ records, valueLen, batches int }{
		{0, 0, 1}, {1, 10, 1}, {1000, 10, 1}, {1001, 10, 2}, {5000, 10, 5}, {20, 300 << 10, 7}, {3, 2 << 20, 3},
	} {
		t.Run(fmt.Sprintf("%d of %d bytes", c.records, c.valueLen), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, to := newMemStore(manyRecords(c.records, c.valueLen)...), newMemStore(Record{Key: []byte("app:old")})
				target := newSliceTarget(t, to)
				defer target.stop()
				target.sees("quiescing")
				wire := &badWire{target: target}
				source := newSliceSource(from, wire.send)
				source.shipSlice(t.Context())
				synctest.Wait()
				shipped := only[agent.Shipped](t, source.events())
				received := only[agent.Received](t, target.events())
				if shipped.Manifest != received.Manifest || Manifest(shipped.Manifest) != from.manifest("app:", "") || int(shipped.Manifest.Keys) != c.records {
					t.Errorf("shipped %+v, received %+v", shipped.Manifest, received.Manifest)
				}
				if !sameRecords(to.stagedOf("m1"), from.slice()) {
					t.Error("other records are staged than the source has")
				}
				if wire.now != c.batches {
					t.Errorf("%d batches, want %d", wire.now, c.batches)
				}
				if got, _ := to.get("app:old"); got.Key == nil || len(to.under("")) != 1 {
					t.Error("what is staged is in the store already")
				}
				if mark, sealed := target.mark("m1"); !sealed || mark.Manifest != shipped.Manifest {
					t.Errorf("sealed: %v %+v", sealed, mark)
				}
			})
		})
	}
}

// faultRuns is as many as take some seconds.
const faultRuns = 80

// TestShipUnderFaults: with lost answers, batches that come twice, spoiled or late,
// restarts of the target, a view that lags, and a scope that is written while it is
// copied: whenever source and target agree on a manifest, what is staged is what
// the source has; and when no process died they do agree.
func TestShipUnderFaults(t *testing.T) {
	agreed, copied, restarts, anew := 0, 0, 0, 0
	for seed := range uint64(faultRuns) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			run := faultRun{rng: rng, from: newMemStore(manyRecords(rng.IntN(2500), 1+rng.IntN(50))...), to: newMemStore()}
			run.target = newSliceTarget(t, run.to)
			run.wire = &badWire{target: run.target, rng: rand.New(rand.NewPCG(seed, 2)), bad: rng.IntN(4) * 15}
			run.do(t, seed)
			if run.agreed {
				agreed++
			}
			if run.precopy {
				copied++
			}
			restarts += run.restarts
			anew += len(run.wire.streams) - 1
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("of %d moves %d agreed, %d were copied before, the target was restarted %d times, %d streams were begun anew", faultRuns, agreed, copied, restarts, anew)
	if agreed < faultRuns/2 || copied < faultRuns/4 || restarts < faultRuns/10 || anew < faultRuns/10 {
		t.Error("that tests little")
	}
}

type faultRun struct {
	rng      *rand.Rand
	from, to *memStore
	target   *sliceTarget
	wire     *badWire
	precopy  bool
	restarts int
	agreed   bool
}

func (f *faultRun) ms(most int) time.Duration {
	return time.Duration(f.rng.IntN(most)) * time.Millisecond
}

func (f *faultRun) do(t *testing.T, seed uint64) {
	ctx := t.Context()
	source := newSliceSource(f.from, f.wire.send)
	var work sync.WaitGroup
	if lag := f.ms(40); f.rng.IntN(3) > 0 {
		work.Go(func() { sleep(ctx, lag); f.target.sees("quiescing") })
	} else {
		f.target.sees("quiescing")
	}
	var crashes []time.Duration
	for range f.rng.IntN(3) * f.rng.IntN(2) {
		crashes = append(crashes, f.ms(4+56*f.rng.IntN(2)))
	}
	f.restarts = len(crashes)
	work.Go(func() {
		for _, after := range crashes {
			sleep(ctx, after)
			f.target.restart()
		}
	})
	if f.precopy = f.rng.IntN(2) == 0; f.precopy {
		work.Go(func() { source.copySlice(ctx) })
		f.write(ctx)
	}
	closed := f.from.slice()
	source.shipSlice(ctx)
	work.Wait()
	f.wire.late.Wait()
	synctest.Wait()
	f.target.stop()
	shipped, received := eventsOf[agent.Shipped](source.events()), eventsOf[agent.Received](f.target.events())
	if len(shipped)+len(eventsOf[agent.ShipFailed](source.events())) != 1 {
		t.Fatalf("seed %d: the source told %+v", seed, source.events())
	}
	if len(shipped) == 0 || len(received) == 0 {
		if len(shipped) == 1 && f.restarts == 0 {
			t.Errorf("seed %d: the slice was shipped, and not received", seed)
		}
		return
	}
	last := received[len(received)-1]
	if last.Manifest != shipped[0].Manifest {
		t.Errorf("seed %d: shipped %+v, received %+v", seed, shipped[0].Manifest, last.Manifest)
		return
	}
	mark, sealed := f.target.mark("m1")
	if sealed && mark.Manifest == shipped[0].Manifest {
		f.agreed = true
		if !sameRecords(f.to.stagedOf("m1"), closed) {
			t.Errorf("seed %d: both say %+v, and other records are staged than the source has", seed, mark.Manifest)
		}
	}
}

// write writes the scope for some time.
func (f *faultRun) write(ctx context.Context) {
	for range f.rng.IntN(60) {
		sleep(ctx, f.ms(30))
		for range f.rng.IntN(4) {
			key := fmt.Sprintf("app:%06d", f.rng.IntN(3000))
			if f.rng.IntN(3) == 0 {
				f.from.del(key)
			} else {
				f.from.put(key, fmt.Sprint(f.rng.Uint64()))
			}
		}
	}
}

// TestCopyLeavesLittle: after a copy only what has changed is sent while the scope
// is closed, in the same stream, and the last report before has said how little.
func TestCopyLeavesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newMemStore(manyRecords(3000, 10)...), newMemStore()
		target := newSliceTarget(t, to)
		defer target.stop()
		target.sees("copying")
		wire := &badWire{target: target}
		var batches []*Batch
		source := newSliceSource(from, func(ctx context.Context, p Peer, b *Batch) error {
			batches = append(batches, b)
			sleep(ctx, time.Millisecond)
			return wire.send(ctx, p, b)
		})
		var copying sync.WaitGroup
		copying.Go(func() { source.copySlice(t.Context()) })
		sleep(t.Context(), 2*minRest)
		reports := eventsOf[agent.Progressed](source.events())
		if last := reports[len(reports)-1]; len(reports) > 6 || last.Keys != 3000 || last.KeysLeft != 0 || last.BytesLeft != 0 {
			t.Errorf("after the copy: %d reports, the last %+v", len(reports), last)
		}
		from.put("app:000007", "changed")
		from.put("app:new", "new")
		from.del("app:000009")
		before := len(batches)
		source.shipSlice(t.Context())
		copying.Wait()
		synctest.Wait()
		if got := batches[before:]; len(got) != 1 || len(got[0].Records) != 3 || !got[0].Last || got[0].Stream != batches[0].Stream {
			t.Errorf("%d batches were sent while the scope was closed, the first %+v", len(got), got[0])
		}
		if only[agent.Shipped](t, source.events()).Manifest != only[agent.Received](t, target.events()).Manifest || !sameRecords(to.stagedOf("m1"), from.slice()) {
			t.Error("other records are staged than the source has")
		}
		if source.memory.Load() != 0 {
			t.Errorf("%d bytes of memory are still counted", source.memory.Load())
		}
	})
}

// TestCopyStopsWhileKeysGo: the ship is asked for while the copy tells the target of
// very many keys that are gone.
func TestCopyStopsWhileKeysGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newMemStore(manyRecords(6000, 10)...), newMemStore()
		target := newSliceTarget(t, to)
		defer target.stop()
		target.sees("copying")
		wire := &badWire{target: target}
		goes := make(chan struct{})
		var once sync.Once
		source := newSliceSource(from, func(ctx context.Context, p Peer, b *Batch) error {
			stands := false
			if len(b.Records) > 0 && b.Records[0].Deleted {
				once.Do(func() { stands = true })
			}
			if stands {
				close(goes)
				<-ctx.Done()
				return ctx.Err()
			}
			return wire.send(ctx, p, b)
		})
		var copying sync.WaitGroup
		copying.Go(func() { source.copySlice(t.Context()) })
		sleep(t.Context(), minRest/2)
		for _, r := range manyRecords(6000, 10)[:5000] {
			from.del(string(r.Key))
		}
		<-goes
		source.shipSlice(t.Context())
		copying.Wait()
		synctest.Wait()
		if only[agent.Shipped](t, source.events()).Manifest != only[agent.Received](t, target.events()).Manifest || !sameRecords(to.stagedOf("m1"), from.slice()) {
			t.Errorf("%d records are staged, and the source has %d", len(to.stagedOf("m1")), len(from.slice()))
		}
	})
}

// TestCopyReports: while the first pass runs, what is left includes another one, so
// that a leader does not close the scope in the middle; a scope that is written
// all the time leaves what changes in a pass, at the rate of a pass.
func TestCopyReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newMemStore(manyRecords(10_000, 10)...), newMemStore()
		target := newSliceTarget(t, to)
		defer target.stop()
		target.sees("copying")
		wire := &badWire{target: target}
		source := newSliceSource(from, func(ctx context.Context, p Peer, b *Batch) error {
			if b.Number < 10 {
				sleep(ctx, 400*time.Millisecond)
			} else { // the pass that follows takes 0.9 s for 20 changes
				sleep(ctx, 898*time.Millisecond)
			}
			return wire.send(ctx, p, b)
		})
		ctx, cancel := context.WithCancel(t.Context())
		var copying sync.WaitGroup
		copying.Go(func() { source.copySlice(ctx) })
		sleep(ctx, 3900*time.Millisecond)
		for i := range 20 {
			from.put(fmt.Sprintf("app:%06d", i), "changed")
		}
		sleep(ctx, 1200*time.Millisecond)
		cancel()
		copying.Wait()
		reports := eventsOf[agent.Progressed](source.events())
		for i, r := range reports[:len(reports)-2] {
			if r.Keys+r.KeysLeft < 20_000-1000 || i > 0 && r.Keys <= reports[i-1].Keys {
				t.Errorf("report %d while the first pass runs: %+v", i, r)
			}
		}
		first, second := reports[len(reports)-2], reports[len(reports)-1]
		at := source.when[len(source.when)-1].Sub(source.when[len(source.when)-2])
		if first.Keys != 10_000 || first.KeysLeft != 10_000 || second.Keys != 10_020 || second.KeysLeft != 20 || at.Round(time.Millisecond) != 900*time.Millisecond {
			t.Errorf("after the first pass %+v, %v later, after the second, %+v", first, at, second)
		}
		if len(reports) < 5 {
			t.Errorf("%d reports in 4 s", len(reports))
		}
	})
}

// TestCopyMemory: what finds no room is not copied, and comes with the ship.
func TestCopyMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newMemStore(manyRecords(3000, 10)...), newMemStore()
		target := newSliceTarget(t, to)
		defer target.stop()
		target.sees("copying")
		wire := &badWire{target: target}
		source := newSliceSource(from, wire.send)
		source.memory.Store(copiedMemory - 1000*(copiedCost+10)) // others have the rest
		var copying sync.WaitGroup
		copying.Go(func() { source.copySlice(t.Context()) })
		sleep(t.Context(), minRest/2)
		reports := eventsOf[agent.Progressed](source.events())
		if last := reports[len(reports)-1]; last.Keys != 1000 || last.KeysLeft != 2000 {
			t.Errorf("with room for 1,000 records: %+v", last)
		}
		from.del("app:000001")
		from.del("app:002999")
		source.shipSlice(t.Context())
		copying.Wait()
		synctest.Wait()
		if only[agent.Shipped](t, source.events()).Manifest != only[agent.Received](t, target.events()).Manifest || !sameRecords(to.stagedOf("m1"), from.slice()) {
			t.Error("other records are staged than the source has")
		}
		if got := copiedMemory - source.memory.Load(); got != 1000*(copiedCost+10) {
			t.Errorf("the memory of %d bytes was not given back", got)
		}
	})
}

// TestShipEndsWithItsContext: whenever the move ends, copy and ship do, at once,
// and tell nothing more; and nothing of the move is kept once it is forgotten.
func TestShipEndsWithItsContext(t *testing.T) {
	for at := 1; at <= 6; at++ {
		for _, before := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				from, to := newMemStore(manyRecords(2200, 10)...), newMemStore()
				target := newSliceTarget(t, to)
				defer target.stop()
				target.sees("copying")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				wire, n, told := &badWire{target: target}, 0, 0
				var source *sliceSource
				source = newSliceSource(from, func(ctx context.Context, p Peer, b *Batch) error {
					if n++; n == at && before {
						cancel()
						told = len(source.events())
					}
					err := wire.send(ctx, p, b)
					if n == at && !before {
						cancel()
						told = len(source.events())
					}
					return err
				})
				var work sync.WaitGroup
				work.Go(func() { source.copySlice(ctx) })
				sleep(ctx, minRest/2)
				for i := range 2200 {
					from.put(fmt.Sprintf("app:%06d", i), "changed")
				}
				began := time.Now()
				source.shipSlice(ctx)
				work.Wait()
				source.forget("m1")
				source.copySlice(ctx) // that the session began late
				source.shipSlice(ctx)
				if ctx.Err() == nil {
					if n >= at {
						t.Errorf("%d batches, and the move was not ended at %d", n, at)
					}
					return
				}
				if took := time.Since(began); took > 10*time.Millisecond {
					t.Errorf("ended at batch %d: that took %v", at, took)
				}
				if got := source.events(); len(got) > told+1 || len(eventsOf[agent.ShipFailed](got)) > 0 {
					t.Errorf("ended at batch %d, and it told %+v", at, got[told:])
				}
				if source.memory.Load() != 0 || len(source.moves) != 0 {
					t.Errorf("%d bytes and %d moves are kept", source.memory.Load(), len(source.moves))
				}
			})
		}
	}
}

// TestShipGivesUp says what a source does about each answer, and in what time.
func TestShipGivesUp(t *testing.T) {
	for _, c := range []struct {
		answer  error
		least   time.Duration
		most    time.Duration
		says    string
		streams int
		batches int // at least
		precopy bool
	}{
		{answer: &api.Error{Code: api.NotFound, Detail: "no such move"}, least: giveUp, most: giveUp + maxRetry, says: "no such move", streams: 1, batches: 20},
		{answer: &api.Error{Code: api.Unavailable, Detail: "refused"}, least: giveUp, most: giveUp + maxRetry, says: "refused", streams: 1, batches: 20},
		{answer: errors.New("broken pipe"), least: giveUp, most: giveUp + maxRetry, says: "broken pipe", streams: 1, batches: 20},
		{answer: context.DeadlineExceeded, least: giveUp, most: giveUp + maxRetry, says: "n2:1", streams: 1, batches: 2},
		{answer: &api.Error{Code: api.Corrupt, Detail: "checksum"}, least: giveUp, most: giveUp + maxRetry, says: "checksum", streams: 1, batches: 20},
		{answer: &api.Error{Code: api.Stale, Detail: "begin anew"}, says: "5 times", streams: maxStreams, batches: maxStreams},
		{answer: &api.Error{Code: api.WrongPhase, Detail: "sealed"}, says: "sealed", streams: 1, batches: 1},
		{answer: &api.Error{Code: api.ManifestMismatch, Detail: "others"}, says: "others", streams: 1, batches: 1},
		{answer: &api.Error{Code: api.Internal, Detail: "disk full"}, says: "disk full", streams: 1, batches: 1},
		{answer: &api.Error{Code: api.Internal, Detail: strings.Repeat("x", 5000)}, says: "n2:1", streams: 1, batches: 1},
		{answer: &api.Error{Code: api.NotFound, Detail: "no such move"}, least: copyPatience, most: copyPatience + maxRetry, says: "no such move", streams: 1, batches: 90, precopy: true},
		{answer: &api.Error{Code: api.Stale, Detail: "begin anew"}, says: "begin anew", streams: maxStreams, batches: maxStreams, precopy: true},
		{answer: &api.Error{Code: api.Internal, Detail: "disk full"}, says: "disk full", streams: 1, batches: 1, precopy: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			streams, batches := map[string]bool{}, 0
			source := newSliceSource(newMemStore(manyRecords(10, 10)...), func(ctx context.Context, _ Peer, b *Batch) error {
				streams[b.Stream] = true
				batches++
				if errors.Is(c.answer, context.DeadlineExceeded) {
					<-ctx.Done()
					return ctx.Err()
				}
				return c.answer
			})
			began := time.Now()
			if c.precopy {
				source.copySlice(t.Context())
			} else {
				source.shipSlice(t.Context())
			}
			took := time.Since(began)
			failed := only[agent.ShipFailed](t, source.events())
			if !strings.Contains(failed.Reason, c.says) || !strings.Contains(failed.Reason, `"n2"`) || len(failed.Reason) > 1024 {
				t.Errorf("%v: the reason is %q", c.answer, failed.Reason)
			}
			if took < c.least || took > c.most {
				t.Errorf("%v: it took %v, want %v to %v", c.answer, took, c.least, c.most)
			}
			if len(streams) != c.streams || batches < c.batches {
				t.Errorf("%v: %d streams with %d batches, want %d and at least %d", c.answer, len(streams), batches, c.streams, c.batches)
			}
		})
	}
}

// TestShipFindsTheMoveSoon: a target whose view lags by 3 ms costs hardly more.
func TestShipFindsTheMoveSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newSliceTarget(t, newMemStore())
		defer target.stop()
		source := newSliceSource(newMemStore(manyRecords(5, 5)...), (&badWire{target: target}).send)
		began := time.Now()
		var lag sync.WaitGroup
		lag.Go(func() { sleep(t.Context(), 3*time.Millisecond); target.sees("quiescing") })
		source.shipSlice(t.Context())
		lag.Wait()
		only[agent.Shipped](t, source.events())
		if took := time.Since(began); took > 15*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}
