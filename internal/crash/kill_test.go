package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
)

var (
	seed  = flag.Uint64("crash.seed", 0, "seed of the kills; 0 takes the clock")
	kills = flag.Int("crash.kills", 100, "number of kills")
)

const (
	workers = 4
	// workerPause keeps the load from taking the processor away from the elections it should disturb.
	workerPause = 10 * time.Millisecond
	// progressTime bounds the wait for the next acknowledged change: many elections of the fast timing.
	progressTime = 30 * time.Second
	// killSpread is the longest a kill comes after the cluster last showed progress.
	killSpread = 200 * time.Millisecond
)

// load declares scopes and keeps what the servers said about them.
type load struct {
	c        *Cluster
	progress chan struct{} // gets a value for an acknowledged declare if it is empty
	stop     chan struct{}

	mu      sync.Mutex        // guards all below
	tried   map[string]bool   // prefixes that may be there
	acked   map[string]uint64 // epochs of prefixes that must be there
	retries int
	unknown int
	refused []error // answers no declare may get
}

// TestKillAnyServer kills servers at random instants under load. Whatever was
// acknowledged has to be on every server afterwards.
func TestKillAnyServer(t *testing.T) {
	start := time.Now()
	s := *seed
	if s == 0 {
		s = uint64(start.UnixNano())
	}
	t.Logf("repeat with -crash.seed=%d", s)
	ctx := bounded(t, 5*time.Minute)
	c := opened(ctx, t)
	nodes(ctx, t, c, "a", "b", "c")
	l := &load{c: c, progress: make(chan struct{}, 1), stop: make(chan struct{}),
		tried: map[string]bool{}, acked: map[string]uint64{}}
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() { l.work(ctx, w, rand.New(rand.NewPCG(s, uint64(w)+1))) })
	}
	early, err := l.kill(ctx, rand.New(rand.NewPCG(s, 0)), *kills)
	close(l.stop)
	running.Wait()
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	status, err := c.WaitEqual(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l.verify(ctx, t)
	t.Logf("%d kills (%d while the server killed before was not ready) in %.1f s; %d declares acknowledged, all found on %d servers; "+
		"%d retries, %d outcomes unknown to the end; index %d, hash %.16s on all", *kills, early, took.Seconds(), len(l.acked), Size,
		l.retries, l.unknown, status.Index, status.Members[0].StateHash)
}

// kill kills n times. After each restart it waits only until one more declare
// was acknowledged, which any majority can do without the server that was
// killed. It returns how many kills hit before that server was ready again.
func (l *load) kill(ctx context.Context, rnd *rand.Rand, n int) (early int, err error) {
	last := ""
	for i := range n {
		if err := l.wait(ctx); err != nil {
			return early, fmt.Errorf("after %d kills: %w", i, err)
		}
		if err := process.Sleep(ctx, time.Duration(rnd.Int64N(int64(killSpread)))); err != nil {
			return early, err
		}
		if err := l.c.Crashed(); err != nil {
			return early, fmt.Errorf("after %d kills: %w", i, err)
		}
		if last != "" {
			if _, err := l.c.Get(ctx, last, "/readyz", nil); err != nil {
				early++
			}
		}
		last = l.c.IDs()[rnd.IntN(Size)]
		if err := errors.Join(l.c.Kill(last), l.c.Start(last)); err != nil {
			return early, fmt.Errorf("kill %d of %s: %w", i+1, last, err)
		}
	}
	return early, nil
}

// wait waits for a declare that is acknowledged from now on.
func (l *load) wait(ctx context.Context) error {
	select {
	case <-l.progress: // of before
	default:
	}
	timer := time.NewTimer(progressTime)
	defer timer.Stop()
	select {
	case <-l.progress:
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("nothing was acknowledged for %v, and at most one server was down", progressTime), l.c.Crashed())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work declares one scope after the other through random servers.
func (l *load) work(ctx context.Context, worker int, rnd *rand.Rand) {
	index := uint64(0)
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		prefix := fmt.Sprintf("w%d:%06d:", worker, n)
		id := fmt.Sprintf("%d-%016x%016x", index, rnd.Uint64(), rnd.Uint64())
		if applied, ok := l.declare(ctx, rnd, id, prefix); ok {
			index = max(index, applied.Index)
		}
		if process.Sleep(ctx, workerPause) != nil {
			return
		}
	}
}

// declare asks again with the same request id until a server acknowledges.
func (l *load) declare(ctx context.Context, rnd *rand.Rand, requestID, prefix string) (api.Applied, bool) {
	l.note(func() { l.tried[prefix] = true })
	give, cancel := context.WithTimeout(ctx, progressTime)
	defer cancel()
	unsure := false
	for {
		applied, err := declare(give, l.c, l.c.IDs()[rnd.IntN(Size)], requestID, prefix, "a")
		if err == nil {
			l.note(func() { l.acked[prefix] = applied.Epoch })
			select {
			case l.progress <- struct{}{}:
			default:
			}
			return applied, true
		}
		code := api.CodeOf(err)
		unsure = unsure || code == api.OutcomeUnknown
		switch code {
		case api.OutcomeUnknown, api.Unavailable, api.NoLeader, api.Stale, api.Limit:
			l.note(func() { l.retries++ })
		case api.RequestExpired: // too old to know: neither acknowledged nor refused
			l.note(func() { l.unknown++ })
			return applied, false
		default:
			l.note(func() { l.refused = append(l.refused, fmt.Errorf("declare of %s: %w", prefix, err)) })
			return applied, false
		}
		if process.Sleep(give, pollEvery) != nil {
			if unsure {
				l.note(func() { l.unknown++ })
			}
			return applied, false
		}
	}
}

func (l *load) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// verify compares what every server has with what was acknowledged and tried.
func (l *load) verify(ctx context.Context, t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.refused {
		t.Error(err)
	}
	if len(l.acked) < *kills {
		t.Errorf("only %d declares were acknowledged over %d kills", len(l.acked), *kills)
	}
	for _, id := range l.c.IDs() {
		have, err := scopes(ctx, l.c, id)
		if err != nil {
			t.Fatalf("scopes of %s: %v", id, err)
		}
		lost := 0
		for prefix, epoch := range l.acked {
			if sc, ok := have[prefix]; !ok || sc.Epoch != epoch || epoch == 0 {
				if lost++; lost <= 10 {
					t.Errorf("%s: %s was acknowledged with epoch %d and is %+v (there: %t)", id, prefix, epoch, sc, ok)
				}
			}
		}
		if lost > 0 {
			t.Errorf("%s lost %d of %d", id, lost, len(l.acked))
		}
		for prefix := range have {
			if !l.tried[prefix] {
				t.Errorf("%s has %s, which nobody declared", id, prefix)
			}
		}
	}
}
