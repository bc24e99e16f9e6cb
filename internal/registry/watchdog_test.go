package registry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/api"
)

// A leader whose disk hangs says so, gives up in time, and another one leads.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fatalsOf{errs: map[string]error{}}
		n := newNetwork(t, f.edit)
		n.ready()
		l := n.leader("")
		mustPropose(t, l, setNode(1))
		release := l.store.hang()
		defer release()
		began := time.Now()
		go func() { _, _ = l.reg.Propose(t.Context(), setNode(2)) }()
		<-time.After(slowAfter - time.Second)
		if err := l.reg.Ready(); err != nil {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		<-time.After(time.Second + 2*watchEvery)
		err := l.reg.Ready()
		wantCode(t, err, api.Unavailable)
		if !strings.Contains(err.Error(), "writing the log has not returned for") {
			t.Errorf("not ready: %v", err)
		}
		n.until("it to give up", func() bool { return f.of(l.id) != nil })
		if took := time.Since(began); took < hungAfter || took > hungAfter+watchEvery+2*transferTimeout {
			t.Errorf("it gave up after %v: %v", took, f.of(l.id))
		}
		if !strings.Contains(f.of(l.id).Error(), "the disk hangs") {
			t.Errorf("it gave up with %v", f.of(l.id))
		}
		n.isolate(l.id) // its process ends
		mustPropose(t, n.leader(l.id), setNode(3))
		release()
	})
}

// A disk that answers again in time is no reason to stop, and the alarm goes.
func TestWatchdogOfASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetworkOf(t, 1, nil)
		n.ready()
		s := n.servers["s1"]
		release := s.store.hang()
		defer release()
		done := make(chan error, 1)
		go func() { _, err := s.reg.Propose(t.Context(), setNode(2)); done <- err }()
		<-time.After(slowAfter + time.Second)
		wantCode(t, s.reg.Ready(), api.Unavailable)
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		n.until("the alarm to go", func() bool { return s.reg.Ready() == nil })
	})
}

// A process that was stopped in the middle of a write has no disk that hangs.
func TestWatchdogForgivesPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatchdog()
		w.look()
		<-time.After(watchEvery)
		w.look()
		end := w.begin("writing")
		<-time.After(10 * hungAfter)
		w.look()
		if o, age := w.oldest(); age > watchEvery || o.doing != "writing" {
			t.Errorf("after a pause %q is %v old", o.doing, age)
		}
		for range 20 {
			<-time.After(watchEvery)
			w.look()
		}
		if _, age := w.oldest(); age != hungAfter {
			t.Errorf("then it is %v old", age)
		}
		end()
		if doing, age := w.stalled(); age != 0 {
			t.Errorf("%q is over, and %v old", doing, age)
		}
	})
}

// Both of raft's stores are watched, whatever is written.
func TestWatchedWrites(t *testing.T) {
	w := newWatchdog()
	inner := raft.NewInmemStore()
	logs, stable := watchedLogs{&blocked{inner, w, t}, w}, watchedStable{&blocked{inner, w, t}, w}
	for name, do := range map[string]func() error{
		"StoreLog":    func() error { return logs.StoreLog(sampleLog(1)) },
		"StoreLogs":   func() error { return logs.StoreLogs([]*raft.Log{sampleLog(2)}) },
		"DeleteRange": func() error { return logs.DeleteRange(1, 1) },
		"Set":         func() error { return stable.Set([]byte("k"), []byte("v")) },
		"SetUint64":   func() error { return stable.SetUint64([]byte("k"), 7) },
	} {
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.pending) != 0 {
		t.Errorf("left behind: %v", w.pending)
	}
}

// blocked checks that what is written through it is being watched.
type blocked struct {
	*raft.InmemStore
	dog *watchdog
	t   *testing.T
}

func (b *blocked) watched() {
	b.t.Helper()
	if len(b.dog.pending) != 1 {
		b.t.Error("it is not watched")
	}
}

func (b *blocked) StoreLog(l *raft.Log) error    { b.watched(); return b.InmemStore.StoreLog(l) }
func (b *blocked) StoreLogs(l []*raft.Log) error { b.watched(); return b.InmemStore.StoreLogs(l) }
func (b *blocked) DeleteRange(min, max uint64) error {
	b.watched()
	return b.InmemStore.DeleteRange(min, max)
}
func (b *blocked) Set(k, v []byte) error { b.watched(); return b.InmemStore.Set(k, v) }
func (b *blocked) SetUint64(key []byte, val uint64) error {
	b.watched()
	return b.InmemStore.SetUint64(key, val)
}
