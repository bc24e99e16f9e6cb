//go:build peers

package slices

import (
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/client"
)

// TestPeerMarkerEvicted: a marker that the store has evicted does not keep this process from wiping what it has staged; keys
// that it has not staged stay.
func TestPeerMarkerEvicted(t *testing.T) {
	n := alone(t, Config{})
	n.stage(aSlice, "app:1", "app:2")
	n.redis.do("DEL", markers)
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(0, false)
	n.redis.do("SET", "app:else", "1")
	if n.store.Stage(t.Context(), aSlice, n.records("app:1")) == nil {
		t.Fatal("staged over keys")
	}
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(1, false)
}

// TestPeerEmptySlice: a store that has lost the seal of an empty slice has lost nothing, also for the next process; what it has
// under the prefix again is not put in force.
func TestPeerEmptySlice(t *testing.T) {
	for _, again := range []bool{false, true} {
		n := alone(t, Config{})
		n.settle(aSlice, 0)
		n.redis.kill()
		n.redis.start() // keeps nothing
		if again {
			n.again()
		}
		n.redis.do("SET", "app:old", "1") // as an older file would have it
		err := n.store.Promote(t.Context(), aSlice)
		if err == nil || !strings.Contains(err.Error(), "app:old") {
			err = n.store.Promote(t.Context(), aSlice) // the first may meet the connection that broke
		}
		if err == nil || !strings.Contains(err.Error(), "app:old") {
			t.Fatal(err)
		}
		n.holds(1, true)
		n.redis.do("DEL", "app:old")
		n.must(n.store.Promote(t.Context(), aSlice))
		n.holds(0, false)
		n.must(n.store.Discard(t.Context(), "m1"))
	}
}

// TestPeerEmptyKey: the key of no bytes moves as any other.
func TestPeerEmptyKey(t *testing.T) {
	n := alone(t, Config{})
	n.redis.do("MSET", "", "1", "app:1", "2")
	got := map[string]bool{}
	n.must(n.store.Ship(t.Context(), client.Slice{Move: "m1"}, func(r client.Record) error {
		got[string(r.Key)] = true
		return nil
	}))
	if len(got) != 2 || !got[""] || !got["app:1"] {
		t.Errorf("%v were sent", got)
	}
}
