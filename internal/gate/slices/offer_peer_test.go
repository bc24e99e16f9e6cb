//go:build peers

package slices

import (
	"strings"
	"testing"
)

// TestPeerOffer: what cannot come is found out before the first record, and nothing is left of the try.
func TestPeerOffer(t *testing.T) {
	n := alone(t, Config{}, "--maxmemory", "64mb")
	n.redis.do("SET", "app:1", "value")
	good, err := n.store.Offer(t.Context(), aSlice)
	n.must(err)
	refuses := func(offer, words string) {
		t.Helper()
		if err := n.store.Take(t.Context(), aSlice, []byte(offer)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
		n.must(n.store.Discard(t.Context(), "m1"))
	}
	refuses(string(good.Text), "holds 1 keys")
	n.holds(1, false)
	n.redis.do("DEL", "app:1")
	refuses(`{"keys":1,"bytes":1,"probe":"AAECAwQFBgcICQoLDA0O"}`, "cannot restore")
	refuses(`{"keys":1000,"bytes":100000000}`, "no room")
	refuses(`{"keys":1,"bytes":40000000,"largest":40000000}`, "twice")
	refuses(`x`, "cannot be read")
	n.must(n.store.Take(t.Context(), aSlice, good.Text))
	n.holds(0, true)
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(0, false)
	if keys := n.redis.Keys(t.Context(), "*").Val(); len(keys) != 1 {
		t.Errorf("left are %q", keys)
	}
}
