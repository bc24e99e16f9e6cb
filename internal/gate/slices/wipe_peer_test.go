//go:build peers

package slices

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

var aSlice = client.Slice{Move: "m1", Prefix: "app:"}

// alone is a node without a session, to call its store's methods.
func alone(t *testing.T, cfg Config, args ...string) *node {
	n := &node{t: t, id: "b", redis: startRedis(t, args...), cfg: cfg, dir: t.TempDir()}
	n.cfg.Dir, n.cfg.Log = n.dir, slog.New(slog.NewTextHandler(testLog{t}, nil))
	n.open()
	t.Cleanup(n.shut)
	return n
}

func (n *node) shut() {
	n.store.Close()
	if err := n.up.Close(); err != nil {
		n.t.Log(err)
	}
}

// again is another process of the node.
func (n *node) again() {
	n.t.Helper()
	n.shut()
	n.open()
}

// records are what a source would send: strings, of which the last has an expiry.
func (n *node) records(keys ...string) []client.Record {
	n.t.Helper()
	var out []client.Record
	for _, k := range keys {
		n.redis.do("SET", "scratch", "value of "+k)
		dump := n.redis.do("DUMP", "scratch").(string)
		out = append(out, client.Record{Key: []byte(k), Value: []byte(dump)})
	}
	n.redis.do("DEL", "scratch")
	return out
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) stage(s client.Slice, keys ...string) {
	n.t.Helper()
	n.must(n.store.Stage(n.t.Context(), s, n.records(keys...)))
}

func (n *node) settle(s client.Slice, keys uint64) {
	n.t.Helper()
	n.must(n.store.Settle(n.t.Context(), s, client.Manifest{Keys: keys}))
}

// holds fails unless the prefix has so many keys, and is open or closed to clients.
func (n *node) holds(keys int, closed bool) {
	n.t.Helper()
	if got := n.redis.under("app:"); got != keys || n.store.Holds([]byte("app:1")) != closed {
		n.t.Fatalf("%d keys, closed %t; want %d, %t", got, n.store.Holds([]byte("app:1")), keys, closed)
	}
}

// TestPeerDiscardWipes: what is staged is closed to clients, and wiped when the move ends, by this process or the next one;
// nothing else is.
func TestPeerDiscardWipes(t *testing.T) {
	n := alone(t, Config{})
	n.redis.do("SET", "other", "1")
	n.holds(0, false)
	n.stage(aSlice, "app:1", "app:2")
	n.holds(2, true)
	if n.store.Holds([]byte("other")) {
		t.Error("another key is closed")
	}
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(0, false)
	n.stage(aSlice, "app:1")
	n.settle(aSlice, 1)
	n.again()
	n.holds(1, true)
	if moves, err := n.store.Staged(t.Context()); err != nil || !slices.Equal(moves, []string{"m1"}) {
		t.Fatal(moves, err)
	}
	n.must(n.store.Discard(t.Context(), "m1"))
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(0, false)
	if n.redis.do("GET", "other") != "1" || n.redis.Exists(t.Context(), markers).Val() != 0 {
		t.Error("another key is gone, or the marker is there")
	}
}

// TestPeerPromotedStays: once it is promoted nothing wipes the slice: no second promotion, no discard of the same move however
// late, in this process or the next, and no store that has gone back to a time before.
func TestPeerPromotedStays(t *testing.T) {
	n := alone(t, Config{})
	promote := func() {
		n.t.Helper()
		n.stage(aSlice, "app:1", "app:2")
		n.settle(aSlice, 2)
		n.must(n.store.Promote(t.Context(), aSlice))
		n.holds(2, false)
	}
	promote()
	n.redis.do("SET", "app:3", "written since")
	back := func() { n.redis.do("HSET", markers, "m1", "staging app:") } // as a store does that kept a minute less on its disk
	back()
	n.must(n.store.Promote(t.Context(), aSlice))
	n.holds(3, false)
	n.again()
	n.holds(3, false)
	back()
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(3, false)
	back()
	n.must(n.store.Discard(t.Context(), "m1"))
	n.again()
	n.holds(3, false)
	back()
	n.again()
	moves, err := n.store.Staged(t.Context())
	if err != nil || !slices.Equal(moves, []string{"m1"}) {
		t.Fatal(moves, err) // a session with a new data dir must not begin on this
	}
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(3, false)
}

// TestPeerNotEmpty: what is there already is told and stays, unless it is to be replaced.
func TestPeerNotEmpty(t *testing.T) {
	for _, replace := range []bool{false, true} {
		n := alone(t, Config{Replace: replace})
		n.redis.do("MSET", "app:old", "1", "app:older", "2", "other", "3")
		err := n.store.Stage(t.Context(), aSlice, n.records("app:1"))
		if replace {
			n.must(err)
			n.settle(aSlice, 1)
			n.holds(1, true)
		} else {
			if err == nil || !strings.Contains(err.Error(), "holds 2 keys") || !strings.Contains(err.Error(), "app:old") {
				t.Fatal(err)
			}
			if n.store.Settle(t.Context(), aSlice, client.Manifest{}) == nil {
				t.Error("an empty slice is settled over keys")
			}
			n.must(n.store.Discard(t.Context(), "m1"))
			n.holds(2, false)
		}
		if n.redis.do("GET", "other") != "3" {
			t.Error("another key is gone")
		}
	}
}

// TestPeerStoreLosesSlice: a store that comes back without its data is not taken for one that has it, and nothing that it has
// by then is wiped.
func TestPeerStoreLosesSlice(t *testing.T) {
	n := alone(t, Config{})
	n.stage(aSlice, "app:1")
	n.settle(aSlice, 1)
	n.redis.kill()
	n.redis.start() // keeps nothing
	if err := n.store.Promote(t.Context(), aSlice); err == nil || !strings.Contains(err.Error(), "lost") {
		err = n.store.Promote(t.Context(), aSlice) // the first may meet the connection that broke
		if err == nil || !strings.Contains(err.Error(), "lost") {
			t.Fatal(err)
		}
	}
	n.holds(0, true)
	n.redis.do("SET", "app:else", "1")
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(1, false)
	// The same in the next process, which has nothing to discard.
	n.redis.do("DEL", "app:else")
	n.stage(client.Slice{Move: "m2", Prefix: "app:"}, "app:1")
	n.redis.kill()
	n.redis.start()
	n.again()
	n.holds(0, false)
	if moves, err := n.store.Staged(t.Context()); err != nil || len(moves) > 0 {
		t.Error(moves, err)
	}
}

// TestPeerRestartWhileStaging: a slice of which the first half came to another process of the store is not settled.
func TestPeerRestartWhileStaging(t *testing.T) {
	n := alone(t, Config{}, "--appendonly", "yes", "--appendfsync", "always")
	n.stage(aSlice, "app:1")
	n.redis.kill()
	n.redis.start()
	_ = n.store.Stage(t.Context(), aSlice, n.records("app:2")) // the connection broke
	if err := n.store.Settle(t.Context(), aSlice, client.Manifest{Keys: 2}); err == nil || !strings.Contains(err.Error(), "restarted") {
		t.Fatal(err)
	}
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(0, false)
	n.stage(aSlice, "app:1")
	n.settle(aSlice, 1)
	n.redis.kill()
	n.redis.start()
	n.again()
	n.must(n.store.Promote(t.Context(), aSlice))
	n.holds(1, false)
}

// TestPeerOneAtATime: two slices of one key are never staged together: the end of one would wipe the other.
func TestPeerOneAtATime(t *testing.T) {
	n := alone(t, Config{})
	n.stage(aSlice, "app:1")
	if err := n.store.Stage(t.Context(), client.Slice{Move: "m2", Prefix: "app:x:"}, nil); err == nil || !strings.Contains(err.Error(), "m1") {
		t.Error(err)
	}
	n.must(n.store.Stage(t.Context(), client.Slice{Move: "m3", Prefix: "b:"}, nil))
	n.must(n.store.Discard(t.Context(), "m1"))
	n.must(n.store.Stage(t.Context(), client.Slice{Move: "m2", Prefix: "app:x:"}, nil))
}

// TestPeerRefusedKey: the first refusal names its key, and what is wrong with what is there is found.
func TestPeerRefusedKey(t *testing.T) {
	n := alone(t, Config{})
	bad := n.records("app:1", "app:2", "app:3")
	bad[1].Value = []byte("no payload at all")
	if err := n.store.Stage(t.Context(), aSlice, bad); err == nil || !strings.Contains(err.Error(), `"app:2"`) {
		t.Error(err)
	}
	n.must(n.store.Discard(t.Context(), "m1"))
	for words, spoil := range map[string]func(){
		"not in the store":  func() { n.redis.do("DEL", "app:1") },
		"expires at":        func() { n.redis.do("PEXPIRE", "app:1", 100_000) },
		"a list, and a str": func() { n.redis.do("DEL", "app:1"); n.redis.do("RPUSH", "app:1", "x") },
	} {
		n.stage(aSlice, "app:1")
		spoil()
		if err := n.store.Settle(t.Context(), aSlice, client.Manifest{Keys: 1}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
		n.must(n.store.Discard(t.Context(), "m1"))
	}
	// What has expired on the way is no loss.
	past := n.records("app:1", "app:2")
	past[0].Expires = 1
	past[1].Expires = time.Now().Add(time.Hour).UnixMilli()
	n.must(n.store.Stage(t.Context(), aSlice, past))
	n.settle(aSlice, 2)
	n.holds(1, true)
}

// TestPeerFull: a store that has no memory left refuses, and the wipe still works.
func TestPeerFull(t *testing.T) {
	n := alone(t, Config{}, "--maxmemory", "4mb")
	n.redis.do("SET", "scratch", strings.Repeat("x", 1<<20))
	big := client.Record{Value: []byte(n.redis.do("DUMP", "scratch").(string))}
	var err error
	for i := 0; i < 10 && err == nil; i++ {
		big.Key = []byte("app:" + string(rune('a'+i)))
		err = n.store.Stage(t.Context(), aSlice, []client.Record{big})
	}
	if err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Fatal(err)
	}
	n.must(n.store.Discard(t.Context(), "m1"))
	n.holds(0, false)
}

// TestPeerDiskFails: without its own disk a gate stages nothing.
func TestPeerDiskFails(t *testing.T) {
	n := alone(t, Config{})
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	if err := n.store.Stage(t.Context(), aSlice, n.records("app:1")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	n.holds(0, false)
}

// TestPeerClean: an old copy goes, in pieces, and nothing else.
func TestPeerClean(t *testing.T) {
	n := alone(t, Config{})
	n.redis.do("EVAL", `for i=1,5000 do redis.call('SET','app:'..i,i) redis.call('SET','b:'..i,i) end`, 0)
	calls := 0
	for more := true; more; calls++ {
		var err error
		more, err = n.store.Clean(context.Background(), "app:")
		n.must(err)
	}
	if n.redis.under("app:") != 0 || n.redis.under("b:") != 5000 || calls < 3 {
		t.Errorf("%d and %d keys after %d calls", n.redis.under("app:"), n.redis.under("b:"), calls)
	}
}
