//go:build peers

package slices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/httpapi"
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

// redisServer is a real one, which keeps an append-only file.
type redisServer struct {
	t    testing.TB
	addr string
	args []string
	cmd  *exec.Cmd
	*redis.Client
}

func startRedis(t testing.TB, args ...string) *redisServer {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v; on Debian: apt-get install redis-server", err)
	}
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	addr := addrs[0]
	_, port, _ := net.SplitHostPort(addr)
	r := &redisServer{t: t, addr: addr, args: append([]string{program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)}
	r.Client = redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	r.start()
	t.Cleanup(func() {
		r.Client.Close()
		r.kill()
	})
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command(r.args[0], r.args[1:]...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "redis-server answers", func() error { return r.Ping(context.Background()).Err() })
}

// kill ends it as a crash does.
func (r *redisServer) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// do runs a command that must not fail.
func (r *redisServer) do(args ...any) any {
	r.t.Helper()
	v, err := r.Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		r.t.Fatalf("%v: %v", args, err)
	}
	return v
}

// under counts the keys of a prefix that are of clients.
func (r *redisServer) under(p scope.Prefix) (n int) {
	r.t.Helper()
	keys, err := r.Keys(context.Background(), "*").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, k := range keys {
		if p.Matches([]byte(k)) && !isOurs(k) {
			n++
		}
	}
	return n
}

func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for pause := time.NewTimer(0); ; pause.Reset(5 * time.Millisecond) {
		<-pause.C
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not so after %v: %s: %v", patience, what, err)
		}
	}
}

// startRegistry is a registry of one server; it returns its URL.
func startRegistry(t testing.TB) string {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reg, err := registry.Open(ctx, registry.Config{ID: "s1", DataDir: t.TempDir(), Peers: []registry.Peer{{ID: "s1", Addr: addrs[0]}}, Timing: "fast"})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(httpapi.New(httpapi.Config{Registry: reg}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the registry is ready", reg.Ready)
	return front.URL
}

// node is a store with a gate's session, and a place where slices are taken.
type node struct {
	t     testing.TB
	id    string
	redis *redisServer
	cfg   Config
	c     *client.Client
	dir   string
	front *httptest.Server
	taker atomic.Pointer[http.Handler]
	send  client.Send

	up      *upstream.Store
	store   *Store
	session *client.Session
}

func startNode(t testing.TB, registry, id string, r *redisServer, cfg Config) *node {
	t.Helper()
	n := &node{t: t, id: id, redis: r, cfg: cfg, c: client.New([]string{registry}), dir: t.TempDir()}
	n.front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := n.taker.Load(); h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		panic(http.ErrAbortHandler)
	}))
	n.cfg.Dir = filepath.Join(n.dir, "slices")
	n.cfg.Log = slog.New(slog.NewTextHandler(testLog{t}, nil)).With("at", id)
	t.Cleanup(n.c.Close)
	t.Cleanup(n.front.Close)
	if _, err := n.c.SetNode(t.Context(), client.Node{ID: id, Addr: n.front.Listener.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	n.start()
	t.Cleanup(n.stop)
	return n
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

// open takes the store, as a process does before it opens its session.
func (n *node) open() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if n.up, err = upstream.Open(ctx, upstream.Config{Addr: n.redis.addr, Node: n.id, Identity: "test"}, n.cfg.Log); err != nil {
		n.t.Fatal(err)
	}
	if n.store, err = Open(ctx, n.up, n.cfg); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) start() {
	n.t.Helper()
	n.open()
	var err error
	n.session, err = client.StartSession(n.c, client.SessionConfig{Node: n.id, DataDir: filepath.Join(n.dir, "session"), Store: n.store,
		Send: n.send, Grace: 300 * time.Millisecond, Log: n.cfg.Log})
	if err != nil {
		n.t.Fatal(err)
	}
	h := n.session.Handler()
	n.taker.Store(&h)
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	if err := n.session.WaitReady(ctx); err != nil {
		n.t.Fatal(err)
	}
}

// stop ends the process without a word to the registry.
func (n *node) stop() {
	if n.session == nil {
		return
	}
	n.taker.Store(nil)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.session.Close(over); err != nil && !errors.Is(err, context.Canceled) {
		n.t.Error(err)
	}
	n.session = nil
	n.store.Close()
	if err := n.up.Close(); err != nil {
		n.t.Log(err)
	}
}

// put writes a command through the guard, as a gate does.
func (n *node) put(key string, args ...any) error {
	return n.session.Guard().Write(context.Background(), []byte(key), func(ctx context.Context, _ client.Token) error {
		if n.store.Holds([]byte(key)) {
			return errors.New("held")
		}
		return n.redis.Do(ctx, args...).Err()
	})
}

// world is a registry with two nodes.
type world struct {
	t    testing.TB
	url  string
	a, b *node
}

func newWorld(t testing.TB, cfg Config, args ...string) *world {
	w := &world{t: t, url: startRegistry(t)}
	w.a = startNode(t, w.url, "a", startRedis(t, args...), cfg)
	w.b = startNode(t, w.url, "b", startRedis(t, args...), cfg)
	return w
}

func (w *world) declare(p scope.Prefix, writer string) {
	w.t.Helper()
	done, err := w.a.c.Declare(w.t.Context(), p, api.Declare{Writer: writer}, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range []*node{w.a, w.b} {
		eventually(w.t, "the declaration is seen", func() error {
			if at := n.session.View().Index(); at < done.Index {
				return fmt.Errorf("at %d", at)
			}
			return nil
		})
	}
}

// move moves a scope and waits for the end of it.
func (w *world) move(m api.StartMove) api.Move {
	w.t.Helper()
	return w.ended(w.begin(m))
}

func (w *world) begin(m api.StartMove) string {
	w.t.Helper()
	begun, err := w.a.c.StartMove(w.t.Context(), m)
	if err != nil {
		w.t.Fatal(err)
	}
	return begun.ID
}

func (w *world) ended(id string) (out api.Move) {
	w.t.Helper()
	eventually(w.t, "move "+id+" ends", func() (err error) {
		if out, err = w.a.c.Move(context.Background(), id, 0); err != nil {
			return err
		}
		if out.Phase != "done" && out.Phase != "aborted" {
			return fmt.Errorf("it is %s", out.Phase)
		}
		return nil
	})
	return out
}
