package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/snapshot"
)

// entryAt is a log entry that sets the address of a node to its own index.
func entryAt(t testing.TB, index uint64) *raft.Log {
	t.Helper()
	return commandAt(t, index, &SetNode{Id: fmt.Sprintf("n%d", index%7), Addr: fmt.Sprintf("h:%d", 1+index%60_000)})
}

// refusedAt is a log entry whose command is refused.
func refusedAt(t testing.TB, index uint64) *raft.Log {
	t.Helper()
	return commandAt(t, index, &RemoveNode{Id: "nobody"})
}

func commandAt(t testing.TB, index uint64, c Command) *raft.Log {
	t.Helper()
	e, err := Envelope{RequestID: fmt.Sprintf("%d-%032x", index, index), Actor: "test", Command: c}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	data, err := EncodeEntry(int64(index), [][]byte{e})
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data}
}

func newFSM(t testing.TB) *FSM {
	t.Helper()
	return New(func(err error) { t.Errorf("stopped: %v", err) })
}

func applyAll(t testing.TB, f *FSM, from, to uint64) {
	t.Helper()
	for i := from; i <= to; i++ {
		results, ok := f.Apply(entryAt(t, i)).([]*Result)
		if !ok || len(results) != 1 || ResultError(results[0]) != nil || f.State().Index() != i {
			t.Fatalf("entry %d: %v, state at %d", i, results, f.State().Index())
		}
	}
}

// sink is a snapshot in memory.
type sink struct {
	bytes.Buffer
	room             int // bytes until the disk is full; 0: no limit
	closed, canceled int
	closeErr         error
}

var errFull = errors.New("disk full")

func (s *sink) Write(b []byte) (int, error) {
	if s.room > 0 && s.Len()+len(b) > s.room {
		return 0, errFull
	}
	return s.Buffer.Write(b)
}
func (s *sink) Close() error  { s.closed++; return s.closeErr }
func (s *sink) Cancel() error { s.canceled++; return nil }
func (s *sink) ID() string    { return "test" }

func persist(t testing.TB, f *FSM) []byte {
	t.Helper()
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	var s sink
	if err := snap.Persist(&s); err != nil || s.closed != 1 || s.canceled != 0 {
		t.Fatalf("Persist: %v, closed %d, canceled %d", err, s.closed, s.canceled)
	}
	return s.Bytes()
}

func restore(f *FSM, data []byte) error { return f.Restore(io.NopCloser(bytes.NewReader(data))) }

func TestBatchEqualsSingleEntries(t *testing.T) {
	one, many := newFSM(t), newFSM(t)
	w, err := many.Watch(0)
	if err != nil {
		t.Fatal(err)
	}
	logs := []*raft.Log{entryAt(t, 1), {Index: 2, Type: raft.LogConfiguration, Data: []byte("not ours")}, refusedAt(t, 3), entryAt(t, 4)}
	for _, log := range logs {
		one.Apply(log)
	}
	answers := many.ApplyBatch(logs)
	if len(answers) != len(logs) || answers[1] != nil {
		t.Fatalf("answers: %v", answers)
	}
	refused, ok := answers[2].([]*Result)
	if !ok || len(refused) != 1 || ResultError(refused[0]) == nil {
		t.Fatalf("the refused command was answered %v", answers[2])
	}
	if one.State().Hash() != many.State().Hash() {
		t.Fatal("a batch made another state than its entries one by one")
	}
	for _, want := range []uint64{1, 4} {
		if item, err := w.Next(t.Context()); err != nil || item.Index != want {
			t.Fatalf("item %d, %v; want %d", item.Index, err, want)
		}
	}
}

func TestSnapshotRestore(t *testing.T) {
	f := newFSM(t)
	applyAll(t, f, 1, 100)
	data := persist(t, f)
	g := newFSM(t)
	if err := restore(g, data); err != nil {
		t.Fatal(err)
	}
	if f.State().Hash() != g.State().Hash() || g.State().Index() != 100 {
		t.Fatalf("restored index %d, hash %s, want %s", g.State().Index(), g.State().Hash(), f.State().Hash())
	}
	applyAll(t, g, 101, 110)
	applyAll(t, f, 101, 110)
	if f.State().Hash() != g.State().Hash() {
		t.Fatal("the restored state took another way")
	}
	empty := newFSM(t)
	if err := restore(empty, persist(t, newFSM(t))); err != nil || empty.State().Index() != 0 {
		t.Fatalf("the empty state: index %d, %v", empty.State().Index(), err)
	}
}

func TestRestoreOfDamagedDataChangesNothing(t *testing.T) {
	f := newFSM(t)
	applyAll(t, f, 1, 20)
	data := persist(t, f)
	g := newFSM(t)
	applyAll(t, g, 1, 5)
	w, err := g.Watch(5)
	if err != nil {
		t.Fatal(err)
	}
	before := g.State().Hash()
	for n := range data {
		flipped := bytes.Clone(data)
		flipped[n] ^= 0x10
		for _, bad := range [][]byte{data[:n], flipped} {
			var c *snapshot.CorruptError
			if err := restore(g, bad); !errors.As(err, &c) {
				t.Fatalf("damage at byte %d: %v", n, err)
			}
		}
	}
	if g.State().Hash() != before {
		t.Fatal("a refused restore changed the state")
	}
	applyAll(t, g, 6, 6)
	if item, err := w.Next(t.Context()); err != nil || item.Index != 6 {
		t.Fatalf("a refused restore hurt a watcher: %d, %v", item.Index, err)
	}
}

func TestPersistFailures(t *testing.T) {
	f := newFSM(t)
	applyAll(t, f, 1, 3)
	size := len(persist(t, f))
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for room := 1; room < size; room++ {
		s := sink{room: room}
		if err := snap.Persist(&s); !errors.Is(err, errFull) || s.canceled != 1 || s.closed != 0 {
			t.Fatalf("room for %d bytes: %v, canceled %d, closed %d", room, err, s.canceled, s.closed)
		}
	}
	s := sink{closeErr: errFull}
	if err := snap.Persist(&s); !errors.Is(err, errFull) {
		t.Fatalf("Close failed but Persist said %v", err)
	}
}

func TestUndecodableEntryStopsForGood(t *testing.T) {
	f := newFSM(t)
	applyAll(t, f, 1, 3)
	data := persist(t, f)
	var fatal []error
	f.onFatal = func(err error) { fatal = append(fatal, err) }
	before := f.State().Hash()
	bad := &raft.Log{Index: 4, Term: 1, Type: raft.LogCommand, Data: []byte{0xff}}
	answers := f.ApplyBatch([]*raft.Log{bad, entryAt(t, 5)})
	answers = append(answers, f.Apply(entryAt(t, 6)))
	for _, a := range answers {
		var e *api.Error
		if err, ok := a.(error); !ok || !errors.As(err, &e) || e.Code != api.Corrupt || e.Index != 4 {
			t.Fatalf("answer %v, want CORRUPT with index 4", a)
		}
	}
	if len(fatal) != 1 || f.State().Hash() != before {
		t.Fatalf("onFatal called %d times, state at %d", len(fatal), f.State().Index())
	}
	if _, err := f.Snapshot(); err == nil {
		t.Fatal("a snapshot was taken that would hide the refused entry")
	}
	if err := restore(f, data); err == nil {
		t.Fatal("a stopped FSM restored")
	}
}

func TestSnapshotWhileApplying(t *testing.T) {
	defer goleak.VerifyNone(t)
	f := newFSM(t)
	hashes := make(map[uint64]string)
	written := make(map[uint64]*sink)
	var group sync.WaitGroup
	for i := uint64(1); i <= 300; i++ {
		applyAll(t, f, i, i)
		if i%10 != 0 {
			continue
		}
		snap, err := f.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		out := new(sink)
		hashes[i], written[i] = f.State().Hash(), out
		group.Go(func() {
			if err := snap.Persist(out); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i, s := range written {
		g := newFSM(t)
		if err := restore(g, s.Bytes()); err != nil || g.State().Hash() != hashes[i] || g.State().Index() != i {
			t.Fatalf("snapshot at %d: index %d, %v", i, g.State().Index(), err)
		}
	}
}

func TestWaitIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFSM(t)
		applyAll(t, f, 1, 2)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.WaitIndex(ended, 2); err != nil {
			t.Fatalf("an index that is reached: %v", err)
		}
		if err := f.WaitIndex(ended, 3); !errors.Is(err, context.Canceled) {
			t.Fatalf("an ended context: %v", err)
		}
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := f.WaitIndex(short, 5); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("nothing happened, yet: %v", err)
		}
		var reached []uint64
		done := make(chan uint64)
		for _, index := range []uint64{3, 4, 5} {
			go func() {
				if err := f.WaitIndex(t.Context(), index); err != nil || f.State().Index() < index {
					t.Errorf("waited for %d: %v at %d", index, err, f.State().Index())
				}
				done <- index
			}()
		}
		synctest.Wait()
		f.Apply(refusedAt(t, 3)) // a refused command moves the index too
		reached = append(reached, <-done)
		f.Apply(entryAt(t, 6)) // 4 and 5 never come here
		reached = append(reached, <-done, <-done)
		slices.Sort(reached)
		if !slices.Equal(reached, []uint64{3, 4, 5}) {
			t.Fatalf("reached %v", reached)
		}
	})
}

func TestWaitIndexSeesARestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead, f := newFSM(t), newFSM(t)
		applyAll(t, ahead, 1, 50)
		data := persist(t, ahead)
		done := make(chan error, 1)
		go func() { done <- f.WaitIndex(t.Context(), 40) }()
		synctest.Wait()
		if err := restore(f, data); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
