package client

import (
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// longID is a node id of the greatest length, and longPrefix a prefix that is no
// shorter than keys often are.
var (
	longID     = strings.Repeat("n", scope.MaxNodeIDLen)
	longPrefix = strings.Repeat("app:", 20)
)

// table is a mirror of n scopes and the few that tests ask for, of a cluster that
// holds or does not. It follows nothing.
func table(tb testing.TB, n int, hold bool) *Mirror {
	tb.Helper()
	changes := []api.Change{
		{Op: "put", Cluster: &api.ClusterRecord{Incarnation: 1, Tag: "t", Hold: hold}},
		nodeAt("a", "a:1"), nodeAt("b", "b:1"), nodeAt(longID, "10.0.0.200:6004"),
		owned("mine:", "a", 1), owned("other:", "b", 2), owned("noaddr:", "z", 3), moving("moving:", "a", "b", 4), owned(longPrefix, longID, 5),
	}
	for i := range n {
		changes = append(changes, owned(fmt.Sprintf("scope:%06d:", i), "b", uint64(10+i)))
	}
	v, err := agent.View{}.Loaded(9, changes)
	if err != nil {
		tb.Fatal(err)
	}
	m := &Mirror{}
	m.now.Store(&mirrored{view: View{v}, next: make(chan struct{})})
	return m
}

func keys() map[string][]byte {
	return map[string][]byte{
		"hit": []byte("mine:1"), "misdirected": []byte("other:1"), "without an address": []byte("noaddr:1"),
		"quiesced": []byte("moving:1"), "long": []byte(longPrefix + "1"), "miss": []byte("unknown:1"), "empty": {},
	}
}

func TestRouteDoesNotAllocate(t *testing.T) {
	for _, hold := range []bool{false, true} {
		m := table(t, 1000, hold)
		for what, key := range keys() {
			var r Route
			var owner string
			if n := testing.AllocsPerRun(100, func() { r = m.Route(key, "a") }); n != 0 {
				t.Errorf("%s, hold %v: %v allocations for %+v", what, hold, n, r)
			}
			if n := testing.AllocsPerRun(100, func() { owner = m.Owner(key) }); n != 0 {
				t.Errorf("%s, hold %v: %v allocations for %s", what, hold, n, owner)
			}
			if n := testing.AllocsPerRun(100, func() { r = m.View().Route(key, scope.NodeID(longID)) }); n != 0 {
				t.Errorf("%s, hold %v: %v allocations for %+v", what, hold, n, r)
			}
		}
	}
}

func BenchmarkRoute(b *testing.B) {
	for _, hold := range []bool{false, true} {
		m := table(b, 100_000, hold)
		for _, c := range []struct{ what, key string }{
			{"hit", "mine:1"}, {"misdirected", "scope:077777:1"}, {"quiesced", "moving:1"}, {"miss", "unknown:1"},
		} {
			key := []byte(c.key)
			b.Run(fmt.Sprintf("%s/hold=%v", c.what, hold), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					m.Route(key, "a")
				}
			})
			if hold {
				continue
			}
			b.Run(c.what+"/lookup", func(b *testing.B) { // of the table below, for comparison
				scopes := m.View().agent.Scopes()
				for b.Loop() {
					scopes.Lookup(key)
				}
			})
		}
	}
}

// A router asks from many goroutines while the mirror takes changes in.
func BenchmarkRouteParallel(b *testing.B) {
	m := table(b, 100_000, false)
	key := []byte("scope:077777:1")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Route(key, "a")
		}
	})
}
