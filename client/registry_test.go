package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/httpapi"
)

// Times of the tests' clusters: the real ones, made short.
var shortLeases = api.Leases{Renew: 200 * time.Millisecond, Lease: 800 * time.Millisecond, Deadline: 1200 * time.Millisecond, Late: 300 * time.Millisecond}

// patience bounds every wait of a test.
const patience = 30 * time.Second

// oneServer is a registry of one real server, in this process.
type oneServer struct {
	t   *testing.T
	reg *registry.Registry
	h   http.Handler
}

func startServer(t *testing.T) *oneServer {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reg, err := registry.Open(ctx, registry.Config{ID: "s1", DataDir: t.TempDir(), Peers: []registry.Peer{{ID: "s1", Addr: addrs[0]}}, Timing: "fast", Leases: shortLeases})
	if err != nil {
		t.Fatal(err)
	}
	s := &oneServer{t: t, reg: reg, h: httpapi.New(httpapi.Config{Registry: reg})}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	s.eventually("the server is ready", func() error { return reg.Ready() })
	return s
}

// link is the way of one client to the server. It can be cut.
type link struct {
	url string
	cut atomic.Bool
}

// client returns a client of its own with its link.
func (s *oneServer) client() (*Client, *link) {
	x := &link{}
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if x.cut.Load() {
			panic(http.ErrAbortHandler)
		}
		s.h.ServeHTTP(w, r)
	}))
	front.Start()
	x.url = front.URL
	c := New([]string{front.URL}, WithTimeout(2*time.Second))
	s.t.Cleanup(func() {
		c.Close()
		front.CloseClientConnections() // watches
		front.Close()
	})
	return c, x
}

// eventually asks until f has no objection.
func (s *oneServer) eventually(what string, f func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		if !sleep(ctx, 5*time.Millisecond) {
			s.t.Fatalf("not so after %v: %s: %v", patience, what, err)
		}
	}
}

// node is a node with its session, served at its address.
type testNode struct {
	*Session
	id    string
	srv   *oneServer
	store *memStore
	cfg   SessionConfig
	c     *Client
	link  *link
	front *httptest.Server
	cur   atomic.Pointer[Session]
}

// node starts a node of an id on a fresh data dir.
func (s *oneServer) node(id string) *testNode {
	s.t.Helper()
	n := &testNode{id: id, srv: s, store: newMemStore()}
	n.front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cur := n.cur.Load(); cur != nil {
			cur.Handler().ServeHTTP(w, r)
			return
		}
		panic(http.ErrAbortHandler)
	}))
	s.t.Cleanup(n.front.Close)
	n.c, n.link = s.client()
	if _, err := n.c.SetNode(s.t.Context(), api.Node{ID: id, Addr: n.front.Listener.Addr().String()}); err != nil {
		s.t.Fatal(err)
	}
	n.cfg = SessionConfig{Node: id, DataDir: s.t.TempDir(), Store: n.store, Grace: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(testLog{s.t}, nil))}
	n.start()
	s.t.Cleanup(func() {
		if n.cur.Load() != nil {
			n.die()
		}
	})
	return n
}

// testLog writes into the log of a test.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

// start begins a process of the node, and waits until it is ready.
func (n *testNode) start() {
	n.srv.t.Helper()
	s, err := StartSession(n.c, n.cfg)
	if err != nil {
		n.srv.t.Fatal(err)
	}
	n.Session = s
	n.cur.Store(s)
	n.ready()
}

func (n *testNode) ready() {
	n.srv.t.Helper()
	ctx, cancel := context.WithTimeout(n.srv.t.Context(), patience)
	defer cancel()
	if err := n.WaitReady(ctx); err != nil {
		n.srv.t.Fatal(err)
	}
}

// die ends the process without a word to the registry.
func (n *testNode) die() {
	n.link.cut.Store(true)
	defer n.link.cut.Store(false)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	n.cur.Store(nil)
	if err := n.Close(over); err != nil && !errors.Is(err, context.Canceled) {
		n.srv.t.Error(err)
	}
}

// stop closes the session as it should be.
func (n *testNode) stop() {
	n.srv.t.Helper()
	ctx, cancel := context.WithTimeout(n.srv.t.Context(), patience)
	defer cancel()
	n.cur.Store(nil)
	if err := n.Close(ctx); err != nil {
		n.srv.t.Fatal(err)
	}
}

// put writes a value into the node's store through its guard.
func (n *testNode) put(key, value string) error {
	return n.Guard().Write(context.Background(), []byte(key), func(context.Context, Token) error {
		n.store.put(key, value)
		return nil
	})
}

// holds fails unless the node's store has this value.
func (n *testNode) holds(key, value string) {
	n.srv.t.Helper()
	if r, _ := n.store.get(key); string(r.Value) != value {
		n.srv.t.Errorf("%s of node %s is %q, want %q", key, n.id, r.Value, value)
	}
}

// declare declares a scope and waits until every node of the test knows.
func (s *oneServer) declare(c *Client, p scope.Prefix, d api.Declare, nodes ...*testNode) uint64 {
	s.t.Helper()
	a, err := c.Declare(s.t.Context(), p, d, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.seen(a.Index, nodes...)
	return a.Epoch
}

func (s *oneServer) seen(index uint64, nodes ...*testNode) {
	s.t.Helper()
	for _, n := range nodes {
		s.eventually(fmt.Sprintf("%s has seen %d", n.id, index), func() error {
			if at := n.View().Index(); at < index {
				return fmt.Errorf("it is at %d", at)
			}
			return nil
		})
	}
}

// move moves a scope and waits for the end of the move.
func (s *oneServer) move(c *Client, m api.StartMove) api.Move {
	s.t.Helper()
	begun, err := c.StartMove(s.t.Context(), m)
	if err != nil {
		s.t.Fatal(err)
	}
	var out api.Move
	s.eventually("move "+begun.ID+" ends", func() error {
		if out, err = c.Move(s.t.Context(), begun.ID, 0); err != nil {
			return err
		}
		if out.Phase != "done" && out.Phase != "aborted" {
			return fmt.Errorf("it is %s", out.Phase)
		}
		return nil
	})
	return out
}
