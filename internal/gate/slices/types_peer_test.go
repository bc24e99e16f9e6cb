//go:build peers

package slices

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// fill writes keys of all types, and of all encodings that a server of the time has, under a prefix.
func fill(r *redisServer, p string, now int64) {
	long := strings.Repeat("x", 300)
	r.do("SET", p+"string", "value\x00\r\n")
	r.do("SET", p+"int", "42")
	r.do("SET", p+"empty", "")
	r.do("SET", p+"long", strings.Repeat("abc", 100_000))
	r.do("SET", p+"expires", "soon", "PXAT", now+3_600_123)
	for i := range 400 {
		r.do("RPUSH", p+"list", fmt.Sprint(i, long))
		r.do("SADD", p+"set", fmt.Sprint(i, long))
		r.do("ZADD", p+"zset", fmt.Sprint(float64(i)/7), fmt.Sprint(i, long))
		r.do("HSET", p+"hash", fmt.Sprint(i), long)
		r.do("SADD", p+"intset", i)
		r.do("XADD", p+"stream", fmt.Sprintf("%d-1", i+1), "field", fmt.Sprint(i))
	}
	r.do("RPUSH", p+"shortlist", "a", "b")
	r.do("SADD", p+"shortset", "a", "1")
	r.do("ZADD", p+"shortzset", "inf", "a", "-1.5", "b")
	r.do("HSET", p+"shorthash", "f", "v")
	r.do("PEXPIREAT", p+"shorthash", now+7_200_001)
	r.do("PFADD", p+"hll", "a", "b", "c")
	r.do("SETBIT", p+"bits", 1000, 1)
	r.do("XDEL", p+"stream", "7-1")
	r.do("XTRIM", p+"stream", "MAXLEN", 300)
	r.do("XGROUP", "CREATE", p+"stream", "g", "0")
	r.do("XGROUP", "CREATE", p+"stream", "idle", "$")
	r.do("XREADGROUP", "GROUP", "g", "c1", "COUNT", 20, "STREAMS", p+"stream", ">")
	r.do("XREADGROUP", "GROUP", "g", "c2", "COUNT", 10, "STREAMS", p+"stream", ">")
	r.do("XACK", p+"stream", "g", "110-1", "111-1")
	r.do("XGROUP", "CREATE", p+"emptystream", "g", "$", "MKSTREAM")
}

// content says all that a client can find out about the keys of a prefix.
func content(r *redisServer, p string) map[string]string {
	out := map[string]string{}
	keys, err := r.Keys(context.Background(), "*").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, k := range keys {
		name, in := strings.CutPrefix(k, p)
		if !in || isOurs(k) {
			continue
		}
		kind := fmt.Sprint(r.do("TYPE", k))
		value := ""
		switch kind {
		case "string":
			value = fmt.Sprint(r.do("GET", k))
		case "list":
			value = fmt.Sprint(r.do("LRANGE", k, 0, -1))
		case "set":
			value = fmt.Sprint(r.do("SORT", k, "ALPHA"))
		case "zset":
			value = fmt.Sprint(r.do("ZRANGE", k, 0, -1, "WITHSCORES"))
		case "hash":
			value = fmt.Sprint(r.do("HGETALL", k))
		case "stream":
			value = fmt.Sprint(r.do("XRANGE", k, "-", "+"), r.do("XINFO", "GROUPS", k), pending(r, k))
		}
		out[name] = fmt.Sprint(kind, " ", r.do("PEXPIRETIME", k), " ", value)
	}
	return out
}

// pending is what consumers have been given, without how long ago.
func pending(r *redisServer, k string) string {
	var out []string
	for _, g := range r.do("XINFO", "GROUPS", k).([]any) {
		name := g.(map[any]any)["name"]
		for _, x := range r.do("XPENDING", k, name, "-", "+", 1000).([]any) {
			e := x.([]any)
			out = append(out, fmt.Sprint(e[0], e[1], e[3]))
		}
	}
	return fmt.Sprint(out)
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%q is %.200q, want %.200q", k, got[k], v)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%q is there", k)
		}
	}
}

// TestPeerAllTypes: every type moves with its content and its expiry to the millisecond, there and back, with and without a
// copy beforehand, also under a prefix that would be a pattern; and the old copy goes, and nothing else.
func TestPeerAllTypes(t *testing.T) {
	for _, p := range []string{"app:", `a*[?]\:`, ""} {
		for _, precopy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q precopy %t", p, precopy), func(t *testing.T) {
				w := newWorld(t, Config{})
				w.declare(scope.Prefix(p), "a")
				fill(w.a.redis, p, time.Now().UnixMilli())
				want := content(w.a.redis, p)
				if p != "" {
					w.a.redis.do("SET", "aXX:other", "stays")
				}
				out := w.move(api.StartMove{Prefix: scope.Prefix(p).Text(), From: "a", To: "b", PreCopy: precopy})
				if out.Phase != "done" || out.Shipped.Keys != uint64(len(want)) {
					t.Fatalf("%+v", out)
				}
				same(t, content(w.b.redis, p), want)
				eventually(t, "the old copy is gone", func() error {
					if f := w.a.redis.under(scope.Prefix(p)); f > 0 {
						return fmt.Errorf("%d keys are left", f)
					}
					return nil
				})
				if p != "" && w.a.redis.do("GET", "aXX:other") != "stays" {
					t.Error("another key was deleted")
				}
				back := api.StartMove{Prefix: scope.Prefix(p).Text(), From: "b", To: "a", PreCopy: precopy}
				eventually(t, "it may move back", func() error {
					m, err := w.a.c.StartMove(t.Context(), back)
					out.ID = m.ID
					return err
				})
				if out = w.ended(out.ID); out.Phase != "done" {
					t.Fatalf("%+v", out)
				}
				same(t, content(w.a.redis, p), want)
			})
		}
	}
}
