//go:build peers

package slices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// tracked begins to track aSlice, and reads it once.
func (n *node) tracked() *tracking {
	n.t.Helper()
	x, err := n.store.Track(n.t.Context(), aSlice)
	n.must(err)
	n.t.Cleanup(x.Close)
	n.must(x.Ship(n.t.Context(), func(client.Record) error { return nil }))
	return x.(*tracking)
}

// changed fails unless just these keys have changed; one that is gone has a - before it.
func (n *node) changed(x client.Tracking, want ...string) {
	n.t.Helper()
	got := map[string]bool{}
	n.must(x.Changed(n.t.Context(), func(r client.Record) error {
		if r.Deleted {
			got["-"+string(r.Key)] = true
		} else {
			got[string(r.Key)] = true
		}
		return nil
	}))
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, want) {
		n.t.Fatalf("changed are %q, want %q", keys, want)
	}
}

// TestPeerTracking: what changes is told, whatever changes it; of streams everything is looked at, as what their groups do is
// not told.
func TestPeerTracking(t *testing.T) {
	n := alone(t, Config{})
	fill(n.redis, "app:", time.Now().UnixMilli())
	streams := []string{"app:emptystream", "app:stream"}
	x := n.tracked()
	n.changed(x, streams...)
	for _, c := range []struct {
		want string
		do   []any
	}{
		{"app:new", []any{"SET", "app:new", "1"}}, {"app:int", []any{"INCR", "app:int"}}, {"app:hash", []any{"HDEL", "app:hash", "1"}}, {"-app:bits", []any{"DEL", "app:bits"}},
		{"app:string", []any{"PEXPIRE", "app:string", 100_000}}, {"app:shorthash", []any{"PERSIST", "app:shorthash"}}, {"app:list", []any{"LPOP", "app:list"}},
		{"app:copy", []any{"COPY", "app:zset", "app:copy"}}, {"app:union", []any{"SUNIONSTORE", "app:union", "app:set", "app:shortset"}},
		{"app:eval", []any{"EVAL", "redis.call('SET', KEYS[1], 1)", 1, "app:eval"}}, {"", []any{"SET", "ap:", "1"}}, {"", []any{"GET", "app:new"}},
		{"app:hll", []any{"PFCOUNT", "app:hll"}}, {"", []any{"XACK", "app:stream", "g", "1-1"}}, {"", []any{"XGROUP", "CREATE", "app:stream", "another", "0"}},
	} {
		n.redis.do(c.do...)
		want := slices.Clone(streams)
		if c.want != "" {
			want = append(want, c.want)
			slices.Sort(want)
		}
		n.changed(x, want...)
	}
	n.redis.do("SET", "app:short", "1", "PX", 1)
	eventually(t, "it expires", func() error { return exists(n.redis, "app:short") })
	n.changed(x, slices.Insert(slices.Clone(streams), 0, "-app:short")...)
	n.redis.do("RENAME", "app:stream", "app:stream2")
	n.changed(x, "-app:stream", "app:emptystream", "app:stream2")
	n.changed(x, "app:emptystream", "app:stream2")
	x.Look([]string{"app:int", "foreign"})
	n.changed(x, "app:emptystream", "app:int", "app:stream2")
}

func exists(r *redisServer, key string) error {
	if r.do("EXISTS", key) != int64(0) {
		return errors.New("it is there")
	}
	return nil
}

// TestPeerChangedAgain: what was not handed over comes again.
func TestPeerChangedAgain(t *testing.T) {
	n := alone(t, Config{})
	x := n.tracked()
	n.redis.do("MSET", "app:1", "1", "app:2", "2", "app:3", "3")
	stop := errors.New("stop")
	var first string
	if err := x.Changed(t.Context(), func(r client.Record) error {
		if first != "" {
			return stop
		}
		first = string(r.Key)
		return nil
	}); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	left := slices.DeleteFunc([]string{"app:1", "app:2", "app:3"}, func(k string) bool { return k == first })
	n.changed(x, left...)
	n.changed(x)
}

// TestPeerTrackingLost: a connection that ends, and a store that is emptied, are told as what they are.
func TestPeerTrackingLost(t *testing.T) {
	n := alone(t, Config{})
	for name, spoil := range map[string]func(*tracking){
		"killed":  func(x *tracking) { n.redis.do("CLIENT", "KILL", "ID", x.push.up.ID) },
		"emptied": func(*tracking) { n.redis.do("FLUSHDB") },
	} {
		x := n.tracked()
		n.redis.do("SET", "app:1", "1")
		spoil(x)
		if err := x.Changed(t.Context(), func(client.Record) error { return nil }); !errors.Is(err, client.ErrTrackingLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPeerWeighedOnce: after an offer a pass weighs only keys that were long or have changed, before the pass or in it, and none
// is left out: of short ones up to 512 are asked for at one time, whatever they have.
func TestPeerWeighedOnce(t *testing.T) {
	n := alone(t, Config{})
	const short, long, asked = 3000, 20, 2 * width
	n.redis.do("EVAL", `for i=1,ARGV[1] do redis.call('SET','app:s'..i,i) end for i=1,ARGV[2] do redis.call('SET','app:l'..i,string.rep('x',ARGV[3])) end`, 0, short, long, longKey+1)
	weighed := func(changes bool) (calls int) {
		t.Helper()
		x, err := n.store.Track(t.Context(), aSlice)
		n.must(err)
		defer x.Close()
		_, err = n.store.Offer(t.Context(), aSlice)
		n.must(err)
		n.redis.do("CONFIG", "RESETSTAT")
		n.must(x.Ship(t.Context(), func(client.Record) error {
			if changes {
				changes = false
				n.redis.do("EVAL", `for i=1,ARGV[1] do redis.call('APPEND','app:s'..i,'x') end`, 0, short)
				return x.(*tracking).barrier(t.Context())
			}
			return nil
		}))
		_, after, _ := strings.Cut(n.redis.do("INFO", "commandstats").(string), "cmdstat_memory|usage:calls=")
		_, _ = fmt.Sscan(after, &calls)
		return calls
	}
	if got := weighed(false); got != long {
		t.Errorf("nothing has changed, and of %d long keys %d were weighed", long, got)
	}
	if got := weighed(true); got < short-asked || got > short+long {
		t.Errorf("all %d keys have changed at the first one, and %d were weighed", short, got)
	}
}

// TestPeerTrackingEnds: a tracking that is closed is forgotten, and not the one that came after it.
func TestPeerTrackingEnds(t *testing.T) {
	n := alone(t, Config{})
	first, err := n.store.Track(t.Context(), aSlice)
	n.must(err)
	second, err := n.store.Track(t.Context(), aSlice)
	n.must(err)
	if first.Close(); n.store.tracks[aSlice.Move] != second {
		t.Error("the second tracking is forgotten")
	}
	if second.Close(); len(n.store.tracks) != 0 {
		t.Errorf("%d trackings are left", len(n.store.tracks))
	}
}

// writer writes all kinds of values through the guard until its context ends, and keeps what was acknowledged.
type writer struct {
	n     *node
	acked map[string]int
	done  sync.WaitGroup
}

func (w *writer) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		k := fmt.Sprintf("app:%d", i%700)
		switch i % 5 {
		case 0:
			k += ":list"
			if w.n.put(k, "RPUSH", k, i) == nil {
				w.acked[k]++
			}
		case 1:
			k += ":stream"
			if w.n.put(k, "XADD", k, "*", "f", i) == nil {
				w.acked[k]++
			}
			if i%3 == 0 {
				_ = w.n.put(k, "XGROUP", "CREATE", k, "g", "0")
			}
			_ = w.n.put(k, "XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", k, ">")
		case 2:
			k += ":hash"
			if w.n.put(k, "HSET", k, i, i) == nil {
				w.acked[k]++
			}
		case 3:
			if w.n.put(k, "DEL", k+":list") == nil {
				delete(w.acked, k+":list")
			}
		default:
			_ = w.n.put(k, "SET", k, i, "PX", 1+i%300) // comes and goes
		}
	}
}

// TestPeerMoveUnderWrites: of what was acknowledged while the scope moved nothing is lost, and the store that gave it has no
// other content than the one that got it.
func TestPeerMoveUnderWrites(t *testing.T) {
	for _, lose := range []bool{false, true} {
		w := newWorld(t, Config{})
		w.declare("app:", "a")
		w.a.redis.do("EVAL", `for i=1,20000 do redis.call('SET','app:x'..i,i) end`, 0)
		ctx, cancel := context.WithCancel(t.Context())
		x := &writer{n: w.a, acked: map[string]int{}}
		x.done.Go(func() { x.run(ctx) })
		id := w.begin(api.StartMove{Prefix: "app:", From: "a", To: "b", PreCopy: true, WindowMS: 20_000})
		if lose {
			eventually(t, "the tracking is killed", func() error {
				for line := range strings.Lines(w.a.redis.do("CLIENT", "LIST").(string)) {
					if strings.Contains(line, "flags=tB") || strings.Contains(line, "flags=Bt") {
						id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
						w.a.redis.do("CLIENT", "KILL", "ID", id)
						return nil
					}
				}
				return errors.New("nobody tracks")
			})
		}
		out := w.ended(id)
		cancel()
		x.done.Wait()
		if out.Phase != "done" {
			t.Fatalf("%+v", out)
		}
		t.Logf("%d keys, closed for %d ms", out.Shipped.Keys, out.QuiescedMS)
		for k, want := range x.acked {
			var got any
			switch {
			case strings.HasSuffix(k, "list"):
				got = w.b.redis.do("LLEN", k)
			case strings.HasSuffix(k, "stream"):
				got = w.b.redis.do("XLEN", k)
			default:
				got = w.b.redis.do("HLEN", k)
			}
			if got != int64(want) {
				t.Errorf("%s has %v elements, and %d were acknowledged", k, got, want)
			}
		}
		if len(x.acked) < 100 {
			t.Errorf("only %d keys were written", len(x.acked))
		}
	}
}
