package respapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/apitest"
	"github.com/scope-registry/scope-registry/internal/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Registry = (*registry.Registry)(nil)

// memory is the registry with what these tests do to it.
type memory struct{ *apitest.Memory }

func newMemory(t testing.TB) memory { return memory{apitest.New(t)} }

// set changes what the registry answers from now on.
func (m memory) set(change func()) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	change()
}

// apply applies commands without a connection.
func (m memory) apply(t testing.TB, cmds ...fsm.Command) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, cmd := range cmds {
		if _, err := m.Propose(ctx, fsm.Envelope{Command: cmd}); err != nil {
			t.Fatal(err)
		}
	}
}

// declared are nodes a, b and c and the scope app: of a.
func (m memory) declared(t testing.TB) {
	t.Helper()
	for i, id := range []string{"a", "b", "c"} {
		m.apply(t, &fsm.SetNode{Id: id, Addr: fmt.Sprintf("10.0.0.%d:6004", i+1)})
	}
	m.apply(t, &fsm.Declare{Prefix: []byte("app:"), Writer: "a"})
}

// pipes is a listener without a network: inside a bubble its connections count
// as waiting, so that time goes on.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{made: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.made:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.close()
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// bench is a server over a memory registry.
type bench struct {
	t     testing.TB
	reg   memory
	srv   *Server
	gauge *prometheus.Registry
	ln    net.Listener
	stop  func() error // once
}

// served runs a server on ln until the test ends.
func served(t testing.TB, ln net.Listener) *bench {
	t.Helper()
	reg := newMemory(t)
	metrics, gatherer := Collector(), prometheus.NewRegistry()
	gatherer.MustRegister(metrics)
	b := &bench{t: t, reg: reg, srv: New(Config{Registry: reg, Version: "v0\n1", Metrics: metrics}), gauge: gatherer, ln: ln}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.srv.Serve(ctx, ln) }()
	b.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Errorf("stopped with %v", err)
		}
	})
	return b
}

// onTCP serves on a free port.
func onTCP(t testing.TB) *bench {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return served(t, ln)
}

// client is one connection of a test.
type client struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
}

func (b *bench) dial() *client {
	b.t.Helper()
	var nc net.Conn
	if p, ok := b.ln.(*pipes); ok {
		var end net.Conn
		nc, end = net.Pipe()
		p.made <- end
	} else {
		var err error
		if nc, err = net.Dial("tcp", b.ln.Addr().String()); err != nil {
			b.t.Fatal(err)
		}
	}
	b.t.Cleanup(func() { nc.Close() })
	return &client{b.t, nc, bufio.NewReader(nc)}
}

// send writes raw bytes.
func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.nc, text); err != nil {
		c.t.Fatalf("sending %.60q: %v", text, err)
	}
}

// reply reads one whole reply as it came.
func (c *client) reply() (string, error) {
	head, err := c.r.ReadString('\n')
	if err != nil {
		return head, err
	}
	n, _ := strconv.Atoi(strings.TrimRight(head[1:], "\r\n"))
	parts := 0
	switch head[0] {
	case '$':
		if n >= 0 {
			body := make([]byte, n+2)
			_, err = io.ReadFull(c.r, body)
			head += string(body)
		}
	case '*', '~', '>':
		parts = n
	case '%':
		parts = 2 * n
	}
	for range parts {
		part, err := c.reply()
		if head += part; err != nil {
			return head, err
		}
	}
	return head, err
}

// ask sends an inline command and reads its reply.
func (c *client) ask(command string) string {
	c.t.Helper()
	c.send(command + "\r\n")
	return c.next()
}

func (c *client) next() string {
	c.t.Helper()
	got, err := c.reply()
	if err != nil {
		c.t.Fatalf("%q, %v", got, err)
	}
	return got
}

// want asks and compares.
func (c *client) want(command, reply string) {
	c.t.Helper()
	if got := c.ask(command); got != reply {
		c.t.Errorf("%s: %q, want %q", command, got, reply)
	}
}

// until asks again and again until something holds.
func (c *client) until(what string, holds func() bool) {
	c.t.Helper()
	for range 100_000 {
		if holds() {
			return
		}
		c.want("PING", "+PONG\r\n")
	}
	c.t.Errorf("it does not become so: %s", what)
}

// closed reads what comes until the server closes the connection.
func (c *client) closed() string {
	c.t.Helper()
	var rest bytes.Buffer
	if _, err := io.Copy(&rest, c.r); err != nil {
		c.t.Errorf("the connection ended with %v", err)
	}
	return rest.String()
}

// metric is the value of one series, 0 if there is none.
func (b *bench) metric(name string, labels ...string) float64 {
	b.t.Helper()
	families, err := b.gauge.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if f.GetName() == name && strings.Join(got, " ") == strings.Join(labels, " ") {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%.1000q does not contain %q", text, p)
		}
	}
}
