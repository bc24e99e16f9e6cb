package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
)

// fedStore is a memStore that tells what changes, and that is believed what it has staged.
type fedStore struct {
	*memStore
	rng     *rand.Rand
	mu2     sync.Mutex // guards what follows
	feed    *memFeed   // nil is none
	full    int        // how often everything was read by a feed
	lost    int
	settled []Manifest
	steady  bool // nothing is lost
	looks   int  // how often all keys were looked at
	look    time.Duration
	read    func(times int) // is called when everything was read by a feed
}

type memFeed struct {
	s       *fedStore
	changed map[string]bool
	lost    bool
}

func newFedStore(seed uint64, records ...Record) *fedStore {
	return &fedStore{memStore: newMemStore(records...), rng: rand.New(rand.NewPCG(seed, 3))}
}

func (s *fedStore) Track(context.Context, Slice) (Tracking, error) {
	s.mu2.Lock()
	defer s.mu2.Unlock()
	if !s.steady && s.rng.IntN(10) == 0 {
		return nil, errors.New("not now")
	}
	s.feed = &memFeed{s: s, changed: map[string]bool{}}
	return s.feed, nil
}

func (s *fedStore) Settle(_ context.Context, _ Slice, taken Manifest) error {
	s.mu2.Lock()
	defer s.mu2.Unlock()
	s.settled = append(s.settled, taken)
	return nil
}

func (s *fedStore) Verify(context.Context, Slice, func(Record) error) error {
	panic("a store that settles is asked to verify")
}

// note tells of a change.
func (s *fedStore) note(key string) {
	s.mu2.Lock()
	defer s.mu2.Unlock()
	if s.feed != nil {
		s.feed.changed[key] = true
	}
}

func (f *memFeed) Ship(ctx context.Context, send func(Record) error) error {
	f.s.mu2.Lock()
	f.s.full++
	times := f.s.full
	f.s.mu2.Unlock()
	err := f.s.Ship(ctx, Slice{aMove.Move, aMove.Prefix}, send)
	if f.s.read != nil {
		f.s.read(times)
	}
	return err
}

func (f *memFeed) Changed(_ context.Context, send func(Record) error) error {
	f.s.mu2.Lock()
	if !f.s.steady && f.s.rng.IntN(8) == 0 {
		f.lost = true
	}
	if f.lost {
		f.s.lost++
		f.s.mu2.Unlock()
		return fmt.Errorf("%w: by chance", ErrTrackingLost)
	}
	keys := f.changed
	f.changed = map[string]bool{}
	f.s.mu2.Unlock()
	for k := range keys {
		r, ok := f.s.get(k)
		if !ok {
			r = Record{Key: []byte(k), Deleted: true}
		}
		if err := send(r); err != nil {
			f.Look([]string{k})
			for k := range keys {
				f.Look([]string{k})
			}
			return err
		}
	}
	return nil
}

func (f *memFeed) Keys(ctx context.Context, each func([]byte) error) error {
	f.s.mu2.Lock()
	f.s.looks++
	f.s.mu2.Unlock()
	sleep(ctx, f.s.look)
	for _, k := range f.s.under(aMove.Prefix) {
		if err := each([]byte(k)); err != nil {
			return err
		}
	}
	return nil
}

func (f *memFeed) Look(keys []string) {
	f.s.mu2.Lock()
	defer f.s.mu2.Unlock()
	for _, k := range keys {
		f.changed[k] = true
	}
}

func (f *memFeed) Close() {}

// write changes keys for a while.
func (s *fedStore) write(ctx context.Context, rng *rand.Rand) {
	for range 150 {
		if !sleep(ctx, time.Duration(rng.IntN(20))*time.Millisecond) {
			return
		}
		k := fmt.Sprintf("app:%d", rng.IntN(40))
		deleted := rng.IntN(4) == 0
		if deleted {
			s.del(k)
		} else {
			s.put(k, fmt.Sprint(rng.Uint64()))
		}
		if !deleted || rng.IntN(5) > 0 { // else the feed misses it, and the comparison of keys finds it
			s.note(k)
		}
	}
}

// TestShipTracked: with a store that tells what changes, under faults of the network and of the telling, source and target
// agree only on what the source has; they do agree, and mostly nothing but the first pass reads everything.
func TestShipTracked(t *testing.T) {
	lost, full, agreed := 0, 0, 0
	for seed := range uint64(faultRuns) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			from, to := newFedStore(seed, manyRecords(rng.IntN(2500), 1+rng.IntN(50))...), newFedStore(seed)
			target := newSliceTarget(t, to.memStore)
			target.recv.store = to
			defer target.stop()
			target.sees("quiescing")
			wire := &badWire{target: target, rng: rand.New(rand.NewPCG(seed, 2)), bad: rng.IntN(3) * 10}
			source := newSliceSource(from, wire.send)
			var work sync.WaitGroup
			work.Go(func() { source.copySlice(t.Context()) })
			from.write(t.Context(), rng)
			source.shipSlice(t.Context())
			work.Wait()
			wire.late.Wait()
			synctest.Wait()
			shipped, received := eventsOf[agent.Shipped](source.events()), eventsOf[agent.Received](target.events())
			if len(shipped) == 1 && len(received) == 1 && shipped[0].Manifest == received[0].Manifest {
				agreed++
				if !sameRecords(to.stagedOf("m1"), from.slice()) || Manifest(shipped[0].Manifest) != from.manifest("app:", "") {
					t.Errorf("seed %d: they agree on other records than the source has", seed)
				}
				if len(to.settled) == 0 || to.settled[len(to.settled)-1] != Manifest(received[0].Manifest) {
					t.Errorf("seed %d: settled %v", seed, to.settled)
				}
			} else {
				t.Errorf("seed %d: shipped %+v, received %+v, %+v", seed, shipped, received, eventsOf[agent.ShipFailed](source.events()))
			}
			lost, full = lost+from.lost, full+from.full
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("of %d moves %d agreed, tracking was lost %d times, everything was read %d times", faultRuns, agreed, lost, full)
	if lost < faultRuns/4 || full > 4*faultRuns {
		t.Error("that tests little")
	}
}

// TestCopyIsEarly: a scope is not to be closed before its keys were compared, so that what is left is what has changed; unless
// the telling breaks off, as it may do so again and again.
func TestCopyIsEarly(t *testing.T) {
	for _, loses := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			from, to := newFedStore(1, manyRecords(3000, 10)...), newFedStore(1)
			from.steady = true
			target := newSliceTarget(t, to.memStore)
			target.recv.store = to
			defer target.stop()
			target.sees("copying")
			wire := &badWire{target: target}
			source := newSliceSource(from, func(ctx context.Context, p Peer, b *Batch) error {
				if b.Number == 1 {
					from.mu2.Lock()
					from.feed.lost = loses
					from.mu2.Unlock()
				}
				from.put("app:000007", fmt.Sprint(b.Number))
				from.note("app:000007")
				return wire.send(ctx, p, b)
			})
			ctx, cancel := context.WithCancel(t.Context())
			var copying sync.WaitGroup
			copying.Go(func() { source.copySlice(ctx) })
			sleep(ctx, 2*minRest)
			cancel()
			copying.Wait()
			said := eventsOf[agent.Progressed](source.events())
			at := slices.IndexFunc(said, func(r agent.Progressed) bool { return !r.Early })
			left := map[bool]uint64{false: 1, true: 3000}[loses]
			if at < 1 || said[at].KeysLeft > left || said[at-1].KeysLeft < 3000 || loses && from.full < 2 {
				t.Errorf("lost %t: it was read %d times, and told %+v", loses, from.full, said)
			}
		})
	}
}

// TestNewFeedIsCompared: what is told after a loss is compared with all keys once, as what was told before, also if that takes
// too long to be done while the scope is closed.
func TestNewFeedIsCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newFedStore(1, manyRecords(100, 10)...), newFedStore(1)
		from.steady, from.look = true, 2*cheapCompare
		from.read = func(times int) {
			if times == 2 {
				from.put("app:untold", "x")
			}
		}
		target := newSliceTarget(t, to.memStore)
		target.recv.store = to
		defer target.stop()
		target.sees("quiescing")
		wire := &badWire{target: target}
		source := newSliceSource(from, wire.send)
		var copying sync.WaitGroup
		copying.Go(func() { source.copySlice(t.Context()) })
		for n := range 2 {
			sleep(t.Context(), 3*maxRest)
			from.mu2.Lock()
			if from.looks != n+1 || from.full != n+1 {
				t.Errorf("%d feeds: all was read %d times, and compared %d times", n+1, from.full, from.looks)
			}
			from.feed.lost = n == 0
			from.mu2.Unlock()
		}
		source.shipSlice(t.Context())
		copying.Wait()
		synctest.Wait()
		shipped := only[agent.Shipped](t, source.events())
		if Manifest(shipped.Manifest) != from.manifest("app:", "") || !sameRecords(to.stagedOf("m1"), from.slice()) {
			t.Errorf("shipped %+v, without what was not told", shipped.Manifest)
		}
		if from.looks != 2 {
			t.Errorf("compared %d times", from.looks)
		}
	})
}

// TestDeletedNeedsFormer: a target that is believed what it took must know what a deletion takes away.
func TestDeletedNeedsFormer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := newFedStore(1)
		target := newSliceTarget(t, to.memStore)
		target.recv.store = to
		defer target.stop()
		target.sees("quiescing")
		b := batchOf("s1", 0, "app:a")
		b.Records = append(b.Records, Record{Key: []byte("app:b"), Deleted: true})
		wants(t, target.take(t.Context(), b), &Error{Code: "INVALID"})
	})
}
