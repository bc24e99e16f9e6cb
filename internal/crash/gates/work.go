package gates

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/client"
)

const (
	// perKey is how many entries a key of many gets before the next one is begun.
	perKey = 100
	// writeTime bounds a write, all its tries together.
	writeTime = 20 * time.Second
)

// kind is a type of value, with the letter in its keys.
type kind byte

const kinds = "slhezx" // string, list, hash, set, sorted set, stream

// write is one that a client tried: an entry that nobody else writes.
type write struct {
	kind kind
	key  string
	id   string
}

// Work are clients that write to scopes, and what they were told.
type Work struct {
	mirror *client.Mirror
	stop   context.CancelFunc
	all    sync.WaitGroup
	pause  time.Duration
	here   map[string]string // where gates are reached from here, by the address that the registry has of them

	hold sync.RWMutex // held for reading during a write

	mu      sync.Mutex // guards what follows
	clients map[string]*redis.Client
	scopes  map[string]*told
}

// told is what was told of one scope.
type told struct {
	acked            []write
	refused, unknown int
	tried            map[string]bool
	last, refusal    error // the newest of all, and of those that say that nothing was written
	lastAck          time.Time
	silence          time.Duration // the longest time without an acknowledged write, since it was asked for
}

func newWork(m *client.Mirror, nodes []Node, cfg Config) *Work {
	ctx, stop := context.WithCancel(context.Background())
	w := &Work{mirror: m, stop: stop, pause: cfg.Pause, here: map[string]string{}, clients: map[string]*redis.Client{}, scopes: map[string]*told{}}
	for _, n := range nodes {
		w.here[n.Addr] = n.Gate
	}
	for _, p := range Scopes() {
		w.scopes[p] = &told{tried: map[string]bool{}, lastAck: time.Now()}
	}
	for _, p := range Scopes() {
		for i := range max(1, cfg.Writers) {
			w.all.Go(func() { w.write(ctx, p, i) })
		}
	}
	return w
}

// write is the life of a client.
func (w *Work) write(ctx context.Context, p string, client int) {
	for n := 0; ctx.Err() == nil; n++ {
		k := kind(kinds[n%len(kinds)])
		id := fmt.Sprintf("%d-%d", client, n)
		one := write{kind: k, id: id, key: fmt.Sprintf("%s%c:%d:%d", p, k, client, n/(perKey*len(kinds)))}
		if k == 's' {
			one.key = p + "s:" + id
		}
		w.hold.RLock()
		w.begin(p, one)
		err := w.one(ctx, one)
		if ctx.Err() == nil {
			w.end(p, one, err)
		}
		w.hold.RUnlock()
		select {
		case <-time.After(w.pause):
		case <-ctx.Done():
		}
	}
}

// one writes through whoever owns the key.
func (w *Work) one(ctx context.Context, one write) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	return w.mirror.Follow(ctx, []byte(one.key), func(ctx context.Context, addr string) error {
		err := one.do(ctx, w.client(addr))
		var reply redis.Error
		if errors.As(err, &reply) {
			if known := client.ParseReply(reply.Error()); known != nil {
				return known
			}
		}
		return err
	})
}

func (one write) do(ctx context.Context, c *redis.Client) error {
	switch one.kind {
	case 's':
		return c.Set(ctx, one.key, one.id, 0).Err()
	case 'l':
		return c.RPush(ctx, one.key, one.id).Err()
	case 'h':
		return c.HSet(ctx, one.key, one.id, one.id).Err()
	case 'e':
		return c.SAdd(ctx, one.key, one.id).Err()
	case 'z':
		return c.ZAdd(ctx, one.key, redis.Z{Score: 1, Member: one.id}).Err()
	default:
		return c.XAdd(ctx, &redis.XAddArgs{Stream: one.key, Values: []string{"id", one.id}}).Err()
	}
}

func (w *Work) client(addr string) *redis.Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.clients[addr]
	if c == nil {
		c = newRedis(cmp.Or(w.here[addr], addr))
		w.clients[addr] = c
	}
	return c
}

func (w *Work) begin(p string, one write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scopes[p].tried[one.key+" "+one.id] = true
}

func (w *Work) end(p string, one write, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.scopes[p]
	var known *client.Error
	switch {
	case err == nil:
		t.acked = append(t.acked, one)
		now := time.Now()
		t.silence = max(t.silence, now.Sub(t.lastAck))
		t.lastAck = now
		return
	case errors.As(err, &known) && known.Code != client.CodeOutcomeUnknown:
		t.refused++
		t.refusal = err
	default:
		t.unknown++
	}
	t.last = err
}

// Acknowledged is how many writes of a scope were.
func (w *Work) Acknowledged(p string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.scopes[p].acked)
}

// Last is the newest error of a write of a scope.
func (w *Work) Last(p string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.scopes[p].last
}

// Silence is the longest time in which no write of the scope was acknowledged, since it was asked for last.
func (w *Work) Silence(p string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.scopes[p]
	out := t.silence
	t.silence = 0
	return out
}

// Counts are how all attempts ended.
type Counts struct {
	Acknowledged, Refused, Unknown int
	Refusal                        error // the newest
}

// Counts are how all attempts ended so far.
func (w *Work) Counts() (c Counts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.scopes {
		c.Acknowledged += len(t.acked)
		c.Refused += t.refused
		c.Unknown += t.unknown
		if t.refusal != nil {
			c.Refusal = t.refusal
		}
	}
	return c
}

func (w *Work) close() {
	w.stop()
	w.all.Wait()
	for _, c := range w.clients {
		_ = c.Close()
	}
}
