//go:build peers

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	proc "github.com/scope-registry/scope-registry/internal/process"
	"github.com/scope-registry/scope-registry/scope"
)

// testGate is a gate in this process, in front of a Redis server.
type testGate struct {
	t    *testing.T
	stop context.CancelFunc
	out  *heard
	code chan int
	addr string
	http string
}

// heard is what a gate has printed.
type heard struct {
	mu   sync.Mutex // guards the rest
	text bytes.Buffer
	more chan struct{} // closed when there is more
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.more)
	h.more = make(chan struct{})
	return h.text.Write(p)
}

// until waits for a line, and returns its groups.
func (h *heard) until(t *testing.T, pattern string) []string {
	t.Helper()
	late := time.After(patience)
	for {
		h.mu.Lock()
		text, more := h.text.String(), h.more
		h.mu.Unlock()
		if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
			return m
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("%s was not printed:\n%s", pattern, text)
		}
	}
}

func startGate(t *testing.T, at string, args ...string) *testGate {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	free, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	g := &testGate{t: t, stop: stop, out: &heard{more: make(chan struct{})}, code: make(chan int, 1), http: free[0]}
	args = append([]string{"gate", "--listen", "127.0.0.1:0", "--http", g.http, "--endpoints", at}, args...)
	go func() { g.code <- run(ctx, args, strings.NewReader(""), g.out, g.out) }()
	return g
}

func (g *testGate) ready() *redis.Client {
	g.t.Helper()
	g.addr = g.out.until(g.t, `gate \S+ listening: (\S+)`)[1]
	g.out.until(g.t, `gate \S+ ready`)
	c := redis.NewClient(&redis.Options{Addr: g.addr, MaxRetries: -1})
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// ends waits for the exit code.
func (g *testGate) ends(want int) {
	g.t.Helper()
	select {
	case code := <-g.code:
		if code != want {
			g.t.Errorf("exit code %d, want %d:\n%s", code, want, g.out.text.String())
		}
	case <-time.After(patience):
		g.t.Fatal("the gate does not end")
	}
}

func (g *testGate) get(path string) (int, string) {
	g.t.Helper()
	resp, err := http.Get("http://" + g.http + path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// redisServer is a program that keeps what it acknowledges.
func redisServer(t *testing.T) (*proc.Program, string) {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v; on Debian: apt-get install redis-server", err)
	}
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addrs[0])
	dir := t.TempDir()
	p := proc.New("redis", filepath.Join(dir, "log"), bin, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p, addrs[0]
}

func testClient(t *testing.T, at string) *client.Client {
	t.Helper()
	c := client.New([]string{at})
	t.Cleanup(c.Close)
	return c
}

// eventually asks again and again.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		if proc.Sleep(ctx, 20*time.Millisecond) != nil {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// showsMetrics looks at what a gate of two scopes tells a monitoring system.
func (g *testGate) showsMetrics() {
	g.t.Helper()
	_, text := g.get("/metrics")
	for _, line := range []string{"scope_registry_gate_ready 1", "scope_registry_gate_table_scopes 2", `scope_registry_gate_table_age_seconds [0-2](\.|$)`, "scope_registry_gate_clients 1",
		`scope_registry_gate_commands_total{class="write",verdict="misdirected"} [1-9]`, `scope_registry_gate_commands_total{class="write",verdict="sent"} [1-9]`,
		`scope_registry_gate_added_seconds_bucket{direction="inward",le="\+Inf"} [1-9]`, "scope_registry_gate_limbo 0"} {
		if !regexp.MustCompile("(?m)^" + line).MatchString(text) {
			g.t.Errorf("there is no %s in\n%s", line, text)
		}
	}
	if problems, err := promlint.New(bytes.NewReader(ours([]byte(text)))).Lint(); err != nil || len(problems) > 0 {
		g.t.Errorf("%v, %+v", err, problems)
	}
}

// A gate from its start to its end: what it answers, what it says of itself, a store that dies and comes back, and who may
// not have the store.
func TestPeerGate(t *testing.T) {
	at, dir := endpoint(t), t.TempDir()
	store, upstream := redisServer(t)
	registry := testClient(t, at)
	g := startGate(t, at, "--node", "n1", "--data-dir", dir, "--upstream", upstream)
	c := g.ready()
	if n, err := registry.Node(t.Context(), "n1"); err != nil || n.Addr != g.addr {
		t.Errorf("the node is declared as %+v, %v", n, err)
	}
	if _, err := registry.SetNode(t.Context(), client.Node{ID: "n2", Addr: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	for p, writer := range map[string]string{"ours:": "n1", "theirs:": "n2"} {
		if _, err := registry.Declare(t.Context(), scope.Prefix(p), api.Declare{Writer: writer}, 0); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the scopes are known", func() bool {
		return c.Set(t.Context(), "theirs:1", "x", 0).Err() != nil && c.Set(t.Context(), "ours:1", "x", 0).Err() == nil
	})
	if err := c.Set(t.Context(), "theirs:1", "x", 0).Err(); err == nil || err.Error() != "MISDIRECTED writer is 127.0.0.1:1" {
		t.Errorf("%v", err)
	}
	var is gateReady
	if code, text := g.get("/readyz"); code != 200 || json.Unmarshal([]byte(text), &is) != nil || !is.Ready {
		t.Errorf("%d %s", code, text)
	}
	g.showsMetrics()

	startGate(t, at, "--node", "n1", "--data-dir", dir, "--upstream", upstream).ends(2)         // the data dir is in use
	startGate(t, at, "--node", "n2", "--data-dir", t.TempDir(), "--upstream", upstream).ends(4) // the store is n1's
	startGate(t, at, "--node", "n1", "--data-dir", t.TempDir(), "--upstream", upstream).ends(4) // another data dir
	if err := c.Set(t.Context(), "ours:1", "y", 0).Err(); err != nil {
		t.Errorf("after gates that were refused: %v", err)
	}

	if err := store.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store is missed", func() bool { code, _ := g.get("/readyz"); return code == 503 })
	if err := c.Set(t.Context(), "ours:1", "z", 0).Err(); err == nil {
		t.Error("a write was acknowledged without a store")
	}
	if err := store.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store is back", func() bool { return c.Get(t.Context(), "ours:1").Val() == "y" })
	eventually(t, "readiness", func() bool { code, _ := g.get("/readyz"); return code == 200 })
	g.stop()
	g.ends(0)
	if n, err := registry.Node(t.Context(), "n1"); err != nil || n.Session != nil {
		t.Errorf("the session is left: %+v, %v", n, err)
	}
	again := startGate(t, at, "--node", "n1", "--data-dir", dir, "--upstream", upstream, "--give-up-after", "1s")
	again.ready()
	if err := store.Kill(); err != nil {
		t.Fatal(err)
	}
	again.ends(5)
}

// A gate whose store somebody else takes ends by itself.
func TestPeerGateLosesItsStore(t *testing.T) {
	at := endpoint(t)
	_, upstream := redisServer(t)
	g := startGate(t, at, "--node", "n1", "--data-dir", t.TempDir(), "--upstream", upstream)
	g.ready()
	past := redis.NewClient(&redis.Options{Addr: upstream})
	defer past.Close()
	if err := past.Set(t.Context(), "__scope-registry:gate", "gate n1 other other", 0).Err(); err != nil {
		t.Fatal(err)
	}
	g.ends(4)
}
