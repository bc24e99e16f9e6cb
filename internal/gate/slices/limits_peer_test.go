//go:build peers

package slices

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// big is the size of the value that TestPeerBigValue moves; up to 511 it is allowed.
var big = flag.Int("big", 80, "MiB of the value that moves")

// TestPeerBigValue moves a value that no store can make smaller, while it and others change, and back in one go.
func TestPeerBigValue(t *testing.T) {
	w := newWorld(t, Config{})
	w.declare("app:", "a")
	value := make([]byte, *big<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(value)
	w.a.redis.do("SET", "app:big", value)
	w.a.redis.do("EVAL", `for i=1,1000 do redis.call('SET','app:'..i,i) end`, 0)
	began := time.Now()
	id := w.begin(api.StartMove{Prefix: "app:", From: "a", To: "b", PreCopy: true, WindowMS: 30_000})
	value[7]++
	if err := w.a.put("app:big", "SETRANGE", "app:big", 7, value[7:8]); err != nil {
		t.Fatal(err)
	}
	check := func(out api.Move, to *node) {
		t.Helper()
		if out.Phase != "done" || out.Shipped.Keys != 1001 || out.Shipped.Bytes < uint64(len(value)) {
			t.Fatalf("%+v", out)
		}
		got, err := to.redis.Get(t.Context(), "app:big").Bytes()
		if err != nil || !bytes.Equal(got, value) {
			t.Errorf("another value of %d bytes came (%v)", len(got), err)
		}
		t.Logf("%d MiB to %s: closed for %d ms, after %v", *big, to.id, out.QuiescedMS, time.Since(began).Round(time.Millisecond))
	}
	check(w.ended(id), w.b)
	eventually(t, "the scope can move back", func() (err error) {
		began = time.Now()
		var m api.Move
		m, err = w.a.c.StartMove(context.Background(), api.StartMove{Prefix: "app:", From: "b", To: "a", WindowMS: 60_000})
		id = m.ID
		return err
	})
	check(w.ended(id), w.a)
}

// heardLog keeps what is logged.
type heardLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *heardLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *heardLog) has(words string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), words)
}

// TestPeerKeysTooLarge: what is too large aborts the move before its scope is closed, and before the store has dumped anything;
// the reason names the largest key. What is large is warned of.
func TestPeerKeysTooLarge(t *testing.T) {
	w := newWorld(t, Config{})
	var log heardLog
	w.a.store.log = slog.New(slog.NewTextHandler(&log, nil))
	w.a.store.limits = limits{large: 1 << 20, most: 4 << 20}
	w.declare("app:", "a")
	w.a.redis.do("CONFIG", "SET", "rdbcompression", "no")
	w.a.redis.do("SET", "app:string", strings.Repeat("x", 4<<20-stringCost)) // it takes more memory than that
	for i := range 12 {
		w.a.redis.do("SET", fmt.Sprintf("app:large%02d", i), strings.Repeat("x", 1<<20+1))
	}
	w.a.redis.do("EVAL", `for i=1,100000 do redis.call('RPUSH','app:list',string.rep('x',50)) end`, 0)
	w.a.redis.do("EVAL", `for i=1,200000 do redis.call('RPUSH','app:longest',string.rep('x',50)) end`, 0)
	move := func() api.Move { return w.move(api.StartMove{Prefix: "app:", From: "a", To: "b", PreCopy: true}) }
	out := move()
	if out.Phase != "aborted" || !strings.Contains(out.Detail, "app:longest") || !strings.Contains(out.Detail, "2 keys") || out.QuiescedMS != 0 {
		t.Errorf("%+v", out)
	}
	if stats := w.a.redis.do("INFO", "commandstats").(string); strings.Contains(stats, "cmdstat_dump") {
		t.Error("the store has dumped something")
	}
	for _, words := range []string{"level=WARN msg=\"a key is large", "keys=15 named=10"} {
		if !log.has(words) {
			t.Errorf("%q is not in the log", words)
		}
	}
	w.a.redis.do("DEL", "app:longest", "app:list")
	eventually(t, "the target is empty", func() error {
		if n := w.b.redis.under("app:"); n > 0 {
			return fmt.Errorf("%d keys", n)
		}
		return nil
	})
	if out = move(); out.Phase != "done" {
		t.Errorf("with the longest string: %+v", out)
	}
}

// TestPeerStringAtLimit: a string whose dump alone is too large is refused before its scope is closed, and no dump adds more than
// what strings are weighed with.
func TestPeerStringAtLimit(t *testing.T) {
	n := alone(t, Config{})
	n.store.limits = limits{large: 1 << 19, most: 1 << 20}
	for _, compressed := range []string{"no", "yes"} {
		n.redis.do("CONFIG", "SET", "rdbcompression", compressed)
		for length := 1<<20 - 2*stringCost; length <= 1<<20+1; length++ {
			value := make([]byte, length)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(value)
			n.redis.do("SET", "app:1", value)
			dump := len(n.redis.do("DUMP", "app:1").(string))
			_, err := n.store.Offer(t.Context(), aSlice)
			if refused := err != nil; refused != (length+stringCost > 1<<20) || dump > 1<<20 && !refused || dump > length+stringCost {
				t.Fatalf("a string of %d bytes, a dump of %d: %v", length, dump, err)
			}
		}
	}
}

// TestPeerKeyGrows: a key that has grown too large since it was weighed is weighed again, and not dumped; one whose dump alone
// is too large is named too.
func TestPeerKeyGrows(t *testing.T) {
	n := alone(t, Config{})
	n.store.limits = limits{large: 1 << 19, most: 1 << 20}
	n.redis.do("SET", "app:1", "short")
	x, err := n.store.Track(t.Context(), aSlice)
	n.must(err)
	defer x.Close()
	_, err = n.store.Offer(t.Context(), aSlice)
	n.must(err)
	n.redis.do("CONFIG", "RESETSTAT")
	n.redis.do("SET", "app:1", strings.Repeat("x", 1<<20+1))
	eventually(t, "the store tells", func() error {
		if !x.(*tracking).hasChanged("app:1") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	err = x.Ship(t.Context(), func(client.Record) error { return nil })
	if err == nil || !strings.Contains(err.Error(), `"app:1" has 1048595 bytes`) {
		t.Errorf("a key that has grown: %v", err)
	}
	if strings.Contains(n.redis.do("INFO", "commandstats").(string), "cmdstat_dump") {
		t.Error("it was dumped")
	}
	n.redis.do("CONFIG", "SET", "rdbcompression", "no")
	n.redis.do("DEL", "app:1")
	for range 5 { // the store looks at no more of a list to say how large it is
		n.redis.do("RPUSH", "app:1", strings.Repeat("x", 10_000))
	}
	n.redis.do("RPUSH", "app:1", strings.Repeat("x", 1<<20))
	err = n.store.Ship(t.Context(), aSlice, func(client.Record) error { return nil })
	if err == nil || !strings.Contains(err.Error(), `"app:1" has 10986`) {
		t.Errorf("a dump that is longer than the key was taken to be: %v", err)
	}
}

// TestPeerStoreLimits: a limit of the store's own ends its connection at a long value; the error says at which, and what it may be.
func TestPeerStoreLimits(t *testing.T) {
	n := alone(t, Config{})
	long := strings.Repeat("x", 8<<20)
	for setting, value := range map[string]string{"proto-max-bulk-len": "1mb", "client-query-buffer-limit": "1mb"} {
		n.redis.do("CONFIG", "SET", setting, value)
		err := n.store.Stage(t.Context(), aSlice, []client.Record{{Key: []byte("app:long"), Value: []byte(long)}})
		if err == nil || !strings.Contains(err.Error(), `"app:long" with about 8388608 bytes`) || !strings.Contains(err.Error(), setting) {
			t.Errorf("%s: %v", setting, err)
		}
		n.redis.do("CONFIG", "SET", setting, "512mb")
	}
	n.redis.do("CONFIG", "SET", "rdbcompression", "no", "client-output-buffer-limit", "normal 1mb 0 0")
	n.redis.do("SET", "app:long", long)
	err := n.store.Ship(t.Context(), aSlice, func(client.Record) error { return nil })
	if err == nil || !strings.Contains(err.Error(), `"app:long" with about `) || !strings.Contains(err.Error(), "client-output-buffer-limit") {
		t.Errorf("%v", err)
	}
}
