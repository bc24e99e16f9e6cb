package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// slowAfter is how long a write to the raft store may take before the server says so: longer than any pause of a disk
	// that works, and short enough to be seen before hungAfter.
	slowAfter = 3 * time.Second

	// hungAfter is how long it may take before the server gives up. A leader whose disk hangs goes on sending heartbeats, so
	// that nobody takes over from it (RAFT trap 14); its end is what the others notice.
	hungAfter = 10 * time.Second

	// watchEvery is how often the watchdog looks.
	watchEvery = 500 * time.Millisecond
)

// watchdog watches the writes of raft to its stores. They come from two goroutines of raft: its main loop, and that which
// compacts the log.
type watchdog struct {
	mu      sync.Mutex // guards the rest
	next    int
	pending map[int]operation
	looked  time.Time
}

// operation is a write that has not returned.
type operation struct {
	doing string
	since time.Time
}

func newWatchdog() *watchdog { return &watchdog{pending: map[int]operation{}} }

// begin notes a write, until the function it returns is called.
func (w *watchdog) begin(doing string) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	id := w.next
	w.pending[id] = operation{doing, time.Now()}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.pending, id)
	}
}

// look forgives the time for which nobody looked: a process that was stopped, or its whole machine, finds its writes old
// when it goes on, and the disk had no part in that.
func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if gap := now.Sub(w.looked); !w.looked.IsZero() && gap > 2*watchEvery {
		for id, p := range w.pending {
			if p.since = p.since.Add(gap); p.since.After(now) {
				p.since = now
			}
			w.pending[id] = p
		}
	}
	w.looked = now
}

// oldest is the write that has taken longest, and for how long; 0 if there is none.
func (w *watchdog) oldest() (o operation, age time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pending {
		if o.since.IsZero() || p.since.Before(o.since) {
			o = p
		}
	}
	if o.since.IsZero() {
		return o, 0
	}
	return o, time.Since(o.since)
}

// stalled is how long a write has been taking, once that is too long; else 0.
func (w *watchdog) stalled() (doing string, age time.Duration) {
	if o, age := w.oldest(); age >= slowAfter {
		return o.doing, age
	}
	return "", 0
}

// watchedLogs is a log store whose writes are watched.
type watchedLogs struct {
	raft.LogStore
	dog *watchdog
}

// StoreLog implements raft.LogStore.
func (s watchedLogs) StoreLog(l *raft.Log) error {
	defer s.dog.begin("writing the log")()
	return s.LogStore.StoreLog(l)
}

// StoreLogs implements raft.LogStore.
func (s watchedLogs) StoreLogs(logs []*raft.Log) error {
	defer s.dog.begin("writing the log")()
	return s.LogStore.StoreLogs(logs)
}

// DeleteRange implements raft.LogStore.
func (s watchedLogs) DeleteRange(min, max uint64) error {
	defer s.dog.begin("removing log entries")()
	return s.LogStore.DeleteRange(min, max)
}

// watchedStable is a stable store whose writes are watched.
type watchedStable struct {
	raft.StableStore
	dog *watchdog
}

// Set implements raft.StableStore.
func (s watchedStable) Set(key, val []byte) error {
	defer s.dog.begin(fmt.Sprintf("writing stable key %q", key))()
	return s.StableStore.Set(key, val)
}

// SetUint64 implements raft.StableStore.
func (s watchedStable) SetUint64(key []byte, val uint64) error {
	defer s.dog.begin(fmt.Sprintf("writing stable key %q", key))()
	return s.StableStore.SetUint64(key, val)
}

// watchDisk says that a write takes too long, and gives this server up when it does not end. It goes on as long as raft
// runs: Close waits for the disk too.
func (r *Registry) watchDisk() {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	slow := false
	for {
		select {
		case <-r.drained:
			return
		case <-t.C:
		}
		r.dog.look()
		o, age := r.dog.oldest()
		switch {
		case age >= hungAfter:
			r.giveUp(o, age)
			return
		case age >= slowAfter && !slow:
			slow = true
			r.log.Error("the disk hangs: a write of the raft store does not return; look at the disk", "doing", o.doing, "for", age, "stops after", hungAfter)
		case age < slowAfter && slow:
			slow = false
			r.log.Warn("the disk answers again")
		}
	}
}

// giveUp hands leadership over if raft still can, which it cannot while its own main loop waits for the disk, and then
// stops this server.
func (r *Registry) giveUp(o operation, age time.Duration) {
	if r.raft.State() == raft.Leader && votersIn(r.servers()) > 1 {
		ctx, cancel := context.WithTimeout(context.Background(), transferTimeout)
		if err := r.transferHere(ctx, ""); err != nil {
			r.log.Warn("handing over leadership failed", "error", err)
		}
		cancel()
	}
	r.alarm.raise(fmt.Errorf("%s in %s has not returned for %v: the disk hangs; this server stops so that another one can lead, "+
		"see to the disk before starting it again (docs/operations.md, Disk damage)", o.doing, r.cfg.DataDir, age.Round(time.Second)))
}
