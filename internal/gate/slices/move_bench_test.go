//go:build peers

package slices

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// cpu is what the stores and this process have used, in seconds.
func (w *world) cpu() (sum float64) {
	for _, r := range []*redisServer{w.a.redis, w.b.redis} {
		for line := range strings.Lines(fmt.Sprint(r.do("INFO", "cpu"))) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name == "used_cpu_sys" || name == "used_cpu_user" {
				x, err := strconv.ParseFloat(value, 64)
				if err != nil {
					w.t.Fatal(err)
				}
				sum += x
			}
		}
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		w.t.Fatal(err)
	}
	return sum + time.Duration(own.Utime.Nano()+own.Stime.Nano()).Seconds()
}

// BenchmarkPeerShip ships a closed slice: both stores, both ends and the registry share the machine. It tells also what of the
// processors a key takes from its first reading to the deletion of the old copy, which others on the machine change little.
func BenchmarkPeerShip(b *testing.B) {
	w := newWorld(b, Config{})
	var keys, took float64
	began := -1.0
	w.backAndForth(b, api.StartMove{WindowMS: 60_000}, func(m api.Move) {
		at := map[string]int64{}
		for _, s := range m.Stamps {
			at[s.Phase] = s.TimeMS
		}
		if began < 0 { // the filling is over; of the first move only the deletion counts
			began = w.cpu()
			return
		}
		keys += float64(m.Shipped.Keys)
		took += float64(at["shipped"]-at["quiescing"]) / 1000
	})
	b.ReportMetric(keys/took, "keys/s")
	b.ReportMetric((w.cpu()-began)/keys*1e6, "µs-cpu/key")
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
