package agent

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

const (
	writers = 6
	rounds  = 150 // how often the rules go through their circle while the writers write
	crowd   = 30  // writes that must be admitted before a scope is closed again
)

// store stands for what the writes reach: it knows who is in it, and who may be.
type store struct {
	adm      *Admission
	inside   [4*rounds + 8]atomic.Int64 // writes that execute, by epoch
	admitted atomic.Int64
	drained  atomic.Uint64 // writes of this epoch and before were said to be drained
	flipped  atomic.Uint64 // tenures before this epoch are over, and the rules say so
	deleting atomic.Bool
	stop     atomic.Bool
	others   sync.WaitGroup // goroutines of one test that end by stop
	wrong    atomic.Pointer[string]
}

func (s *store) fail(form string, args ...any) {
	text := fmt.Sprintf(form, args...)
	s.wrong.CompareAndSwap(nil, &text)
}

// write executes one write, if it is admitted, and looks at what it must not meet.
func (s *store) write(key []byte, stripe uint32, beginning uint64) {
	t, err := s.adm.Enter(key, at(0), stripe)
	if err != nil {
		return
	}
	epoch := t.Token().Epoch
	s.inside[epoch].Add(1)
	s.admitted.Add(1)
	for range 3 {
		runtime.Gosched()
		if d := s.drained.Load(); epoch != 0 && epoch <= d {
			s.fail("a write of epoch %d executes, though those up to %d were drained", epoch, d)
		}
		if s.deleting.Load() {
			s.fail("a write of epoch %d executes while old records of its prefix are deleted", epoch)
		}
	}
	over := s.flipped.Load()
	if s.adm.Check(&t, key, at(0)) == nil && epoch < over && epoch >= beginning {
		s.fail("a write of epoch %d is acknowledged, though %d had begun", epoch, over)
	}
	s.inside[epoch].Add(-1)
	s.adm.Leave(&t)
}

// run has the writers write while the circle, which is the node's own loop, takes
// the rules around.
func (s *store) run(t *testing.T, key string, beginning uint64, circle func(round int)) {
	var all sync.WaitGroup
	for g := range writers {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := 0; !s.stop.Load(); i++ {
				s.write(fmt.Appendf(nil, "%s%d", key, i%5), uint32(g), beginning)
				runtime.Gosched()
			}
		}()
	}
	for round := range rounds {
		circle(round)
	}
	s.stop.Store(true)
	all.Wait()
	s.others.Wait()
	if wrong := s.wrong.Load(); wrong != nil {
		t.Fatal(*wrong)
	}
	if !s.adm.Idle() {
		t.Error("a write counts still, though all have left")
	}
}

// crowded waits until some writes more were admitted.
func (s *store) crowded() {
	for until := s.admitted.Load() + crowd; s.admitted.Load() < until && s.wrong.Load() == nil; {
		runtime.Gosched()
	}
}

// awaitDrain is what a runner does.
func (s *store) awaitDrain(p string) {
	for !s.adm.Drained(scope.Prefix(p)) {
		runtime.Gosched()
	}
}

// TestNoWriteAfterTheDrain: once the rules that close a scope are in force and
// its drain is said to be done, no write executes under its token, and none is
// acknowledged under a token that is over.
func TestNoWriteAfterTheDrain(t *testing.T) {
	s := begun(t, "scope a: n1 e1")
	st := &store{adm: s.adm}
	index := 11
	item := func(form string, args ...any) {
		index++
		s.line(fmt.Sprintf("item %d | ", index) + fmt.Sprintf(form, args...))
	}
	st.run(t, "a:", 1, func(round int) {
		epoch := uint64(2*round + 1)
		st.crowded()
		item("scope a: n1 e%d to=n2", epoch)
		st.awaitDrain("a:")
		if n := st.inside[epoch].Load(); n != 0 {
			t.Errorf("%d writes of epoch %d execute after the drain", n, epoch)
		}
		st.drained.Store(epoch)
		item("scope a: n2 e%d", epoch+1)
		st.flipped.Store(epoch + 1)
		item("scope a: n1 e%d", epoch+2)
	})
}

// TestDeletesAndWritesDoNotMeet: the old copy is deleted in batches, by a goroutine
// that asks for each, while takeovers cancel the cleanup in the middle of them. So
// many moves run elsewhere that the rules take a while to be asked: a takeover
// comes often while they are.
func TestDeletesAndWritesDoNotMeet(t *testing.T) {
	records := []string{"scope a: n1 e1"}
	for i := range 400 {
		records = append(records, fmt.Sprintf("move m%d p%d: n2>n3 copying", i, i))
	}
	s := begun(t, records...)
	st := &store{adm: s.adm}
	var pending atomic.Uint64 // epoch of the copy that is to be deleted
	var batches atomic.Int64
	st.others.Add(1)
	go func() {
		defer st.others.Done()
		for !st.stop.Load() {
			if !st.adm.BeginDelete("a:", pending.Load()) {
				runtime.Gosched()
				continue
			}
			st.deleting.Store(true)
			for e := range st.inside {
				if n := st.inside[e].Load(); n != 0 {
					st.fail("%d writes of epoch %d execute when a batch of deletes begins", n, e)
				}
			}
			runtime.Gosched()
			st.deleting.Store(false)
			st.adm.EndDelete()
			batches.Add(1)
		}
	}()
	index := 11
	item := func(form string, args ...any) {
		index++
		s.line(fmt.Sprintf("item %d | ", index) + fmt.Sprintf(form, args...))
	}
	st.run(t, "a:", 1, func(round int) {
		epoch := uint64(2*round + 1)
		st.crowded()
		item("scope a: n2 e%d | cleanup n1 a: e%d", epoch+1, epoch)
		pending.Store(epoch)
		for until := batches.Load() + 3; batches.Load() < until && st.wrong.Load() == nil; {
			runtime.Gosched()
		}
		item("-cleanup n1 a: e%d | scope a: n1 e%d", epoch, epoch+2) // a takeover
	})
}

// TestUnknownWritesMeetADeclare: a scope is declared, and at once closed, over keys
// that are being written as those of no scope.
func TestUnknownWritesMeetADeclare(t *testing.T) {
	s := begun(t)
	st := &store{adm: s.adm}
	index := 11
	item := func(form string, args ...any) {
		index++
		s.line(fmt.Sprintf("item %d | ", index) + fmt.Sprintf(form, args...))
	}
	st.run(t, "free:", 1, func(round int) {
		st.crowded()
		item("scope free: n1 e%d to=n2 | scope other%d: n1 e%d", 2*round+1, round, 2*round+2)
		st.awaitDrain("free:")
		if n := st.inside[0].Load(); n != 0 {
			t.Errorf("%d writes of no scope execute after the drain of the one that was declared over them", n)
		}
		item("-scope free: | -scope other%d:", round)
	})
}

// at is a clock that stands still.
func at(now time.Duration) Clock { return func() time.Duration { return now } }
