package fsm

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/api"
)

func watch(t testing.TB, f *FSM, from uint64) *Watcher {
	t.Helper()
	w, err := f.Watch(from)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustEnd(t testing.TB, err error, code api.Code, floor uint64) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || e.Floor != floor {
		t.Fatalf("got %v (%+v), want %s with floor %d", err, e, code, floor)
	}
}

// follow reads every index up to last once, in order, and comes back with a new
// watcher at random points.
func follow(t *testing.T, f *FSM, seed, last uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	w, err := f.Watch(0)
	if err != nil {
		t.Error(err)
		return
	}
	state, ok := w.Snapshot()
	if !ok || state.Index() != w.Index() {
		t.Errorf("watcher %d: snapshot %v at %d, watcher at %d", seed, ok, state.Index(), w.Index())
		return
	}
	for at := state.Index(); at < last; {
		item, err := w.Next(t.Context())
		if err != nil || item.Index != at+1 || w.Index() != item.Index || len(item.Events) != 1 {
			t.Errorf("watcher %d after %d: item %d, %d events, %v", seed, at, item.Index, len(item.Events), err)
			return
		}
		if f.State().Index() < item.Index {
			t.Errorf("watcher %d saw %d before the state did", seed, item.Index)
			return
		}
		at = item.Index
		if random.IntN(20) != 0 {
			continue
		}
		if w, err = f.Watch(at); err != nil {
			t.Error(err)
			return
		}
	}
}

func TestManyWatchersSeeEveryIndexOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	const watchers, last = 100, 1000
	f := newFSM(t)
	var group sync.WaitGroup
	started := make(chan struct{}, watchers)
	for i := range uint64(watchers) {
		group.Go(func() {
			started <- struct{}{}
			follow(t, f, i, last)
		})
	}
	for i := uint64(1); i <= last; i++ {
		if i <= watchers {
			<-started // watchers begin at different states
		}
		applyAll(t, f, i, i)
	}
	group.Wait()
}

func TestSlowWatcherEnds(t *testing.T) {
	f := newFSM(t)
	slow := watch(t, f, 0)
	applyAll(t, f, 1, 1)
	edge := watch(t, f, 1)
	applyAll(t, f, 2, MaxHistory+1)
	_, err := slow.Next(t.Context())
	mustEnd(t, err, api.Slow, 1)
	_, err = slow.Next(t.Context())
	mustEnd(t, err, api.Slow, 1)
	// One that is exactly MaxHistory behind is not.
	if item, err := edge.Next(t.Context()); err != nil || item.Index != 2 {
		t.Fatalf("at the floor: item %d, %v", item.Index, err)
	}
	again := watch(t, f, 1)
	if item, err := again.Next(t.Context()); err != nil || item.Index != 2 {
		t.Fatalf("resumed at the floor: item %d, %v", item.Index, err)
	}
	applyAll(t, f, MaxHistory+2, MaxHistory+2)
	_, err = f.Watch(1)
	mustEnd(t, err, api.Compacted, 2)
	for i := uint64(3); i <= MaxHistory+2; i++ {
		if item, err := edge.Next(t.Context()); err != nil || item.Index != i {
			t.Fatalf("item %d, %v; want %d", item.Index, err, i)
		}
	}
}

// A watcher that nobody reads must not keep alive what came after it.
func TestStuckWatcherHoldsOneNode(t *testing.T) {
	f := newFSM(t)
	stuck := watch(t, f, 0)
	applyAll(t, f, 1, 1)
	freed := make(chan struct{})
	runtime.AddCleanup(f.now.Load().tail, func(c chan struct{}) { close(c) }, freed)
	applyAll(t, f, 2, MaxHistory+3)
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		runtime.GC()
		select {
		case <-freed:
			runtime.KeepAlive(stuck)
			return
		case <-timeout.C:
			t.Fatal("a node outside the history is still held")
		case <-tick.C:
		}
	}
}

func TestRestoreEndsWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other, f := newFSM(t), newFSM(t)
		applyAll(t, other, 1, 30)
		applyAll(t, f, 1, 10)
		behind, waiting, future := watch(t, f, 5), watch(t, f, 10), watch(t, f, 99)
		ends := make(chan error, 2)
		for _, w := range []*Watcher{waiting, future} {
			go func() {
				_, err := w.Next(t.Context())
				ends <- err
			}()
		}
		synctest.Wait()
		if err := restore(f, persist(t, other)); err != nil {
			t.Fatal(err)
		}
		_, err := behind.Next(t.Context())
		for _, err := range []error{err, <-ends, <-ends} {
			mustEnd(t, err, api.Compacted, 30)
		}
		_, err = f.Watch(29)
		mustEnd(t, err, api.Compacted, 30)
		w := watch(t, f, 30)
		fresh := watch(t, f, 0)
		if s, ok := fresh.Snapshot(); !ok || s.Index() != 30 {
			t.Fatalf("snapshot after the restore: %v at %d", ok, s.Index())
		}
		applyAll(t, f, 31, 31)
		for _, w := range []*Watcher{w, fresh} {
			if item, err := w.Next(t.Context()); err != nil || item.Index != 31 {
				t.Fatalf("after the restore: item %d, %v", item.Index, err)
			}
		}
	})
}

func TestFutureIndexWaits(t *testing.T) {
	f := newFSM(t)
	applyAll(t, f, 1, 3)
	w := watch(t, f, 6)
	if _, ok := w.Snapshot(); ok || w.Index() != 6 {
		t.Fatalf("snapshot %v, index %d", ok, w.Index())
	}
	applyAll(t, f, 4, 8)
	for _, want := range []uint64{7, 8} {
		if item, err := w.Next(t.Context()); err != nil || item.Index != want {
			t.Fatalf("item %d, %v; want %d", item.Index, err, want)
		}
	}
}

// Raft takes indexes for itself: an index between two entries is a place too.
func TestResumeInAGap(t *testing.T) {
	f := newFSM(t)
	for _, i := range []uint64{2, 5, 9} {
		f.Apply(entryAt(t, i))
	}
	for from, want := range map[uint64]uint64{1: 2, 2: 5, 3: 5, 4: 5, 5: 9, 8: 9} {
		if item, err := watch(t, f, from).Next(t.Context()); err != nil || item.Index != want {
			t.Fatalf("after %d: item %d, %v; want %d", from, item.Index, err, want)
		}
	}
}

func TestItemsWithoutEventsMoveTheIndexOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFSM(t)
		w := watch(t, f, 0)
		f.Apply(refusedAt(t, 1))
		f.Apply(refusedAt(t, 2))
		heartbeat, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := w.Next(heartbeat); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		if w.Index() != 2 {
			t.Fatalf("index %d after two refused commands", w.Index())
		}
		if _, ok := w.Snapshot(); ok {
			t.Fatal("the state is still held after Next")
		}
		applyAll(t, f, 3, 3)
		// What is there is delivered, the context notwithstanding.
		if item, err := w.Next(heartbeat); err != nil || item.Index != 3 {
			t.Fatalf("item %d, %v", item.Index, err)
		}
	})
}

// A watcher that stands still costs no more than the bound, however large the
// entries are; the newest item can still be resumed to.
func TestHistoryIsBoundedByEvents(t *testing.T) {
	f := New(func(err error) { t.Error(err) })
	const each = MaxHistoryEvents / 4
	for i := range uint64(8) {
		s := f.State()
		s.index = i + 1
		f.publish(s, Item{Index: i + 1, Events: make([]Event, each)})
	}
	if held, events := f.history.held(), f.history.events; held > 5 || events > MaxHistoryEvents {
		t.Errorf("%d items with %d events are held, the bound is %d", held, events, MaxHistoryEvents)
	}
	if _, err := f.Watch(1); !errors.Is(err, &api.Error{Code: api.Compacted}) {
		t.Errorf("resuming after 1: %v", err)
	}
	w, err := f.Watch(f.history.floor())
	if err != nil {
		t.Fatal(err)
	}
	for w.Index() < 8 {
		if _, err := w.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// An item of before a restore that is read after it is told as what it is: the
// same index is another state now.
func TestItemsKeepTheirHistory(t *testing.T) {
	old := founded(t)
	f := newFSM(t)
	f.publish(old, Item{Index: old.Index()})
	w, err := f.Watch(old.Index())
	if err != nil {
		t.Fatal(err)
	}
	next := applied(t, old, &SetNode{Id: "n9", Addr: "h9:1"})
	f.publish(next, Item{Index: next.Index(), Events: []Event{{Cause: "set", Node: &Node{ID: "n9"}}}})
	item, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := newFSM(t)
	restored := heldSince(t, next, true)
	g.publish(restored, Item{Index: restored.Index()})
	if err := restore(f, persist(t, g)); err != nil {
		t.Fatal(err)
	}
	if item.Cluster != old.Cluster() || w.Cluster() != old.Cluster() {
		t.Errorf("the item is said to be of %+v and the watcher of %+v, they are of %+v", item.Cluster, w.Cluster(), old.Cluster())
	}
	w2, err := f.Watch(f.State().Index())
	if err != nil || w2.Cluster() != restored.Cluster() {
		t.Errorf("%v; a watcher of the restored list is said to be in %+v, it is in %+v", err, w2.Cluster(), restored.Cluster())
	}
}
