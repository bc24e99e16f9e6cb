//go:build peers

package slices

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// benchKeys are in the slice that moves, with values of 100 bytes.
const benchKeys = 100_000

// back and forth moves the slice from one node to the other and tells what each move was; a move waits for the deletion of
// the copy that the one before has left.
func (w *world) backAndForth(b *testing.B, m api.StartMove, each func(api.Move)) {
	w.declare("app:", "a")
	w.a.redis.do("EVAL", fmt.Sprintf(`local v = string.rep('x', 100) for i=1,%d do redis.call('SET', 'app:'..i, v) end`, benchKeys), 0)
	from, to := w.a, w.b
	for b.Loop() {
		m.Prefix, m.From, m.To = "app:", from.id, to.id
		var id string
		eventually(b, "the scope can move", func() error {
			begun, err := w.a.c.StartMove(context.Background(), m)
			id = begun.ID
			return err
		})
		out := w.ended(id)
		if out.Phase != "done" || out.Shipped.Keys < benchKeys {
			b.Fatalf("%+v", out)
		}
		each(out)
		from, to = to, from
	}
}

// BenchmarkPeerShip ships a closed slice: both stores, both ends and the registry share the machine.
func BenchmarkPeerShip(b *testing.B) {
	w := newWorld(b, Config{})
	var keys, took float64
	w.backAndForth(b, api.StartMove{WindowMS: 60_000}, func(m api.Move) {
		at := map[string]int64{}
		for _, s := range m.Stamps {
			at[s.Phase] = s.TimeMS
		}
		keys += float64(m.Shipped.Keys)
		took += float64(at["shipped"]-at["quiescing"]) / 1000
	})
	b.ReportMetric(keys/took, "keys/s")
}

// BenchmarkPeerQuiesced moves a slice that takes 1,000 writes a second, and tells for how long it takes none.
func BenchmarkPeerQuiesced(b *testing.B) {
	w := newWorld(b, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	writing.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for range 10 {
				i++
				k := fmt.Sprintf("app:%d", i*7919%benchKeys+1)
				if w.a.put(k, "SET", k, i) != nil {
					_ = w.b.put(k, "SET", k, i)
				}
			}
		}
	})
	var closed []int64
	w.backAndForth(b, api.StartMove{PreCopy: true}, func(m api.Move) { closed = append(closed, m.QuiescedMS) })
	cancel()
	writing.Wait()
	slices.Sort(closed)
	b.Logf("closed for, in ms: %v", closed)
	b.ReportMetric(float64(closed[len(closed)/2]), "ms-p50")
	b.ReportMetric(float64(closed[len(closed)-1]), "ms-max")
}
