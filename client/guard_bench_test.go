package client

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/boottime"
)

const (
	// benchWriters write one scope at a time, more than there are cores: what they share shows.
	benchWriters = 8
	// benchScopes are in the table, of which the node owns all: a small one, which the caches hold.
	benchScopes = 10
	// benchLease outlasts any run. No server renews it, so that nothing runs beside the writes.
	benchLease = 24 * time.Hour
)

// benchGuard is the guard of node n1, which is ready and owns every scope
// p00000:, p00001:, …. With a lease each needs one, as it has a fallback.
func benchGuard(t testing.TB, lease bool) *Guard {
	state := agent.New(agent.Config{Node: "n1", Times: api.DefaultLeases(), Stripes: runtime.GOMAXPROCS(0)}, boottime.Now(), nil)
	adm := agent.NewAdmission(state)
	step := func(e agent.Event) {
		var effects []agent.Effect
		state, effects = agent.Step(state, boottime.Now(), e)
		for _, effect := range effects {
			if p, ok := effect.(agent.Publish); ok {
				adm.Publish(p.Rules)
			}
		}
	}
	step(agent.Tick{})
	cluster := api.ClusterRecord{ID: "c", Incarnation: 1, Tag: "x"}
	table := api.WatchItem{Type: "snapshot", Index: 10, Incarnation: 1, Tag: "x", Changes: []api.Change{{Op: "put", Cluster: &cluster}, {Op: "put", Node: &api.NodeState{Node: api.Node{ID: "n1"}}}}}
	for i := range benchScopes {
		sc := &api.Scope{Prefix: fmt.Sprintf("p%05d:", i), Writer: "n1", Owner: "n1", Epoch: uint64(i + 1), State: "owned"}
		if lease {
			sc.Fallback = "n2"
		}
		table.Changes = append(table.Changes, api.Change{Op: "put", Scope: sc})
	}
	step(agent.Watched{Stream: 1, Item: table})
	step(agent.Opened{Session: "s1", Index: 11, Incarnation: agent.Incarnation{Number: 1, Tag: "x"}})
	step(agent.Watched{Stream: 1, Item: api.WatchItem{Type: "change", Index: 11, Incarnation: 1, Tag: "x", Changes: []api.Change{
		{Op: "put", Node: &api.NodeState{Node: api.Node{ID: "n1"}, Session: &api.Session{ID: "s1", Opened: 11}}}}}})
	step(agent.Renewed{Session: "s1", SentAt: boottime.Now(), Lease: benchLease, Index: 11})
	if !state.Ready() {
		t.Fatal("the node is not ready")
	}
	return newGuard(adm, boottime.Now)
}

// together runs do in goroutines that share b.N.
func together(b *testing.B, goroutines int, do func(g int) error) {
	b.ReportAllocs()
	var failed atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for g := range goroutines {
		all.Go(func() {
			for range b.N / goroutines {
				if do(g) != nil {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		b.Fatalf("%d of %d writes were refused", n, b.N)
	}
}

// BenchmarkGuardWrite is a write whose store does nothing, by 8 goroutines on one
// scope. What it may cost with a lease is what it may without and two readings of
// the clock, which BenchmarkClock measures in the same way: run both, with
// -cpu 1,2 to see what a second core brings.
func BenchmarkGuardWrite(b *testing.B) {
	nothing := func(context.Context, Token) error { return nil }
	for _, lease := range []bool{false, true} {
		b.Run(fmt.Sprintf("lease=%v", lease), func(b *testing.B) {
			guard := benchGuard(b, lease)
			var keys [benchWriters][]byte
			for g := range keys {
				keys[g] = fmt.Appendf(nil, "p%05d:customer:%d", benchScopes/2, g)
			}
			ctx := b.Context()
			together(b, benchWriters, func(g int) error { return guard.Write(ctx, keys[g], nothing) })
		})
	}
}

// BenchmarkClock is one reading of the clock that leases are counted by, by as
// many goroutines.
func BenchmarkClock(b *testing.B) {
	var late [benchWriters]struct {
		last time.Duration
		_    [56]byte // a cache line of its own
	}
	together(b, benchWriters, func(g int) error {
		late[g].last = boottime.Now()
		return nil
	})
}

// BenchmarkPace is what BenchmarkGuardWrite is, decided about in batches of 32 whose ends are followed by the caller.
func BenchmarkPace(b *testing.B) {
	for _, lease := range []bool{false, true} {
		b.Run(fmt.Sprintf("lease=%v", lease), func(b *testing.B) {
			guard := benchGuard(b, lease)
			var paces [benchWriters]*Pace
			var keys [benchWriters][]byte
			var late [benchWriters]struct {
				n int
				_ [56]byte // a cache line of its own
			}
			for g := range keys {
				paces[g] = guard.Pace()
				keys[g] = fmt.Appendf(nil, "p%05d:customer:%d", benchScopes/2, g)
			}
			together(b, benchWriters, func(g int) error {
				p := paces[g]
				if late[g].n++; late[g].n%32 == 0 {
					p.Next()
				}
				w, err := p.Admit(keys[g])
				if err != nil {
					return err
				}
				defer w.Done()
				return p.Check(&w)
			})
		})
	}
}
