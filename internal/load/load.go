// Package load is clients that write to the nodes of examples/store all the time,
// each to one scope, and follow its owner as far as answers name it. What they were
// told is for package writes to judge.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// maxRetry bounds the pause after a refusal: a flip is noticed soon.
	maxRetry = 20 * time.Millisecond
	// Of ten writes so many are of new keys, so many delete one of these for good, and so many of the others delete too.
	newOfTen, goneOfTen, deletesOfTen = 6, 1, 1
	percent                           = 100
	// ownKeys is how many keys a writer overwrites.
	ownKeys = 4
	// keptKeys is of how many new keys a writer takes one to delete: most are some seconds old then, and so in each old
	// copy of their scope that is left anywhere.
	keptKeys = 64
)

// Config is what the clients of a load do.
type Config struct {
	Nodes   *Nodes
	Owners  []string      // nodes that they know, the first of which they take for the owner
	Scopes  []string      // prefixes
	Writers int           // of each scope
	First   int           // how many clients a run had before: each has a name of its own
	Wander  int           // percent of the writes that are tried at any node first: one that owns the scope without its clients knowing is found so
	Pause   time.Duration // each pauses for up to twice this between two writes
	Seed    uint64
	Seen    func(writes.Op) // is told of every attempt, by many goroutines
}

// Load is clients that write all the time. Stop it when done.
type Load struct {
	cfg    Config
	gate   sync.RWMutex // held for writing while nobody may write
	cancel context.CancelFunc
	all    sync.WaitGroup
}

// writer is one client. It follows the owner of one scope as far as answers name it.
type writer struct {
	*Load
	rnd         *rand.Rand
	scope, name string
	at          int // which node it takes for the owner
	n           int // values written
	own         [ownKeys]string
	kept        [keptKeys]string // some that were new
}

// Begin starts the writers. They write until Stop or Drain.
func Begin(cfg Config) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cfg: cfg, cancel: cancel}
	for i, scope := range cfg.Scopes {
		for k := range cfg.Writers {
			w := l.writer(scope, cfg.First+i*cfg.Writers+k+1)
			l.all.Go(func() { w.work(ctx) })
		}
	}
	return l
}

// writer is the nth of all that a run ever had.
func (l *Load) writer(scope string, n int) *writer {
	return &writer{Load: l, rnd: rand.New(rand.NewPCG(l.cfg.Seed, uint64(n))), scope: scope, name: fmt.Sprintf("c%d", n)}
}

// Hold returns when no write is under way, and none begins before Release.
func (l *Load) Hold() { l.gate.Lock() }

// Release ends Hold.
func (l *Load) Release() { l.gate.Unlock() }

// Stop ends all writers, and the requests that are under way. It must not be held.
func (l *Load) Stop() {
	l.cancel()
	l.all.Wait()
}

// Drain ends all writers when each has its answer. It must not be held.
func (l *Load) Drain() {
	l.gate.Lock()
	l.cancel()
	l.gate.Unlock()
	l.all.Wait()
}

func (w *writer) work(ctx context.Context) {
	for ctx.Err() == nil {
		w.put(ctx, w.next())
		if p := w.cfg.Pause; p > 0 {
			_ = process.Sleep(ctx, time.Duration(w.rnd.Int64N(int64(2*p)))) // the loop sees that it ends
		}
	}
}

// next is what to write now: a new key, the end of one that was new, or one of the
// few that are overwritten and deleted. What is gone is never written again: where an
// old copy brings it back, it stays until somebody looks.
func (w *writer) next() writes.Op {
	w.n++
	op := writes.Op{Scope: w.scope, Client: w.name, Value: fmt.Sprintf("%s-%d", w.name, w.n)}
	dice := w.rnd.IntN(10)
	if dice < newOfTen+goneOfTen {
		kept := &w.kept[w.rnd.IntN(keptKeys)]
		if dice < newOfTen || *kept == "" {
			*kept = fmt.Sprintf("%snew:%s:%06d", w.scope, w.name, w.n)
			op.Key = *kept
			return op
		}
		op.Key, op.Deletes, op.Value = *kept, true, ""
		*kept = ""
		return op
	}
	own := &w.own[w.rnd.IntN(ownKeys)]
	if *own == "" {
		*own = fmt.Sprintf("%sown:%s:%06d", w.scope, w.name, w.n)
	}
	op.Key = *own
	if dice >= 10-deletesOfTen {
		op.Deletes, op.Value = true, ""
	}
	return op
}

// put tries one write until it is acknowledged or its outcome is unknown. Then its
// key is left alone: who writes it again could be overtaken by the first.
func (w *writer) put(ctx context.Context, op writes.Op) {
	if w.rnd.IntN(percent) < w.cfg.Wander {
		w.at = w.rnd.IntN(len(w.cfg.Owners))
	}
	for ctx.Err() == nil {
		w.gate.RLock()
		if ctx.Err() != nil {
			w.gate.RUnlock()
			return
		}
		op.Node = w.cfg.Owners[w.at]
		refusal := w.cfg.Nodes.Write(ctx, &op)
		w.cfg.Seen(op)
		w.gate.RUnlock()
		if op.Outcome == writes.Unknown {
			for _, keys := range [][]string{w.own[:], w.kept[:]} {
				if i := slices.Index(keys, op.Key); i >= 0 {
					keys[i] = ""
				}
			}
			return
		}
		if refusal == nil {
			return
		}
		_ = process.Sleep(ctx, w.turn(refusal)) // the loop sees that it ends
		op.Outcome, op.Code, op.Detail = "", "", ""
	}
}

// turn turns to whom a refusal names, and says when.
func (w *writer) turn(e *api.Error) time.Duration {
	if at := slices.Index(w.cfg.Owners, e.Owner); at >= 0 && e.Owner != "" {
		w.at = at
	} else if e.Code == api.Unavailable {
		w.at = (w.at + 1) % len(w.cfg.Owners)
		return maxRetry / 4
	}
	return min(maxRetry, max(time.Duration(e.RetryMS)*time.Millisecond, time.Millisecond))
}

// bulkRecord is the size of a value that a scope holds from the beginning, in bytes.
const bulkRecord = 32 << 10

// Preload writes so many MiB to each scope, beside all writers.
func Preload(ctx context.Context, cfg Config, mib int) error {
	for i, scope := range cfg.Scopes {
		w := (&Load{cfg: cfg}).writer(scope, cfg.First+i+1)
		for k := range mib << 20 / bulkRecord {
			value := fmt.Sprintf("%s-%d", w.name, k)
			w.put(ctx, writes.Op{Scope: scope, Client: w.name, Key: fmt.Sprintf("%sbulk:%06d", scope, k), Value: value + strings.Repeat(".", bulkRecord-len(value))})
			if ctx.Err() != nil {
				return fmt.Errorf("%d records were written to %q beforehand: %w", k, scope, ctx.Err())
			}
		}
	}
	return nil
}
