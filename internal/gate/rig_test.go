package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/httpapi"
)

// patience bounds every wait of a test.
const patience = 10 * time.Second

// TestMain lends all tests one registry: each has scopes and nodes of its own.
func TestMain(m *testing.M) { os.Exit(withRegistry(m.Run)) }

// registryURL is where it is.
var registryURL string

func withRegistry(run func() int) int {
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reg, err := registry.Open(ctx, registry.Config{ID: "s1", DataDir: dir, Peers: []registry.Peer{{ID: "s1", Addr: addrs[0]}}, Timing: "fast"})
	if err != nil {
		panic(err)
	}
	defer func() { _ = reg.Close() }()
	front := httptest.NewServer(httpapi.New(httpapi.Config{Registry: reg}))
	defer func() {
		front.CloseClientConnections()
		front.Close()
	}()
	registryURL = front.URL
	return run()
}

// rigs counts them, for -count.
var rigs atomic.Int64

// rig is a gate with its store, before a registry in which its node owns the scope x:, and another node o:.
type rig struct {
	t       *testing.T
	store   *fakeStore
	c       *client.Client
	session *client.Session
	gate    *Gate
	addr    string
	id      string // the node
	other   string // the other node's address
	stop    func() // ends the gate, and waits for that
}

// names of a test's own: its scopes are declared beside those of others.
func (r *rig) x(key string) string { return r.id + ":x:" + key }
func (r *rig) o(key string) string { return r.id + ":o:" + key }

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, store: newFakeStore(t), c: client.New([]string{registryURL}, client.WithTimeout(5*time.Second)), other: "127.0.0.1:1"}
	t.Cleanup(r.c.Close)
	r.id = strings.Map(func(c rune) rune {
		if c == '/' || c == '_' {
			return '-'
		}
		return c
	}, t.Name()) + "-" + itoa(int(rigs.Add(1)))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	r.declare(r.id, r.addr, "x:")
	r.declare(r.id+"-o", r.other, "o:")
	r.session = r.open(r.id, t.TempDir())
	cfg := Config{Store: r.store, Guard: r.session.Guard(), Changed: r.session.Changed, Slices: r.session.Handler(), Log: slog.New(slog.NewTextHandler(testLog{t}, nil))}
	cfg.Commands, _ = commands.Check(nil)
	if change != nil {
		change(&cfg)
	}
	r.gate = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.gate.Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the gate ended with %v", err)
		}
	})
	t.Cleanup(func() {
		r.stop()
		over, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.session.Close(over); err != nil {
			t.Error(err) // a write is still counted
		}
	})
	return r
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

func (r *rig) declare(node, addr, prefix string) {
	r.t.Helper()
	if _, err := r.c.SetNode(r.t.Context(), api.Node{ID: node, Addr: addr}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.c.Declare(r.t.Context(), scope.Prefix(r.id+":"+prefix), api.Declare{Writer: node}, 0); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) open(node, dir string) *client.Session {
	r.t.Helper()
	s, err := client.StartSession(r.c, client.SessionConfig{Node: node, DataDir: dir, Store: client.NoData{}})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// target begins a node that takes the scope x:.
func (r *rig) target() (id, addr string) {
	r.t.Helper()
	var s *client.Session
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { s.Handler().ServeHTTP(w, q) }))
	r.t.Cleanup(front.Close)
	id, addr = r.id+"-t", front.Listener.Addr().String()
	if _, err := r.c.SetNode(r.t.Context(), api.Node{ID: id, Addr: addr}); err != nil {
		r.t.Fatal(err)
	}
	s = r.open(id, r.t.TempDir())
	r.t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			r.t.Error(err)
		}
	})
	return id, addr
}

// move begins a move of x:.
func (r *rig) move(to string) string {
	r.t.Helper()
	m, err := r.c.StartMove(r.t.Context(), api.StartMove{Prefix: r.x(""), From: r.id, To: to, WindowMS: 60_000})
	if err != nil {
		r.t.Fatal(err)
	}
	return m.ID
}

// quiesced waits until this node takes no writes of x: any more.
func (r *rig) quiesced() {
	r.eventually("the scope is closed", func() error {
		if err := r.session.Guard().Owns([]byte(r.x("k"))); !errors.Is(err, client.ErrQuiesced) {
			return fmt.Errorf("a write gets %w", err)
		}
		return nil
	})
}

func (r *rig) phase(move, want string) {
	r.t.Helper()
	r.eventually("the move is "+want, func() error {
		m, err := r.c.Move(r.t.Context(), move, 0)
		if err == nil && m.Phase != want {
			err = fmt.Errorf("it is %s", m.Phase)
		}
		return err
	})
}

func (r *rig) eventually(what string, f func() error) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-late.C:
			r.t.Fatalf("not so after %v: %s: %v", patience, what, err)
		}
	}
}

// user is a client of the gate.
type user struct {
	t  *testing.T
	nc net.Conn
}

func (r *rig) user() *user {
	r.t.Helper()
	return newUser(r.t, r.addr)
}

func newUser(t *testing.T, addr string) *user {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &user{t, nc}
}

// send sends commands: a line each, words by spaces.
func (u *user) send(lines ...string) {
	u.t.Helper()
	if _, err := u.nc.Write(encode(lines...)); err != nil {
		u.t.Fatal(err)
	}
}

func encode(lines ...string) (b []byte) {
	for _, line := range lines {
		var words [][]byte
		for w := range strings.FieldsSeq(line) {
			words = append(words, []byte(w))
		}
		b = appendCommand(b, words...)
	}
	return b
}

// gets fails unless these bytes come next. Of lines each stands for itself and CRLF.
func (u *user) gets(lines ...string) {
	u.t.Helper()
	want := strings.Join(lines, "\r\n") + "\r\n"
	got := make([]byte, len(want))
	n, err := io.ReadFull(u.nc, got)
	if string(got[:n]) != want {
		u.t.Fatalf("got %.300q (%v), want %.300q", got[:n], err, want)
	}
}

// line returns the next line.
func (u *user) line() string {
	u.t.Helper()
	var b []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(b), "\r\n") {
		if _, err := io.ReadFull(u.nc, one); err != nil {
			u.t.Fatalf("after %q: %v", b, err)
		}
		b = append(b, one[0])
	}
	return strings.TrimSuffix(string(b), "\r\n")
}

// ends fails unless the gate ends the connection now.
func (u *user) ends() {
	u.t.Helper()
	if n, err := u.nc.Read(make([]byte, 100)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		u.t.Fatalf("%d bytes came, %v; the connection should have ended", n, err)
	}
}
